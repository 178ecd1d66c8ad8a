//! Plan to OCI runtime spec, a pure function.
//!
//! It opens nothing and asks nobody: what it needs of the host is in [`Input`]. Two things are left
//! to who makes the container, because they want a look at the host: device nodes (their numbers),
//! the seccomp filter (compiled and cached elsewhere), and what else is hidden of /sys.
#![forbid(unsafe_code)]

mod capabilities;
mod hidden;
mod mounts;
mod process;
mod resources;
mod userns;

use oci_spec::{
    OciSpecError,
    runtime::{
        LinuxBuilder, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, RootBuilder, Spec,
        SpecBuilder,
    },
};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};
use types::{
    ContainerId, PodId,
    container::{ContainerSpec, ImageDefaults, PidMode, Propagation, ResolvedUser},
    pod::{NsMode, PodSpec},
};

/// The root file system beneath the bundle.
const ROOT: &str = "rootfs";

/// All that a container's spec follows from.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The pod.
    pub pod_id: &'a PodId,
    /// As it was asked for.
    pub pod: &'a PodSpec,
    /// The container.
    pub container_id: &'a ContainerId,
    /// As it was asked for.
    pub container: &'a ContainerSpec,
    /// What the image says.
    pub image: &'a ImageDefaults,
    /// The reference that the status tells, for the annotations.
    pub image_name: &'a str,
    /// Who it runs as.
    pub user: &'a ResolvedUser,
    /// Where the pod's namespaces and files are.
    pub places: &'a Places,
    /// Its own cgroup, absolute from the root of the hierarchies.
    pub cgroup: &'a str,
}

/// Where a pod's namespaces and files are on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// Network namespace; `None` = the node's.
    pub net: Option<PathBuf>,
    /// IPC namespace; `None` = the node's.
    pub ipc: Option<PathBuf>,
    /// UTS namespace; `None` = the node's.
    pub uts: Option<PathBuf>,
    /// User namespace; `None` = the node's.
    pub user: Option<PathBuf>,
    /// The PID namespace that the pod shares; needed with [`PidMode::Pod`] only.
    pub pid: Option<PathBuf>,
    /// That of the container's target; needed with [`PidMode::Target`] only.
    pub target: Option<PathBuf>,
    /// Mounted at /etc/hosts.
    pub hosts: PathBuf,
    /// Mounted at /etc/hostname.
    pub hostname: PathBuf,
    /// Mounted at /etc/resolv.conf.
    pub resolv_conf: PathBuf,
    /// Mounted at /dev/shm; `None` = the node's own /dev/shm.
    pub shm: Option<PathBuf>,
    /// Where the container's image volumes are: each in a directory named by its place in the request's
    /// list of mounts.
    pub volumes: PathBuf,
}

/// A request that no spec can be made of.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{field}: {why}")]
pub struct SpecError {
    /// The field by its CRI name.
    pub field: &'static str,
    /// What is wrong with it.
    pub why: String,
}

impl SpecError {
    fn new(field: &'static str, why: impl Into<String>) -> Self {
        SpecError { field, why: why.into() }
    }

    /// The builders of oci-spec fail only for a required part that was not given.
    fn builder(error: OciSpecError) -> Self {
        SpecError::new("config", format!("no OCI spec can be made: {error}"))
    }
}

/// The OCI runtime spec (version 1.2) of a container.
///
/// # Errors
/// [`SpecError`] names the field that cannot be obeyed.
pub fn container(input: &Input<'_>) -> Result<Spec, SpecError> {
    let security = &input.container.security;
    if security.privileged && !input.pod.privileged {
        return Err(SpecError::new(
            "config.linux.security_context.privileged",
            "the pod sandbox is not privileged, so no container of it can be",
        ));
    }
    let (masked, readonly) = hidden::hidden(input);
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces(input)?)
        .resources(resources::resources(input)?)
        .cgroups_path(input.cgroup)
        .masked_paths(masked)
        .readonly_paths(readonly)
        .build()
        .map_err(SpecError::builder)?;
    userns::map(input, &mut linux)?;
    linux.set_rootfs_propagation(rootfs_propagation(input.container).map(str::to_owned));
    let root = RootBuilder::default()
        .path(ROOT)
        .readonly(security.readonly_rootfs)
        .build()
        .map_err(SpecError::builder)?;
    let mut spec = SpecBuilder::default()
        .version("1.2.0")
        .root(root)
        .process(process::process(input)?)
        .mounts(mounts::mounts(input)?)
        .annotations(annotations(input))
        .linux(linux)
        .build()
        .map_err(SpecError::builder)?;
    // The UTS namespace is the pod's and has its name already.
    spec.set_hostname(None);
    Ok(spec)
}

