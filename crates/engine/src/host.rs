//! What the engine asks of the machine: one verb per step, and nothing else touches it.
//!
//! Rules for who implements [`Host`]:
//! - The plan names everything. A verb makes, finds or removes what its plan names, and nothing that
//!   the plan does not name. The engine commits the plan before the first verb that makes something.
//! - A verb that makes (`make_*`, `attach`, `create`, ...) may find a half-made thing of its own plan
//!   and must then fail or finish it; after an error the engine calls the verbs that drop.
//! - A verb that drops is idempotent, works without a shim, after a reboot, and when only a part, or
//!   nothing, was ever made. It returns `Ok` only if nothing that the plan names for it is left.
//! - Every verb ends by itself: a shim or a disk that hangs is an error ([`Fault::Deadline`]) within
//!   seconds; only [`Host::exec_sync`] and [`Host::next_exits`] may take as long as their meaning.
//!   When a verb's future is dropped, what it began may go on, as after a crash.
//! - Calls for different pods, and for different containers of one pod, run at the same time. For one
//!   container, the verbs that change it come one after the other.
//!
//! The order of the verbs that make a pod is in their types: each takes the proof of the last one.

pub use oci_spec::runtime::{LinuxResources, Spec as OciSpec};
use serde::{Deserialize, Serialize};
use std::{error::Error, net::IpAddr, path::PathBuf, time::Duration};
use types::{
    ContainerId, Timestamp,
    container::{ContainerSpec, ImageDefaults, ResolvedUser},
    pod::PodSpec,
    signal::Signal,
};

pub use crate::{
    container::plan::ContainerPlan,
    pod::plan::{PodPlan, Scope},
};

