//! UpdateContainerResources and UpdatePodSandboxResources.

use super::Runtime;
use crate::{
    parse::{self, Bad},
    status,
};
use api::cri;
use engine::{Host, pod::PodSize};
use tonic::Status;

impl<H: Host> Runtime<H> {
    /// All that is asked for, or nothing; what is not asked for stays.
    pub(super) async fn update(
        &self,
        request: cri::UpdateContainerResourcesRequest,
    ) -> Result<cri::UpdateContainerResourcesResponse, Status> {
        if request.windows.is_some() {
            return Err(status::of_request(&Bad::field("windows", "this is a Linux node")));
        }
        let asked = request.linux.unwrap_or_default();
        let asked = parse::resources("linux", &asked).map_err(|bad| status::of_request(&bad))?;
        self.engine
            .update_container(&request.container_id, asked)
            .await
            .map_err(|error| status::of_engine(&error))?;
        Ok(cri::UpdateContainerResourcesResponse {})
    }

    /// The kubelet has resized the pod's cgroup by itself: it is only kept what it was told to be.
    pub(super) async fn update_pod(
        &self,
        request: cri::UpdatePodSandboxResourcesRequest,
    ) -> Result<cri::UpdatePodSandboxResourcesResponse, Status> {
        let parsed = |field: &str, asked: Option<&cri::LinuxContainerResources>| {
            asked.map(|asked| parse::resources(field, asked)).transpose()
        };
        let size = parsed("overhead", request.overhead.as_ref())
            .and_then(|overhead| {
                let resources = parsed("resources", request.resources.as_ref())?;
                Ok(PodSize { overhead, resources })
            })
            .map_err(|bad| status::of_request(&bad))?;
        self.engine
            .resize_pod(&request.pod_sandbox_id, size)
            .await
            .map_err(|error| status::of_engine(&error))?;
        Ok(cri::UpdatePodSandboxResourcesResponse {})
    }
}
