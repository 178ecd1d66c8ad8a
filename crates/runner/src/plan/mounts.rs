//! `mounts`: what is mounted where, parsed, in order.

use super::{
    options::{Options, text},
    process::absolute,
};
use crate::RunnerError;
use cgroup::{CgroupPath, Version};
use oci_spec::runtime::Mount;
use std::{
    ffi::CString,
    path::{Path, PathBuf},
};

/// More mounts than this are refused: the kernel's own limit for a namespace is 100 000.
const MOST_MOUNTS: usize = 16_384;

/// What procfs shows and another runtime's tools (lxcfs first of all) put files over.
const FILES_OF_PROC: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// One mount.
#[derive(Debug)]
pub(crate) struct MountPlan {
    /// Absolute in the container, no `..`.
    pub(crate) target: PathBuf,
    pub(crate) kind: MountKind,
    pub(crate) options: Options,
    /// The target must be a plain directory, no link in its path: /proc and /sys (CVE-2019-19921).
    pub(crate) plain: bool,
}

/// What is mounted.
#[derive(Debug)]
pub(crate) enum MountKind {
    /// A file or directory of the host.
    Bind { source: CString, recursive: bool },
    /// A new instance, or another view, of a file system.
    FileSystem { kind: CString, source: CString },
    /// cgroup v1: a tmpfs with a directory for each hierarchy, which shows the container's own group.
    CgroupV1(Vec<Hierarchy>),
}

/// One hierarchy of a cgroup v1 view.
#[derive(Debug)]
pub(crate) struct Hierarchy {
    /// Name of its directory: `cpu,cpuacct`.
    pub(crate) name: String,
    /// Links to it: `cpu`, `cpuacct`.
    pub(crate) links: Vec<String>,
    /// The container's group in it, on the host.
    pub(crate) source: CString,
}

/// All mounts in order.
pub(crate) fn parse(
    mounts: &[Mount],
    bundle: &Path,
    cgroups: &cgroup::Mounts,
    group: &CgroupPath,
) -> Result<Vec<MountPlan>, RunnerError> {
    if mounts.len() > MOST_MOUNTS {
        return Err(RunnerError::invalid("mounts", format!("there are more than {MOST_MOUNTS}")));
    }
    mounts
        .iter()
        .enumerate()
        .map(|(at, mount)| one(&format!("mounts[{at}]"), mount, bundle, cgroups, group))
        .collect()
}

fn one(
    field: &str,
    mount: &Mount,
    bundle: &Path,
    cgroups: &cgroup::Mounts,
    group: &CgroupPath,
) -> Result<MountPlan, RunnerError> {
    for (name, mappings) in [("uidMappings", mount.uid_mappings()), ("gidMappings", mount.gid_mappings())] {
        if mappings.as_ref().is_some_and(|list| !list.is_empty()) {
            return Err(RunnerError::unsupported(format!("{field}.{name}"), ""));
        }
    }
    let destination = format!("{field}.destination");
    let target = absolute(&destination, mount.destination())?;
    if target == Path::new("/") {
        return Err(RunnerError::invalid(destination, "the root is mounted by `root.path`"));
    }
    let options =
        Options::parse(&format!("{field}.options"), mount.options().as_deref().unwrap_or_default())?;
    let kind = mount.typ().as_deref().unwrap_or("");
    let source = mount.source().as_deref().unwrap_or(Path::new(""));
    let kind = match (options.bind, kind) {
        (Some(recursive), _) => bind(field, source, recursive, bundle)?,
        (None, "bind" | "none") => bind(field, source, true, bundle)?,
        (None, "") => return Err(RunnerError::invalid(format!("{field}.type"), "it is empty")),
        (None, "cgroup") => cgroup_view(field, cgroups, group)?,
        (None, kind) => MountKind::FileSystem {
            kind: text(&format!("{field}.type"), kind)?,
            source: text(&format!("{field}.source"), source.as_os_str().as_encoded_bytes())?,
        },
    };
    over_proc(field, &target, &kind)?;
    let plain = target == Path::new("/proc") || target == Path::new("/sys");
    Ok(MountPlan { target, kind, options, plain })
}