/// The machine, as far as a pod is made of it.
pub trait Host: Send + Sync + 'static {
    // --- facts: they change nothing ---

    /// The image that `container.image` names (an id or a reference), with the user that
    /// `container.security` asks for looked up in it; and the images that its mounts name.
    ///
    /// # Errors
    /// [`Fault::NotFound`] if the image is not in the store, [`Fault::Invalid`] if it has no such
    /// user or group, or its configuration cannot be used.
    fn image(&self, container: &ContainerSpec) -> impl Future<Output = Result<ImageFacts>> + Send;

    /// Whether the profiles that a pod's own security context names can be used.
    ///
    /// # Errors
    /// [`Fault::Invalid`] for one that is not there, or cannot be read.
    fn check_pod(&self, pod: &PodSpec) -> impl Future<Output = Result<()>> + Send;

    /// The network configuration list that a new pod is attached with, as text: it is kept in the
    /// plan, because CNI DEL needs it as it was at ADD. Not asked for pods in the node's network.
    ///
    /// # Errors
    /// [`Fault::Precondition`] if there is no network, with what to do.
    fn network_plan(&self) -> impl Future<Output = Result<String>> + Send;

    /// Which of a cgroup path and its ancestors do not exist yet, deepest first: the pod that makes
    /// them removes them.
    ///
    /// # Errors
    /// [`Fault::Invalid`] if it is no cgroup path.
    fn missing_groups(&self, cgroup: &str) -> impl Future<Output = Result<Vec<String>>> + Send;

    // --- a pod, upward ---

    /// The directories in `plan.paths`, the pod's files in them (hosts, hostname, resolv.conf: their
    /// content follows from `plan.spec`) and the tmpfs for /dev/shm, if the plan has one.
    ///
    /// # Errors
    /// Any; then the engine drops the pod.
    fn make_pod_dirs(&self, plan: &PodPlan) -> impl Future<Output = Result<PodDirs>> + Send;

    /// The namespaces that `plan.pins` names, pinned there, with host name and sysctls set.
    ///
    /// # Errors
    /// Any; then the engine drops the pod. A sysctl that the kernel refuses is [`Fault::Invalid`].
    fn make_namespaces(
        &self,
        plan: &PodPlan,
        dirs: &PodDirs,
    ) -> impl Future<Output = Result<Namespaces>> + Send;

    /// CNI ADD with `plan.conflist`. A pod in the node's network gets no addresses.
    ///
    /// # Errors
    /// Any; then the engine drops the pod.
    fn attach(
        &self,
        plan: &PodPlan,
        namespaces: &Namespaces,
    ) -> impl Future<Output = Result<Attached>> + Send;

    /// The pod's cgroup, `plan.cgroup.path`, if it is not there.
    ///
    /// # Errors
    /// Any; then the engine drops the pod.
    fn make_pod_cgroup(&self, plan: &PodPlan) -> impl Future<Output = Result<PodGroup>> + Send;

    /// The pod's shim, with a pause process if `plan.pause`.
    ///
    /// # Errors
    /// Any; then the engine drops the pod.
    fn start_shim(
        &self,
        plan: &PodPlan,
        network: &Attached,
        group: &PodGroup,
    ) -> impl Future<Output = Result<ShimUp>> + Send;

    // --- a pod, downward: idempotent, from the plan alone ---

    /// Ends the shim, its pause process and whatever else it is parent of, by force if it does not
    /// answer.
    ///
    /// # Errors
    /// If it may still live.
    fn drop_shim(&self, plan: &PodPlan) -> impl Future<Output = Result<()>> + Send;

    /// CNI DEL with `plan.conflist`; the network namespace may be there or not.
    ///
    /// # Errors
    /// If an address, link or rule of the pod may be left.
    fn detach(&self, plan: &PodPlan) -> impl Future<Output = Result<()>> + Send;

    /// The pins of the namespaces and their directory.
    ///
    /// # Errors
    /// If one is left.
    fn drop_namespaces(&self, plan: &PodPlan) -> impl Future<Output = Result<()>> + Send;

    /// Those of `plan.cgroup.made` that are empty now (others may have moved in), after killing what
    /// is left in a group that only this pod uses.
    ///
    /// # Errors
    /// If the pod's own group is left.
    fn drop_pod_cgroup(&self, plan: &PodPlan) -> impl Future<Output = Result<()>> + Send;

    /// `plan.paths.dir` with the bundles of ended containers beneath it, and `plan.paths.rootfs` if
    /// it is empty: the writable layers of containers are theirs ([`Host::drop_container`]).
    ///
    /// # Errors
    /// If a directory or a mount is left.
    fn drop_pod_dirs(&self, plan: &PodPlan) -> impl Future<Output = Result<()>> + Send;

    // --- a container ---

    /// Keeps the image's layers from being removed as long as the container is there. Asked before
    /// [`Host::make_rootfs`], and for each container after a restart; idempotent.
    /// [`Host::drop_container`] lets go.
    ///
    /// # Errors
    /// [`Fault::NotFound`] if the image is gone.
    fn hold_image(&self, container: &ContainerPlan) -> impl Future<Output = Result<()>> + Send;

    /// The writable layer (`upper` and `work` beneath `container.rootfs`).
    ///
    /// # Errors
    /// Any; then the engine drops the container.
    fn make_rootfs(
        &self,
        pod: &PodPlan,
        container: &ContainerPlan,
    ) -> impl Future<Output = Result<Rootfs>> + Send;

    /// Writes the bundle and has the shim make the process, which waits before exec.
    ///
    /// # Errors
    /// Any; then the engine drops the container. What the runner refuses by name is
    /// [`Fault::Invalid`].
    fn create(
        &self,
        pod: &PodPlan,
        container: &ContainerPlan,
        spec: &OciSpec,
        rootfs: Rootfs,
    ) -> impl Future<Output = Result<Created>> + Send;

    /// Lets the process go on to exec.
    ///
    /// # Errors
    /// Also if exec fails (no such file, ...): the process is gone then.
    fn start(&self, pod: &PodPlan, container: &ContainerPlan)
    -> impl Future<Output = Result<Started>> + Send;

    /// Sends a signal. To a process that has ended it is no error: its exit is on the way.
    ///
    /// # Errors
    /// [`Fault::ShimGone`], [`Fault::Deadline`], ...
    fn signal(
        &self,
        pod: &PodPlan,
        container: &ContainerPlan,
        signal: Signal,
        whom: Whom,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Kills all processes in the container's cgroup, without the shim, and returns when they are
    /// gone. Idempotent.
    ///
    /// # Errors
    /// If one may still live.
    fn kill_group(&self, pod: &PodPlan, container: &ContainerPlan)
    -> impl Future<Output = Result<()>> + Send;

    /// Everything of the container: its processes, the shim's record, bundle, rootfs, cgroup, and
    /// the hold on its image. Idempotent, also without a shim. Its log file stays.
    ///
    /// # Errors
    /// If something is left.
    fn drop_container(
        &self,
        pod: &PodPlan,
        container: &ContainerPlan,
    ) -> impl Future<Output = Result<()>> + Send;

    /// What a change of limits will overwrite, as it is now. Changes nothing.
    ///
    /// # Errors
    /// [`Fault::Invalid`] for a limit that cannot be.
    fn limits(
        &self,
        container: &ContainerPlan,
        change: &LimitChange,
    ) -> impl Future<Output = Result<Limits>> + Send;

    /// Sets limits. After an error some of them may be set: the engine restores what was there.
    ///
    /// # Errors
    /// Any, also if the memory in use is above a new limit: no process is killed for a change.
    fn set_limits(
        &self,
        container: &ContainerPlan,
        change: &LimitChange,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Sets limits back. Idempotent; a container whose cgroup is gone has none to be set.
    ///
    /// # Errors
    /// If one is not as it was.
    fn restore_limits(
        &self,
        container: &ContainerPlan,
        before: &Limits,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Has the shim open the log file anew.
    ///
    /// # Errors
    /// Then no new file is there.
    fn reopen_log(&self, pod: &PodPlan, container: &ContainerPlan)
    -> impl Future<Output = Result<()>> + Send;

    /// Why log lines wait to be written (a full disk), if they do.
    ///
    /// # Errors
    /// If the shim does not say.
    fn log_trouble(
        &self,
        pod: &PodPlan,
        container: &ContainerPlan,
    ) -> impl Future<Output = Result<Option<String>>> + Send;

    /// Runs a command in the container and collects what it says.
    ///
    /// # Errors
    /// If it could not be run; that it ended badly or was killed for time is in the answer.
    fn exec_sync(
        &self,
        pod: &PodPlan,
        container: &ContainerPlan,
        exec: &Exec,
    ) -> impl Future<Output = Result<ExecOutput>> + Send;

    /// The exit that the shim wrote into the bundle, if it did.
    ///
    /// # Errors
    /// If the file cannot be read.
    fn recorded_exit(
        &self,
        pod: &PodPlan,
        container: &ContainerPlan,
    ) -> impl Future<Output = Result<Option<Exit>>> + Send;

    // --- the shim's news ---

    /// Finds the shim of a pod that was up when the daemon ended.
    ///
    /// # Errors
    /// If it cannot be told whether it lives: then the pod keeps its state and is asked again.
    fn reconnect(&self, plan: &PodPlan) -> impl Future<Output = Result<ShimState>> + Send;

    /// The exits after the one with that sequence, oldest first; waits for the next one if there are
    /// none.
    ///
    /// # Errors
    /// [`Fault::ShimGone`] if the shim has ended or ends; any other error means: ask again.
    fn next_exits(&self, plan: &PodPlan, after: u64) -> impl Future<Output = Result<Vec<Exit>>> + Send;
}

/// What a verb answers.
pub type Result<T> = std::result::Result<T, HostError>;

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
#[error("{doing}")]
pub struct HostError {
    /// What was being done, with the names that matter: `cannot attach the pod to its network`.
    pub doing: String,
    /// What it means for the caller.
    pub fault: Fault,
    /// The cause; its text is not repeated in `doing`.
    #[source]
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

impl HostError {
    /// With a cause.
    pub fn because(
        doing: impl Into<String>,
        fault: Fault,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        HostError { doing: doing.into(), fault, source: Some(source.into()) }
    }

    /// Without a cause beyond the text.
    pub fn new(doing: impl Into<String>, fault: Fault) -> Self {
        HostError { doing: doing.into(), fault, source: None }
    }
}

/// What a failed verb means for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// What the request names (an image) is not there.
    NotFound,
    /// The request asks for something that cannot be; the field by its CRI name.
    Invalid(&'static str),
    /// The machine is not ready for it (no network, ...).
    Precondition,
    /// A bound was met (disk full, no more addresses, processes, ...).
    Exhausted,
    /// It took too long.
    Deadline,
    /// The pod's shim has ended.
    ShimGone,
    /// Anything else.
    Internal,
}

/// Facts of the image that a container is made of; kept in its plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFacts {
    /// The image's id, `sha256:...` of its configuration: `ContainerStatus.image_id`.
    pub id: String,
    /// A tag of it, else a digest reference, else the id: `ContainerStatus.image.image`.
    pub reference: String,
    /// A repository digest (`host/path@sha256:...`), else the id: `ContainerStatus.image_ref`.
    pub repo_digest: String,
    /// What a container takes over from it.
    pub defaults: ImageDefaults,
    /// The user that the container asked for, or that the image names.
    pub user: ResolvedUser,
    /// The unpacked layers, lowest first.
    pub layers: Vec<PathBuf>,
    /// The images that are mounted as volumes, in the order of the request's mounts that name one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeFacts>,
}

/// Facts of an image that is mounted as a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeFacts {
    /// A repository digest (`host/path@sha256:...`), else the image's id.
    pub repo_digest: String,
    /// The unpacked layers, lowest first.
    pub layers: Vec<PathBuf>,
}

/// Limits to be set, of a container that is there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LimitChange {
    /// What is not named in it stays; it has no devices.
    pub resources: LinuxResources,
    /// Of all processes of the container.
    pub oom_score_adj: Option<i32>,
}

