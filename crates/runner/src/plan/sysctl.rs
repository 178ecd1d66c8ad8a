//! `linux.sysctl`: only what is of a namespace of the container's own.

use super::namespaces::Namespaces;
use crate::RunnerError;
use std::{collections::HashMap, path::PathBuf};
use sys::rustix::thread::UnshareFlags;

/// Sysctls of an IPC namespace, beside `kernel.shm*`, `kernel.msg*` and `fs.mqueue.*`.
const OF_IPC: [&str; 9] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
    "kernel.msg_next_id",
];

/// Paths beneath a procfs with their values, sorted.
pub(crate) fn parse(
    wanted: &HashMap<String, String>,
    namespaces: &Namespaces,
) -> Result<Vec<(PathBuf, Vec<u8>)>, RunnerError> {
    let mut found = Vec::with_capacity(wanted.len());
    for (name, value) in wanted {
        let shown: String = name.chars().take(120).flat_map(char::escape_default).collect();
        let field = format!("linux.sysctl[{shown}]");
        let path = path(name).ok_or_else(|| RunnerError::invalid(&field, "it is no name of a sysctl"))?;
        let (flag, kind) = match name.replace('/', ".").as_str() {
            net if net.starts_with("net.") => (UnshareFlags::NEWNET, "net"),
            ipc if ipc.starts_with("fs.mqueue.") || OF_IPC.contains(&ipc) => (UnshareFlags::NEWIPC, "ipc"),
            "kernel.domainname" | "kernel.hostname" => (UnshareFlags::NEWUTS, "uts"),
            _ => return Err(RunnerError::invalid(field, "it is of the whole node, not of a namespace")),
        };
        if !namespaces.is_own(flag, kind)? {
            return Err(RunnerError::invalid(
                field,
                format!("the container has no {kind} namespace of its own"),
            ));
        }
        if value.len() > 4096 || value.contains(['\0', '\n']) {
            return Err(RunnerError::invalid(
                field,
                "its value holds a NUL or a newline, or is longer than 4096 bytes",
            ));
        }
        found.push((path, value.clone().into_bytes()));
    }
    found.sort();
    Ok(found)
}

/// `net.ipv4.ip_forward` as a path; sysctl(8) lets a name with slashes keep its dots (`net/ipv4/conf/eth0.1`).
fn path(name: &str) -> Option<PathBuf> {
    let slashed = name.contains('/');
    let parts: Vec<&str> = name.split(if slashed { '/' } else { '.' }).collect();
    let plain = |part: &&str| {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        !part.is_empty() && *part != "." && *part != ".." && part.len() < 256 && part.bytes().all(known)
    };
    (parts.len() > 1 && parts.iter().all(plain)).then(|| PathBuf::from("sys").join(parts.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, value: &str, new: UnshareFlags) -> Result<Vec<(PathBuf, Vec<u8>)>, String> {
        let namespaces = Namespaces {
            new,
            new_cgroup: false,
            new_time: None,
            join: Vec::new(),
            join_pid: None,
            user: None,
        };
        parse(&[(name.to_owned(), value.to_owned())].into(), &namespaces).map_err(|error| error.to_string())
    }

    #[test]
    fn names_with_dots_and_with_slashes_become_paths() {
        let all = UnshareFlags::NEWNET | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
        let path = |name| check(name, "1", all).map(|found| found[0].0.display().to_string());
        assert_eq!(path("net.ipv4.ip_forward").as_deref(), Ok("sys/net/ipv4/ip_forward"));
        assert_eq!(
            path("net/ipv4/conf/eth0.1/forwarding").as_deref(),
            Ok("sys/net/ipv4/conf/eth0.1/forwarding")
        );
        assert_eq!(path("kernel.shmmax").as_deref(), Ok("sys/kernel/shmmax"));
    }

    #[test]
    fn a_sysctl_of_the_node_or_of_a_shared_namespace_is_refused() {
        let net = UnshareFlags::NEWNET;
        for (name, value) in [
            ("kernel.core_pattern", "|/x"),
            ("vm.swappiness", "1"),
            ("kernel.shmmax", "1"),
            ("kernel.hostname", "x"),
            ("net.ipv4.conf.eth0/../../..", "1"),
            ("net/../kernel/core_pattern", "1"),
            ("net", "1"),
            ("net..x", "1"),
            ("net.a=b", "1"),
            ("net.a\nb", "1"),
            ("net.a", "1\nkernel.core_pattern=x"),
        ] {
            assert!(check(name, value, net).is_err(), "{name} was taken");
        }
        assert!(check("net.core.somaxconn", "1", UnshareFlags::NEWIPC).is_err());
    }
}
