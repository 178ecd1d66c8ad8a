//! The task that owns one container: it takes one ask after the other, and no ask waits for the end
//! of a grace period (`stop.rs`).

use super::{
    phase::{Effect, Event, Phase},
    plan::ContainerPlan,
    run,
    stop::Ending,
};
use crate::{
    core::Core,
    error::{EngineError, chain},
    events::{MAILBOX, MOST_PANICS, Reply},
    feed::EventKind,
    host::{Exit, Host, Life, Limits},
    index::PodShared,
    record,
    view::ContainerView,
};
use std::{sync::Arc, time::Duration};
use tokio::{runtime::Handle, sync::mpsc, time::sleep_until};
use types::{Timestamp, container::Resources};

/// What a container is asked and told.
#[derive(Debug)]
pub(crate) enum Ask {
    /// StartContainer.
    Start(Reply),
    /// StopContainer, and StopPodSandbox without a grace.
    Stop { grace: Duration, reply: Reply },
    /// RemoveContainer.
    Remove(Reply),
    /// UpdateContainerResources.
    Update { asked: Box<Resources>, reply: Reply },
    /// ReopenContainerLog.
    ReopenLog(Reply),
    /// Its shim recorded its end.
    Exited(Exit),
    /// Its shim has died.
    ShimLost(Reply),
    /// After a restart: what its shim knows of it.
    Found { life: Option<Life>, reply: Reply },
}

/// The container, for its task alone.
pub(crate) struct Task<H: Host> {
    pub(super) core: Arc<Core<H>>,
    pub(super) pod: Arc<PodShared>,
    pub(super) plan: Arc<ContainerPlan>,
    pub(super) phase: Phase,
    pub(super) ending: Option<Ending>,
    /// The limits before an update that is not finished.
    pub(super) undo: Option<Limits>,
    /// How often the task was replaced after a panic.
    pub(super) panics: u32,
}

impl<H: Host> Drop for Task<H> {
    /// A task that panics harms no other: its container is unknown until it is stopped or removed.
    fn drop(&mut self) {
        let again = std::thread::panicking() && self.panics < MOST_PANICS;
        let (true, Ok(runtime)) = (again, Handle::try_current()) else { return };
        let (sender, mailbox) = mpsc::channel(MAILBOX);
        if !self.core.index.replace_container_task(&self.plan.id, &sender) {
            return;
        }
        self.pod.replace_task(&self.plan.id, &sender);
        let (core, pod, plan) = (Arc::clone(&self.core), Arc::clone(&self.pod), Arc::clone(&self.plan));
        let (phase, undo) = (self.phase.clone(), self.undo.clone());
        let mut task = Task { core, pod, plan, phase, ending: None, undo, panics: self.panics + 1 };
        runtime.spawn(async move {
            let doubt = Event::Doubtful { message: "the container's task has panicked".to_owned() };
            if let Err(error) = task.apply("container.doubtful", doubt).await {
                tracing::error!(container = %task.plan.id, error = chain(&error), "a state is not recorded");
            }
            task.serve(mailbox).await;
        });
    }
}

/// Whether the object is still there.
enum Still {
    There,
    Gone,
}

impl<H: Host> Task<H> {
    /// Serves until the container is removed, or the engine lets go of it.
    pub(super) async fn serve(mut self, mut mailbox: mpsc::Receiver<Ask>) {
        loop {
            let ask = match self.ending.as_ref().map(Ending::until) {
                None => mailbox.recv().await,
                Some(until) => tokio::select! {
                    ask = mailbox.recv() => ask,
                    () = sleep_until(until) => {
                        self.escalate().await;
                        continue;
                    }
                },
            };
            let Some(ask) = ask else { return };
            match self.take(ask).await {
                Still::There => {}
                Still::Gone => return,
            }
        }
    }

    async fn take(&mut self, ask: Ask) -> Still {
        match ask {
            Ask::Start(reply) => reply.send(self.start().await),
            Ask::Stop { grace, reply } => self.stop(grace, reply).await,
            Ask::Update { asked, reply } => reply.send(self.update(&asked).await),
            Ask::ReopenLog(reply) => reply.send(self.reopen_log().await),
            Ask::Exited(exit) => self.exited(exit).await,
            Ask::ShimLost(reply) => {
                let settled = self.settle("the pod's shim has died, and left no record of its end").await;
                self.end_stop(&settled);
                reply.send(settled);
            }
            Ask::Found { life, reply } => reply.send(self.found(life).await),
            Ask::Remove(reply) => {
                let removed = self.remove().await;
                let gone = removed.is_ok();
                reply.send(removed);
                if gone {
                    return Still::Gone;
                }
            }
        }
        Still::There
    }

    /// Takes an event in: what changed is recorded, then shown.
    ///
    /// # Errors
    /// `FailedPrecondition` if it cannot be in this phase; `Internal` if it could not be recorded
    /// (it is shown all the same: it did happen).
    pub(super) async fn apply(&mut self, point: &'static str, event: Event) -> Result<Effect, EngineError> {
        let (phase, effect) =
            self.phase.next(event).map_err(|denied| EngineError::precondition(denied.to_string()))?;
        if effect != Effect::Publish {
            return Ok(effect);
        }
        self.phase = phase;
        let recorded = self.record(point).await;
        self.show();
        let kind = match &self.phase {
            Phase::Created { .. } => Some(EventKind::Created),
            Phase::Running { .. } => Some(EventKind::Started),
            Phase::Exited(_) => Some(EventKind::Stopped),
            // The CRI has no event for it: it is told when it is known to have ended.
            Phase::Creating | Phase::Unknown { .. } => None,
        };
        if let Some(kind) = kind {
            self.tell(kind);
        }
        recorded.map(|()| effect)
    }

