//! What is mounted in a container: the defaults, the pod's files, then what was asked for.

use crate::{Input, ROOT, SpecError};
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, Mount, MountBuilder};
use std::path::{Path, PathBuf};
use types::container::{IdMapping, MountOption, Propagation};

/// Where the kernel's objects are shown.
const SYS: &str = "/sys";
/// The group of terminals.
const TTY: u32 = 5;

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
    let is_bind =
        |mount: &&Mount| mount.typ().as_deref() == Some("bind") && mount.destination() != Path::new(SYS);
    let kernels = all.iter().filter(|mount| !is_bind(mount)).count();
    all.extend(image_volumes(input, &asked, &all)?);
    for (number, (mount, at)) in input.container.mounts.iter().zip(asked).enumerate() {
        if at == Path::new("/") {
            return Err(SpecError::new("config.mounts", "a mount at `/` would hide the image"));
        }
        all.push(one(input, number, mount, &at)?);
    }
    // The binds by depth, the pod's files among them, so that none hides one that was mounted before it:
    // /etc/resolv.conf is seen in a volume at /etc too. Stable: of two at one place the last one of the
    // request is seen.
    if let Some(binds) = all.get_mut(kernels..) {
        binds.sort_by_key(|mount| mount.destination().components().count());
    }
    Ok(all)
}

/// A mount of the request.
fn one(
    input: &Input<'_>,
    number: usize,
    mount: &types::container::Mount,
    at: &Path,
) -> Result<Mount, SpecError> {
    let propagation = match mount.propagation {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    };
    let access = match (mount.readonly, mount.recursive_readonly) {
        (true, true) => "rro",
        (true, false) => "ro",
        (false, _) => "rw",
    };
    let mut options = vec!["rbind", propagation, access];
    // What a volume holds beneath is a part of it.
    options.extend(mount.options.iter().map(|option| match option {
        MountOption::NoExec => "rnoexec",
        MountOption::NoDev => "rnodev",
        MountOption::NoSuid => "rnosuid",
    }));
    let source = match &mount.image {
        Some(_) => {
            options.extend(["nodev", "nosuid"]);
            input.places.volumes.join(number.to_string())
        }
        None => mount.host_path.clone(),
    };
    let mut made = bind(&source, at, &options)?;
    if !mount.uid_mappings.is_empty() {
        made.set_uid_mappings(Some(mappings(&mount.uid_mappings)?));
        made.set_gid_mappings(Some(mappings(&mount.gid_mappings)?));
    }
    Ok(made)
}

pub(crate) fn mappings(lines: &[IdMapping]) -> Result<Vec<LinuxIdMapping>, SpecError> {
    lines
        .iter()
        .map(|line| {
            LinuxIdMappingBuilder::default()
                .container_id(line.container_id)
                .host_id(line.host_id)
                .size(line.length)
                .build()
                .map_err(SpecError::builder)
        })
        .collect()
}

/// The image's VOLUMEs: directories that can be written, with what the image has there, as with the peers.
/// They are parts of the container's own root, made where the image lacks them, and mounted over themselves.
/// What is mounted there, or above, is not touched.
fn image_volumes(input: &Input<'_>, asked: &[PathBuf], defaults: &[Mount]) -> Result<Vec<Mount>, SpecError> {
    let mut volumes: Vec<PathBuf> = input.image.volumes.iter().map(|volume| clean(volume)).collect();
    volumes.sort();
    volumes.dedup();
    let taken = |volume: &Path| {
        volume == Path::new("/")
            || asked.iter().any(|at| volume.starts_with(at))
            || defaults.iter().any(|mount| volume.starts_with(mount.destination()))
    };
    volumes
        .iter()
        .filter(|volume| !taken(volume))
        .map(|volume| {
            let source = Path::new(ROOT).join(volume.strip_prefix("/").unwrap_or(volume));
            bind(&source, volume, &["rbind", "rprivate", "rw"])
        })
        .collect()
}

fn defaults(input: &Input<'_>) -> Result<Vec<Mount>, SpecError> {
    let places = input.places;
    let privileged = input.container.security.privileged;
    let sys = if privileged { "rw" } else { "ro" };
    let user = input.pod.namespaces.user_mapping();
    let mut terminals = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"];
    if user.is_some_and(|user| user.length <= TTY) {
        terminals.pop();
    }
    let mut all = vec![
        kernel("proc", "/proc", "proc", &["nosuid", "noexec", "nodev"])?,
        kernel("tmpfs", "/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"])?,
        kernel("devpts", "/dev/pts", "devpts", &terminals)?,
        kernel("mqueue", "/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"])?,
    ];
    // Also in the node's network an instance of its own, not a bind of the node's /sys: `ro` holds for
    // the mount itself alone, and debugfs, bpf and others beneath it would stay writable.
    // But for a user namespace, which does not own that network: it may not make one, so that the node's is
    // bound with all that is beneath read-only (KEP-5607).
    all.push(if user.is_some() && places.net.is_none() {
        bind(Path::new(SYS), Path::new(SYS), &["rbind", "rprivate", "rro", "rnosuid", "rnoexec", "rnodev"])?
    } else {
        kernel("sysfs", SYS, "sysfs", &["nosuid", "noexec", "nodev", sys])?
    });
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
