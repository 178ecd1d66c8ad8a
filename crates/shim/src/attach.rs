//! Clients of a container's own streams: each gets a copy of what the container writes.
//!
//! One chunk is on its way to the clients at a time, and no more of the container's output is read
//! before all of them have it: a client that is slow slows the container down, and with it its log. So
//! that none can do that for ever, one that does not take a chunk (at most 32 KiB) in [`PATIENCE`] is
//! let go. A containerd is such a client too, but one that stays: it writes the log.

use crate::fifo;
use crate::poll::{End, Interest, Poll, Source, Stream, Watched};
use crate::spill::write_some;
use std::time::{Duration, Instant};
use sys::rustix::fd::OwnedFd;

/// Clients of one container.
pub(crate) const MOST: usize = 64;
/// How long a client may take for one chunk.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// One stream of one client.
#[derive(Debug)]
struct Tap {
    to: Watched,
    /// Bytes of the chunk that it has; of no meaning while there is none of its stream.
    sent: usize,
}

/// A client.
#[derive(Debug)]
struct Attachment {
    key: u32,
    /// What it writes for the container's input.
    stdin: Option<Watched>,
    stdout: Option<Tap>,
    stderr: Option<Tap>,
    /// It is never let go.
    lasting: bool,
}

impl Attachment {
    fn tap(&mut self, stream: Stream) -> &mut Option<Tap> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    fn is_empty(&self) -> bool {
        self.stdin.is_none() && self.stdout.is_none() && self.stderr.is_none()
    }
}

/// The chunk that some clients do not have whole.
#[derive(Debug)]
struct Chunk {
    stream: Stream,
    bytes: Vec<u8>,
    /// Who does not have it then is let go; none: they are waited for.
    until: Option<Instant>,
}

/// The clients of one container.
#[derive(Debug, Default)]
pub(crate) struct Attachments {
    list: Vec<Attachment>,
    chunk: Option<Chunk>,
}

impl Attachments {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// Takes a client on; none of its descriptors may block. Watched at once but for its input.
    pub(crate) fn add(
        &mut self,
        key: u32,
        stdin: Option<OwnedFd>,
        stdout: Option<OwnedFd>,
        stderr: Option<OwnedFd>,
        poll: &Poll,
    ) -> std::io::Result<()> {
        self.take_on(key, [stdin, stdout, stderr], false, poll)
    }

    /// Takes a client on that is never let go, however long it reads nothing.
    pub(crate) fn add_lasting(
        &mut self,
        key: u32,
        stdin: Option<OwnedFd>,
        stdout: Option<OwnedFd>,
        stderr: Option<OwnedFd>,
        poll: &Poll,
    ) -> std::io::Result<()> {
        self.take_on(key, [stdin, stdout, stderr], true, poll)
    }

    fn take_on(
        &mut self,
        key: u32,
        [stdin, stdout, stderr]: [Option<OwnedFd>; 3],
        lasting: bool,
        poll: &Poll,
    ) -> std::io::Result<()> {
        let watched = |fd, end| Watched::new(fd, Source::Attached(key, end));
        // What is on its way was said before this client came.
        let sent = self.chunk.as_ref().map_or(0, |chunk| chunk.bytes.len());
        let tap = |fd: Option<OwnedFd>, end| -> std::io::Result<Option<Tap>> {
            let Some(fd) = fd else { return Ok(None) };
            let mut to = watched(fd, end);
            to.watch(poll, Some(Interest { read: false, write: false }))?;
            Ok(Some(Tap { to, sent }))
        };
        let stdout = tap(stdout, End::Stdout)?;
        let stderr = tap(stderr, End::Stderr)?;
        let stdin = stdin.map(|fd| watched(fd, End::Stdin));
        let attachment = Attachment { key, stdin, stdout, stderr, lasting };
        if !attachment.is_empty() {
            self.list.push(attachment);
        }
        Ok(())
    }

    /// Whether the client is one of these.
    pub(crate) fn has(&self, key: u32) -> bool {
        self.list.iter().any(|attachment| attachment.key == key)
    }

    /// Whether a client does not have all yet.
    pub(crate) fn is_behind(&self) -> bool {
        self.chunk.is_some()
    }

