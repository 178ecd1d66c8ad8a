//! A pod's plan: everything that the pod will own, named before any of it is made.
//!
//! It is a function of the request, the configuration and a few facts, and it is on disk before the
//! host is touched; so that what must be dropped is known to whoever finds the plan later.

use crate::error::EngineError;
use config::{CgroupDriver, Config};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use types::{
    PodId, Timestamp,
    handler::Handler,
    pod::{NsMode, PodSpec},
    slice::Slice,
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
    /// What makes its containers, as it was configured when the pod was planned; `None` = our own runner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handler: Option<Handler>,
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
    /// User namespace, which owns the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<PathBuf>,
}

/// The cgroup of a pod: each container has a group of its own in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodCgroup {
    /// Path beneath each hierarchy's root, `/kubepods/...`: what was asked for, or one of our own.
    pub path: String,
    /// Of this path and its ancestors, those that were not there, deepest first. The kubelet makes
    /// the groups of its pods, and then there are none. With a scope none is told: systemd makes and
    /// removes them.
    pub made: Vec<String>,
    /// The unit of systemd that the group is; `None` = the group is a directory that we make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
}

/// A scope of systemd (systemd.scope(5)), delegated to us: what lies beneath its group is ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// Name of the unit, `peapod-<pod id>.scope`.
    pub unit: String,
    /// Name of the slice that it lies in.
    pub slice: String,
}

/// What the host says before a pod is planned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The network configuration; `None` in the node's network.
    pub conflist: Option<String>,
    /// Of [`cgroup_path`] and its ancestors, those that are not there.
    pub missing_groups: Vec<String>,
}

/// The pod's cgroup, by the driver that is configured: the directory that was asked for, or a scope
/// in the slice that was asked for; without a `cgroup_parent` one beneath our own parent.
///
/// # Errors
/// `config.linux.cgroup_parent`, if it is not of that driver.
pub fn cgroup_path(config: &Config, id: &PodId, spec: &PodSpec) -> Result<String, EngineError> {
    cgroup(config, id, spec).map(|cgroup| cgroup.path)
}

const CGROUP_PARENT: &str = "config.linux.cgroup_parent";

fn cgroup(config: &Config, id: &PodId, spec: &PodSpec) -> Result<PodCgroup, EngineError> {
    match config.cgroup.driver {
        CgroupDriver::Cgroupfs => directory(config, id, spec),
        CgroupDriver::Systemd => scope(config, id, spec),
    }
}

fn directory(config: &Config, id: &PodId, spec: &PodSpec) -> Result<PodCgroup, EngineError> {
    let group = |path| PodCgroup { path, made: Vec::new(), scope: None };
    if spec.cgroup_parent.is_empty() {
        return Ok(group(format!("{}/{id}", config.cgroup.parent())));
    }
    let refused = |why: &str| Err(EngineError::invalid(CGROUP_PARENT, why));
    let names: Vec<&str> = spec.cgroup_parent.split('/').filter(|name| !name.is_empty()).collect();
    if names.is_empty() {
        return refused("the root group cannot be a pod's: name one beneath it");
    }
    if names.iter().any(|name| *name == "." || *name == ".." || name.contains(char::is_control)) {
        return refused("it must be a cgroupfs path without . and ..");
    }
    // systemd's names are for another driver: a directory of that name would be nobody's slice.
    if names.iter().any(|name| name.ends_with(".slice")) || spec.cgroup_parent.contains(':') {
        return refused(
            "it is a systemd slice, and this daemon's cgroup driver is cgroupfs: set cgroupDriver: cgroupfs \
             in the kubelet's configuration, or [cgroup] driver = \"systemd\" in the daemon's",
        );
    }
    Ok(group(format!("/{}", names.join("/"))))
}

fn scope(config: &Config, id: &PodId, spec: &PodSpec) -> Result<PodCgroup, EngineError> {
    let parent = match spec.cgroup_parent.as_str() {
        "" => config.cgroup.parent(),
        asked => asked,
    };
    let slice = Slice::parse_path(parent).map_err(|error| {
        let why = format!(
            "{error}, and this daemon's cgroup driver is systemd: the kubelet's cgroupDriver must be systemd too"
        );
        EngineError::invalid(CGROUP_PARENT, why)
    })?;
    let unit = format!("peapod-{id}.scope");
    let path = format!("{}/{unit}", slice.group());
    Ok(PodCgroup { path, made: Vec::new(), scope: Some(Scope { unit, slice: slice.name().to_owned() }) })
}

const USERNS_OPTIONS: &str = "config.linux.security_context.namespace_options.userns_options";

/// What makes the pod's containers. A user namespace of the pod's own is our runner's alone: it takes idmapped
/// layers that are mounted by the container's own first process.
///
/// # Errors
/// `runtime_handler` for one that is not configured, or `userns_options`.
pub fn handler(config: &Config, spec: &PodSpec) -> Result<Option<Handler>, EngineError> {
    let name = spec.runtime_handler.as_str();
    let found = config.handler(name).map_err(|why| EngineError::invalid("runtime_handler", why))?;
    if found.is_some() && spec.namespaces.user_mapping().is_some() {
        let why =
            format!("the runtime_handler `{name}` gives no pod a user namespace of its own; `peapod` does");
        return Err(EngineError::invalid(USERNS_OPTIONS, why));
    }
    Ok(found.cloned())
}

