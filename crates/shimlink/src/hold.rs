//! The process that keeps a pod's scope of systemd (`hold` of the shim's program): started outside of
//! the scope, and gone by itself unless it is told to stay.

use crate::{Program, ShimError, shim::reap};
use std::io::{self, Write as _};
use std::process::{ChildStdin, Stdio};
use sys::rustix::process::{Pid, PidfdFlags, pidfd_open};

/// A process that waits for the word to stay; dropped without it, it ends.
#[derive(Debug)]
pub struct Holder {
    pid: u32,
    word: ChildStdin,
}

impl Holder {
    /// Starts it. Who calls must be within the runtime: its end is reaped there.
    ///
    /// # Errors
    /// [`ShimError::Spawn`].
    pub fn start(program: &Program) -> Result<Holder, ShimError> {
        let failed = |step, source| ShimError::Spawn { step, path: program.path().to_owned(), source };
        let mut command = program.command();
        command.arg("hold").env_clear().current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|e| failed("execute", e))?;
        let pid = child.id();
        let pidfd = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| failed("execute", io::Error::other("a process without a number")))
            // Nobody else reaps it before this: the number is still its own.
            .and_then(|pid| pidfd_open(pid, PidfdFlags::NONBLOCK).map_err(|e| failed("watch", e.into())))?;
        tokio::spawn(reap(pidfd));
        let word = child.stdin.take().ok_or_else(|| failed("execute", io::Error::other("no pipe to it")))?;
        Ok(Holder { pid, word })
    }

    /// Its number. It is not reaped while this is there and nobody kills it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Tells it to stay, also when this daemon ends.
    ///
    /// # Errors
    /// It has ended.
    pub fn stay(mut self) -> io::Result<()> {
        self.word.write_all(b"s")
    }
}
