//! User namespaces that stand for a mapping of ids, user_namespaces(7).

use crate::clone::{self, Clone};
use rustix::{
    fd::{AsRawFd, OwnedFd},
    fs::{Mode, OFlags},
    io::Errno,
    pipe::{PipeFlags, pipe_with},
    thread::UnshareFlags,
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

/// A new user namespace with these mappings, which lives as long as its descriptor (close-on-exec).
///
/// Its first process is gone when this returns. As [`clone::clone`]: only for callers with one thread.
///
/// # Errors
/// Of clone3(2); EPERM or EINVAL of the write to uid_map when the mapping is not allowed.
pub fn with_mappings(uids: &[Line], gids: &[Line]) -> Result<OwnedFd, Errno> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    let wanted = Clone { flags: UnshareFlags::NEWUSER, cgroup: None, keep: &[reader.as_raw_fd()] };
    // The child's copy of the writing end is closed before it runs: it ends when ours is.
    let child = clone::clone(&wanted, || {
        let _ = rustix::io::read(&reader, &mut [0_u8; 1]);
        clone::leave(0)
    })?;
    let made = write_and_open(child.pid.as_raw_nonzero().get(), uids, gids);
    drop(writer);
    crate::pidfd::wait(&child.pidfd)?;
    made
}

fn write_and_open(pid: i32, uids: &[Line], gids: &[Line]) -> Result<OwnedFd, Errno> {
    for (name, lines) in [("uid_map", uids), ("gid_map", gids)] {
        let file =
            rustix::fs::open(format!("/proc/{pid}/{name}"), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        // In one write, as the kernel wants it.
        let text = text(lines);
        if rustix::io::write(&file, text.as_bytes())? != text.len() {
            return Err(Errno::IO);
        }
    }
    rustix::fs::open(format!("/proc/{pid}/ns/user"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

fn text(lines: &[Line]) -> String {
    let mut text = String::new();
    for line in lines {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{} {} {}", line.inside, line.outside, line.length);
    }
    text
}
