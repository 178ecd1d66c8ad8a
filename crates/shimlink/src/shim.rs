//! A shim and what can be asked of it.

use crate::ShimError;
use crate::client::Client;
use crate::spawn::{self, SpawnRequest};
use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use types::shim::{
    EXEC_SYNC, Empty, ExecSyncRequest, ExecSyncResponse, POD_STATE, PodStateResponse, REOPEN_LOG,
    ReopenLogRequest, SERVICE, STDIN_HELD, STDIN_ONCE, WATCH, WatchRequest, WatchResponse,
};

/// containerd's service; its version 3 has the same messages under another name.
const TASK: &str = "containerd.task.v2.Task";

/// Deadline of calls that only look or signal.
pub(crate) const QUICK: Duration = Duration::from_secs(10);
/// Deadline of calls that make or end processes.
pub(crate) const SLOW: Duration = Duration::from_secs(30);

/// A connection to a shim; clones share it.
#[derive(Debug, Clone)]
pub struct Shim(Arc<Client>);

/// A mount that makes up a container's root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootMount {
    /// File system, `overlay` or `bind`.
    pub kind: String,
    /// What is mounted.
    pub source: String,
    /// Flags and data, as in mount(8).
    pub options: Vec<String>,
}

/// A container to be created; its specification is `config.json` in the bundle.
#[derive(Debug, Clone)]
pub struct CreateTask {
    /// The container's id.
    pub id: String,
    /// Absolute.
    pub bundle: PathBuf,
    /// Mounted by the container itself, in its own mount namespace.
    pub rootfs: Vec<RootMount>,
    /// [`types::shim::log_address`] of the log, or [`types::shim::LOG_SCHEME`] to discard the output.
    pub stdout: String,
    /// Keep its standard input open; else it is /dev/null.
    pub stdin: bool,
    /// Close it for good when the first attached client has ended its input.
    pub stdin_once: bool,
    /// Give it a terminal.
    pub terminal: bool,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Exit code, or 128 + signal.
    pub code: u32,
    /// Nanoseconds since the Unix epoch.
    pub exited_at: i64,
}

impl Ended {
    pub(crate) fn new(code: u32, at: Option<&Timestamp>) -> Self {
        let nanos = |at: &Timestamp| at.seconds.saturating_mul(1_000_000_000).saturating_add(at.nanos.into());
        Self { code, exited_at: at.map_or(0, nanos) }
    }
}

/// A command whose output is captured.
#[derive(Debug, Clone)]
pub struct ExecSync {
    /// The container.
    pub container_id: String,
    /// argv, not empty.
    pub command: Vec<String>,
    /// After which the whole process tree is killed; none = no limit.
    pub timeout: Option<Duration>,
    /// Bytes kept of each stream, at most 16 MiB; the rest is read and dropped.
    pub output_cap: u64,
    /// How long to read on after the command's end while a background child holds its output.
    pub drain: Duration,
}

impl Shim {
    /// Starts a shim in its directory and connects to it, or connects to the one that listens there.
    /// A child that ends is reaped.
    ///
    /// # Errors
    /// [`ShimError::Spawn`] or [`ShimError::Connect`]; nothing is left then but the shim's log. A shim
    /// that starts and fails shows as [`ShimError::Gone`] of the first call, with the reason in
    /// `shim.log`.
    pub async fn spawn(request: SpawnRequest) -> Result<Self, ShimError> {
        let program = request.program.path().to_owned();
        let spawned = tokio::task::spawn_blocking(move || spawn::spawn(&request)).await;
        let died = |e: tokio::task::JoinError| ShimError::Spawn {
            step: "execute",
            path: program,
            source: std::io::Error::other(e),
        };
        let (stream, child) = spawned.map_err(died)??;
        if let Some(pidfd) = child {
            tokio::spawn(reap(pidfd));
        }
        Self::over(stream).map_err(|source| ShimError::Connect { path: PathBuf::new(), source })
    }

    /// Connects to the shim that listens in this directory.
    ///
    /// # Errors
    /// [`ShimError::Connect`]; [`ShimError::is_gone`] tells whether there is no shim.
    pub async fn connect(directory: &Path) -> Result<Self, ShimError> {
        let path = spawn::socket_in(directory);
        // Connecting to a unix socket does not wait, unless 128 others do.
        let stream = spawn::dial(&path).and_then(Self::over);
        stream.map_err(|source| ShimError::Connect { path, source })
    }

