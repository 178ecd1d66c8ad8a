//! A pod's directories, files and cgroup.

use super::{
    blocking::failed,
    bundle, files, handlers,
    lsm::Modules,
    selinux::{Labels, Selinux},
};
use cgroup::{Cgroup, CgroupPath, Mounts};
use engine::host::{Fault, HostError, PodPlan, Result};
use oci_spec::runtime::Capabilities;
use std::{
    ffi::CString,
    fs,
    io::{Read as _, Write as _},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};
use sys::rustix::{
    io::Errno,
    mount::{MountFlags, UnmountFlags},
};
use types::{
    container::{AppArmorProfile, SeccompProfile},
    pod::{NsMode, PodSpec, UserMapping},
};

/// /dev/shm of a pod, as the peers have it.
const SHM_OPTIONS: &str = "mode=1777,size=64m";
/// /etc/resolv.conf of the host, at most.
const LARGEST_RESOLV_CONF: u64 = 1 << 20;

/// That the profiles that the sandbox names can be used. A privileged one is confined by none (CRI comment).
pub(super) fn check_profiles(spec: &PodSpec) -> Result<()> {
    if spec.privileged {
        return Ok(());
    }
    if let SeccompProfile::Localhost(path) = &spec.security.seccomp {
        bundle::localhost_filter(path, &Capabilities::new())?;
    }
    match &spec.security.apparmor {
        AppArmorProfile::Localhost(name) => Modules::of_the_host().localhost(name).map(drop),
        AppArmorProfile::RuntimeDefault | AppArmorProfile::Unconfined => Ok(()),
    }
}

/// The directories, files and the tmpfs that the plan names. Finds and completes half-made ones.
pub(super) fn make_dirs(plan: &PodPlan) -> Result<()> {
    for dir in [Some(plan.paths.dir.as_path()), Some(&plan.paths.dir.join("c")), plan.paths.hosts.parent()] {
        private_dir(dir.unwrap_or(&plan.paths.dir))?;
    }
    private_dir(&plan.paths.rootfs)?;
    write_files(plan, &[])?;
    if let Some(shm) = &plan.paths.shm {
        let labels = Selinux::of_the_host().of_pod(plan)?;
        make_shm(shm, labels.as_ref(), plan.spec.namespaces.user_mapping())?;
    }
    Ok(())
}

/// /etc/hosts again, with the pod's own name and addresses.
pub(super) fn write_hosts(plan: &PodPlan, ips: &[IpAddr]) -> Result<()> {
    let name = hostname(plan);
    put_in_pod(plan, &plan.paths.hosts, &files::hosts(&name, ips))
}

fn write_files(plan: &PodPlan, ips: &[IpAddr]) -> Result<()> {
    let own_network = plan.spec.namespaces.network != NsMode::Node;
    if own_network {
        write_hosts(plan, ips)?;
    } else {
        put_in_pod(plan, &plan.paths.hosts, &host_file("/etc/hosts"))?;
    }
    put_in_pod(plan, &plan.paths.hostname, &format!("{}\n", hostname(plan)))?;
    let behind = Some(host_file(files::BEHIND_THE_STUB)).filter(|text| !text.is_empty());
    let text = files::resolv_conf(
        plan.spec.dns.as_ref(),
        &host_file("/etc/resolv.conf"),
        behind.as_deref(),
        own_network,
    );
    put_in_pod(plan, &plan.paths.resolv_conf, &text)
}

/// The pod's host name; one that asked for none has the node's.
pub(super) fn hostname(plan: &PodPlan) -> String {
    if plan.spec.hostname.is_empty() {
        sys::rustix::system::uname().nodename().to_string_lossy().into_owned()
    } else {
        plan.spec.hostname.clone()
    }
}

/// A file of the host, as far as it is text; an absent one is empty.
fn host_file(path: &str) -> String {
    let mut bytes = Vec::new();
    match fs::File::open(path).and_then(|file| file.take(LARGEST_RESOLV_CONF).read_to_end(&mut bytes)) {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => {
            if error.kind() != std::io::ErrorKind::NotFound {
                tracing::warn!(path, %error, "cannot read a file that pods take over");
            }
            String::new()
        }
    }
}

fn private_dir(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed(format!("cannot make {}", path.display())))
}

/// Containers read these files, whoever they run as. Written in place: a container may already have
/// the file mounted, and must see the new text.
pub(super) fn put(path: &Path, text: &str) -> Result<()> {
    let write = || {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(path)?;
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        file.write_all(text.as_bytes())
    };
    write().map_err(failed(format!("cannot write {}", path.display())))
}

/// A file of the pod's root, whoever that is on the node.
fn put_in_pod(plan: &PodPlan, path: &Path, text: &str) -> Result<()> {
    put(path, text)?;
    let Some(UserMapping { first_uid, first_gid, .. }) = plan.spec.namespaces.user_mapping() else {
        return Ok(());
    };
    std::os::unix::fs::chown(path, Some(first_uid), Some(first_gid))
        .map_err(failed(format!("cannot give {} to the pod's root", path.display())))
}

