//! The CRI's calls in short words.

use crate::until;
use api::{
    admin::{self, admin_client::AdminClient},
    cri::{self, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient},
};
use std::{path::Path, time::Duration};
use tokio::net::UnixStream;
use tonic::{Status, transport::Channel};

/// A client of one daemon. It connects anew when the daemon was started anew.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
}

/// A pod of this name whose containers share network and IPC and have PID namespaces of their own.
#[must_use]
pub fn pod(name: &str, cgroup_parent: &str, log_directory: &str) -> cri::PodSandboxConfig {
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        hostname: name.to_owned(),
        log_directory: log_directory.to_owned(),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: cgroup_parent.to_owned(),
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn namespaces() -> cri::NamespaceOption {
    cri::NamespaceOption { pid: cri::NamespaceMode::Container.into(), ..Default::default() }
}

/// A container that runs `command`, with the default seccomp profile, its log in `<name>.log`.
#[must_use]
pub fn container(name: &str, image: &str, command: &[&str]) -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
        image: Some(cri::ImageSpec { image: image.to_owned(), ..Default::default() }),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        log_path: format!("{name}.log"),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(cri::LinuxContainerResources::default()),
            security_context: Some(cri::LinuxContainerSecurityContext {
                namespace_options: Some(namespaces()),
                seccomp: Some(cri::SecurityProfile::default()),
                ..Default::default()
            }),
        }),
        ..Default::default()
    }
}

/// A container of busybox that runs a script.
#[must_use]
pub fn shell(name: &str, script: &str) -> cri::ContainerConfig {
    container(name, crate::BUSYBOX, &["/bin/sh", "-c", script])
}

type Answer<T> = Result<T, Status>;

