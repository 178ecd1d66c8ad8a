//! Landlock for a process that works in one directory tree and needs nothing else, landlock(7).

use rustix::{
    fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    io::Errno,
};

const CREATE_RULESET_VERSION: libc::c_ulong = 1;
const RULE_PATH_BENEATH: libc::c_ulong = 1;

// linux/landlock.h, LANDLOCK_ACCESS_FS_*
const EXECUTE: u64 = 1 << 0;
/// READ_FILE to MAKE_SYM and all between: Linux 5.13.
const FIRST_ABI: u64 = (1 << 13) - 1;
/// Linux 5.19; without it links and renames between directories are always refused.
const REFER: u64 = 1 << 13;
/// Linux 6.2.
const TRUNCATE: u64 = 1 << 14;
/// Linux 6.10.
const IOCTL_DEV: u64 = 1 << 15;
/// Linux 6.7: BIND_TCP and CONNECT_TCP.
const NET: u64 = 0b11;
/// Linux 6.12: abstract unix sockets and signals.
const SCOPED: u64 = 0b11;

/// `struct landlock_ruleset_attr`; older kernels take it while the fields they do not know are 0.
#[repr(C)]
#[derive(Default)]
struct RulesetAttr {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

/// `struct landlock_path_beneath_attr`
#[repr(C, packed)]
struct PathBeneath {
    allowed_access: u64,
    parent_fd: i32,
}

/// The version of Landlock that this kernel offers; `None` where it is not built in or switched off.
#[must_use]
pub fn version() -> Option<u32> {
    // SAFETY: with this flag the call takes no structure and only answers a number.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<RulesetAttr>(),
            0_usize,
            CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(returned).ok().filter(|version| *version > 0)
}

/// Restricts the calling thread, and all that it starts, to the files beneath `dir`, which it may read,
/// write, make and remove but not execute; and to no TCP, no abstract sockets and no signals to processes
/// outside, as far as the kernel knows these. It needs no_new_privs.
///
/// True when it is in force; false where the kernel has no Landlock, or one that knows no links between
/// directories (before 5.19).
///
/// # Errors
/// Of landlock_add_rule(2) and landlock_restrict_self(2).
pub fn files_only(dir: impl AsFd) -> Result<bool, Errno> {
    let Some(version) = version().filter(|version| *version >= 2) else { return Ok(false) };
    let since = |first: u32, rights: u64| if version >= first { rights } else { 0 };
    let handled = FIRST_ABI | REFER | since(3, TRUNCATE) | since(5, IOCTL_DEV);
    let attr = RulesetAttr {
        handled_access_fs: handled,
        handled_access_net: since(4, NET),
        scoped: since(6, SCOPED),
    };
    // SAFETY: `attr` is of the size given and lives across the call.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::from_ref(&attr),
            size_of::<RulesetAttr>(),
            0,
        )
    };
    let raw = i32::try_from(crate::check(returned)?).map_err(|_| Errno::OVERFLOW)?;
    // SAFETY: the kernel just made this descriptor for us, and nobody else knows its number.
    let ruleset = unsafe { OwnedFd::from_raw_fd(raw) };
    let rule =
        PathBeneath { allowed_access: handled & !(EXECUTE | IOCTL_DEV), parent_fd: dir.as_fd().as_raw_fd() };
    // SAFETY: `rule` is what this rule type takes, and lives across the call.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset.as_raw_fd(),
            RULE_PATH_BENEATH,
            std::ptr::from_ref(&rule),
            0,
        )
    };
    crate::check(returned)?;
    // SAFETY: the call takes two numbers.
    let returned = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) };
    crate::check(returned).map(|_| true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::tests::Scratch;
    use rustix::fs::{Mode, OFlags, open};

    #[test]
    fn a_restricted_thread_writes_only_beneath_its_directory() {
        if version().is_none_or(|version| version < 2) {
            // Nothing to restrict with: `files_only` must say so.
            assert_eq!(files_only(std::io::stdin()), Ok(false));
            return;
        }
        let (inside, outside) = (Scratch::new("landlock-in"), Scratch::new("landlock-out"));
        let answers = std::thread::scope(|scope| {
            let restricted = scope.spawn(|| {
                rustix::thread::set_no_new_privs(true).expect("prctl");
                let dir = open(inside.path(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).expect("open");
                assert_eq!(files_only(dir), Ok(true));
                let write = |path: &std::path::Path| std::fs::File::create(path.join("file")).is_ok();
                (
                    write(inside.path()),
                    write(outside.path()),
                    std::fs::File::open("/proc/self/status").is_ok(),
                )
            });
            restricted.join().expect("no panic")
        });
        assert_eq!(answers, (true, false, false));
    }
}
