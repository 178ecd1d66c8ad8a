//! The phases of a container. Pure: the task asks what an event means, and does it.
//!
//! ```text
//!  Creating --made--> Created --started--> Running --died--> Exited --removed--> (gone)
//!     |                  |                    |                ^  |
//!     |                  +--died, start failed-----------------+  |
//!     |                  |                    |                ^  |
//!     | failed           +-----doubtful-------+--> Unknown ----+  |
//!     +---> (gone), or Unknown if something is left                  |
//! ```
//! `Creating` is never shown. `Exited` is said only when no process of it can live any more; where
//! that cannot be made sure of, it is `Unknown`, and Stop and Remove go on from there.

use crate::host::Exit;
use serde::{Deserialize, Serialize};
use types::Timestamp;

/// Exit code of a container of which nobody knows how it ended: as for SIGKILL.
pub const UNKNOWN_CODE: i32 = 137;
/// Exit code of a container whose process could not be started.
pub const START_FAILED_CODE: i32 = 128;

/// Where a container is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Its plan is on disk, and some of it may be there.
    Creating,
    /// Its process waits before exec.
    Created {
        /// The process.
        pid: u32,
    },
    /// It runs.
    Running {
        /// The process.
        pid: u32,
        /// Since when.
        started_at: Timestamp,
    },
    /// It ended.
    Exited(Ended),
    /// It may still live, or some of it is left.
    Unknown {
        /// When it was started, or never.
        started_at: Timestamp,
        /// Why nobody knows.
        message: String,
    },
}

/// How a container ended, as the CRI tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// When it was started, or never.
    pub started_at: Timestamp,
    /// Never before `started_at`, also if the clock was set back.
    pub finished_at: Timestamp,
    /// Exit code, or 128 + signal.
    pub code: i32,
    /// In one word.
    pub reason: Reason,
    /// In more words; often empty.
    pub message: String,
}

/// `ContainerStatus.reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// Code 0.
    Completed,
    /// Any other code.
    Error,
    /// Killed for its memory: this word is a MUST of the CRI.
    OomKilled,
    /// The process could not be started.
    StartError,
    /// Its shim died before it could tell.
    Unknown,
}

impl Reason {
    /// As the CRI says it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Reason::Completed => "Completed",
            Reason::Error => "Error",
            Reason::OomKilled => "OOMKilled",
            Reason::StartError => "StartError",
            Reason::Unknown => "Unknown",
        }
    }
}

/// What happens to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Its process was made.
    Made {
        /// The process.
        pid: u32,
    },
    /// It could not be made, and nothing is left.
    Undone,
    /// It was let go.
    Started {
        /// When.
        at: Timestamp,
    },
    /// It could not be let go, and its process is gone.
    StartFailed {
        /// When.
        at: Timestamp,
        /// Why.
        message: String,
    },
    /// Its shim recorded its end.
    Died(Exit),
    /// Its processes are gone, and no record says how.
    Lost {
        /// When that was noticed.
        at: Timestamp,
        /// What is known.
        message: String,
    },
    /// Its processes may live, or something of it is left, and it could not be changed.
    Doubtful {
        /// Why.
        message: String,
    },
    /// StartContainer.
    StartAsked,
    /// StopContainer.
    StopAsked,
    /// RemoveContainer, which forces.
    RemoveAsked,
}

/// What the task has to do after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing: it is so already.
    Nothing,
    /// Record and show the new phase.
    Publish,
    /// Let the process go.
    Start,
    /// Ask the process to end, and see that it does.
    Signal,
    /// Kill without asking: it never ran.
    Kill,
    /// Kill without its shim, which may not know it, and find out how it ended.
    Settle,
    /// Drop all of it, then remove the record.
    Drop,
    /// Remove the record.
    Forget,
}

/// Why an event cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// It is being made.
    #[error("the container is being made")]
    StillCreating,
    /// It was made already.
    #[error("the container was made already")]
    AlreadyMade,
    /// It runs.
    #[error("the container is running")]
    AlreadyRunning,
    /// It ended.
    #[error("the container has exited")]
    AlreadyExited,
    /// It could not be brought to a known state.
    #[error("the container is in an unknown state: it can be stopped and removed")]
    Unknown,
}

