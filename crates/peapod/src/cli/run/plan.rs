//! A manifest as requests of the CRI, as the kubelet makes them. No IO.

use super::{
    super::{
        find::CONTAINER_NAME,
        manifest::{
            Container, EnvVar, GroupsPolicy, Kind, Pod, Propagation, Protocol, Seccomp, VolumeSource,
            environment, expand,
        },
    },
    places::PodPlaces,
    qos,
};
use api::cri::{
    Capability, ContainerConfig, ContainerMetadata, DnsConfig, Image, ImageSpec, Int64Value, KeyValue,
    LinuxContainerConfig, LinuxContainerSecurityContext, LinuxPodSandboxConfig, LinuxSandboxSecurityContext,
    Mount, MountPropagation, NamespaceMode, NamespaceOption, PodSandboxConfig, PodSandboxMetadata,
    PortMapping, SecurityProfile, SupplementalGroupsPolicy, security_profile::ProfileType,
};
use std::{collections::BTreeMap, path::Path};

/// On a sandbox: `peapod run` made it, and may replace it.
pub(crate) const MADE_BY_RUN: &str = "io.peapod/made-by-run";
/// On a container: `init`, `sidecar` or `app`, for whoever stops the pod.
pub(crate) const KIND: &str = "io.peapod/kind";
/// On a container, in seconds. The kubelet's own annotation, so that its pods are stopped in their time too.
pub(crate) const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";

/// Why a container cannot be as the manifest wants it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum PlanError {
    #[error("container {0} has runAsNonRoot, and would run as root")]
    Root(String),
    #[error(
        "container {name} has runAsNonRoot, and its image's user `{user}` is no number, so it may be root"
    )]
    MaybeRoot { name: String, user: String },
}

/// A pod and what is fixed about it when it is brought up.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) pod: Pod,
    pub(crate) uid: String,
    pub(crate) places: PodPlaces,
    /// Of the machine, in bytes.
    pub(crate) memory: i64,
    /// Names beneath /sys/devices/system/cpu that leak what neighbours do.
    pub(crate) masked_cpus: Vec<String>,
}

