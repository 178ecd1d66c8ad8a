//! Domain to answers.

use api::cri;
use engine::{ContainerState, ContainerView, PodState, PodView, container::Phase};
use std::collections::BTreeMap;
use types::{
    Timestamp,
    container::{ContainerSpec, GroupsPolicy, IdMapping, MountOption, PidMode, Propagation, Resources},
    pod::{NsMode, UserMapping, UserMode},
    signal::Signal,
};

/// What Kubernetes calls the default handler's name in a status.
const RUNTIME_HANDLER: &str = "";

pub(crate) fn pod_state(state: PodState) -> i32 {
    match state {
        PodState::Ready => cri::PodSandboxState::SandboxReady.into(),
        PodState::NotReady => cri::PodSandboxState::SandboxNotready.into(),
    }
}

pub(crate) fn container_state(state: ContainerState) -> i32 {
    match state {
        ContainerState::Created => cri::ContainerState::ContainerCreated.into(),
        ContainerState::Running => cri::ContainerState::ContainerRunning.into(),
        ContainerState::Exited => cri::ContainerState::ContainerExited.into(),
        ContainerState::Unknown => cri::ContainerState::ContainerUnknown.into(),
    }
}

pub(crate) fn pod_metadata(pod: &PodView) -> cri::PodSandboxMetadata {
    let spec = &pod.plan.spec;
    cri::PodSandboxMetadata {
        name: spec.name.clone(),
        uid: spec.uid.clone(),
        namespace: spec.namespace.clone(),
        attempt: spec.attempt,
    }
}

/// A row of ListPodSandbox.
pub(crate) fn pod_row(pod: &PodView) -> cri::PodSandbox {
    cri::PodSandbox {
        id: pod.plan.id.to_string(),
        metadata: Some(pod_metadata(pod)),
        state: pod_state(pod.state()),
        created_at: pod.plan.created_at.0,
        labels: pod.plan.spec.labels.clone(),
        annotations: pod.plan.spec.annotations.clone(),
        runtime_handler: pod.plan.spec.runtime_handler.clone(),
    }
}

fn mode(mode: NsMode) -> i32 {
    match mode {
        NsMode::Pod => cri::NamespaceMode::Pod.into(),
        NsMode::Container => cri::NamespaceMode::Container.into(),
        NsMode::Node => cri::NamespaceMode::Node.into(),
    }
}

fn userns(asked: UserMode) -> cri::UserNamespace {
    match asked {
        UserMode::Node => cri::UserNamespace { mode: cri::NamespaceMode::Node.into(), ..Default::default() },
        UserMode::Unmapped => cri::UserNamespace::default(),
        UserMode::Pod(UserMapping { first_uid, first_gid, length }) => {
            let line = |host_id| mappings(&[IdMapping { container_id: 0, host_id, length }]);
            cri::UserNamespace {
                mode: cri::NamespaceMode::Pod.into(),
                uids: line(first_uid),
                gids: line(first_gid),
            }
        }
    }
}

/// PodSandboxStatus.
pub(crate) fn pod_status(pod: &PodView) -> cri::PodSandboxStatus {
    let spec = &pod.plan.spec;
    let mut ips = pod.ips().iter();
    let network = cri::PodSandboxNetworkStatus {
        ip: ips.next().map(ToString::to_string).unwrap_or_default(),
        additional_ips: ips.map(|ip| cri::PodIp { ip: ip.to_string() }).collect(),
    };
    let options = cri::NamespaceOption {
        network: mode(spec.namespaces.network),
        pid: mode(spec.namespaces.pid),
        ipc: mode(spec.namespaces.ipc),
        userns_options: spec.namespaces.user.map(userns),
        ..Default::default()
    };
    cri::PodSandboxStatus {
        id: pod.plan.id.to_string(),
        metadata: Some(pod_metadata(pod)),
        state: pod_state(pod.state()),
        created_at: pod.plan.created_at.0,
        network: Some(network),
        linux: Some(cri::LinuxPodSandboxStatus {
            namespaces: Some(cri::Namespace { options: Some(options) }),
        }),
        labels: spec.labels.clone(),
        annotations: spec.annotations.clone(),
        runtime_handler: spec.runtime_handler.clone(),
    }
}

