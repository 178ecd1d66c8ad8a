//! `--console-socket`: the terminal's other end goes to whoever listens there.

use super::FrontError;
use std::{os::unix::net::UnixStream, path::Path};
use sys::rustix::fd::{AsFd, OwnedFd};

/// Connects before the container is made, so that a wrong path changes nothing.
pub(crate) fn connect(path: &Path) -> Result<UnixStream, FrontError> {
    UnixStream::connect(path)
        .map_err(FrontError::io(format!("connect to --console-socket {}", path.display())))
}

/// Sends the descriptor, with a name for people, as runc does.
pub(crate) fn send(socket: &UnixStream, terminal: &OwnedFd) -> Result<(), FrontError> {
    sys::socket::send(socket, b"/dev/ptmx", &[terminal.as_fd()])
        .map_err(FrontError::errno("send the terminal"))
}
