//! What the loop waits for: one epoll instance (epoll(7)), level-triggered, with a typed name for
//! each descriptor. Names are never used twice, so that an event that was fetched together with the
//! end of its source finds nothing instead of a stranger.

use std::io;
use std::mem::MaybeUninit;
use std::time::Duration;
use sys::rustix::event::Timespec;
use sys::rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use sys::rustix::fd::{AsFd, OwnedFd};

/// One of a process's two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One of the descriptors between a process and its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The terminal.
    Terminal,
    /// From the client.
    Stdin,
    /// To the client.
    Stdout,
    /// To the client.
    Stderr,
}

impl End {
    const ALL: [Self; 4] = [Self::Terminal, Self::Stdin, Self::Stdout, Self::Stderr];

    fn number(self) -> u64 {
        match self {
            Self::Terminal => 0,
            Self::Stdin => 1,
            Self::Stdout => 2,
            Self::Stderr => 3,
        }
    }
}

/// Whose descriptor is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The listening socket.
    Listener,
    /// The signalfd.
    Signals,
    /// A client.
    Connection(u32),
    /// A container's output.
    Output(u32, Stream),
    /// The output of a command that runs in a container.
    Exec(u32, Stream),
    /// A process with a client.
    Session(u32, End),
    /// A client of a container's own streams.
    Attached(u32, End),
    /// A container's input.
    Input(u32),
    /// The connection on which events go to containerd.
    Events,
    /// The handler's shim.
    Handler,
    /// Its log.
    HandlerLog,
    /// A process that it made, by the stream of the call that waits for its end.
    HandlerProcess(u32),
}

impl Source {
    fn name(self) -> u64 {
        let (kind, id) = match self {
            Self::Listener => (1u64, 0),
            Self::Signals => (2, 0),
            Self::Connection(id) => (3, id),
            Self::Output(id, Stream::Stdout) => (4, id),
            Self::Output(id, Stream::Stderr) => (5, id),
            Self::Exec(id, Stream::Stdout) => (6, id),
            Self::Exec(id, Stream::Stderr) => (7, id),
            Self::Input(id) => (8, id),
            Self::Events => (9, 0),
            Self::Handler => (10, 0),
            Self::HandlerLog => (11, 0),
            Self::HandlerProcess(stream) => (12, stream),
            Self::Session(id, end) => (16 + end.number(), id),
            Self::Attached(id, end) => (24 + end.number(), id),
        };
        kind << 32 | u64::from(id)
    }

    fn of(name: u64) -> Option<Self> {
        let id = u32::try_from(name & 0xffff_ffff).ok()?;
        let end = |first: u64, kind: u64| {
            usize::try_from(kind - first).ok().and_then(|number| End::ALL.get(number).copied())
        };
        Some(match name >> 32 {
            1 => Self::Listener,
            2 => Self::Signals,
            3 => Self::Connection(id),
            4 => Self::Output(id, Stream::Stdout),
            5 => Self::Output(id, Stream::Stderr),
            6 => Self::Exec(id, Stream::Stdout),
            7 => Self::Exec(id, Stream::Stderr),
            8 => Self::Input(id),
            9 => Self::Events,
            10 => Self::Handler,
            11 => Self::HandlerLog,
            12 => Self::HandlerProcess(id),
            kind @ 16..24 => Self::Session(id, end(16, kind)?),
            kind @ 24..32 => Self::Attached(id, end(24, kind)?),
            _ => return None,
        })
    }
}

/// What a source is watched for; an error or a hang-up is told always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interest {
    /// Bytes to read.
    pub(crate) read: bool,
    /// Room to write.
    pub(crate) write: bool,
}

impl Interest {
    /// Reads only.
    pub(crate) const READ: Self = Self { read: true, write: false };

    fn flags(self) -> EventFlags {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, self.read);
        flags.set(EventFlags::OUT, self.write);
        flags
    }
}

/// Events fetched at once.
const BATCH: usize = 16;

/// The epoll instance.
#[derive(Debug)]
pub(crate) struct Poll(OwnedFd);

