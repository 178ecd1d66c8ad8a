//! Events of containers.

use crate::{
    case::{Case, between, case, holds, is},
    cases::sandbox::now,
    story::{Container, ContainerWords as _, Test, map},
};
use anyhow::{Context as _, Result, bail};
use api::cri::{self, ContainerEventType, ContainerState};
use std::time::Duration;
use tokio::sync::mpsc;

const SOURCE: &str = "KEP-3386; CRI ContainerEventResponse; contract A.1 GetContainerEvents";

/// The cases.
pub fn cases() -> Vec<Case> {
    vec![
        case(
            "events: a container's life is told in order",
            SOURCE,
            "GetEventsRequest ContainerEventResponse.container_id ContainerEventResponse.container_event_type ContainerEventResponse.created_at",
            |t: Test| async move {
                let mut events = subscribe(&t).await?;
                let before = now();
                let c = t.container(|_| {}).await?;
                c.stop(0).await?;
                c.remove().await?;
                let mut last = before;
                for kind in [
                    ContainerEventType::ContainerCreatedEvent,
                    ContainerEventType::ContainerStartedEvent,
                    ContainerEventType::ContainerStoppedEvent,
                    ContainerEventType::ContainerDeletedEvent,
                ] {
                    let event = next_of(&mut events, &c.id).await.context(kind.as_str_name())?;
                    is("its kind", event.container_event_type(), kind)?;
                    between("created_at", event.created_at, last, now())?;
                    last = event.created_at;
                }
                Ok(())
            },
        ),
        case(
            "events: an event carries the pod's status",
            "contract A.1: the kubelet heeds STOPPED with pod_sandbox_status.metadata.uid",
            "PodSandboxStatus.id PodSandboxStatus.metadata.uid PodSandboxStatus.state",
            |t: Test| async move {
                let mut events = subscribe(&t).await?;
                let c = t.container(|c| c.script("exit 4")).await?;
                let event = stopped(&mut events, &c).await?;
                let pod = event.pod_sandbox_status.context("no pod_sandbox_status")?;
                is("id", &pod.id, &c.pod.id)?;
                is("metadata", &pod.metadata, &c.pod.config.metadata)?;
                is("state", pod.state(), cri::PodSandboxState::SandboxReady)
            },
        ),
        case(
            "events: an event carries the containers' statuses",
            SOURCE,
            "ContainerEventResponse.container_id ContainerStatus.id ContainerStatus.state ContainerStatus.exit_code",
            |t: Test| async move {
                let mut events = subscribe(&t).await?;
                let pod = t.pod().await?;
                let other = pod.run(|c| c.labels = map(&[("n", "other")])).await?;
                let c = pod.run(|c| c.script("exit 4")).await?;
                let event = stopped(&mut events, &c).await?;
                let status = |id: &str| event.containers_statuses.iter().find(|s| s.id == id).cloned();
                let mine = status(&c.id).context("no status of the container")?;
                is("state", mine.state(), ContainerState::ContainerExited)?;
                is("exit_code", mine.exit_code, 4)?;
                is(
                    "the other's state",
                    status(&other.id).context("no status of the other")?.state(),
                    ContainerState::ContainerRunning,
                )
            },
        ),
        case(
            "events: two who listen hear the same",
            SOURCE,
            "ContainerEventResponse.container_event_type",
            |t: Test| async move {
                let (mut a, mut b) = (subscribe(&t).await?, subscribe(&t).await?);
                let c = t.container(|c| c.script("exit 0")).await?;
                is("kinds", stopped(&mut a, &c).await?.created_at, stopped(&mut b, &c).await?.created_at)
            },
        ),
        case(
            "events: a restart of one who listens loses nothing later",
            SOURCE,
            "ContainerEventResponse.container_id",
            |t: Test| async move {
                drop(subscribe(&t).await?);
                let mut events = subscribe(&t).await?;
                let c = t.container(|c| c.script("exit 0")).await?;
                stopped(&mut events, &c).await.map(|_| ())
            },
        ),
        case(
            "events: one who does not read hinders nobody",
            "contract: bounded per subscriber",
            "ContainerEventResponse.container_id",
            |t: Test| async move {
                let mut runtime = t.runtime();
                let silent =
                    tokio::spawn(async move { runtime.get_container_events(cri::GetEventsRequest {}).await });
                let mut events = subscribe(&t).await?;
                let pod = t.pod().await?;
                for _ in 0..20 {
                    let c = pod.run(|c| c.script("exit 0")).await?;
                    stopped(&mut events, &c).await?;
                }
                silent.abort();
                Ok(())
            },
        )
        .alone(),
        case(
            "events: the status of a pod has a timestamp only on request",
            "contract 0.9",
            "PodSandboxStatusResponse.timestamp",
            |t: Test| async move {
                let c = t.container(|_| {}).await?;
                is("timestamp", c.pod.full_status(false).await?.timestamp, 0)
            },
        ),
    ]
}

/// One who listens, and reads at once whatever comes: a runtime may wait for its slowest reader.
struct Events {
    receiver: mpsc::UnboundedReceiver<cri::ContainerEventResponse>,
    _reader: AbortOnDropHandle,
}

/// Ends its task with itself.
struct AbortOnDropHandle(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDropHandle {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn subscribe(t: &Test) -> Result<Events> {
    let mut runtime = t.runtime();
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let reader = AbortOnDropHandle(tokio::spawn(async move {
        let Ok(answer) = runtime.get_container_events(cri::GetEventsRequest {}).await else { return };
        let mut answers = answer.into_inner();
        while let Ok(Some(event)) = answers.message().await {
            if sender.send(event).is_err() {
                return;
            }
        }
    }));
    // Who listens is known by hearing: the answer's head may come with the first event only.
    let pod = t.pod().await?;
    for _ in 0..50 {
        if receiver.is_closed() {
            bail!("GetContainerEvents has failed or ended");
        }
        pod.create(|_| {}).await?.remove().await?;
        if tokio::time::timeout(Duration::from_millis(100), receiver.recv())
            .await
            .is_ok_and(|event| event.is_some())
        {
            return Ok(Events { receiver, _reader: reader });
        }
    }
    bail!("no events of a container that came and went fifty times")
}

async fn next_of(events: &mut Events, id: &str) -> Result<cri::ContainerEventResponse> {
    let wait = async {
        loop {
            match events.receiver.recv().await {
                Some(event) if event.container_id == id => return Ok(event),
                Some(_) => {}
                None => bail!("the stream has ended"),
            }
        }
    };
    tokio::time::timeout(crate::story::patience(15), wait).await.context("no event in time")?
}

async fn stopped(events: &mut Events, c: &Container) -> Result<cri::ContainerEventResponse> {
    loop {
        let event = next_of(events, &c.id).await?;
        if event.container_event_type() == ContainerEventType::ContainerStoppedEvent {
            holds("it is not empty", event.created_at > 0)?;
            return Ok(event);
        }
    }
}