    /// When the next client is let go.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.chunk.as_ref().and_then(|chunk| chunk.until)
    }

    /// Gives all clients what the container wrote. None may be behind.
    pub(crate) fn offer(&mut self, stream: Stream, bytes: &[u8], poll: &Poll) {
        let mut behind = false;
        for attachment in &mut self.list {
            if let Some(tap) = attachment.tap(stream) {
                tap.sent = 0;
            }
            behind |= !give(attachment, stream, bytes, poll);
        }
        if behind {
            let until = Some(Instant::now() + PATIENCE);
            self.chunk = Some(Chunk { stream, bytes: bytes.to_vec(), until });
        }
        self.list.retain(|attachment| !attachment.is_empty());
    }

    /// A client's output takes more, or is taken no longer.
    pub(crate) fn on_output(&mut self, key: u32, end: End, poll: &Poll) {
        let Some(attachment) = self.list.iter_mut().find(|attachment| attachment.key == key) else { return };
        let stream = match end {
            End::Stdout => Stream::Stdout,
            End::Stderr => Stream::Stderr,
            End::Stdin | End::Terminal => return,
        };
        if attachment.tap(stream).as_ref().is_some_and(|tap| fifo::is_broken(tap.to.fd())) {
            drop_tap(attachment.tap(stream), poll);
        } else if let Some(chunk) = &self.chunk
            && chunk.stream == stream
        {
            give(attachment, stream, &chunk.bytes, poll);
        }
        self.settle();
    }

    /// Lets those go who do not have the chunk in time; gives their keys.
    pub(crate) fn expire(&mut self, now: Instant, poll: &Poll) -> Vec<u32> {
        let over = |chunk: &&mut Chunk| chunk.until.is_some_and(|until| until <= now);
        let Some(chunk) = self.chunk.as_mut().filter(over) else { return Vec::new() };
        // Who is left behind then stays, and is waited for.
        chunk.until = None;
        let mut gone = Vec::new();
        for attachment in &mut self.list {
            let lasting = attachment.lasting;
            let tap = attachment.tap(chunk.stream);
            if !lasting && tap.as_ref().is_some_and(|tap| tap.sent < chunk.bytes.len()) {
                // All of it: half a session is none.
                drop_tap(&mut attachment.stdout, poll);
                drop_tap(&mut attachment.stderr, poll);
                drop_input(attachment, poll);
                gone.push(attachment.key);
            }
        }
        self.settle();
        gone
    }

    /// The stream is at its end, and all have all of it.
    pub(crate) fn end(&mut self, stream: Stream, poll: &Poll) {
        for attachment in &mut self.list {
            drop_tap(attachment.tap(stream), poll);
        }
        self.settle();
    }

    /// Lets all go.
    pub(crate) fn close(&mut self, poll: &Poll) {
        for attachment in &mut self.list {
            drop_tap(&mut attachment.stdout, poll);
            drop_tap(&mut attachment.stderr, poll);
            drop_input(attachment, poll);
        }
        self.settle();
    }

    /// What a client writes for the container's input.
    pub(crate) fn input(&self, key: u32) -> Option<&OwnedFd> {
        let attachment = self.list.iter().find(|attachment| attachment.key == key)?;
        attachment.stdin.as_ref().map(Watched::fd)
    }

    /// Watches all clients' inputs, or none.
    pub(crate) fn watch_inputs(&mut self, want: bool, poll: &Poll) -> std::io::Result<()> {
        let mut inputs = self.list.iter_mut().filter_map(|attachment| attachment.stdin.as_mut());
        inputs.try_for_each(|input| input.watch(poll, want.then_some(Interest::READ)))
    }

    /// A client has ended its input.
    pub(crate) fn end_input(&mut self, key: u32, poll: &Poll) {
        if let Some(attachment) = self.list.iter_mut().find(|attachment| attachment.key == key) {
            drop_input(attachment, poll);
        }
        self.settle();
    }

    /// The container takes no more input.
    pub(crate) fn end_inputs(&mut self, poll: &Poll) {
        for attachment in &mut self.list {
            drop_input(attachment, poll);
        }
        self.settle();
    }

    /// Forgets who has no stream left, and the chunk when all have it.
    fn settle(&mut self) {
        if let Some(chunk) = &self.chunk {
            let lacks = |attachment: &mut Attachment| {
                attachment.tap(chunk.stream).as_ref().is_some_and(|tap| tap.sent < chunk.bytes.len())
            };
            if !self.list.iter_mut().any(lacks) {
                self.chunk = None;
            }
        }
        self.list.retain(|attachment| !attachment.is_empty());
        if self.list.is_empty() {
            self.list = Vec::new();
        }
    }
}

/// Writes what a client does not have of a chunk; false when some is left.
fn give(attachment: &mut Attachment, stream: Stream, bytes: &[u8], poll: &Poll) -> bool {
    let Some(tap) = attachment.tap(stream) else { return true };
    let given = write_some(tap.to.fd(), &bytes[tap.sent..]).and_then(|count| {
        tap.sent += count;
        let write = tap.sent < bytes.len();
        tap.to.watch(poll, Some(Interest { read: false, write }))?;
        Ok(!write)
    });
    given.unwrap_or_else(|_| {
        // Nobody reads it.
        drop_tap(attachment.tap(stream), poll);
        true
    })
}

fn drop_tap(tap: &mut Option<Tap>, poll: &Poll) {
    if let Some(tap) = tap.take() {
        tap.to.close(poll);
    }
}

