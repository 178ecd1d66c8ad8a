//! What the outside sees: snapshots that are published when something changed, and read without
//! waiting for anybody.

use crate::{
    container::{self, plan::ContainerPlan},
    pod::{self, plan::PodPlan},
};
use std::{net::IpAddr, sync::Arc};
use types::Labels;

/// A pod sandbox as it was last published.
#[derive(Clone, Debug)]
pub struct PodView {
    /// What it owns, with the request that made it.
    pub plan: Arc<PodPlan>,
    /// Where it is in its life; never `Creating`.
    pub phase: pod::Phase,
    /// What UpdatePodSandboxResources told last, if it did.
    pub size: Option<Arc<pod::PodSize>>,
}

/// `PodSandboxState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodState {
    /// SANDBOX_READY
    Ready,
    /// SANDBOX_NOTREADY
    NotReady,
}

impl PodView {
    /// Its state.
    #[must_use]
    pub fn state(&self) -> PodState {
        match &self.phase {
            pod::Phase::Ready(_) => PodState::Ready,
            pod::Phase::Creating | pod::Phase::NotReady { .. } => PodState::NotReady,
        }
    }

    /// Its addresses while it is ready, the first is its IP; none in the node's network.
    #[must_use]
    pub fn ips(&self) -> &[IpAddr] {
        match &self.phase {
            pod::Phase::Ready(up) => &up.ips,
            pod::Phase::Creating | pod::Phase::NotReady { .. } => &[],
        }
    }

    /// Its shim while it is ready.
    #[must_use]
    pub fn shim_pid(&self) -> Option<u32> {
        match &self.phase {
            pod::Phase::Ready(up) => Some(up.shim.pid),
            pod::Phase::Creating | pod::Phase::NotReady { .. } => None,
        }
    }

    /// Its pause process while it is ready, if it has one.
    #[must_use]
    pub fn pause_pid(&self) -> Option<u32> {
        match &self.phase {
            pod::Phase::Ready(up) => up.shim.pause_pid,
            pod::Phase::Creating | pod::Phase::NotReady { .. } => None,
        }
    }

    /// Why it is not ready, if it was not asked for; else empty.
    #[must_use]
    pub fn message(&self) -> &str {
        match &self.phase {
            pod::Phase::NotReady { message, .. } => message,
            pod::Phase::Creating | pod::Phase::Ready(_) => "",
        }
    }
}

/// A container as it was last published.
#[derive(Clone, Debug)]
pub struct ContainerView {
    /// What it owns, with the request that made it.
    pub plan: Arc<ContainerPlan>,
    /// Where it is in its life; never `Creating`.
    pub phase: container::Phase,
}

/// `ContainerState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerState {
    /// CONTAINER_CREATED
    Created,
    /// CONTAINER_RUNNING
    Running,
    /// CONTAINER_EXITED
    Exited,
    /// CONTAINER_UNKNOWN
    Unknown,
}

impl ContainerView {
    /// Its state.
    #[must_use]
    pub fn state(&self) -> ContainerState {
        match &self.phase {
            container::Phase::Created { .. } => ContainerState::Created,
            container::Phase::Running { .. } => ContainerState::Running,
            container::Phase::Exited(_) => ContainerState::Exited,
            container::Phase::Creating | container::Phase::Unknown { .. } => ContainerState::Unknown,
        }
    }

    /// Its first process, while there is one.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        match &self.phase {
            container::Phase::Created { pid } | container::Phase::Running { pid, .. } => Some(*pid),
            container::Phase::Creating | container::Phase::Exited(_) | container::Phase::Unknown { .. } => {
                None
            }
        }
    }

    /// How it ended, if it did.
    #[must_use]
    pub fn ended(&self) -> Option<&container::Ended> {
        match &self.phase {
            container::Phase::Exited(ended) => Some(ended),
            container::Phase::Creating
            | container::Phase::Created { .. }
            | container::Phase::Running { .. }
            | container::Phase::Unknown { .. } => None,
        }
    }

    /// What there is to say about its state; often empty.
    #[must_use]
    pub fn message(&self) -> &str {
        match &self.phase {
            container::Phase::Exited(ended) => &ended.message,
            container::Phase::Unknown { message, .. } => message,
            container::Phase::Creating
            | container::Phase::Created { .. }
            | container::Phase::Running { .. } => "",
        }
    }
}

/// `PodSandboxFilter`: all that is given must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFilter {
    /// An id or the start of one.
    pub id: Option<String>,
    /// The state.
    pub state: Option<PodState>,
    /// Labels that it must have with these values.
    pub labels: Labels,
}

/// `ContainerFilter`: all that is given must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerFilter {
    /// An id or the start of one.
    pub id: Option<String>,
    /// The state.
    pub state: Option<ContainerState>,
    /// Id of the pod, or the start of one.
    pub pod: Option<String>,
    /// Labels that it must have with these values.
    pub labels: Labels,
}

impl PodFilter {
    pub(crate) fn takes(&self, pod: &PodView) -> bool {
        self.state.is_none_or(|state| state == pod.state()) && has(&pod.plan.spec.labels, &self.labels)
    }
}

impl ContainerFilter {
    pub(crate) fn takes(&self, container: &ContainerView) -> bool {
        let plan = &container.plan;
        self.state.is_none_or(|state| state == container.state())
            && self.pod.as_ref().is_none_or(|start| plan.pod.as_str().starts_with(start.as_str()))
            && has(&plan.spec.labels, &self.labels)
    }
}

fn has(labels: &Labels, wanted: &Labels) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}
