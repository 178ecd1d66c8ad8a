//! A pod's plan: everything that the pod will own, named before any of it is made.
//!
//! It is a function of the request, the configuration and a few facts, and it is on disk before the
//! host is touched; so that what must be dropped is known to whoever finds the plan later.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use types::{PodId, Timestamp, pod::PodSpec};

/// What a pod will own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PodPlan {
    /// Its id.
    pub id: PodId,
    /// As asked.
    pub spec: PodSpec,
    /// When it was planned.
    pub created_at: Timestamp,
    /// Its directories and files.
    pub paths: PodPaths,
    /// Where its namespaces are pinned.
    pub pins: Pins,
    /// A pause process holds one PID namespace for all containers.
    pub pause: bool,
    /// Its cgroup.
    pub cgroup: PodCgroup,
    /// The CNI configuration list that it is attached with; `None` in the node's network.
    pub conflist: Option<String>,
}

/// Directories and files of a pod. All lie beneath the daemon's own two directories.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodPaths {
    /// `<state>/pods/<short id>`: all that is below goes with it.
    pub dir: PathBuf,
    /// The shim's socket.
    pub socket: PathBuf,
    /// What the shim says for the administrator.
    pub shim_log: PathBuf,
    /// Mounted as /etc/hosts.
    pub hosts: PathBuf,
    /// Mounted as /etc/hostname.
    pub hostname: PathBuf,
    /// Mounted as /etc/resolv.conf.
    pub resolv_conf: PathBuf,
    /// A tmpfs, mounted as /dev/shm; `None` with the node's IPC namespace, which has the node's.
    pub shm: Option<PathBuf>,
    /// `<root>/pods/<short id>`: beneath it the containers' writable layers.
    pub rootfs: PathBuf,
}

/// Bind mounts that keep the pod's namespaces; `None` = the node's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pins {
    /// `<state>/ns/<short id>`: the others lie in it.
    pub dir: PathBuf,
    /// Network namespace.
    pub net: Option<PathBuf>,
    /// IPC namespace.
    pub ipc: Option<PathBuf>,
    /// UTS namespace.
    pub uts: Option<PathBuf>,
}

/// The cgroup of a pod: each container has a group of its own in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodCgroup {
    /// Path beneath each hierarchy's root, `/kubepods/...`: what was asked for, or one of our own.
    pub path: String,
    /// Of this path and its ancestors, those that were not there, deepest first. The kubelet makes
    /// the groups of its pods, and then there are none.
    pub made: Vec<String>,
}