impl Phase {
    /// The phase after an event, and what to do about it.
    ///
    /// # Errors
    /// [`Denied`] if the event cannot be in this phase; it stays then.
    pub fn next(&self, event: Event) -> Result<(Phase, Effect), Denied> {
        use Phase::{Created, Creating, Exited, Running, Unknown};
        let stay = |effect| Ok((self.clone(), effect));
        match (self, event) {
            (Creating, Event::Made { pid }) => Ok((Created { pid }, Effect::Publish)),
            (Creating, Event::Undone) => stay(Effect::Forget),
            (
                Creating,
                Event::Started { .. }
                | Event::StartFailed { .. }
                | Event::Died(_)
                | Event::Lost { .. }
                | Event::StartAsked
                | Event::StopAsked
                | Event::RemoveAsked,
            ) => Err(Denied::StillCreating),
            (
                Created { .. } | Running { .. } | Exited(_) | Unknown { .. },
                Event::Made { .. } | Event::Undone,
            ) => Err(Denied::AlreadyMade),

            (Created { .. }, Event::StartAsked) => stay(Effect::Start),
            (Created { pid }, Event::Started { at }) => {
                Ok((Running { pid: *pid, started_at: at }, Effect::Publish))
            }
            (Created { .. }, Event::StartFailed { at, message }) => {
                Ok((Exited(Ended::at_start(at, message)), Effect::Publish))
            }
            (Running { .. }, Event::StartAsked | Event::Started { .. } | Event::StartFailed { .. }) => {
                Err(Denied::AlreadyRunning)
            }
            (Exited(_), Event::StartAsked | Event::Started { .. } | Event::StartFailed { .. }) => {
                Err(Denied::AlreadyExited)
            }
            (Unknown { .. }, Event::StartAsked | Event::Started { .. } | Event::StartFailed { .. }) => {
                Err(Denied::Unknown)
            }

            (Created { .. } | Running { .. } | Unknown { .. }, Event::Died(exit)) => {
                Ok((Exited(Ended::by(self.started_at(), exit)), Effect::Publish))
            }
            (Created { .. } | Running { .. } | Unknown { .. }, Event::Lost { at, message }) => {
                Ok((Exited(Ended::lost(self.started_at(), at, message)), Effect::Publish))
            }
            (Creating | Created { .. } | Running { .. } | Unknown { .. }, Event::Doubtful { message }) => {
                Ok((Unknown { started_at: self.started_at(), message }, Effect::Publish))
            }
            // The shim and the way by force may both tell one death; the first one stands.
            (Exited(_), Event::Died(_) | Event::Lost { .. } | Event::Doubtful { .. }) => {
                stay(Effect::Nothing)
            }

            (Running { .. }, Event::StopAsked) => stay(Effect::Signal),
            (Created { .. }, Event::StopAsked) => stay(Effect::Kill),
            (Unknown { .. }, Event::StopAsked) => stay(Effect::Settle),
            (Exited(_), Event::StopAsked) => stay(Effect::Nothing),
            (Created { .. } | Running { .. } | Exited(_) | Unknown { .. }, Event::RemoveAsked) => {
                stay(Effect::Drop)
            }
        }
    }

    /// When it was started, or never.
    #[must_use]
    pub fn started_at(&self) -> Timestamp {
        match self {
            Phase::Creating | Phase::Created { .. } => Timestamp::NEVER,
            Phase::Running { started_at, .. } | Phase::Unknown { started_at, .. } => *started_at,
            Phase::Exited(ended) => ended.started_at,
        }
    }
}

impl Ended {
    fn by(started_at: Timestamp, exit: Exit) -> Self {
        let reason = match (exit.oom_killed, exit.code) {
            (true, _) => Reason::OomKilled,
            (false, 0) => Reason::Completed,
            (false, _) => Reason::Error,
        };
        let finished_at = exit.at.max(started_at);
        Ended { started_at, finished_at, code: exit.code, reason, message: exit.message }
    }

    fn at_start(at: Timestamp, message: String) -> Self {
        let reason = Reason::StartError;
        Ended { started_at: Timestamp::NEVER, finished_at: at, code: START_FAILED_CODE, reason, message }
    }

