//! Who answers: Version, Status, RuntimeConfig, UpdateRuntimeConfig.

use crate::{
    case::{Case, case, has, holds, is},
    host,
    story::Test,
};
use anyhow::{Context as _, Result};
use api::cri;

/// The cases.
pub fn cases() -> Vec<Case> {
    vec![
        case(
            "runtime: the version is the CRI's 0.1.0",
            "contract 0.8; kubelet kuberuntime_manager.go ErrVersionNotSupported",
            "VersionRequest.version VersionResponse.version VersionResponse.runtime_api_version VersionResponse.runtime_name VersionResponse.runtime_version",
            version,
        ),
        case(
            "runtime: it is ready, and so is its network",
            "CRI RuntimeCondition; critest Runtime info",
            "StatusResponse.status.conditions.type StatusResponse.status.conditions.status",
            ready,
        ),
        case(
            "runtime: verbose status has information as JSON",
            "CRI StatusRequest.verbose",
            "StatusRequest.verbose StatusResponse.info",
            verbose,
        ),
        case(
            "runtime: the default handler is listed under the empty name",
            "CRI StatusResponse.runtime_handlers",
            "StatusResponse.runtime_handlers.name",
            default_handler,
        ),
        case(
            "runtime: it can mount recursively read-only",
            "KEP-3857; CRI RuntimeHandlerFeatures",
            "StatusResponse.runtime_handlers.features.recursive_read_only_mounts",
            |t: Test| async move { holds("the feature", t.status().await?.1.recursive_read_only_mounts) },
        ),
        case(
            "runtime: it has user namespaces",
            "KEP-127; CRI RuntimeHandlerFeatures",
            "StatusResponse.runtime_handlers.features.user_namespaces",
            |t: Test| async move { holds("the feature", t.status().await?.1.user_namespaces) },
        ),
        case(
            "runtime: it knows the policy of supplemental groups",
            "KEP-3619; CRI RuntimeFeatures",
            "StatusResponse.features.supplemental_groups_policy",
            |t: Test| async move { holds("the feature", t.status().await?.0.supplemental_groups_policy) },
        ),
        case(
            "runtime: it has user namespaces in the host's network",
            "KEP-5607; CRI RuntimeFeatures",
            "StatusResponse.features.user_namespaces_host_network",
            |t: Test| async move { holds("the feature", t.status().await?.0.user_namespaces_host_network) },
        ),
        case(
            "runtime: it knows mount options",
            "KEP-5855; CRI RuntimeFeatures",
            "StatusResponse.features.mount_options",
            |t: Test| async move { holds("the feature", t.status().await?.0.mount_options) },
        ),
        case(
            "runtime: the cgroup driver is one that works here",
            "KEP-4033; contract 0.6",
            "RuntimeConfigRequest RuntimeConfigResponse.linux.cgroup_driver",
            cgroup_driver,
        ),
        case(
            "runtime: a pod CIDR is taken",
            "CRI UpdateRuntimeConfig",
            "UpdateRuntimeConfigRequest.runtime_config.network_config.pod_cidr UpdateRuntimeConfigResponse",
            pod_cidr,
        ),
    ]
}

impl Test {
    /// The runtime's features, and those of the default handler.
    async fn status(&self) -> Result<(cri::RuntimeFeatures, cri::RuntimeHandlerFeatures)> {
        let status = self.runtime().status(cri::StatusRequest::default()).await?.into_inner();
        let handler = status.runtime_handlers.into_iter().find(|handler| handler.name.is_empty());
        Ok((
            status.features.unwrap_or_default(),
            handler.and_then(|handler| handler.features).unwrap_or_default(),
        ))
    }
}

async fn version(t: Test) -> Result<()> {
    let request = cri::VersionRequest { version: "0.1.0".to_owned() };
    let answer = t.runtime().version(request).await?.into_inner();
    is("version", answer.version, "0.1.0")?;
    is("runtime_api_version", answer.runtime_api_version, "v1")?;
    is("runtime_name", answer.runtime_name, t.world.runtime_name.clone())?;
    let numbers: Vec<_> = answer.runtime_version.trim_start_matches('v').split(['.', '-', '+']).collect();
    holds(
        "runtime_version has two or more dotted numbers",
        numbers.iter().take_while(|part| part.parse::<u32>().is_ok()).count() >= 2,
    )?;
    is("runtime_version", answer.runtime_version, t.world.runtime_version.clone())
}

async fn ready(t: Test) -> Result<()> {
    let status = t.runtime().status(cri::StatusRequest::default()).await?.into_inner().status;
    let conditions = status.context("no status")?.conditions;
    holds("two or more conditions", conditions.len() >= 2)?;
    for kind in ["RuntimeReady", "NetworkReady"] {
        let condition = conditions.iter().find(|condition| condition.r#type == kind);
        holds(kind, condition.with_context(|| format!("no {kind}"))?.status)?;
    }
    Ok(())
}

async fn verbose(t: Test) -> Result<()> {
    let quiet = t.runtime().status(cri::StatusRequest { verbose: false }).await?.into_inner();
    holds("no information unless asked", quiet.info.is_empty())?;
    let loud = t.runtime().status(cri::StatusRequest { verbose: true }).await?.into_inner();
    let config = loud.info.get("config").context("no info.config")?;
    let config: serde_json::Value = serde_json::from_str(config)?;
    let state = config["stateDir"].as_str().context("no stateDir in info.config: critest looks for it")?;
    has("stateDir is a path", state, "/")
}

async fn default_handler(t: Test) -> Result<()> {
    let status = t.runtime().status(cri::StatusRequest::default()).await?.into_inner();
    let default = status.runtime_handlers.iter().filter(|handler| handler.name.is_empty()).count();
    is("entries with the empty name", default, 1)?;
    for handler in &t.world.handlers {
        holds(
            "it is the same as before",
            status.runtime_handlers.iter().any(|other| other.name == *handler),
        )?;
    }
    is("the number of handlers", status.runtime_handlers.len(), t.world.handlers.len())
}

async fn cgroup_driver(t: Test) -> Result<()> {
    let answer = t.runtime().runtime_config(cri::RuntimeConfigRequest {}).await?.into_inner();
    let driver = answer.linux.context("no linux in the answer")?.cgroup_driver();
    let c = t.container(|_| {}).await?;
    let path = host::cgroup_dir(c.pid().await?, "memory")?.to_string_lossy().into_owned();
    match driver {
        cri::CgroupDriver::Systemd => has("the container's cgroup is a scope of systemd", &path, ".scope"),
        cri::CgroupDriver::Cgroupfs => {
            has("the container's cgroup is beneath its parent", &path, &t.cgroup())
        }
    }
}

async fn pod_cidr(t: Test) -> Result<()> {
    let network = cri::NetworkConfig { pod_cidr: "10.88.0.0/16".to_owned() };
    let config = cri::RuntimeConfig { network_config: Some(network) };
    let request = cri::UpdateRuntimeConfigRequest { runtime_config: Some(config) };
    t.runtime().update_runtime_config(request).await?;
    // The kubelet sends it whenever the node is updated: pods go on.
    t.pod().await?.ip().await.map(|_| ())
}
