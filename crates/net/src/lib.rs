//! Pod network: namespaces, CNI configuration, built-in and foreign plugins.
//!
//! A pod's way: [`Network::plan`] gives the text of the network's configuration, which the pod's plan
//! keeps; [`netns::Pins::make`] makes the namespaces; [`Network::attach`] runs ADD of each plugin and
//! gives the pod's addresses; [`Network::detach`] runs DEL in reverse order, with the stored text, as
//! often as one likes and whatever part of ADD was reached; then the pins are dropped, and the links
//! go with the namespace. Pods with the node's network never come here.
//!
//! Everything of netlink happens on one thread; only foreign plugins are waited for here.

#![forbid(unsafe_code)]

mod builtin;
mod cidr;
mod conflist;
mod conntrack;
mod fallback;
mod fields;
mod firewall;
pub mod netns;
mod nft;
pub mod plugin;
mod result;
mod rtnl;
mod session;
mod steps;
pub mod sysctl;
mod wire;
mod worker;

#[cfg(test)]
mod tests;

pub use builtin::BuiltinError;
pub use cidr::{BadCidr, Cidr};
pub use conflist::BadConf;
pub use session::Refusal;
pub use worker::WorkerError;

use conflist::{Found, NetworkList, Version};
use fallback::Names;
use plugin::{PluginError, Verb};
use std::{
    collections::HashSet,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::sync::Mutex;
use types::{PodId, pod::PortMapping};
use worker::Worker;

/// The name of a pod's interface.
pub const INTERFACE: &str = "eth0";
/// How long ADD and DEL of a foreign plugin may take.
const CALL_DEADLINE: Duration = Duration::from_secs(120);
/// How long STATUS and VERSION may take.
const STATUS_DEADLINE: Duration = Duration::from_secs(10);

/// What to do where no CNI configuration is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fallback {
    /// Not ready, as Kubernetes expects until the cluster's network is installed.
    #[default]
    None,
    /// A bridge of this daemon's own.
    Bridge,
}

/// Where things are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkOptions {
    /// `/etc/cni/net.d`
    pub conf_dir: PathBuf,
    /// `/opt/cni/bin`
    pub bin_dir: PathBuf,
    /// Without a configuration.
    pub fallback: Fallback,
    /// The daemon's root: names, subnet and address files of the fallback follow from it. It exists.
    pub root: PathBuf,
    /// The daemon's state directory. It exists.
    pub state: PathBuf,
    /// How long ADD and DEL of a foreign plugin may take.
    pub call_deadline: Duration,
}

impl NetworkOptions {
    /// The usual directories of CNI, no fallback.
    #[must_use]
    pub fn new(root: &Path, state: &Path) -> Self {
        Self {
            conf_dir: "/etc/cni/net.d".into(),
            bin_dir: "/opt/cni/bin".into(),
            fallback: Fallback::None,
            root: root.to_owned(),
            state: state.to_owned(),
            call_deadline: CALL_DEADLINE,
        }
    }
}

/// `NetworkReady` of the CRI's Status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Pods can be attached to the network of that name.
    Ready {
        /// Name of the network.
        network: String,
    },
    /// They cannot.
    NotReady {
        /// Why.
        reason: String,
        /// What to do about it.
        advice: String,
    },
}

/// Why a pod could not be attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// There is no network.
    #[error("the network is not ready: {reason}; {advice}")]
    NotReady {
        /// Why.
        reason: String,
        /// What to do about it.
        advice: String,
    },
    /// The configuration kept in the pod's plan is not one.
    #[error("the network configuration of the pod's plan")]
    Conflist(#[source] BadConf),
    /// A field of the request cannot be handed on.
    #[error("{field}: {reason}")]
    Request {
        /// Which.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A built-in plugin failed.
    #[error("network plugin {plugin}")]
    Builtin {
        /// Its type.
        plugin: String,
        /// Why.
        #[source]
        source: WorkerError,
    },
    /// A foreign plugin failed.
    #[error("network plugin {plugin}, {}", .verb.text())]
    Plugin {
        /// Its type.
        plugin: String,
        /// What was asked of it.
        verb: Verb,
        /// Why.
        #[source]
        source: PluginError,
    },
    /// All went well and the pod has no address.
    #[error("the network `{0}` gave the pod no address on {INTERFACE}")]
    NoAddress(String),
    /// The network thread cannot start.
    #[error(transparent)]
    Worker(WorkerError),
}

impl NetworkError {
    /// Whether the pod's request is at fault (a port that is taken is not: it may be free later).
    #[must_use]
    pub fn is_bad_input(&self) -> bool {
        match self {
            Self::Request { .. } => true,
            Self::Builtin { source: WorkerError::Failed(BuiltinError::Mapping(_)), .. } => true,
            Self::NotReady { .. }
            | Self::Conflist(_)
            | Self::Builtin { .. }
            | Self::Plugin { .. }
            | Self::NoAddress(_)
            | Self::Worker(_) => false,
        }
    }
}

impl NetworkError {
    /// Whether another pod has what this one asks for: a host port.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Builtin { source: WorkerError::Failed(BuiltinError::HostPortTaken { .. }), .. })
    }
}