/// `info` of a verbose PodSandboxStatus.
pub(crate) fn pod_info(pod: &PodView) -> BTreeMap<String, String> {
    let info = serde_json::json!({
        "pid": pod.shim_pid(),
        "pausePid": pod.pause_pid(),
        "message": pod.message(),
        "netns": pod.plan.pins.net,
        "cgroup": pod.plan.cgroup.path,
        "stateDir": pod.plan.paths.dir,
        "overhead": pod.size.as_ref().map(|size| &size.overhead),
        "resources": pod.size.as_ref().map(|size| &size.resources),
    });
    BTreeMap::from([("info".to_owned(), info.to_string())])
}

fn image_spec(spec: &ContainerSpec, image: &str) -> cri::ImageSpec {
    cri::ImageSpec {
        image: image.to_owned(),
        user_specified_image: spec.user_specified_image.clone(),
        runtime_handler: RUNTIME_HANDLER.to_owned(),
        ..Default::default()
    }
}

fn container_metadata(container: &ContainerView) -> cri::ContainerMetadata {
    let spec = &container.plan.spec;
    cri::ContainerMetadata { name: spec.name.clone(), attempt: spec.attempt }
}

/// A row of ListContainers.
pub(crate) fn container_row(container: &ContainerView) -> cri::Container {
    let plan = &container.plan;
    cri::Container {
        id: plan.id.to_string(),
        pod_sandbox_id: plan.pod.to_string(),
        metadata: Some(container_metadata(container)),
        image: Some(image_spec(&plan.spec, &plan.spec.image)),
        image_ref: plan.image.id.clone(),
        state: container_state(container.state()),
        created_at: plan.created_at.0,
        labels: plan.spec.labels.clone(),
        annotations: plan.spec.annotations.clone(),
        image_id: plan.image.id.clone(),
    }
}

/// ContainerStatus. `log_trouble` is why log lines wait to be written, if they do.
pub(crate) fn container_status(container: &ContainerView, log_trouble: Option<&str>) -> cri::ContainerStatus {
    let plan = &container.plan;
    let spec = &plan.spec;
    let ended = container.ended();
    let mut message = container.message().to_owned();
    if let Some(trouble) = log_trouble {
        message =
            [message.as_str(), trouble].into_iter().filter(|t| !t.is_empty()).collect::<Vec<_>>().join("; ");
    }
    cri::ContainerStatus {
        id: plan.id.to_string(),
        metadata: Some(container_metadata(container)),
        state: container_state(container.state()),
        created_at: plan.created_at.0,
        started_at: started_at(container).0,
        finished_at: ended.map_or(0, |e| e.finished_at.0),
        exit_code: ended.map_or(0, |e| e.code),
        image: Some(image_spec(spec, &plan.image.reference)),
        image_ref: plan.image.repo_digest.clone(),
        reason: ended.map(|e| e.reason.name().to_owned()).unwrap_or_default(),
        message,
        labels: spec.labels.clone(),
        annotations: spec.annotations.clone(),
        mounts: mounts(container),
        log_path: plan.log.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
        resources: Some(cri::ContainerResources { linux: Some(resources(plan.resources())), windows: None }),
        image_id: plan.image.id.clone(),
        user: Some(user(container)),
        stop_signal: stop_signal(plan.stop_signal),
    }
}

fn started_at(container: &ContainerView) -> Timestamp {
    match &container.phase {
        Phase::Running { started_at, .. } | Phase::Unknown { started_at, .. } => *started_at,
        Phase::Exited(ended) => ended.started_at,
        Phase::Creating | Phase::Created { .. } => Timestamp::NEVER,
    }
}

/// As asked; an image volume with the digest of what it was found to be (KEP-5365).
fn mounts(container: &ContainerView) -> Vec<cri::Mount> {
    let mut volumes = container.plan.image.volumes.iter();
    let all = container.plan.spec.mounts.iter();
    all.map(|asked| {
        let mut told = mount(asked);
        if let Some(image) = &asked.image {
            told.image_sub_path = image.sub_path.clone();
            told.image = Some(cri::ImageSpec {
                image: image.image.clone(),
                user_specified_image: image.user_specified_image.clone(),
                image_ref: volumes.next().map(|volume| volume.repo_digest.clone()).unwrap_or_default(),
                ..Default::default()
            });
        }
        told
    })
    .collect()
}

