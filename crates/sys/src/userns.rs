//! User namespaces, user_namespaces(7): such that stand for a mapping of ids, and such that own the namespaces of
//! a pod.
//!
//! They are made by a child that does nothing but bare system calls, so that callers with many threads may make
//! them too: unshare(2) and setns(2) refuse those for this kind.

use rustix::{
    fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    fs::{Mode, OFlags},
    io::Errno,
    net::{RecvFlags, SendFlags},
    thread::{LinkNameSpaceType, UnshareFlags},
};
use std::fmt::Write as _;

/// A line of a uid_map or gid_map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// First id inside.
    pub inside: u32,
    /// First id outside, in the caller's own namespace.
    pub outside: u32,
    /// How many.
    pub length: u32,
}

impl Line {
    /// The id outside of one inside.
    #[must_use]
    pub fn outside_of(&self, inside: u32) -> Option<u32> {
        let distance = inside.checked_sub(self.inside)?;
        (distance < self.length).then(|| self.outside.checked_add(distance)).flatten()
    }
}

/// A user namespace with others that it owns; each lives as long as its descriptor (close-on-exec).
#[derive(Debug)]
pub struct Owned {
    /// The user namespace.
    pub user: OwnedFd,
    /// Network.
    pub net: Option<OwnedFd>,
    /// IPC.
    pub ipc: Option<OwnedFd>,
    /// UTS.
    pub uts: Option<OwnedFd>,
}

/// A new user namespace with these mappings, which lives as long as its descriptor (close-on-exec).
///
/// Its first process is gone when this returns.
///
/// # Errors
/// Of clone3(2); EPERM or EINVAL of the write to uid_map when the mapping is not allowed.
pub fn with_mappings(uids: &[Line], gids: &[Line]) -> Result<OwnedFd, Errno> {
    make(uids, gids, UnshareFlags::empty()).map(|made| made.user)
}

/// A new user namespace with these mappings, and in it new namespaces of the kinds `NEWNET`, `NEWIPC` and
/// `NEWUTS`, made by its root, which must be mapped.
///
/// # Errors
/// As [`with_mappings`], and those of unshare(2); EINVAL for other kinds.
pub fn with_namespaces(uids: &[Line], gids: &[Line], kinds: UnshareFlags) -> Result<Owned, Errno> {
    let known = UnshareFlags::NEWNET | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    if !known.contains(kinds) {
        return Err(Errno::INVAL);
    }
    make(uids, gids, kinds)
}

/// setns(2) into a user namespace, and its root's user and groups: all rights in it, none outside. For callers
/// with one thread; there is no way back.
///
/// # Errors
/// Of setns(2): EINVAL when it is the caller's own; of setresuid(2) when its root is not mapped.
pub fn join(user: impl AsFd) -> Result<(), Errno> {
    crate::namespace::join(user, LinkNameSpaceType::User)?;
    become_root()
}

/// After a setns(2) that joined a user namespace too: takes its root's user and groups. The process is not dumpable
/// then: who is inside may not look into it.
///
/// # Errors
/// Of setresuid(2) and its kind; EINVAL when its root is not mapped.
pub fn become_root() -> Result<(), Errno> {
    use rustix::process::{Gid, Uid};
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
    // The change of user sets it to what fs.suid_dumpable says.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
}

fn make(uids: &[Line], gids: &[Line], kinds: UnshareFlags) -> Result<Owned, Errno> {
    let (ours, theirs) = crate::socket::pair()?;
    let child = holder(theirs.as_fd(), kinds)?;
    drop(theirs);
    let made = map_and_open(&ours, child.pid.as_raw_nonzero().get(), uids, gids, kinds);
    // That is what it waits for, to end.
    drop(ours);
    crate::pidfd::wait(&child.pidfd)?;
    made
}