/// Limits as they were, in the kernel's own words; kept in a record while a change is under way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Controller (empty where there is one hierarchy), file and content.
    pub files: Vec<(String, String, String)>,
    /// Of the container's first process.
    pub oom_score_adj: Option<i32>,
}

/// Proof that the pod's directories and files are there.
#[derive(Debug)]
#[must_use]
pub struct PodDirs(());

/// Proof that the pod's namespaces are pinned.
#[derive(Debug)]
#[must_use]
pub struct Namespaces(());

/// Proof that the pod's cgroup is there.
#[derive(Debug)]
#[must_use]
pub struct PodGroup(());

/// Proof that the container's writable layer is there.
#[derive(Debug)]
#[must_use]
pub struct Rootfs(());

macro_rules! proof {
    ($($name:ident)*) => { $(
        impl $name {
            /// Only for who implements [`Host`], after it was done.
            pub fn done() -> Self {
                Self(())
            }
        }
    )* };
}
proof!(PodDirs Namespaces PodGroup Rootfs);

/// The pod is attached to its network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Attached {
    /// Its addresses, the first one is the pod's IP; none in the node's network.
    pub ips: Vec<IpAddr>,
}

/// The pod's shim runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimUp {
    /// The shim's process.
    pub pid: u32,
    /// The pause process, if the plan has one.
    pub pause_pid: Option<u32>,
}