fn namespace(kind: LinuxNamespaceType, path: Option<&Path>) -> Result<LinuxNamespace, SpecError> {
    let mut builder = LinuxNamespaceBuilder::default().typ(kind);
    if let Some(path) = path {
        builder = builder.path(path);
    }
    builder.build().map_err(SpecError::builder)
}

/// The pod's pins by path; mount and cgroup always new (a privileged container sees the node's
/// cgroups, as with the peers, unless its user namespace is not the node's); the PID namespace as the
/// container asks.
fn namespaces(input: &Input<'_>) -> Result<Vec<LinuxNamespace>, SpecError> {
    let places = input.places;
    shared_namespaces(input)?;
    userns::check(input)?;
    let mut all = vec![namespace(LinuxNamespaceType::Mount, None)?];
    if !input.container.security.privileged || places.user.is_some() {
        all.push(namespace(LinuxNamespaceType::Cgroup, None)?);
    }
    let pins = [
        (LinuxNamespaceType::Network, &places.net),
        (LinuxNamespaceType::Ipc, &places.ipc),
        (LinuxNamespaceType::Uts, &places.uts),
        (LinuxNamespaceType::User, &places.user),
    ];
    for (kind, pin) in pins {
        if let Some(pin) = pin {
            all.push(namespace(kind, Some(pin))?);
        }
    }
    match pid_namespace(input)? {
        Pid::Own => all.push(namespace(LinuxNamespaceType::Pid, None)?),
        Pid::Node => {}
        Pid::Of(path) => all.push(namespace(LinuxNamespaceType::Pid, Some(path))?),
    }
    Ok(all)
}

enum Pid<'a> {
    Own,
    Node,
    Of(&'a Path),
}

/// POD is what the pod has, be it the node's; NODE is only for a pod that has the node's.
fn pid_namespace<'a>(input: &Input<'a>) -> Result<Pid<'a>, SpecError> {
    const FIELD: &str = "config.linux.security_context.namespace_options.pid";
    match (&input.container.security.namespaces.pid, input.pod.namespaces.pid) {
        (PidMode::Container, _) => Ok(Pid::Own),
        (PidMode::Pod | PidMode::Node, NsMode::Node) => Ok(Pid::Node),
        (PidMode::Pod, NsMode::Pod | NsMode::Container) => {
            input.places.pid.as_deref().map(Pid::Of).ok_or_else(|| {
                SpecError::new(
                    FIELD,
                    "is POD, but the pod sandbox was not made with one PID namespace for all",
                )
            })
        }
        (PidMode::Node, NsMode::Pod | NsMode::Container) => Err(SpecError::new(
            FIELD,
            "is NODE, but the pod sandbox was not made in the node's PID namespace",
        )),
        (PidMode::Target(_), _) => input.places.target.as_deref().map(Pid::Of).ok_or_else(|| {
            SpecError::new(FIELD, "is TARGET, and it is not known where the target's namespace is")
        }),
    }
}

/// Network and IPC are the pod's, which a container can only say again: POD is what the pod has.
fn shared_namespaces(input: &Input<'_>) -> Result<(), SpecError> {
    let (own, pod) = (&input.container.security.namespaces, &input.pod.namespaces);
    for (field, own, pod) in [
        ("config.linux.security_context.namespace_options.network", own.network, pod.network),
        ("config.linux.security_context.namespace_options.ipc", own.ipc, pod.ipc),
    ] {
        match (own, pod) {
            (NsMode::Pod, _) | (NsMode::Node, NsMode::Node) => {}
            (NsMode::Node, NsMode::Pod | NsMode::Container) => {
                return Err(SpecError::new(field, "is NODE, but the pod sandbox has a namespace of its own"));
            }
            (NsMode::Container, _) => {
                return Err(SpecError::new(
                    field,
                    "is CONTAINER, and the containers of a pod share this one",
                ));
            }
        }
    }
    Ok(())
}

/// Mount events go between host and container only when a mount asks for it.
fn rootfs_propagation(container: &ContainerSpec) -> Option<&'static str> {
    let any = |wanted| container.mounts.iter().any(|mount| mount.propagation == wanted);
    if any(Propagation::Bidirectional) {
        Some("rshared")
    } else if any(Propagation::HostToContainer) {
        Some("rslave")
    } else {
        None
    }
}

/// What tools read from a spec; the keys are those that containerd set the custom of.
fn annotations(input: &Input<'_>) -> HashMap<String, String> {
    [
        ("container-type", "container"),
        ("container-name", &input.container.name),
        ("image-name", input.image_name),
        ("sandbox-id", input.pod_id.as_str()),
        ("sandbox-name", &input.pod.name),
        ("sandbox-namespace", &input.pod.namespace),
        ("sandbox-uid", &input.pod.uid),
    ]
    .map(|(key, value)| (format!("io.kubernetes.cri.{key}"), value.to_owned()))
    .into()
}

#[cfg(test)]
mod tests;
