//! The sysctls of a pod: which a pod may set, and how they are written.
//!
//! Rules: `LinuxPodSandboxConfig.sysctls` of the CRI (sysctl.d names with dots) and the kubelet's list
//! of namespaced prefixes. A name becomes path parts by its dots alone; it is opened beneath
//! /proc/sys by descriptor, so that neither a name nor a value reaches anything else.

use std::collections::BTreeMap;
use sys::rustix::{
    fd::{AsFd, OwnedFd},
    fs::{self, CWD, Mode, OFlags, ResolveFlags},
    io::Errno,
};
use types::pod::{NsMode, PodSpec};

/// The longest name and value; the kernel's own are far shorter.
const LONGEST_NAME: usize = 256;
const LONGEST_VALUE: usize = 4096;
/// The most sysctls of one pod.
const MOST: usize = 512;
/// The pod's interface exists after the network was attached, and not before.
const INTERFACE: &str = "eth0";
/// What a pod with a network of its own gets unless it says otherwise: ports below 1024 and ping need
/// no capability inside it (containerd's `enable_unprivileged_ports` and `enable_unprivileged_icmp`).
const DEFAULTS: [(&str, &str); 2] =
    [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];

/// Why a sysctl cannot be set.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// More than 512.
    #[error("linux.sysctls: {0} entries, at most {MOST} are taken")]
    TooMany(usize),
    /// Not a name of dotted parts.
    #[error("linux.sysctls: `{}` is not a sysctl's name", shown(.0))]
    Name(String),
    /// Not one line of text.
    #[error("linux.sysctls: the value of `{0}` is not one line of at most {LONGEST_VALUE} bytes")]
    Value(String),
    /// It belongs to no namespace of a pod.
    #[error("linux.sysctls: `{0}` is not namespaced, it would change the host")]
    NotNamespaced(String),
    /// The pod shares that namespace with the host.
    #[error("linux.sysctls: `{name}` would change the host, whose {namespace} namespace this pod shares")]
    HostNamespace {
        /// The sysctl.
        name: String,
        /// `network` or `ipc`.
        namespace: &'static str,
    },
    /// This kernel has no such sysctl in the pod's namespaces.
    #[error("linux.sysctls: this kernel has no `{0}` in the namespaces of a pod")]
    Unknown(String),
    /// The kernel did not take it.
    #[error("linux.sysctls: cannot set `{name}`")]
    Write {
        /// The sysctl.
        name: String,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// /proc/sys is missing or something else.
    #[error("/proc/sys is not the kernel's")]
    Proc(#[source] Errno),
}

impl SysctlError {
    /// Whether the request is at fault, rather than the host.
    #[must_use]
    pub fn is_bad_input(&self) -> bool {
        match self {
            Self::TooMany(_)
            | Self::Name(_)
            | Self::Value(_)
            | Self::NotNamespaced(_)
            | Self::HostNamespace { .. }
            | Self::Unknown(_) => true,
            Self::Write { source, .. } => *source == Errno::INVAL,
            Self::Proc(_) => false,
        }
    }
}

fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_default).collect()
}

/// The namespace that a sysctl belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Home {
    Net,
    Ipc,
}

fn home(name: &str) -> Option<Home> {
    let ipc = name.starts_with("kernel.shm")
        || name.starts_with("kernel.msg")
        || name == "kernel.sem"
        || name.starts_with("fs.mqueue.");
    if name.starts_with("net.") {
        Some(Home::Net)
    } else if ipc {
        Some(Home::Ipc)
    } else {
        None
    }
}

/// Checks the sysctls of a pod before anything is made.
///
/// # Errors
/// [`SysctlError`], of the kind that is bad input.
pub fn check(pod: &PodSpec) -> Result<(), SysctlError> {
    check_all(&pod.sysctls, pod.namespaces.network != NsMode::Node, pod.namespaces.ipc != NsMode::Node)
}

pub(crate) fn check_all(
    sysctls: &BTreeMap<String, String>,
    own_net: bool,
    own_ipc: bool,
) -> Result<(), SysctlError> {
    if sysctls.len() > MOST {
        return Err(SysctlError::TooMany(sysctls.len()));
    }
    for (name, value) in sysctls {
        check_name(name)?;
        if value.len() > LONGEST_VALUE || value.chars().any(|c| c.is_control() && c != '\t') {
            return Err(SysctlError::Value(name.clone()));
        }
        let (own, namespace) = match home(name) {
            Some(Home::Net) => (own_net, "network"),
            Some(Home::Ipc) => (own_ipc, "ipc"),
            None => return Err(SysctlError::NotNamespaced(name.clone())),
        };
        if !own {
            return Err(SysctlError::HostNamespace { name: name.clone(), namespace });
        }
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), SysctlError> {
    let part_is_fine = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
    };
    let fine = name.len() <= LONGEST_NAME && name.contains('.') && name.split('.').all(part_is_fine);
    if fine { Ok(()) } else { Err(SysctlError::Name(name.to_owned())) }
}

/// Whether a sysctl names the pod's interface, which is there only once the network is attached.
fn is_late(name: &str) -> bool {
    name.split('.').any(|part| part == INTERFACE)
}

/// Whether any of them has to be written after the network was attached.
#[must_use]
pub fn any_late(sysctls: &BTreeMap<String, String>) -> bool {
    sysctls.keys().any(|name| is_late(name))
}

