//! RuntimeService: one file a subject, and here the list of all its calls.

mod container;
mod events;
mod exec;
mod lists;
mod metrics;
mod node;
mod pod;
mod stats;
mod update;

pub use node::{HandlerState, NetworkState, Node};

use crate::status;
use api::cri::{self, runtime_service_server::RuntimeService};
use engine::{Engine, Host};
use lists::Items;
use std::sync::Arc;
use stream::Sessions;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

/// The service. Clones share the engine.
pub struct Runtime<H: Host> {
    engine: Engine<H>,
    node: Arc<Node>,
    sessions: Arc<dyn Sessions>,
    /// Calls that may read figures at once.
    places: Arc<Semaphore>,
}

impl<H: Host> std::fmt::Debug for Runtime<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").finish_non_exhaustive()
    }
}

impl<H: Host> Runtime<H> {
    /// Serves this engine on this node; sessions of Exec, Attach and PortForward are granted there.
    #[must_use]
    pub fn new(engine: Engine<H>, node: Arc<Node>, sessions: Arc<dyn Sessions>) -> Self {
        Runtime { engine, node, sessions, places: Arc::new(Semaphore::new(stats::AT_ONCE)) }
    }
}

type Answer<T> = Result<Response<T>, Status>;

/// Calls that this version does not serve, by name: nothing pretends.
macro_rules! not_served {
    ($($method:ident($request:ident) -> $response:ty, $name:literal;)*) => { $(
        fn $method<'life, 'async_trait>(
            &'life self,
            _request: Request<cri::$request>,
        ) -> std::pin::Pin<Box<dyn Future<Output = Answer<$response>> + Send + 'async_trait>>
        where
            'life: 'async_trait,
            Self: 'async_trait,
        {
            Box::pin(std::future::ready(Err(status::not_served($name))))
        }
    )* };
}

#[tonic::async_trait]
impl<H: Host> RuntimeService for Runtime<H> {
    async fn version(&self, request: Request<cri::VersionRequest>) -> Answer<cri::VersionResponse> {
        node::version(&request.into_inner()).map(Response::new)
    }

    async fn status(&self, request: Request<cri::StatusRequest>) -> Answer<cri::StatusResponse> {
        Ok(Response::new(self.node.status(request.into_inner().verbose).await))
    }

    async fn runtime_config(
        &self,
        _request: Request<cri::RuntimeConfigRequest>,
    ) -> Answer<cri::RuntimeConfigResponse> {
        Ok(Response::new(node::runtime_config(&self.node)))
    }

    async fn update_runtime_config(
        &self,
        request: Request<cri::UpdateRuntimeConfigRequest>,
    ) -> Answer<cri::UpdateRuntimeConfigResponse> {
        node::update_runtime_config(&request.into_inner()).map(Response::new)
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<cri::RunPodSandboxRequest>,
    ) -> Answer<cri::RunPodSandboxResponse> {
        self.run_pod(request.into_inner()).await.map(Response::new)
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<cri::StopPodSandboxRequest>,
    ) -> Answer<cri::StopPodSandboxResponse> {
        self.stop_pod(&request.into_inner()).await.map(Response::new)
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<cri::RemovePodSandboxRequest>,
    ) -> Answer<cri::RemovePodSandboxResponse> {
        self.remove_pod(&request.into_inner()).await.map(Response::new)
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<cri::PodSandboxStatusRequest>,
    ) -> Answer<cri::PodSandboxStatusResponse> {
        self.pod_status(&request.into_inner()).map(Response::new)
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<cri::ListPodSandboxRequest>,
    ) -> Answer<cri::ListPodSandboxResponse> {
        Ok(Response::new(self.list_pods(request.into_inner())))
    }

    async fn create_container(
        &self,
        request: Request<cri::CreateContainerRequest>,
    ) -> Answer<cri::CreateContainerResponse> {
        self.create(request.into_inner()).await.map(Response::new)
    }

    async fn start_container(
        &self,
        request: Request<cri::StartContainerRequest>,
    ) -> Answer<cri::StartContainerResponse> {
        self.start(&request.into_inner()).await.map(Response::new)
    }

    async fn stop_container(
        &self,
        request: Request<cri::StopContainerRequest>,
    ) -> Answer<cri::StopContainerResponse> {
        self.stop(&request.into_inner()).await.map(Response::new)
    }

    async fn remove_container(
        &self,
        request: Request<cri::RemoveContainerRequest>,
    ) -> Answer<cri::RemoveContainerResponse> {
        self.remove(&request.into_inner()).await.map(Response::new)
    }

    async fn list_containers(
        &self,
        request: Request<cri::ListContainersRequest>,
    ) -> Answer<cri::ListContainersResponse> {
        Ok(Response::new(self.list(request.into_inner())))
    }

    async fn container_status(
        &self,
        request: Request<cri::ContainerStatusRequest>,
    ) -> Answer<cri::ContainerStatusResponse> {
        self.container_status(&request.into_inner()).await.map(Response::new)
    }