/// A pod to be attached, or detached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachRequest {
    /// The sandbox.
    pub pod: PodId,
    /// `metadata.name`
    pub name: String,
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.uid`
    pub uid: String,
    /// The pin of its network namespace. To detach it need not be there any more.
    pub netns: PathBuf,
    /// What [`Network::plan`] gave, kept in the pod's plan.
    pub conflist: String,
    /// Ports of the host that lead to it.
    pub port_mappings: Vec<PortMapping>,
}

/// An attached pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The addresses of `eth0`; the first is the pod's IP, the others its additional ones.
    pub ips: Vec<IpAddr>,
    /// The result of the last plugin, JSON: to be kept, and handed to [`Network::detach`].
    pub result: String,
    /// Sysctls of the host that had to be switched on (`net.ipv4.ip_forward`), to be reported.
    pub switched_on: Vec<String>,
}

/// The node's pod network.
#[derive(Debug)]
pub struct Network {
    options: NetworkOptions,
    names: Names,
    worker: Worker,
    /// The fallback's network, once its subnet is taken.
    reserved: Mutex<Option<NetworkList>>,
    /// Plugins whose VERSION was asked: file, its time of change, the versions.
    versions: Mutex<Vec<steps::KnownVersions>>,
    #[cfg(test)]
    stop_behind: std::sync::Mutex<Option<builtin::bridge::Step>>,
}

impl Network {
    /// Starts the network thread in the network namespace of the caller; that one is the host's.
    ///
    /// # Errors
    /// [`NetworkError::Worker`].
    pub fn load(options: NetworkOptions) -> Result<Self, NetworkError> {
        let names = Names::of(&resolved(&options.root));
        let worker = Worker::new(names.table(), names.network(), options.state.join("switched-on"));
        worker.start().map_err(NetworkError::Worker)?;
        Ok(Self {
            options,
            names,
            worker,
            reserved: Mutex::new(None),
            versions: Mutex::new(Vec::new()),
            #[cfg(test)]
            stop_behind: std::sync::Mutex::new(None),
        })
    }

    /// The network that a new pod would be attached to.
    async fn current(&self) -> Result<NetworkList, NetworkError> {
        let dir = self.options.conf_dir.display();
        match (conflist::first_in(&self.options.conf_dir), self.options.fallback) {
            (Found::Network(list), _) => Ok(list),
            (Found::NoneValid(wrong), _) => Err(NetworkError::NotReady {
                reason: format!("no valid network in {dir}: {}", wrong.join("; ")),
                advice: "mend the file or put another one before it".to_owned(),
            }),
            (Found::Nothing, Fallback::None) => Err(NetworkError::NotReady {
                reason: format!("no network configuration in {dir}"),
                advice: "install the cluster's CNI plugin, or start with --fallback-network bridge"
                    .to_owned(),
            }),
            (Found::Nothing, Fallback::Bridge) => self.reserve().await,
        }
    }

    async fn reserve(&self) -> Result<NetworkList, NetworkError> {
        let mut reserved = self.reserved.lock().await;
        if let Some(list) = &*reserved {
            return Ok(list.clone());
        }
        let names = self.names.clone();
        let list = self.worker.run(move |hands| fallback::reserve(hands, &names)).await;
        let list = list.map_err(|source| NetworkError::Builtin { plugin: "bridge".to_owned(), source })?;
        *reserved = Some(list.clone());
        Ok(list)
    }

    /// Whether pods can be attached, and if not, why and what to do.
    pub async fn status(&self) -> Status {
        let list = match self.current().await {
            Ok(list) => list,
            Err(NetworkError::NotReady { reason, advice }) => return Status::NotReady { reason, advice },
            Err(e) => return not_ready(&e, "see the daemon's log"),
        };
        for (kind, config) in steps::foreign(&list) {
            // One failure out of many must not make the node NotReady.
            if let Err(e) = self.ask_status(&list, &kind, &config).await
                && self.ask_status(&list, &kind, &config).await.is_err()
            {
                return not_ready(&e, "look at that plugin");
            }
        }
        Status::Ready { network: list.name }
    }

    /// The configuration that a new pod's plan has to keep.
    ///
    /// # Errors
    /// [`NetworkError::NotReady`]; [`NetworkError::Builtin`] if the fallback cannot be set up.
    pub async fn plan(&self) -> Result<String, NetworkError> {
        Ok(self.current().await?.to_text())
    }

    /// ADD of each plugin, in order. A failure leaves nothing of it.
    ///
    /// # Errors
    /// [`NetworkError`]
    pub async fn attach(&self, request: &AttachRequest) -> Result<Attached, NetworkError> {
        let list = parse(&request.conflist)?;
        steps::check_request(request)?;
        let added = self.add_all(&list, request).await;
        if let Err(e) = &added {
            tracing::warn!(pod = %request.pod, error = %e, "attaching failed; what was done is taken back");
            if let Err(e) = self.detach(request, None).await {
                tracing::warn!(pod = %request.pod, error = %e, "not all could be taken back");
            }
        }
        added
    }

    /// DEL of each plugin in reverse order; all are asked, the first error is told. `result` is
    /// [`Attached::result`], if attaching came that far.
    ///
    /// # Errors
    /// [`NetworkError`]; another try may do what is left.
    pub async fn detach(&self, request: &AttachRequest, result: Option<&str>) -> Result<(), NetworkError> {
        let list = parse(&request.conflist)?;
        self.del_all(&list, request, result).await
    }

    /// CHECK of each plugin, in order: is the pod still attached as `result` says?
    ///
    /// # Errors
    /// [`NetworkError`] of the first plugin that says no. Networks that disable CHECK, or are older
    /// than it, say yes.
    pub async fn check(&self, request: &AttachRequest, result: &str) -> Result<(), NetworkError> {
        let list = parse(&request.conflist)?;
        if list.disable_check || list.version < Version::V040 {
            return Ok(());
        }
        self.check_all(&list, request, result).await
    }

    /// Gives back what this daemon still holds for pods that are not alive, and asks GC of the foreign
    /// plugins of the current network (unless it says `disableGC`). Never touches what another owns.
    ///
    /// # Errors
    /// [`NetworkError`] of the first thing that failed; the rest was tried.
    pub async fn gc(&self, living: &[PodId]) -> Result<(), NetworkError> {
        let list = match self.current().await {
            Ok(list) => Some(list),
            Err(NetworkError::NotReady { .. }) => None,
            Err(e) => return Err(e),
        };
        let ids: HashSet<String> = living.iter().map(PodId::to_string).collect();
        let own = list.clone();
        let done = self.worker.run(move |hands| steps::collect(hands, own.as_ref(), &ids)).await;
        let done = done.map_err(|source| NetworkError::Builtin { plugin: "gc".to_owned(), source });
        match list {
            Some(list) => done.and(self.ask_gc(&list, living).await),
            None => done,
        }
    }

    /// For a daemon that stops while no pod is left: removes the fallback's bridge and the nf_tables
    /// table, and switches forwarding off again if this daemon switched it on and no other virtual
    /// network of the host may need it.
    ///
    /// # Errors
    /// [`NetworkError::Builtin`].
    pub async fn remove(&self) -> Result<(), NetworkError> {
        *self.reserved.lock().await = None;
        let names = self.names.clone();
        let done = self.worker.run(move |hands| steps::remove(hands, &names)).await;
        done.map_err(|source| NetworkError::Builtin { plugin: "bridge".to_owned(), source })
    }
}

fn parse(text: &str) -> Result<NetworkList, NetworkError> {
    NetworkList::parse(text, true).map_err(NetworkError::Conflist)
}

fn not_ready(error: &NetworkError, advice: &str) -> Status {
    let mut reason = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        reason = format!("{reason}: {cause}");
        next = cause.source();
    }
    Status::NotReady { reason, advice: advice.to_owned() }
}

/// The path of a directory without symbolic links, so that one root has one name.
fn resolved(root: &Path) -> PathBuf {
    use std::os::fd::AsRawFd;
    let opened = std::fs::File::open(root);
    let link = opened.and_then(|dir| std::fs::read_link(format!("/proc/self/fd/{}", dir.as_raw_fd())));
    link.unwrap_or_else(|_| root.to_owned())
}
