//! `linux.namespaces`: which are made, which are joined, which are the host's.

use crate::RunnerError;
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType as Kind};
use std::path::Path;
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
    /// Joined by the child: net, ipc, uts, cgroup.
    pub(crate) join: Vec<Join>,
    /// Joined for the child by its parent, since it holds for children only.
    pub(crate) join_pid: Option<OwnedFd>,
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
        let mut found =
            Namespaces { new: UnshareFlags::empty(), new_cgroup: false, join: Vec::new(), join_pid: None };
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
            Kind::User => return Err(RunnerError::unsupported(field, "a user namespace")),
            Kind::Time => return Err(RunnerError::unsupported(field, "a time namespace")),
        };
        let Some(path) = path else {
            if kind == Kind::Cgroup {
                self.new_cgroup = true
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
    fn a_path_that_is_no_namespace_and_kinds_that_are_not_done_are_refused() {
        let check = |kind, path| {
            Namespaces::new(&[namespace(Kind::Mount, None), namespace(kind, path)]).expect_err("refused")
        };
        assert!(matches!(check(Kind::Network, Some("/dev/null")), RunnerError::Invalid { .. }));
        assert!(matches!(check(Kind::Network, Some("/nowhere")), RunnerError::Step { .. }));
        assert!(matches!(check(Kind::User, None), RunnerError::Unsupported { .. }));
        assert!(matches!(check(Kind::Time, None), RunnerError::Unsupported { .. }));
        assert!(matches!(check(Kind::Mount, None), RunnerError::Invalid { .. }), "twice");
        assert!(matches!(Namespaces::new(&[]), Err(RunnerError::Invalid { .. })), "no mount namespace");
    }
}
