//! `Mount` and `Device`.

use super::{Bad, Handlers, text};
use api::cri;
use std::path::PathBuf;
use types::container::{Device, IdMapping, ImageVolume, Mount, MountOption, Propagation};

/// Lines of one mapping; the kernel takes 340, user_namespaces(7).
const MOST_MAPPINGS: usize = 340;

/// A bind mount, or an image volume.
pub(super) fn mount(field: &str, asked: &cri::Mount, handlers: &Handlers) -> Result<Mount, Bad> {
    let at = |name: &str| format!("{field}.{name}");
    let propagation = match cri::MountPropagation::try_from(asked.propagation) {
        Ok(cri::MountPropagation::PropagationPrivate) => Propagation::Private,
        Ok(cri::MountPropagation::PropagationHostToContainer) => Propagation::HostToContainer,
        Ok(cri::MountPropagation::PropagationBidirectional) => Propagation::Bidirectional,
        Err(_) => return Err(Bad::field(at("propagation"), format!("{} is no mode", asked.propagation))),
    };
    if asked.recursive_read_only {
        if !asked.readonly {
            return Err(Bad::field(at("recursive_read_only"), "wants readonly"));
        }
        if propagation != Propagation::Private {
            return Err(Bad::field(at("recursive_read_only"), "wants private propagation"));
        }
    }
    let (uid_mappings, gid_mappings) = (
        mappings(&at("uidMappings"), &asked.uid_mappings)?,
        mappings(&at("gidMappings"), &asked.gid_mappings)?,
    );
    if uid_mappings.is_empty() != gid_mappings.is_empty() {
        return Err(Bad::field(at("uidMappings"), "and gidMappings are given together or not at all"));
    }
    let image = asked.image.as_ref().map(|image| image_volume(field, asked, image, handlers)).transpose()?;
    if image.is_none() && !asked.image_sub_path.is_empty() {
        return Err(Bad::field(at("image_sub_path"), "is given without an image"));
    }
    if image.is_some() && propagation != Propagation::Private {
        return Err(Bad::field(at("propagation"), "nothing is ever mounted in an image: wants private"));
    }
    Ok(Mount {
        container_path: text::absolute(&at("container_path"), &asked.container_path)?,
        host_path: match image {
            Some(_) => PathBuf::new(),
            None => PathBuf::from(text::absolute(&at("host_path"), &asked.host_path)?),
        },
        readonly: asked.readonly,
        propagation,
        recursive_readonly: asked.recursive_read_only,
        options: options(&at("mount_options"), &asked.mount_options)?,
        image,
        uid_mappings,
        gid_mappings,
        selinux_relabel: asked.selinux_relabel,
    })
}

fn image_volume(
    field: &str,
    asked: &cri::Mount,
    image: &cri::ImageSpec,
    handlers: &Handlers,
) -> Result<ImageVolume, Bad> {
    let at = |name: &str| format!("{field}.{name}");
    if !asked.host_path.is_empty() {
        return Err(Bad::field(at("host_path"), "is given beside an image: want one of them"));
    }
    if !asked.readonly {
        return Err(Bad::field(at("readonly"), "an image is never written to: wants true"));
    }
    handlers.check(at("image.runtime_handler"), &image.runtime_handler)?;
    if asked.image_sub_path.starts_with('/') {
        return Err(Bad::field(at("image_sub_path"), "is not relative to the image's root"));
    }
    Ok(ImageVolume {
        image: text::name(&at("image.image"), &image.image)?,
        user_specified_image: text::bounded(
            &at("image.user_specified_image"),
            &image.user_specified_image,
            4096,
        )?,
        sub_path: text::beneath(&at("image_sub_path"), &asked.image_sub_path)?,
    })
}

/// Each once, in the order of the request.
fn options(field: &str, asked: &[String]) -> Result<Vec<MountOption>, Bad> {
    let mut all = Vec::new();
    for option in asked {
        let option = match option.as_str() {
            "noexec" => MountOption::NoExec,
            "nodev" => MountOption::NoDev,
            "nosuid" => MountOption::NoSuid,
            other => {
                let why = format!("`{}` is not noexec, nodev or nosuid", text::short(other));
                return Err(Bad::field(field, why));
            }
        };
        if !all.contains(&option) {
            all.push(option);
        }
    }
    Ok(all)
}

/// Lines of user_namespaces(7): none is empty, none goes beyond the last id, no two overlap.
pub(super) fn mappings(field: &str, asked: &[cri::IdMapping]) -> Result<Vec<IdMapping>, Bad> {
    if asked.len() > MOST_MAPPINGS {
        return Err(Bad::field(field, format!("are {}, the kernel takes {MOST_MAPPINGS}", asked.len())));
    }
    let mut all: Vec<IdMapping> = Vec::new();
    for (index, line) in asked.iter().enumerate() {
        let bad = |why: &str| Err(Bad::field(format!("{field}[{index}]"), why));
        if line.length == 0 {
            return bad("has the length 0");
        }
        // The last id means "no change" to the kernel and is none.
        let fits = |first: u32| first.checked_add(line.length).is_some();
        if !fits(line.container_id) || !fits(line.host_id) {
            return bad("goes beyond the last id, 4294967294");
        }
        let apart = |a: u32, b: u32, length: u32| a >= b + length || b >= a + line.length;
        let no_overlap = all.iter().all(|other| {
            apart(line.container_id, other.container_id, other.length)
                && apart(line.host_id, other.host_id, other.length)
        });
        if !no_overlap {
            return bad("overlaps with another line");
        }
        all.push(IdMapping { container_id: line.container_id, host_id: line.host_id, length: line.length });
    }
    Ok(all)
}

/// A device of the host.
pub(super) fn device(field: &str, asked: &cri::Device) -> Result<Device, Bad> {
    let at = |name: &str| format!("{field}.{name}");
    let known = asked.permissions.bytes().all(|b| b"rwm".contains(&b));
    if !known || asked.permissions.len() > 3 || asked.permissions.is_empty() {
        return Err(Bad::field(
            at("permissions"),
            format!("`{}` is not of r, w, m", text::short(&asked.permissions)),
        ));
    }
    let host_path = text::absolute(&at("host_path"), &asked.host_path)?;
    let container_path = if asked.container_path.is_empty() {
        host_path.clone()
    } else {
        text::absolute(&at("container_path"), &asked.container_path)?
    };
    Ok(Device { container_path, host_path: PathBuf::from(host_path), permissions: asked.permissions.clone() })
}