impl Plan {
    /// The sandbox. Its retry is the same request, and so meets the same sandbox.
    pub(crate) fn sandbox(&self, dns: Option<DnsConfig>) -> PodSandboxConfig {
        let pod = &self.pod;
        let security = &pod.security;
        let context = LinuxSandboxSecurityContext {
            namespace_options: Some(self.namespaces()),
            run_as_user: security.user.uid.map(number),
            // Without a user it is refused, and no process of the sandbox's own needs it.
            run_as_group: security.user.uid.and(security.user.gid).map(number),
            supplemental_groups: self.groups(),
            supplemental_groups_policy: self.groups_policy(),
            privileged: pod.containers.iter().any(|container| container.security.privileged),
            seccomp: Some(profile(Seccomp::RuntimeDefault)),
            ..LinuxSandboxSecurityContext::default()
        };
        let mut labels = pod.labels.clone();
        labels.extend(self.labels());
        let mut annotations = pod.annotations.clone();
        annotations.insert(MADE_BY_RUN.to_owned(), "true".to_owned());
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: pod.name.clone(),
                uid: self.uid.clone(),
                namespace: pod.namespace.clone(),
                attempt: 0,
            }),
            hostname: if pod.host_network { String::new() } else { pod.hostname.clone() },
            log_directory: self.places.logs.display().to_string(),
            dns_config: dns,
            port_mappings: if pod.host_network { Vec::new() } else { self.port_mappings() },
            labels,
            annotations,
            linux: Some(LinuxPodSandboxConfig {
                security_context: Some(context),
                sysctls: security.sysctls.clone(),
                ..LinuxPodSandboxConfig::default()
            }),
            windows: None,
        }
    }

    /// One attempt of one container.
    ///
    /// # Errors
    /// [`PlanError`] where runAsNonRoot cannot be kept.
    pub(crate) fn container(
        &self,
        container: &Container,
        attempt: u32,
        image: &Image,
    ) -> Result<ContainerConfig, PlanError> {
        let (env, known) = environment(&container.env);
        let expanded = |words: &[String]| words.iter().map(|word| expand(word, &known)).collect();
        let mut annotations = BTreeMap::new();
        for (key, value) in [
            (KIND, kind(container.kind).to_owned()),
            (GRACE, self.pod.grace.to_string()),
            ("io.kubernetes.container.restartCount", attempt.to_string()),
            ("io.kubernetes.container.terminationMessagePath", container.termination_path.clone()),
        ] {
            annotations.insert(key.to_owned(), value);
        }
        let mut labels = self.labels();
        labels.insert(CONTAINER_NAME.to_owned(), container.name.clone());
        Ok(ContainerConfig {
            metadata: Some(ContainerMetadata { name: container.name.clone(), attempt }),
            image: Some(ImageSpec {
                image: image.id.clone(),
                user_specified_image: container.image.clone(),
                ..ImageSpec::default()
            }),
            command: expanded(&container.command),
            args: expanded(&container.args),
            working_dir: container.working_dir.clone(),
            envs: env.into_iter().map(key_value).collect(),
            mounts: self.mounts(container, attempt),
            labels,
            annotations,
            log_path: format!("{}/{attempt}.log", container.name),
            linux: Some(LinuxContainerConfig {
                resources: Some(qos::resources(&self.pod, container, self.memory)),
                security_context: Some(self.security(container, image)?),
            }),
            ..ContainerConfig::default()
        })
    }

    fn labels(&self) -> BTreeMap<String, String> {
        [
            ("io.kubernetes.pod.name", &self.pod.name),
            ("io.kubernetes.pod.namespace", &self.pod.namespace),
            ("io.kubernetes.pod.uid", &self.uid),
        ]
        .map(|(key, value)| (key.to_owned(), value.clone()))
        .into()
    }

    fn namespaces(&self) -> NamespaceOption {
        let network = if self.pod.host_network { NamespaceMode::Node } else { NamespaceMode::Pod };
        NamespaceOption {
            network: network.into(),
            pid: NamespaceMode::Container.into(),
            ipc: NamespaceMode::Pod.into(),
            ..NamespaceOption::default()
        }
    }

    fn port_mappings(&self) -> Vec<PortMapping> {
        let ports = self.pod.containers.iter().flat_map(|container| &container.ports);
        let mapping = |port: &super::super::manifest::Port| {
            let protocol = match port.protocol {
                Protocol::Tcp => api::cri::Protocol::Tcp,
                Protocol::Udp => api::cri::Protocol::Udp,
                Protocol::Sctp => api::cri::Protocol::Sctp,
            };
            Some(PortMapping {
                protocol: protocol.into(),
                container_port: port.container_port.into(),
                host_port: port.host_port?.into(),
                host_ip: port.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
            })
        };
        ports.filter_map(mapping).collect()
    }

    fn groups(&self) -> Vec<i64> {
        let security = &self.pod.security;
        security.supplemental_groups.iter().copied().chain(security.fs_group).collect()
    }

    fn groups_policy(&self) -> i32 {
        let policy = match self.pod.security.groups_policy {
            Some(GroupsPolicy::Strict) => SupplementalGroupsPolicy::Strict,
            Some(GroupsPolicy::Merge) | None => SupplementalGroupsPolicy::Merge,
        };
        policy.into()
    }

    fn mounts(&self, container: &Container, attempt: u32) -> Vec<Mount> {
        let mount = |container_path: &str, host_path: &Path| Mount {
            container_path: container_path.to_owned(),
            host_path: host_path.display().to_string(),
            ..Mount::default()
        };
        let mut mounts = Vec::new();
        for wanted in &container.mounts {
            let Some(volume) = self.pod.volumes.iter().find(|volume| volume.name == wanted.volume) else {
                continue;
            };
            let place = match &volume.source {
                VolumeSource::EmptyDir | VolumeSource::Memory { .. } => self.places.volume(&volume.name),
                VolumeSource::HostPath { path, .. } => path.clone(),
            };
            let propagation = match wanted.propagation {
                Propagation::None => MountPropagation::PropagationPrivate,
                Propagation::HostToContainer => MountPropagation::PropagationHostToContainer,
                Propagation::Bidirectional => MountPropagation::PropagationBidirectional,
            };
            let readonly = wanted.read_only;
            mounts.push(Mount {
                readonly,
                propagation: propagation.into(),
                ..mount(&wanted.mount_path, &place)
            });
        }
        // A volume at that very place wins.
        if !container.mounts.iter().any(|mount| mount.mount_path == container.termination_path) {
            mounts
                .push(mount(&container.termination_path, &self.places.termination(&container.name, attempt)));
        }
        mounts
    }

    fn security(
        &self,
        container: &Container,
        image: &Image,
    ) -> Result<LinuxContainerSecurityContext, PlanError> {
        let (pod, own) = (&self.pod.security, &container.security);
        let uid = own.user.uid.or(pod.user.uid);
        let image_uid = image.uid.as_ref().map(|uid| uid.value);
        // The image's user is said in full, so that a group may stand without a user in the manifest.
        let (uid, username) = match (uid, image_uid) {
            (Some(uid), _) | (None, Some(uid)) => (Some(uid), ""),
            (None, None) if !image.username.is_empty() => (None, image.username.as_str()),
            (None, None) => (Some(0), ""),
        };
        if own.user.non_root.or(pod.user.non_root) == Some(true) {
            match uid {
                Some(0) => return Err(PlanError::Root(container.name.clone())),
                None => {
                    return Err(PlanError::MaybeRoot {
                        name: container.name.clone(),
                        user: username.to_owned(),
                    });
                }
                Some(_) => {}
            }
        }
        let seccomp = own.seccomp.or(pod.seccomp).unwrap_or(Seccomp::RuntimeDefault);
        let (masked_paths, readonly_paths) =
            if own.privileged { (Vec::new(), Vec::new()) } else { (self.masked_paths(), texts(READONLY)) };
        Ok(LinuxContainerSecurityContext {
            capabilities: Some(Capability {
                add_capabilities: own.add_capabilities.clone(),
                drop_capabilities: own.drop_capabilities.clone(),
                ..Capability::default()
            }),
            privileged: own.privileged,
            namespace_options: Some(self.namespaces()),
            run_as_user: uid.map(number),
            run_as_group: own.user.gid.or(pod.user.gid).map(number),
            run_as_username: username.to_owned(),
            readonly_rootfs: own.read_only_root,
            supplemental_groups: self.groups(),
            supplemental_groups_policy: self.groups_policy(),
            no_new_privs: own.no_new_privs,
            masked_paths,
            readonly_paths,
            seccomp: Some(profile(seccomp)),
            ..LinuxContainerSecurityContext::default()
        })
    }

    fn masked_paths(&self) -> Vec<String> {
        let mut paths = texts(MASKED);
        paths.extend(
            self.masked_cpus.iter().map(|cpu| format!("/sys/devices/system/cpu/{cpu}/thermal_throttle")),
        );
        paths
    }
}

