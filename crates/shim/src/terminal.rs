//! A terminal between a process and two FIFOs: what it shows goes to one, what the other has is typed.
//!
//! Nothing here waits and nothing piles up: while one side does not take what was read for it, the side
//! that it came from is not read. When nobody reads the output any more, the terminal is hung up.

use crate::fifo;
use crate::output::{Progress, ROUNDS, Scratch};
use crate::poll::{End, Interest, Poll, Source, Watched};
use crate::spill::Spill;
use std::io;
use sys::rustix::buffer::spare_capacity;
use sys::rustix::fd::OwnedFd;
use sys::rustix::io::Errno;
use sys::rustix::termios::{Winsize, tcsetwinsize};

/// A terminal's end on this side, and its client.
#[derive(Debug)]
pub(crate) struct Terminal {
    master: Watched,
    /// None: nobody types, or the client has ended its input.
    input: Option<Watched>,
    /// None: what is shown is read and dropped.
    output: Option<Watched>,
    /// Read from the master.
    shown: Spill,
    /// Read from the client.
    typed: Spill,
    /// The process's side is closed.
    ended: bool,
}

impl Terminal {
    /// Connects them; none of the descriptors may block. `key` is the session's.
    pub(crate) fn new(key: u32, master: OwnedFd, input: Option<OwnedFd>, output: Option<OwnedFd>) -> Self {
        let watched = |fd, end| Watched::new(fd, Source::Session(key, end));
        Self {
            master: watched(master, End::Terminal),
            input: input.map(|fd| watched(fd, End::Stdin)),
            output: output.map(|fd| watched(fd, End::Stdout)),
            shown: Spill::default(),
            typed: Spill::default(),
            ended: false,
        }
    }

    /// Sets its size.
    pub(crate) fn resize(&self, size: Winsize) -> io::Result<()> {
        Ok(tcsetwinsize(self.master.fd(), size)?)
    }

    /// Whether somebody reads what it shows.
    pub(crate) fn has_output(&self) -> bool {
        self.output.is_some()
    }

    /// Reads no more from the client.
    pub(crate) fn end_input(&mut self, poll: &Poll) {
        if let Some(input) = self.input.take() {
            input.close(poll);
        }
        self.typed.clear();
    }

    /// Something happened at one of its ends. False: hang up.
    pub(crate) fn on(&mut self, end: End, poll: &Poll, scratch: &mut Scratch) -> bool {
        let goes_on = match end {
            End::Terminal => {
                self.type_on(poll);
                self.show(scratch).is_ok()
            }
            End::Stdin => {
                self.read_input(poll, scratch);
                true
            }
            End::Stdout => self.show_on().is_ok(),
            End::Stderr => true,
        };
        goes_on && self.watch(poll).is_ok()
    }

    /// Brings the poll in step with what can go on.
    pub(crate) fn watch(&mut self, poll: &Poll) -> io::Result<()> {
        // A hang-up is told whatever is asked for: what is not served now must not be watched at all.
        let master = Interest { read: self.shown.is_empty() && !self.ended, write: !self.typed.is_empty() };
        self.master.watch(poll, (master.read || master.write).then_some(master))?;
        if let Some(input) = &mut self.input {
            input.watch(poll, self.typed.is_empty().then_some(Interest::READ))?;
        }
        if let Some(output) = &mut self.output {
            output.watch(poll, Some(Interest { read: false, write: !self.shown.is_empty() }))?;
        }
        Ok(())
    }

    /// After the process's end: shows what is left. True when all of it is with the client, or nobody
    /// wants it.
    pub(crate) fn drain(&mut self, poll: &Poll, scratch: &mut Scratch) -> bool {
        self.end_input(poll);
        let mut rounds = ROUNDS;
        loop {
            if self.show_on().is_err() {
                return true;
            }
            match self.show(scratch) {
                Ok(Progress::More) if rounds > 0 => rounds -= 1,
                // Somebody of the container may have opened the terminal anew: that is not waited for.
                Ok(Progress::Empty | Progress::Ended) | Err(_) => return true,
                Ok(Progress::More | Progress::Stuck) => break,
            }
        }
        self.watch(poll).is_err()
    }

    /// Hangs up: whoever has this terminal gets SIGHUP, and the client's FIFOs are closed.
    pub(crate) fn close(self, poll: &Poll) {
        for end in [Some(self.master), self.input, self.output].into_iter().flatten() {
            end.close(poll);
        }
    }

    /// Reads what is shown, once.
    fn show(&mut self, scratch: &mut Scratch) -> io::Result<Progress> {
        if !self.shown.is_empty() {
            return Ok(Progress::Stuck);
        }
        if self.ended {
            return Ok(Progress::Ended);
        }
        let buffer = scratch.read();
        match sys::rustix::io::read(self.master.fd(), spare_capacity(buffer)) {
            Ok(0) => self.ended = true,
            Ok(_) => {}
            Err(Errno::AGAIN) => return Ok(Progress::Empty),
            Err(Errno::INTR) => return Ok(Progress::More),
            // EIO: the last other end is closed.
            Err(_) => self.ended = true,
        }
        if self.ended {
            return Ok(Progress::Ended);
        }
        if let Some(output) = &self.output {
            self.shown.write(output.fd(), buffer)?;
        }
        Ok(if self.shown.is_empty() { Progress::More } else { Progress::Stuck })
    }

    /// Shows what waits; an error says that nobody reads.
    fn show_on(&mut self) -> io::Result<()> {
        let Some(output) = &self.output else { return Ok(()) };
        if self.shown.is_empty() {
            return if fifo::is_broken(output.fd()) { Err(Errno::PIPE.into()) } else { Ok(()) };
        }
        self.shown.flush(output.fd())
    }

    /// Types what waits. A terminal without a process takes nothing.
    fn type_on(&mut self, poll: &Poll) {
        if !self.typed.is_empty() && self.typed.flush(self.master.fd()).is_err() {
            self.end_input(poll);
        }
    }

    fn read_input(&mut self, poll: &Poll, scratch: &mut Scratch) {
        let Some(input) = self.input.as_ref().filter(|_| self.typed.is_empty()) else { return };
        let buffer = scratch.read();
        let fine = match sys::rustix::io::read(input.fd(), spare_capacity(buffer)) {
            // The end of the input is none for a terminal: a client that means it types it.
            Ok(0) => false,
            Ok(_) => self.typed.write(self.master.fd(), buffer).is_ok(),
            Err(Errno::AGAIN | Errno::INTR) => true,
            Err(_) => false,
        };
        if !fine {
            self.end_input(poll);
        }
    }
}
