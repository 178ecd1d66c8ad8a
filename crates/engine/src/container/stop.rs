//! StopContainer: a signal, a grace, then force. The container's task goes on meanwhile.
//!
//! ```text
//!  stop signal --grace--> SIGKILL by the shim --KILL_WAIT--> the cgroup is killed --REPORT_WAIT--> settled
//!      |                      |                                  |
//!      +------- exit ---------+-------------- exit --------------+--> all who wait are answered
//! ```
//! Each stage has a bound, so that a shim that hangs keeps nobody waiting for ever.

use super::{
    phase::{Effect, Event},
    task::Task,
};
use crate::{
    error::{EngineError, chain},
    events::Reply,
    host::{Fault, Host, Whom},
};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use types::signal::Signal;

/// How long a shim may take to tell the exit of what it killed.
const KILL_WAIT: Duration = Duration::from_secs(4);
/// How long it may take to tell the exit of what was killed without it.
const REPORT_WAIT: Duration = Duration::from_secs(1);
/// Longer graces (an i64 of seconds in the request) do not fit every clock.
const MAX_GRACE: Duration = Duration::from_secs(365 * 24 * 3600);

/// A stop under way.
#[derive(Debug)]
pub(super) struct Ending {
    stage: Stage,
    until: Instant,
    waiters: Vec<Reply>,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// The stop signal was sent.
    Asked,
    /// The shim was told to kill.
    Killed,
    /// The cgroup was killed.
    Forced,
}

impl Ending {
    /// When to go on by force.
    pub(super) fn until(&self) -> Instant {
        self.until
    }
}

impl<H: Host> Task<H> {
    pub(super) async fn stop(&mut self, grace: Duration, reply: Reply) {
        let grace = grace.min(MAX_GRACE);
        let effect = self.phase.next(Event::StopAsked).map(|(_, effect)| effect);
        match effect {
            Ok(Effect::Signal) => self.begin_stop(grace, reply).await,
            Ok(Effect::Kill) => self.begin_stop(Duration::ZERO, reply).await,
            Ok(Effect::Settle) => {
                let settled = self.settle("nobody knew whether it lived; it was killed").await;
                reply.send(settled);
            }
            Ok(Effect::Nothing | Effect::Publish | Effect::Start | Effect::Drop | Effect::Forget) => {
                reply.send(Ok(()));
            }
            Err(denied) => reply.send(Err(EngineError::precondition(denied.to_string()))),
        }
    }

    /// Sends the first signal, or shortens the grace of a stop that is under way.
    async fn begin_stop(&mut self, grace: Duration, reply: Reply) {
        let until = Instant::now() + grace;
        let first = self.ending.is_none();
        let ending =
            self.ending.get_or_insert_with(|| Ending { stage: Stage::Asked, until, waiters: vec![] });
        ending.waiters.push(reply.idle());
        match ending.stage {
            Stage::Asked => ending.until = ending.until.min(until),
            Stage::Killed | Stage::Forced => return,
        }
        if grace.is_zero() {
            self.kill().await;
        } else if first {
            let core = Arc::clone(&self.core);
            let sent = core.host.signal(&self.pod.plan, &self.plan, self.plan.stop_signal, Whom::Init);
            if let Err(error) = core.step("container.signal", sent).await {
                tracing::warn!(container = %self.plan.id, error = chain(&error), "no stop signal: killing");
                self.kill().await;
            }
        }
    }

    /// The bound of a stage has passed.
    pub(super) async fn escalate(&mut self) {
        match self.ending.as_ref().map(|ending| ending.stage) {
            Some(Stage::Asked) => self.kill().await,
            Some(Stage::Killed) => self.force().await,
            Some(Stage::Forced) => self.give_up_on_shim().await,
            None => {}
        }
    }

    async fn kill(&mut self) {
        let core = Arc::clone(&self.core);
        let sent = core.host.signal(&self.pod.plan, &self.plan, Signal::KILL, Whom::All);
        match core.step("container.kill", sent).await {
            Ok(()) => self.wait_for(Stage::Killed, KILL_WAIT),
            Err(error) if error.fault == Fault::ShimGone => self.give_up_on_shim().await,
            Err(error) => {
                tracing::warn!(container = %self.plan.id, error = chain(&error), "the shim does not kill");
                self.force().await;
            }
        }
    }

    async fn force(&mut self) {
        let core = Arc::clone(&self.core);
        let killed = core.host.kill_group(&self.pod.plan, &self.plan);
        match core.step("container.kill_group", killed).await {
            Ok(()) => self.wait_for(Stage::Forced, REPORT_WAIT),
            Err(error) => {
                let doubt = Event::Doubtful { message: chain(&error) };
                if let Err(error) = self.apply("container.doubtful", doubt).await {
                    tracing::error!(container = %self.plan.id, error = chain(&error), "a state is not recorded");
                }
                self.end_stop(&Err(EngineError::host("cannot end the container's processes", error)));
            }
        }
    }

    async fn give_up_on_shim(&mut self) {
        let settled = self.settle("it was killed, and its shim did not tell its end").await;
        self.end_stop(&settled);
    }

    fn wait_for(&mut self, stage: Stage, bound: Duration) {
        if let Some(ending) = &mut self.ending {
            ending.stage = stage;
            ending.until = Instant::now() + bound;
        }
    }

    /// Answers all who wait for the container's end.
    pub(super) fn end_stop(&mut self, result: &Result<(), EngineError>) {
        for waiter in self.ending.take().into_iter().flat_map(|ending| ending.waiters) {
            waiter.send(result.clone());
        }
    }
}