/// The container's process is there and waits before exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Created {
    /// Its id in the daemon's PID namespace.
    pub pid: u32,
}

/// The container's process was let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Started {
    /// When.
    pub at: Timestamp,
}

/// How a container ended, as its shim recorded it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Whose.
    pub container: ContainerId,
    /// Exit code, or 128 + signal.
    pub code: i32,
    /// When.
    pub at: Timestamp,
    /// The kernel killed it for its memory.
    pub oom_killed: bool,
    /// Why output was lost or the process could not be started; often empty.
    pub message: String,
    /// Counts the exits of one shim from 1.
    pub sequence: u64,
}

/// Whom a signal is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// The container's first process.
    Init,
    /// Every process of the container.
    All,
}

/// What was found of a pod's shim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShimState {
    /// It lives and knows these containers.
    Alive {
        /// Its processes.
        up: ShimUp,
        /// Each container that was created and not dropped.
        containers: Vec<ShimContainer>,
        /// Sequence of its newest exit.
        last_exit: u64,
    },
    /// It is gone (or was never there).
    Dead,
}

/// A container as its shim knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShimContainer {
    /// Which.
    pub id: ContainerId,
    /// What it is doing.
    pub life: Life,
}

/// Where a container is in its life, for the shim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Life {
    /// Its process waits before exec.
    Created {
        /// The process.
        pid: u32,
    },
    /// It runs.
    Running {
        /// The process.
        pid: u32,
        /// Since when.
        at: Timestamp,
    },
    /// It ended.
    Exited {
        /// When it was let go, or never.
        started_at: Timestamp,
        /// How it ended.
        exit: Exit,
    },
}

/// A command for [`Host::exec_sync`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    /// argv, not empty.
    pub command: Vec<String>,
    /// After which its whole process tree is killed; `None` = never.
    pub timeout: Option<Duration>,
    /// Bytes kept of each stream.
    pub output_cap: u64,
    /// How long to go on reading after the command ended while a child of it holds the pipe.
    pub drain: Duration,
}

/// What the command said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// At most the cap.
    pub stdout: Vec<u8>,
    /// At most the cap.
    pub stderr: Vec<u8>,
    /// Exit code, or 128 + signal.
    pub exit_code: i32,
    /// It was killed for its time.
    pub timed_out: bool,
}
