//! The plugins that run inside the daemon: same configuration, same state on disk as the usual ones.

pub(crate) mod bridge;
pub(crate) mod hostlocal;
pub(crate) mod loopback;
pub(crate) mod portmap;

use crate::{
    conflist::{BadConf, NetworkList, Plugin},
    fields::Fields,
    session::Refusal,
    sysctl::SysctlError,
};
use bridge::BridgeConf;
use portmap::PortmapConf;
use sys::rustix::io::Errno;

/// What a plugin of a list is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Builtin {
    Loopback,
    Bridge(Box<BridgeConf>),
    Portmap(PortmapConf),
    /// None of ours: a program to be executed.
    Foreign,
}

impl Builtin {
    /// Reads and checks the configuration of a plugin.
    pub(crate) fn of(plugin: &Plugin, list: &NetworkList) -> Result<Self, BadConf> {
        match plugin.kind.as_str() {
            "loopback" => {
                let mut fields = Fields::of(&plugin.raw);
                fields.ignore("ipam"); // the usual one reads none
                fields.end().map(|()| Self::Loopback)
            }
            "bridge" => BridgeConf::parse(&plugin.raw, &list.name).map(|conf| Self::Bridge(Box::new(conf))),
            "portmap" => PortmapConf::parse(&plugin.raw).map(Self::Portmap),
            "host-local" => {
                Err(BadConf::new("type", "host-local gives addresses (`ipam`), it is no network"))
            }
            _ => Ok(Self::Foreign),
        }
    }
}

/// Why a built-in plugin failed.
#[derive(Debug, thiserror::Error)]
pub enum BuiltinError {
    /// The kernel refused a request.
    #[error("{step}")]
    Netlink {
        /// What was tried.
        step: String,
        /// The kernel's answer.
        #[source]
        source: Refusal,
    },
    /// A system call failed.
    #[error("{step}")]
    Step {
        /// What was tried.
        step: String,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// A sysctl could not be set.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// The network namespace cannot be used.
    #[error(transparent)]
    Netns(#[from] crate::netns::NetnsError),
    /// A link of the bridge's name is something else, or another's.
    #[error("link `{name}`: {what}")]
    Link {
        /// Its name.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// No address is left.
    #[error("no address is left in {0}")]
    Exhausted(String),
    /// The pod has an address already.
    #[error("{address} is already allocated to this pod")]
    Duplicate {
        /// The address.
        address: std::net::IpAddr,
    },
    /// Another pod has the port.
    #[error("port_mappings: host port {port} is taken by pod {owner}")]
    HostPortTaken {
        /// `80/tcp`, with the host's address if the mapping has one.
        port: String,
        /// Id of the pod that has it.
        owner: String,
    },
    /// A mapping asks for something that cannot be.
    #[error("port_mappings: {0}")]
    Mapping(String),
    /// What CHECK found missing.
    #[error("missing: {0}")]
    Missing(String),
}

pub(crate) fn netlink(what: impl Into<String>) -> impl FnOnce(Refusal) -> BuiltinError {
    let step = what.into();
    move |source| BuiltinError::Netlink { step, source }
}

pub(crate) fn errno(what: impl Into<String>) -> impl FnOnce(Errno) -> BuiltinError {
    let step = what.into();
    move |source| BuiltinError::Step { step, source }
}
