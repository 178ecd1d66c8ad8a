//! Which hierarchies this machine has, from /proc/self/mountinfo.

use crate::CgroupError;
use std::{
    fmt::Write as _,
    io::Read as _,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};
use sys::rustix::fs::{CWD, Mode, OFlags, openat};

/// Bytes of mountinfo that are read; a node with thousands of pods stays far below.
const MAX_MOUNTINFO: u64 = 64 << 20;

/// v1 controllers as the mount options name them.
const V1_CONTROLLERS: [&str; 15] = [
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "devices",
    "freezer",
    "blkio",
    "pids",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
    "rdma",
    "misc",
    "debug",
];

/// Generation of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// One hierarchy for each controller. Also hybrid, where the v2 hierarchy has no controllers.
    V1,
    /// The unified hierarchy.
    V2,
}

/// One mounted hierarchy.
#[derive(Debug)]
pub(crate) struct Hierarchy {
    /// Where it is mounted.
    pub(crate) point: PathBuf,
    /// Controllers of v1, `name=systemd` among them; empty on v2.
    pub(crate) controllers: Vec<String>,
    /// `O_PATH` of the mount point: all groups are found beneath it.
    pub(crate) root: OwnedFd,
}

/// The hierarchies in use. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Mounts {
    version: Version,
    hierarchies: Arc<[Hierarchy]>,
}

/// A line of mountinfo that is a cgroup mount.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    point: PathBuf,
    whole: bool,
    v2: bool,
    controllers: Vec<String>,
}

impl Mounts {
    /// Reads the mounts of the calling process. v2 is used if it is the only generation mounted, or
    /// if v1 holds no controller.
    ///
    /// # Errors
    /// [`CgroupError::NoHierarchy`] if nothing is mounted; [`CgroupError::Io`].
    pub fn detect() -> Result<Mounts, CgroupError> {
        let path = Path::new("/proc/self/mountinfo");
        let io = |source: std::io::Error| CgroupError::NoHierarchy {
            why: format!("{}: {source}", path.display()),
        };
        let mut text = Vec::new();
        std::fs::File::open(path).map_err(io)?.take(MAX_MOUNTINFO).read_to_end(&mut text).map_err(io)?;
        Mounts::choose(parse(&String::from_utf8_lossy(&text)))
    }

    /// The unified hierarchy at `point`, whatever else is mounted.
    ///
    /// # Errors
    /// [`CgroupError::Io`] if it cannot be opened.
    pub fn unified_at(point: &Path) -> Result<Mounts, CgroupError> {
        let root = open_root(point)?;
        let hierarchy = Hierarchy { point: point.to_owned(), controllers: Vec::new(), root };
        Ok(Mounts { version: Version::V2, hierarchies: Arc::new([hierarchy]) })
    }

    fn choose(found: Vec<Found>) -> Result<Mounts, CgroupError> {
        let (unified, mut legacy): (Vec<Found>, Vec<Found>) = found.into_iter().partition(|mount| mount.v2);
        let has_controllers =
            legacy.iter().any(|mount| mount.controllers.iter().any(|name| !name.starts_with("name=")));
        if !has_controllers {
            let best =
                unified.into_iter().reduce(|best, next| if !best.whole && next.whole { next } else { best });
            return match best {
                Some(mount) => Mounts::unified_at(&mount.point),
                None => {
                    Err(CgroupError::NoHierarchy { why: "neither cgroup nor cgroup2 is mounted".to_owned() })
                }
            };
        }
        // A bind mount of a part (of a container, say) is taken only if there is nothing better.
        legacy.sort_by_key(|mount| !mount.whole);
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        for mount in legacy {
            let known = |name: &String| hierarchies.iter().any(|seen| seen.controllers.contains(name));
            if mount.controllers.iter().any(known) {
                continue;
            }
            let root = open_root(&mount.point)?;
            hierarchies.push(Hierarchy { point: mount.point, controllers: mount.controllers, root });
        }
        Ok(Mounts { version: Version::V1, hierarchies: hierarchies.into() })
    }

    /// Which generation is in use.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Where the hierarchy of a controller is mounted; on v2 the one mount, whatever the name.
    #[must_use]
    pub fn point(&self, controller: &str) -> Option<&Path> {
        self.hierarchy(controller).map(|hierarchy| hierarchy.point.as_path())
    }

    /// Each hierarchy's mount point with its controllers (none named on v2), in mount order: what a
    /// container's /sys/fs/cgroup is made of.
    pub fn points(&self) -> impl Iterator<Item = (&Path, &[String])> {
        self.hierarchies.iter().map(|hierarchy| (hierarchy.point.as_path(), hierarchy.controllers.as_slice()))
    }

    pub(crate) fn hierarchies(&self) -> &[Hierarchy] {
        &self.hierarchies
    }

