//! Containers.

use super::Runtime;
use crate::{parse, render, status};
use api::cri;
use engine::{ContainerFilter, ContainerState, ContainerView, Host};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tonic::Status;
use types::{container::PidMode, pod::NsMode};

/// The longest grace period: a year, so that no arithmetic overflows.
const LONGEST_GRACE: u64 = 365 * 24 * 3600;

impl<H: Host> Runtime<H> {
    pub(super) async fn create(
        &self,
        request: cri::CreateContainerRequest,
    ) -> Result<cri::CreateContainerResponse, Status> {
        let mut spec = parse::container(request.config.as_ref(), &self.node.handlers)
            .map_err(|bad| status::of_request(&bad))?;
        let pod = self.engine.pod(&request.pod_sandbox_id).map_err(|error| status::of_engine(&error))?;
        if !says_namespaces(request.config.as_ref()) {
            // A container that says nothing of namespaces has those of its pod.
            spec.security.namespaces.pid = match pod.plan.spec.namespaces.pid {
                NsMode::Pod => PidMode::Pod,
                NsMode::Container => PidMode::Container,
                NsMode::Node => PidMode::Node,
            };
        }
        let id = self
            .engine
            .create_container(&request.pod_sandbox_id, spec)
            .await
            .map_err(|error| status::of_engine(&error))?;
        Ok(cri::CreateContainerResponse { container_id: id.to_string() })
    }

    pub(super) async fn start(
        &self,
        request: &cri::StartContainerRequest,
    ) -> Result<cri::StartContainerResponse, Status> {
        self.engine
            .start_container(&request.container_id)
            .await
            .map_err(|error| status::of_engine(&error))?;
        Ok(cri::StartContainerResponse {})
    }

    pub(super) async fn stop(
        &self,
        request: &cri::StopContainerRequest,
    ) -> Result<cri::StopContainerResponse, Status> {
        // A negative grace is none, as with the peers.
        let grace = Duration::from_secs(u64::try_from(request.timeout).unwrap_or(0).min(LONGEST_GRACE));
        self.engine
            .stop_container(&request.container_id, grace)
            .await
            .map_err(|error| status::of_engine(&error))?;
        Ok(cri::StopContainerResponse {})
    }

    pub(super) async fn remove(
        &self,
        request: &cri::RemoveContainerRequest,
    ) -> Result<cri::RemoveContainerResponse, Status> {
        self.engine
            .remove_container(&request.container_id)
            .await
            .map_err(|error| status::of_engine(&error))?;
        Ok(cri::RemoveContainerResponse {})
    }

    pub(super) fn list(&self, request: cri::ListContainersRequest) -> cri::ListContainersResponse {
        let containers = self.listed_containers(request.filter);
        cri::ListContainersResponse {
            containers: containers.iter().map(|c| render::container_row(c)).collect(),
        }
    }

    pub(super) fn listed_containers(&self, filter: Option<cri::ContainerFilter>) -> Vec<Arc<ContainerView>> {
        let asked = filter.unwrap_or_default();
        let state = match asked.state.map(|value| cri::ContainerState::try_from(value.state)) {
            None => None,
            Some(Ok(cri::ContainerState::ContainerCreated)) => Some(ContainerState::Created),
            Some(Ok(cri::ContainerState::ContainerRunning)) => Some(ContainerState::Running),
            Some(Ok(cri::ContainerState::ContainerExited)) => Some(ContainerState::Exited),
            Some(Ok(cri::ContainerState::ContainerUnknown)) => Some(ContainerState::Unknown),
            // A state that this version does not know is one that no container is in.
            Some(Err(_)) => return Vec::new(),
        };
        let filter = ContainerFilter {
            id: Some(asked.id).filter(|id| !id.is_empty()),
            state,
            pod: Some(asked.pod_sandbox_id).filter(|id| !id.is_empty()),
            labels: asked.label_selector,
        };
        self.engine.containers(&filter)
    }

    pub(super) async fn container_status(
        &self,
        request: &cri::ContainerStatusRequest,
    ) -> Result<cri::ContainerStatusResponse, Status> {
        let container =
            self.engine.container(&request.container_id).map_err(|error| status::of_engine(&error))?;
        let trouble = self.engine.log_trouble(&container).await;
        Ok(cri::ContainerStatusResponse {
            status: Some(render::container_status(&container, trouble.as_deref())),
            info: if request.verbose { render::container_info(&container) } else { BTreeMap::new() },
        })
    }

    pub(super) async fn reopen_log(
        &self,
        request: &cri::ReopenContainerLogRequest,
    ) -> Result<cri::ReopenContainerLogResponse, Status> {
        self.engine.reopen_log(&request.container_id).await.map_err(|error| status::of_engine(&error))?;
        Ok(cri::ReopenContainerLogResponse {})
    }
}

fn says_namespaces(config: Option<&cri::ContainerConfig>) -> bool {
    config
        .and_then(|config| config.linux.as_ref())
        .and_then(|linux| linux.security_context.as_ref())
        .is_some_and(|context| context.namespace_options.is_some())
}