/// The kubelet's defaults for procMount Default.
const MASKED: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn texts(paths: &[&str]) -> Vec<String> {
    paths.iter().map(|path| (*path).to_owned()).collect()
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Init => "init",
        Kind::Sidecar => "sidecar",
        Kind::App => "app",
    }
}

fn number(value: i64) -> Int64Value {
    Int64Value { value }
}

fn key_value((key, value): EnvVar) -> KeyValue {
    KeyValue { key, value: value.into_bytes() }
}

fn profile(seccomp: Seccomp) -> SecurityProfile {
    let kind = match seccomp {
        Seccomp::RuntimeDefault => ProfileType::RuntimeDefault,
        Seccomp::Unconfined => ProfileType::Unconfined,
    };
    SecurityProfile { profile_type: kind.into(), localhost_ref: String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::manifest::parse;

    fn plan(spec: &str) -> Plan {
        let text = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: p, labels: {{a: b}}}}, spec: {{{spec}}}}}"
        );
        let places = PodPlaces { home: "/v/uid".into(), logs: "/l/default_p_uid".into() };
        let pod = parse(&text).expect("a manifest");
        Plan { pod, uid: "uid".into(), places, memory: 1 << 30, masked_cpus: vec!["cpu0".into()] }
    }

    fn image() -> Image {
        Image { id: "sha256:1".into(), ..Image::default() }
    }

    fn first(
        plan: &Plan,
        image: &Image,
    ) -> Result<(ContainerConfig, LinuxContainerSecurityContext), PlanError> {
        let config = plan.container(&plan.pod.containers[0], 2, image)?;
        let security = config.linux.clone().and_then(|linux| linux.security_context).expect("always set");
        Ok((config, security))
    }

    #[test]
    fn the_sandbox_is_named_and_labelled_as_the_kubelet_does() {
        let plan = plan(
            "hostname: h, containers: [{name: c, image: i, ports: \
             [{containerPort: 80, hostPort: 8080, hostIP: 127.0.0.1}, {containerPort: 81}]}], \
             securityContext: {runAsGroup: 5, fsGroup: 7, supplementalGroups: [6]}",
        );
        let config = plan.sandbox(None);
        let metadata = config.metadata.expect("always set");
        assert_eq!(
            (metadata.name.as_str(), metadata.namespace.as_str(), metadata.uid.as_str()),
            ("p", "default", "uid")
        );
        assert_eq!((config.hostname.as_str(), config.log_directory.as_str()), ("h", "/l/default_p_uid"));
        assert_eq!(config.labels["io.kubernetes.pod.uid"], "uid");
        assert_eq!(config.labels["a"], "b");
        assert_eq!(config.port_mappings.len(), 1);
        assert_eq!(
            (config.port_mappings[0].host_port, config.port_mappings[0].host_ip.as_str()),
            (8080, "127.0.0.1")
        );
        let security = config.linux.and_then(|linux| linux.security_context).expect("always set");
        // A group without a user would be refused.
        assert_eq!((security.run_as_user, security.run_as_group), (None, None));
        assert_eq!(security.supplemental_groups, [6, 7]);
        assert!(!security.privileged);
    }

    #[test]
    fn a_pod_of_the_hosts_network_has_its_name_and_no_mappings() {
        let plan = plan(
            "hostNetwork: true, containers: [{name: c, image: i, securityContext: {privileged: true}, \
             ports: [{containerPort: 80, hostPort: 80}]}]",
        );
        let config = plan.sandbox(None);
        assert_eq!((config.hostname.as_str(), config.port_mappings.len()), ("", 0));
        let security = config.linux.and_then(|linux| linux.security_context).expect("always set");
        assert!(security.privileged);
        assert_eq!(security.namespace_options.expect("set").network(), NamespaceMode::Node);
        let (_, security) = first(&plan, &image()).expect("a plan");
        assert!(
            security.privileged && security.masked_paths.is_empty() && security.readonly_paths.is_empty()
        );
    }

    #[test]
    fn commands_and_variables_are_expanded() {
        let plan = plan(
            "containers: [{name: c, image: i, command: ['/x', '$(A)'], args: ['$$(A)', '$(B)', '$(C)'], \
             env: [{name: A, value: a}, {name: B, value: '$(A)b'}]}]",
        );
        let (config, _) = first(&plan, &image()).expect("a plan");
        assert_eq!(config.command, ["/x", "a"]);
        assert_eq!(config.args, ["$(A)", "ab", "$(C)"]);
        assert_eq!(config.envs[1], KeyValue { key: "B".into(), value: b"ab".to_vec() });
        assert_eq!(config.log_path, "c/2.log");
        assert_eq!(config.metadata, Some(ContainerMetadata { name: "c".into(), attempt: 2 }));
        assert_eq!(config.image.expect("set").image, "sha256:1");
        assert_eq!(config.annotations[GRACE], "30");
        assert_eq!(config.labels["io.kubernetes.container.name"], "c");
    }

    #[test]
    fn volumes_and_the_termination_message_are_mounts() {
        let plan = plan(
            "containers: [{name: c, image: i, volumeMounts: [{name: e, mountPath: /e}, \
             {name: h, mountPath: /h, readOnly: true, mountPropagation: HostToContainer}]}], \
             volumes: [{name: e, emptyDir: {}}, {name: h, hostPath: {path: /srv}}]",
        );
        let (config, _) = first(&plan, &image()).expect("a plan");
        let mounts: Vec<(&str, &str, bool)> = config
            .mounts
            .iter()
            .map(|m| (m.container_path.as_str(), m.host_path.as_str(), m.readonly))
            .collect();
        assert_eq!(
            mounts,
            [
                ("/e", "/v/uid/volumes/e", false),
                ("/h", "/srv", true),
                ("/dev/termination-log", "/v/uid/containers/c/2", false)
            ]
        );
        assert_eq!(config.mounts[1].propagation(), MountPropagation::PropagationHostToContainer);
    }

    #[test]
    fn security_is_the_containers_then_the_pods_then_the_default() {
        let plan = plan(
            "securityContext: {runAsUser: 10, runAsGroup: 11, seccompProfile: {type: Unconfined}}, \
             containers: [{name: c, image: i, securityContext: {runAsUser: 20, allowPrivilegeEscalation: false}}]",
        );
        let (_, security) = first(&plan, &image()).expect("a plan");
        assert_eq!((security.run_as_user, security.run_as_group), (Some(number(20)), Some(number(11))));
        assert!(security.no_new_privs);
        assert_eq!(security.seccomp.expect("set").profile_type(), ProfileType::Unconfined);
        let plan = self::plan("containers: [{name: c, image: i}]");
        let (_, security) = first(&plan, &image()).expect("a plan");
        assert_eq!(security.seccomp.expect("set").profile_type(), ProfileType::RuntimeDefault);
        assert_eq!(security.run_as_user, Some(number(0)));
        assert!(security.masked_paths.contains(&"/sys/devices/system/cpu/cpu0/thermal_throttle".to_owned()));
        assert!(security.masked_paths.contains(&"/proc/interrupts".to_owned()) && !security.no_new_privs);
    }

    #[test]
    fn run_as_non_root_is_checked_against_the_images_user() {
        let plan = plan("containers: [{name: c, image: i, securityContext: {runAsNonRoot: true}}]");
        let with = |uid: Option<i64>, username: &str| {
            let image = Image { uid: uid.map(number), username: username.into(), ..image() };
            first(&plan, &image).map(|(_, security)| security.run_as_user)
        };
        assert_eq!(with(Some(7), ""), Ok(Some(number(7))));
        for root in [with(Some(0), ""), with(None, "")] {
            assert_eq!(root, Err(PlanError::Root("c".into())));
        }
        assert_eq!(with(None, "web"), Err(PlanError::MaybeRoot { name: "c".into(), user: "web".into() }));
    }

    #[test]
    fn an_images_user_by_name_is_kept_by_name() {
        let plan = plan("containers: [{name: c, image: i}]");
        let image = Image { username: "web".into(), ..image() };
        let (_, security) = first(&plan, &image).expect("a plan");
        assert_eq!((security.run_as_user, security.run_as_username.as_str()), (None, "web"));
    }
}