    async fn reopen_container_log(
        &self,
        request: Request<cri::ReopenContainerLogRequest>,
    ) -> Answer<cri::ReopenContainerLogResponse> {
        self.reopen_log(&request.into_inner()).await.map(Response::new)
    }

    async fn exec_sync(&self, request: Request<cri::ExecSyncRequest>) -> Answer<cri::ExecSyncResponse> {
        self.exec_sync(request.into_inner()).await.map(Response::new)
    }

    async fn exec(&self, request: Request<cri::ExecRequest>) -> Answer<cri::ExecResponse> {
        self.exec(request.into_inner()).await.map(Response::new)
    }

    async fn attach(&self, request: Request<cri::AttachRequest>) -> Answer<cri::AttachResponse> {
        self.attach(request.into_inner()).await.map(Response::new)
    }

    async fn port_forward(
        &self,
        request: Request<cri::PortForwardRequest>,
    ) -> Answer<cri::PortForwardResponse> {
        self.port_forward(request.into_inner()).await.map(Response::new)
    }

    async fn container_stats(
        &self,
        request: Request<cri::ContainerStatsRequest>,
    ) -> Answer<cri::ContainerStatsResponse> {
        self.stats_of_one(&request.into_inner()).await.map(Response::new)
    }

    async fn list_container_stats(
        &self,
        request: Request<cri::ListContainerStatsRequest>,
    ) -> Answer<cri::ListContainerStatsResponse> {
        Ok(Response::new(self.stats_of_all(request.into_inner()).await))
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<cri::PodSandboxStatsRequest>,
    ) -> Answer<cri::PodSandboxStatsResponse> {
        self.stats_of_pod(&request.into_inner()).await.map(Response::new)
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<cri::ListPodSandboxStatsRequest>,
    ) -> Answer<cri::ListPodSandboxStatsResponse> {
        Ok(Response::new(self.stats_of_pods(request.into_inner()).await))
    }

    async fn list_metric_descriptors(
        &self,
        _request: Request<cri::ListMetricDescriptorsRequest>,
    ) -> Answer<cri::ListMetricDescriptorsResponse> {
        Ok(Response::new(self.metric_descriptors().await))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _request: Request<cri::ListPodSandboxMetricsRequest>,
    ) -> Answer<cri::ListPodSandboxMetricsResponse> {
        Ok(Response::new(self.pod_metrics().await))
    }

    async fn update_container_resources(
        &self,
        request: Request<cri::UpdateContainerResourcesRequest>,
    ) -> Answer<cri::UpdateContainerResourcesResponse> {
        self.update(request.into_inner()).await.map(Response::new)
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<cri::UpdatePodSandboxResourcesRequest>,
    ) -> Answer<cri::UpdatePodSandboxResourcesResponse> {
        self.update_pod(request.into_inner()).await.map(Response::new)
    }

    type StreamPodSandboxesStream = Items<cri::StreamPodSandboxesResponse>;

    async fn stream_pod_sandboxes(
        &self,
        request: Request<cri::StreamPodSandboxesRequest>,
    ) -> Answer<Self::StreamPodSandboxesStream> {
        Ok(Response::new(self.stream_pods(request.into_inner())))
    }

    type StreamContainersStream = Items<cri::StreamContainersResponse>;

    async fn stream_containers(
        &self,
        request: Request<cri::StreamContainersRequest>,
    ) -> Answer<Self::StreamContainersStream> {
        Ok(Response::new(self.stream_containers(request.into_inner())))
    }

    type StreamContainerStatsStream = Items<cri::StreamContainerStatsResponse>;

    async fn stream_container_stats(
        &self,
        request: Request<cri::StreamContainerStatsRequest>,
    ) -> Answer<Self::StreamContainerStatsStream> {
        Ok(Response::new(self.stream_container_stats(request.into_inner())))
    }

    type StreamPodSandboxStatsStream = Items<cri::StreamPodSandboxStatsResponse>;

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<cri::StreamPodSandboxStatsRequest>,
    ) -> Answer<Self::StreamPodSandboxStatsStream> {
        Ok(Response::new(self.stream_pod_stats(request.into_inner())))
    }

    type StreamPodSandboxMetricsStream = Items<cri::StreamPodSandboxMetricsResponse>;

    async fn stream_pod_sandbox_metrics(
        &self,
        _request: Request<cri::StreamPodSandboxMetricsRequest>,
    ) -> Answer<Self::StreamPodSandboxMetricsStream> {
        Ok(Response::new(self.stream_pod_metrics()))
    }

    type GetContainerEventsStream = Items<cri::ContainerEventResponse>;

    async fn get_container_events(
        &self,
        _request: Request<cri::GetEventsRequest>,
    ) -> Answer<Self::GetContainerEventsStream> {
        Ok(Response::new(self.events()))
    }

    not_served! {
        checkpoint_container(CheckpointContainerRequest) -> cri::CheckpointContainerResponse, "CheckpointContainer";
        checkpoint_pod(CheckpointPodRequest) -> cri::CheckpointPodResponse, "CheckpointPod";
        restore_pod(RestorePodRequest) -> cri::RestorePodResponse, "RestorePod";
    }
}
