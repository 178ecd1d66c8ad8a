//! The streams of a container as its Create names them: those of our daemon (a CRI log, an input that is
//! held open), or FIFOs, as containerd has them.
//!
//! ```text
//! process ──pipe or terminal──> shim ──FIFO──> containerd, which writes the log
//!         <──pipe or terminal── shim <──FIFO── containerd
//! ```
//! A FIFO is open here at both ends: containerd may go and come again, and nothing breaks or ends by that.
//! While it takes nothing, the process waits in its writes. What it has not read when the process has
//! ended stays in the FIFO until it has, or until Delete.

use crate::attach::Attachments;
use crate::fifo::{Address, Ends};
use crate::launch::Wanted;
use crate::logfile::LogFile;
use crate::output::Output;
use crate::poll::{Poll, Stream};
use crate::wire::{Refusal, chain};
use containerd_shim_protos::api;
use std::path::Path;
use std::time::{Duration, Instant};
use sys::rustix::fd::OwnedFd;
use sys::rustix::io::{fcntl_dupfd_cloexec, ioctl_fionread};
use types::shim::{LOG_SCHEME, STDIN_HELD, STDIN_ONCE, log_place};

/// How soon a FIFO is looked at again that is not empty after its process's end; doubled each time.
const SOON: Duration = Duration::from_millis(10);
/// How late at the latest.
const LATE: Duration = Duration::from_secs(1);

/// What a container's streams are connected to.
#[derive(Debug)]
pub(crate) struct Streams {
    /// The log of our daemon's containers.
    pub(crate) log: Option<LogFile>,
    /// containerd, as a client that stays.
    pub(crate) attached: Attachments,
    /// The other ends of its FIFOs.
    pub(crate) held: Option<Box<Held>>,
    /// What the process gets.
    pub(crate) wanted: Wanted,
    /// The input ends for good with the first client's.
    pub(crate) once: bool,
}

impl Streams {
    /// Opens what the request names; nothing is left open when any of it cannot be had. `key`: containerd's
    /// as a client.
    pub(crate) fn open(request: &api::CreateTaskRequest, key: u32, poll: &Poll) -> Result<Self, Refusal> {
        let addresses = [&request.stdin, &request.stdout, &request.stderr];
        if addresses.iter().any(|address| address.starts_with('/')) {
            return Self::fifos(request, key, poll);
        }
        let log = open_log(&request.stdout)?;
        if !request.stderr.is_empty() && request.stderr != request.stdout {
            return Err(Refusal::invalid("stderr: goes where stdout goes; want the same address or none"));
        }
        let (stdin, once) = match request.stdin.as_str() {
            "" => (false, false),
            STDIN_HELD => (true, false),
            // A terminal stays open: its input has no end.
            STDIN_ONCE => (true, !request.terminal),
            _ => {
                return Err(Refusal::invalid(format!(
                    "stdin: want nothing, {STDIN_HELD}, {STDIN_ONCE} or an absolute path"
                )));
            }
        };
        // Output without a log is read all the same: clients may attach.
        let output = !request.stdout.is_empty();
        let wanted = Wanted { terminal: request.terminal, stdin, output };
        Ok(Self { log, attached: Attachments::default(), held: None, wanted, once })
    }

    fn fifos(request: &api::CreateTaskRequest, key: u32, poll: &Poll) -> Result<Self, Refusal> {
        let stdin = Ends::input("stdin", fifo("stdin", &request.stdin)?)?;
        let mut stdout = Ends::output("stdout", fifo("stdout", &request.stdout)?)?;
        // A terminal has no error output of its own: containerd names a FIFO all the same, and nobody opens it.
        let stderr = fifo("stderr", &request.stderr)?;
        let mut stderr = if request.terminal { Ends::default() } else { Ends::output("stderr", stderr)? };
        let wanted = Wanted {
            terminal: request.terminal,
            stdin: stdin.own.is_some(),
            output: stdout.own.is_some() || stderr.own.is_some(),
        };
        let held = Held {
            stdin: stdin.other,
            outputs: [Pair::of(&mut stdout)?, Pair::of(&mut stderr)?],
            look_at: None,
            pause: SOON,
        };
        let mut attached = Attachments::default();
        let added = attached.add_lasting(key, stdin.own, stdout.own, stderr.own, poll);
        if let Err(e) = added {
            attached.close(poll);
            return Err(Refusal::internal("watch the streams", &e));
        }
        Ok(Self { log: None, attached, held: Some(Box::new(held)), wanted, once: !request.terminal })
    }
}

/// The address of a FIFO, or nothing.
fn fifo<'a>(field: &str, address: &'a str) -> Result<Address<'a>, Refusal> {
    match Address::parse(field, address) {
        Ok(fine @ (Address::Nothing(false) | Address::Held(_))) => Ok(fine),
        Ok(Address::Nothing(true) | Address::Bound(_)) | Err(_) => {
            // `binary:`, `file:` and streams of containerd among them.
            Err(Refusal::invalid(format!("{field}: want nothing or the absolute path of a FIFO")))
        }
    }
}

/// Opens the log that an address asks for.
fn open_log(address: &str) -> Result<Option<LogFile>, Refusal> {
    if address.is_empty() || address == LOG_SCHEME {
        return Ok(None);
    }
    let Some((directory, path)) = log_place(address) else {
        return Err(Refusal::invalid(format!(
            "stdout: want {LOG_SCHEME}//<directory>//<path>, or the absolute path of a FIFO"
        )));
    };
    let log = LogFile::open(Path::new(directory), Path::new(path));
    log.map(Some).map_err(|e| Refusal::invalid(format!("stdout: {}", chain(&e))))
}

