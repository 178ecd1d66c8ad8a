//! The bundle that a shim makes a container of: config.json, completed with what wants a look at the
//! host, and the sources of bind mounts.

use super::{
    blocking::failed,
    cdi, devices, handlers,
    lsm::Modules,
    pod,
    policy::Policy,
    selinux::{self, Labels, Selinux},
    sources, volumes,
};
use engine::host::{ContainerPlan, Fault, HostError, OciSpec, PodPlan, Result};
use oci_spec::runtime::{Capabilities, Linux, LinuxSeccomp};
use std::{
    fs,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};
use types::container::SeccompProfile;

/// Directories of the machine's processors.
const CPUS: &str = "/sys/devices/system/cpu";

/// Writes `config.json`; the directory is private, and replaced whole by the next try.
pub(super) fn write(pod: &PodPlan, plan: &ContainerPlan, mut spec: OciSpec, policy: &Policy) -> Result<()> {
    complete(pod, plan, &mut spec, policy)?;
    confine(plan, &mut spec)?;
    name_the_host(pod, &mut spec);
    sources::prepare(plan, policy.make_sources)?;
    let labels = label(pod, plan, &mut spec)?;
    mount_image_volumes(pod, plan, &mut spec, labels.as_ref())?;
    make_log_directory(plan)?;
    handlers::mount_root(pod, plan, labels.as_ref().map(|labels| labels.files.as_str()))?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&plan.bundle)
        .map_err(failed(format!("cannot make {}", plan.bundle.display())))?;
    let text = serde_json::to_vec(&spec).map_err(failed("the spec cannot be written as JSON"))?;
    let path = plan.bundle.join("config.json");
    // Not synced: a bundle that a crash cut short is dropped with its plan.
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| file.write_all(&text))
        .map_err(failed(format!("cannot write {}", path.display())))
}

/// Device nodes with their numbers, and the filter for the capabilities that the container has.
fn complete(pod: &PodPlan, plan: &ContainerPlan, spec: &mut OciSpec, policy: &Policy) -> Result<()> {
    let mut given = devices::asked(&plan.spec.devices)?;
    if policy.own_devices {
        devices::own(&mut given, &plan.spec.security, &plan.image.user);
    }
    // A user namespace has no right to the node's devices, which would be its root's to use here.
    if plan.spec.security.privileged && pod.pins.user.is_none() {
        given.extend(devices::of_the_host()?);
    }
    devices::add(spec, given);
    cdi::give(&policy.cdi_dirs, &plan.spec.cdi_devices, spec)?;
    let bounding = spec
        .process()
        .as_ref()
        .and_then(|process| process.capabilities().as_ref())
        .and_then(|sets| sets.bounding().clone())
        .unwrap_or_default();
    let filter = filter(plan, &bounding, policy)?;
    let mut linux = spec.linux().clone().unwrap_or_default();
    linux.set_seccomp(filter);
    hide_throttling(&mut linux);
    spec.set_linux(Some(linux));
    Ok(())
}

/// SELinux labels, where the host has it, in the specification and on what the container is given.
fn label(pod: &PodPlan, plan: &ContainerPlan, spec: &mut OciSpec) -> Result<Option<Labels>> {
    let selinux = Selinux::of_the_host();
    if let Some(labels) = selinux.of_pod(pod)? {
        // The files of the pod's own, which all of its containers read.
        for path in [&pod.paths.hosts, &pod.paths.hostname, &pod.paths.resolv_conf] {
            selinux::relabel_file(path, &labels)?;
        }
    }
    let Some(labels) = selinux.of_container(pod, plan)? else { return Ok(None) };
    selinux::name(&labels, spec);
    selinux::relabel(plan, &labels)?;
    Ok(Some(labels))
}

/// What the host's security modules shall do.
fn confine(plan: &ContainerPlan, spec: &mut OciSpec) -> Result<()> {
    let modules = Modules::of_the_host();
    let profile = modules.profile(plan)?;
    if let Some(process) = spec.process_mut() {
        process.set_apparmor_profile(profile);
    }
    Ok(())
}

/// A pod that asked for no host name has the node's, and its containers are told so.
fn name_the_host(pod: &PodPlan, spec: &mut OciSpec) {
    let Some(process) = spec.process_mut() else { return };
    let mut env = process.env().clone().unwrap_or_default();
    if !env.iter().any(|variable| variable.starts_with("HOSTNAME=")) {
        env.push(format!("HOSTNAME={}", pod::hostname(pod)));
        process.set_env(Some(env));
    }
}

/// How often each processor was slowed down tells what others do on this machine. Where anything is
/// hidden this is too, as with the kubelet and the peers since 2025.
fn hide_throttling(linux: &mut Linux) {
    let mut masked = linux.masked_paths().clone().unwrap_or_default();
    if masked.is_empty() {
        return;
    }
    for entry in fs::read_dir(CPUS).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("cpu")).unwrap_or_default();
        let path = entry.path().join("thermal_throttle");
        if number.parse::<u32>().is_ok() && path.is_dir() {
            let path = path.display().to_string();
            if !masked.contains(&path) {
                masked.push(path);
            }
        }
    }
    linux.set_masked_paths(Some(masked));
}

/// The profile for the capabilities that the container has.
fn filter(plan: &ContainerPlan, bounding: &Capabilities, policy: &Policy) -> Result<Option<LinuxSeccomp>> {
    if plan.spec.security.privileged {
        // It has no filter, whatever profile came along (CRI comment).
        return Ok(None);
    }
    match &plan.spec.security.seccomp {
        SeccompProfile::Unconfined => Ok(None),
        SeccompProfile::RuntimeDefault => match &policy.seccomp {
            None => Ok(Some(seccomp::default_profile(bounding))),
            Some(path) => {
                let doing = || format!("cannot use container.seccomp_profile, {}", path.display());
                seccomp::read_profile(path, bounding).map(Some).map_err(|error| failed(doing())(error))
            }
        },
        SeccompProfile::Localhost(path) => localhost_filter(path, bounding).map(Some),
    }
}

/// A profile file of the host that the request names.
pub(super) fn localhost_filter(path: &Path, bounding: &Capabilities) -> Result<LinuxSeccomp> {
    seccomp::read_profile(path, bounding).map_err(|error| {
        HostError::because(
            format!("cannot use the localhost profile {}", path.display()),
            Fault::Invalid("config.linux.security_context.seccomp.localhost_ref"),
            error,
        )
    })
}

/// Has the specification name the content of image volumes as it was found.
fn mount_image_volumes(
    pod: &PodPlan,
    plan: &ContainerPlan,
    spec: &mut OciSpec,
    labels: Option<&Labels>,
) -> Result<()> {
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    let seen =
        volumes::Seen { label: labels.map(|labels| labels.files.as_str()), userns: pod.pins.user.as_deref() };
    volumes::mount_all(plan, &seen, |place, content| {
        for mount in mounts.iter_mut().filter(|mount| mount.source().as_deref() == Some(place)) {
            mount.set_source(Some(content.clone()));
        }
    })?;
    spec.set_mounts(Some(mounts));
    Ok(())
}

/// The directory of the log, if nobody made it: the kubelet does, others do not.
fn make_log_directory(plan: &ContainerPlan) -> Result<()> {
    let Some(directory) = plan.log.as_ref().and_then(|log| log.parent()) else { return Ok(()) };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(directory)
        .map_err(failed(format!("cannot make {}", directory.display())))
}
