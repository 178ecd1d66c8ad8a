//! One container in the shim.
//!
//! ```text
//!            Create            Start                its process ends
//! (absent) ---------> Created --------> Running ------------------------> Ending
//!     ^                  |                                                   |
//!     |                  +--- exec fails, or its process ends ---------------+
//!     |                                                                      | its pipes are at their end,
//!     |                              Delete                                  | or DRAIN is over
//!     +----------------------------------------------- Exited <--------------+
//!                                                        the record is on disk, then all who wait are told
//! ```

use crate::connection::ReplyTo;
use crate::input::Input;
use crate::launch::Process;
use crate::output::Output;
use crate::stdio::Held;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use sys::rustix::fd::OwnedFd;
use types::shim::{ContainerState, ExitRecord, Phase};

/// How long the pipes of an ended container may stay open before its end is told anyway; they are
/// read on after that.
pub(crate) const DRAIN: Duration = Duration::from_secs(2);
/// How soon a log or an exit record that could not be written is tried again.
pub(crate) const RETRY: Duration = Duration::from_secs(1);

/// The end that is not told yet.
#[derive(Debug)]
pub(crate) struct Ending {
    /// Exit code, or 128 + signal.
    pub(crate) code: u32,
    /// Nanoseconds since the Unix epoch.
    pub(crate) at: i64,
    /// SIGKILL after an OOM kill.
    pub(crate) oom_killed: bool,
    /// Why it could not be started; often empty.
    pub(crate) message: String,
    /// When it is told at the latest.
    pub(crate) until: Instant,
}

/// Where it is in its life; see the head of this file.
#[derive(Debug)]
pub(crate) enum State {
    /// Its process waits before exec.
    Created,
    /// Its program runs.
    Running,
    /// Its process ended; its output is still coming.
    Ending(Ending),
    /// All is told.
    Exited(ExitRecord),
}

/// A container.
#[derive(Debug)]
pub(crate) struct Container {
    /// Its id, as given.
    pub(crate) id: String,
    /// Its name among the sources of events.
    pub(crate) key: u32,
    /// Its directory, which gets the exit record.
    pub(crate) bundle: PathBuf,
    /// As in the request, for State.
    pub(crate) stdout: String,
    /// As in the request, for State.
    pub(crate) stderr: String,
    /// As in the request, for State.
    pub(crate) stdin: String,
    /// Where it is in its life.
    pub(crate) state: State,
    /// Its first process and its cgroup.
    pub(crate) process: Process,
    /// How many of its processes had been killed for want of memory when it was last sent SIGKILL.
    pub(crate) oom_kills_before: u64,
    /// Its outputs and its log.
    pub(crate) output: Output,
    /// Its standard input, as far as clients write to it.
    pub(crate) input: Input,
    /// The other ends of containerd's FIFOs.
    pub(crate) held: Option<Box<Held>>,
    /// Its processes are frozen.
    pub(crate) paused: bool,
    /// Another descriptor of its terminal, to resize it.
    pub(crate) terminal: Option<OwnedFd>,
    /// Nanoseconds since the Unix epoch; 0 = not started.
    pub(crate) started_at: i64,
    /// Calls that wait for its end.
    pub(crate) waiting: Vec<ReplyTo>,
    /// Calls that wait for the letting go of an attached client, by its key.
    pub(crate) let_go: Vec<(ReplyTo, u32)>,
    /// The exit record is not on disk yet.
    pub(crate) unsaved: bool,
    /// When a failed write is tried again.
    pub(crate) retry_at: Option<Instant>,
}

impl Container {
    /// Its state as containerd and the daemon name it. An end that is not told is none yet.
    pub(crate) fn phase(&self) -> Phase {
        match &self.state {
            State::Created => Phase::Created,
            State::Running => Phase::Running,
            State::Ending(_) if self.started_at == 0 => Phase::Created,
            State::Ending(_) => Phase::Running,
            State::Exited(_) => Phase::Exited,
        }
    }

    /// Whether its first process lives.
    pub(crate) fn is_alive(&self) -> bool {
        match &self.state {
            State::Created | State::Running => true,
            State::Ending(_) | State::Exited(_) => false,
        }
    }

    /// How it ended, once that is told.
    pub(crate) fn exit(&self) -> Option<&ExitRecord> {
        match &self.state {
            State::Exited(record) => Some(record),
            State::Created | State::Running | State::Ending(_) => None,
        }
    }

    /// Its first process; 0 after its end.
    pub(crate) fn pid(&self) -> u32 {
        if self.is_alive() { self.process.pid() } else { 0 }
    }

    /// What the daemon is told.
    pub(crate) fn view(&self) -> ContainerState {
        ContainerState {
            container_id: self.id.clone(),
            pid: self.pid(),
            phase: self.phase().into(),
            started_at: self.started_at,
            exit: self.exit().cloned(),
            log_trouble: self.output.trouble(),
        }
    }

    /// Lets go of FIFOs that nobody needs any more; while the process writes, none is.
    pub(crate) fn let_fifos_go(&mut self, now: Instant) {
        if let Some(held) = &mut self.held
            && held.deadline().is_none_or(|at| at <= now)
        {
            held.let_go(&self.output, now);
        }
    }

    /// When the loop has to look at it again.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let ending = match &self.state {
            State::Ending(ending) => Some(ending.until),
            State::Created | State::Running | State::Exited(_) => None,
        };
        let held = self.held.as_ref().and_then(|held| held.deadline());
        [ending, self.retry_at, held, self.output.attached.deadline()].into_iter().flatten().min()
    }
}
