//! What tasks are asked and told, and the one that listens to a pod's shim.

use crate::{
    container,
    core::{Core, Guard},
    error::{EngineError, chain},
    host::{Exit, Fault, Host, ShimContainer, ShimState},
    index::PodShared,
    pod,
};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, oneshot},
    task::AbortHandle,
    time::sleep,
};

/// How many asks of one object may wait: more is a caller that does not wait for answers.
pub(crate) const MAILBOX: usize = 64;

/// How often a task that panics is replaced: a runtime that is being torn down drops what it is
/// given, which must not go on for ever.
pub(crate) const MOST_PANICS: u32 = 100;

/// How long to wait before a shim that could not be asked is asked again.
const AGAIN: Duration = Duration::from_millis(500);

/// Where the answer goes. The asker may have left; the work goes on, and counts as under way.
#[derive(Debug)]
pub(crate) struct Reply<T = ()> {
    to: oneshot::Sender<Result<T, EngineError>>,
    guard: Option<Guard>,
}

impl<T> Reply<T> {
    pub(crate) fn send(self, answer: Result<T, EngineError>) {
        let _ = self.to.send(answer);
    }

    /// Lets go of the guard: for an answer that may be long in coming, and that is asked for again.
    pub(crate) fn idle(mut self) -> Self {
        self.guard = None;
        self
    }
}

/// An answer on its way.
pub(crate) type Answer<T> = oneshot::Receiver<Result<T, EngineError>>;

/// Asks a task, without waiting for its answer. `None`: the task has ended, and its object is gone.
pub(crate) async fn post<A, T>(
    task: &mpsc::Sender<A>,
    guard: Option<Guard>,
    make: impl FnOnce(Reply<T>) -> A,
) -> Option<Answer<T>> {
    let (to, answer) = oneshot::channel();
    task.send(make(Reply { to, guard })).await.ok()?;
    Some(answer)
}

/// Asks a task and waits. `None`: the task has ended, and its object is gone.
pub(crate) async fn ask<A, T>(
    task: &mpsc::Sender<A>,
    guard: Option<Guard>,
    make: impl FnOnce(Reply<T>) -> A,
) -> Option<Result<T, EngineError>> {
    post(task, guard, make).await?.await.ok()
}

/// Asks all containers of a pod the same, at the same time, and answers the first failure; one that
/// is gone has not failed.
pub(crate) async fn ask_all(
    pod: &PodShared,
    make: impl Fn(Reply) -> container::task::Ask,
) -> Result<(), EngineError> {
    let mut answers = Vec::new();
    for child in pod.children() {
        answers.push((post(&child.task, None, &make).await, child.id));
    }
    let mut result = Ok(());
    for (answer, id) in answers {
        let answer = match answer {
            Some(answer) => answer.await.ok(),
            None => None,
        };
        result = result.and(match (answer, pod.child(&id)) {
            (Some(answer), _) => answer,
            (None, None) => Ok(()),
            (None, Some(_)) => Err(EngineError::task_died("container")),
        });
    }
    result
}

/// What the listener knows of the shim.
#[derive(Clone, Copy, Debug)]
pub(crate) enum From {
    /// All exits up to this one.
    Exit(u64),
    /// Nothing: it could not be asked yet.
    Nothing,
}

/// Tells the containers of a pod their exits, and the pod if its shim ends. It ends with the pod.
pub(crate) fn listen<H: Host>(
    core: Arc<Core<H>>,
    pod: Arc<PodShared>,
    task: mpsc::WeakSender<pod::task::Ask>,
    from: From,
) -> AbortHandle {
    tokio::spawn(async move {
        let message = listened(&core, &pod, from).await;
        // A pod whose task has ended needs no news.
        if let Some(task) = task.upgrade() {
            let _ = task.send(pod::task::Ask::ShimLost { message }).await;
        }
    })
    .abort_handle()
}

/// Returns when the shim is gone, with how that was noticed.
async fn listened<H: Host>(core: &Core<H>, pod: &PodShared, mut from: From) -> String {
    loop {
        let after = match from {
            From::Exit(sequence) => sequence,
            From::Nothing => match core.host.reconnect(&pod.plan).await {
                Ok(ShimState::Alive { containers, last_exit, .. }) => {
                    tell_found(pod, containers).await;
                    last_exit
                }
                Ok(ShimState::Dead) => return "the pod's shim was gone after a restart".to_owned(),
                Err(error) => {
                    tracing::warn!(pod = %pod.plan.id, error = chain(&error), "the shim does not answer");
                    sleep(AGAIN).await;
                    continue;
                }
            },
        };
        from = match core.host.next_exits(&pod.plan, after).await {
            Ok(exits) => From::Exit(tell_exits(pod, exits, after).await),
            Err(error) if error.fault == Fault::ShimGone => return "the pod's shim has died".to_owned(),
            Err(error) => {
                tracing::warn!(pod = %pod.plan.id, error = chain(&error), "no news from the shim");
                sleep(AGAIN).await;
                From::Exit(after)
            }
        };
    }
}

/// Sequence of the newest exit.
async fn tell_exits(pod: &PodShared, exits: Vec<Exit>, mut newest: u64) -> u64 {
    for exit in exits {
        newest = newest.max(exit.sequence);
        // A container that was removed meanwhile needs no news.
        if let Some(container) = pod.child(&exit.container) {
            let _ = container.task.send(container::task::Ask::Exited(exit)).await;
        }
    }
    newest
}

/// Tells each container of the pod what its shim knows of it, and waits until it is taken in.
pub(crate) async fn tell_found(pod: &PodShared, found: Vec<ShimContainer>) {
    for container in pod.children() {
        let life = found.iter().find(|known| known.id == container.id).map(|known| known.life.clone());
        let told = ask(&container.task, None, |reply| container::task::Ask::Found { life, reply }).await;
        if let Some(Err(error)) = told {
            let error = chain(&error);
            tracing::warn!(container = %container.id, error, "the container's state is not sure");
        }
    }
}