    pub(crate) fn hierarchy(&self, controller: &str) -> Option<&Hierarchy> {
        match self.version {
            Version::V2 => self.hierarchies.first(),
            Version::V1 => self.hierarchies.iter().find(|hierarchy| hierarchy.has(controller)),
        }
    }

    /// The v1 hierarchy that a group of processes is held together by: only it gets the sub-groups.
    pub(crate) fn holder(&self) -> Option<&Hierarchy> {
        ["freezer", "name=systemd", "pids"]
            .into_iter()
            .find_map(|name| self.hierarchy(name))
            .or_else(|| self.hierarchies.first())
    }
}

impl Hierarchy {
    /// Whether a v1 hierarchy has this controller.
    pub(crate) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }
}

fn open_root(point: &Path) -> Result<OwnedFd, CgroupError> {
    openat(CWD, point, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(|source| {
        CgroupError::Io { path: point.to_owned(), doing: "open the hierarchy".to_owned(), source }
    })
}

/// The cgroup mounts of a mountinfo text (proc_pid_mountinfo(5)), in order.
fn parse(text: &str) -> Vec<Found> {
    let mut found = Vec::new();
    for line in text.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let mut before = before.split(' ');
        let (Some(root), Some(point)) = (before.nth(3), before.next()) else { continue };
        let mut after = after.split(' ');
        let (Some(kind), Some(options)) = (after.next(), after.nth(1)) else { continue };
        let v2 = match kind {
            "cgroup2" => true,
            "cgroup" => false,
            _ => continue,
        };
        let controllers: Vec<String> = options
            .split(',')
            .filter(|option| !v2 && (V1_CONTROLLERS.contains(option) || option.starts_with("name=")))
            .map(str::to_owned)
            .collect();
        if !v2 && controllers.is_empty() {
            continue;
        }
        found.push(Found { point: PathBuf::from(unescape(point)), whole: root == "/", v2, controllers });
    }
    found
}

/// Undoes mountinfo's octal escapes of blanks and backslashes.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(byte) if byte.is_ascii() => {
                // Writing to a String does not fail.
                let _ = out.write_char(char::from(byte));
                rest = &rest[at + 4..];
            }
            Some(_) | None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
23 1 0:20 / / rw - ext4 /dev/root rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/my\\040memory rw,relatime - cgroup cgroup rw,memory
90 31 0:32 /pod1 /mnt/part rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    fn names(found: &Found) -> (&str, bool, bool, Vec<&str>) {
        let point = found.point.to_str().unwrap();
        (point, found.whole, found.v2, found.controllers.iter().map(String::as_str).collect())
    }

    #[test]
    fn mountinfo_of_a_hybrid_machine_is_read() {
        let found = parse(HYBRID);
        assert_eq!(
            found.iter().map(names).collect::<Vec<_>>(),
            [
                ("/sys/fs/cgroup/cpu,cpuacct", true, false, vec!["cpu", "cpuacct"]),
                ("/sys/fs/cgroup/my memory", true, false, vec!["memory"]),
                ("/mnt/part", false, false, vec!["memory"]),
                ("/sys/fs/cgroup/systemd", true, false, vec!["name=systemd"]),
                ("/sys/fs/cgroup/unified", true, true, vec![]),
            ]
        );
    }

    #[test]
    fn lines_that_are_cut_short_are_skipped() {
        for line in
            ["", " - ", "1 2 3 - cgroup", "36 35 0:1 / /x rw - cgroup2", "36 35 0:1 / /x rw - cgroup c "]
        {
            assert_eq!(parse(line), [], "{line:?}");
        }
    }

    #[test]
    fn the_whole_hierarchy_is_preferred_to_a_part_of_it() {
        let part = |point: &str, whole| Found {
            point: point.into(),
            whole,
            v2: false,
            controllers: vec!["memory".to_owned()],
        };
        let mounts = Mounts::choose(vec![part("/proc", false), part("/tmp", true)]).unwrap();
        assert_eq!(mounts.point("memory"), Some(Path::new("/tmp")));
        assert_eq!(mounts.points().count(), 1);
        assert_eq!(mounts.version(), Version::V1);
    }

    #[test]
    fn a_named_hierarchy_without_controllers_does_not_make_it_v1() {
        let systemd =
            Found { point: "/".into(), whole: true, v2: false, controllers: vec!["name=systemd".to_owned()] };
        let unified = Found { point: "/".into(), whole: true, v2: true, controllers: vec![] };
        assert_eq!(Mounts::choose(vec![systemd, unified]).unwrap().version(), Version::V2);
        assert!(Mounts::choose(vec![]).is_err());
    }

    #[test]
    fn this_machine_has_a_hierarchy() {
        let mounts = Mounts::detect().unwrap();
        assert!(mounts.points().count() > 0);
    }
}