    fn lost(started_at: Timestamp, at: Timestamp, message: String) -> Self {
        let finished_at = at.max(started_at);
        Ended { started_at, finished_at, code: UNKNOWN_CODE, reason: Reason::Unknown, message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::ContainerId;

    fn exit(code: i32, oom_killed: bool) -> Exit {
        let container = ContainerId::from_random([1; 32]);
        Exit { container, code, at: Timestamp(50), oom_killed, message: String::new(), sequence: 1 }
    }

    const CREATED: Phase = Phase::Created { pid: 9 };
    const RUNNING: Phase = Phase::Running { pid: 9, started_at: Timestamp(20) };

    fn exited() -> Phase {
        RUNNING.next(Event::Died(exit(0, false))).expect("dies").0
    }

    fn ended(phase: Phase) -> Ended {
        match phase {
            Phase::Exited(ended) => ended,
            other @ (Phase::Creating
            | Phase::Created { .. }
            | Phase::Running { .. }
            | Phase::Unknown { .. }) => {
                panic!("{other:?} has not ended")
            }
        }
    }

    #[test]
    fn a_container_is_made_starts_and_ends() {
        assert_eq!(Phase::Creating.next(Event::Made { pid: 9 }), Ok((CREATED, Effect::Publish)));
        assert_eq!(CREATED.next(Event::StartAsked), Ok((CREATED, Effect::Start)));
        assert_eq!(CREATED.next(Event::Started { at: Timestamp(20) }), Ok((RUNNING, Effect::Publish)));
        assert_eq!(RUNNING.next(Event::StopAsked), Ok((RUNNING, Effect::Signal)));
        assert_eq!(exited().next(Event::StopAsked), Ok((exited(), Effect::Nothing)));
        assert_eq!(exited().next(Event::RemoveAsked), Ok((exited(), Effect::Drop)));
    }

    #[test]
    fn the_reason_follows_from_code_and_oom() {
        for (code, oom, reason) in
            [(0, false, "Completed"), (3, false, "Error"), (137, false, "Error"), (137, true, "OOMKilled")]
        {
            let ended = ended(RUNNING.next(Event::Died(exit(code, oom))).expect("dies").0);
            assert_eq!((ended.code, ended.reason.name()), (code, reason));
            assert_eq!((ended.started_at, ended.finished_at), (Timestamp(20), Timestamp(50)));
        }
    }

    #[test]
    fn a_container_starts_once() {
        assert_eq!(RUNNING.next(Event::StartAsked), Err(Denied::AlreadyRunning));
        assert_eq!(exited().next(Event::StartAsked), Err(Denied::AlreadyExited));
        assert_eq!(Phase::Creating.next(Event::StartAsked), Err(Denied::StillCreating));
    }

    #[test]
    fn the_first_report_of_a_death_stands() {
        let lost = RUNNING.next(Event::Lost { at: Timestamp(60), message: "x".to_owned() }).expect("lost").0;
        assert_eq!(lost.next(Event::Died(exit(0, false))), Ok((lost.clone(), Effect::Nothing)));
        assert_eq!(ended(lost).code, UNKNOWN_CODE);
    }

    #[test]
    fn a_clock_that_was_set_back_ends_nothing_before_it_began() {
        let late = Phase::Running { pid: 9, started_at: Timestamp(90) };
        let after = ended(late.next(Event::Died(exit(0, false))).expect("dies").0);
        assert_eq!(after.finished_at, Timestamp(90));
    }

    #[test]
    fn a_container_in_doubt_is_not_exited_until_it_is_sure() {
        let doubt = RUNNING.next(Event::Doubtful { message: "stuck".to_owned() }).expect("may be").0;
        assert!(matches!(doubt, Phase::Unknown { started_at: Timestamp(20), .. }));
        assert_eq!(doubt.next(Event::StopAsked).map(|(_, effect)| effect), Ok(Effect::Settle));
        assert_eq!(doubt.next(Event::StartAsked), Err(Denied::Unknown));
        assert_eq!(ended(doubt.next(Event::Died(exit(4, false))).expect("dies").0).code, 4);
    }
}
