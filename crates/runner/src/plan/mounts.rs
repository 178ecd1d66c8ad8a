//! `mounts`: what is mounted where, parsed, in order.

use super::{
    Places,
    options::{Options, text},
    process::absolute,
    userns::{self, UserPlan},
};
use crate::RunnerError;
use cgroup::{CgroupPath, Version};
use oci_spec::runtime::Mount;
use std::{
    ffi::CString,
    path::{Path, PathBuf},
    rc::Rc,
};
use sys::{rustix::fd::OwnedFd, userns::Line};

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
    /// How ids on disk are seen; for binds only.
    pub(crate) idmap: Option<IdMap>,
}

/// A mapping of ids.
#[derive(Debug)]
pub(crate) struct IdMap {
    pub(crate) uids: Vec<Line>,
    pub(crate) gids: Vec<Line>,
    /// Also for the mounts beneath.
    pub(crate) recursive: bool,
    /// The namespace that stands for it; made last, before the child.
    pub(crate) userns: Option<Rc<OwnedFd>>,
}

/// What is mounted.
#[derive(Debug)]
pub(crate) enum MountKind {
    /// A file or directory of the host.
    Bind { source: CString, recursive: bool },
    /// A directory of the container's own root, as it is before anything is mounted in it; made if missing.
    OfRoot(PathBuf),
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

/// Makes the namespaces of all mappings, each once.
pub(crate) fn map_ids(mounts: &mut [MountPlan], made: &mut userns::Made) -> Result<(), RunnerError> {
    for mount in mounts {
        let Some(map) = &mut mount.idmap else { continue };
        let what = format!("mount {}", mount.target.display());
        map.userns = Some(made.of(&what, &map.uids, &map.gids)?);
    }
    Ok(())
}

/// All mounts in order. `user`: the container's own user namespace.
pub(crate) fn parse(
    mounts: &[Mount],
    places: &Places<'_>,
    root: &Path,
    user: Option<&UserPlan>,
) -> Result<Vec<MountPlan>, RunnerError> {
    if mounts.len() > MOST_MOUNTS {
        return Err(RunnerError::invalid("mounts", format!("there are more than {MOST_MOUNTS}")));
    }
    let one = |(at, mount)| one(&format!("mounts[{at}]"), mount, places, root, user);
    mounts.iter().enumerate().map(one).collect()
}

fn one(
    field: &str,
    mount: &Mount,
    places: &Places<'_>,
    root: &Path,
    user: Option<&UserPlan>,
) -> Result<MountPlan, RunnerError> {
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
        (Some(recursive), _) => bind(field, source, recursive, places, root)?,
        (None, "bind" | "none") => bind(field, source, true, places, root)?,
        (None, "") => return Err(RunnerError::invalid(format!("{field}.type"), "it is empty")),
        (None, "cgroup") => cgroup_view(field, places.cgroups, places.group)?,
        (None, kind) => MountKind::FileSystem {
            kind: text(&format!("{field}.type"), kind)?,
            source: text(&format!("{field}.source"), source.as_os_str().as_encoded_bytes())?,
        },
    };
    over_proc(field, &target, &kind)?;
    let plain = target == Path::new("/proc") || target == Path::new("/sys");
    let idmap = idmap(field, mount, &kind, &options, user)?;
    Ok(MountPlan { target, kind, options, plain, idmap })
}

/// The lines of `uidMappings` and `gidMappings`. As other runtimes have it, the mounts beneath are mapped
/// with `ridmap` only; without lines these options mean the mapping of the container itself.
fn idmap(
    field: &str,
    mount: &Mount,
    kind: &MountKind,
    options: &Options,
    user: Option<&UserPlan>,
) -> Result<Option<IdMap>, RunnerError> {
    let (mut uids, mut gids) = (userns::lines(mount.uid_mappings()), userns::lines(mount.gid_mappings()));
    if let (true, true, Some(_), Some(user)) = (uids.is_empty(), gids.is_empty(), options.idmap, user) {
        (uids, gids) = (user.uids.clone(), user.gids.clone());
    }
    match (uids.is_empty(), gids.is_empty()) {
        (true, true) if options.idmap.is_some() => Err(RunnerError::invalid(
            format!("{field}.options"),
            "an idmapped mount needs uidMappings and gidMappings, as there is no user namespace",
        )),
        (true, true) => Ok(None),
        (true, false) | (false, true) => Err(RunnerError::invalid(
            format!("{field}.uidMappings"),
            "they and gidMappings are given together or not at all",
        )),
        (false, false) => match kind {
            MountKind::Bind { .. } => {
                Ok(Some(IdMap { uids, gids, recursive: options.idmap == Some(true), userns: None }))
            }
            MountKind::OfRoot(_) | MountKind::FileSystem { .. } | MountKind::CgroupV1(_) => {
                Err(RunnerError::unsupported(format!("{field}.uidMappings"), "what is no bind of the host"))
            }
        },
    }
}

fn bind(
    field: &str,
    source: &Path,
    recursive: bool,
    places: &Places<'_>,
    root: &Path,
) -> Result<MountKind, RunnerError> {
    let field = format!("{field}.source");
    if source.as_os_str().is_empty() {
        return Err(RunnerError::invalid(field, "it is empty"));
    }
    // A relative source is beneath the bundle, as the runtime specification says.
    let source = places.bundle.join(source);
    // The root is mounted by the container itself, so that its files are not there yet.
    if let Ok(inside) = source.strip_prefix(places.bundle.join(root))
        && !places.rootfs.is_empty()
        && !root.as_os_str().is_empty()
    {
        return absolute(&field, &Path::new("/").join(inside)).map(MountKind::OfRoot);
    }
    let source = text(&field, source.into_os_string().into_encoded_bytes())?;
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
            MountKind::OfRoot(_) | MountKind::FileSystem { .. } | MountKind::CgroupV1(_) => {
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
        let overlay =
            crate::RootMount { kind: "overlay".to_owned(), source: "overlay".into(), options: Vec::new() };
        let places = Places {
            bundle: Path::new("/bundle"),
            rootfs: std::slice::from_ref(&overlay),
            cgroups: &cgroups,
            group: &group,
        };
        one("mounts[0]", &mount, &places, Path::new("rootfs"), None).map_err(|error| error.to_string())
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
    fn a_source_beneath_the_root_is_taken_from_the_mounted_root() {
        let plan = check(r#"{"destination":"/v","type":"bind","source":"rootfs/v","options":["rbind"]}"#);
        let plan = plan.expect("fine");
        assert!(matches!(plan.kind, MountKind::OfRoot(path) if path == Path::new("/v")));
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
                "together or not at all",
            ),
            (
                r#"{"destination":"/x","type":"tmpfs","uidMappings":[{"containerID":0,"hostID":1,"size":1}],
                    "gidMappings":[{"containerID":0,"hostID":1,"size":1}]}"#,
                "uidMappings is not supported: what is no bind",
            ),
            (r#"{"destination":"/x","source":"/y","type":"bind","options":["idmap"]}"#, "needs uidMappings"),
            (r#"{"destination":"/x","source":"rootfs/../y","type":"bind"}"#, "has a `..`"),
        ] {
            let error = check(mount).expect_err(mount);
            assert!(error.contains(why), "{mount}: {error}");
        }
        check(r#"{"destination":"/proc/meminfo","source":"/x","options":["bind"]}"#).expect("lxcfs");
    }
}
