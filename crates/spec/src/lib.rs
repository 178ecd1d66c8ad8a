//! Plan to OCI runtime spec, a pure function.
//!
//! [`container`] makes the `config.json` (OCI runtime-spec config.md, config-linux.md) of a container
//! from what was asked, what its image says and what the host knows. It touches nothing: symbolic
//! links in mount sources, devices in a directory, user names and profile files are resolved by the
//! caller and come in as values.
//!
//! Where the CRI leaves a choice it is made as containerd makes it, since that is what workloads have
//! met so far; the exceptions are said where they are.

mod devices;
mod error;
mod mounts;
mod process;
mod resources;
mod security;
#[cfg(test)]
mod tests;

pub use devices::{DeviceKind, DeviceNode};
pub use error::SpecError;
pub use mounts::volumes;
pub use resources::limits;
pub use security::{Sets, capabilities};

use oci_spec::runtime::{
    Capability, Linux, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, LinuxSeccomp, Root, Spec,
};
use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
};
use types::{
    PodId,
    container::{ContainerSpec, ImageDefaults, PidMode, ResolvedUser},
    pod::{NsMode, PodSpec},
};

/// Version of the OCI runtime specification whose fields are used.
const OCI_VERSION: &str = "1.2.0";

/// All that a container's specification is made of.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The pod.
    pub pod_id: &'a PodId,
    /// The pod as asked.
    pub pod: &'a PodSpec,
    /// The container as asked.
    pub container: &'a ContainerSpec,
    /// What its image says.
    pub image: &'a ImageDefaults,
    /// Who it runs as.
    pub user: &'a ResolvedUser,
    /// Files and namespaces of the pod.
    pub places: &'a Places,
    /// The container's group (`linux.cgroupsPath`), absolute from the hierarchies' roots.
    pub cgroup_path: &'a str,
    /// The machine.
    pub host: &'a HostFacts,
    /// The nodes that `container.devices` stand for, directories expanded.
    pub devices: &'a [DeviceNode],
    /// Makes `RuntimeDefault` for a bounding set.
    pub default_seccomp: fn(&HashSet<Capability>) -> LinuxSeccomp,
    /// The `Localhost` profile, if the container asks for one.
    pub localhost_seccomp: Option<&'a LinuxSeccomp>,
}

/// Where a pod's things are on the host. `None`: the node's own namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// Pin of the pod's network namespace.
    pub net: Option<PathBuf>,
    /// Pin of the pod's IPC namespace.
    pub ipc: Option<PathBuf>,
    /// Pin of the pod's UTS namespace.
    pub uts: Option<PathBuf>,
    /// The pod's PID namespace, where its containers share one.
    pub pid: Option<PathBuf>,
    /// Becomes /etc/hosts.
    pub hosts: PathBuf,
    /// Becomes /etc/hostname.
    pub hostname: PathBuf,
    /// Becomes /etc/resolv.conf.
    pub resolv_conf: PathBuf,
    /// Becomes /dev/shm: the pod's, or the node's for host IPC.
    pub shm: PathBuf,
    /// Parent of the directories that [`volumes`] names.
    pub volumes: PathBuf,
}

/// What the host says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// The machine has the unified cgroup hierarchy.
    pub cgroup_v2: bool,
    /// Of the options of the node's own cgroup2 mount those that a mount without a cgroup namespace
    /// must repeat, because it changes them for the whole machine: `nsdelegate`,
    /// `memory_recursiveprot`.
    pub cgroup_options: Vec<String>,
    /// /proc/sys/kernel/cap_last_cap.
    pub last_capability: u32,
    /// The node's host name, for pods without one.
    pub hostname: String,
    /// Number of possible CPUs (/sys/devices/system/cpu/possible).
    pub possible_cpus: u32,
    /// The daemon has CAP_SYS_RESOURCE: it may lower an oom_score_adj.
    pub may_raise_limits: bool,
    /// The lowest oom_score_adj that can be set without that.
    pub oom_score_adj: i32,
    /// All devices of the node, for privileged containers.
    pub devices: Vec<DeviceNode>,
    /// An unprivileged container whose request lists neither masked nor read-only paths gets the usual
    /// ones. A kubelet always sends lists, and sends none for `procMount: Unmasked`, which needs a user
    /// namespace (KEP-4265); without user namespaces an empty list is a client's that knows of none.
    pub masks_by_default: bool,
}