fn drop_input(attachment: &mut Attachment, poll: &Poll) {
    if let Some(input) = attachment.stdin.take() {
        input.close(poll);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{PipeReader, Read as _};

    fn client(attachments: &mut Attachments, key: u32, poll: &Poll) -> PipeReader {
        let (reader, writer) = std::io::pipe().expect("pipe");
        sys::rustix::io::ioctl_fionbio(&writer, true).expect("non-blocking");
        attachments.add(key, None, Some(writer.into()), None, poll).expect("add");
        reader
    }

    fn read(from: &mut PipeReader, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        from.read_exact(&mut bytes).expect("read");
        bytes
    }

    #[test]
    fn all_clients_get_each_byte_and_the_slowest_sets_the_pace() {
        let poll = Poll::new().expect("epoll");
        let mut attachments = Attachments::default();
        let (mut fast, mut slow) = (client(&mut attachments, 1, &poll), client(&mut attachments, 2, &poll));
        let chunk: Vec<u8> = (0..32_768u32).map(|at| (at % 251) as u8).collect();
        let mut chunks = 0;
        while !attachments.is_behind() {
            attachments.offer(Stream::Stdout, &chunk, &poll);
            chunks += 1;
            assert_eq!(read(&mut fast, chunk.len()), chunk);
        }
        // One that comes meanwhile gets nothing of what was said before.
        let mut late = client(&mut attachments, 3, &poll);
        assert!(attachments.is_behind());
        let mut got = Vec::new();
        while attachments.is_behind() {
            got.extend(read(&mut slow, 16_384));
            assert_eq!(poll.wait(None).expect("wait"), [Source::Attached(2, End::Stdout)]);
            attachments.on_output(2, End::Stdout, &poll);
        }
        got.extend(read(&mut slow, chunks * chunk.len() - got.len()));
        assert_eq!(got, chunk.repeat(chunks));
        attachments.offer(Stream::Stdout, b"next", &poll);
        for reader in [&mut fast, &mut slow, &mut late] {
            assert_eq!(read(reader, 4), b"next");
        }
        attachments.end(Stream::Stdout, &poll);
        assert_eq!(attachments.len(), 0);
        assert_eq!(read(&mut slow, 0), b"");
        assert_eq!(slow.read(&mut [0]).expect("the end"), 0);
    }

    #[test]
    fn who_does_not_read_in_time_is_let_go_and_the_others_stay() {
        let poll = Poll::new().expect("epoll");
        let mut attachments = Attachments::default();
        let (mut fast, slow) = (client(&mut attachments, 1, &poll), client(&mut attachments, 2, &poll));
        while !attachments.is_behind() {
            attachments.offer(Stream::Stdout, &[7; 32_768], &poll);
            read(&mut fast, 32_768);
        }
        let until = attachments.deadline().expect("somebody is behind");
        assert_eq!(attachments.expire(until - Duration::from_millis(1), &poll), [] as [u32; 0]);
        assert_eq!(attachments.expire(until, &poll), [2]);
        assert!(!attachments.is_behind() && attachments.has(1) && !attachments.has(2));
        assert_eq!(attachments.deadline(), None);
        drop(slow);
    }

    #[test]
    fn a_client_that_stays_is_waited_for_and_gets_each_byte() {
        let poll = Poll::new().expect("epoll");
        let mut attachments = Attachments::default();
        let (mut lasting, writer) = std::io::pipe().expect("pipe");
        sys::rustix::io::ioctl_fionbio(&writer, true).expect("non-blocking");
        attachments.add_lasting(1, None, Some(writer.into()), None, &poll).expect("add");
        let slow = client(&mut attachments, 2, &poll);
        let mut chunks = 0;
        while !attachments.is_behind() {
            attachments.offer(Stream::Stdout, &[7; 32_768], &poll);
            chunks += 1;
        }
        let until = attachments.deadline().expect("somebody is behind");
        assert_eq!(attachments.expire(until, &poll), [2], "the other one is let go");
        assert!(attachments.is_behind() && attachments.deadline().is_none());
        let mut got = 0;
        while attachments.is_behind() {
            got += read(&mut lasting, 16_384).len();
            assert_eq!(poll.wait(None).expect("wait"), [Source::Attached(1, End::Stdout)]);
            attachments.on_output(1, End::Stdout, &poll);
        }
        assert_eq!(read(&mut lasting, chunks * 32_768 - got).len() + got, chunks * 32_768);
        drop(slow);
    }

    #[test]
    fn a_client_that_closes_is_noticed_without_any_output() {
        let poll = Poll::new().expect("epoll");
        let mut attachments = Attachments::default();
        let reader = client(&mut attachments, 1, &poll);
        assert_eq!(poll.wait(Some(Duration::ZERO)).expect("wait"), []);
        drop(reader);
        assert_eq!(poll.wait(None).expect("wait"), [Source::Attached(1, End::Stdout)]);
        attachments.on_output(1, End::Stdout, &poll);
        assert_eq!(attachments.len(), 0);
        assert_eq!(poll.wait(Some(Duration::ZERO)).expect("wait"), []);
    }
}