/// The plan of a pod. It is a function: nothing is made or looked up.
///
/// # Errors
/// `runtime_handler`, or `userns_options` with a handler that has none; and as [`cgroup_path`].
pub fn plan(
    config: &Config,
    id: PodId,
    spec: PodSpec,
    facts: Facts,
    now: Timestamp,
) -> Result<PodPlan, EngineError> {
    let handler = handler(config, &spec)?;
    let mut cgroup = cgroup(config, &id, &spec)?;
    if cgroup.scope.is_none() {
        cgroup.made = facts.missing_groups;
    }
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
            user: spec.namespaces.user_mapping().map(|_| pins.join("user")),
            dir: pins,
        },
        pause: spec.namespaces.pid == NsMode::Pod,
        cgroup,
        conflist: facts.conflist,
        handler,
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
        let node = Namespaces { network: NsMode::Node, ipc: NsMode::Node, pid: NsMode::Pod, user: None };
        let plan = planned(PodSpec { namespaces: node, ..PodSpec::default() });
        assert_eq!((plan.pins.net, plan.pins.uts, plan.pins.ipc, plan.paths.shm), (None, None, None, None));
        assert_eq!(plan.pins.user, None);
        assert!(plan.pause);
        assert!(!planned(PodSpec::default()).pause);
    }

    #[test]
    fn a_user_namespace_is_pinned_where_there_is_a_mapping() {
        use types::pod::{UserMapping, UserMode};
        let pin = |user| {
            let namespaces = Namespaces { user: Some(user), ..Namespaces::default() };
            planned(PodSpec { namespaces, ..PodSpec::default() }).pins.user
        };
        let mapping = UserMapping { first_uid: 65_536, first_gid: 65_536, length: 65_536 };
        assert_eq!(pin(UserMode::Pod(mapping)), Some("/run/peapod/ns/abababababab/user".into()));
        assert_eq!((pin(UserMode::Node), pin(UserMode::Unmapped)), (None, None));
    }

    #[test]
    fn the_handler_that_a_pod_names_is_in_its_plan_and_has_no_user_namespaces() {
        use types::pod::{UserMapping, UserMode};
        let runc = Handler::Oci { path: "/usr/bin/runc".into() };
        let mut config = Config::default();
        config.handlers.insert("runc".to_owned(), runc.clone());
        let planned = |name: &str, user| {
            let namespaces = Namespaces { user, ..Namespaces::default() };
            let spec = PodSpec { runtime_handler: name.to_owned(), namespaces, ..PodSpec::default() };
            plan(&config, id(), spec, Facts::default(), Timestamp(1)).map(|plan| plan.handler)
        };
        let mapping = UserMapping { first_uid: 65_536, first_gid: 65_536, length: 65_536 };
        for (name, user) in [("", None), ("peapod", Some(UserMode::Pod(mapping)))] {
            assert_eq!(planned(name, user).expect(name), None);
        }
        for user in [None, Some(UserMode::Node), Some(UserMode::Unmapped)] {
            assert_eq!(planned("runc", user).expect("fine"), Some(runc.clone()));
        }
        let refused = planned("runc", Some(UserMode::Pod(mapping))).expect_err("refused").to_string();
        assert!(refused.starts_with(USERNS_OPTIONS) && refused.contains("`runc`"), "{refused}");
        let unknown = planned("kata", None).expect_err("unknown").to_string();
        assert!(unknown.starts_with("runtime_handler: `kata`") && unknown.contains("`runc`"), "{unknown}");
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
            assert!(error.starts_with("config.linux.cgroup_parent: "), "{bad}: {error}");
        }
    }

    #[test]
    fn with_systemd_a_pod_is_a_scope_in_the_slice_that_was_asked_for() {
        let mut config = Config::default();
        config.cgroup.driver = CgroupDriver::Systemd;
        let planned = |parent: &str| {
            let spec = PodSpec { cgroup_parent: parent.to_owned(), ..PodSpec::default() };
            let facts = Facts { missing_groups: vec!["/test.slice".to_owned()], ..Facts::default() };
            plan(&config, id(), spec, facts, Timestamp(1)).map(|plan| plan.cgroup)
        };
        let unit = format!("peapod-{}.scope", id());
        let burstable = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice";
        for (parent, slice, group) in [
            ("", "peapod.slice", "/peapod.slice".to_owned()),
            ("/test.slice", "test.slice", "/test.slice".to_owned()),
            ("kubepods-burstable-pod1_2.slice", "kubepods-burstable-pod1_2.slice", format!("/{burstable}")),
            (&format!("/{burstable}"), "kubepods-burstable-pod1_2.slice", format!("/{burstable}")),
        ] {
            let cgroup = planned(parent).expect(parent);
            assert_eq!(cgroup.path, format!("{group}/{unit}"));
            assert_eq!(cgroup.scope, Some(Scope { unit: unit.clone(), slice: slice.to_owned() }));
            assert!(cgroup.made.is_empty(), "systemd removes what it makes");
        }
        for bad in ["/", "/kubepods/pod1", "/x/test.slice", "-.slice", "a--b.slice", "a.slice/../b.slice"] {
            let error = planned(bad).expect_err(bad).to_string();
            assert!(error.starts_with("config.linux.cgroup_parent: "), "{bad}: {error}");
        }
    }
}
