//! What a container is asked to be: the CRI's `ContainerConfig` after it was checked.

use crate::{
    Labels,
    cdi::CdiName,
    pod::{NsMode, UserMode},
    signal::Signal,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf};

/// A checked `ContainerConfig`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// `metadata.name`, not empty.
    pub name: String,
    /// `metadata.attempt`.
    pub attempt: u32,
    /// `image.image`: an image id or a reference, as asked.
    pub image: String,
    /// `image.user_specified_image`: the reference in the pod's manifest.
    pub user_specified_image: String,
    /// Replaces the image's entrypoint (and then also its cmd).
    pub command: Vec<String>,
    /// Replaces the image's cmd.
    pub args: Vec<String>,
    /// Replaces the image's working directory; empty = the image's, else `/`.
    pub working_dir: String,
    /// Added to the image's environment; the value may be any bytes without NUL.
    pub envs: Vec<(String, Vec<u8>)>,
    /// Bind mounts and image volumes, in the order asked.
    pub mounts: Vec<Mount>,
    /// Devices of the host.
    pub devices: Vec<Device>,
    /// Devices that specifications of their vendors describe (KEP-4009), each once, in the order asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cdi_devices: Vec<CdiName>,
    /// Returned unaltered.
    pub labels: Labels,
    /// Returned unaltered.
    pub annotations: Labels,
    /// Beneath the pod's log directory; empty = no log.
    pub log_path: String,
    /// Keep stdin open for attach.
    pub stdin: bool,
    /// Close stdin after the first attach.
    pub stdin_once: bool,
    /// Give the container a terminal.
    pub tty: bool,
    /// Limits.
    pub resources: Resources,
    /// User, capabilities, masks.
    pub security: Security,
    /// Replaces the image's STOPSIGNAL.
    pub stop_signal: Option<Signal>,
}

/// A bind mount of a host path, or of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute, inside the container.
    pub container_path: String,
    /// Absolute, on the host; empty for an image.
    pub host_path: PathBuf,
    /// Read-only.
    pub readonly: bool,
    /// Mount propagation.
    pub propagation: Propagation,
    /// Mounts beneath are read-only too; never without `readonly`, nor with a propagation.
    #[serde(default)]
    pub recursive_readonly: bool,
    /// Further restrictions.
    #[serde(default)]
    pub options: Vec<MountOption>,
    /// An image's content instead of a host path.
    #[serde(default)]
    pub image: Option<ImageVolume>,
    /// How user ids on disk are seen; empty = as they are.
    #[serde(default)]
    pub uid_mappings: Vec<IdMapping>,
    /// The same for group ids; empty exactly when `uid_mappings` is.
    #[serde(default)]
    pub gid_mappings: Vec<IdMapping>,
    /// Give the source the container's SELinux label.
    #[serde(default)]
    pub selinux_relabel: bool,
}

/// `mount_options` (KEP-5855).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountOption {
    /// Nothing is executed from it.
    NoExec,
    /// Device nodes on it are dead.
    NoDev,
    /// Set-user-id bits and file capabilities on it are without effect.
    NoSuid,
}

/// `Mount.image` (KEP-4639): what it names, and what of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageVolume {
    /// An image id or a reference, as asked.
    pub image: String,
    /// The reference in the pod's manifest.
    pub user_specified_image: String,
    /// A directory or file inside of it, relative; empty = the whole image.
    pub sub_path: String,
}

/// A line of a uid_map or gid_map, user_namespaces(7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMapping {
    /// First id inside.
    pub container_id: u32,
    /// First id outside.
    pub host_id: u32,
    /// How many, not 0; neither side goes beyond u32.
    pub length: u32,
}

/// `MountPropagation`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// rprivate
    #[default]
    Private,
    /// rslave
    HostToContainer,
    /// rshared
    Bidirectional,
}

/// A device node (or a directory of them) of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Where it appears inside.
    pub container_path: String,
    /// Which it is on the host.
    pub host_path: PathBuf,
    /// Of `r`, `w`, `m`.
    pub permissions: String,
}

/// `LinuxContainerResources`; `None` or 0 in the request = not limited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// CFS period in microseconds.
    pub cpu_period: Option<u64>,
    /// CFS quota in microseconds; -1 = unlimited.
    pub cpu_quota: Option<i64>,
    /// Relative weight, 2 to 262144.
    pub cpu_shares: Option<u64>,
    /// Bytes.
    pub memory_limit: Option<i64>,
    /// Memory and swap together, bytes.
    pub memory_swap_limit: Option<i64>,
    /// -1000 to 1000.
    pub oom_score_adj: i32,
    /// List format, cpuset(7).
    pub cpuset_cpus: String,
    /// List format, cpuset(7).
    pub cpuset_mems: String,
    /// Page size (`2MB`) and limit in bytes; only entries with a limit that is not 0.
    pub hugepage_limits: Vec<(String, u64)>,
    /// cgroup v2 files to set, merged over the rest.
    pub unified: BTreeMap<String, String>,
}