fn bind(field: &str, source: &Path, recursive: bool, bundle: &Path) -> Result<MountKind, RunnerError> {
    let field = format!("{field}.source");
    if source.as_os_str().is_empty() {
        return Err(RunnerError::invalid(field, "it is empty"));
    }
    // A relative source is beneath the bundle, as the runtime specification says.
    let source = text(&field, bundle.join(source).into_os_string().into_encoded_bytes())?;
    Ok(MountKind::Bind { source, recursive })
}

fn cgroup_view(field: &str, cgroups: &cgroup::Mounts, group: &CgroupPath) -> Result<MountKind, RunnerError> {
    if cgroups.version() == Version::V2 {
        return Ok(MountKind::FileSystem { kind: c"cgroup2".into(), source: c"cgroup".into() });
    }
    let mut hierarchies = Vec::new();
    for (point, controllers) in cgroups.points() {
        let Some(name) = point.file_name().and_then(|name| name.to_str()) else { continue };
        let source = point.join(group.as_str().trim_start_matches('/'));
        let links = controllers.iter().filter(|link| !link.contains('=') && *link != name).cloned().collect();
        let source = text(field, source.into_os_string().into_encoded_bytes())?;
        hierarchies.push(Hierarchy { name: name.to_owned(), links, source });
    }
    Ok(MountKind::CgroupV1(hierarchies))
}

/// What lies over a part of procfs would decide where the runtime's own writes to it go (CVE-2019-16884).
fn over_proc(field: &str, target: &Path, kind: &MountKind) -> Result<(), RunnerError> {
    let refuse = |why: &str| Err(RunnerError::invalid(format!("{field}.destination"), why));
    if !target.starts_with("/proc") {
        return Ok(());
    }
    let is_bind = matches!(kind, MountKind::Bind { .. });
    if target == Path::new("/proc") {
        return match kind {
            MountKind::FileSystem { kind, .. } if kind.as_c_str() == c"proc" => Ok(()),
            // The child looks whether it really is a procfs: the host's, for a container without a PID namespace.
            MountKind::Bind { .. } => Ok(()),
            MountKind::FileSystem { .. } | MountKind::CgroupV1(_) => {
                refuse("only a procfs may be mounted there")
            }
        };
    }
    if is_bind && FILES_OF_PROC.iter().any(|file| target == Path::new(file)) {
        return Ok(());
    }
    refuse("nothing may be mounted inside of /proc")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mount: &str) -> Result<MountPlan, String> {
        let mount: Mount = serde_json::from_str(mount).expect("mount");
        let cgroups = cgroup::Mounts::detect().expect("cgroups");
        let group = CgroupPath::parse("/a/b").expect("path");
        one("mounts[0]", &mount, Path::new("/bundle"), &cgroups, &group).map_err(|error| error.to_string())
    }

    #[test]
    fn a_relative_source_is_beneath_the_bundle() {
        let plan =
            check(r#"{"destination":"/x/./y/","type":"bind","source":"data","options":["bind","ro"]}"#)
                .expect("fine");
        assert_eq!(plan.target, Path::new("/x/y"));
        assert!(
            matches!(plan.kind, MountKind::Bind { source, recursive: false } if source.as_c_str() == c"/bundle/data")
        );
    }

    #[test]
    fn targets_that_would_fool_the_runtime_are_refused() {
        for (mount, why) in [
            (r#"{"destination":"x","type":"tmpfs"}"#, "not an absolute path"),
            (r#"{"destination":"/a/../../x","type":"tmpfs"}"#, "has a `..`"),
            (r#"{"destination":"/","type":"tmpfs"}"#, "root.path"),
            (r#"{"destination":"/proc","type":"tmpfs"}"#, "only a procfs"),
            (r#"{"destination":"/proc/self/attr","type":"tmpfs"}"#, "inside of /proc"),
            (r#"{"destination":"/proc/sys/kernel","source":"/x","options":["rbind"]}"#, "inside of /proc"),
            (r#"{"destination":"/x","source":"","options":["rbind"]}"#, "source is invalid"),
            (r#"{"destination":"/x","type":""}"#, "type is invalid"),
            (
                r#"{"destination":"/x","source":"/y","type":"bind","uidMappings":[{"containerID":0,"hostID":1,"size":1}]}"#,
                "uidMappings is not supported",
            ),
        ] {
            let error = check(mount).expect_err(mount);
            assert!(error.contains(why), "{mount}: {error}");
        }
        check(r#"{"destination":"/proc/meminfo","source":"/x","options":["bind"]}"#).expect("lxcfs");
    }
}
