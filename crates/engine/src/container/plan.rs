//! A container's plan: everything that it will own, named before any of it is made.

use crate::{
    error::EngineError,
    host::{ImageFacts, OciSpec},
    pod::{PodUp, plan::PodPlan},
};
use serde::{Deserialize, Serialize};
use std::path::{Component, Path, PathBuf};
use types::{
    ContainerId, PodId, Timestamp,
    container::{ContainerSpec, Resources},
    signal::Signal,
};

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
    /// The limits since the last UpdateContainerResources; `None` = those of the spec, which stays as
    /// it was asked, because a retry of CreateContainer is known by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated: Option<Resources>,
}

impl ContainerPlan {
    /// The limits in force.
    #[must_use]
    pub fn resources(&self) -> &Resources {
        self.updated.as_ref().unwrap_or(&self.spec.resources)
    }
}

/// The plan of a container. It is a function: nothing is made or looked up.
///
/// # Errors
/// The field that asks for what its pod cannot give.
pub fn plan(
    pod: &PodPlan,
    id: ContainerId,
    spec: ContainerSpec,
    image: ImageFacts,
    now: Timestamp,
) -> Result<ContainerPlan, EngineError> {
    Ok(ContainerPlan {
        pod: pod.id.clone(),
        created_at: now,
        bundle: pod.paths.dir.join("c").join(id.short()),
        rootfs: pod.paths.rootfs.join(id.short()),
        cgroup: format!("{}/{id}", pod.cgroup.path),
        log: log_file(pod.spec.log_directory.as_deref(), &spec.log_path)?,
        stop_signal: spec.stop_signal.or(image.defaults.stop_signal).unwrap_or(Signal::TERM),
        image,
        id,
        spec,
        updated: None,
    })
}

/// The OCI runtime spec that follows from the plan. `up` tells the pause process, if there is one;
/// `target` is the first process of the container whose PID namespace is to be shared, if one is.
///
/// # Errors
/// The field that cannot be obeyed.
pub fn oci_spec(
    pod: &PodPlan,
    up: &PodUp,
    target: Option<u32>,
    plan: &ContainerPlan,
) -> Result<OciSpec, EngineError> {
    let pid_of = |pid: u32| PathBuf::from(format!("/proc/{pid}/ns/pid"));
    let places = spec::Places {
        net: pod.pins.net.clone(),
        ipc: pod.pins.ipc.clone(),
        uts: pod.pins.uts.clone(),
        user: pod.pins.user.clone(),
        pid: up.shim.pause_pid.map(pid_of),
        target: target.map(pid_of),
        hosts: pod.paths.hosts.clone(),
        hostname: pod.paths.hostname.clone(),
        resolv_conf: pod.paths.resolv_conf.clone(),
        shm: pod.paths.shm.clone(),
        volumes: plan.bundle.join("volumes"),
    };
    let input = spec::Input {
        pod_id: &pod.id,
        pod: &pod.spec,
        container_id: &plan.id,
        container: &plan.spec,
        image: &plan.image.defaults,
        image_name: &plan.image.reference,
        user: &plan.image.user,
        places: &places,
        cgroup: &plan.cgroup,
    };
    spec::container(&input).map_err(|error| EngineError::invalid(error.field, error.why))
}

/// `log_path` beneath the pod's `log_directory`; without one of them there is no log.
fn log_file(directory: Option<&Path>, log_path: &str) -> Result<Option<PathBuf>, EngineError> {
    let Some(directory) = directory.filter(|_| !log_path.is_empty()) else { return Ok(None) };
    let beneath = Path::new(log_path).components().all(|part| matches!(part, Component::Normal(_)));
    if !beneath || log_path.ends_with('/') || log_path.contains('\0') {
        return Err(EngineError::invalid("log_path", "it must name a file beneath log_directory"));
    }
    Ok(Some(directory.join(log_path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use config::Config;
    use types::{container::ImageDefaults, pod::PodSpec};

    fn pod() -> PodPlan {
        let spec = PodSpec { log_directory: Some("/logs/p".into()), ..PodSpec::default() };
        let id = PodId::from_random([0xab; 32]);
        crate::pod::plan::plan(&Config::default(), id, spec, Default::default(), Timestamp(1)).expect("plan")
    }

    fn planned(spec: ContainerSpec, image: ImageFacts) -> Result<ContainerPlan, EngineError> {
        plan(&pod(), ContainerId::from_random([0xcd; 32]), spec, image, Timestamp(2))
    }

    #[test]
    fn a_container_lies_within_its_pod() {
        let plan = planned(ContainerSpec::default(), ImageFacts::default()).expect("a plan");
        assert_eq!(plan.bundle, Path::new("/run/peapod/pods/abababababab/c/cdcdcdcdcdcd"));
        assert_eq!(plan.rootfs, Path::new("/var/lib/peapod/pods/abababababab/cdcdcdcdcdcd"));
        assert_eq!(plan.cgroup, format!("/peapod/{}/{}", "ab".repeat(32), "cd".repeat(32)));
        assert_eq!(plan.log, None);
    }

    #[test]
    fn the_log_stays_beneath_its_directory() {
        let log = |path: &str| {
            let spec = ContainerSpec { log_path: path.to_owned(), ..ContainerSpec::default() };
            planned(spec, ImageFacts::default()).map(|plan| plan.log)
        };
        assert_eq!(log("c/0.log").expect("fine"), Some(PathBuf::from("/logs/p/c/0.log")));
        for bad in ["../x", "/etc/passwd", "a/../../b", "a/", "./a", "a\0b", ".."] {
            let error = log(bad).expect_err(bad).to_string();
            assert!(error.starts_with("log_path: "), "{bad}: {error}");
        }
    }

    #[test]
    fn the_request_s_stop_signal_wins_over_the_images() {
        let signal = |text| Signal::parse(text).expect("a signal");
        let image = |stop_signal| ImageFacts {
            defaults: ImageDefaults { stop_signal, ..ImageDefaults::default() },
            ..ImageFacts::default()
        };
        let asked = |stop_signal| ContainerSpec { stop_signal, ..ContainerSpec::default() };
        let (quit, usr1) = (Some(signal("QUIT")), Some(signal("USR1")));
        for (spec, image, stop) in [
            (asked(quit), image(usr1), signal("QUIT")),
            (asked(None), image(usr1), signal("USR1")),
            (asked(None), image(None), Signal::TERM),
        ] {
            assert_eq!(planned(spec, image).expect("a plan").stop_signal, stop);
        }
    }
}