/// The specification of a container.
///
/// # Errors
/// [`SpecError`], which names the field of the request.
pub fn container(input: &Input<'_>) -> Result<Spec, SpecError> {
    let security = &input.container.security;
    if security.privileged && !input.pod.privileged {
        return Err(SpecError::bad("linux.security_context.privileged", "its sandbox is not privileged"));
    }
    let capabilities = capabilities(security, input.host.last_capability)?;
    let mounts = mounts::all(input)?;
    let (devices, rules) = devices::all(input)?;

    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces(input)?))
        .set_cgroups_path(Some(PathBuf::from(input.cgroup_path)))
        .set_resources(Some(resources::of(&input.container.resources, rules, input.host)?))
        .set_devices((!devices.is_empty()).then_some(devices))
        .set_rootfs_propagation(mounts::propagation(input.container).map(str::to_owned))
        .set_seccomp(security::seccomp(input, &capabilities.bounding)?);
    let (masked, readonly) = security::hidden(security, input.host);
    linux.set_masked_paths(masked).set_readonly_paths(readonly);

    let mut root = Root::default();
    root.set_path(PathBuf::from("rootfs")).set_readonly(security.readonly_rootfs.then_some(true));

    let mut spec = Spec::default();
    spec.set_version(OCI_VERSION.to_owned())
        .set_hostname(None)
        .set_root(Some(root))
        .set_mounts(Some(mounts))
        .set_process(Some(process::of(input, &capabilities)?))
        .set_annotations(Some(annotations(input)))
        .set_linux(Some(linux));
    Ok(spec)
}

/// The namespaces of a container: new ones, or those of the pod by their pins.
fn namespaces(input: &Input<'_>) -> Result<Vec<LinuxNamespace>, SpecError> {
    let places = input.places;
    let mut all = vec![namespace(LinuxNamespaceType::Mount, None)];
    let needed = |place: &Option<PathBuf>, what| place.clone().ok_or(SpecError::NoNamespace { what });
    match input.container.security.namespaces.pid {
        PidMode::Container => all.push(namespace(LinuxNamespaceType::Pid, None)),
        PidMode::Pod => {
            all.push(namespace(LinuxNamespaceType::Pid, Some(&needed(&places.pid, "PID")?)));
        }
        PidMode::Node => {}
    }
    // What the container says about network and ipc is not asked: there is one of each for a pod.
    if input.pod.namespaces.network != NsMode::Node {
        all.push(namespace(LinuxNamespaceType::Network, Some(&needed(&places.net, "network")?)));
    }
    if input.pod.namespaces.ipc != NsMode::Node {
        all.push(namespace(LinuxNamespaceType::Ipc, Some(&needed(&places.ipc, "IPC")?)));
    }
    if let Some(uts) = &places.uts {
        all.push(namespace(LinuxNamespaceType::Uts, Some(uts)));
    }
    if own_cgroup_namespace(input) {
        all.push(namespace(LinuxNamespaceType::Cgroup, None));
    }
    Ok(all)
}

/// All but privileged containers see their own group as the root of /sys/fs/cgroup and in
/// /proc/self/cgroup.
fn own_cgroup_namespace(input: &Input<'_>) -> bool {
    !input.container.security.privileged
}

fn namespace(kind: LinuxNamespaceType, path: Option<&Path>) -> LinuxNamespace {
    let mut namespace = LinuxNamespaceBuilder::default().typ(kind);
    if let Some(path) = path {
        namespace = namespace.path(path);
    }
    namespace.build().expect("every field has a default")
}

/// The annotations that hooks, NRI plugins and other OCI runtimes know from containerd.
fn annotations(input: &Input<'_>) -> HashMap<String, String> {
    let container = input.container;
    let image = [&container.user_specified_image, &container.image].into_iter().find(|name| !name.is_empty());
    [
        ("container-type", "container"),
        ("container-name", container.name.as_str()),
        ("image-name", image.map_or("", String::as_str)),
        ("sandbox-id", input.pod_id.as_str()),
        ("sandbox-name", input.pod.name.as_str()),
        ("sandbox-namespace", input.pod.namespace.as_str()),
        ("sandbox-uid", input.pod.uid.as_str()),
    ]
    .into_iter()
    .map(|(key, value)| (format!("io.kubernetes.cri.{key}"), value.to_owned()))
    .collect()
}
