//! How a pod's task begins: with a request, or with a record that was found.

use super::{
    phase::{Event, Left, Phase},
    plan, run,
    task::{Ask, Task},
};
use crate::{
    container,
    core::{Core, Guard},
    error::{EngineError, chain},
    events::{self, From, MAILBOX},
    host::{Host, ShimState},
    index::{PodHandle, PodShared, born},
    names::{Fingerprint, PodName},
    record::{self, FoundContainer, FoundPod},
};
use std::sync::Arc;
use tokio::sync::{
    mpsc::{self, WeakSender},
    watch,
};
use types::{
    PodId,
    pod::{NsMode, PodSpec},
};

const DOING: &str = "cannot run the pod sandbox";

/// Starts the task of a pod that is asked for; it brings it up, and then serves it. Called under the
/// index' lock: it does not wait.
pub(crate) fn new<H: Host>(core: &Arc<Core<H>>, id: PodId, spec: PodSpec, guard: Guard) -> PodHandle {
    let (task, mailbox) = mpsc::channel(MAILBOX);
    let (told, is_born) = watch::channel(None);
    let me = task.downgrade();
    let handle = PodHandle { id: id.clone(), fingerprint: Fingerprint::of(&spec), task, born: is_born };
    let core = Arc::clone(core);
    tokio::spawn(async move {
        let made = make(&core, id.clone(), spec, me).await;
        if matches!(made, Made::Nothing(_)) {
            // Before it is told, so that who asks again is not led to what is gone.
            core.index.remove_pod(&id);
        }
        let (task, result) = match made {
            Made::Pod(task) => (Some(task), Ok(())),
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

/// What became of a request.
enum Made<H: Host> {
    Pod(Task<H>),
    /// It failed, and something of it could not be dropped: it is kept, so that Stop finishes it.
    Remains(Task<H>, EngineError),
    Nothing(EngineError),
}

async fn make<H: Host>(core: &Arc<Core<H>>, id: PodId, spec: PodSpec, me: WeakSender<Ask>) -> Made<H> {
    // Up to the first commit nothing is touched.
    let decided = async {
        let facts = facts(core, &id, &spec).await?;
        let plan = plan::plan(&core.config, id, spec, facts, core.now())?;
        core.commit("pod.planned", record::put_pod(&plan, &Phase::Creating, None)).await?;
        Ok(plan)
    };
    let plan = match decided.await {
        Ok(plan) => Arc::new(plan),
        Err(error) => return Made::Nothing(error),
    };
    let shared = Arc::new(PodShared::new(plan));
    let mut task = Task {
        core: Arc::clone(core),
        shared,
        phase: Phase::Creating,
        size: None,
        listener: None,
        me,
        panics: 0,
    };
    let cause = match run::bring_up(core, &task.shared.plan).await {
        Ok(up) => match task.apply("pod.ready", Event::CameUp(up)).await {
            Ok(_) => {
                task.listen(From::Exit(0));
                return Made::Pod(task);
            }
            Err(unrecorded) => {
                task.phase = Phase::Creating;
                unrecorded
            }
        },
        Err(error) => EngineError::host(DOING, error),
    };
    match undo(&mut task).await {
        Ok(()) => Made::Nothing(cause),
        Err(()) => Made::Remains(task, cause),
    }
}

async fn facts<H: Host>(core: &Core<H>, id: &PodId, spec: &PodSpec) -> Result<plan::Facts, EngineError> {
    let host = |error| EngineError::host(DOING, error);
    plan::handler(&core.config, spec)?;
    core.host.check_pod(spec).await.map_err(host)?;
    let cgroup = plan::cgroup_path(&core.config, id, spec)?;
    let conflist = match spec.namespaces.network {
        NsMode::Node => None,
        NsMode::Pod | NsMode::Container => Some(core.host.network_plan().await.map_err(host)?),
    };
    let missing_groups = core.host.missing_groups(&cgroup).await.map_err(host)?;
    Ok(plan::Facts { conflist, missing_groups })
}

/// Tears down what was begun. `Err`: something is left, and the pod says so.
async fn undo<H: Host>(task: &mut Task<H>) -> Result<(), ()> {
    match run::tear_down(&task.core, &task.shared.plan).await {
        Ok(()) => {
            // If it cannot be recorded, the next start tears nothing down once more.
            let removed = task.core.commit("pod.undone", record::remove_pod(&task.shared.plan)).await;
            if let Err(error) = removed {
                tracing::error!(pod = %task.shared.plan.id, error = chain(&error), "a record is left");
            }
            Ok(())
        }
        Err(left) => {
            let failed = Event::Failed { left: Left::Something, message: chain(&left) };
            if let Err(error) = task.apply("pod.not_ready", failed).await {
                tracing::error!(pod = %task.shared.plan.id, error = chain(&error), "a state is not recorded");
            }
            Err(())
        }
    }
}

/// Starts the task of a pod that was found in the store, with its containers. `None`: its id or name
/// is taken by another record.
pub(crate) fn found<H: Host>(
    core: &Arc<Core<H>>,
    (plan, phase, size): FoundPod,
    containers: Vec<FoundContainer>,
) -> Option<PodHandle> {
    let (sender, mailbox) = mpsc::channel(MAILBOX);
    let (told, is_born) = watch::channel(None);
    let me = sender.downgrade();
    let handle = PodHandle {
        id: plan.id.clone(),
        fingerprint: Fingerprint::of(&plan.spec),
        task: sender,
        born: is_born,
    };
    if !core.index.add_pod(handle.clone(), PodName::of(&plan.spec)) {
        return None;
    }
    let shared = Arc::new(PodShared::new(Arc::new(plan)));
    let size = size.map(Arc::new);
    let mut task = Task { core: Arc::clone(core), shared, phase, size, listener: None, me, panics: 0 };
    tokio::spawn(async move {
        let result = recover(&mut task, containers).await;
        let gone = task.phase == Phase::Creating;
        if gone {
            task.core.index.remove_pod(&task.shared.plan.id);
        }
        told.send_replace(Some(result));
        if !gone {
            task.serve(mailbox).await;
        }
    });
    Some(handle)
}

/// Brings a pod that was found to a state that is true. What it answers is for who asks for the same
/// pod again.
async fn recover<H: Host>(task: &mut Task<H>, containers: Vec<FoundContainer>) -> Result<(), EngineError> {
    if task.phase == Phase::Creating {
        let _ = undo(task).await;
        return Err(EngineError::precondition("the pod sandbox was being made when the daemon ended"));
    }
    // Shown first: a shim that does not answer hides no pod.
    task.show();
    let children: Vec<_> =
        containers.into_iter().map(|found| container::found(&task.core, &task.shared, found)).collect();
    for child in children {
        // Its failure is its own: it is told to who asks for it.
        let _ = born(child.born, "container").await;
    }
    match &task.phase {
        Phase::Creating => {}
        Phase::Ready(_) => match task.core.host.reconnect(&task.shared.plan).await {
            Ok(ShimState::Alive { up, containers, last_exit }) => {
                if let Phase::Ready(known) = &mut task.phase {
                    known.shim = up;
                }
                events::tell_found(&task.shared, containers).await;
                task.listen(From::Exit(last_exit));
                task.show();
            }
            Ok(ShimState::Dead) => task.shim_lost("the pod's shim was gone after a restart".to_owned()).await,
            Err(error) => {
                tracing::warn!(pod = %task.shared.plan.id, error = chain(&error), "the shim does not answer");
                task.listen(From::Nothing);
            }
        },
        Phase::NotReady { was_ready, .. } => {
            let was_ready = *was_ready;
            if let Err(error) = events::ask_all(&task.shared, container::task::Ask::ShimLost).await {
                tracing::error!(pod = %task.shared.plan.id, error = chain(&error), "containers without a shim");
            }
            if !was_ready {
                let why =
                    "the pod sandbox could not be made, and what is left of it must be stopped and removed";
                return Err(EngineError::precondition(why));
            }
        }
    }
    Ok(())
}
