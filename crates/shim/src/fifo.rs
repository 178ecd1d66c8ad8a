//! The addresses of a process's streams, and the FIFOs (fifo(7)) that they name.
//!
//! | address | what |
//! |---|---|
//! | empty | /dev/null |
//! | `cri-fifo:` | /dev/null, of a client of ours |
//! | `cri-fifo:/path` | the client holds its end; when it lets go, the process notices |
//! | `/path` | containerd's: this side holds both ends, so that a client may go and come again; input ends with CloseIO |
//!
//! Opening never waits, follows no symlink in the last place and takes nothing but a FIFO.

use crate::wire::Refusal;
use std::io;
use std::path::Path;
use sys::rustix::event::{PollFd, PollFlags, Timespec, poll};
use sys::rustix::fd::{AsFd, AsRawFd as _, OwnedFd};
use sys::rustix::fs::{CWD, FileType, Mode, OFlags, fcntl_getfl, fstat, open};
use sys::rustix::io::Errno;
use sys::rustix::mount::{OpenTreeFlags, open_tree};
use types::shim::{FIFO_SCHEME, fifo_path};

/// An address, understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Address<'a> {
    /// /dev/null; true: as a client of ours says it.
    Nothing(bool),
    /// The client's end is all that keeps it open.
    Bound(&'a Path),
    /// Both ends are held here too.
    Held(&'a Path),
}

impl<'a> Address<'a> {
    /// Reads `address`, the value of `field`.
    pub(crate) fn parse(field: &str, address: &'a str) -> Result<Self, Refusal> {
        if address.is_empty() || address == FIFO_SCHEME {
            return Ok(Self::Nothing(!address.is_empty()));
        }
        if let Some(path) = fifo_path(address) {
            return Ok(Self::Bound(path));
        }
        if address.starts_with('/') {
            return Ok(Self::Held(Path::new(address)));
        }
        Err(Refusal::invalid(format!(
            "{field}: want nothing, {FIFO_SCHEME}<absolute path> or an absolute path"
        )))
    }

    /// Whether it binds the process to the client that asked.
    pub(crate) fn is_bound(self) -> bool {
        match self {
            Self::Nothing(ours) => ours,
            Self::Bound(_) => true,
            Self::Held(_) => false,
        }
    }
}

/// One stream's ends on this side.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    /// The process's, not blocking; none is /dev/null.
    pub(crate) own: Option<OwnedFd>,
    /// The client's, where it is to be held open.
    pub(crate) other: Option<OwnedFd>,
}

impl Ends {
    /// For reading what the client writes.
    pub(crate) fn input(field: &str, address: Address<'_>) -> Result<Self, Refusal> {
        Self::open(field, address, OFlags::RDONLY, OFlags::WRONLY)
    }

    /// For writing what the client reads.
    pub(crate) fn output(field: &str, address: Address<'_>) -> Result<Self, Refusal> {
        Self::open(field, address, OFlags::WRONLY, OFlags::RDONLY)
    }

    fn open(field: &str, address: Address<'_>, own: OFlags, other: OFlags) -> Result<Self, Refusal> {
        match address {
            Address::Nothing(_) => Ok(Self::default()),
            Address::Bound(path) => Ok(Self { own: Some(end(field, path, own)?), other: None }),
            Address::Held(path) => {
                // A writer can be opened only while there is a reader.
                let reader = end(field, path, OFlags::RDONLY)?;
                let writer = end(field, path, OFlags::WRONLY)?;
                let (own, other) = if other == OFlags::WRONLY { (reader, writer) } else { (writer, reader) };
                Ok(Self { own: Some(nameless(own)), other: Some(other) })
            }
        }
    }
}

fn end(field: &str, path: &Path, mode: OFlags) -> Result<OwnedFd, Refusal> {
    let flags = mode | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
    let refuse = |why: &str| Refusal::invalid(format!("{field}: open the FIFO {}: {why}", path.display()));
    let fd = open(path, flags, Mode::empty()).map_err(|e| match e {
        Errno::NXIO => refuse("nobody reads it"),
        e => refuse(&io::Error::from(e).to_string()),
    })?;
    match fstat(&fd) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Fifo => Ok(fd),
        Ok(_) => Err(refuse("it is none")),
        Err(e) => Err(refuse(&io::Error::from(e).to_string())),
    }
}

