//! The task that owns one pod: it takes one ask after the other. What takes long in a container
//! (a grace, the creation, an exec) is not done here, so nobody waits for it here.

use super::{
    phase::{Effect, Event, Left, Phase, PodUp},
    run,
    size::PodSize,
};
use crate::{
    container,
    core::{Core, Guard},
    error::{EngineError, chain},
    events::{self, From, Reply, ask_all},
    feed::EventKind,
    host::Host,
    index::{ContainerHandle, PodShared},
    names::{ContainerName, Fingerprint},
    record,
    view::PodView,
};
use std::{sync::Arc, time::Duration};
use tokio::{
    runtime::Handle,
    sync::mpsc::{Receiver, WeakSender, channel},
    task::AbortHandle,
};
use types::container::ContainerSpec;

/// What a pod is asked and told.
#[derive(Debug)]
pub(crate) enum Ask {
    /// CreateContainer: answered with the container's handle before the container is made.
    Create { spec: Box<ContainerSpec>, guard: Guard, reply: Reply<ContainerHandle> },
    /// StopPodSandbox.
    Stop(Reply),
    /// RemovePodSandbox.
    Remove(Reply),
    /// UpdatePodSandboxResources.
    Resize { size: Box<PodSize>, reply: Reply },
    /// Its shim has ended by itself.
    ShimLost { message: String },
}

/// The pod, for its task alone.
pub(crate) struct Task<H: Host> {
    pub(super) core: Arc<Core<H>>,
    pub(super) shared: Arc<PodShared>,
    pub(super) phase: Phase,
    /// What UpdatePodSandboxResources told.
    pub(super) size: Option<Arc<PodSize>>,
    /// Listens to the shim while the pod is ready.
    pub(super) listener: Option<AbortHandle>,
    /// The way back to this task, for the listener; it does not keep the task.
    pub(super) me: WeakSender<Ask>,
    /// How often the task was replaced after a panic.
    pub(super) panics: u32,
}

impl<H: Host> Drop for Task<H> {
    fn drop(&mut self) {
        if let Some(listener) = self.listener.take() {
            listener.abort();
        }
        if !(std::thread::panicking() && self.revive()) {
            // They hold what holds them.
            self.shared.let_go();
        }
    }
}

impl<H: Host> Task<H> {
    /// Serves until the pod is removed, or the engine lets go of it.
    pub(super) async fn serve(mut self, mut mailbox: Receiver<Ask>) {
        while let Some(ask) = mailbox.recv().await {
            match ask {
                Ask::Create { spec, guard, reply } => reply.send(self.create(*spec, guard)),
                Ask::Stop(reply) => reply.send(self.stop().await),
                Ask::Resize { size, reply } => reply.send(self.resize(*size).await),
                Ask::ShimLost { message } => self.shim_lost(message).await,
                Ask::Remove(reply) => {
                    let removed = self.remove().await;
                    let gone = removed.is_ok();
                    reply.send(removed);
                    if gone {
                        return;
                    }
                }
            }
        }
    }

    /// A task that panics harms no other: its pod is not ready until it is stopped or removed.
    /// `false`: there is no such pod any more.
    fn revive(&self) -> bool {
        let again = self.panics < events::MOST_PANICS;
        let (true, Ok(runtime)) = (again, Handle::try_current()) else { return false };
        let (sender, mailbox) = channel(events::MAILBOX);
        if !self.core.index.replace_pod_task(&self.shared.plan.id, &sender) {
            return false;
        }
        let (core, shared) = (Arc::clone(&self.core), Arc::clone(&self.shared));
        let (phase, size) = (self.phase.clone(), self.size.clone());
        let me = sender.downgrade();
        let mut task = Task { core, shared, phase, size, listener: None, me, panics: self.panics + 1 };
        runtime.spawn(async move {
            let (message, left) = ("the pod's task has panicked".to_owned(), Left::Something);
            let (event, was_ready) = match &task.phase {
                Phase::Creating => (Event::Failed { left, message }, false),
                Phase::Ready(_) => (Event::ShimLost { message }, true),
                Phase::NotReady { .. } => (Event::TornDown { left, message }, false),
            };
            if let Err(error) = task.apply("pod.not_ready", event).await {
                tracing::error!(pod = %task.shared.plan.id, error = chain(&error), "a state is not recorded");
            }
            if was_ready {
                // Its containers run on, until it is stopped: their ends are heard.
                task.listen(From::Nothing);
            }
            task.serve(mailbox).await;
        });
        true
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
        let was_ready = matches!(self.phase, Phase::Ready(_));
        self.phase = phase;
        let recorded = self.record(point).await;
        self.show();
        let kinds: &[EventKind] = match (was_ready, &self.phase) {
            // A sandbox is there when it is ready: both at once, as containerd tells it.
            (false, Phase::Ready(_)) => &[EventKind::Created, EventKind::Started],
            (true, Phase::NotReady { .. }) => &[EventKind::Stopped],
            (_, Phase::Creating | Phase::Ready(_) | Phase::NotReady { .. }) => &[],
        };
        for kind in kinds {
            self.core.tell(*kind, &self.shared.plan.id, None);
        }
        recorded.map(|()| effect)
    }

