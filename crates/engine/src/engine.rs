//! The engine's door: one method a call. Each finds the object, asks its task and waits; if the
//! caller goes away, the work goes on.

use crate::{
    container,
    core::{Core, Guard, Parts},
    error::EngineError,
    events::ask,
    feed::Subscription,
    host::{Exec, ExecOutput, Host},
    index::{Claim, ContainerHandle, NoSuch, PodHandle, born},
    names::{Fingerprint, PodName},
    pod, recover,
    view::{ContainerFilter, ContainerState, ContainerView, PodFilter, PodView},
};
use std::{fmt, sync::Arc, time::Duration};
use types::{
    ContainerId, PodId,
    container::{ContainerSpec, Resources},
    pod::PodSpec,
};

/// Pods and containers. Clones are the same engine.
///
/// Ids are given as text: the whole id, or a start that only one object has.
pub struct Engine<H> {
    core: Arc<Core<H>>,
}

impl<H> Clone for Engine<H> {
    fn clone(&self) -> Self {
        Engine { core: Arc::clone(&self.core) }
    }
}

impl<H> fmt::Debug for Engine<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Engine")
    }
}

impl<H: Host> Engine<H> {
    /// Takes up what the store knows, and is then ready for calls.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn start(parts: Parts<H>) -> Result<Self, EngineError> {
        let core = Arc::new(Core::new(parts));
        recover::recover(&core).await?;
        Ok(Engine { core })
    }

    /// Refuses new work, waits until what was begun is done (a StopContainer in its grace is not
    /// waited for), and lets go of all tasks. Pods go on without it.
    pub async fn shutdown(&self) {
        self.core.work.finish().await;
        self.core.index.clear();
    }

    /// The machine, for who has to ask it something that is no engine's business.
    #[must_use]
    pub fn host(&self) -> &H {
        &self.core.host
    }

    // --- pods ---

    /// RunPodSandbox: when it answers the pod is ready.
    ///
    /// # Errors
    /// Any; then nothing of it is left, or it is shown as not ready until it is removed.
    pub async fn run_pod(&self, spec: PodSpec) -> Result<PodId, EngineError> {
        let guard = self.core.work.begin()?;
        let (name, fingerprint) = (PodName::of(&spec), Fingerprint::of(&spec));
        let (core, most) = (&self.core, self.core.config.limits.max_pods);
        let claim = core.index.claim_pod(
            name,
            fingerprint,
            most,
            || core.random(),
            |id| pod::new(core, id, spec, guard),
        )?;
        let (Claim::New(handle) | Claim::Same(handle)) = claim;
        born(handle.born, "pod sandbox").await?;
        Ok(handle.id)
    }

    /// StopPodSandbox: ends its containers, detaches it, drops all that it owns but its containers'
    /// layers and logs. Again and again without harm; an unknown pod is stopped.
    ///
    /// # Errors
    /// If something is left; then it is asked again.
    pub async fn stop_pod(&self, pod: &str) -> Result<(), EngineError> {
        let guard = self.core.work.begin()?;
        let Some(handle) = gone_is_fine(self.pod_handle(pod))? else { return Ok(()) };
        let asked = ask(&handle.task, Some(guard), pod::task::Ask::Stop).await;
        asked.unwrap_or_else(|| self.pod_went(&handle))
    }

    /// RemovePodSandbox: stops it and forgets it with its containers. An unknown pod is removed.
    ///
    /// # Errors
    /// If something is left; then it is asked again.
    pub async fn remove_pod(&self, pod: &str) -> Result<(), EngineError> {
        let guard = self.core.work.begin()?;
        let Some(handle) = gone_is_fine(self.pod_handle(pod))? else { return Ok(()) };
        let asked = ask(&handle.task, Some(guard), pod::task::Ask::Remove).await;
        asked.unwrap_or_else(|| self.pod_went(&handle))
    }

    /// PodSandboxStatus.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for the start of several ids.
    pub fn pod(&self, pod: &str) -> Result<Arc<PodView>, EngineError> {
        let (_, view) = self.core.index.pod(pod).map_err(|no| no_such("pod sandbox", pod, no))?;
        view.ok_or_else(|| no_such("pod sandbox", pod, NoSuch::Unknown))
    }

    /// ListPodSandbox, by id.
    #[must_use]
    pub fn pods(&self, filter: &PodFilter) -> Vec<Arc<PodView>> {
        self.core.index.pods(filter)
    }

    /// UpdatePodSandboxResources: kept with the pod. What is not told stays.
    ///
    /// # Errors
    /// `NotFound`; `Internal` if it could not be recorded.
    pub async fn resize_pod(&self, pod: &str, size: pod::PodSize) -> Result<(), EngineError> {
        let guard = self.core.work.begin()?;
        let handle = self.pod_handle(pod)?;
        let size = Box::new(size);
        let asked = ask(&handle.task, Some(guard), |reply| pod::task::Ask::Resize { size, reply }).await;
        asked.unwrap_or_else(|| Err(no_such("pod sandbox", pod, NoSuch::Unknown)))
    }

    /// GetContainerEvents: what happens from now on, and before it what nobody was told yet.
    #[must_use]
    pub fn events(&self) -> Subscription {
        self.core.feed.subscribe()
    }

    /// Ends all subscriptions of events, so that a server with open streams can end.
    pub fn end_events(&self) {
        self.core.feed.stop();
    }

    // --- containers ---

    /// CreateContainer: when it answers the container's process waits to be started.
    ///
    /// # Errors
    /// Any; then nothing of it is left, or it is shown as unknown until it is removed.
    pub async fn create_container(&self, pod: &str, spec: ContainerSpec) -> Result<ContainerId, EngineError> {
        let guard = self.core.work.begin()?;
        let handle = self.pod_handle(pod)?;
        let spec = Box::new(spec);
        let asked = ask(&handle.task, None, |reply| pod::task::Ask::Create { spec, guard, reply }).await;
        let container = asked.unwrap_or_else(|| Err(no_such("pod sandbox", pod, NoSuch::Unknown)))?;
        born(container.born, "container").await?;
        Ok(container.id)
    }

    /// StartContainer.
    ///
    /// # Errors
    /// `FailedPrecondition` if it was started before; if its program cannot be executed it is exited
    /// then.
    pub async fn start_container(&self, container: &str) -> Result<(), EngineError> {
        self.ask_container(container, Some(self.core.work.begin()?), container::task::Ask::Start).await
    }

    /// StopContainer: the stop signal, then SIGKILL after `grace` (at once if zero). It answers when
    /// the container has ended; an unknown container is stopped.
    ///
    /// # Errors
    /// If it could not be ended.
    pub async fn stop_container(&self, container: &str, grace: Duration) -> Result<(), EngineError> {
        let guard = self.core.work.begin()?;
        let Some(handle) = gone_is_fine(self.container_handle(container))? else { return Ok(()) };
        let asked = ask(&handle.task, Some(guard), |reply| container::task::Ask::Stop { grace, reply });
        asked.await.unwrap_or_else(|| self.container_went(&handle))
    }

    /// RemoveContainer: by force, if it runs. An unknown container is removed.
    ///
    /// # Errors
    /// If something is left; then it is asked again.
    pub async fn remove_container(&self, container: &str) -> Result<(), EngineError> {
        let guard = self.core.work.begin()?;
        let Some(handle) = gone_is_fine(self.container_handle(container))? else { return Ok(()) };
        let asked = ask(&handle.task, Some(guard), container::task::Ask::Remove).await;
        asked.unwrap_or_else(|| self.container_went(&handle))
    }

    /// ContainerStatus.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for the start of several ids.
    pub fn container(&self, container: &str) -> Result<Arc<ContainerView>, EngineError> {
        let found = self.core.index.container(container);
        let (_, view) = found.map_err(|no| no_such("container", container, no))?;
        view.ok_or_else(|| no_such("container", container, NoSuch::Unknown))
    }

    /// ListContainers, by id.
    #[must_use]
    pub fn containers(&self, filter: &ContainerFilter) -> Vec<Arc<ContainerView>> {
        self.core.index.containers(filter)
    }

    /// UpdateContainerResources of a created or running container: all of it or nothing. What is not
    /// asked for stays.
    ///
    /// # Errors
    /// `FailedPrecondition` if it has ended; `InvalidArgument` for limits that cannot be. The limits
    /// are as they were then.
    pub async fn update_container(&self, container: &str, asked: Resources) -> Result<(), EngineError> {
        let (guard, asked) = (self.core.work.begin()?, Box::new(asked));
        let make = |reply| container::task::Ask::Update { asked, reply };
        self.ask_container(container, Some(guard), make).await
    }

    /// ReopenContainerLog.
    ///
    /// # Errors
    /// `FailedPrecondition` if it does not run; then there is no new file.
    pub async fn reopen_log(&self, container: &str) -> Result<(), EngineError> {
        self.ask_container(container, Some(self.core.work.begin()?), container::task::Ask::ReopenLog).await
    }

    /// Why log lines of a running container wait to be written, if they do. It asks the shim: for
    /// the status of one container, not for lists.
    pub async fn log_trouble(&self, container: &ContainerView) -> Option<String> {
        let pod = self.pod(container.plan.pod.as_str()).ok()?;
        match container.state() {
            ContainerState::Running => {
                self.core.host.log_trouble(&pod.plan, &container.plan).await.ok().flatten()
            }
            ContainerState::Created | ContainerState::Exited | ContainerState::Unknown => None,
        }
    }

    /// ExecSync. An exit code that is not 0 is an answer; `timeout` `None` is none.
    ///
    /// # Errors
    /// `FailedPrecondition` if the container does not run; `DeadlineExceeded` if the command was
    /// killed for its time; `InvalidArgument` for an empty command.
    pub async fn exec_sync(
        &self,
        container: &str,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, EngineError> {
        if command.is_empty() {
            return Err(EngineError::invalid("cmd", "it is empty"));
        }
        let view = self.container(container)?;
        match view.state() {
            ContainerState::Running => {}
            ContainerState::Created | ContainerState::Exited | ContainerState::Unknown => {
                return Err(EngineError::precondition("the container is not running"));
            }
        }
        let pod = self.pod(view.plan.pod.as_str())?;
        let settings = &self.core.config.exec;
        let exec = Exec { command, timeout, output_cap: settings.output_cap, drain: settings.drain() };
        let said = self.core.host.exec_sync(&pod.plan, &view.plan, &exec).await;
        let said = said.map_err(|error| EngineError::host("cannot run the command", error))?;
        match said.timed_out {
            false => Ok(said),
            true => Err(EngineError::DeadlineExceeded {
                doing: format!("the command was killed after {:?}", timeout.unwrap_or_default()),
                source: None,
            }),
        }
    }

    async fn ask_container(
        &self,
        text: &str,
        guard: Option<Guard>,
        make: impl FnOnce(crate::events::Reply) -> container::task::Ask,
    ) -> Result<(), EngineError> {
        let handle = self.container_handle(text)?;
        let asked = ask(&handle.task, guard, make).await;
        asked.unwrap_or_else(|| Err(no_such("container", text, NoSuch::Unknown)))
    }

    /// No answer came: the pod is gone, which is fine, or its task has panicked.
    fn pod_went(&self, handle: &PodHandle) -> Result<(), EngineError> {
        match self.core.index.pod(handle.id.as_str()) {
            Ok(_) => Err(EngineError::task_died("pod sandbox")),
            Err(_) => Ok(()),
        }
    }

    fn container_went(&self, handle: &ContainerHandle) -> Result<(), EngineError> {
        match self.core.index.container(handle.id.as_str()) {
            Ok(_) => Err(EngineError::task_died("container")),
            Err(_) => Ok(()),
        }
    }

    fn pod_handle(&self, text: &str) -> Result<PodHandle, EngineError> {
        let found = self.core.index.pod(text);
        found.map(|(handle, _)| handle).map_err(|no| no_such("pod sandbox", text, no))
    }

    fn container_handle(&self, text: &str) -> Result<ContainerHandle, EngineError> {
        let found = self.core.index.container(text);
        found.map(|(handle, _)| handle).map_err(|no| no_such("container", text, no))
    }
}

fn no_such(what: &'static str, id: &str, no: NoSuch) -> EngineError {
    match no {
        NoSuch::Unknown => EngineError::NotFound { what, id: id.to_owned(), source: None },
        NoSuch::Ambiguous => EngineError::invalid("id", format!("several {what} ids begin so")),
    }
}

/// Stop and Remove of what is not there have succeeded.
fn gone_is_fine<T>(found: Result<T, EngineError>) -> Result<Option<T>, EngineError> {
    match found {
        Ok(handle) => Ok(Some(handle)),
        Err(EngineError::NotFound { .. }) => Ok(None),
        Err(
            other @ (EngineError::AlreadyExists { .. }
            | EngineError::FailedPrecondition { .. }
            | EngineError::InvalidArgument { .. }
            | EngineError::ResourceExhausted { .. }
            | EngineError::DeadlineExceeded { .. }
            | EngineError::Unavailable
            | EngineError::Internal { .. }),
        ) => Err(other),
    }
}

#[cfg(test)]
impl<H: Host> Engine<H> {
    /// How many records a table has.
    pub(crate) fn records(&self, table: store::Table) -> usize {
        self.core.store().scan(table).expect("readable").len()
    }
}
