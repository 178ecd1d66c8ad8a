//! Processes of a group, from /proc: proc_pid_fd(5), proc_pid_limits(5).

use std::{fs, io::Read as _, os::unix::ffi::OsStrExt as _};

/// Most descriptors of one container that are looked at: each costs a system call.
const MOST_DESCRIPTORS: u64 = 20_000;
/// `/proc/<pid>/limits` has some 1.3 KiB.
const LARGEST_LIMITS: u64 = 64 << 10;

/// What the processes of a container hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Processes {
    /// How many there are.
    pub count: u64,
    /// Open descriptors of all.
    pub descriptors: Option<u64>,
    /// Those that are sockets; absent if there are more descriptors than are looked at.
    pub sockets: Option<u64>,
    /// Soft limit of open files of the first process; absent without a limit.
    pub open_files_limit: Option<u64>,
}

/// Looks at processes by their ids; those that have ended meanwhile hold nothing.
#[must_use]
pub(crate) fn processes(pids: &[i32]) -> Processes {
    let (mut descriptors, mut sockets, mut seen) = (0_u64, 0_u64, 0_u64);
    let mut any = false;
    for pid in pids {
        let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        any = true;
        for entry in entries.flatten() {
            descriptors += 1;
            if descriptors > MOST_DESCRIPTORS {
                continue;
            }
            seen += 1;
            if fs::read_link(entry.path()).is_ok_and(|to| to.as_os_str().as_bytes().starts_with(b"socket:")) {
                sockets += 1;
            }
        }
    }
    Processes {
        count: u64::try_from(pids.len()).unwrap_or(u64::MAX),
        descriptors: any.then_some(descriptors),
        sockets: (any && seen == descriptors).then_some(sockets),
        open_files_limit: pids.iter().min().and_then(|pid| {
            let mut text = String::new();
            let file = fs::File::open(format!("/proc/{pid}/limits")).ok()?;
            file.take(LARGEST_LIMITS).read_to_string(&mut text).ok()?;
            open_files(&text)
        }),
    }
}

/// The soft limit in `Max open files  1024  4096  files`.
fn open_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_of_open_files_is_read() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max cpu time              unlimited            unlimited            seconds   \n\
                    Max open files            1024                 524288               files     \n";
        assert_eq!(open_files(text), Some(1024));
        assert_eq!(open_files(&text.replace("1024  ", "unlimited")), None);
        assert_eq!(open_files(""), None);
    }

    #[test]
    fn descriptors_and_sockets_of_a_process_are_counted() {
        let me = i32::try_from(std::process::id()).unwrap();
        let before = processes(&[me]);
        let held = std::os::unix::net::UnixStream::pair().unwrap();
        let after = processes(&[me, i32::MAX]);
        drop(held);
        assert_eq!((before.count, after.count), (1, 2));
        // Other tests of this process open and close theirs meanwhile.
        assert!(after.descriptors.unwrap() >= 2 && after.sockets.unwrap() >= 2, "{after:?}");
        assert!(after.open_files_limit.is_some());
        assert_eq!(processes(&[i32::MAX]).descriptors, None);
    }
}