    pub(super) async fn record(&self, point: &'static str) -> Result<(), EngineError> {
        let change = record::put_container(&self.plan, &self.phase, self.undo.as_ref());
        self.core.commit(point, change).await
    }

    pub(super) fn tell(&self, kind: EventKind) {
        self.core.tell(kind, &self.plan.pod, Some(&self.plan.id));
    }

    pub(super) fn show(&self) {
        self.core
            .index
            .show_container(ContainerView { plan: Arc::clone(&self.plan), phase: self.phase.clone() });
    }

    async fn start(&mut self) -> Result<(), EngineError> {
        self.apply("", Event::StartAsked).await?;
        let core = Arc::clone(&self.core);
        let error = match core.step("container.start", core.host.start(&self.pod.plan, &self.plan)).await {
            Ok(started) => {
                self.apply("container.running", Event::Started { at: started.at }).await?;
                return Ok(());
            }
            Err(error) => error,
        };
        // It must not be called exited while its process may live.
        let message = chain(&error);
        let killed = core.host.kill_group(&self.pod.plan, &self.plan);
        let event = match core.step("container.kill_group", killed).await {
            Ok(()) => Event::StartFailed { at: core.now(), message },
            Err(left) => Event::Doubtful { message: format!("{message}; {}", chain(&left)) },
        };
        self.apply("container.start_failed", event).await?;
        Err(EngineError::host("cannot start the container", error))
    }

    async fn reopen_log(&mut self) -> Result<(), EngineError> {
        match &self.phase {
            Phase::Running { .. } => {
                let reopened = self.core.host.reopen_log(&self.pod.plan, &self.plan);
                let reopened = self.core.step("container.reopen_log", reopened).await;
                reopened.map_err(|error| EngineError::host("cannot reopen the container's log", error))
            }
            Phase::Creating | Phase::Created { .. } | Phase::Exited(_) | Phase::Unknown { .. } => {
                Err(EngineError::precondition("the container is not running: its log is not written"))
            }
        }
    }

    async fn exited(&mut self, exit: Exit) {
        let applied = self.apply("container.exited", Event::Died(exit)).await.map(|_| ());
        if let Err(error) = &applied {
            tracing::error!(container = %self.plan.id, error = chain(error), "an exit is not recorded");
        }
        self.end_stop(&applied);
    }

    /// Makes sure that no process of it lives and finds out how it ended, without the shim.
    pub(super) async fn settle(&mut self, message: &str) -> Result<(), EngineError> {
        match &self.phase {
            Phase::Exited(_) => return Ok(()),
            Phase::Creating | Phase::Created { .. } | Phase::Running { .. } | Phase::Unknown { .. } => {}
        }
        let core = Arc::clone(&self.core);
        let killed = core.host.kill_group(&self.pod.plan, &self.plan);
        if let Err(error) = core.step("container.kill_group", killed).await {
            self.apply("container.doubtful", Event::Doubtful { message: chain(&error) }).await?;
            return Err(EngineError::host("cannot end the container's processes", error));
        }
        let event = match core.host.recorded_exit(&self.pod.plan, &self.plan).await {
            Ok(Some(exit)) => Event::Died(exit),
            Ok(None) => Event::Lost { at: core.now(), message: message.to_owned() },
            Err(error) => Event::Lost { at: core.now(), message: format!("{message}: {}", chain(&error)) },
        };
        self.apply("container.exited", event).await.map(|_| ())
    }

    /// After a restart: what happened meanwhile.
    async fn found(&mut self, life: Option<Life>) -> Result<(), EngineError> {
        match (&self.phase, life) {
            (Phase::Exited(_), _) => Ok(()),
            (Phase::Created { .. }, Some(Life::Running { at, .. })) => {
                self.apply("container.running", Event::Started { at }).await.map(|_| ())
            }
            (phase, Some(Life::Exited { started_at, exit })) => {
                if matches!(phase, Phase::Created { .. }) && started_at != Timestamp::NEVER {
                    self.apply("container.running", Event::Started { at: started_at }).await?;
                }
                self.apply("container.exited", Event::Died(exit)).await.map(|_| ())
            }
            (
                Phase::Creating | Phase::Created { .. } | Phase::Running { .. } | Phase::Unknown { .. },
                Some(Life::Created { .. } | Life::Running { .. }),
            ) => Ok(()),
            (_, None) => self.settle("its shim does not know it any more, and left no record").await,
        }
    }

    async fn remove(&mut self) -> Result<(), EngineError> {
        self.apply("", Event::RemoveAsked).await?;
        let dropped = run::tear_down(&self.core, &self.pod.plan, &self.plan).await;
        dropped.map_err(|error| EngineError::host("cannot remove the container", error))?;
        self.core.commit("container.removed", record::remove_container(&self.plan)).await?;
        self.forget();
        self.tell(EventKind::Deleted);
        self.end_stop(&Ok(()));
        Ok(())
    }

    pub(super) fn forget(&self) {
        self.pod.remove(&self.plan.id);
        self.core.index.remove_container(&self.plan.id);
    }
}
