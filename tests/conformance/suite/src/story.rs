//! Pods and containers in words short enough that a case reads as a story. What a case makes goes with it.

use crate::{
    call::{Images, Runtime},
    case::{holds, is},
    host,
    tap::Tap,
    world::World,
};
use anyhow::{Context as _, Result, bail};
use api::cri;
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};
use tonic::Status;

/// One running case.
#[derive(Clone, Debug)]
pub struct Test {
    /// What it shares with the others.
    pub world: Arc<World>,
    /// What looks at its calls.
    pub tap: Arc<Tap>,
    made: Arc<Made>,
}

#[derive(Debug)]
struct Made {
    number: u32,
    dir: PathBuf,
    pods: Mutex<Vec<String>>,
    mounts: Mutex<Vec<PathBuf>>,
    images: Mutex<Vec<String>>,
    count: std::sync::atomic::AtomicU32,
}

/// A pod that runs.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its case.
    pub test: Test,
    /// Its id.
    pub id: String,
    /// What was asked for.
    pub config: cri::PodSandboxConfig,
}

/// A container that was created.
#[derive(Clone, Debug)]
pub struct Container {
    /// Its pod.
    pub pod: Pod,
    /// Its id.
    pub id: String,
}

impl Test {
    /// A case's beginning.
    ///
    /// # Errors
    /// When its directory cannot be made.
    pub fn begin(world: &Arc<World>, tap: Arc<Tap>) -> Result<Test> {
        let number = world.next();
        let dir = world.dir(number);
        std::fs::create_dir_all(dir.join("logs"))?;
        let made = Made {
            number,
            dir,
            pods: Mutex::default(),
            mounts: Mutex::default(),
            images: Mutex::default(),
            count: std::sync::atomic::AtomicU32::new(0),
        };
        Ok(Test { world: Arc::clone(world), tap, made: Arc::new(made) })
    }

