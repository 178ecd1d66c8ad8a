//! The other end of a session's bytes.

use crate::{
    session::Size,
    ticket::{Attach, Exec},
};
use std::{future::Future, path::Path, pin::Pin};
use tokio::net::{
    TcpStream,
    unix::pipe::{Receiver, Sender},
};

/// Where sessions lead. Clones are cheap.
pub trait Backend: Clone + Send + Sync + 'static {
    /// Starts the command.
    ///
    /// # Errors
    /// [`BackendError`]: the client is told its text.
    fn exec(&self, exec: &Exec) -> impl Future<Output = Result<Process, BackendError>> + Send;

    /// Joins a container's own streams.
    ///
    /// # Errors
    /// [`BackendError`]: the client is told its text.
    fn attach(&self, attach: &Attach) -> impl Future<Output = Result<Process, BackendError>> + Send;

    /// Connects to `localhost:port` as seen in a network namespace (none: the node's own), by IPv4 and
    /// then by IPv6.
    ///
    /// # Errors
    /// [`BackendError`]: the client is told its text.
    fn dial(
        &self,
        netns: Option<&Path>,
        port: u16,
    ) -> impl Future<Output = Result<TcpStream, BackendError>> + Send;
}

/// Why a session cannot be; a sentence for its user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BackendError(pub String);

/// A process that a client talks to. The streams are those that the ticket wants; dropping them tells
/// the process (end of input, SIGPIPE, hang-up of a terminal).
pub struct Process {
    /// To its standard input.
    pub stdin: Option<Sender>,
    /// From its standard output or its terminal.
    pub stdout: Option<Receiver>,
    /// From its standard error.
    pub stderr: Option<Receiver>,
    /// The rest.
    pub control: Box<dyn Control>,
}

/// How a process is resized and waited for.
pub trait Control: Send + Sync {
    /// Sets the terminal's size; what has no terminal, or has ended, ignores it.
    fn resize(&self, size: Size) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;

    /// Tells that no more input comes: called once, when the client closed its input and all of it was
    /// written and `stdin` was dropped.
    fn input_ended(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;

    /// Waits for the end. Called once; it may be asked for while streams are still open.
    fn wait(&self) -> Pin<Box<dyn Future<Output = Result<Ended, BackendError>> + Send + '_>>;
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this code; 128 + signal.
    Code(u32),
    /// An attached client was let go: the process's own end is none of the session's.
    Detached,
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Process").finish_non_exhaustive()
    }
}
