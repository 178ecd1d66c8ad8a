//! Resource limits of the calling process, by the names of the OCI runtime spec.

use rustix::{
    io::Errno,
    process::{self, Resource, Rlimit},
};

/// The resource of a name like `RLIMIT_NOFILE`, getrlimit(2).
#[must_use]
pub fn by_name(name: &str) -> Option<Resource> {
    Some(match name {
        "RLIMIT_CPU" => Resource::Cpu,
        "RLIMIT_FSIZE" => Resource::Fsize,
        "RLIMIT_DATA" => Resource::Data,
        "RLIMIT_STACK" => Resource::Stack,
        "RLIMIT_CORE" => Resource::Core,
        "RLIMIT_RSS" => Resource::Rss,
        "RLIMIT_NPROC" => Resource::Nproc,
        "RLIMIT_NOFILE" => Resource::Nofile,
        "RLIMIT_MEMLOCK" => Resource::Memlock,
        "RLIMIT_AS" => Resource::As,
        "RLIMIT_LOCKS" => Resource::Locks,
        "RLIMIT_SIGPENDING" => Resource::Sigpending,
        "RLIMIT_MSGQUEUE" => Resource::Msgqueue,
        "RLIMIT_NICE" => Resource::Nice,
        "RLIMIT_RTPRIO" => Resource::Rtprio,
        "RLIMIT_RTTIME" => Resource::Rttime,
        _ => return None,
    })
}

/// Sets a limit; where the hard limit may not be raised (no CAP_SYS_RESOURCE), both are cut to it.
///
/// `u64::MAX` is "unlimited".
///
/// # Errors
/// Of setrlimit(2).
pub fn set_clamped(resource: Resource, soft: u64, hard: u64) -> Result<(), Errno> {
    let value = |limit: u64| (limit != u64::MAX).then_some(limit);
    match process::setrlimit(resource, Rlimit { current: value(soft), maximum: value(hard) }) {
        Err(Errno::PERM) => {
            let most = process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
            let cut = Rlimit { current: value(soft.min(most)), maximum: value(hard.min(most)) };
            process::setrlimit(resource, cut)
        }
        done => done,
    }
}

/// Raises the hard limit, where it is lower and may be raised; the soft one stays. For a process that will soon have
/// no right to.
///
/// # Errors
/// Of setrlimit(2), but for EPERM.
pub fn raise_hard(resource: Resource, hard: u64) -> Result<(), Errno> {
    let now = process::getrlimit(resource);
    if now.maximum.is_none_or(|most| most >= hard) {
        return Ok(());
    }
    let maximum = (hard != u64::MAX).then_some(hard);
    match process::setrlimit(resource, Rlimit { current: now.current, maximum }) {
        Err(Errno::PERM) => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_resource_of_the_runtime_spec_has_its_own() {
        let names = [
            "CPU",
            "FSIZE",
            "DATA",
            "STACK",
            "CORE",
            "RSS",
            "NPROC",
            "NOFILE",
            "MEMLOCK",
            "AS",
            "LOCKS",
            "SIGPENDING",
            "MSGQUEUE",
            "NICE",
            "RTPRIO",
            "RTTIME",
        ];
        let found: Vec<_> = names.iter().filter_map(|name| by_name(&format!("RLIMIT_{name}"))).collect();
        assert_eq!(found.len(), 16);
        assert_eq!(by_name("RLIMIT_nofile"), None);
    }
}
