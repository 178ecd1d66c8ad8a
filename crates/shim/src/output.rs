//! A container's two output pipes, or its terminal, on their way to the log: read, framed, appended.
//! While the log or an attached client takes nothing, the pipes are not read, so that the container
//! waits in its writes.

use crate::attach::Attachments;
use crate::framing::{Framer, Stamp};
use crate::logfile::{LogError, LogFile};
use crate::poll::{Interest, Poll, Source, Stream};
use std::io;
use sys::rustix::buffer::spare_capacity;
use sys::rustix::fd::OwnedFd;
use sys::rustix::io::Errno;

/// Bytes that one read takes at most; half of a pipe.
pub(crate) const READ: usize = 32 << 10;

/// Reads of one stream without a look at anything else: more than the largest pipe (1 MiB, pipe(7)).
pub(crate) const ROUNDS: u32 = 64;

/// Buffers that all containers and commands of the pod share: one thread uses them.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    read: Vec<u8>,
    out: Vec<u8>,
}

impl Scratch {
    /// The buffer to read into: empty, with room for [`READ`] bytes that are not touched before they
    /// are read, so that a short line costs one page.
    pub(crate) fn read(&mut self) -> &mut Vec<u8> {
        self.read.clear();
        self.read.reserve(READ);
        &mut self.read
    }

    /// Gives the memory back; the next use takes it anew.
    pub(crate) fn release(&mut self) {
        *self = Self::default();
    }
}

/// What one read of a pipe came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// There may be more to read now.
    More,
    /// Nothing now.
    Empty,
    /// The pipe is at its end, or was before.
    Ended,
    /// The log or a client takes nothing; see [`Output::retry`].
    Stuck,
}

#[derive(Debug)]
struct Pipe {
    fd: OwnedFd,
    framer: Framer,
}

/// Input that was read before the log got stuck.
#[derive(Debug)]
struct Rest {
    stream: Stream,
    bytes: Vec<u8>,
    at: Stamp,
}

/// A container's outputs and where they go.
#[derive(Debug)]
pub(crate) struct Output {
    /// None discards.
    log: Option<LogFile>,
    stdout: Option<Pipe>,
    stderr: Option<Pipe>,
    rest: Option<Rest>,
    last: Stamp,
    watched: bool,
    /// Clients that get a copy.
    pub(crate) attached: Attachments,
}

impl Output {
    /// Takes the reading ends, which must not block, and the log that they go to, in pieces of lines up to `piece`
    /// bytes.
    pub(crate) fn new(
        log: Option<LogFile>,
        piece: usize,
        stdout: Option<OwnedFd>,
        stderr: Option<OwnedFd>,
    ) -> Self {
        let pipe = |fd: Option<OwnedFd>, stream| fd.map(|fd| Pipe { fd, framer: Framer::new(stream, piece) });
        Self {
            log,
            stdout: pipe(stdout, Stream::Stdout),
            stderr: pipe(stderr, Stream::Stderr),
            rest: None,
            last: Stamp::of(0),
            watched: false,
            attached: Attachments::default(),
        }
    }

    /// Brings the poll in step: pipes are watched unless something waits.
    pub(crate) fn watch(&mut self, poll: &Poll, id: u32) -> io::Result<()> {
        let want = !self.waits();
        if want != self.watched {
            for (pipe, stream) in [(&self.stdout, Stream::Stdout), (&self.stderr, Stream::Stderr)] {
                let Some(pipe) = pipe else { continue };
                if want {
                    poll.add(&pipe.fd, Source::Output(id, stream), Interest::READ)?;
                } else {
                    poll.remove(&pipe.fd);
                }
            }
            self.watched = want;
        }
        Ok(())
    }

    /// Stops watching, before the pipes are closed.
    pub(crate) fn unwatch(&mut self, poll: &Poll) {
        for pipe in [&self.stdout, &self.stderr].into_iter().flatten() {
            poll.remove(&pipe.fd);
        }
        self.watched = false;
        self.attached.close(poll);
    }

