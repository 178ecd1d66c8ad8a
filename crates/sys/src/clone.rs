//! clone3(2): a child that goes on in Rust, in namespaces and a cgroup of its own.

use rustix::{
    fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    io::Errno,
    process::Pid,
    thread::UnshareFlags,
};
use std::convert::Infallible;

/// What the child shall have.
#[derive(Debug)]
pub struct Clone<'a> {
    /// New namespaces.
    pub flags: UnshareFlags,
    /// cgroup v2 directory that the child starts in (CLONE_INTO_CGROUP).
    pub cgroup: Option<BorrowedFd<'a>>,
    /// The child has these descriptors and 0, 1, 2; its copies of all others are closed before it runs, so
    /// that no pipe of the parent's is held open by a child that waits. What it captured and is not named
    /// here only gives it EBADF.
    pub keep: &'a [RawFd],
    /// Its parent is the caller's parent, which is told of its end (CLONE_PARENT).
    pub sibling: bool,
}

/// A child that runs.
#[derive(Debug)]
pub struct Child {
    /// In the caller's PID namespace.
    pub pid: Pid,
    /// Close-on-exec.
    pub pidfd: OwnedFd,
}

/// The kernel's `struct clone_args`, version 2 (Linux 5.7).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// clone_args.cgroup is a descriptor of the directory to start in, Linux 5.7.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Handled signals are the default's again, Linux 5.5.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;

/// Ends the child at once when its closure unwinds: its stack is a copy of the parent's, whose frames
/// must not be run a second time.
struct NoWayBack;

impl Drop for NoWayBack {
    fn drop(&mut self) {
        // SAFETY: _exit takes any status and does not return; no destructor of the parent's runs.
        unsafe { libc::_exit(70) }
    }
}

/// Makes a child process that runs `child` on a copy of the caller's memory.
///
/// The child is ended with SIGCHLD as its exit signal, and `child` can only end in an exec or an exit.
///
/// # Errors
/// EBUSY when the caller has more than one thread: the copy of a lock that another thread holds would
/// never be released, so that even `malloc` could hang in the child. Else those of clone3(2).
pub fn clone(wanted: &Clone<'_>, child: impl FnOnce() -> Infallible) -> Result<Child, Errno> {
    if threads()? != 1 {
        return Err(Errno::BUSY);
    }
    let mut pidfd: libc::c_int = -1;
    let mut args = CloneArgs {
        flags: u64::from(wanted.flags.bits()) | bits(libc::CLONE_PIDFD),
        pidfd: std::ptr::from_mut(&mut pidfd) as u64,
        exit_signal: u64::from(libc::SIGCHLD.unsigned_abs()),
        ..CloneArgs::default()
    };
    if wanted.sibling {
        // Its exit signal is the caller's own then, and the kernel wants none named.
        args.flags |= bits(libc::CLONE_PARENT);
        args.exit_signal = 0;
    }
    if let Some(dir) = wanted.cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(dir.as_raw_fd().unsigned_abs());
    }
    // SAFETY: `args` and `pidfd` live across the call and are as large as said. Without CLONE_VM the
    // child has a copy of the address space; the caller is the only thread (checked above), so that
    // the copy is consistent. The child never returns from this function (NoWayBack).
    let returned =
        unsafe { libc::syscall(libc::SYS_clone3, std::ptr::from_mut(&mut args), size_of::<CloneArgs>()) };
    if crate::check(returned)? == 0 {
        run(wanted.keep, child);
    }
    let pid = i32::try_from(returned).ok().and_then(Pid::from_raw).ok_or(Errno::RANGE)?;
    // SAFETY: clone3 succeeded with CLONE_PIDFD, so the kernel put a new descriptor there that nobody
    // else owns.
    Ok(Child { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
}

/// A child of a caller that may have many threads, with its pidfd: `child` is a copy of this thread alone, so that
/// it may only do bare system calls, and ends when it returns. `flags`: further `CLONE_*`.
pub(crate) fn bare(flags: u64, child: impl FnOnce()) -> Result<(Pid, RawFd), Errno> {
    let mut pidfd: libc::c_int = -1;
    let mut args = CloneArgs {
        // No handler of this process' runs in the child.
        flags: flags | bits(libc::CLONE_PIDFD) | CLONE_CLEAR_SIGHAND,
        pidfd: std::ptr::from_mut(&mut pidfd) as u64,
        exit_signal: u64::from(libc::SIGCHLD.unsigned_abs()),
        ..CloneArgs::default()
    };
    // SAFETY: `args` and `pidfd` live across the call and are as large as said. Without CLONE_VM the child has a
    // copy of the address space, in which it does as the caller promises: it allocates nothing and takes no lock,
    // and it never returns from here.
    let returned =
        unsafe { libc::syscall(libc::SYS_clone3, std::ptr::from_mut(&mut args), size_of::<CloneArgs>()) };
    if crate::check(returned)? == 0 {
        let _guard = NoWayBack;
        child();
        leave(0);
    }
    let pid = i32::try_from(returned).ok().and_then(Pid::from_raw).ok_or(Errno::RANGE)?;
    Ok((pid, pidfd))
}

fn run(keep: &[RawFd], child: impl FnOnce() -> Infallible) -> ! {
    let _guard = NoWayBack;
    if close_all_but(keep).is_err() {
        leave(70);
    }
    match child() {}
}

/// Closes every descriptor above 2 that is not listed.
fn close_all_but(keep: &[RawFd]) -> Result<(), Errno> {
    let mut kept: Vec<u32> =
        keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).filter(|fd| *fd > 2).collect();
    kept.sort_unstable();
    let mut first = 3;
    for last in kept.iter().map(|fd| fd - 1).chain([u32::MAX]) {
        if last >= first {
            // SAFETY: this is the child's own copy of the table, and the parent's owners of these descriptors
            // are never dropped here: the child does not return to where they are (NoWayBack).
            crate::check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })?;
        }
        first = last.saturating_add(2);
    }
    Ok(())
}

/// How many threads this process has: each is a directory in /proc/self/task, proc_pid_task(5).
///
/// # Errors
/// Of stat(2); ENOENT without a /proc.
pub fn threads() -> Result<u64, Errno> {
    let task = rustix::fs::stat("/proc/self/task")?;
    Ok((task.st_nlink as u64).saturating_sub(2))
}

/// Ends this process without running any destructor or exit handler, for children of [`clone`].
pub fn leave(status: i32) -> ! {
    // SAFETY: _exit takes any status and does not return.
    unsafe { libc::_exit(status) }
}

const fn bits(flag: libc::c_int) -> u64 {
    flag.unsigned_abs() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_with_several_threads_is_refused() {
        // The test harness itself has a thread of its own for each test.
        let refused =
            clone(&Clone { flags: UnshareFlags::empty(), cgroup: None, keep: &[], sibling: false }, || {
                leave(0)
            })
            .expect_err("threads");
        assert_eq!(refused, Errno::BUSY);
    }
}
