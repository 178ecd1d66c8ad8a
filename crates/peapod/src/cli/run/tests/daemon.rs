//! A CRI server without pods: it notes what it is asked, and its containers do as they are told.

use api::cri::{
    image_service_server::{ImageService, ImageServiceServer},
    runtime_service_server::{RuntimeService, RuntimeServiceServer},
    *,
};
use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
};
use tonic::{Request, Response, Status};

/// What one attempt of a container does when it is started.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Behaviour {
    /// Ends at once.
    Exits(i32),
    /// Until it is stopped.
    Runs,
    CannotStart,
    /// And somebody stops its pod at once.
    StopsThePod,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Daemon(Arc<Mutex<Books>>);

#[derive(Debug, Default)]
struct Books {
    calls: Vec<String>,
    behaviours: BTreeMap<String, VecDeque<Behaviour>>,
    pods: Vec<PodSandbox>,
    containers: Vec<(Container, i32)>,
    pulled: Vec<String>,
    count: i64,
}

impl Daemon {
    /// Serves on a new socket as long as the test's runtime lives.
    pub(crate) fn serve(socket: &Path) -> Self {
        let daemon = Self::default();
        daemon.books().pulled.push("i".to_owned());
        let listener = tokio::net::UnixListener::bind(socket).expect("bind");
        let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
        let router = tonic::transport::Server::builder()
            .add_service(RuntimeServiceServer::new(daemon.clone()))
            .add_service(ImageServiceServer::new(daemon.clone()));
        tokio::spawn(router.serve_with_incoming(incoming));
        daemon
    }

    /// What the next attempts of a container do; further ones exit with 0.
    pub(crate) fn behave(&self, container: &str, behaviours: &[Behaviour]) {
        self.books().behaviours.insert(container.to_owned(), behaviours.iter().copied().collect());
    }

    pub(crate) fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.books().calls)
    }

    pub(crate) fn pods(&self) -> usize {
        self.books().pods.len()
    }

    pub(crate) fn containers(&self) -> Vec<String> {
        self.books().containers.iter().map(|(container, _)| title(container)).collect()
    }

    /// A container ends by itself.
    pub(crate) fn end(&self, name: &str, code: i32) {
        for (container, exit) in &mut self.books().containers {
            if container.metadata.as_ref().is_some_and(|metadata| metadata.name == name) {
                container.state = ContainerState::ContainerExited.into();
                *exit = code;
            }
        }
    }

    pub(crate) fn forget_who_made_it(&self) {
        self.books().pods.iter_mut().for_each(|pod| pod.annotations.clear());
    }

    pub(crate) fn lose_all(&self) {
        let mut books = self.books();
        books.pods.clear();
        books.containers.clear();
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().expect("no test panics with the lock")
    }
}

fn title(container: &Container) -> String {
    let metadata = container.metadata.clone().unwrap_or_default();
    format!("{} {}", metadata.name, metadata.attempt)
}

impl Books {
    fn id(&mut self, of: &str) -> String {
        self.count += 1;
        format!("{of}-{:060}", self.count)
    }

    fn container(&mut self, id: &str) -> Result<&mut (Container, i32), Status> {
        self.containers
            .iter_mut()
            .find(|(c, _)| c.id == id)
            .ok_or_else(|| Status::not_found("no such container"))
    }

    fn stop_pod(&mut self, id: &str) {
        for pod in self.pods.iter_mut().filter(|pod| pod.id == id) {
            pod.state = PodSandboxState::SandboxNotready.into();
        }
        for (container, code) in self.containers.iter_mut().filter(|(c, _)| c.pod_sandbox_id == id) {
            if container.state() != ContainerState::ContainerExited {
                container.state = ContainerState::ContainerExited.into();
                *code = 137;
            }
        }
    }

    fn pod_name(&self, id: &str) -> String {
        let pod = self.pods.iter().find(|pod| pod.id == id);
        pod.and_then(|pod| pod.metadata.clone()).unwrap_or_default().name
    }

    fn image(&self, name: &str) -> Option<Image> {
        let name = name.strip_prefix("sha256:").unwrap_or(name);
        let known = self.pulled.iter().any(|pulled| pulled == name);
        known.then(|| Image { id: format!("sha256:{name}"), size: 1, ..Image::default() })
    }
}

type Answer<T> = Result<Response<T>, Status>;
type Never<T> = Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;