fn map_and_open(
    channel: &OwnedFd,
    pid: i32,
    uids: &[Line],
    gids: &[Line],
    kinds: UnshareFlags,
) -> Result<Owned, Errno> {
    for (name, lines) in [("uid_map", uids), ("gid_map", gids)] {
        let file =
            rustix::fs::open(format!("/proc/{pid}/{name}"), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        // In one write, as the kernel wants it.
        let text = text(lines);
        if rustix::io::write(&file, text.as_bytes())? != text.len() {
            return Err(Errno::IO);
        }
    }
    rustix::io::retry_on_intr(|| rustix::net::send(channel, &[1], SendFlags::NOSIGNAL))?;
    let mut answer = [0_u8; 4];
    let (_, got) = rustix::io::retry_on_intr(|| rustix::net::recv(channel, &mut answer, RecvFlags::empty()))?;
    match i32::from_ne_bytes(answer) {
        _ if got != answer.len() => return Err(Errno::SRCH),
        0 => {}
        errno => return Err(Errno::from_raw_os_error(errno)),
    }
    let open = |name: &str| {
        rustix::fs::open(format!("/proc/{pid}/ns/{name}"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    };
    let wanted = |kind: UnshareFlags, name: &str| kinds.contains(kind).then(|| open(name)).transpose();
    Ok(Owned {
        user: open("user")?,
        net: wanted(UnshareFlags::NEWNET, "net")?,
        ipc: wanted(UnshareFlags::NEWIPC, "ipc")?,
        uts: wanted(UnshareFlags::NEWUTS, "uts")?,
    })
}

/// A child in a new user namespace that makes the others when it is told that its ids are mapped, says how that
/// went, and stays until the other end of its channel is closed.
fn holder(channel: BorrowedFd<'_>, kinds: UnshareFlags) -> Result<crate::clone::Child, Errno> {
    let fd = channel.as_raw_fd();
    let flags = u64::from(UnshareFlags::NEWUSER.bits());
    let (pid, pidfd) = crate::clone::bare(flags, || hold(fd, kinds))?;
    // SAFETY: the kernel just put this descriptor there, and nobody else owns it.
    Ok(crate::clone::Child { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
}

/// The child: it has a copy of one thread of many, so that it may neither allocate nor lock.
fn hold(channel: RawFd, kinds: UnshareFlags) {
    let mut byte = 0_u8;
    let number = |fd: RawFd| libc::c_long::from(fd);
    let at = std::ptr::from_mut(&mut byte);
    // SAFETY: bare system calls on numbers and on `byte` and `errno`, which live across them. What is closed here
    // is this process' own copy of the table; it runs no destructor, since it ends in `_exit` (clone::bare).
    unsafe {
        if channel > 3 {
            libc::syscall(libc::SYS_close_range, 3, channel - 1, 0);
        }
        libc::syscall(libc::SYS_close_range, channel + 1, libc::c_uint::MAX, 0);
        if libc::syscall(libc::SYS_read, number(channel), at, 1) != 1 {
            return;
        }
        let mut errno = 0;
        if !kinds.is_empty() {
            // What root of the namespace makes is root's: the root of the message queues' file system is one.
            let done = libc::syscall(libc::SYS_setresgid, 0, 0, 0) == 0
                && libc::syscall(libc::SYS_setresuid, 0, 0, 0) == 0
                && libc::syscall(libc::SYS_unshare, kinds.bits()) == 0;
            if !done {
                errno = *libc::__errno_location();
            }
        }
        libc::syscall(libc::SYS_write, number(channel), std::ptr::from_ref(&errno), size_of::<i32>());
        libc::syscall(libc::SYS_read, number(channel), at, 1);
    }
}

fn text(lines: &[Line]) -> String {
    let mut text = String::new();
    for line in lines {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{} {} {}", line.inside, line.outside, line.length);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::fstat;

    const LINE: [Line; 1] = [Line { inside: 0, outside: 100_000, length: 10 }];

    #[test]
    fn an_id_is_found_in_its_line_only() {
        let line = Line { inside: 5, outside: 100, length: 2 };
        assert_eq!([4, 5, 6, 7].map(|id| line.outside_of(id)), [None, Some(100), Some(101), None]);
    }

    #[test]
    fn a_caller_with_many_threads_makes_namespaces_that_a_user_namespace_owns() {
        // The harness has a thread for each test.
        let made = with_namespaces(&LINE, &LINE, UnshareFlags::NEWNET | UnshareFlags::NEWIPC).expect("made");
        let (net, ipc) = (made.net.expect("net"), made.ipc.expect("ipc"));
        assert!(made.uts.is_none());
        for other in [&net, &ipc] {
            let owner = crate::namespace::owner(other).expect("owner");
            assert_eq!(fstat(owner).expect("stat").st_ino, fstat(&made.user).expect("stat").st_ino);
        }
    }

    #[test]
    fn what_is_not_allowed_is_an_error_and_leaves_no_child() {
        let twice = [LINE[0], LINE[0]];
        assert_eq!(with_mappings(&twice, &LINE).expect_err("twice"), Errno::INVAL);
        assert_eq!(with_namespaces(&LINE, &LINE, UnshareFlags::NEWNS).expect_err("kind"), Errno::INVAL);
        let no_root = [Line { inside: 1, outside: 1, length: 1 }];
        let refused = with_namespaces(&no_root, &no_root, UnshareFlags::NEWIPC);
        assert_eq!(refused.expect_err("root is not mapped"), Errno::INVAL);
    }
}
