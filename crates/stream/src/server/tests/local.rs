//! A backend of real processes on this machine.

use crate::{
    backend::{Backend, BackendError, Control, Ended, Process},
    session::Size,
    ticket::{Attach, Exec, Streams},
};
use std::{
    future::Future,
    os::{fd::OwnedFd, unix::process::ExitStatusExt as _},
    path::Path,
    pin::Pin,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{
    net::{
        TcpStream,
        unix::pipe::{Receiver, Sender},
    },
    process::{Child, Command},
};

#[derive(Clone, Debug, Default)]
pub(super) struct Local(Arc<Seen>);

#[derive(Debug, Default)]
struct Seen {
    sizes: Mutex<Vec<Size>>,
    started: AtomicUsize,
    alive: AtomicUsize,
    inputs_ended: AtomicUsize,
    last: AtomicUsize,
}

impl Local {
    /// Sizes that a terminal was set to.
    pub(super) fn sizes(&self) -> Vec<Size> {
        self.0.sizes.lock().expect("lock").clone()
    }

    /// Processes that were started.
    pub(super) fn started(&self) -> usize {
        self.0.started.load(Ordering::SeqCst)
    }

    /// Processes that a session still has.
    pub(super) fn alive(&self) -> usize {
        self.0.alive.load(Ordering::SeqCst)
    }

    /// How often a process was told that no more input comes.
    pub(super) fn inputs_ended(&self) -> usize {
        self.0.inputs_ended.load(Ordering::SeqCst)
    }

    /// Bytes that the last process has written.
    pub(super) fn written(&self) -> u64 {
        let io = std::fs::read_to_string(format!("/proc/{}/io", self.0.last.load(Ordering::SeqCst)));
        let io = io.unwrap_or_default();
        let line = io.lines().find_map(|line| line.strip_prefix("wchar: "));
        line.and_then(|number| number.parse().ok()).unwrap_or_default()
    }

    fn start(&self, mut command: Command, streams: Streams) -> Result<Process, BackendError> {
        let piped = |wanted| if wanted { Stdio::piped() } else { Stdio::null() };
        command.stdin(piped(streams.stdin)).stdout(piped(streams.stdout)).stderr(piped(streams.stderr));
        let mut child =
            command.kill_on_drop(true).spawn().map_err(|error| BackendError(error.to_string()))?;
        self.0.started.fetch_add(1, Ordering::SeqCst);
        self.0.alive.fetch_add(1, Ordering::SeqCst);
        self.0.last.store(child.id().unwrap_or_default() as usize, Ordering::SeqCst);
        let reader = |fd: OwnedFd| Receiver::from_owned_fd(fd).expect("a pipe");
        Ok(Process {
            stdin: child
                .stdin
                .take()
                .map(|pipe| Sender::from_owned_fd(pipe.into_owned_fd().expect("a pipe")).expect("a pipe")),
            stdout: child.stdout.take().map(|pipe| reader(pipe.into_owned_fd().expect("a pipe"))),
            stderr: child.stderr.take().map(|pipe| reader(pipe.into_owned_fd().expect("a pipe"))),
            control: Box::new(Running { child: tokio::sync::Mutex::new(child), seen: Arc::clone(&self.0) }),
        })
    }
}

struct Running {
    child: tokio::sync::Mutex<Child>,
    seen: Arc<Seen>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.seen.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Control for Running {
    fn resize(&self, size: Size) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.seen.sizes.lock().expect("lock").push(size);
        Box::pin(tokio::task::yield_now())
    }

    fn input_ended(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.seen.inputs_ended.fetch_add(1, Ordering::SeqCst);
        Box::pin(async {})
    }

    fn wait(&self) -> Pin<Box<dyn Future<Output = Result<Ended, BackendError>> + Send + '_>> {
        Box::pin(async {
            let status = self.child.lock().await.wait().await;
            let status = status.map_err(|error| BackendError(error.to_string()))?;
            let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
            Ok(Ended::Code(u32::try_from(code).unwrap_or_default()))
        })
    }
}

impl Backend for Local {
    async fn exec(&self, exec: &Exec) -> Result<Process, BackendError> {
        let [program, arguments @ ..] = &exec.command[..] else {
            return Err(BackendError("no command".to_owned()));
        };
        if arguments.iter().any(|argument| argument == "panic") {
            panic!("a backend may panic");
        }
        let mut command = Command::new(program);
        command.args(arguments);
        self.start(command, exec.streams)
    }

    async fn attach(&self, attach: &Attach) -> Result<Process, BackendError> {
        if attach.container != "c" {
            return Err(BackendError(format!("no container {}", attach.container)));
        }
        self.start(Command::new("cat"), attach.streams)
    }

    async fn dial(&self, _: Option<&Path>, port: u16) -> Result<TcpStream, BackendError> {
        let dialled = TcpStream::connect(("127.0.0.1", port)).await;
        dialled.map_err(|error| BackendError(format!("port {port} of localhost: {error}")))
    }
}
