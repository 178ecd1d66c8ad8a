//! The phases of a pod. Pure: the task asks what an event means, and does it.
//!
//! ```text
//!            came up            shim lost, or a tear-down that failed
//!  Creating ---------> Ready -------------------------------> NotReady{Something}
//!     |                  |                                        |  ^ |
//!     | failed,          | torn down                  torn down   |  +-+ failed again
//!     | torn down        v                                        v
//!     +--> (gone) <--- NotReady{Nothing} <------------------------+
//!             removed
//! ```
//! `Creating` is never shown: nobody knows the id yet. A pod that failed and could not be torn down
//! is `NotReady{Something}`, so that Stop and Remove finish it.

use crate::host::ShimUp;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Where a pod is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Its plan is on disk, and some of it may be there.
    Creating,
    /// It is up.
    Ready(PodUp),
    /// Its containers do not run.
    NotReady {
        /// What is there of what the plan names.
        left: Left,
        /// It was up once.
        was_ready: bool,
        /// Why, if it was not asked for.
        message: String,
    },
}

/// What a pod got when it came up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodUp {
    /// Its addresses, the first is the pod's IP; none in the node's network.
    pub ips: Vec<IpAddr>,
    /// Its shim.
    pub shim: ShimUp,
}

/// What a pod that is not ready still has on the machine, apart from its containers' layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Left {
    /// Nothing.
    Nothing,
    /// Perhaps all of it.
    Something,
}

/// What happens to a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Each step upward was done.
    CameUp(PodUp),
    /// A step failed, and this is left after tearing down.
    Failed {
        /// What remains.
        left: Left,
        /// Why it failed.
        message: String,
    },
    /// Its shim ended by itself.
    ShimLost {
        /// How that was noticed.
        message: String,
    },
    /// StopPodSandbox.
    StopAsked,
    /// RemovePodSandbox.
    RemoveAsked,
    /// A tear-down ended.
    TornDown {
        /// What remains.
        left: Left,
        /// Why something does.
        message: String,
    },
}

/// What the task has to do after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing: it is so already.
    Nothing,
    /// Record and show the new phase.
    Publish,
    /// Tear down and tell the result as [`Event::TornDown`].
    TearDown,
    /// Remove the record and the name.
    Forget,
}

/// Why an event cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// It is being made.
    #[error("the pod is being made")]
    StillCreating,
    /// It is made already.
    #[error("the pod was made already")]
    AlreadyMade,
}

