//! A container's plan: everything that it will own, named before any of it is made.

use crate::host::ImageFacts;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use types::{ContainerId, PodId, Timestamp, container::ContainerSpec, signal::Signal};

/// What a container will own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContainerPlan {
    /// Its id.
    pub id: ContainerId,
    /// The pod that it is in.
    pub pod: PodId,
    /// As asked.
    pub spec: ContainerSpec,
    /// When it was planned.
    pub created_at: Timestamp,
    /// The image it is made of, as it was then.
    pub image: ImageFacts,
    /// `<state>/pods/<short pod id>/c/<short id>`: config.json and the exit record.
    pub bundle: PathBuf,
    /// `<root>/pods/<short pod id>/<short id>`: `upper` and `work` of the overlay.
    pub rootfs: PathBuf,
    /// Its own cgroup, beneath the pod's.
    pub cgroup: String,
    /// The log file; `None` = output is discarded.
    pub log: Option<PathBuf>,
    /// What StopContainer sends first: the request's, else the image's, else SIGTERM.
    pub stop_signal: Signal,
}
