//! TOML to a validated configuration.
//!
//! One file, drop-ins beside it, flags over both. An unknown key is an error that names it; a value
//! is checked here once, so that nobody else has to. Everything has a working default
//! (`default.toml`, which a test holds equal to [`Config::default`]).

#![forbid(unsafe_code)]

mod check;
mod load;

use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};
use types::handler::{Handler, OWN};

pub use load::{ConfigError, DEFAULT_FILE};

/// Longest [`Config::state`]: a shim's socket beneath it must fit the 107 bytes of unix(7).
pub const MAX_STATE_PATH: usize = 76;

/// The daemon's settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Directory for what must outlive a reboot. Absolute, and apart from `state`.
    pub root: PathBuf,
    /// Directory for what need not. Absolute, at most [`MAX_STATE_PATH`] bytes.
    pub state: PathBuf,
    /// `unix://` and an absolute path: see [`Config::socket`].
    pub listen: String,
    /// Group of the socket, by name or number.
    pub socket_group: String,
    /// How much is logged.
    pub log_level: LogLevel,
    /// cgroups.
    pub cgroup: Cgroup,
    /// Pod networks.
    pub network: Network,
    /// Image registries.
    pub registry: Registry,
    /// Containers.
    pub container: Container,
    /// RuntimeClass handlers beside our own runner, by name: see [`Config::handler`].
    pub handlers: BTreeMap<String, Handler>,
    /// Devices that their vendors describe.
    pub cdi: Cdi,
    /// ExecSync.
    pub exec: Exec,
    /// Exec, Attach and PortForward.
    pub streaming: Streaming,
    /// What is told of events.
    pub events: Events,
    /// Bounds.
    pub limits: Limits,
}

/// `log_level`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Only what failed.
    Error,
    /// And what is odd.
    Warn,
    /// And what was done.
    #[default]
    Info,
    /// And how.
    Debug,
    /// And each step.
    Trace,
}

impl LogLevel {
    /// Its name, as `tracing` parses it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

/// `[cgroup]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cgroup {
    /// How they are made.
    pub driver: CgroupDriver,
    /// Parent of pods that ask for none: see [`Cgroup::parent`].
    pub parent: String,
}

/// `cgroup.driver`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupDriver {
    /// By directories in the cgroup file systems.
    #[default]
    Cgroupfs,
    /// By systemd: a pod is a scope in a slice.
    Systemd,
}

/// `[network]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    /// CNI configuration.
    pub conf_dir: PathBuf,
    /// CNI plugins, looked for in this order.
    pub bin_dirs: Vec<PathBuf>,
    /// What to do without a configuration.
    pub fallback: Fallback,
}

/// `network.fallback`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fallback {
    /// No pods: NetworkReady is false, as Kubernetes expects.
    #[default]
    None,
    /// A bridge of this daemon's own.
    Bridge,
}

/// `[registry]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Registry {
    /// Tree of `<host>/hosts.toml`.
    pub dir: PathBuf,
    /// Layers in work at the same time.
    pub max_parallel_layers: usize,
    /// Seconds: see [`Registry::progress_timeout`].
    pub progress_timeout: u64,
}

/// `[container]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Container {
    /// Longest piece of a line in one record of the log, bytes: see [`types::shim::LOG_LINE`].
    pub max_log_line: usize,
    /// File with the profile for RuntimeDefault; empty = built in.
    pub seccomp_profile: PathBuf,
    /// A missing source of a mount becomes a directory; else it is an error.
    pub create_missing_mount_sources: bool,
    /// Device nodes belong to `run_as_user` and `run_as_group`; else to whom they belong on the host.
    pub device_ownership_from_security_context: bool,
}

/// `[cdi]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cdi {
    /// Directories of specifications, the last one counts most; those that are missing have none.
    pub spec_dirs: Vec<PathBuf>,
}

/// `[exec]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Exec {
    /// Bytes kept of each stream.
    pub output_cap: u64,
    /// Milliseconds: see [`Exec::drain`].
    pub drain: u64,
}

/// `[streaming]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Streaming {
    /// Where sessions are served; port 0 = any that is free.
    pub address: SocketAddr,
    /// Certificate chain in PEM; empty = no TLS.
    pub tls_cert: PathBuf,
    /// Its key in PEM.
    pub tls_key: PathBuf,
    /// Seconds: see [`Streaming::idle_timeout`].
    pub idle_timeout: u64,
}

/// `[events]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Events {
    /// PodSandboxStatus tells `containers_statuses` and `timestamp`.
    pub in_pod_status: bool,
}

/// `[limits]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Pods at the same time.
    pub max_pods: usize,
    /// Containers of one pod.
    pub max_containers_per_pod: usize,
    /// Calls at the same time.
    pub max_concurrent_calls: usize,
    /// Bytes of one message.
    pub max_message: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            root: "/var/lib/peapod".into(),
            state: "/run/peapod".into(),
            listen: "unix:///run/peapod/peapod.sock".to_owned(),
            socket_group: "root".to_owned(),
            log_level: LogLevel::default(),
            cgroup: Cgroup::default(),
            network: Network::default(),
            registry: Registry::default(),
            container: Container::default(),
            handlers: BTreeMap::new(),
            cdi: Cdi::default(),
            exec: Exec::default(),
            streaming: Streaming::default(),
            events: Events::default(),
            limits: Limits::default(),
        }
    }
}

