//! A pod's namespaces and its attachment.

use super::{blocking::failed, pod};
use engine::host::{Attached, Fault, HostError, PodPlan, Result};
use net::{
    AttachRequest, Network, NetworkError,
    netns::{NetnsError, NsRequest, Pins},
};
use std::{io::Read as _, path::PathBuf};
use types::pod::NsMode;

/// The last plugin's result, kept for DEL: CNI hands it on as prevResult.
const RESULT: &str = "cni-result.json";
/// It is bounded as a plugin's output is.
const LARGEST_RESULT: u64 = 1 << 20;

fn network_error(doing: &'static str) -> impl FnOnce(NetworkError) -> HostError {
    move |error| {
        let fault = if matches!(error, NetworkError::NotReady { .. }) || error.is_conflict() {
            Fault::Precondition
        } else if error.is_bad_input() {
            Fault::Invalid("config.port_mappings")
        } else {
            return failed(doing)(error);
        };
        HostError::because(doing, fault, error)
    }
}

/// The configuration that a new pod's plan keeps.
pub(super) async fn plan(network: &Network) -> Result<String> {
    network.plan().await.map_err(network_error("cannot plan the pod's network"))
}

/// Namespaces, pinned, with host name and sysctls.
pub(super) async fn make_namespaces(pins: &Pins, plan: &PodPlan) -> Result<()> {
    const DOING: &str = "cannot make the pod's namespaces";
    match pins.make(&plan.id, NsRequest::of(&plan.spec)).await {
        Ok(_) => Ok(()),
        Err(NetnsError::Sysctl(error)) if error.is_bad_input() => {
            Err(HostError::because(DOING, Fault::Invalid("config.linux.sysctls"), error))
        }
        Err(error @ NetnsError::Hostname(_)) => {
            Err(HostError::because(DOING, Fault::Invalid("config.hostname"), error))
        }
        Err(error) => Err(failed(DOING)(error)),
    }
}

/// CNI ADD; then what wants the addresses: /etc/hosts and sysctls of the interface.
pub(super) async fn attach(network: &Network, pins: &Pins, plan: &PodPlan) -> Result<Attached> {
    let Some(request) = request(plan) else { return Ok(Attached::default()) };
    let attached =
        network.attach(&request).await.map_err(network_error("cannot attach the pod to its network"))?;
    if !attached.switched_on.is_empty() {
        tracing::info!(sysctls = ?attached.switched_on, "switched on for the pod network");
    }
    // Not synced: DEL does without it.
    pod::put(&result_path(plan), &attached.result)?;
    pod::write_hosts(plan, &attached.ips)?;
    pins.write_late_sysctls(&plan.id, plan.spec.sysctls.clone()).await.map_err(|error| {
        HostError::because(
            "cannot set a sysctl of the interface",
            Fault::Invalid("config.linux.sysctls"),
            error,
        )
    })?;
    Ok(Attached { ips: attached.ips })
}

/// CNI DEL, with the configuration as it was at ADD.
pub(super) async fn detach(network: &Network, plan: &PodPlan) -> Result<()> {
    let Some(request) = request(plan) else { return Ok(()) };
    let mut result = String::new();
    let kept = match std::fs::File::open(result_path(plan)) {
        Ok(file) => file.take(LARGEST_RESULT).read_to_string(&mut result).is_ok(),
        // Attaching never came so far.
        Err(_) => false,
    };
    network
        .detach(&request, kept.then_some(result.as_str()))
        .await
        .map_err(network_error("cannot detach the pod from its network"))
}

fn result_path(plan: &PodPlan) -> PathBuf {
    plan.paths.dir.join(RESULT)
}

/// Nothing for a pod in the node's network.
fn request(plan: &PodPlan) -> Option<AttachRequest> {
    if plan.spec.namespaces.network == NsMode::Node {
        return None;
    }
    Some(AttachRequest {
        pod: plan.id.clone(),
        name: plan.spec.name.clone(),
        namespace: plan.spec.namespace.clone(),
        uid: plan.spec.uid.clone(),
        netns: plan.pins.net.clone()?,
        conflist: plan.conflist.clone()?,
        port_mappings: plan.spec.port_mappings.clone(),
    })
}
