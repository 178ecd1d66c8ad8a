//! What is mounted where.
//!
//! First the file systems that every Linux container has, then binds by depth, so that none hides one
//! that was mounted before it. A bind that was asked for replaces the default with the same target.

use crate::{Input, SpecError, own_cgroup_namespace};
use oci_spec::runtime::{Mount, MountBuilder};
use std::path::{Path, PathBuf};
use types::container::{ContainerSpec, Propagation};

/// Most mounts of a request: the kernel's own limit is 100000 for a mount namespace.
const MAX_MOUNTS: usize = 16384;

/// A bind mount to be.
#[derive(Debug)]
struct Bind {
    target: String,
    source: PathBuf,
    readonly: bool,
    propagation: Propagation,
}

/// All mounts, in the order in which they are made.
pub(crate) fn all(input: &Input<'_>) -> Result<Vec<Mount>, SpecError> {
    let asked = &input.container.mounts;
    if asked.len() > MAX_MOUNTS {
        return Err(SpecError::bad("mounts", format!("has more than {MAX_MOUNTS} entries")));
    }
    let mut binds = Vec::with_capacity(asked.len() + 4);
    for (at, mount) in asked.iter().enumerate() {
        let target = clean(&mount.container_path).ok_or_else(|| {
            SpecError::bad(format!("mounts[{at}].container_path"), "is not an absolute path below /")
        })?;
        if !mount.host_path.is_absolute() {
            return Err(SpecError::bad(format!("mounts[{at}].host_path"), "is not absolute"));
        }
        binds.push(Bind {
            target,
            source: mount.host_path.clone(),
            readonly: mount.readonly,
            propagation: mount.propagation,
        });
    }
    let taken: Vec<String> = binds.iter().map(|bind| bind.target.clone()).collect();
    let free = |target: &str| !taken.iter().any(|taken| taken == target);
    let whole_dev = !free("/dev");

    binds.extend(own_binds(input).into_iter().filter(|bind| free(&bind.target)));
    // Stable: two for one target stay in the order of the request, and the last one is seen.
    binds.sort_by_key(|bind| bind.target.matches('/').count());

    let mut mounts: Vec<Mount> = file_systems(input)
        .into_iter()
        .filter(|(target, ..)| free(target) && !(whole_dev && target.starts_with("/dev/")))
        .map(|(target, kind, source, options)| mount(target, kind, Path::new(source), options))
        .collect();
    for bind in binds {
        let propagation = match bind.propagation {
            Propagation::Private => "rprivate",
            Propagation::HostToContainer => "rslave",
            Propagation::Bidirectional => "rshared",
        };
        let access = if bind.readonly { "ro" } else { "rw" };
        let options = ["rbind", propagation, access].map(str::to_owned).to_vec();
        mounts.push(mount(&bind.target, "bind", &bind.source, options));
    }
    Ok(mounts)
}

/// Propagation of the container's root: where a mount shall be seen on the other side the root must not
/// be private.
pub(crate) fn propagation(container: &ContainerSpec) -> Option<&'static str> {
    let any = |wanted| container.mounts.iter().any(|mount| mount.propagation == wanted);
    if any(Propagation::Bidirectional) {
        Some("rshared")
    } else if any(Propagation::HostToContainer) {
        Some("rslave")
    } else {
        None
    }
}

/// The image's volumes that need a directory of the host: target and source. There are some only with a
/// read-only root; with a writable one a volume is a directory like others. The caller makes them, with
/// what the image has there, before the container is created.
#[must_use]
pub fn volumes(input: &Input<'_>) -> Vec<(String, PathBuf)> {
    if !input.container.security.readonly_rootfs {
        return Vec::new();
    }
    let asked: Vec<String> =
        input.container.mounts.iter().filter_map(|mount| clean(&mount.container_path)).collect();
    input
        .image
        .volumes
        .iter()
        .filter_map(|volume| clean(volume))
        .enumerate()
        .filter(|(_, target)| !asked.contains(target))
        .map(|(number, target)| (target, input.places.volumes.join(number.to_string())))
        .collect()
}

/// The pod's files, its /dev/shm and the image's volumes.
fn own_binds(input: &Input<'_>) -> Vec<Bind> {
    let readonly = input.container.security.readonly_rootfs;
    let bind = |target: &str, source: &Path, readonly| Bind {
        target: target.to_owned(),
        source: source.to_owned(),
        readonly,
        propagation: Propagation::Private,
    };
    let places = input.places;
    let mut binds = vec![
        bind("/etc/hostname", &places.hostname, readonly),
        bind("/etc/hosts", &places.hosts, readonly),
        bind("/etc/resolv.conf", &places.resolv_conf, readonly),
        bind("/dev/shm", &places.shm, false),
    ];
    binds.extend(volumes(input).iter().map(|(target, source)| bind(target, source, false)));
    binds
}

type FileSystem = (&'static str, &'static str, &'static str, Vec<String>);

/// Target, type, source, options.
fn file_systems(input: &Input<'_>) -> Vec<FileSystem> {
    let privileged = input.container.security.privileged;
    let access = if privileged { "rw" } else { "ro" };
    let list = |options: &[&str]| options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>();
    let mut cgroup = list(&["nosuid", "noexec", "nodev", "relatime", access]);
    if !own_cgroup_namespace(input) {
        cgroup.extend(input.host.cgroup_options.iter().cloned());
    }
    vec![
        ("/proc", "proc", "proc", list(&["nosuid", "noexec", "nodev"])),
        ("/dev", "tmpfs", "tmpfs", list(&["nosuid", "strictatime", "mode=755", "size=65536k"])),
        (
            "/dev/pts",
            "devpts",
            "devpts",
            list(&["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        ),
        ("/dev/mqueue", "mqueue", "mqueue", list(&["nosuid", "noexec", "nodev"])),
        ("/sys", "sysfs", "sysfs", list(&["nosuid", "noexec", "nodev", access])),
        ("/sys/fs/cgroup", "cgroup", "cgroup", cgroup),
    ]
}

fn mount(target: &str, kind: &str, source: &Path, options: Vec<String>) -> Mount {
    MountBuilder::default()
        .destination(target)
        .typ(kind)
        .source(source)
        .options(options)
        .build()
        .expect("every field has a default")
}

/// An absolute path without empty, `.` and `..` components; none for the root and relative ones. Links
/// are not followed here: the runtime resolves the path inside the container's root.
fn clean(path: &str) -> Option<String> {
    let relative = path.strip_prefix('/').filter(|_| !path.contains('\0'))?;
    let mut parts: Vec<&str> = Vec::new();
    for part in relative.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| format!("/{}", parts.join("/")))
}
