//! Where sessions lead: processes of shims, through FIFOs, and sockets in network namespaces.

use super::dial;
use oci_spec::runtime::Process as OciProcess;
use serde::Deserialize;
use shimlink::{ExecProcess, Input, Output, Shim, ShimError};
use std::{
    collections::HashMap,
    fs::File,
    future::Future,
    io::Read as _,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};
use stream::{Attach, Backend, BackendError, Control, Ended, Exec, Process, Size};
use tokio::net::TcpStream;

/// The largest specification that is read, as in the shim.
const LARGEST_SPEC: u64 = 4 << 20;
/// What a terminal is taken for, unless the container says otherwise; as containerd has it.
const TERM: &str = "TERM=xterm";
/// What an attached client is told that the shim has let go.
const SLOW: &str = "detached: nothing of the container's output was taken for too long, and it waited";

/// The backend of the stream server.
#[derive(Clone, Debug)]
pub(super) struct Shims(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// A directory of our own for FIFOs, which have a name there for a moment.
    fifos: PathBuf,
    /// Names FIFOs and processes, after this program's own pid.
    next: AtomicU64,
    /// One connection to each shim that has sessions, and how many.
    connected: Mutex<HashMap<PathBuf, (Shim, usize)>>,
}

/// A session's use of a connection.
#[derive(Debug)]
struct Lease {
    shims: Shims,
    directory: PathBuf,
    shim: Shim,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut connected = self.shims.connected();
        if let Some((_, users)) = connected.get_mut(&self.directory) {
            *users -= 1;
            if *users == 0 {
                connected.remove(&self.directory);
            }
        }
    }
}

impl Shims {
    /// With a directory for FIFOs, which is this program's own and is there.
    pub(super) fn new(fifos: PathBuf) -> Shims {
        let next = AtomicU64::new(0);
        Shims(Arc::new(Inner { fifos, next, connected: Mutex::default() }))
    }

    fn connected(&self) -> MutexGuard<'_, HashMap<PathBuf, (Shim, usize)>> {
        self.0.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection to the shim in that directory.
    async fn shim(&self, directory: &Path) -> Result<Lease, BackendError> {
        let lease =
            |shim: &Shim| Lease { shims: self.clone(), directory: directory.to_owned(), shim: shim.clone() };
        if let Some((shim, users)) = self.connected().get_mut(directory) {
            *users += 1;
            return Ok(lease(shim));
        }
        let made = Shim::connect(directory).await.map_err(|e| told("cannot reach the pod's shim", &e))?;
        let mut connected = self.connected();
        // Another session may have been faster.
        let (shim, users) = connected.entry(directory.to_owned()).or_insert((made, 0));
        *users += 1;
        Ok(lease(shim))
    }

    /// A name that nobody else has.
    fn name(&self) -> String {
        format!("{}-{}", std::process::id(), self.0.next.fetch_add(1, Ordering::Relaxed))
    }

    fn fifos(&self, name: &str, streams: stream::Streams, terminal: bool) -> Result<Fifos, BackendError> {
        let path = |end: &str| self.0.fifos.join(format!("{name}-{end}"));
        let make = || -> std::io::Result<Fifos> {
            Ok(Fifos {
                stdin: streams.stdin.then(|| Input::make(&path("in"))).transpose()?,
                stdout: streams.stdout.then(|| Output::make(&path("out"))).transpose()?,
                stderr: (streams.stderr && !terminal).then(|| Output::make(&path("err"))).transpose()?,
            })
        };
        make().map_err(|e| told("cannot make the session's pipes", &e))
    }
}

/// Our ends of a session's streams.
struct Fifos {
    stdin: Option<Input>,
    stdout: Option<Output>,
    stderr: Option<Output>,
}

impl Fifos {
    fn stdin(&self) -> String {
        self.stdin.as_ref().map(|end| end.address().to_owned()).unwrap_or_default()
    }

    fn stdout(&self) -> String {
        self.stdout.as_ref().map(|end| end.address().to_owned()).unwrap_or_default()
    }