impl Cgroup {
    /// Parent of pods that ask for none: a path of plain names, or with systemd the name of a slice.
    #[must_use]
    pub fn parent(&self) -> &str {
        match (self.parent.as_str(), self.driver) {
            ("", CgroupDriver::Cgroupfs) => "/peapod",
            ("", CgroupDriver::Systemd) => "peapod.slice",
            (parent, _) => parent,
        }
    }
}

impl Default for Network {
    fn default() -> Self {
        Network {
            conf_dir: "/etc/cni/net.d".into(),
            bin_dirs: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
            fallback: Fallback::default(),
        }
    }
}

impl Default for Registry {
    fn default() -> Self {
        Registry { dir: "/etc/peapod/certs.d".into(), max_parallel_layers: 3, progress_timeout: 60 }
    }
}

impl Default for Container {
    fn default() -> Self {
        Container {
            max_log_line: types::shim::LOG_LINE_DEFAULT,
            seccomp_profile: PathBuf::new(),
            create_missing_mount_sources: true,
            device_ownership_from_security_context: false,
        }
    }
}

impl Default for Cdi {
    fn default() -> Self {
        Cdi { spec_dirs: vec!["/etc/cdi".into(), "/var/run/cdi".into()] }
    }
}

impl Default for Exec {
    fn default() -> Self {
        Exec { output_cap: 16 << 20, drain: 1000 }
    }
}

impl Default for Streaming {
    fn default() -> Self {
        Streaming {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            tls_cert: PathBuf::new(),
            tls_key: PathBuf::new(),
            idle_timeout: 4 * 3600,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_pods: 2000,
            max_containers_per_pod: 200,
            max_concurrent_calls: 512,
            max_message: 16 << 20,
        }
    }
}

impl Config {
    /// The defaults as a file, with a comment for each key.
    #[must_use]
    pub fn default_toml() -> &'static str {
        include_str!("default.toml")
    }

    /// What is in force, as a file.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("all its keys and values are TOML's")
    }

    /// The path in `listen`.
    #[must_use]
    pub fn socket(&self) -> &Path {
        Path::new(self.listen.strip_prefix("unix://").unwrap_or(&self.listen))
    }

    /// The handler of that name; `None` within for our own runner's names.
    ///
    /// # Errors
    /// The names that there are, for one that is not configured.
    pub fn handler(&self, name: &str) -> Result<Option<&Handler>, String> {
        if OWN.contains(&name) {
            return Ok(None);
        }
        self.handlers.get(name).map(Some).ok_or_else(|| {
            let shown: String = name.chars().take(60).flat_map(char::escape_default).collect();
            let names: Vec<String> = self.handler_names().map(|name| format!("`{name}`")).collect();
            format!("`{shown}` is not configured; this node has {}", names.join(", "))
        })
    }

    /// Names of all handlers: our own runner's, then those that are configured.
    pub fn handler_names(&self) -> impl Iterator<Item = &str> {
        OWN.into_iter().chain(self.handlers.keys().map(String::as_str))
    }

    /// The store's file.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.root.join("meta.redb")
    }
}

impl Registry {
    /// Time without progress after which a pull is given up.
    #[must_use]
    pub fn progress_timeout(&self) -> Duration {
        Duration::from_secs(self.progress_timeout)
    }
}

impl Exec {
    /// Time for which a command's pipe is read after the command ended.
    #[must_use]
    pub fn drain(&self) -> Duration {
        Duration::from_millis(self.drain)
    }
}

impl Streaming {
    /// Time without a byte either way after which a session is closed.
    #[must_use]
    pub fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.idle_timeout)
    }

    /// Whether sessions are served over TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        !self.tls_cert.as_os_str().is_empty()
    }
}

/// Flags of `peapod serve`: each one that is given wins over the files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--root`
    pub root: Option<PathBuf>,
    /// `--state`
    pub state: Option<PathBuf>,
    /// `--listen`
    pub listen: Option<String>,
    /// `--cni-conf-dir`
    pub cni_conf_dir: Option<PathBuf>,
    /// `--cni-bin-dir`: the only one then.
    pub cni_bin_dir: Option<PathBuf>,
    /// `--registry-dir`
    pub registry_dir: Option<PathBuf>,
    /// `--fallback-network`
    pub fallback_network: Option<Fallback>,
    /// `--log-level`
    pub log_level: Option<LogLevel>,
}

impl std::str::FromStr for LogLevel {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace]
            .into_iter()
            .find(|level| level.name() == text)
            .ok_or_else(|| format!("`{text}` is not error, warn, info, debug or trace"))
    }
}

impl std::str::FromStr for Fallback {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Fallback::None),
            "bridge" => Ok(Fallback::Bridge),
            other => Err(format!("`{other}` is neither none nor bridge")),
        }
    }
}

#[cfg(test)]
mod tests;