    /// Removes what the case has made.
    ///
    /// # Errors
    /// When some of it stays; the rest is removed none the less.
    pub async fn end(&self) -> Result<()> {
        let mut left = Vec::new();
        // Not through the case's tap: what it spoils must not hinder.
        let tap = Arc::new(Tap::default());
        let mut pods = taken(&self.made.pods);
        if self.tap.has_spoilt() {
            // An id may have been spoilt: what has this case's names is its own.
            let mut runtime = self.world.channels.runtime(&tap);
            let all =
                runtime.list_pod_sandbox(cri::ListPodSandboxRequest::default()).await?.into_inner().items;
            let mine = format!("-{}-{}-", std::process::id(), self.made.number);
            let named = |pod: &cri::PodSandbox| pod.metadata.as_ref().is_some_and(|m| m.name.contains(&mine));
            pods = all.into_iter().filter(named).map(|pod| pod.id).collect();
        }
        for id in pods {
            let mut runtime = self.world.channels.runtime(&tap);
            let stop = cri::StopPodSandboxRequest { pod_sandbox_id: id.clone() };
            if let Err(status) = runtime.stop_pod_sandbox(stop).await {
                left.push(format!("StopPodSandbox: {}", status.message()));
            }
            if let Err(status) =
                runtime.remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: id }).await
            {
                left.push(format!("RemovePodSandbox: {}", status.message()));
            }
        }
        for image in taken(&self.made.images) {
            let image = cri::ImageSpec { image, ..Default::default() };
            let request = cri::RemoveImageRequest { image: Some(image) };
            if let Err(status) = self.world.channels.images(&tap).remove_image(request).await {
                left.push(format!("RemoveImage: {}", status.message()));
            }
        }
        for mount in taken(&self.made.mounts).into_iter().rev() {
            if let Err(error) = host::command("umount", &["-R", "-l", &mount.to_string_lossy()]) {
                left.push(format!("{error:#}"));
            }
        }
        host::remove_cgroups(&self.world.cgroup(self.made.number));
        let _ = std::process::Command::new("rm")
            .args(["-rf", "--one-file-system", &self.made.dir.to_string_lossy()])
            .status();
        if left.is_empty() { Ok(()) } else { bail!("clean-up: {}", left.join("; ")) }
    }

    /// RuntimeService.
    #[must_use]
    pub fn runtime(&self) -> Runtime {
        self.world.channels.runtime(&self.tap)
    }

    /// ImageService.
    #[must_use]
    pub fn images(&self) -> Images {
        self.world.channels.images(&self.tap)
    }

    /// A directory of the case's own.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.made.dir
    }

    /// The cgroup beneath which its pods are.
    #[must_use]
    pub fn cgroup(&self) -> String {
        self.world.cgroup(self.made.number)
    }

    /// A name that no other case uses.
    #[must_use]
    pub fn unique(&self, what: &str) -> String {
        let n = self.made.count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        format!("{what}-{}-{}-{n}", std::process::id(), self.made.number)
    }

    /// Makes a directory of the case with this file in it; the directory's path.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn host_dir(&self, name: &str, files: &[(&str, &str)]) -> Result<String> {
        let dir = self.made.dir.join(name);
        std::fs::create_dir_all(&dir)?;
        for (file, text) in files {
            put(&dir.join(file), text)?;
        }
        Ok(dir.to_string_lossy().into_owned())
    }

    /// Mounts something on the host until the case ends.
    ///
    /// # Errors
    /// When it cannot be mounted.
    pub fn mount(&self, arguments: &[&str], target: &str) -> Result<()> {
        let mut all = arguments.to_vec();
        all.push(target);
        host::command("mount", &all)?;
        push(&self.made.mounts, PathBuf::from(target));
        Ok(())
    }

    /// A pod's configuration: its own name, host name, logs and cgroup; containers have PID namespaces of their own.
    #[must_use]
    pub fn pod_config(&self) -> cri::PodSandboxConfig {
        let name = self.unique("pod");
        cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                uid: format!("uid-{name}"),
                namespace: "conformance".to_owned(),
                attempt: 0,
                name: name.clone(),
            }),
            hostname: name,
            log_directory: self.made.dir.join("logs").to_string_lossy().into_owned(),
            linux: Some(cri::LinuxPodSandboxConfig {
                cgroup_parent: self.cgroup(),
                security_context: Some(cri::LinuxSandboxSecurityContext {
                    namespace_options: Some(own_pid()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// An ordinary pod.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn pod(&self) -> Result<Pod> {
        self.pod_with(|_| {}).await
    }

    /// A pod whose configuration was changed.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn pod_with(&self, change: impl FnOnce(&mut cri::PodSandboxConfig)) -> Result<Pod> {
        Ok(self.try_pod(change).await?)
    }

    /// As [`Test::pod_with`], with the runtime's answer.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn try_pod(&self, change: impl FnOnce(&mut cri::PodSandboxConfig)) -> Result<Pod, Status> {
        let mut config = self.pod_config();
        change(&mut config);
        self.run_pod(config, "").await
    }

    /// RunPodSandbox with a handler.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn run_pod(&self, config: cri::PodSandboxConfig, handler: &str) -> Result<Pod, Status> {
        let request =
            cri::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: handler.to_owned() };
        let id = self.runtime().run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
        push(&self.made.pods, id.clone());
        Ok(Pod { test: self.clone(), id, config })
    }

    /// An ordinary pod with one container that was changed, and runs.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn container(&self, change: impl FnOnce(&mut cri::ContainerConfig)) -> Result<Container> {
        self.pod().await?.run(change).await
    }

    /// A container and its pod, both changed.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn both(
        &self,
        pod: impl FnOnce(&mut cri::PodSandboxConfig),
        container: impl FnOnce(&mut cri::ContainerConfig),
    ) -> Result<Container> {
        self.pod_with(pod).await?.run(container).await
    }

    /// Pulls an image of the suite's registry; it is removed when the case ends. The answer's reference.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn pull(&self, name: &str) -> Result<String> {
        Ok(self
            .try_pull(cri::PullImageRequest { image: Some(self.spec(name)), ..Default::default() })
            .await?)
    }

    /// PullImage.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn try_pull(&self, request: cri::PullImageRequest) -> Result<String, Status> {
        let name = request.image.as_ref().map(|image| image.image.clone()).unwrap_or_default();
        let answer = self.images().pull_image(request).await?.into_inner();
        push(&self.made.images, name);
        Ok(answer.image_ref)
    }

    /// The reference of an image of the suite's registry.
    #[must_use]
    pub fn spec(&self, name: &str) -> cri::ImageSpec {
        cri::ImageSpec { image: self.world.registry.image(name), ..Default::default() }
    }

    /// ImageStatus of an id or reference.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn image_status(&self, reference: &str) -> Result<Option<cri::Image>, Status> {
        let image = cri::ImageSpec { image: reference.to_owned(), ..Default::default() };
        let request = cri::ImageStatusRequest { image: Some(image), verbose: false };
        Ok(self.images().image_status(request).await?.into_inner().image)
    }
}