impl Phase {
    /// The phase after an event, and what to do about it.
    ///
    /// # Errors
    /// [`Denied`] if the event cannot be in this phase; it stays then.
    pub fn next(&self, event: Event) -> Result<(Phase, Effect), Denied> {
        match (self, event) {
            (Phase::Creating, Event::CameUp(up)) => Ok((Phase::Ready(up), Effect::Publish)),
            (Phase::Creating, Event::Failed { left: Left::Nothing, .. }) => {
                Ok((Phase::Creating, Effect::Forget))
            }
            (Phase::Creating, Event::Failed { left: left @ Left::Something, message }) => {
                Ok((Phase::NotReady { left, was_ready: false, message }, Effect::Publish))
            }
            (
                Phase::Creating,
                Event::ShimLost { .. } | Event::StopAsked | Event::RemoveAsked | Event::TornDown { .. },
            ) => Err(Denied::StillCreating),
            (Phase::Ready(_) | Phase::NotReady { .. }, Event::CameUp(_) | Event::Failed { .. }) => {
                Err(Denied::AlreadyMade)
            }
            (Phase::Ready(_), Event::ShimLost { message }) => {
                Ok((Phase::NotReady { left: Left::Something, was_ready: true, message }, Effect::Publish))
            }
            (ready @ Phase::Ready(_), Event::StopAsked | Event::RemoveAsked) => {
                Ok((ready.clone(), Effect::TearDown))
            }
            (Phase::Ready(_), Event::TornDown { left, message }) => {
                Ok((Phase::NotReady { left, was_ready: true, message }, Effect::Publish))
            }
            // Its shim was ended by the tear-down, or was lost before.
            (same @ Phase::NotReady { .. }, Event::ShimLost { .. }) => Ok((same.clone(), Effect::Nothing)),
            (same @ Phase::NotReady { left: Left::Something, .. }, Event::StopAsked | Event::RemoveAsked) => {
                Ok((same.clone(), Effect::TearDown))
            }
            (same @ Phase::NotReady { left: Left::Nothing, .. }, Event::StopAsked) => {
                Ok((same.clone(), Effect::Nothing))
            }
            (same @ Phase::NotReady { left: Left::Nothing, .. }, Event::RemoveAsked) => {
                Ok((same.clone(), Effect::Forget))
            }
            (Phase::NotReady { was_ready, message: old, .. }, Event::TornDown { left, message }) => {
                let message = if message.is_empty() { old.clone() } else { message };
                Ok((Phase::NotReady { left, was_ready: *was_ready, message }, Effect::Publish))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up() -> PodUp {
        PodUp { ips: vec![IpAddr::from([10, 0, 0, 2])], shim: ShimUp { pid: 7, pause_pid: None } }
    }

    fn not_ready(left: Left) -> Phase {
        Phase::NotReady { left, was_ready: true, message: String::new() }
    }

    fn torn(left: Left) -> Event {
        Event::TornDown { left, message: String::new() }
    }

    #[test]
    fn a_pod_comes_up_is_stopped_and_is_forgotten() {
        let (ready, effect) = Phase::Creating.next(Event::CameUp(up())).expect("comes up");
        assert_eq!((&ready, effect), (&Phase::Ready(up()), Effect::Publish));
        assert_eq!(ready.next(Event::StopAsked), Ok((Phase::Ready(up()), Effect::TearDown)));
        let (stopped, effect) = ready.next(torn(Left::Nothing)).expect("is torn down");
        assert_eq!((&stopped, effect), (&not_ready(Left::Nothing), Effect::Publish));
        assert_eq!(stopped.next(Event::StopAsked), Ok((stopped.clone(), Effect::Nothing)));
        assert_eq!(stopped.next(Event::RemoveAsked), Ok((stopped.clone(), Effect::Forget)));
    }

    #[test]
    fn what_could_not_be_torn_down_is_kept_and_torn_down_again() {
        let failed = Event::Failed { left: Left::Something, message: "stuck".to_owned() };
        let (kept, effect) = Phase::Creating.next(failed).expect("fails");
        let stuck = Phase::NotReady { left: Left::Something, was_ready: false, message: "stuck".to_owned() };
        assert_eq!((&kept, effect), (&stuck, Effect::Publish));
        for ask in [Event::StopAsked, Event::RemoveAsked] {
            assert_eq!(kept.next(ask), Ok((kept.clone(), Effect::TearDown)));
        }
        let (done, _) = kept.next(torn(Left::Nothing)).expect("is torn down");
        assert_eq!(done.next(Event::RemoveAsked).map(|(_, effect)| effect), Ok(Effect::Forget));
    }

    #[test]
    fn a_pod_that_failed_and_left_nothing_is_forgotten() {
        let failed = Event::Failed { left: Left::Nothing, message: "no network".to_owned() };
        assert_eq!(Phase::Creating.next(failed), Ok((Phase::Creating, Effect::Forget)));
    }

    #[test]
    fn a_lost_shim_makes_a_ready_pod_not_ready_and_changes_no_other() {
        let lost = || Event::ShimLost { message: "gone".to_owned() };
        let (after, effect) = Phase::Ready(up()).next(lost()).expect("may be");
        let kept = Phase::NotReady { left: Left::Something, was_ready: true, message: "gone".to_owned() };
        assert_eq!((after, effect), (kept, Effect::Publish));
        for same in [not_ready(Left::Nothing), not_ready(Left::Something)] {
            assert_eq!(same.next(lost()), Ok((same.clone(), Effect::Nothing)));
        }
        assert_eq!(Phase::Creating.next(lost()), Err(Denied::StillCreating));
    }
}
