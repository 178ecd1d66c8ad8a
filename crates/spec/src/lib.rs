//! Plan to OCI runtime spec, a pure function.
//!
//! It opens nothing and asks nobody: what it needs of the host is in [`Input`]. Two things are left
//! to who makes the container, because they want a look at the host: device nodes (their numbers)
//! and the seccomp filter (compiled and cached elsewhere).
#![forbid(unsafe_code)]

mod capabilities;
mod mounts;
mod process;
mod resources;

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
    pod::PodSpec,
};

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
    /// The PID namespace that the pod shares; needed with [`PidMode::Pod`] only.
    pub pid: Option<PathBuf>,
    /// Mounted at /etc/hosts.
    pub hosts: PathBuf,
    /// Mounted at /etc/hostname.
    pub hostname: PathBuf,
    /// Mounted at /etc/resolv.conf.
    pub resolv_conf: PathBuf,
    /// Mounted at /dev/shm; `None` = the node's own /dev/shm.
    pub shm: Option<PathBuf>,
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
    let (masked, readonly) = if security.privileged {
        (Vec::new(), Vec::new())
    } else {
        (security.masked_paths.clone(), security.readonly_paths.clone())
    };
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces(input)?)
        .resources(resources::resources(input)?)
        .cgroups_path(input.cgroup)
        .masked_paths(masked)
        .readonly_paths(readonly)
        .build()
        .map_err(SpecError::builder)?;
    linux.set_rootfs_propagation(rootfs_propagation(input.container).map(str::to_owned));
    let root = RootBuilder::default()
        .path("rootfs")
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
/// cgroups, as with the peers); the PID namespace as the container asks.
fn namespaces(input: &Input<'_>) -> Result<Vec<LinuxNamespace>, SpecError> {
    let places = input.places;
    let mut all = vec![namespace(LinuxNamespaceType::Mount, None)?];
    if !input.container.security.privileged {
        all.push(namespace(LinuxNamespaceType::Cgroup, None)?);
    }
    let pins = [
        (LinuxNamespaceType::Network, &places.net),
        (LinuxNamespaceType::Ipc, &places.ipc),
        (LinuxNamespaceType::Uts, &places.uts),
    ];
    for (kind, pin) in pins {
        if let Some(pin) = pin {
            all.push(namespace(kind, Some(pin))?);
        }
    }
    match input.container.security.namespaces.pid {
        PidMode::Container => all.push(namespace(LinuxNamespaceType::Pid, None)?),
        PidMode::Node => {}
        PidMode::Pod => {
            let path = places.pid.as_deref().ok_or_else(|| {
                SpecError::new(
                    "config.linux.security_context.namespace_options.pid",
                    "is POD, but the pod sandbox was not made with one PID namespace for all",
                )
            })?;
            all.push(namespace(LinuxNamespaceType::Pid, Some(path))?);
        }
    }
    Ok(all)
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