    /// The process that serves the socket in this directory, whether it answers or not; none when the kernel knows it
    /// under no number of ours. It is who called listen(2) last (`SO_PEERCRED`, unix(7)), and a shim does so when it
    /// takes the socket over: nothing but a holder of that socket can be named here.
    ///
    /// # Errors
    /// [`ShimError::Connect`].
    pub async fn server(directory: &Path) -> Result<Option<u32>, ShimError> {
        let path = spawn::socket_in(directory);
        // Another connection: the one that began a shim was there before the shim was.
        let peer = spawn::dial(&path).and_then(UnixStream::from_std).and_then(|stream| stream.peer_cred());
        let peer = peer.map_err(|source| ShimError::Connect { path, source })?;
        Ok(peer.pid().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0))
    }

    fn over(stream: std::os::unix::net::UnixStream) -> std::io::Result<Self> {
        Ok(Self(Arc::new(Client::new(UnixStream::from_std(stream)?))))
    }

    /// Returns when the connection is closed: the shim has ended, or was killed.
    pub async fn gone(&self) {
        self.0.gone().await;
    }

    /// Makes a container's first process, which then waits; gives its number.
    ///
    /// # Errors
    /// [`ShimError`]; refused as a wrong argument: the specification or the log.
    pub async fn create(&self, task: CreateTask) -> Result<u32, ShimError> {
        let mount = |mount: RootMount| api::Mount {
            type_: mount.kind,
            source: mount.source,
            options: mount.options,
            ..api::Mount::default()
        };
        let request = api::CreateTaskRequest {
            id: task.id,
            bundle: task.bundle.to_string_lossy().into_owned(),
            rootfs: task.rootfs.into_iter().map(mount).collect(),
            terminal: task.terminal,
            stdin: match (task.stdin, task.stdin_once) {
                (true, true) => STDIN_ONCE.to_owned(),
                (true, false) => STDIN_HELD.to_owned(),
                (false, _) => String::new(),
            },
            stdout: task.stdout,
            ..api::CreateTaskRequest::default()
        };
        let response: api::CreateTaskResponse = self.task("Create", &request, SLOW).await?;
        Ok(response.pid)
    }

    /// Lets the container's program run; gives its process number.
    ///
    /// # Errors
    /// [`ShimError`]; refused as a wrong argument: the program cannot be executed, and the container
    /// has ended with code 128.
    pub async fn start(&self, id: &str) -> Result<u32, ShimError> {
        let request = api::StartRequest { id: id.to_owned(), ..api::StartRequest::default() };
        let response: api::StartResponse = self.task("Start", &request, SLOW).await?;
        Ok(response.pid)
    }

    /// Signals a container's first process, or with `all` all of them.
    ///
    /// # Errors
    /// [`ShimError`]; refused as not found: it has ended.
    pub async fn kill(&self, id: &str, signal: u32, all: bool) -> Result<(), ShimError> {
        let request = api::KillRequest { id: id.to_owned(), signal, all, ..api::KillRequest::default() };
        let _: api::Empty = self.task("Kill", &request, QUICK).await?;
        Ok(())
    }

    /// Makes the shim forget an ended container, and removes its cgroup. Its exit record stays.
    ///
    /// # Errors
    /// [`ShimError`]; refused as a wrong state: it has not ended.
    pub async fn delete(&self, id: &str) -> Result<Ended, ShimError> {
        let request = api::DeleteRequest { id: id.to_owned(), ..api::DeleteRequest::default() };
        let response: api::DeleteResponse = self.task("Delete", &request, SLOW).await?;
        Ok(Ended::new(response.exit_status, response.exited_at.as_ref()))
    }

    /// Waits for a container's end, without a deadline.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn wait(&self, id: &str) -> Result<Ended, ShimError> {
        let request = api::WaitRequest { id: id.to_owned(), ..api::WaitRequest::default() };
        let response: api::WaitResponse = self.task("Wait", &request, None).await?;
        Ok(Ended::new(response.exit_status, response.exited_at.as_ref()))
    }

    /// Changes limits; `resources` is the OCI `linux.resources` as JSON.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn update(&self, id: &str, resources: Vec<u8>) -> Result<(), ShimError> {
        let mut request = api::UpdateTaskRequest { id: id.to_owned(), ..api::UpdateTaskRequest::default() };
        request.resources.mut_or_insert_default().value = resources;
        let _: api::Empty = self.task("Update", &request, QUICK).await?;
        Ok(())
    }

    /// All exits after the one that the caller knows, oldest first; waits until there is one.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn watch(&self, after: u64) -> Result<WatchResponse, ShimError> {
        self.own(WATCH, &WatchRequest { after }, None).await
    }

    /// Runs a command and captures its output.
    ///
    /// # Errors
    /// [`ShimError`]; refused as a wrong argument: it cannot be executed.
    pub async fn exec_sync(&self, exec: ExecSync) -> Result<ExecSyncResponse, ShimError> {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let request = ExecSyncRequest {
            container_id: exec.container_id,
            command: exec.command,
            timeout_nanos: exec.timeout.map_or(0, |timeout| nanos(timeout).max(1)),
            output_cap: exec.output_cap,
            drain_nanos: nanos(exec.drain),
        };
        let deadline = exec.timeout.map(|timeout| timeout.saturating_add(exec.drain).saturating_add(QUICK));
        self.own(EXEC_SYNC, &request, deadline).await
    }

    /// Opens a container's log file anew at its path.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn reopen_log(&self, id: &str) -> Result<(), ShimError> {
        let request = ReopenLogRequest { container_id: id.to_owned() };
        let _: Empty = self.own(REOPEN_LOG, &request, Some(QUICK)).await?;
        Ok(())
    }

    /// All that the shim knows.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn pod_state(&self) -> Result<PodStateResponse, ShimError> {
        self.own(POD_STATE, &Empty {}, Some(QUICK)).await
    }

    /// As [`Shim::pod_state`], the first time: a shim that was just started must first be loaded, which takes its
    /// time on a machine under load.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn first_state(&self) -> Result<PodStateResponse, ShimError> {
        self.own(POD_STATE, &Empty {}, Some(SLOW)).await
    }

    /// Ends the shim. With `now` it kills all containers first and waits for their ends; without, it
    /// refuses while one has not ended.
    ///
    /// # Errors
    /// [`ShimError`]; a shim that is gone already is no error.
    pub async fn shutdown(&self, now: bool) -> Result<(), ShimError> {
        let request = api::ShutdownRequest { now, ..api::ShutdownRequest::default() };
        match self.task::<_, api::Empty>("Shutdown", &request, SLOW).await {
            Ok(_) | Err(ShimError::Gone { .. }) => Ok(()),
            Err(e) => Err(e),
        }
    }

    pub(crate) async fn task<Q: protobuf::Message, A: protobuf::Message>(
        &self,
        method: &'static str,
        request: &Q,
        deadline: impl Into<Option<Duration>>,
    ) -> Result<A, ShimError> {
        let wrong = |e: protobuf::Error| ShimError::Protocol { method, reason: e.to_string() };
        let payload = request.write_to_bytes().map_err(wrong)?;
        let answer = self.0.call(TASK, method, payload, deadline.into()).await?;
        A::parse_from_bytes(&answer).map_err(wrong)
    }

    pub(crate) async fn own<Q: prost::Message, A: prost::Message + Default>(
        &self,
        method: &'static str,
        request: &Q,
        deadline: Option<Duration>,
    ) -> Result<A, ShimError> {
        let answer = self.0.call(SERVICE, method, request.encode_to_vec(), deadline).await?;
        A::decode(answer.as_slice()).map_err(|e| ShimError::Protocol { method, reason: e.to_string() })
    }
}

/// Takes a shim that has ended off the process table.
#[expect(
    deprecated,
    reason = "an OwnedFd cannot change its descriptor, which is what the successor wants promised"
)]
pub(crate) async fn reap(pidfd: OwnedFd) {
    // Without the runtime's I/O driver there are no calls either: the process ends soon.
    let Ok(pidfd) = AsyncFd::with_interest(pidfd, Interest::READABLE) else { return };
    if pidfd.readable().await.is_ok() {
        // ECHILD: somebody else reaped it.
        let _ = sys::pidfd::try_wait(pidfd.get_ref());
    }
}