/// `LinuxContainerSecurityContext`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Security {
    /// All capabilities, no masks, all devices.
    pub privileged: bool,
    /// `CAP_`-less or `CAP_` names, upper case; `ALL`.
    pub add_capabilities: Vec<String>,
    /// Likewise.
    pub drop_capabilities: Vec<String>,
    /// Ambient ones, added to all five sets (KEP-2763).
    pub add_ambient_capabilities: Vec<String>,
    /// Which namespaces the container has of its own.
    pub namespaces: ContainerNamespaces,
    /// Who it runs as.
    pub user: Option<RunAs>,
    /// Group of the process; only with a user.
    pub group: Option<u32>,
    /// Further groups.
    pub supplemental_groups: Vec<u32>,
    /// Whether the image's /etc/group adds to them (KEP-3619).
    pub groups_policy: GroupsPolicy,
    /// Read-only root file system.
    pub readonly_rootfs: bool,
    /// PR_SET_NO_NEW_PRIVS.
    pub no_new_privs: bool,
    /// Hidden from the container.
    pub masked_paths: Vec<String>,
    /// Read-only in the container.
    pub readonly_paths: Vec<String>,
    /// seccomp.
    pub seccomp: SeccompProfile,
    /// AppArmor.
    #[serde(default)]
    pub apparmor: AppArmorProfile,
    /// SELinux; `None` = nothing was asked for.
    #[serde(default)]
    pub selinux: Option<SelinuxLabel>,
}

/// `run_as_user` or `run_as_username`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunAs {
    /// By number.
    Uid(u32),
    /// By a name that the image's /etc/passwd must know.
    Name(String),
}

/// `SupplementalGroupsPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupsPolicy {
    /// Those asked for and those that the image's /etc/group gives the user.
    #[default]
    Merge,
    /// Only those asked for.
    Strict,
}

/// `SecurityProfile` for seccomp.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeccompProfile {
    /// No filter; also what an absent profile means.
    #[default]
    Unconfined,
    /// Our default profile.
    RuntimeDefault,
    /// A profile file of the host, absolute path.
    Localhost(PathBuf),
}

/// `SecurityProfile` for AppArmor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AppArmorProfile {
    /// Our default profile where the host has AppArmor; also what an absent profile means.
    #[default]
    RuntimeDefault,
    /// None.
    Unconfined,
    /// A profile that is loaded on the host, by its name.
    Localhost(String),
}

/// `SELinuxOption`: the parts of a label; an empty one is the default's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelinuxLabel {
    /// `system_u`
    pub user: String,
    /// `system_r`
    pub role: String,
    /// `container_t`
    pub kind: String,
    /// `s0:c1,c2`
    pub level: String,
}

/// `NamespaceOption` of a container; network and ipc are always the pod's choice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerNamespaces {
    /// PID namespace.
    pub pid: PidMode,
    /// Must agree with the pod's.
    pub network: NsMode,
    /// Must agree with the pod's.
    pub ipc: NsMode,
    /// Must agree with the pod's; `None` = nothing was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserMode>,
}

/// PID namespace of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidMode {
    /// Shared by the pod.
    Pod,
    /// Its own.
    #[default]
    Container,
    /// The node's.
    Node,
    /// That of another container of the pod, by its id as asked: for a debug container (KEP-277).
    Target(String),
}

/// Who the first process runs as, after /etc/passwd and /etc/group of the image were asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// All supplementary groups, the primary one included, sorted, each once.
    pub groups: Vec<u32>,
    /// The home directory that /etc/passwd names, if any.
    pub home: Option<String>,
}

/// What of an image's configuration a container takes over (OCI image-spec config.md).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageDefaults {
    /// `Entrypoint`.
    pub entrypoint: Vec<String>,
    /// `Cmd`.
    pub cmd: Vec<String>,
    /// `Env`, each `NAME=value`.
    pub env: Vec<String>,
    /// `WorkingDir`.
    pub working_dir: String,
    /// `User`, as written.
    pub user: String,
    /// `StopSignal`, parsed; an unreadable one is an error at container creation.
    pub stop_signal: Option<Signal>,
    /// `Volumes`: absolute paths, cleaned, without `..`.
    pub volumes: Vec<String>,
}
