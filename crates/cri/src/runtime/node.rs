//! The node as a whole: Version, Status, RuntimeConfig.

use crate::{
    parse::{Bad, Handlers},
    status,
};
use api::cri;
use std::{collections::BTreeMap, fmt, pin::Pin};
use tonic::Status;
use types::handler::OWN;

/// Whether pods can be attached to a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkState {
    /// They can.
    Ready,
    /// They cannot.
    NotReady {
        /// Why, and what to do about it.
        message: String,
    },
}

/// One configured handler.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HandlerState {
    /// Its name.
    pub name: String,
    /// Whether it makes mounts read-only with all below them.
    pub recursive_read_only_mounts: bool,
    /// Why no pod can have it at present: it is listed all the same, since it is configured, and promises nothing.
    pub trouble: Option<String>,
}

type Asked<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What the services say of the node; made by the composition root.
pub struct Node {
    /// Asks the network.
    pub network: Box<dyn Fn() -> Asked<NetworkState> + Send + Sync>,
    /// `info` of a verbose Status: JSON by key. critest reads `config` for `stateDir`.
    pub info: BTreeMap<String, String>,
    /// What an administrator should know and no condition says.
    pub remarks: Vec<String>,
    /// The cgroup driver is systemd, not cgroupfs.
    pub systemd: bool,
    /// PodSandboxStatus tells the containers' statuses and a timestamp, for the gate EventedPLEG.
    pub statuses_in_pod_status: bool,
    /// Pods can have user namespaces: the kernel shows layers and volumes with mapped ids.
    pub user_namespaces: bool,
    /// Names of the RuntimeClass handlers.
    pub handlers: Handlers,
    /// Asks what the configured handlers can do.
    pub handler_states: Box<dyn Fn() -> Asked<Vec<HandlerState>> + Send + Sync>,
    /// Reads the figures of containers.
    pub stats: stats::Reader,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("remarks", &self.remarks).finish_non_exhaustive()
    }
}

/// Version. The kubelet does not start with any other `version` than 0.1.0.
pub(super) fn version(request: &cri::VersionRequest) -> Result<cri::VersionResponse, Status> {
    if request.version.len() > 64 {
        return Err(status::of_request(&Bad::field("version", "is longer than 64 bytes")));
    }
    Ok(cri::VersionResponse {
        version: "0.1.0".to_owned(),
        runtime_name: "peapod".to_owned(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime_api_version: "v1".to_owned(),
    })
}

/// RuntimeConfig.
pub(super) fn runtime_config(node: &Node) -> cri::RuntimeConfigResponse {
    let driver = if node.systemd { cri::CgroupDriver::Systemd } else { cri::CgroupDriver::Cgroupfs };
    let linux = cri::LinuxRuntimeConfiguration { cgroup_driver: driver.into() };
    cri::RuntimeConfigResponse { linux: Some(linux) }
}

/// UpdateRuntimeConfig: the kubelet tells the node's pod CIDR. Networks are configured by CNI, so it
/// is checked and not used.
pub(super) fn update_runtime_config(
    request: &cri::UpdateRuntimeConfigRequest,
) -> Result<cri::UpdateRuntimeConfigResponse, Status> {
    const FIELD: &str = "runtime_config.network_config.pod_cidr";
    let cidrs = request
        .runtime_config
        .as_ref()
        .and_then(|config| config.network_config.as_ref())
        .map(|network| network.pod_cidr.as_str())
        .unwrap_or_default();
    for cidr in cidrs.split(',').filter(|cidr| !cidr.is_empty()) {
        let fine = cidr.split_once('/').is_some_and(|(ip, length)| {
            match (ip.parse::<std::net::IpAddr>(), length.parse::<u8>()) {
                (Ok(ip), Ok(length)) => length <= if ip.is_ipv4() { 32 } else { 128 },
                (Err(_), _) | (_, Err(_)) => false,
            }
        });
        if !fine {
            let shown: String = cidr.chars().take(60).flat_map(char::escape_default).collect();
            return Err(status::of_request(&Bad::field(FIELD, format!("`{shown}` is not a CIDR"))));
        }
    }
    Ok(cri::UpdateRuntimeConfigResponse {})
}

impl Node {
    /// Status.
    pub(super) async fn status(&self, verbose: bool) -> cri::StatusResponse {
        let configured = (self.handler_states)().await;
        let trouble = configured.iter().filter_map(|handler| {
            handler
                .trouble
                .as_ref()
                .map(|why| format!("the handler `{}` cannot be used: {why}", handler.name))
        });
        let runtime = cri::RuntimeCondition {
            r#type: "RuntimeReady".to_owned(),
            status: true,
            reason: String::new(),
            message: self.remarks.iter().cloned().chain(trouble).collect::<Vec<_>>().join("; "),
        };
        let mut network = cri::RuntimeCondition { r#type: "NetworkReady".to_owned(), ..Default::default() };
        match (self.network)().await {
            NetworkState::Ready => network.status = true,
            NetworkState::NotReady { message } => {
                network.reason = "NetworkPluginNotReady".to_owned();
                network.message = message;
            }
        }
        let handler = |name: &str, recursive_read_only_mounts, user_namespaces| cri::RuntimeHandler {
            name: name.to_owned(),
            features: Some(cri::RuntimeHandlerFeatures { recursive_read_only_mounts, user_namespaces }),
        };
        // mount_setattr(2) has it since 5.12, which every kernel that peapod runs on has.
        let own = OWN.into_iter().map(|name| handler(name, true, self.user_namespaces));
        // User namespaces are our own runner's alone.
        let others = configured.iter().map(|one| handler(&one.name, one.recursive_read_only_mounts, false));
        cri::StatusResponse {
            status: Some(cri::RuntimeStatus { conditions: vec![runtime, network] }),
            info: if verbose { self.info.clone() } else { BTreeMap::new() },
            runtime_handlers: own.chain(others).collect(),
            features: Some(cri::RuntimeFeatures {
                supplemental_groups_policy: true,
                user_namespaces_host_network: self.user_namespaces,
                mount_options: true,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(cidr: &str) -> Result<cri::UpdateRuntimeConfigResponse, Status> {
        update_runtime_config(&cri::UpdateRuntimeConfigRequest {
            runtime_config: Some(cri::RuntimeConfig {
                network_config: Some(cri::NetworkConfig { pod_cidr: cidr.to_owned() }),
            }),
        })
    }

    #[test]
    fn a_pod_cidr_is_checked() {
        for good in ["", "10.0.0.0/24", "10.0.0.0/24,fd00::/64"] {
            assert!(update(good).is_ok(), "{good}");
        }
        for bad in ["10.0.0.0", "10.0.0.0/33", "x/8", "10.0.0.0/24;fd00::/64", "fd00::/129"] {
            let error = update(bad).expect_err(bad);
            assert!(error.message().starts_with("runtime_config.network_config.pod_cidr"), "{error}");
        }
    }

    #[test]
    fn the_version_is_the_one_that_the_kubelet_wants() {
        let version = version(&cri::VersionRequest::default()).expect("answered");
        assert_eq!((version.version.as_str(), version.runtime_api_version.as_str()), ("0.1.0", "v1"));
        assert!(version.runtime_version.split('.').count() >= 2);
    }
}
