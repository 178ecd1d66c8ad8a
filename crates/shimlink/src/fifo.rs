//! The client's ends of the FIFOs (fifo(7)) through which a process talks.
//!
//! A FIFO's path is needed only until the shim has opened it: `opened` unlinks it, and so does dropping
//! an end before that.

use std::io;
use std::path::{Path, PathBuf};
use sys::rustix::fs::{CWD, Mode, OFlags, mkfifoat, open, unlink};
use tokio::net::unix::pipe::{Receiver, Sender};
use types::shim::fifo_address;

/// A FIFO of which nobody but us needs the name.
#[derive(Debug)]
struct Name(PathBuf);

impl Name {
    fn make(path: &Path) -> io::Result<(Self, String)> {
        let bad = || io::Error::new(io::ErrorKind::InvalidInput, "want an absolute path in UTF-8");
        let address = fifo_address(path).ok_or_else(bad)?;
        mkfifoat(CWD, path, Mode::from_raw_mode(0o600))?;
        Ok((Self(path.to_owned()), address))
    }

    fn open(&self, flags: OFlags) -> io::Result<sys::rustix::fd::OwnedFd> {
        let flags = flags | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(open(&self.0, flags, Mode::empty())?)
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        // Its directory may be gone with it.
        let _ = unlink(&self.0);
    }
}

/// To a process.
#[derive(Debug)]
pub struct Input {
    address: String,
    sender: Sender,
    /// Without any reader there is no writer (ENXIO, fifo(7)); the shim's takes its place.
    reader: sys::rustix::fd::OwnedFd,
    path: Name,
}

impl Input {
    /// Makes a FIFO and opens it for writing, without waiting. The path is absolute and new.
    ///
    /// # Errors
    /// Of mkfifo(3) and open(2).
    pub fn make(path: &Path) -> io::Result<Self> {
        let (path, address) = Name::make(path)?;
        let reader = path.open(OFlags::RDONLY)?;
        let sender = Sender::from_owned_fd(path.open(OFlags::WRONLY)?)?;
        Ok(Self { address, sender, reader, path })
    }

    /// For the request.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The shim has opened it: from now on dropping the sender is the end of the input, and writing
    /// gives EPIPE when nobody reads any more.
    #[must_use]
    pub fn opened(self) -> Sender {
        let Self { sender, reader, path, .. } = self;
        drop((reader, path));
        sender
    }
}

/// From a process.
#[derive(Debug)]
pub struct Output {
    address: String,
    receiver: Receiver,
    path: Name,
}

impl Output {
    /// Makes a FIFO and opens it for reading, without waiting. The path is absolute and new.
    ///
    /// # Errors
    /// Of mkfifo(3) and open(2).
    pub fn make(path: &Path) -> io::Result<Self> {
        let (path, address) = Name::make(path)?;
        let receiver = Receiver::from_owned_fd(path.open(OFlags::RDONLY)?)?;
        Ok(Self { address, receiver, path })
    }

    /// For the request.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The shim has opened it. Before that it would read as an end.
    #[must_use]
    pub fn opened(self) -> Receiver {
        let Self { receiver, path, .. } = self;
        drop(path);
        receiver
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    fn place(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("peapod-test-shimlink-{}-{name}", std::process::id()))
    }

    #[tokio::test]
    async fn bytes_and_ends_go_through_and_no_name_stays() {
        let (input, output) =
            (Input::make(&place("in")).expect("in"), Output::make(&place("out")).expect("out"));
        let open = |address: &str, write: bool| {
            let path = types::shim::fifo_path(address).expect("address");
            std::fs::OpenOptions::new().read(!write).write(write).open(path).expect("the other end")
        };
        let (mut theirs_in, mut theirs_out) = (open(input.address(), false), open(output.address(), true));
        let (mut sender, mut receiver) = (input.opened(), output.opened());
        assert!(!place("in").try_exists().expect("look") && !place("out").try_exists().expect("look"));
        sender.write_all(b"to").await.expect("write");
        drop(sender);
        let mut got = String::new();
        theirs_in.read_to_string(&mut got).expect("read");
        theirs_out.write_all(b"fro").expect("write");
        drop(theirs_out);
        receiver.read_to_string(&mut got).await.expect("read");
        assert_eq!(got, "tofro");
    }

    #[tokio::test]
    async fn an_input_that_nobody_reads_any_more_breaks() {
        let input = Input::make(&place("gone")).expect("in");
        let mut sender = input.opened();
        let error = sender.write_all(b"x").await.expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn a_name_that_is_taken_is_an_error_and_stays() {
        let held = Output::make(&place("taken")).expect("out");
        assert!(Output::make(&place("taken")).is_err());
        assert!(place("taken").try_exists().expect("look"));
        drop(held);
        assert!(!place("taken").try_exists().expect("look"));
        assert!(Input::make(Path::new("relative")).is_err());
    }
}