impl Pod {
    /// A container's configuration: busybox that sleeps, its log in `<name>.log`.
    #[must_use]
    pub fn container_config(&self) -> cri::ContainerConfig {
        let name = self.test.unique("c");
        cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: name.clone(), attempt: 0 }),
            image: Some(cri::ImageSpec { image: self.test.world.busybox.clone(), ..Default::default() }),
            command: words(&["/bin/sleep", "100000"]),
            log_path: format!("{name}.log"),
            linux: Some(cri::LinuxContainerConfig {
                resources: Some(cri::LinuxContainerResources::default()),
                security_context: Some(cri::LinuxContainerSecurityContext {
                    namespace_options: self.config.namespaces().or(Some(own_pid())),
                    ..Default::default()
                }),
            }),
            ..Default::default()
        }
    }

    /// CreateContainer.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn create_from(&self, config: cri::ContainerConfig) -> Result<Container, Status> {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let id = self.test.runtime().create_container(request).await?.into_inner().container_id;
        Ok(Container { pod: self.clone(), id })
    }

    /// A container that was changed, and is not started.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn create(&self, change: impl FnOnce(&mut cri::ContainerConfig)) -> Result<Container, Status> {
        let mut config = self.container_config();
        change(&mut config);
        self.create_from(config).await
    }

    /// A container that was changed, and runs.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn run(&self, change: impl FnOnce(&mut cri::ContainerConfig)) -> Result<Container> {
        Ok(self.try_run(change).await?)
    }

    /// As [`Pod::run`], with the runtime's answer: a runtime may refuse at the creation or at the start.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn try_run(&self, change: impl FnOnce(&mut cri::ContainerConfig)) -> Result<Container, Status> {
        let container = self.create(change).await?;
        container.start().await?;
        Ok(container)
    }

    /// PodSandboxStatus.
    ///
    /// # Errors
    /// The runtime's, or that there is no status in it.
    pub async fn status(&self) -> Result<cri::PodSandboxStatus> {
        self.full_status(false).await?.status.context("no status in the answer")
    }

    /// PodSandboxStatus, whole.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn full_status(&self, verbose: bool) -> Result<cri::PodSandboxStatusResponse, Status> {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: self.id.clone(), verbose };
        Ok(self.test.runtime().pod_sandbox_status(request).await?.into_inner())
    }

    /// StopPodSandbox.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn stop(&self) -> Result<(), Status> {
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: self.id.clone() };
        self.test.runtime().stop_pod_sandbox(request).await.map(|_| ())
    }

    /// RemovePodSandbox.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn remove(&self) -> Result<(), Status> {
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: self.id.clone() };
        self.test.runtime().remove_pod_sandbox(request).await.map(|_| ())
    }

    /// Its address.
    ///
    /// # Errors
    /// When it has none.
    pub async fn ip(&self) -> Result<String> {
        let ip = self.status().await?.network.unwrap_or_default().ip;
        holds(&format!("{ip:?} is an address"), ip.parse::<std::net::IpAddr>().is_ok())?;
        Ok(ip)
    }
}

