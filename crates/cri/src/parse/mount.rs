//! `Mount` and `Device`.

use super::{Bad, text};
use api::cri;
use std::path::PathBuf;
use types::container::{Device, Mount, Propagation};

/// A bind mount; what later versions will do is refused by name.
pub(super) fn mount(field: &str, asked: &cri::Mount) -> Result<Mount, Bad> {
    let at = |name: &str| format!("{field}.{name}");
    if asked.image.is_some() || !asked.image_sub_path.is_empty() {
        return Err(Bad::refused(at("image"), "an image volume"));
    }
    if !asked.uid_mappings.is_empty() || !asked.gid_mappings.is_empty() {
        return Err(Bad::refused(at("uidMappings"), "an idmapped mount"));
    }
    if !asked.mount_options.is_empty() {
        return Err(Bad::refused(at("mount_options"), "a set of mount options"));
    }
    let propagation = match cri::MountPropagation::try_from(asked.propagation) {
        Ok(cri::MountPropagation::PropagationPrivate) => Propagation::Private,
        Ok(cri::MountPropagation::PropagationHostToContainer) => Propagation::HostToContainer,
        Ok(cri::MountPropagation::PropagationBidirectional) => Propagation::Bidirectional,
        Err(_) => return Err(Bad::field(at("propagation"), format!("{} is no mode", asked.propagation))),
    };
    if asked.recursive_read_only {
        // The two contradictions are errors of the caller in any version.
        if !asked.readonly {
            return Err(Bad::field(at("recursive_read_only"), "wants readonly"));
        }
        if propagation != Propagation::Private {
            return Err(Bad::field(at("recursive_read_only"), "wants private propagation"));
        }
        return Err(Bad::refused(at("recursive_read_only"), "a recursive read-only mount"));
    }
    // `selinux_relabel` asks for nothing where there is no SELinux; the kubelet sets it everywhere.
    Ok(Mount {
        container_path: text::absolute(&at("container_path"), &asked.container_path)?,
        host_path: PathBuf::from(text::absolute(&at("host_path"), &asked.host_path)?),
        readonly: asked.readonly,
        propagation,
    })
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
