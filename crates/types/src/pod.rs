//! What a pod sandbox is asked to be: the CRI's `PodSandboxConfig` after it was checked.

use crate::{
    Labels,
    container::{AppArmorProfile, Resources, SeccompProfile, SelinuxLabel},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

/// A checked `PodSandboxConfig` with the runtime handler of its request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PodSpec {
    /// `metadata.name`, not empty.
    pub name: String,
    /// `metadata.namespace`, not empty.
    pub namespace: String,
    /// `metadata.uid`, not empty.
    pub uid: String,
    /// `metadata.attempt`: how often this pod's sandbox was made anew.
    pub attempt: u32,
    /// Host name inside the pod; empty only with the node's network.
    pub hostname: String,
    /// Base of the containers' `log_path`; `None` = containers without a log file.
    pub log_directory: Option<PathBuf>,
    /// Contents of /etc/resolv.conf; `None` = the host's.
    pub dns: Option<Dns>,
    /// Ports of the host that lead to the pod; entries with host port 0 are left out by the parser.
    pub port_mappings: Vec<PortMapping>,
    /// Returned unaltered.
    pub labels: Labels,
    /// Returned unaltered.
    pub annotations: Labels,
    /// RuntimeClass handler; empty = default.
    pub runtime_handler: String,
    /// cgroupfs path (`/kubepods/burstable/pod...`) as the kubelet gives it; empty = our default.
    pub cgroup_parent: String,
    /// Namespaced sysctls (sysctl.d name with dots, value), applied in the pod's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Which namespaces the pod has of its own.
    pub namespaces: Namespaces,
    /// The sandbox may hold privileged containers.
    pub privileged: bool,
    /// `linux.resources` and `linux.overhead`: sums of the pod, informative.
    pub resources: Option<Resources>,
    /// `linux.overhead`.
    pub overhead: Option<Resources>,
    /// The sandbox's own security context as asked: there is no pause container that it would confine, but
    /// for a shared PID namespace.
    #[serde(default)]
    pub security: SandboxSecurity,
}

/// `LinuxSandboxSecurityContext`, as far as it is for the sandbox's own process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SandboxSecurity {
    /// `run_as_user`.
    pub run_as_user: Option<u32>,
    /// `run_as_group`; never without a user.
    pub run_as_group: Option<u32>,
    /// Looked at, so that a pod is not made for containers that will ask for it in vain.
    #[serde(default)]
    pub seccomp: SeccompProfile,
    /// Likewise.
    #[serde(default)]
    pub apparmor: AppArmorProfile,
    /// Also of the pod's containers that ask for no label of their own.
    #[serde(default)]
    pub selinux: Option<SelinuxLabel>,
}

/// `DNSConfig`: lines of /etc/resolv.conf, each checked to be one line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// The `search` line.
    pub searches: Vec<String>,
    /// The `options` line.
    pub options: Vec<String>,
}

/// One port of the host that leads to the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// Transport.
    pub protocol: Protocol,
    /// 1 to 65535.
    pub container_port: u16,
    /// 1 to 65535.
    pub host_port: u16,
    /// Address of the host; `None` = all of them.
    pub host_ip: Option<IpAddr>,
}

/// Transport protocols of a port mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// tcp
    Tcp,
    /// udp
    Udp,
    /// sctp
    Sctp,
}

/// `NamespaceMode` without TARGET, which only a container can ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NsMode {
    /// One for all containers of the pod.
    #[default]
    Pod,
    /// One for each container.
    Container,
    /// The node's.
    Node,
}

/// The pod's choice of namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// Pod or Node.
    pub network: NsMode,
    /// Pod, Container or Node.
    pub pid: NsMode,
    /// Pod or Node.
    pub ipc: NsMode,
    /// `userns_options`; `None` = nothing was said, which means the node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserMode>,
}

impl Namespaces {
    /// The mapping of the pod's user namespace, if it has one of its own.
    #[must_use]
    pub fn user_mapping(&self) -> Option<UserMapping> {
        match self.user {
            Some(UserMode::Pod(mapping)) => Some(mapping),
            Some(UserMode::Unmapped | UserMode::Node) | None => None,
        }
    }
}

/// `UserNamespace` as it was asked for (KEP-127).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UserMode {
    /// The node's.
    Node,
    /// POD without a mapping, as a kubelet says it that knows nothing of user namespaces: the node's.
    Unmapped,
    /// One for the pod.
    Pod(UserMapping),
}

/// The one line of uid_map and the one of gid_map that a pod's user namespace has: both begin with id 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserMapping {
    /// The user of the node that is root inside.
    pub first_uid: u32,
    /// The group of the node that is root's inside.
    pub first_gid: u32,
    /// How many ids there are of each, not 0.
    pub length: u32,
}

impl Default for Namespaces {
    /// The kubelet's choice for an ordinary pod.
    fn default() -> Self {
        Namespaces { network: NsMode::Pod, pid: NsMode::Container, ipc: NsMode::Pod, user: None }
    }
}