/// The same end by a mount of its own, attached nowhere: the process that gets it finds no path of the host's in
/// /proc/self/fd. Where that cannot be had, the end as it is.
fn nameless(own: OwnedFd) -> OwnedFd {
    let place = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let mode = match fcntl_getfl(&own) {
        Ok(flags) => flags & (OFlags::ACCMODE | OFlags::NONBLOCK),
        Err(_) => return own,
    };
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let again = open_tree(CWD, place(&own), clone)
        .and_then(|tree| open(place(&tree), mode | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()));
    again.unwrap_or(own)
}

/// Whether the last reader of this writing end is gone.
pub(crate) fn is_broken(writer: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&writer, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0) && fds[0].revents().contains(PollFlags::ERR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Directory;
    use std::path::PathBuf;
    use sys::rustix::fs::mkfifoat;

    fn fifo(directory: &Directory, name: &str) -> PathBuf {
        let path = directory.0.join(name);
        mkfifoat(CWD, &path, Mode::from_raw_mode(0o600)).expect("mkfifo");
        path
    }

    #[test]
    fn an_address_is_one_of_four_or_refused_by_its_field() {
        assert_eq!(Address::parse("stdin", ""), Ok(Address::Nothing(false)));
        assert_eq!(Address::parse("stdin", "cri-fifo:"), Ok(Address::Nothing(true)));
        assert_eq!(Address::parse("stdin", "cri-fifo:/a"), Ok(Address::Bound(Path::new("/a"))));
        assert_eq!(Address::parse("stdin", "/a"), Ok(Address::Held(Path::new("/a"))));
        for bad in ["a", "cri-fifo:a", "binary:///bin/x", "file:///x"] {
            let refusal = Address::parse("stdin", bad).expect_err("refused");
            assert!(refusal.message.starts_with("stdin: "), "{refusal}");
        }
    }

    #[test]
    fn nothing_but_a_fifo_with_a_client_is_opened() {
        let directory = Directory::new();
        let path = fifo(&directory, "fifo");
        std::os::unix::fs::symlink(&path, directory.0.join("link")).expect("symlink");
        std::fs::File::create(directory.0.join("file")).expect("file");
        for (name, why) in
            [("link", "symbolic"), ("file", "it is none"), ("missing", "No such file"), (".", "")]
        {
            let path = directory.0.join(name);
            for made in [
                Ends::output("stdout", Address::Bound(&path)),
                Ends::output("stdout", Address::Held(&path)),
                Ends::input("stdout", Address::Bound(&path)),
            ] {
                let refusal = made.expect_err("refused");
                assert!(
                    refusal.message.starts_with("stdout: ") && refusal.message.contains(why),
                    "{refusal}"
                );
            }
        }
        let nobody = Ends::output("stdout", Address::Bound(&path)).expect_err("no reader");
        assert!(nobody.message.contains("nobody reads it"), "{nobody}");
    }

    #[test]
    fn a_reader_that_goes_breaks_a_bound_output_and_not_a_held_one() {
        let directory = Directory::new();
        let path = fifo(&directory, "fifo");
        let reader = end("client", &path, OFlags::RDONLY).expect("reader");
        let bound = Ends::output("stdout", Address::Bound(&path)).expect("bound").own.expect("end");
        assert!(!is_broken(&bound));
        drop(reader);
        assert!(is_broken(&bound));
        let held = Ends::output("stdout", Address::Held(&path)).expect("held");
        let own = held.own.as_ref().expect("end");
        let seen = std::fs::read_link(format!("/proc/self/fd/{}", own.as_raw_fd())).expect("read the link");
        assert!(!seen.starts_with(&directory.0), "the process would see {}", seen.display());
        assert!(!is_broken(held.own.as_ref().expect("end")));
    }
}
