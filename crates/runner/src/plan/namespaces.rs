//! `linux.namespaces`: which are made, which are joined, which are the host's.

use crate::RunnerError;
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType as Kind, LinuxTimeOffset};
use std::{collections::HashMap, path::Path};
use sys::rustix::{
    fd::OwnedFd,
    fs::{self, Mode, OFlags},
    thread::{LinkNameSpaceType, UnshareFlags},
};

/// Magic number of nsfs, linux/magic.h.
const NSFS: u64 = 0x6e73_6673;

/// The namespaces of a container.
#[derive(Debug)]
pub(crate) struct Namespaces {
    /// Made by the clone itself; the mount namespace always.
    pub(crate) new: UnshareFlags,
    /// Made by the child when it is in its cgroup, so that its own group is the root it sees.
    pub(crate) new_cgroup: bool,
    /// A time namespace to make: the lines for /proc/PID/timens_offsets, none of them for the host's times.
    pub(crate) new_time: Option<String>,
    /// Joined by the child: net, ipc, uts, cgroup, time.
    pub(crate) join: Vec<Join>,
    /// Joined for the child by its parent, since it holds for children only.
    pub(crate) join_pid: Option<OwnedFd>,
    /// The user namespace, which then owns the new ones.
    pub(crate) user: Option<User>,
}

/// A user namespace of the container's own.
#[derive(Debug)]
pub(crate) enum User {
    /// Made for it.
    New,
    /// There already.
    Joined(OwnedFd),
}

/// An existing namespace to join.
#[derive(Debug)]
pub(crate) struct Join {
    pub(crate) kind: LinkNameSpaceType,
    pub(crate) name: &'static str,
    pub(crate) fd: OwnedFd,
}

impl Namespaces {
    pub(crate) fn new(wanted: &[LinuxNamespace]) -> Result<Self, RunnerError> {
        let mut found = Namespaces {
            new: UnshareFlags::empty(),
            new_cgroup: false,
            new_time: None,
            join: Vec::new(),
            join_pid: None,
            user: None,
        };
        for (at, namespace) in wanted.iter().enumerate() {
            let field = format!("linux.namespaces[{at}]");
            if wanted.iter().take(at).any(|earlier| earlier.typ() == namespace.typ()) {
                return Err(RunnerError::invalid(field, format!("{} is named twice", namespace.typ())));
            }
            let path = namespace.path().as_deref().filter(|path| !path.as_os_str().is_empty());
            found.take(&field, namespace.typ(), path)?;
        }
        if !found.new.contains(UnshareFlags::NEWNS) {
            return Err(RunnerError::invalid(
                "linux.namespaces",
                "a container needs a mount namespace of its own",
            ));
        }
        Ok(found)
    }

    fn take(&mut self, field: &str, kind: Kind, path: Option<&Path>) -> Result<(), RunnerError> {
        let (flag, link, name) = match kind {
            Kind::Mount => (UnshareFlags::NEWNS, LinkNameSpaceType::Mount, "mnt"),
            Kind::Pid => (UnshareFlags::NEWPID, LinkNameSpaceType::ProcessID, "pid"),
            Kind::Network => (UnshareFlags::NEWNET, LinkNameSpaceType::Network, "net"),
            Kind::Ipc => (UnshareFlags::NEWIPC, LinkNameSpaceType::InterProcessCommunication, "ipc"),
            Kind::Uts => (UnshareFlags::NEWUTS, LinkNameSpaceType::HostNameAndNISDomainName, "uts"),
            Kind::Cgroup => (UnshareFlags::NEWCGROUP, LinkNameSpaceType::ControlGroup, "cgroup"),
            Kind::User => {
                self.user = Some(match path {
                    Some(path) => User::Joined(open(field, path)?),
                    None => User::New,
                });
                return Ok(());
            }
            Kind::Time => (UnshareFlags::NEWTIME, LinkNameSpaceType::Time, "time"),
        };
        let Some(path) = path else {
            if kind == Kind::Cgroup {
                self.new_cgroup = true
            } else if kind == Kind::Time {
                self.new_time = Some(String::new());
            } else {
                self.new |= flag
            }
            return Ok(());
        };
        if kind == Kind::Mount {
            return Err(RunnerError::unsupported(format!("{field}.path"), "joining a mount namespace"));
        }
        let fd = open(field, path)?;
        if kind == Kind::Pid {
            self.join_pid = Some(fd);
        } else {
            self.join.push(Join { kind: link, name, fd });
        }
        Ok(())
    }

