//! How a container's task begins: with a request, or with a record that was found.

use super::{
    phase::{Event, Phase},
    plan::{self, ContainerPlan},
    run,
    task::Task,
};
use crate::{
    core::{Core, Guard},
    error::{EngineError, chain},
    events::MAILBOX,
    host::Host,
    index::{ContainerHandle, PodShared},
    names::{ContainerName, Fingerprint},
    pod::PodUp,
    record::{self, FoundContainer},
    view::ContainerState,
};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use types::{
    ContainerId,
    container::{ContainerSpec, PidMode},
};

/// Starts the task of a container that is asked for; it makes it, and then serves it.
pub(crate) fn new<H: Host>(
    core: &Arc<Core<H>>,
    pod: &Arc<PodShared>,
    up: PodUp,
    spec: ContainerSpec,
    guard: Guard,
) -> ContainerHandle {
    let (task, mailbox) = mpsc::channel(MAILBOX);
    let (told, born) = watch::channel(None);
    let name = ContainerName::of(&spec);
    let fingerprint = Fingerprint::of(&spec);
    let handle = core
        .index
        .add_container(|| core.random(), |id| ContainerHandle { id, name, fingerprint, task, born });
    pod.add(handle.clone());
    let (core, pod, id) = (Arc::clone(core), Arc::clone(pod), handle.id.clone());
    tokio::spawn(async move {
        let made = make(&core, &pod, &up, id.clone(), spec).await;
        if matches!(made, Made::Nothing(_)) {
            // Before it is told, so that who asks again is not led to what is gone.
            pod.remove(&id);
            core.index.remove_container(&id);
        }
        let (task, result) = match made {
            Made::Container(task) => (Some(task), Ok(())),
            Made::Remains(task, error) => (Some(task), Err(error)),
            Made::Nothing(error) => (None, Err(error)),
        };
        told.send_replace(Some(result));
        drop(guard);
        if let Some(task) = task {
            task.serve(mailbox).await;
        }
    });
    handle
}

/// The first process of the container whose PID namespace is asked for (`TARGET`): it must be of the
/// same pod, and run. That it is still the same when the namespace was joined is the host's to see.
fn target<H: Host>(
    core: &Core<H>,
    pod: &PodShared,
    plan: &ContainerPlan,
) -> Result<Option<u32>, EngineError> {
    let PidMode::Target(id) = &plan.spec.security.namespaces.pid else { return Ok(None) };
    let field = "config.linux.security_context.namespace_options.target_id";
    let found = core.index.container(id).ok().and_then(|(_, view)| view);
    let Some(view) = found.filter(|view| view.plan.pod == pod.plan.id) else {
        return Err(EngineError::invalid(field, "names no container of this pod sandbox"));
    };
    match (view.state(), view.pid()) {
        (ContainerState::Running, Some(pid)) => Ok(Some(pid)),
        (state, _) => Err(EngineError::precondition(format!(
            "{field}: the container {} is {}, and must be running",
            view.plan.id,
            format!("{state:?}").to_lowercase()
        ))),
    }
}

/// What became of a request.
enum Made<H: Host> {
    Container(Task<H>),
    /// It failed, and something of it could not be dropped: it is kept, so that Remove finishes it.
    Remains(Task<H>, EngineError),
    Nothing(EngineError),
}

async fn make<H: Host>(
    core: &Arc<Core<H>>,
    pod: &Arc<PodShared>,
    up: &PodUp,
    id: ContainerId,
    spec: ContainerSpec,
) -> Made<H> {
    let doing = "cannot create the container";
    // Up to the first commit nothing is touched.
    let decided = async {
        let image = core.host.image(&spec).await;
        let image = image.map_err(|error| EngineError::image(&spec.image, doing, error))?;
        let plan = plan::plan(&pod.plan, id, spec, image, core.now())?;
        let target = target(core, pod, &plan)?;
        let oci = plan::oci_spec(&pod.plan, up, target, &plan)?;
        core.commit("container.planned", record::put_container(&plan, &Phase::Creating, None)).await?;
        Ok((plan, oci))
    };
    let (plan, oci) = match decided.await {
        Ok(decided) => decided,
        Err(error) => return Made::Nothing(error),
    };
    let (core, pod, plan) = (Arc::clone(core), Arc::clone(pod), Arc::new(plan));
    let mut task = Task { core, pod, plan, phase: Phase::Creating, ending: None, undo: None, panics: 0 };
    let cause = match run::bring_up(&task.core, &task.pod.plan, &task.plan, &oci).await {
        Ok(created) => match task.apply("container.created", Event::Made { pid: created.pid }).await {
            Ok(_) => return Made::Container(task),
            Err(unrecorded) => unrecorded,
        },
        Err(error) => EngineError::image(&task.plan.spec.image, doing, error),
    };
    match undo(&mut task).await {
        Ok(()) => Made::Nothing(cause),
        Err(()) => Made::Remains(task, cause),
    }
}

/// Drops what was begun. `Err`: something is left, and the container says so.
async fn undo<H: Host>(task: &mut Task<H>) -> Result<(), ()> {
    match run::tear_down(&task.core, &task.pod.plan, &task.plan).await {
        Ok(()) => {
            // If it cannot be recorded, the next start drops nothing once more.
            let removed = task.core.commit("container.undone", record::remove_container(&task.plan)).await;
            if let Err(error) = removed {
                tracing::error!(container = %task.plan.id, error = chain(&error), "a record is left");
            }
            Ok(())
        }
        Err(left) => {
            let doubt = Event::Doubtful { message: chain(&left) };
            if let Err(error) = task.apply("container.doubtful", doubt).await {
                tracing::error!(container = %task.plan.id, error = chain(&error), "a state is not recorded");
            }
            Err(())
        }
    }
}

/// Starts the task of a container that was found in the store.
pub(crate) fn found<H: Host>(
    core: &Arc<Core<H>>,
    pod: &Arc<PodShared>,
    (plan, phase, limits): FoundContainer,
) -> ContainerHandle {
    let (task, mailbox) = mpsc::channel(MAILBOX);
    let (told, born) = watch::channel(None);
    let name = ContainerName::of(&plan.spec);
    let fingerprint = Fingerprint::of(&plan.spec);
    let handle = ContainerHandle { id: plan.id.clone(), name, fingerprint, task, born };
    core.index.add_found(handle.clone());
    pod.add(handle.clone());
    let (core, pod) = (Arc::clone(core), Arc::clone(pod));
    let plan = Arc::new(plan);
    let mut task = Task { core, pod, plan, phase, ending: None, undo: limits, panics: 0 };
    tokio::spawn(async move {
        if task.phase == Phase::Creating {
            let interrupted =
                EngineError::precondition("the container was being created when the daemon ended");
            if undo(&mut task).await.is_ok() {
                task.forget();
                told.send_replace(Some(Err(interrupted)));
                return;
            }
            told.send_replace(Some(Err(interrupted)));
        } else {
            if let Err(error) = task.core.host.hold_image(&task.plan).await {
                tracing::warn!(container = %task.plan.id, error = chain(&error), "its image is not held");
            }
            task.show();
            task.take_back().await;
            task.tell_again();
            told.send_replace(Some(Ok(())));
        }
        task.serve(mailbox).await;
    });
    handle
}