    fn stderr(&self) -> String {
        self.stderr.as_ref().map(|end| end.address().to_owned()).unwrap_or_default()
    }

    /// The shim has opened the other ends.
    fn process(self, control: impl Control + 'static) -> Process {
        Process {
            stdin: self.stdin.map(Input::opened),
            stdout: self.stdout.map(Output::opened),
            stderr: self.stderr.map(Output::opened),
            control: Box::new(control),
        }
    }
}

impl Backend for Shims {
    async fn exec(&self, exec: &Exec) -> Result<Process, BackendError> {
        let process = process(exec)?;
        let lease = self.shim(&exec.shim).await?;
        let name = self.name();
        let fifos = self.fifos(&name, exec.streams, exec.streams.tty)?;
        let request = ExecProcess {
            container_id: exec.container.clone(),
            exec_id: name.clone(),
            process,
            terminal: exec.streams.tty,
            stdin: fifos.stdin(),
            stdout: fifos.stdout(),
            stderr: fifos.stderr(),
        };
        let doing = "cannot run the command";
        lease.shim.exec(request).await.map_err(|e| refused(doing, &e))?;
        let control = Run::new(lease, &exec.container, Of::Exec(name.clone()));
        let started = control.lease.shim.exec_start(&exec.container, &name).await;
        if let Err(error) = started {
            control.forget().await;
            return Err(refused(doing, &error));
        }
        Ok(fifos.process(control))
    }

    async fn attach(&self, attach: &Attach) -> Result<Process, BackendError> {
        let lease = self.shim(&attach.shim).await?;
        let fifos = self.fifos(&self.name(), attach.streams, attach.streams.tty)?;
        let request = shimlink::Attach {
            container_id: attach.container.clone(),
            stdin: fifos.stdin(),
            stdout: fifos.stdout(),
            stderr: fifos.stderr(),
        };
        let attached = lease.shim.attach(request).await;
        let attached = attached.map_err(|e| refused("cannot attach to the container", &e))?;
        Ok(fifos.process(Run::new(lease, &attach.container, Of::Container(attached.attachment))))
    }

    async fn dial(&self, netns: Option<&Path>, port: u16) -> Result<TcpStream, BackendError> {
        dial::localhost(netns, port).await
    }
}

/// Which process of a container.
enum Of {
    /// A command, by its name.
    Exec(String),
    /// Its own, and the number of the attachment to it, which an older shim does not give.
    Container(Option<u32>),
}

/// A process of a shim.
struct Run {
    lease: Arc<Lease>,
    container: String,
    of: Of,
    /// The shim knows it no more.
    forgotten: AtomicBool,
}

impl Run {
    fn new(lease: Lease, container: &str, of: Of) -> Run {
        let forgotten = AtomicBool::new(false);
        Run { lease: Arc::new(lease), container: container.to_owned(), of, forgotten }
    }

    /// The command's name; none for the container's own process.
    fn exec(&self) -> Option<&str> {
        match &self.of {
            Of::Exec(name) => Some(name),
            Of::Container(_) => None,
        }
    }