impl Container {
    /// StartContainer.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn start(&self) -> Result<(), Status> {
        let request = cri::StartContainerRequest { container_id: self.id.clone() };
        self.pod.test.runtime().start_container(request).await.map(|_| ())
    }

    /// StopContainer with a grace in seconds.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn stop(&self, timeout: i64) -> Result<(), Status> {
        let request = cri::StopContainerRequest { container_id: self.id.clone(), timeout };
        self.pod.test.runtime().stop_container(request).await.map(|_| ())
    }

    /// RemoveContainer.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn remove(&self) -> Result<(), Status> {
        let request = cri::RemoveContainerRequest { container_id: self.id.clone() };
        self.pod.test.runtime().remove_container(request).await.map(|_| ())
    }

    /// ContainerStatus.
    ///
    /// # Errors
    /// The runtime's, or that there is no status in it.
    pub async fn status(&self) -> Result<cri::ContainerStatus> {
        self.full_status(false).await?.status.context("no status in the answer")
    }

    /// ContainerStatus, whole.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn full_status(&self, verbose: bool) -> Result<cri::ContainerStatusResponse, Status> {
        let request = cri::ContainerStatusRequest { container_id: self.id.clone(), verbose };
        Ok(self.pod.test.runtime().container_status(request).await?.into_inner())
    }

    /// The host's id of its first process: `pid` in the JSON of the verbose status, as crictl reads it.
    ///
    /// # Errors
    /// When the status does not tell it.
    pub async fn pid(&self) -> Result<u32> {
        let info = self.full_status(true).await?.info;
        let info: serde_json::Value = serde_json::from_str(info.get("info").context("no info.info")?)?;
        let pid = info["pid"].as_u64().context("no pid in info.info")?;
        holds("the pid is a process", pid > 1)?;
        let pid = u32::try_from(pid)?;
        // runc's own process is there first, and a start may be answered a moment before it executes the program.
        until("the program's execution", || async {
            let environment = host::proc_file(pid, "environ").unwrap_or_default();
            Ok((!environment.contains("_LIBCONTAINER_")).then_some(()))
        })
        .await?;
        Ok(pid)
    }

    /// ExecSync.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn exec(&self, command: &[&str], timeout: i64) -> Result<cri::ExecSyncResponse, Status> {
        let request = cri::ExecSyncRequest { container_id: self.id.clone(), cmd: words(command), timeout };
        Ok(self.pod.test.runtime().exec_sync(request).await?.into_inner())
    }

    /// Runs a script inside; what it printed, without the last line's end.
    ///
    /// # Errors
    /// When it fails.
    pub async fn sh(&self, script: &str) -> Result<String> {
        let answer =
            self.exec(&["/bin/sh", "-c", script], 20).await.with_context(|| format!("exec {script:?}"))?;
        if answer.exit_code != 0 {
            bail!(
                "{script:?} exited {}: {}",
                answer.exit_code,
                String::from_utf8_lossy(&answer.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&answer.stdout).trim_end().to_owned())
    }

    /// Runs a script inside that must fail; what it printed to standard error.
    ///
    /// # Errors
    /// When it succeeds.
    pub async fn sh_fails(&self, script: &str) -> Result<String> {
        let answer =
            self.exec(&["/bin/sh", "-c", script], 20).await.with_context(|| format!("exec {script:?}"))?;
        if answer.exit_code == 0 {
            bail!("{script:?} succeeded: {}", String::from_utf8_lossy(&answer.stdout).trim());
        }
        Ok(String::from_utf8_lossy(&answer.stderr).into_owned())
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn ended(&self) -> Result<cri::ContainerStatus> {
        until("the container's end", || async {
            let status = self.status().await?;
            Ok((status.state() == cri::ContainerState::ContainerExited).then_some(status))
        })
        .await
    }

    /// Waits until it has ended, and with which code it should.
    ///
    /// # Errors
    /// When it ends with another.
    pub async fn ended_with(&self, code: i32) -> Result<cri::ContainerStatus> {
        let status = self.ended().await?;
        if status.exit_code != code {
            let log = self.log().await.unwrap_or_default();
            bail!("exit code: expected {code}, got {} ({}); log: {log:?}", status.exit_code, status.message);
        }
        Ok(status)
    }

    /// The path of its log.
    ///
    /// # Errors
    /// When the status does not tell it.
    pub async fn log_path(&self) -> Result<PathBuf> {
        Ok(PathBuf::from(self.status().await?.log_path))
    }

    /// The raw text of its log.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn raw_log(&self) -> Result<String> {
        let path = self.log_path().await?;
        let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// What it has printed so far, both streams, without the log's format.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn log(&self) -> Result<String> {
        let text = self.raw_log().await?;
        let lines = text.lines().filter_map(|line| line.splitn(4, ' ').nth(3));
        Ok(lines.collect::<Vec<_>>().join("\n"))
    }

    /// Waits until its log has that part; the log.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn logged(&self, part: &str) -> Result<String> {
        until(&format!("{part:?} in the log"), || async {
            let log = self.log().await.unwrap_or_default();
            Ok(log.contains(part).then_some(log))
        })
        .await
    }

    /// Nothing is left of it: it is unknown.
    ///
    /// # Errors
    /// When it is known.
    pub async fn gone(&self) -> Result<()> {
        match self.full_status(false).await {
            Ok(_) => bail!("the container still has a status"),
            Err(status) => is("the code of an absent container", status.code(), tonic::Code::NotFound),
        }
    }
}