/// Both ends of an output's FIFO.
#[derive(Debug)]
struct Pair {
    reader: OwnedFd,
    /// Whoever opens the FIFO to read it would wait without.
    _writer: OwnedFd,
}

impl Pair {
    fn of(ends: &mut Ends) -> Result<Option<Self>, Refusal> {
        let (Some(own), Some(reader)) = (&ends.own, ends.other.take()) else { return Ok(None) };
        let copy = fcntl_dupfd_cloexec(own, 3).map_err(|e| Refusal::internal("copy a descriptor", &e))?;
        Ok(Some(Self { reader, _writer: copy }))
    }

    fn is_empty(&self) -> bool {
        ioctl_fionread(&self.reader).is_ok_and(|bytes| bytes == 0)
    }
}

/// The ends of containerd's FIFOs that keep them open.
#[derive(Debug)]
pub(crate) struct Held {
    /// Writing end of the input.
    stdin: Option<OwnedFd>,
    outputs: [Option<Pair>; 2],
    look_at: Option<Instant>,
    pause: Duration,
}

impl Held {
    /// CloseIO: the input ends when containerd's own end of it is closed and all is read.
    pub(crate) fn end_input(&mut self) {
        self.stdin = None;
    }

    /// Lets go of the FIFOs of outputs that are at their end and read; looks again later at those that are
    /// not read.
    pub(crate) fn let_go(&mut self, output: &Output, now: Instant) {
        self.look_at = None;
        for (pair, stream) in self.outputs.iter_mut().zip([Stream::Stdout, Stream::Stderr]) {
            if output.is_open(stream) || output.attached.is_behind() {
                continue;
            }
            pair.take_if(|pair| pair.is_empty());
            if pair.is_some() {
                self.look_at = Some(now + self.pause);
            }
        }
        if self.look_at.is_some() {
            self.pause = (self.pause * 2).min(LATE);
        }
    }

    /// When it is to be looked at again.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.look_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Scratch;
    use crate::testing::Directory;
    use std::io::{Read as _, Write as _};
    use sys::rustix::fs::{CWD, Mode, OFlags, mkfifoat, open};
    use types::shim::LOG_LINE_DEFAULT;

    fn request(stdin: &str, stdout: &str, stderr: &str) -> api::CreateTaskRequest {
        api::CreateTaskRequest {
            stdin: stdin.to_owned(),
            stdout: stdout.to_owned(),
            stderr: stderr.to_owned(),
            ..api::CreateTaskRequest::default()
        }
    }

    fn fifo(directory: &Directory, name: &str) -> String {
        let path = directory.0.join(name);
        mkfifoat(CWD, &path, Mode::from_raw_mode(0o600)).expect("mkfifo");
        path.to_str().expect("utf-8").to_owned()
    }

    fn refused(request: &api::CreateTaskRequest) -> String {
        let poll = Poll::new().expect("epoll");
        Streams::open(request, 1, &poll).expect_err("refused").message
    }

    #[test]
    fn an_address_that_is_none_is_refused_by_its_field() {
        let directory = Directory::new();
        let path = fifo(&directory, "out");
        for (request, field) in [
            (request("", &path, "binary:///bin/x"), "stderr: "),
            (request("cri-stdin:", &path, ""), "stdin: "),
            (request("", "file:///x", ""), "stdout: "),
            (request("pipe", "", ""), "stdin: "),
            (request("", "cri-log://a//b", "cri-log:"), "stdout: "),
            (request("", "/nonexistent", ""), "stdout: "),
        ] {
            let message = refused(&request);
            assert!(message.starts_with(field), "{message}");
        }
    }

    #[test]
    fn what_is_not_read_outlives_its_process_and_the_reader_is_told_the_end() {
        let directory = Directory::new();
        let path = fifo(&directory, "out");
        let poll = Poll::new().expect("epoll");
        let streams = Streams::open(&request("", &path, ""), 1, &poll).expect("open");
        assert_eq!((streams.wanted.stdin, streams.wanted.output), (false, true));
        let (reader, mut process) = std::io::pipe().expect("pipe");
        sys::rustix::io::ioctl_fionbio(&reader, true).expect("non-blocking");
        let mut output = Output::new(streams.log, LOG_LINE_DEFAULT, Some(reader.into()), None);
        output.attached = streams.attached;
        let mut held = streams.held.expect("a FIFO");
        process.write_all(b"last words").expect("write");
        held.let_go(&output, Instant::now());
        assert_eq!(held.deadline(), None, "nothing has ended");
        drop(process);
        assert!(output.drain(&poll, &mut Scratch::default()));
        let now = Instant::now();
        held.let_go(&output, now);
        assert_eq!(held.deadline(), Some(now + SOON));
        held.let_go(&output, now);
        assert_eq!(held.deadline(), Some(now + SOON * 2), "less often each time");
        // Not a moment is waited for a writer: a containerd that has just come finds what was said before.
        let fd = open(path.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).expect("open");
        let mut late = std::fs::File::from(fd);
        let mut words = [0; 10];
        late.read_exact(&mut words).expect("read");
        assert_eq!(&words, b"last words");
        held.let_go(&output, now);
        assert_eq!(held.deadline(), None);
        assert_eq!(late.read(&mut [0]).expect("the end"), 0);
    }
}