    /// Reads one stream once.
    pub(crate) fn read(&mut self, stream: Stream, poll: &Poll, scratch: &mut Scratch) -> Progress {
        if self.waits() {
            return Progress::Stuck;
        }
        let Some(pipe) = self.pipe(stream) else { return Progress::Ended };
        match sys::rustix::io::read(&pipe.fd, spare_capacity(scratch.read())) {
            // EIO: the last other end of a terminal is closed.
            Ok(0) | Err(Errno::IO) => return self.end(stream, poll, scratch),
            Ok(_) => {}
            Err(Errno::AGAIN) => return Progress::Empty,
            Err(Errno::INTR) => return Progress::More,
            // No other error is known for a pipe; a descriptor that cannot be read has no more to say.
            Err(_) => return self.end(stream, poll, scratch),
        }
        let Scratch { read, out } = scratch;
        self.last = Stamp::after(self.last);
        self.attached.offer(stream, read, poll);
        let logged = self.take(stream, read, self.last, out);
        if logged && !self.attached.is_behind() { Progress::More } else { Progress::Stuck }
    }

    /// Reads what both streams have now; true when both are at their end and written. Bounded, so that
    /// a writer that never stops does not hold the loop: what it leaves comes as events.
    pub(crate) fn drain(&mut self, poll: &Poll, scratch: &mut Scratch) -> bool {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let mut rounds = ROUNDS;
            while rounds > 0 && self.read(stream, poll, scratch) == Progress::More {
                rounds -= 1;
            }
        }
        self.is_finished()
    }

    /// Whether both streams are at their end and written.
    pub(crate) fn is_finished(&self) -> bool {
        self.stdout.is_none() && self.stderr.is_none() && !self.waits()
    }

    /// Whether what was read is still to be taken.
    fn waits(&self) -> bool {
        self.is_stuck() || self.attached.is_behind()
    }

    /// Whether this stream may still say something.
    pub(crate) fn is_open(&self, stream: Stream) -> bool {
        match stream {
            Stream::Stdout => self.stdout.is_some(),
            Stream::Stderr => self.stderr.is_some(),
        }
    }

    /// Whether the log takes nothing now.
    pub(crate) fn is_stuck(&self) -> bool {
        self.log.as_ref().is_some_and(LogFile::is_stuck)
    }

    /// Why the log takes nothing, for people; else empty.
    pub(crate) fn trouble(&self) -> String {
        self.log.as_ref().map(LogFile::trouble).unwrap_or_default()
    }

    /// Tries to write what waits, and then what was read behind it; true when all is written.
    pub(crate) fn retry(&mut self, scratch: &mut Scratch) -> bool {
        if !self.log.as_mut().is_none_or(LogFile::retry) {
            return false;
        }
        if let Some(rest) = self.rest.take()
            && !self.take(rest.stream, &rest.bytes, rest.at, &mut scratch.out)
        {
            return false;
        }
        true
    }

    /// Opens the log file anew at its path; nothing to do when output is discarded.
    pub(crate) fn reopen(&mut self, scratch: &mut Scratch) -> Result<(), LogError> {
        if let Some(log) = &mut self.log {
            log.reopen()?;
            self.retry(scratch);
        }
        Ok(())
    }

    /// Gives back memory that idle buffers hold.
    pub(crate) fn shrink(&mut self) {
        for pipe in [&mut self.stdout, &mut self.stderr].into_iter().flatten() {
            pipe.framer.shrink();
        }
    }

    fn pipe(&mut self, stream: Stream) -> Option<&mut Pipe> {
        match stream {
            Stream::Stdout => self.stdout.as_mut(),
            Stream::Stderr => self.stderr.as_mut(),
        }
    }

    /// Frames and appends; what does not go into the log any more is kept. False when stuck.
    fn take(&mut self, stream: Stream, input: &[u8], at: Stamp, out: &mut Vec<u8>) -> bool {
        if self.log.is_none() {
            return true;
        }
        let mut rest = input;
        while !rest.is_empty() {
            out.clear();
            // Nothing is read while the log is stuck, so a stream cannot end before its rest is taken.
            let Some(Pipe { framer, .. }) = self.pipe(stream) else { return true };
            let taken = framer.push(rest, at, out);
            rest = &rest[taken..];
            if !self.append(out) {
                self.rest = (!rest.is_empty()).then(|| Rest { stream, bytes: rest.to_vec(), at });
                return false;
            }
        }
        true
    }

    /// Appends whole records; false when they wait.
    fn append(&mut self, records: &[u8]) -> bool {
        match &mut self.log {
            Some(log) if !records.is_empty() => {
                log.append(records);
                !log.is_stuck()
            }
            Some(_) | None => true,
        }
    }

    fn end(&mut self, stream: Stream, poll: &Poll, scratch: &mut Scratch) -> Progress {
        let pipe = match stream {
            Stream::Stdout => self.stdout.take(),
            Stream::Stderr => self.stderr.take(),
        };
        if let Some(mut pipe) = pipe {
            poll.remove(&pipe.fd);
            self.attached.end(stream, poll);
            scratch.out.clear();
            pipe.framer.finish(self.last, &mut scratch.out);
            if !self.append(&scratch.out) {
                return Progress::Stuck;
            }
        }
        Progress::Ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framing::tests::{parse, stream_of};
    use crate::testing::Directory;
    use std::io::Write as _;
    use std::path::Path;
    use types::shim::LOG_LINE_DEFAULT;

    fn pipe() -> (OwnedFd, std::io::PipeWriter) {
        let (reader, writer) = std::io::pipe().expect("pipe");
        sys::rustix::io::ioctl_fionbio(&reader, true).expect("non-blocking");
        (reader.into(), writer)
    }

    #[test]
    fn both_streams_come_back_from_the_log_as_they_were() {
        let directory = Directory::new();
        let log = LogFile::open(&directory.0, Path::new("0.log")).expect("open");
        let (stdout, mut out_end) = pipe();
        let (stderr, mut err_end) = pipe();
        let poll = Poll::new().expect("epoll");
        let mut scratch = Scratch::default();
        let mut output = Output::new(Some(log), LOG_LINE_DEFAULT, Some(stdout), Some(stderr));
        output.watch(&poll, 1).expect("watch");
        let (mut want_out, mut want_err) = (Vec::new(), Vec::new());
        for round in 0..200u32 {
            let out = format!("line {round} of stdout\r\n2026-01-01T00:00:00.000000000Z stdout F x{round}");
            let err = vec![b'e'; (round as usize * 97) % 9000];
            out_end.write_all(out.as_bytes()).expect("write");
            err_end.write_all(&err).expect("write");
            want_out.extend_from_slice(out.as_bytes());
            want_err.extend_from_slice(&err);
            assert!(!output.drain(&poll, &mut scratch));
        }
        drop((out_end, err_end));
        assert!(output.drain(&poll, &mut scratch) && output.is_finished());
        let records = parse(&std::fs::read(directory.0.join("0.log")).expect("log"));
        assert_eq!(stream_of(&records, true), want_out);
        assert_eq!(stream_of(&records, false), want_err);
        assert!(records.is_sorted_by(|one, next| one.time <= next.time));
    }

    #[test]
    fn a_stuck_log_stops_the_reading_and_nothing_is_lost_when_it_goes_on() {
        // /dev/full refuses each write (full(4)); the reopen then leads to a real file.
        let directory = Directory::new();
        let log = LogFile::onto_full_disk(&directory.0, Path::new("0.log"));
        let (stdout, mut out_end) = pipe();
        let (stderr, mut err_end) = pipe();
        let poll = Poll::new().expect("epoll");
        let mut scratch = Scratch::default();
        let mut output = Output::new(Some(log), LOG_LINE_DEFAULT, Some(stdout), Some(stderr));
        output.watch(&poll, 1).expect("watch");
        // More than one batch of records, so that input is left over behind those that wait.
        let lines = b"x\n".repeat(10_000);
        out_end.write_all(&lines).expect("write");
        err_end.write_all(b"no end").expect("write");
        drop(err_end);
        assert_eq!(output.read(Stream::Stderr, &poll, &mut scratch), Progress::More);
        assert_eq!(output.read(Stream::Stdout, &poll, &mut scratch), Progress::Stuck);
        assert!(output.trouble().contains("No space left"), "{}", output.trouble());
        output.watch(&poll, 1).expect("unwatch");
        assert_eq!(poll.wait(Some(std::time::Duration::ZERO)).expect("wait"), [], "pipes are not read");
        drop(out_end);
        assert!(!output.retry(&mut scratch) && !output.drain(&poll, &mut scratch));
        output.reopen(&mut scratch).expect("reopen");
        output.watch(&poll, 1).expect("watch");
        assert!(output.drain(&poll, &mut scratch));
        let records = parse(&std::fs::read(directory.0.join("0.log")).expect("log"));
        assert_eq!(stream_of(&records, true), lines);
        assert_eq!(stream_of(&records, false), b"no end");
    }

    #[test]
    fn output_without_a_log_is_read_and_discarded() {
        let (stdout, mut out_end) = pipe();
        let poll = Poll::new().expect("epoll");
        let mut output = Output::new(None, LOG_LINE_DEFAULT, Some(stdout), None);
        out_end.write_all(b"gone").expect("write");
        drop(out_end);
        assert!(output.drain(&poll, &mut Scratch::default()));
    }
}