    /// Waits for the end of an attachment: the container's, or that it was let go before.
    async fn detached(&self, attachment: Option<u32>) -> Result<Ended, BackendError> {
        let shim = &self.lease.shim;
        let let_go = async {
            match attachment {
                // An error is the container's end, or the shim's: the other call tells it.
                Some(attachment) if shim.let_go(&self.container, attachment).await.is_ok() => {}
                Some(_) | None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = shim.wait(&self.container) => ended.map(|_| Ended::Detached).map_err(|e| lost(&e)),
            () = let_go => Err(BackendError(SLOW.to_owned())),
        }
    }

    /// What has ended need not be remembered; if that fails, the shim forgets it with our connection.
    async fn forget(&self) {
        if let Some(exec) = self.exec() {
            self.forgotten.store(true, Ordering::Relaxed);
            forget(&self.lease.shim, &self.container, exec).await;
        }
    }
}

async fn forget(shim: &Shim, container: &str, exec: &str) {
    if let Err(error) = shim.exec_delete(container, exec).await {
        tracing::debug!(%error, "a process is remembered by its shim");
    }
}

impl Drop for Run {
    /// A client that went before the end: all that it started gets SIGHUP, as from a terminal that hangs
    /// up. What ignores that (nohup(1)) lives on; whenever it ends, the shim is told to forget it.
    fn drop(&mut self) {
        let Some(exec) = self.exec().filter(|_| !self.forgotten.load(Ordering::Relaxed)) else { return };
        let exec = exec.to_owned();
        let (lease, container) = (Arc::clone(&self.lease), std::mem::take(&mut self.container));
        // Without a runtime the server ends, and its connections tell the shim.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let hangup = sys::libc::SIGHUP.unsigned_abs();
                if let Err(error) = lease.shim.exec_kill(&container, &exec, hangup, true).await {
                    tracing::debug!(%error, "a process has ended with its client");
                }
                if lease.shim.exec_wait(&container, &exec).await.is_ok() {
                    forget(&lease.shim, &container, &exec).await;
                }
            });
        }
    }
}

impl Control for Run {
    fn resize(&self, size: Size) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            let shim = &self.lease.shim;
            if let Err(error) = shim.resize(&self.container, self.exec(), size.width, size.height).await {
                tracing::debug!(%error, "a terminal is not resized");
            }
        })
    }

    fn input_ended(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        // The closed FIFO says it.
        Box::pin(std::future::ready(()))
    }

    fn wait(&self) -> Pin<Box<dyn Future<Output = Result<Ended, BackendError>> + Send + '_>> {
        Box::pin(async move {
            let exec = match &self.of {
                Of::Exec(name) => name,
                Of::Container(attachment) => return self.detached(*attachment).await,
            };
            let ended = self.lease.shim.exec_wait(&self.container, exec).await.map_err(|e| lost(&e))?;
            self.forget().await;
            Ok(Ended::Code(ended.code))
        })
    }
}

/// The OCI process of a command: the container's own, with other arguments.
fn process(exec: &Exec) -> Result<Vec<u8>, BackendError> {
    /// Of config.json only what matters here; the rest is skipped.
    #[derive(Deserialize)]
    struct Bundle {
        process: OciProcess,
    }
    const DOING: &str = "cannot read the container's specification";
    let mut text = Vec::new();
    File::open(exec.bundle.join("config.json"))
        .and_then(|file| file.take(LARGEST_SPEC).read_to_end(&mut text))
        .map_err(|e| told(DOING, &e))?;
    let bundle: Bundle = serde_json::from_slice(&text).map_err(|e| told(DOING, &e))?;
    let mut process = bundle.process;
    process.set_args(Some(exec.command.clone())).set_command_line(None).set_console_size(None);
    process.set_terminal(Some(exec.streams.tty));
    if exec.streams.tty {
        let mut env = process.env().clone().unwrap_or_default();
        if !env.iter().any(|entry| entry.starts_with("TERM=")) {
            env.push(TERM.to_owned());
        }
        process.set_env(Some(env));
    }
    serde_json::to_vec(&process).map_err(|e| told(DOING, &e))
}

/// An error and all its causes in one line, for the user.
fn told(doing: &str, error: &(dyn std::error::Error + 'static)) -> BackendError {
    let mut text = format!("{doing}: {error}");
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    BackendError(text)
}

/// A shim's refusal is a sentence already.
fn refused(doing: &str, error: &ShimError) -> BackendError {
    match error {
        ShimError::Refused { message, .. } => BackendError(format!("{doing}: {message}")),
        ShimError::Gone { .. }
        | ShimError::Connect { .. }
        | ShimError::Deadline { .. }
        | ShimError::Protocol { .. }
        | ShimError::Spawn { .. } => told(doing, error),
    }
}

fn lost(error: &ShimError) -> BackendError {
    told("the process's end is not known: the pod was stopped or its shim has ended", error)
}