/// The trait's implementation: what is written out, and refusals for the rest. One macro for all, because the
/// trait's own attribute sees no macros inside.
macro_rules! serve {
    ($service:ident { $($written:tt)* } refuse { $($name:ident($request:ident) -> $answer:ident;)* }
     streams { $($stream:ident $method:ident($streamed:ident) -> $item:ident;)* }) => {
        #[tonic::async_trait]
        impl $service for Daemon {
            $($written)*
            $(async fn $name(&self, _: Request<$request>) -> Answer<$answer> {
                Err(Status::unimplemented("not in this daemon"))
            })*
            $(type $stream = Never<$item>;
            async fn $method(&self, _: Request<$streamed>) -> Answer<Self::$stream> {
                Err(Status::unimplemented("not in this daemon"))
            })*
        }
    };
}

serve!(RuntimeService {
    async fn run_pod_sandbox(&self, request: Request<RunPodSandboxRequest>) -> Answer<RunPodSandboxResponse> {
        let config = request.into_inner().config.unwrap_or_default();
        let mut books = self.books();
        let id = books.id("pod");
        let name = config.metadata.clone().unwrap_or_default().name;
        books.calls.push(format!("run {name}"));
        let created_at = books.count;
        let PodSandboxConfig { metadata, labels, annotations, .. } = config;
        books.pods.push(PodSandbox { id: id.clone(), metadata, labels, annotations, created_at, ..Default::default() });
        Ok(Response::new(RunPodSandboxResponse { pod_sandbox_id: id }))
    }

    async fn stop_pod_sandbox(&self, request: Request<StopPodSandboxRequest>) -> Answer<StopPodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let mut books = self.books();
        let call = format!("stop pod {}", books.pod_name(&id));
        books.calls.push(call);
        books.stop_pod(&id);
        Ok(Response::new(StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(&self, request: Request<RemovePodSandboxRequest>) -> Answer<RemovePodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let mut books = self.books();
        let call = format!("remove pod {}", books.pod_name(&id));
        books.calls.push(call);
        books.pods.retain(|pod| pod.id != id);
        books.containers.retain(|(container, _)| container.pod_sandbox_id != id);
        Ok(Response::new(RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(&self, request: Request<PodSandboxStatusRequest>) -> Answer<PodSandboxStatusResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let books = self.books();
        let pod = books.pods.iter().find(|pod| pod.id == id).ok_or_else(|| Status::not_found("no such pod"))?;
        let status = PodSandboxStatus { id, metadata: pod.metadata.clone(), state: pod.state, ..Default::default() };
        Ok(Response::new(PodSandboxStatusResponse { status: Some(status), ..Default::default() }))
    }

    async fn list_pod_sandbox(&self, request: Request<ListPodSandboxRequest>) -> Answer<ListPodSandboxResponse> {
        let id = request.into_inner().filter.unwrap_or_default().id;
        let items = self.books().pods.iter().filter(|pod| pod.id.starts_with(&id)).cloned().collect();
        Ok(Response::new(ListPodSandboxResponse { items }))
    }

    async fn create_container(&self, request: Request<CreateContainerRequest>) -> Answer<CreateContainerResponse> {
        let CreateContainerRequest { pod_sandbox_id, config, .. } = request.into_inner();
        let ContainerConfig { metadata, image, labels, annotations, .. } = config.unwrap_or_default();
        let mut books = self.books();
        let id = books.id("ctr");
        let created_at = books.count;
        let container = Container {
            id: id.clone(), pod_sandbox_id, metadata, image, labels, annotations, created_at, ..Default::default()
        };
        books.calls.push(format!("create {}", title(&container)));
        books.containers.push((container, 0));
        Ok(Response::new(CreateContainerResponse { container_id: id }))
    }

    async fn start_container(&self, request: Request<StartContainerRequest>) -> Answer<StartContainerResponse> {
        let id = request.into_inner().container_id;
        let mut books = self.books();
        let (container, _) = books.container(&id)?.clone();
        books.calls.push(format!("start {}", title(&container)));
        let name = container.metadata.unwrap_or_default().name;
        let next = books.behaviours.get_mut(&name).and_then(VecDeque::pop_front).unwrap_or(Behaviour::Exits(0));
        let (state, code) = match next {
            Behaviour::Exits(code) => (ContainerState::ContainerExited, code),
            Behaviour::Runs | Behaviour::StopsThePod => (ContainerState::ContainerRunning, 0),
            Behaviour::CannotStart => (ContainerState::ContainerExited, 128),
        };
        let entry = books.container(&id)?;
        entry.0.state = state.into();
        entry.1 = code;
        if matches!(next, Behaviour::StopsThePod) {
            books.stop_pod(&container.pod_sandbox_id);
        }
        if matches!(next, Behaviour::CannotStart) {
            return Err(Status::failed_precondition("no such program"));
        }
        Ok(Response::new(StartContainerResponse {}))
    }

    async fn stop_container(&self, request: Request<StopContainerRequest>) -> Answer<StopContainerResponse> {
        let id = request.into_inner().container_id;
        let mut books = self.books();
        let (container, code) = books.container(&id)?;
        container.state = ContainerState::ContainerExited.into();
        *code = 143;
        let call = format!("stop {}", title(container));
        books.calls.push(call);
        Ok(Response::new(StopContainerResponse {}))
    }

    async fn remove_container(&self, request: Request<RemoveContainerRequest>) -> Answer<RemoveContainerResponse> {
        let id = request.into_inner().container_id;
        self.books().containers.retain(|(container, _)| container.id != id);
        Ok(Response::new(RemoveContainerResponse {}))
    }

    async fn list_containers(&self, request: Request<ListContainersRequest>) -> Answer<ListContainersResponse> {
        let pod = request.into_inner().filter.unwrap_or_default().pod_sandbox_id;
        let books = self.books();
        let listed = books.containers.iter().filter(|(c, _)| c.pod_sandbox_id.starts_with(&pod));
        Ok(Response::new(ListContainersResponse { containers: listed.map(|(c, _)| c.clone()).collect() }))
    }

    async fn container_status(&self, request: Request<ContainerStatusRequest>) -> Answer<ContainerStatusResponse> {
        let id = request.into_inner().container_id;
        let mut books = self.books();
        let (container, exit_code) = books.container(&id)?.clone();
        let Container { metadata, state, .. } = container;
        let status = ContainerStatus { id, metadata, state, exit_code, ..Default::default() };
        Ok(Response::new(ContainerStatusResponse { status: Some(status), ..Default::default() }))
    }
} refuse {
    version(VersionRequest) -> VersionResponse;
    update_container_resources(UpdateContainerResourcesRequest) -> UpdateContainerResourcesResponse;
    reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse;
    exec_sync(ExecSyncRequest) -> ExecSyncResponse;
    exec(ExecRequest) -> ExecResponse;
    attach(AttachRequest) -> AttachResponse;
    port_forward(PortForwardRequest) -> PortForwardResponse;
    container_stats(ContainerStatsRequest) -> ContainerStatsResponse;
    list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse;
    pod_sandbox_stats(PodSandboxStatsRequest) -> PodSandboxStatsResponse;
    list_pod_sandbox_stats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse;
    update_runtime_config(UpdateRuntimeConfigRequest) -> UpdateRuntimeConfigResponse;
    status(StatusRequest) -> StatusResponse;
    checkpoint_container(CheckpointContainerRequest) -> CheckpointContainerResponse;
    checkpoint_pod(CheckpointPodRequest) -> CheckpointPodResponse;
    restore_pod(RestorePodRequest) -> RestorePodResponse;
    list_metric_descriptors(ListMetricDescriptorsRequest) -> ListMetricDescriptorsResponse;
    list_pod_sandbox_metrics(ListPodSandboxMetricsRequest) -> ListPodSandboxMetricsResponse;
    runtime_config(RuntimeConfigRequest) -> RuntimeConfigResponse;
    update_pod_sandbox_resources(UpdatePodSandboxResourcesRequest) -> UpdatePodSandboxResourcesResponse;
} streams {
    StreamPodSandboxesStream stream_pod_sandboxes(StreamPodSandboxesRequest) -> StreamPodSandboxesResponse;
    StreamContainersStream stream_containers(StreamContainersRequest) -> StreamContainersResponse;
    StreamContainerStatsStream stream_container_stats(StreamContainerStatsRequest) -> StreamContainerStatsResponse;
    StreamPodSandboxStatsStream stream_pod_sandbox_stats(StreamPodSandboxStatsRequest) -> StreamPodSandboxStatsResponse;
    GetContainerEventsStream get_container_events(GetEventsRequest) -> ContainerEventResponse;
    StreamPodSandboxMetricsStream
        stream_pod_sandbox_metrics(StreamPodSandboxMetricsRequest) -> StreamPodSandboxMetricsResponse;
});

serve!(ImageService {
    async fn image_status(&self, request: Request<ImageStatusRequest>) -> Answer<ImageStatusResponse> {
        let name = request.into_inner().image.unwrap_or_default().image;
        Ok(Response::new(ImageStatusResponse { image: self.books().image(&name), ..Default::default() }))
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Answer<PullImageResponse> {
        let name = request.into_inner().image.unwrap_or_default().image;
        let mut books = self.books();
        books.calls.push(format!("pull {name}"));
        books.pulled.push(name.clone());
        Ok(Response::new(PullImageResponse { image_ref: format!("sha256:{name}") }))
    }
} refuse {
    list_images(ListImagesRequest) -> ListImagesResponse;
    remove_image(RemoveImageRequest) -> RemoveImageResponse;
    image_fs_info(ImageFsInfoRequest) -> ImageFsInfoResponse;
} streams {
    StreamImagesStream stream_images(StreamImagesRequest) -> StreamImagesResponse;
});
