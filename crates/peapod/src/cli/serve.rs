//! The flags of `peapod serve`.

use ::config::{Fallback, LogLevel, Overrides};
use std::path::PathBuf;

/// Run the daemon
///
/// Everything has a default; flags win over the configuration file. Pods outlive the daemon: it may be
/// stopped, killed or replaced at any moment, and finds them again when it starts.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(after_help = "Examples:\n  peapod serve --fallback-network bridge\n  \
                        peapod serve --root /srv/a --state /run/a --listen unix:///run/a/a.sock")]
pub(crate) struct Serve {
    /// Configuration in TOML [default: /etc/peapod/config.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// What outlives a reboot: the store, layers, writable layers
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// What a reboot ends: sockets, namespaces, records of running pods
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// The socket [default: unix:///run/peapod/peapod.sock]
    #[arg(long, value_name = "unix://PATH")]
    pub(crate) listen: Option<String>,
    /// CNI configuration
    #[arg(long, value_name = "DIR")]
    pub(crate) cni_conf_dir: Option<PathBuf>,
    /// CNI plugins that are not built in
    #[arg(long, value_name = "DIR")]
    pub(crate) cni_bin_dir: Option<PathBuf>,
    /// Registries: a tree of `<host>/hosts.toml`
    #[arg(long, value_name = "DIR")]
    pub(crate) registry_dir: Option<PathBuf>,
    /// What pods get while there is no CNI configuration: `bridge` (of this daemon's own) or `none`
    #[arg(long, value_name = "bridge|none")]
    pub(crate) fallback_network: Option<Fallback>,
    /// How much the daemon writes to its log: error, warn, info, debug or trace
    #[arg(long, value_name = "L")]
    pub(crate) log_level: Option<LogLevel>,
}

impl Serve {
    /// The file that was named, and the flags that win over it.
    pub(crate) fn into_parts(self) -> (Option<PathBuf>, Overrides) {
        let flags = Overrides {
            root: self.root,
            state: self.state,
            listen: self.listen,
            cni_conf_dir: self.cni_conf_dir,
            cni_bin_dir: self.cni_bin_dir,
            registry_dir: self.registry_dir,
            fallback_network: self.fallback_network,
            log_level: self.log_level,
        };
        (self.config, flags)
    }
}
