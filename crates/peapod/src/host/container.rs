//! A container's writable layer, processes and records on the host's side.

use super::{blocking::failed, pod, shims, volumes};
use cgroup::{Cgroup, Mounts};
use engine::host::{ContainerPlan, Exit, Fault, HostError, ImageFacts, Result};
use image::{ErrorKind, ImageError, Images, UserRequest};
use prost::Message as _;
use std::{
    fs,
    io::Read as _,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::Path,
};
use types::{
    container::ContainerSpec,
    shim::{EXIT_FILE, ExitRecord},
};

/// An exit record is some hundred bytes.
const LARGEST_EXIT: u64 = 64 << 10;

/// `upper` and `work`. The root of the container has the mode of `upper`.
pub(super) fn make_rootfs(plan: &ContainerPlan) -> Result<()> {
    let make = |path: &Path, mode: u32| {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(path)
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
            .map_err(failed(format!("cannot make {}", path.display())))
    };
    make(&plan.rootfs, 0o700)?;
    let upper = plan.rootfs.join("upper");
    make(&upper, 0o755)?;
    if let Some(layer) = plan.image.layers.last() {
        // Whose the highest layer's root is, that is who owns the container's.
        let root =
            fs::symlink_metadata(layer).map_err(failed(format!("cannot look at {}", layer.display())))?;
        std::os::unix::fs::chown(&upper, Some(root.uid()), Some(root.gid()))
            .map_err(failed(format!("cannot give {} its owner", upper.display())))?;
    }
    make(&plan.rootfs.join("work"), 0o700)
}

/// All processes of the container, by its cgroup.
pub(super) fn kill_group(mounts: &Mounts, plan: &ContainerPlan) -> Result<()> {
    const DOING: &str = "cannot kill the container's processes";
    let group = Cgroup::at(mounts, &pod::cgroup_path(&plan.cgroup)?);
    group.kill().map_err(failed(DOING))?;
    // Killed processes leave the group at their end; an orphan is reaped by init.
    let gone = sys::wait::until(std::time::Duration::from_secs(10), || {
        group.processes().map(|left| left.is_empty())
    });
    match gone.map_err(failed(DOING))? {
        true => Ok(()),
        false => Err(HostError::new(format!("{DOING}: some do not end"), Fault::Deadline)),
    }
}

/// Processes, cgroup, bundle and writable layer.
pub(super) fn drop_host_side(mounts: &Mounts, plan: &ContainerPlan) -> Result<()> {
    kill_group(mounts, plan)?;
    let group = Cgroup::at(mounts, &pod::cgroup_path(&plan.cgroup)?);
    group.remove().map_err(failed("cannot remove the container's cgroup"))?;
    volumes::drop_all(plan)?;
    for path in [&plan.bundle, &plan.rootfs] {
        sys::tree::remove_path(path).map_err(failed(format!("cannot remove {}", path.display())))?;
    }
    Ok(())
}

/// The exit that the shim wrote.
pub(super) fn recorded_exit(plan: &ContainerPlan) -> Result<Option<Exit>> {
    let path = plan.bundle.join(EXIT_FILE);
    let mut bytes = Vec::new();
    match fs::File::open(&path) {
        Ok(file) => file
            .take(LARGEST_EXIT)
            .read_to_end(&mut bytes)
            .map_err(failed(format!("cannot read {}", path.display())))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(format!("cannot read {}", path.display()))(error)),
    };
    let record = ExitRecord::decode(bytes.as_slice())
        .map_err(failed(format!("{} is not an exit record", path.display())))?;
    shims::exit(record).map(Some)
}

/// What the plan needs of the image, with the user looked up in it.
pub(super) async fn image(images: &Images, container: &ContainerSpec) -> Result<ImageFacts> {
    const DOING: &str = "cannot use the image";
    let resolved = images.resolve(&container.image).map_err(image_error(DOING))?;
    let volumes = volumes::images(images, &container.mounts)?;
    let security = container.security.clone();
    tokio::task::spawn_blocking(move || {
        let request = UserRequest {
            run_as: security.user.as_ref(),
            group: security.group,
            supplemental: &security.supplemental_groups,
            policy: security.groups_policy,
        };
        let user = resolved.resolve_user(&request).map_err(|error| {
            HostError::because(DOING, Fault::Invalid("config.linux.security_context.run_as_user"), error)
        })?;
        let id = resolved.id.to_string();
        Ok(ImageFacts {
            reference: resolved.tag.unwrap_or_else(|| resolved.image_ref.clone()),
            repo_digest: resolved.image_ref,
            defaults: resolved.defaults,
            user,
            layers: resolved.layers,
            volumes,
            id,
        })
    })
    .await
    .map_err(failed(DOING))?
}

fn image_error(doing: &'static str) -> impl FnOnce(ImageError) -> HostError {
    move |error| {
        let fault = match error.kind() {
            ErrorKind::NotFound => Fault::NotFound,
            ErrorKind::Invalid | ErrorKind::Refused => Fault::Invalid("config.image.image"),
            ErrorKind::Denied | ErrorKind::Unavailable | ErrorKind::Internal => return failed(doing)(error),
        };
        HostError::because(doing, fault, error)
    }
}

/// Keeps the layers of the image, and of those that are volumes, as long as the container is there.
pub(super) fn hold_image(images: &Images, plan: &ContainerPlan) -> Result<()> {
    let mut layers = plan.image.layers.clone();
    layers.extend(plan.image.volumes.iter().flat_map(|volume| volume.layers.iter().cloned()));
    layers.sort();
    layers.dedup();
    images.hold_directories(&plan.id, &layers).map_err(image_error("cannot hold the image"))
}
