//! Images as volumes (KEP-4639).
//!
//! The layers of such an image are mounted, read-only, beneath the bundle, from where the container's own
//! mount namespace takes a copy; then the mount goes away again. So a mount of the host's lives only as long
//! as a CreateContainer, and what a crash leaves of it goes with the container.

use super::blocking::failed;
use engine::host::{ContainerPlan, Fault, HostError, Result, VolumeFacts};
use image::Images;
use std::{
    ffi::CString,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::DirBuilderExt as _},
    path::{Path, PathBuf},
};
use sys::{
    root::RootFd,
    rustix::{
        fd::AsRawFd as _,
        fs::{CWD, OFlags},
        io::Errno,
        mount::{
            MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_bind, mount_remount,
            move_mount, open_tree, unmount,
        },
    },
};
use types::container::{ImageVolume, Mount};

/// What the kubelet looks for in the message (cri-api pkg/errors).
const FAILED: &str = "ImageVolumeMountFailed";
/// mount(2) takes one page of options, with its NUL.
const MOST_OPTIONS: usize = 4095;

/// The images that the mounts name, in their order.
pub(super) fn images(images: &Images, mounts: &[Mount]) -> Result<Vec<VolumeFacts>> {
    let named = mounts.iter().filter_map(|mount| mount.image.as_ref());
    named
        .map(|volume| {
            let resolved = images.resolve(&volume.image).map_err(|error| {
                HostError::because(
                    format!("{FAILED}: cannot use the image `{}`", volume.image),
                    Fault::Invalid("config.mounts.image"),
                    error,
                )
            })?;
            Ok(VolumeFacts { repo_digest: resolved.image_ref, layers: resolved.layers })
        })
        .collect()
}

/// As what the content of an image is seen.
pub(super) struct Seen<'a> {
    /// All of it has this label.
    pub(super) label: Option<&'a str>,
    /// Ids are as this user namespace of the pod has them.
    pub(super) userns: Option<&'a Path>,
}

/// Mounts the image volumes of a container. `take` is told where each one's content is: the place that the
/// container's specification names, and the one to take instead.
pub(super) fn mount_all(
    plan: &ContainerPlan,
    seen: &Seen<'_>,
    mut take: impl FnMut(&Path, PathBuf),
) -> Result<()> {
    let asked = plan.spec.mounts.iter().enumerate();
    let asked = asked.filter_map(|(number, mount)| Some((number, mount.image.as_ref()?)));
    for ((number, volume), facts) in asked.zip(&plan.image.volumes) {
        let at = directory(plan).join(number.to_string());
        let content = one(&at, facts, seen)?;
        let content = sub_path(&content, volume)?;
        take(&at, content);
    }
    Ok(())
}

/// Takes the mounts away; again and again without harm.
pub(super) fn drop_all(plan: &ContainerPlan) -> Result<()> {
    let directory = directory(plan);
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(format!("cannot read {}", directory.display()))(error)),
    };
    for entry in entries {
        let path = entry.map_err(failed(format!("cannot read {}", directory.display())))?.path();
        take_away(&path)?;
    }
    sys::tree::remove_path(&directory).map_err(failed(format!("cannot remove {}", directory.display())))
}

fn directory(plan: &ContainerPlan) -> PathBuf {
    plan.bundle.join("volumes")
}

/// The merged layers, at `at`.
fn one(at: &Path, facts: &VolumeFacts, seen: &Seen<'_>) -> Result<PathBuf> {
    let doing = || format!("{FAILED}: cannot mount {} at {}", facts.repo_digest, at.display());
    make_place(at)?;
    let mapped = match seen.userns {
        Some(userns) => map_layers(at, facts, userns)?,
        None => Vec::new(),
    };
    let layers = if mapped.is_empty() { &facts.layers } else { &mapped };
    let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID;
    let overlay = |layers: &[PathBuf]| {
        let options = overlay_options(layers, seen.label)?;
        mount("overlay", at, "overlay", flags, options.as_c_str())
    };
    let mounted = match (layers.as_slice(), seen.label) {
        // An image without content is an empty directory.
        ([], _) => Ok(()),
        // overlay wants two layers, or one to write to.
        ([layer], None) => {
            mount_bind(layer, at).and_then(|()| mount_remount(at, flags | MountFlags::BIND, c""))
        }
        // The label of a bind is that of its files: the directory that is mounted over is the second layer.
        ([layer], Some(_)) => overlay(&[at.to_owned(), layer.clone()]),
        (layers, _) => overlay(layers),
    };
    mounted.map_err(|error| failed(doing())(error))?;
    // An overlay holds its layers, and a bind is a mount of its own.
    mapped.iter().try_for_each(|place| take_away(place))?;
    Ok(at.to_owned())
}

fn make_place(at: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(at)
        .map_err(failed(format!("cannot make {}", at.display())))
}

/// Overlay cannot be idmapped, only its layers: each is mounted, mapped, beside `at`.
fn map_layers(at: &Path, facts: &VolumeFacts, userns: &Path) -> Result<Vec<PathBuf>> {
    let doing = || format!("{FAILED}: cannot map the ids of {}", facts.repo_digest);
    let userns = fs::File::open(userns).map_err(|error| failed(doing())(error))?;
    let mut places = Vec::new();
    for (number, layer) in facts.layers.iter().enumerate() {
        let place = at.with_extension(number.to_string());
        make_place(&place)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let mounted = open_tree(CWD, layer, flags).and_then(|tree| {
            sys::mount::map_ids(&tree, false, &userns)?;
            let whole = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            move_mount(&tree, "", CWD, &place, whole)
        });
        mounted.map_err(|error| failed(doing())(error))?;
        places.push(place);
    }
    Ok(places)
}

/// Takes all mounts at a place away: a crash may have let two be mounted over one another.
pub(super) fn take_away(place: &Path) -> Result<()> {
    loop {
        match unmount(place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(error) => return Err(failed(format!("cannot unmount {}", place.display()))(error)),
        }
    }
}

/// overlay wants the highest first.
fn overlay_options(layers: &[PathBuf], label: Option<&str>) -> std::result::Result<CString, Errno> {
    let mut options = label.map(|label| format!("context=\"{label}\",")).unwrap_or_default().into_bytes();
    options.extend(b"lowerdir=");
    for (number, layer) in layers.iter().rev().enumerate() {
        if number > 0 {
            options.push(b':');
        }
        options.extend(layer.as_os_str().as_bytes());
    }
    if options.len() > MOST_OPTIONS {
        return Err(Errno::TOOBIG);
    }
    CString::new(options).map_err(|_| Errno::INVAL)
}

/// What is at the sub path, resolved within the image: neither `..` nor a link leads out. Nobody can change
/// the content of an image, so its path stays what it was found to be.
fn sub_path(content: &Path, volume: &ImageVolume) -> Result<PathBuf> {
    if volume.sub_path.is_empty() {
        return Ok(content.to_owned());
    }
    let found = RootFd::open(content).and_then(|root| root.resolve(&volume.sub_path, OFlags::PATH)).map_err(
        |error| {
            HostError::because(
                format!("{FAILED}: the image `{}` has no `{}`", volume.image, volume.sub_path),
                Fault::Invalid("config.mounts.image_sub_path"),
                error,
            )
        },
    )?;
    fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd()))
        .map_err(failed(format!("{FAILED}: cannot look at `{}`", volume.sub_path)))
}
