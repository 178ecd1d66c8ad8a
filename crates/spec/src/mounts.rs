//! What is mounted in a container: the defaults, the pod's files, then what was asked for.

use crate::{Input, SpecError};
use oci_spec::runtime::{Mount, MountBuilder};
use std::path::{Path, PathBuf};
use types::{container::Propagation, pod::NsMode};

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
    // By depth, so that none hides one that was mounted before it; stable: of two at one place the last
    // one of the request is seen.
    let mut by_depth: Vec<_> = input.container.mounts.iter().zip(asked).collect();
    by_depth.sort_by_key(|(_, at)| at.components().count());
    for (mount, at) in by_depth {
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
    // sysfs shows the network namespace of who mounts it, which a pod in the node's network does not own.
    if input.pod.namespaces.network == NsMode::Node && !privileged {
        all.push(bind(
            Path::new("/sys"),
            Path::new("/sys"),
            &["rbind", "rprivate", "nosuid", "noexec", "nodev", "ro"],
        )?);
    } else {
        all.push(kernel("sysfs", "/sys", "sysfs", &["nosuid", "noexec", "nodev", sys])?);
    }
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
