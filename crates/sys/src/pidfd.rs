//! Processes by descriptor: a signal cannot reach a stranger that got the number later.

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    fd::{AsFd, OwnedFd},
    io::Errno,
    process::{self, Pid, PidfdFlags, Signal, WaitId, WaitIdOptions},
};
use std::time::Duration;

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By exit(2), with this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    /// As a shell tells it: the status, or 128 and the signal's number.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(number) => 128 + number,
        }
    }
}

/// A descriptor of the process with this number now, close-on-exec.
///
/// # Errors
/// Of pidfd_open(2).
pub fn open(pid: Pid) -> Result<OwnedFd, Errno> {
    process::pidfd_open(pid, PidfdFlags::empty())
}

/// Sends a signal. A process that has ended, even unreaped, is no error but `false`.
///
/// # Errors
/// Of pidfd_send_signal(2), EPERM first of all.
pub fn send_signal(pidfd: impl AsFd, signal: Signal) -> Result<bool, Errno> {
    match process::pidfd_send_signal(pidfd, signal) {
        Ok(()) => Ok(true),
        Err(Errno::SRCH) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Waits until the child has ended, and reaps it.
///
/// # Errors
/// Of waitid(2): ECHILD when it is not a child of the caller or was reaped before.
pub fn wait(pidfd: impl AsFd) -> Result<Exit, Errno> {
    loop {
        if let Some(exit) = wait_with(pidfd.as_fd(), WaitIdOptions::EXITED)? {
            return Ok(exit);
        }
    }
}

/// Reaps the child if it has ended.
///
/// # Errors
/// As [`wait`].
pub fn try_wait(pidfd: impl AsFd) -> Result<Option<Exit>, Errno> {
    wait_with(pidfd.as_fd(), WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
}

/// Whether it is a child of the caller that was not reaped yet.
///
/// # Errors
/// Of waitid(2).
pub fn is_child(pidfd: impl AsFd) -> Result<bool, Errno> {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    match wait_with(pidfd.as_fd(), look) {
        Ok(_) => Ok(true),
        Err(Errno::CHILD) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether the process has ended, without reaping it. Works for processes that are no children.
///
/// # Errors
/// Of poll(2).
pub fn ended_within(pidfd: impl AsFd, limit: Duration) -> Result<bool, Errno> {
    let limit = Timespec {
        tv_sec: limit.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: limit.subsec_nanos().into(),
    };
    let mut polled = [PollFd::new(&pidfd, PollFlags::IN)];
    rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, Some(&limit))).map(|ready| ready > 0)
}

fn wait_with(pidfd: rustix::fd::BorrowedFd<'_>, options: WaitIdOptions) -> Result<Option<Exit>, Errno> {
    let status = rustix::io::retry_on_intr(|| process::waitid(WaitId::PidFd(pidfd), options))?;
    Ok(status.map(|status| match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(number)) => Exit::Signal(number),
        // EXITED asks for these two only.
        (None, None) => Exit::Code(255),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    #[expect(clippy::zombie_processes, reason = "it is reaped by its pidfd")]
    fn an_ended_child_tells_its_code_once() {
        let child = Command::new("/bin/sh").args(["-c", "exit 7"]).spawn().expect("spawn");
        let pidfd = open(Pid::from_child(&child)).expect("pidfd");
        assert!(ended_within(&pidfd, Duration::from_secs(20)).expect("poll"));
        assert_eq!(wait(&pidfd), Ok(Exit::Code(7)));
        assert_eq!(try_wait(&pidfd), Err(Errno::CHILD));
        assert_eq!(send_signal(&pidfd, Signal::TERM), Ok(false));
    }

    #[test]
    #[expect(clippy::zombie_processes, reason = "it is reaped by its pidfd")]
    fn a_killed_child_tells_its_signal() {
        let child = Command::new("/bin/sleep").arg("1000").spawn().expect("spawn");
        let pidfd = open(Pid::from_child(&child)).expect("pidfd");
        assert_eq!(try_wait(&pidfd), Ok(None));
        assert_eq!(is_child(&pidfd), Ok(true));
        assert_eq!(send_signal(&pidfd, Signal::KILL), Ok(true));
        let exit = wait(&pidfd).expect("wait");
        assert_eq!((exit, exit.code()), (Exit::Signal(9), 137));
        assert_eq!(is_child(&pidfd), Ok(false));
    }
}