    /// Takes `linux.timeOffsets`, for a time namespace that is new: in another one they cannot be changed.
    pub(crate) fn set_time_offsets(
        &mut self,
        offsets: &HashMap<String, LinuxTimeOffset>,
    ) -> Result<(), RunnerError> {
        let field = "linux.timeOffsets";
        let mut text = String::new();
        for (clock, offset) in offsets {
            if !matches!(clock.as_str(), "monotonic" | "boottime") {
                return Err(RunnerError::invalid(
                    field,
                    format!("{clock:?} is no clock of a time namespace"),
                ));
            }
            let nanos = offset.nanosecs().unwrap_or(0);
            text.push_str(&format!("{clock} {} {nanos}\n", offset.secs().unwrap_or(0)));
        }
        match &mut self.new_time {
            Some(lines) => *lines = text,
            None if offsets.is_empty() => {}
            None => return Err(RunnerError::invalid(field, "the container has no new time namespace")),
        }
        Ok(())
    }

    /// Whether the container has another namespace of this kind than the caller: new, or joined.
    pub(crate) fn is_own(&self, flag: UnshareFlags, name: &str) -> Result<bool, RunnerError> {
        if self.new.contains(flag) {
            return Ok(true);
        }
        let Some(join) = self.join.iter().find(|join| join.name == name) else { return Ok(false) };
        let own = format!("/proc/self/ns/{name}");
        let inode = |stat: fs::Stat| (stat.st_dev, stat.st_ino);
        let step = || RunnerError::step(format!("stat {own}"));
        let own = fs::stat(&own).map(inode).map_err(step())?;
        Ok(fs::fstat(&join.fd).map(inode).map_err(step())? != own)
    }
}

fn open(field: &str, path: &Path) -> Result<OwnedFd, RunnerError> {
    let fd = fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())
        .map_err(RunnerError::step(format!("open {field}.path `{}`", path.display())))?;
    let magic = fs::fstatfs(&fd).map_err(RunnerError::step(format!("fstatfs {field}.path")))?.f_type;
    if u64::try_from(magic).ok() != Some(NSFS) {
        return Err(RunnerError::invalid(
            format!("{field}.path"),
            format!("`{}` is no namespace", path.display()),
        ));
    }
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::LinuxNamespaceBuilder;

    fn namespace(kind: Kind, path: Option<&str>) -> LinuxNamespace {
        let builder = LinuxNamespaceBuilder::default().typ(kind);
        match path {
            Some(path) => builder.path(path),
            None => builder,
        }
        .build()
        .expect("namespace")
    }

    #[test]
    fn new_joined_and_host_namespaces_are_told_apart() {
        let wanted = [
            namespace(Kind::Mount, None),
            namespace(Kind::Cgroup, None),
            namespace(Kind::Pid, None),
            namespace(Kind::Network, Some("/proc/self/ns/net")),
        ];
        let found = Namespaces::new(&wanted).expect("fine");
        assert_eq!(found.new, UnshareFlags::NEWNS | UnshareFlags::NEWPID);
        assert!(found.new_cgroup && found.join_pid.is_none());
        assert_eq!(found.join.iter().map(|join| join.name).collect::<Vec<_>>(), ["net"]);
        assert!(
            !found.is_own(UnshareFlags::NEWNET, "net").expect("stat"),
            "it is the host's by another name"
        );
        assert!(!found.is_own(UnshareFlags::NEWIPC, "ipc").expect("stat"));
    }

    #[test]
    fn offsets_are_for_a_new_time_namespace_and_its_two_clocks() {
        let set = |kinds: &[Kind], json: &str| {
            let wanted: Vec<_> = kinds.iter().map(|kind| namespace(*kind, None)).collect();
            let mut found = Namespaces::new(&wanted).expect("fine");
            found.set_time_offsets(&serde_json::from_str(json).expect("offsets")).map(|()| found.new_time)
        };
        let both = [Kind::Mount, Kind::Time];
        let offset = r#"{"boottime":{"secs":-5,"nanosecs":7}}"#;
        assert_eq!(set(&both, offset).expect("fine").as_deref(), Some("boottime -5 7\n"));
        assert_eq!(set(&both, "{}").expect("fine").as_deref(), Some(""));
        assert!(set(&[Kind::Mount], offset).is_err());
        assert!(set(&both, r#"{"realtime":{"secs":1}}"#).is_err());
    }

    #[test]
    fn a_path_that_is_no_namespace_and_kinds_that_are_not_done_are_refused() {
        let check = |kind, path| {
            Namespaces::new(&[namespace(Kind::Mount, None), namespace(kind, path)]).expect_err("refused")
        };
        assert!(matches!(check(Kind::Network, Some("/dev/null")), RunnerError::Invalid { .. }));
        assert!(matches!(check(Kind::Network, Some("/nowhere")), RunnerError::Step { .. }));
        assert!(matches!(check(Kind::User, Some("/dev/null")), RunnerError::Invalid { .. }));
        assert!(matches!(check(Kind::Mount, None), RunnerError::Invalid { .. }), "twice");
        assert!(matches!(Namespaces::new(&[]), Err(RunnerError::Invalid { .. })), "no mount namespace");
    }
}
