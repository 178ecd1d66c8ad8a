//! What a session is about.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Which of a process's streams a client wants. With a terminal there is no separate error output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streams {
    /// Standard input.
    pub stdin: bool,
    /// Standard output, or what the terminal shows.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// A terminal.
    pub tty: bool,
}

/// A command in a container.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// Socket of the container's shim.
    pub shim: PathBuf,
    /// The container's bundle, for what its processes have in common.
    pub bundle: PathBuf,
    /// The container.
    pub container: String,
    /// argv, not empty.
    pub command: Vec<String>,
    /// What the client wants.
    pub streams: Streams,
}

/// The streams of a container's own process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// Socket of the container's shim.
    pub shim: PathBuf,
    /// The container.
    pub container: String,
    /// What the client wants; `tty` is the container's own.
    pub streams: Streams,
}

/// Connections into a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// The pod's network namespace; none for a pod in the node's network.
    pub netns: Option<PathBuf>,
    /// Ports that the request named: websocket channels 2i and 2i+1 belong to the i-th. Over SPDY
    /// each connection names its own.
    pub ports: Vec<u16>,
}

/// One session, checked by who grants it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ticket {
    /// `/exec/TOKEN`
    Exec(Exec),
    /// `/attach/TOKEN`
    Attach(Attach),
    /// `/portforward/TOKEN`
    Forward(Forward),
}

impl std::fmt::Debug for Exec {
    /// Without the arguments: they may hold a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exec")
            .field("container", &self.container)
            .field("streams", &self.streams)
            .finish_non_exhaustive()
    }
}
