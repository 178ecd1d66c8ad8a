//! A pod's plan: everything that the pod will own, named before any of it is made.
//!
//! It is a function of the request, the configuration and a few facts, and it is on disk before the
//! host is touched; so that what must be dropped is known to whoever finds the plan later.

use crate::error::EngineError;
use config::Config;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use types::{
    PodId, Timestamp,
    pod::{NsMode, PodSpec},
};

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

/// What the host says before a pod is planned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The network configuration; `None` in the node's network.
    pub conflist: Option<String>,
    /// Of [`cgroup_path`] and its ancestors, those that are not there.
    pub missing_groups: Vec<String>,
}

/// The pod's cgroup: the one that was asked for, else one of our own.
///
/// # Errors
/// `linux.cgroup_parent`, if it is no cgroupfs path.
pub fn cgroup_path(config: &Config, id: &PodId, spec: &PodSpec) -> Result<String, EngineError> {
    if spec.cgroup_parent.is_empty() {
        return Ok(format!("{}/{id}", config.cgroup.parent));
    }
    let refused = |why: &str| Err(EngineError::invalid("linux.cgroup_parent", why));
    let names: Vec<&str> = spec.cgroup_parent.split('/').filter(|name| !name.is_empty()).collect();
    if names.is_empty() {
        return refused("the root group cannot be a pod's: name one beneath it");
    }
    if names.iter().any(|name| *name == "." || *name == ".." || name.contains(char::is_control)) {
        return refused("it must be a cgroupfs path without . and ..");
    }
    // systemd's names are for another driver: a directory of that name would be nobody's slice.
    if names.iter().any(|name| name.ends_with(".slice")) || spec.cgroup_parent.contains(':') {
        return refused("it is a systemd slice, and the cgroup driver is cgroupfs");
    }
    Ok(format!("/{}", names.join("/")))
}

/// The plan of a pod. It is a function: nothing is made or looked up.
///
/// # Errors
/// As [`cgroup_path`].
pub fn plan(
    config: &Config,
    id: PodId,
    spec: PodSpec,
    facts: Facts,
    now: Timestamp,
) -> Result<PodPlan, EngineError> {
    let path = cgroup_path(config, &id, &spec)?;
    let dir = config.state.join("pods").join(id.short());
    let files = dir.join("files");
    let pins = config.state.join("ns").join(id.short());
    let own = |mode: NsMode, name: &str| (mode != NsMode::Node).then(|| pins.join(name));
    Ok(PodPlan {
        paths: PodPaths {
            socket: dir.join("shim.sock"),
            shim_log: dir.join("shim.log"),
            hosts: files.join("hosts"),
            hostname: files.join("hostname"),
            resolv_conf: files.join("resolv.conf"),
            shm: (spec.namespaces.ipc != NsMode::Node).then(|| dir.join("shm")),
            rootfs: config.root.join("pods").join(id.short()),
            dir,
        },
        pins: Pins {
            net: own(spec.namespaces.network, "net"),
            ipc: own(spec.namespaces.ipc, "ipc"),
            // A host name of its own goes with a network of its own, as in both peers.
            uts: own(spec.namespaces.network, "uts"),
            dir: pins,
        },
        pause: spec.namespaces.pid == NsMode::Pod,
        cgroup: PodCgroup { path, made: facts.missing_groups },
        conflist: facts.conflist,
        created_at: now,
        id,
        spec,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use types::pod::Namespaces;

    fn id() -> PodId {
        PodId::from_random([0xab; 32])
    }

    fn planned(spec: PodSpec) -> PodPlan {
        plan(&Config::default(), id(), spec, Facts::default(), Timestamp(1)).expect("a plan")
    }

    #[test]
    fn every_name_of_a_plan_lies_beneath_the_daemons_own_directories_and_is_short() {
        let plan = planned(PodSpec { name: "../../etc".to_owned(), ..PodSpec::default() });
        assert_eq!(plan.paths.socket, Path::new("/run/peapod/pods/abababababab/shim.sock"));
        assert_eq!(plan.pins.net.as_deref(), Some(Path::new("/run/peapod/ns/abababababab/net")));
        assert_eq!(plan.paths.rootfs, Path::new("/var/lib/peapod/pods/abababababab"));
        let paths = &plan.paths;
        for path in [&paths.socket, &paths.shim_log, &paths.hosts, &paths.hostname, &paths.resolv_conf] {
            assert!(path.starts_with(&paths.dir), "{path:?}");
        }
        assert_eq!(plan.cgroup.path, format!("/peapod/{}", id()));
    }

    #[test]
    fn the_nodes_namespaces_are_not_pinned() {
        let node = Namespaces { network: NsMode::Node, ipc: NsMode::Node, pid: NsMode::Pod };
        let plan = planned(PodSpec { namespaces: node, ..PodSpec::default() });
        assert_eq!((plan.pins.net, plan.pins.uts, plan.pins.ipc, plan.paths.shm), (None, None, None, None));
        assert!(plan.pause);
        assert!(!planned(PodSpec::default()).pause);
    }

    #[test]
    fn a_cgroup_parent_is_cleaned_or_refused_by_name() {
        let path = |parent: &str| {
            let spec = PodSpec { cgroup_parent: parent.to_owned(), ..PodSpec::default() };
            cgroup_path(&Config::default(), &id(), &spec)
        };
        for (parent, clean) in [("/kubepods/pod1", "/kubepods/pod1"), ("a//b/", "/a/b")] {
            assert_eq!(path(parent).expect("fine"), clean);
        }
        for bad in ["/", "//", "/a/../b", "/a/./b", "kubepods.slice", "/a\nb\n", "a:b:c", "/a\u{0}"] {
            let error = path(bad).expect_err(bad).to_string();
            assert!(error.starts_with("linux.cgroup_parent: "), "{bad}: {error}");
        }
    }
}
