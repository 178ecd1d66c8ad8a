//! Sandboxes.

use super::Runtime;
use crate::{parse, render, status};
use api::cri;
use engine::{ContainerFilter, Host, PodFilter, PodState, PodView};
use std::{collections::BTreeMap, sync::Arc};
use tonic::Status;
use types::{Clock as _, SystemClock};

impl<H: Host> Runtime<H> {
    pub(super) async fn run_pod(
        &self,
        request: cri::RunPodSandboxRequest,
    ) -> Result<cri::RunPodSandboxResponse, Status> {
        let spec = parse::pod(request.config.as_ref(), &request.runtime_handler, &self.node.handlers)
            .map_err(|bad| status::of_request(&bad))?;
        let id = self.engine.run_pod(spec).await.map_err(|error| status::of_engine(&error))?;
        Ok(cri::RunPodSandboxResponse { pod_sandbox_id: id.to_string() })
    }

    pub(super) async fn stop_pod(
        &self,
        request: &cri::StopPodSandboxRequest,
    ) -> Result<cri::StopPodSandboxResponse, Status> {
        self.engine.stop_pod(&request.pod_sandbox_id).await.map_err(|error| status::of_engine(&error))?;
        Ok(cri::StopPodSandboxResponse {})
    }

    pub(super) async fn remove_pod(
        &self,
        request: &cri::RemovePodSandboxRequest,
    ) -> Result<cri::RemovePodSandboxResponse, Status> {
        self.engine.remove_pod(&request.pod_sandbox_id).await.map_err(|error| status::of_engine(&error))?;
        Ok(cri::RemovePodSandboxResponse {})
    }

    pub(super) fn pod_status(
        &self,
        request: &cri::PodSandboxStatusRequest,
    ) -> Result<cri::PodSandboxStatusResponse, Status> {
        let pod = self.engine.pod(&request.pod_sandbox_id).map_err(|error| status::of_engine(&error))?;
        // With a timestamp a kubelet with EventedPLEG takes these statuses for all there are.
        let (containers_statuses, timestamp) = match self.node.statuses_in_pod_status {
            true => (self.statuses_of(&pod), SystemClock.now().0),
            false => (Vec::new(), 0),
        };
        Ok(cri::PodSandboxStatusResponse {
            status: Some(render::pod_status(&pod)),
            info: if request.verbose { render::pod_info(&pod) } else { BTreeMap::new() },
            containers_statuses,
            timestamp,
        })
    }

    /// The statuses of a pod's containers, as its events tell them.
    fn statuses_of(&self, pod: &PodView) -> Vec<cri::ContainerStatus> {
        let filter = ContainerFilter { pod: Some(pod.plan.id.to_string()), ..ContainerFilter::default() };
        let containers = self.engine.containers(&filter);
        containers.iter().map(|container| render::container_status(container, None)).collect()
    }

    pub(super) fn list_pods(&self, request: cri::ListPodSandboxRequest) -> cri::ListPodSandboxResponse {
        let pods = self.listed_pods(request.filter);
        cri::ListPodSandboxResponse { items: pods.iter().map(|pod| render::pod_row(pod)).collect() }
    }

    pub(super) fn listed_pods(&self, filter: Option<cri::PodSandboxFilter>) -> Vec<Arc<PodView>> {
        let asked = filter.unwrap_or_default();
        let state = match asked.state.map(|value| cri::PodSandboxState::try_from(value.state)) {
            None => None,
            Some(Ok(cri::PodSandboxState::SandboxReady)) => Some(PodState::Ready),
            Some(Ok(cri::PodSandboxState::SandboxNotready)) => Some(PodState::NotReady),
            // A state that this version does not know is one that no pod is in.
            Some(Err(_)) => return Vec::new(),
        };
        let filter =
            PodFilter { id: Some(asked.id).filter(|id| !id.is_empty()), state, labels: asked.label_selector };
        self.engine.pods(&filter)
    }
}