impl Client {
    /// Connects when it is first used.
    #[must_use]
    pub fn new(socket: &Path) -> Client {
        let socket = socket.to_owned();
        let connect = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
        });
        let channel =
            tonic::transport::Endpoint::from_static("http://localhost").connect_with_connector_lazy(connect);
        Client { channel }
    }

    /// RuntimeService.
    #[must_use]
    pub fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone()).max_decoding_message_size(64 << 20)
    }

    /// ImageService.
    #[must_use]
    pub fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone()).max_decoding_message_size(16 << 20)
    }

    /// Version.
    ///
    /// # Errors
    /// The daemon's answer.
    pub async fn version(&self) -> Answer<cri::VersionResponse> {
        self.runtime().version(cri::VersionRequest::default()).await.map(tonic::Response::into_inner)
    }

    /// Loads an archive.
    ///
    /// # Errors
    /// The daemon's answer.
    pub async fn load(&self, archive: Vec<u8>) -> Answer<Vec<admin::LoadedImage>> {
        let chunks: Vec<_> =
            archive.chunks(1 << 20).map(|chunk| admin::LoadImageRequest { chunk: chunk.to_vec() }).collect();
        let mut answers =
            AdminClient::new(self.channel.clone()).load_image(tokio_stream::iter(chunks)).await?.into_inner();
        let mut loaded = Vec::new();
        while let Some(answer) = answers.message().await? {
            match answer.step {
                Some(admin::load_image_response::Step::Result(result)) => loaded = result.images,
                Some(admin::load_image_response::Step::Progress(_)) | None => {}
            }
        }
        Ok(loaded)
    }

    /// PullImage; the image's id.
    ///
    /// # Errors
    /// The daemon's answer.
    pub async fn pull(&self, image: &str) -> Answer<String> {
        let image = cri::ImageSpec { image: image.to_owned(), ..Default::default() };
        let request = cri::PullImageRequest { image: Some(image), ..Default::default() };
        Ok(self.images().pull_image(request).await?.into_inner().image_ref)
    }

    /// RemoveImage.
    ///
    /// # Errors
    /// The daemon's answer.
    pub async fn remove_image(&self, image: &str) -> Answer<()> {
        let image = cri::ImageSpec { image: image.to_owned(), ..Default::default() };
        let request = cri::RemoveImageRequest { image: Some(image) };
        self.images().remove_image(request).await.map(|_| ())
    }

    /// Ids of all images.
    ///
    /// # Errors
    /// The daemon's answer.
    pub async fn image_ids(&self) -> Answer<Vec<String>> {
        let answer = self.images().list_images(cri::ListImagesRequest::default()).await?.into_inner();
        Ok(answer.images.into_iter().map(|image| image.id).collect())
    }

    /// RunPodSandbox.
    ///
    /// # Errors
    /// The daemon's answer.
    pub async fn run_pod(&self, config: &cri::PodSandboxConfig) -> Answer<String> {
        let request = cri::RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
        Ok(self.runtime().run_pod_sandbox(request).await?.into_inner().pod_sandbox_id)
    }

    /// CreateContainer.
    ///
    /// # Errors
    /// The daemon's answer.
    pub async fn create(
        &self,
        pod_id: &str,
        pod: &cri::PodSandboxConfig,
        config: &cri::ContainerConfig,
    ) -> Answer<String> {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: pod_id.to_owned(),
            config: Some(config.clone()),
            sandbox_config: Some(pod.clone()),
        };
        Ok(self.runtime().create_container(request).await?.into_inner().container_id)
    }

    /// StartContainer.
    ///
    /// # Errors
    /// The daemon's answer.
    pub async fn start(&self, id: &str) -> Answer<()> {
        let request = cri::StartContainerRequest { container_id: id.to_owned() };
        self.runtime().start_container(request).await.map(|_| ())
    }

    /// CreateContainer and StartContainer.
    ///
    /// # Errors
    /// The daemon's answer.
    pub async fn run(
        &self,
        pod_id: &str,
        pod: &cri::PodSandboxConfig,
        config: &cri::ContainerConfig,
    ) -> Answer<String> {
        let id = self.create(pod_id, pod, config).await?;
        self.start(&id).await?;
        Ok(id)
    }

    /// StopContainer with a grace period in seconds.
    ///
    /// # Errors
    /// The daemon's answer.
    pub async fn stop(&self, id: &str, timeout: i64) -> Answer<()> {
        let request = cri::StopContainerRequest { container_id: id.to_owned(), timeout };
        self.runtime().stop_container(request).await.map(|_| ())
    }

    /// RemoveContainer.
    ///
    /// # Errors
    /// The daemon's answer.
    pub async fn remove(&self, id: &str) -> Answer<()> {
        let request = cri::RemoveContainerRequest { container_id: id.to_owned() };
        self.runtime().remove_container(request).await.map(|_| ())
    }

    /// StopPodSandbox.
    ///
    /// # Errors
    /// The daemon's answer.
    pub async fn stop_pod(&self, id: &str) -> Answer<()> {
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.runtime().stop_pod_sandbox(request).await.map(|_| ())
    }

    /// RemovePodSandbox.
    ///
    /// # Errors
    /// The daemon's answer.
    pub async fn remove_pod(&self, id: &str) -> Answer<()> {
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.runtime().remove_pod_sandbox(request).await.map(|_| ())
    }

    /// PodSandboxStatus.
    ///
    /// # Errors
    /// The daemon's answer, or NotFound if it holds no status.
    pub async fn pod_status(&self, id: &str) -> Answer<cri::PodSandboxStatus> {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let answer = self.runtime().pod_sandbox_status(request).await?.into_inner();
        answer.status.ok_or_else(|| Status::not_found("no status in the answer"))
    }

    /// ContainerStatus.
    ///
    /// # Errors
    /// The daemon's answer, or NotFound if it holds no status.
    pub async fn status(&self, id: &str) -> Answer<cri::ContainerStatus> {
        let request = cri::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let answer = self.runtime().container_status(request).await?.into_inner();
        answer.status.ok_or_else(|| Status::not_found("no status in the answer"))
    }

    /// The process id of a container's first process, from the verbose status.
    ///
    /// # Panics
    /// When the status does not tell it.
    pub async fn pid_of(&self, id: &str) -> u32 {
        let request = cri::ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
        let answer = self.runtime().container_status(request).await.expect("a status").into_inner();
        let info: serde_json::Value = serde_json::from_str(&answer.info["info"]).expect("JSON");
        info["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid")
    }

    /// All pods.
    ///
    /// # Errors
    /// The daemon's answer.
    pub async fn pods(&self) -> Answer<Vec<cri::PodSandbox>> {
        Ok(self.runtime().list_pod_sandbox(cri::ListPodSandboxRequest::default()).await?.into_inner().items)
    }

    /// All containers.
    ///
    /// # Errors
    /// The daemon's answer.
    pub async fn containers(&self) -> Answer<Vec<cri::Container>> {
        Ok(self
            .runtime()
            .list_containers(cri::ListContainersRequest::default())
            .await?
            .into_inner()
            .containers)
    }

    /// ExecSync of a script; stdout, and the exit code.
    ///
    /// # Errors
    /// The daemon's answer.
    pub async fn exec(&self, id: &str, script: &str, timeout: i64) -> Answer<(String, i32)> {
        let request = cri::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            timeout,
        };
        let answer = self.runtime().exec_sync(request).await?.into_inner();
        Ok((String::from_utf8_lossy(&answer.stdout).into_owned(), answer.exit_code))
    }

    /// Waits until a container has ended.
    ///
    /// # Panics
    /// When it does not within ten seconds.
    pub async fn ended(&self, id: &str) -> cri::ContainerStatus {
        until("a container's end", || async {
            let status = self.status(id).await.ok()?;
            (status.state == i32::from(cri::ContainerState::ContainerExited)).then_some(status)
        })
        .await
    }

    /// Stops and removes every pod.
    ///
    /// # Panics
    /// When one cannot be removed.
    pub async fn remove_all(&self) {
        for pod in self.pods().await.expect("a list") {
            self.stop_pod(&pod.id).await.expect("stopped");
            self.remove_pod(&pod.id).await.expect("removed");
        }
    }

    /// Waits a moment for the daemon to come back, after it was started anew.
    ///
    /// # Panics
    /// When it does not come back.
    pub async fn back(&self) {
        until("the daemon's answer", || async {
            tokio::time::timeout(Duration::from_secs(2), self.version()).await.ok()?.ok()
        })
        .await;
    }
}