/// A container's or pod's inner messages without the steps between.
pub trait Config {
    /// The messages' resources.
    type Security;
    /// The security context.
    fn sc(&mut self) -> &mut Self::Security;
}

impl Config for cri::ContainerConfig {
    type Security = cri::LinuxContainerSecurityContext;
    fn sc(&mut self) -> &mut Self::Security {
        self.linux.get_or_insert_default().security_context.get_or_insert_default()
    }
}

impl Config for cri::PodSandboxConfig {
    type Security = cri::LinuxSandboxSecurityContext;
    fn sc(&mut self) -> &mut Self::Security {
        self.linux.get_or_insert_default().security_context.get_or_insert_default()
    }
}

/// A container's further words.
pub trait ContainerWords {
    /// Its resources.
    fn res(&mut self) -> &mut cri::LinuxContainerResources;
    /// Its command is this script.
    fn script(&mut self, script: &str);
    /// Binds a path of the host; the mount, to change it further.
    fn bind(&mut self, host: &str, container: &str) -> &mut cri::Mount;
}

impl ContainerWords for cri::ContainerConfig {
    fn res(&mut self) -> &mut cri::LinuxContainerResources {
        self.linux.get_or_insert_default().resources.get_or_insert_default()
    }

    fn script(&mut self, script: &str) {
        self.command = words(&["/bin/sh", "-c", script]);
    }

    fn bind(&mut self, host: &str, container: &str) -> &mut cri::Mount {
        let mount = cri::Mount {
            host_path: host.to_owned(),
            container_path: container.to_owned(),
            ..Default::default()
        };
        self.mounts.push(mount);
        let last = self.mounts.len() - 1;
        &mut self.mounts[last]
    }
}

/// A pod's further words.
pub trait PodWords {
    /// Its namespaces, if it says any.
    fn namespaces(&self) -> Option<cri::NamespaceOption>;
    /// Its Linux part.
    fn linux(&mut self) -> &mut cri::LinuxPodSandboxConfig;
}

impl PodWords for cri::PodSandboxConfig {
    fn namespaces(&self) -> Option<cri::NamespaceOption> {
        self.linux.as_ref()?.security_context.as_ref()?.namespace_options.clone()
    }

    fn linux(&mut self) -> &mut cri::LinuxPodSandboxConfig {
        self.linux.get_or_insert_default()
    }
}

/// Namespaces as most pods have them.
#[must_use]
pub fn own_pid() -> cri::NamespaceOption {
    cri::NamespaceOption { pid: cri::NamespaceMode::Container.into(), ..Default::default() }
}

/// Owned words.
#[must_use]
pub fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A number that may be absent.
#[must_use]
#[allow(clippy::unnecessary_wraps, reason = "the field's type")]
pub fn number(value: i64) -> Option<cri::Int64Value> {
    Some(cri::Int64Value { value })
}

/// A map.
#[must_use]
pub fn map(pairs: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// Writes a file of the case.
///
/// # Errors
/// When it cannot be written.
pub fn put(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    let mut file = std::fs::File::create(path).with_context(|| path.display().to_string())?;
    Ok(file.write_all(text.as_bytes())?)
}

static PATIENCE: AtomicU32 = AtomicU32::new(1);

/// Makes every bound of a wait that many times as long, for the whole run.
pub fn be_patient(times: u32) {
    PATIENCE.store(times, Ordering::Relaxed);
}

/// How long to wait for what takes so many seconds at most on a machine that is not slow.
#[must_use]
pub fn patience(seconds: u64) -> Duration {
    Duration::from_secs(seconds) * PATIENCE.load(Ordering::Relaxed)
}

/// Asks again until the answer is there, for at most fifteen seconds times the patience.
///
/// # Errors
/// When it does not come, or asking fails.
pub async fn until<T, F: Future<Output = Result<Option<T>>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> Result<T> {
    let end = Instant::now() + patience(15);
    while Instant::now() < end {
        if let Some(answer) = ask().await? {
            return Ok(answer);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bail!("waited in vain for {what}")
}

fn push<T>(list: &Mutex<Vec<T>>, item: T) {
    if let Ok(mut list) = list.lock() {
        list.push(item);
    }
}

fn taken<T>(list: &Mutex<Vec<T>>) -> Vec<T> {
    list.lock().map(|mut list| std::mem::take(&mut *list)).unwrap_or_default()
}