/// Writes the pod's sysctls and the defaults; the calling thread is in the pod's namespaces, which belong to the
/// user namespace whose root is `owner`.
///
/// Those of the IPC namespace are written as that root: the kernel asks who writes them, not for capabilities
/// (`ipc_permissions`, since Linux 6.11).
pub(crate) fn write_early(
    sysctls: &BTreeMap<String, String>,
    own_net: bool,
    owner: Option<u32>,
) -> Result<(), SysctlError> {
    let proc = Proc::open()?;
    if own_net {
        for (name, value) in DEFAULTS.iter().filter(|(name, _)| !sysctls.contains_key(*name)) {
            proc.set(name, value)?;
        }
    }
    let early = |kind: Home| {
        let of_kind =
            move |name: &str| !is_late(name) && (home(name) == Some(Home::Ipc)) == (kind == Home::Ipc);
        sysctls
            .iter()
            .filter(move |(name, _)| of_kind(name))
            .try_for_each(|(name, value)| proc.set(name, value))
    };
    early(Home::Net)?;
    match owner {
        None => early(Home::Ipc),
        Some(root) => sys::fsids::as_user(root, || early(Home::Ipc)).map_err(SysctlError::Proc)?,
    }
}

/// Writes those that name the pod's interface; the calling thread is in the pod's network namespace.
pub(crate) fn write_late(sysctls: &BTreeMap<String, String>) -> Result<(), SysctlError> {
    let proc = Proc::open()?;
    sysctls.iter().filter(|(name, _)| is_late(name)).try_for_each(|(name, value)| proc.set(name, value))
}

/// /proc/sys, checked to be the kernel's.
#[derive(Debug)]
pub(crate) struct Proc(OwnedFd);

impl Proc {
    pub(crate) fn open() -> Result<Self, SysctlError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = fs::openat(CWD, "/proc/sys", flags, Mode::empty()).map_err(SysctlError::Proc)?;
        let kind = fs::fstatfs(&fd).map_err(SysctlError::Proc)?.f_type;
        if kind == fs::PROC_SUPER_MAGIC { Ok(Self(fd)) } else { Err(SysctlError::Proc(Errno::INVAL)) }
    }

    fn file(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        fs::openat2(self.0.as_fd(), path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
    }

    /// Sets a sysctl by its dotted name.
    pub(crate) fn set(&self, name: &str, value: &str) -> Result<(), SysctlError> {
        check_name(name)?;
        self.set_path(&name.replace('.', "/"), value).map_err(|source| match source {
            Errno::NOENT => SysctlError::Unknown(name.to_owned()),
            other => SysctlError::Write { name: name.to_owned(), source: other },
        })
    }

    /// Sets one by its path beneath /proc/sys (a link's name may hold dots).
    pub(crate) fn set_path(&self, path: &str, value: &str) -> Result<(), Errno> {
        let file = self.file(path, OFlags::WRONLY)?;
        let written = sys::rustix::io::write(&file, value.as_bytes())?;
        if written == value.len() { Ok(()) } else { Err(Errno::INVAL) }
    }

    /// Whether one has that value.
    pub(crate) fn has_path(&self, path: &str, value: &str) -> Result<bool, Errno> {
        let file = self.file(path, OFlags::RDONLY)?;
        let mut now = [0_u8; 64];
        let length = sys::rustix::io::read(&file, &mut now)?;
        Ok(now[..length].trim_ascii() == value.as_bytes())
    }

    /// Sets one if it has another value: a change is announced to every link, reading is not.
    pub(crate) fn ensure_path(&self, path: &str, value: &str) -> Result<(), Errno> {
        if self.has_path(path, value)? { Ok(()) } else { self.set_path(path, value) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn namespaced_sysctls_pass() {
        for name in [
            "net.ipv4.ip_local_port_range",
            "net.core.somaxconn",
            "kernel.shm_rmid_forced",
            "kernel.shmmax",
            "kernel.msgmax",
            "kernel.sem",
            "fs.mqueue.msg_max",
        ] {
            check_all(&one(name, "1 2\t3"), true, true).expect(name);
        }
    }

    #[test]
    fn what_would_change_the_host_is_refused_by_name() {
        for name in
            ["kernel.core_pattern", "vm.overcommit_memory", "kernel.semx", "kernel.hostname", "fs.file-max"]
        {
            let error = check_all(&one(name, "1"), true, true).expect_err(name);
            assert!(matches!(error, SysctlError::NotNamespaced(_)) && error.to_string().contains(name));
        }
        let error = check_all(&one("net.ipv4.ip_forward", "1"), false, true).expect_err("host network");
        assert!(matches!(error, SysctlError::HostNamespace { namespace: "network", .. }), "{error}");
        let error = check_all(&one("kernel.shmmax", "1"), true, false).expect_err("host ipc");
        assert!(matches!(error, SysctlError::HostNamespace { namespace: "ipc", .. }), "{error}");
    }

    #[test]
    fn names_that_are_paths_are_refused() {
        for name in [
            "",
            "net",
            "net.",
            ".net",
            "net..ipv4",
            "net.ipv4.conf.eth0/../../../kernel.core_pattern",
            "net/ipv4/ip_forward",
            "net.ipv4.x=1",
            "net.ipv4.a\nb",
            "net.ipv4.\0",
            "net.ipv4.ä",
            &format!("net.{}", "a".repeat(300)),
        ] {
            let error = check_all(&one(name, "1"), true, true).expect_err(name);
            assert!(matches!(error, SysctlError::Name(_)), "{name:?}: {error}");
        }
    }

    #[test]
    fn values_of_more_than_a_line_are_refused() {
        for value in ["1\n2", "1\0", "\r", &"1".repeat(LONGEST_VALUE + 1)] {
            let error = check_all(&one("net.core.somaxconn", value), true, true).expect_err("value");
            assert!(matches!(error, SysctlError::Value(_)));
        }
        let many = (0..=MOST).map(|n| (format!("net.x{n}"), "1".to_owned())).collect();
        assert!(matches!(check_all(&many, true, true), Err(SysctlError::TooMany(_))));
    }
}
