//! What is mounted in a container: the defaults, the pod's files, then what was asked for.

use crate::{Input, SpecError};
use oci_spec::runtime::{Mount, MountBuilder};
use std::path::{Path, PathBuf};
use types::container::Propagation;

/// In the order in which they are mounted. A mount of the request at one of these places takes the
/// default's place.
pub(crate) fn mounts(input: &Input<'_>) -> Result<Vec<Mount>, SpecError> {
    let asked: Vec<PathBuf> =
        input.container.mounts.iter().map(|mount| clean(&mount.container_path)).collect();
    let mut all = Vec::new();
    for default in defaults(input)? {
        if !asked.contains(default.destination()) {
            all.push(default);
        }
    }
    let kernels = all.iter().filter(|mount| mount.typ().as_deref() != Some("bind")).count();
    for (mount, at) in input.container.mounts.iter().zip(asked) {
        if at == Path::new("/") {
            return Err(SpecError::new("config.mounts", "a mount at `/` would hide the image"));
        }
        let propagation = match mount.propagation {
            Propagation::Private => "rprivate",
            Propagation::HostToContainer => "rslave",
            Propagation::Bidirectional => "rshared",
        };
        all.push(bind(
            &mount.host_path,
            &at,
            &["rbind", propagation, if mount.readonly { "ro" } else { "rw" }],
        )?);
    }
    // The binds by depth, the pod's files among them, so that none hides one that was mounted before it:
    // /etc/resolv.conf is seen in a volume at /etc too. Stable: of two at one place the last one of the
    // request is seen.
    if let Some(binds) = all.get_mut(kernels..) {
        binds.sort_by_key(|mount| mount.destination().components().count());
    }
    Ok(all)
}

fn defaults(input: &Input<'_>) -> Result<Vec<Mount>, SpecError> {
    let places = input.places;
    let privileged = input.container.security.privileged;
    let sys = if privileged { "rw" } else { "ro" };
    let mut all = vec![
        kernel("proc", "/proc", "proc", &["nosuid", "noexec", "nodev"])?,
        kernel("tmpfs", "/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"])?,
        kernel(
            "devpts",
            "/dev/pts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        )?,
        kernel("mqueue", "/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"])?,
    ];
    // Also in the node's network an instance of its own, not a bind of the node's /sys: `ro` holds for
    // the mount itself alone, and debugfs, bpf and others beneath it would stay writable.
    all.push(kernel("sysfs", "/sys", "sysfs", &["nosuid", "noexec", "nodev", sys])?);
    all.push(kernel("cgroup", "/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", sys])?);
    let shm = places.shm.as_deref().unwrap_or(Path::new("/dev/shm"));
    all.push(bind(shm, Path::new("/dev/shm"), &["rbind", "rprivate", "rw", "nosuid", "noexec", "nodev"])?);
    let root = if input.container.security.readonly_rootfs { "ro" } else { "rw" };
    for (file, at) in [
        (&places.hosts, "/etc/hosts"),
        (&places.hostname, "/etc/hostname"),
        (&places.resolv_conf, "/etc/resolv.conf"),
    ] {
        all.push(bind(file, Path::new(at), &["rbind", "rprivate", root])?);
    }
    Ok(all)
}

fn kernel(source: &str, at: &str, kind: &str, options: &[&str]) -> Result<Mount, SpecError> {
    MountBuilder::default()
        .source(source)
        .destination(at)
        .typ(kind)
        .options(options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
        .build()
        .map_err(SpecError::builder)
}

fn bind(source: &Path, at: &Path, options: &[&str]) -> Result<Mount, SpecError> {
    MountBuilder::default()
        .source(source)
        .destination(at)
        .typ("bind")
        .options(options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
        .build()
        .map_err(SpecError::builder)
}

/// Without doubled and trailing slashes and `.`, so that one place has one name. There is no `..`:
/// the parser refused it.
fn clean(path: &str) -> PathBuf {
    let mut clean = PathBuf::from("/");
    clean.extend(path.split('/').filter(|part| !part.is_empty() && *part != "."));
    clean
}