fn mappings(lines: &[IdMapping]) -> Vec<cri::IdMapping> {
    let line = |line: &IdMapping| cri::IdMapping {
        host_id: line.host_id,
        container_id: line.container_id,
        length: line.length,
    };
    lines.iter().map(line).collect()
}

fn mount_option(option: MountOption) -> String {
    match option {
        MountOption::NoExec => "noexec",
        MountOption::NoDev => "nodev",
        MountOption::NoSuid => "nosuid",
    }
    .to_owned()
}

fn mount(mount: &types::container::Mount) -> cri::Mount {
    let propagation = match mount.propagation {
        Propagation::Private => cri::MountPropagation::PropagationPrivate,
        Propagation::HostToContainer => cri::MountPropagation::PropagationHostToContainer,
        Propagation::Bidirectional => cri::MountPropagation::PropagationBidirectional,
    };
    cri::Mount {
        container_path: mount.container_path.clone(),
        host_path: mount.host_path.display().to_string(),
        readonly: mount.readonly,
        propagation: propagation.into(),
        recursive_read_only: mount.recursive_readonly,
        mount_options: mount.options.iter().copied().map(mount_option).collect(),
        uid_mappings: mappings(&mount.uid_mappings),
        gid_mappings: mappings(&mount.gid_mappings),
        selinux_relabel: mount.selinux_relabel,
        ..Default::default()
    }
}

/// The limits in force (KEP-1287). Memory and swap together are as large as the memory where swap is not
/// asked for: it adds nothing then.
fn resources(limits: &Resources) -> cri::LinuxContainerResources {
    let number = |value: Option<u64>| value.and_then(|n| i64::try_from(n).ok()).unwrap_or(0);
    cri::LinuxContainerResources {
        cpu_period: number(limits.cpu_period),
        cpu_quota: limits.cpu_quota.unwrap_or(0),
        cpu_shares: number(limits.cpu_shares),
        memory_limit_in_bytes: limits.memory_limit.unwrap_or(0),
        oom_score_adj: i64::from(limits.oom_score_adj),
        cpuset_cpus: limits.cpuset_cpus.clone(),
        cpuset_mems: limits.cpuset_mems.clone(),
        hugepage_limits: limits
            .hugepage_limits
            .iter()
            .map(|(page_size, limit)| cri::HugepageLimit { page_size: page_size.clone(), limit: *limit })
            .collect(),
        unified: limits.unified.clone(),
        memory_swap_limit_in_bytes: limits.memory_swap_limit.or(limits.memory_limit).unwrap_or(0),
    }
}

/// Who the first process was at its start (KEP-3619).
fn user(container: &ContainerView) -> cri::ContainerUser {
    let user = &container.plan.image.user;
    cri::ContainerUser {
        linux: Some(cri::LinuxContainerUser {
            uid: user.uid.into(),
            gid: user.gid.into(),
            supplemental_groups: user.groups.iter().map(|group| i64::from(*group)).collect(),
        }),
    }
}

/// The CRI's own numbers are those of the names in alphabetical order, not the kernel's.
fn stop_signal(signal: Signal) -> i32 {
    (0..=i32::from(u8::MAX))
        .filter_map(|n| cri::Signal::try_from(n).ok())
        .find(|known| Signal::parse(known.as_str_name().trim_start_matches("SIGNAL_")) == Ok(signal))
        .map_or(0, Into::into)
}

/// `info` of a verbose ContainerStatus; crictl inspect reads `pid`.
pub(crate) fn container_info(container: &ContainerView) -> BTreeMap<String, String> {
    let plan = &container.plan;
    let security = &plan.spec.security;
    let info = serde_json::json!({
        "sandboxID": plan.pod,
        "pid": container.pid().unwrap_or(0),
        "removing": false,
        "snapshotter": "overlay",
        "privileged": security.privileged,
        "sharedPid": security.namespaces.pid == PidMode::Pod,
        "strictGroups": security.groups_policy == GroupsPolicy::Strict,
        "cgroup": plan.cgroup,
        "bundle": plan.bundle,
        "rootfs": plan.rootfs,
        "layers": plan.image.layers,
    });
    BTreeMap::from([("info".to_owned(), info.to_string())])
}