impl Poll {
    /// A new one, closed on exec.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(CreateFlags::CLOEXEC)?))
    }

    /// Starts to watch `fd`.
    pub(crate) fn add(&self, fd: impl AsFd, source: Source, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.0, fd, EventData::new_u64(source.name()), interest.flags())?)
    }

    /// Watches `fd` for something else.
    pub(crate) fn change(&self, fd: impl AsFd, source: Source, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(&self.0, fd, EventData::new_u64(source.name()), interest.flags())?)
    }

    /// Watches `fd` no longer. Needed before the descriptor is closed: a child may hold a copy.
    pub(crate) fn remove(&self, fd: impl AsFd) {
        // An error says that it was not watched.
        let _ = epoll::delete(&self.0, fd);
    }

    /// Waits for events, at most for `timeout`; none = as long as it takes.
    pub(crate) fn wait(&self, timeout: Option<Duration>) -> io::Result<Vec<Source>> {
        let timeout = timeout.map(|t| Timespec {
            tv_sec: i64::try_from(t.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(t.subsec_nanos()),
        });
        let mut events = [MaybeUninit::<Event>::uninit(); BATCH];
        match epoll::wait(&self.0, &mut events, timeout.as_ref()) {
            Ok((ready, _)) => Ok(ready.iter().filter_map(|event| Source::of(event.data.u64())).collect()),
            Err(sys::rustix::io::Errno::INTR) => Ok(Vec::new()),
            Err(e) => Err(e.into()),
        }
    }
}

/// A descriptor together with what it is watched for at present.
#[derive(Debug)]
pub(crate) struct Watched {
    fd: OwnedFd,
    source: Source,
    now: Option<Interest>,
}

impl Watched {
    /// Not watched yet.
    pub(crate) fn new(fd: OwnedFd, source: Source) -> Self {
        Self { fd, source, now: None }
    }

    /// The descriptor.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Watches it for `interest`; none: not at all.
    pub(crate) fn watch(&mut self, poll: &Poll, interest: Option<Interest>) -> io::Result<()> {
        match (self.now, interest) {
            (now, wanted) if now == wanted => return Ok(()),
            (None, Some(wanted)) => poll.add(&self.fd, self.source, wanted)?,
            (Some(_), Some(wanted)) => poll.change(&self.fd, self.source, wanted)?,
            (_, None) => poll.remove(&self.fd),
        }
        self.now = interest;
        Ok(())
    }

    /// Closes it.
    pub(crate) fn close(self, poll: &Poll) {
        if self.now.is_some() {
            poll.remove(&self.fd);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_found_again_by_its_name() {
        for source in [
            Source::Listener,
            Source::Signals,
            Source::Connection(u32::MAX),
            Source::Output(7, Stream::Stdout),
            Source::Output(7, Stream::Stderr),
            Source::Exec(0, Stream::Stdout),
            Source::Exec(1, Stream::Stderr),
            Source::Session(2, End::Terminal),
            Source::Session(2, End::Stderr),
            Source::Attached(3, End::Stdin),
            Source::Attached(3, End::Stdout),
            Source::Input(4),
            Source::Events,
            Source::Handler,
            Source::HandlerLog,
            Source::HandlerProcess(5),
        ] {
            assert_eq!(Source::of(source.name()), Some(source));
        }
        assert_eq!((Source::of(0), Source::of(20 << 32), Source::of(28 << 32)), (None, None, None));
    }

    #[test]
    fn only_what_is_ready_is_told() {
        let poll = Poll::new().expect("epoll");
        let (one, mut one_end) = std::io::pipe().expect("pipe");
        let (two, _two_end) = std::io::pipe().expect("pipe");
        poll.add(&one, Source::Connection(1), Interest::READ).expect("add");
        poll.add(&two, Source::Connection(2), Interest::READ).expect("add");
        assert_eq!(poll.wait(Some(Duration::ZERO)).expect("wait"), []);
        std::io::Write::write_all(&mut one_end, b"x").expect("write");
        assert_eq!(poll.wait(None).expect("wait"), [Source::Connection(1)]);
        poll.remove(&one);
        assert_eq!(poll.wait(Some(Duration::ZERO)).expect("wait"), []);
    }
}