fn make_shm(path: &Path, labels: Option<&Labels>, user: Option<UserMapping>) -> Result<()> {
    private_dir(path)?;
    if is_mount_point(path)? {
        return Ok(());
    }
    let label = labels.map(|labels| format!(",context=\"{}\"", labels.files)).unwrap_or_default();
    let owner = user.map(|user| format!(",uid={},gid={}", user.first_uid, user.first_gid));
    let options = format!("{SHM_OPTIONS}{}{label}", owner.unwrap_or_default());
    let options = CString::new(options).map_err(failed("tmpfs options"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    sys::rustix::mount::mount("shm", path, "tmpfs", flags, options.as_c_str())
        .map_err(failed(format!("cannot mount a tmpfs at {}", path.display())))
}

/// A mount point is on another device than its parent; enough for a tmpfs.
fn is_mount_point(path: &Path) -> Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let device = |path: &Path| {
        fs::symlink_metadata(path)
            .map(|m| m.dev())
            .map_err(failed(format!("cannot look at {}", path.display())))
    };
    let parent = path.parent().unwrap_or(path);
    Ok(device(path)? != device(parent)?)
}

/// All that [`make_dirs`] made, and bundles beneath it. The directory of writable layers goes only
/// when it is empty: they belong to containers.
pub(super) fn drop_dirs(plan: &PodPlan) -> Result<()> {
    handlers::drop_pod(plan)?;
    if let Some(shm) = &plan.paths.shm {
        // Also when a crash let two be mounted over one another.
        while unmount(shm)? {}
    }
    sys::tree::remove_path(&plan.paths.dir)
        .map_err(failed(format!("cannot remove {}", plan.paths.dir.display())))?;
    match fs::remove_dir(&plan.paths.rootfs) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => Ok(()),
        Err(error) => Err(failed(format!("cannot remove {}", plan.paths.rootfs.display()))(error)),
    }
}

/// Whether something was mounted there, and is not any more.
fn unmount(path: &Path) -> Result<bool> {
    match sys::rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(true),
        Err(Errno::INVAL | Errno::NOENT) => Ok(false),
        Err(error) => Err(failed(format!("cannot unmount {}", path.display()))(error)),
    }
}

/// A cgroup path of a request or a plan.
pub(super) fn cgroup_path(path: &str) -> Result<CgroupPath> {
    CgroupPath::parse(path).map_err(|error| {
        HostError::because("cannot use the cgroup", Fault::Invalid("config.linux.cgroup_parent"), error)
    })
}

/// Of a path and its ancestors, those that are not there; deepest first.
pub(super) fn missing_groups(mounts: &Mounts, path: &str) -> Result<Vec<String>> {
    let mut missing = Vec::new();
    let mut next = Some(cgroup_path(path)?);
    while let Some(path) = next {
        match Cgroup::open(mounts, &path) {
            Ok(_) => break,
            Err(error) if error.errno() == Some(Errno::NOENT) => missing.push(path.as_str().to_owned()),
            Err(error) => return Err(failed("cannot look at the cgroup")(error)),
        }
        next = path.parent();
    }
    Ok(missing)
}

/// The pod's group, without limits of its own: the kubelet sets those of the groups that it makes.
pub(super) fn make_cgroup(mounts: &Mounts, plan: &PodPlan) -> Result<()> {
    let path = cgroup_path(&plan.cgroup.path)?;
    Cgroup::create(mounts, &path, None).map(drop).map_err(failed("cannot make the pod's cgroup"))
}

/// The groups that the plan made, the pod's own first, as far as nobody is in them.
///
/// Nothing is killed here: who asks for one `cgroup_parent` for several pods has one group that they
/// share, and what this pod had in it went with its containers. A group that is still in use is
/// remembered beneath `<state>/groups`, and goes with the last pod in it.
pub(super) fn drop_cgroup(mounts: &Mounts, plan: &PodPlan, remembered: &Path) -> Result<()> {
    for path in &plan.cgroup.made {
        if !remove_unused(mounts, path)? {
            remember(remembered, path)?;
        }
    }
    collect_cgroups(mounts, remembered)
}

/// Removes remembered groups that nobody is in any more.
pub(super) fn collect_cgroups(mounts: &Mounts, remembered: &Path) -> Result<()> {
    for (note, path) in notes(remembered)? {
        // The deepest first: a parent is unused only then.
        if remove_unused(mounts, &path)? {
            match fs::remove_file(&note) {
                // Pods that go at the same time read the same notes.
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(failed(format!("cannot remove {}", note.display()))(error));
                }
                Ok(()) | Err(_) => {}
            }
        }
    }
    Ok(())
}

/// Removes a group without processes and child groups; `false` if it is in use.
fn remove_unused(mounts: &Mounts, path: &str) -> Result<bool> {
    if !group_is_unused(mounts, path) {
        return Ok(false);
    }
    let group = Cgroup::at(mounts, &cgroup_path(path)?);
    match group.remove() {
        Ok(()) => Ok(true),
        Err(_) if !group_is_unused(mounts, path) => Ok(false),
        Err(error) => Err(failed("cannot remove the pod's cgroup")(error)),
    }
}

/// No process and no child group in any hierarchy: [`Cgroup::remove`] would take child groups along.
fn group_is_unused(mounts: &Mounts, path: &str) -> bool {
    mounts.points().all(|(point, _)| {
        let dir = point.join(path.trim_start_matches('/'));
        let Ok(entries) = fs::read_dir(&dir) else { return true };
        let no_child = !entries.flatten().any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        no_child && fs::read_to_string(dir.join("cgroup.procs")).is_ok_and(|pids| pids.trim().is_empty())
    })
}

/// A note per group, named so that it needs no care with slashes.
fn remember(remembered: &Path, path: &str) -> Result<()> {
    private_dir(remembered)?;
    let note = remembered.join(path.trim_start_matches('/').replace('/', "\\x2f"));
    put(&note, path)
}

/// Notes and the groups that they are about, the deepest group first.
fn notes(remembered: &Path) -> Result<Vec<(PathBuf, String)>> {
    let entries = match fs::read_dir(remembered) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(format!("cannot read {}", remembered.display()))(error)),
    };
    let mut notes: Vec<(PathBuf, String)> = entries
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path()).ok().map(|path| (entry.path(), path)))
        .collect();
    notes.sort_by_key(|(_, path)| std::cmp::Reverse(path.matches('/').count()));
    Ok(notes)
}