    async fn record(&self, point: &'static str) -> Result<(), EngineError> {
        let change = record::put_pod(&self.shared.plan, &self.phase, self.size.as_deref());
        self.core.commit(point, change).await
    }

    /// Keeps what the kubelet told of the pod's size. The pod's cgroup is the kubelet's own, and it
    /// has resized it already.
    async fn resize(&mut self, told: PodSize) -> Result<(), EngineError> {
        let before = self.size.replace(Arc::new(match &self.size {
            Some(before) => before.with(told),
            None => told,
        }));
        let recorded = self.record("pod.resized").await;
        if recorded.is_err() {
            self.size = before;
        }
        self.show();
        recorded
    }

    pub(super) fn show(&self) {
        let (plan, phase) = (Arc::clone(&self.shared.plan), self.phase.clone());
        self.core.index.show_pod(PodView { plan, phase, size: self.size.clone() });
    }

    pub(super) fn listen(&mut self, from: From) {
        let (core, shared) = (Arc::clone(&self.core), Arc::clone(&self.shared));
        self.listener = Some(events::listen(core, shared, self.me.clone(), from));
    }

    fn create(&mut self, spec: ContainerSpec, guard: Guard) -> Result<ContainerHandle, EngineError> {
        if let Some(has) = self.shared.named(&ContainerName::of(&spec)) {
            return match has.fingerprint == Fingerprint::of(&spec) {
                true => Ok(has),
                false => Err(EngineError::AlreadyExists {
                    what: "container",
                    name: has.name.to_string(),
                    id: has.id.to_string(),
                }),
            };
        }
        let up = self.ready()?.clone();
        let most = self.core.config.limits.max_containers_per_pod;
        if self.shared.children().len() >= most {
            let why = format!("the pod sandbox has {most} containers, the most allowed");
            return Err(EngineError::exhausted(why));
        }
        Ok(container::new(&self.core, &self.shared, up, spec, guard))
    }

    fn ready(&self) -> Result<&PodUp, EngineError> {
        match &self.phase {
            Phase::Ready(up) => Ok(up),
            Phase::Creating | Phase::NotReady { .. } => {
                Err(EngineError::precondition("the pod sandbox is not ready: it takes no containers"))
            }
        }
    }

    async fn stop(&mut self) -> Result<(), EngineError> {
        match self.apply("", Event::StopAsked).await? {
            Effect::TearDown => self.take_down().await,
            Effect::Nothing | Effect::Publish | Effect::Forget => Ok(()),
        }
    }

    /// Ends the containers, whose exits are recorded, and then all that the plan names.
    async fn take_down(&mut self) -> Result<(), EngineError> {
        ask_all(&self.shared, |reply| container::task::Ask::Stop { grace: Duration::ZERO, reply }).await?;
        if let Some(listener) = self.listener.take() {
            listener.abort();
        }
        let torn = run::tear_down(&self.core, &self.shared.plan).await;
        let event = match &torn {
            Ok(()) => Event::TornDown { left: Left::Nothing, message: String::new() },
            Err(error) => Event::TornDown { left: Left::Something, message: chain(error) },
        };
        let recorded = self.apply("pod.stopped", event).await;
        torn.map_err(|error| EngineError::host("cannot stop the pod sandbox", error))?;
        recorded.map(|_| ())
    }

    async fn remove(&mut self) -> Result<(), EngineError> {
        match self.apply("", Event::RemoveAsked).await? {
            Effect::TearDown => self.take_down().await?,
            Effect::Nothing | Effect::Publish | Effect::Forget => {}
        }
        ask_all(&self.shared, container::task::Ask::Remove).await?;
        let plan = &self.shared.plan;
        // Once more: the directory of the containers' layers is empty only now.
        let dropped = self.core.step("pod.drop_dirs", self.core.host.drop_pod_dirs(plan)).await;
        dropped.map_err(|error| EngineError::host("cannot remove the pod sandbox", error))?;
        self.core.commit("pod.removed", record::remove_pod(plan)).await?;
        self.core.tell(EventKind::Deleted, &plan.id, None);
        self.core.index.remove_pod(&plan.id);
        Ok(())
    }

    /// The shim has died: nobody would see the end of the containers, so they are ended.
    pub(super) async fn shim_lost(&mut self, message: String) {
        if let Err(error) = ask_all(&self.shared, container::task::Ask::ShimLost).await {
            tracing::error!(pod = %self.shared.plan.id, error = chain(&error), "containers without a shim");
        }
        tracing::warn!(pod = %self.shared.plan.id, message, "the pod is not ready");
        if let Err(error) = self.apply("pod.not_ready", Event::ShimLost { message }).await {
            tracing::error!(pod = %self.shared.plan.id, error = chain(&error), "a state is not recorded");
        }
    }
}
