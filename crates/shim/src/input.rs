//! A container's standard input, as far as clients write to it: a pipe or its terminal.
//!
//! Several clients' chunks go in one after the other. While the container does not take one, no client
//! is read.

use crate::attach::Attachments;
use crate::output::Scratch;
use crate::poll::{Interest, Poll, Source, Watched};
use crate::spill::Spill;
use sys::rustix::buffer::spare_capacity;
use sys::rustix::fd::OwnedFd;
use sys::rustix::io::Errno;

/// The input.
#[derive(Debug, Default)]
pub(crate) struct Input {
    /// None: /dev/null, or closed for good.
    target: Option<Watched>,
    /// Somebody asked for it when the container was created.
    asked: bool,
    /// It is closed when the first client that writes has ended.
    once: bool,
    /// It is closed when all that waits is written.
    ends: bool,
    waiting: Spill,
}

impl Input {
    /// An input that clients may write to; `target` does not block. `key` is the container's.
    pub(crate) fn new(key: u32, target: OwnedFd, once: bool) -> Self {
        let target = Some(Watched::new(target, Source::Input(key)));
        Self { target, asked: true, once, ends: false, waiting: Spill::default() }
    }

    /// Whether clients may write to it, or might have.
    pub(crate) fn is_asked(&self) -> bool {
        self.asked
    }

    /// Whether it is closed with the first client that writes.
    pub(crate) fn is_once(&self) -> bool {
        self.once
    }

    /// Whether it takes no more.
    pub(crate) fn is_closed(&self) -> bool {
        self.target.is_none() || self.ends
    }

    /// A client wrote, or ended its input.
    pub(crate) fn on_client(
        &mut self,
        client: u32,
        attached: &mut Attachments,
        poll: &Poll,
        scratch: &mut Scratch,
    ) {
        let (Some(target), Some(from)) = (&self.target, attached.input(client)) else { return };
        if !self.waiting.is_empty() {
            return;
        }
        let buffer = scratch.read();
        match sys::rustix::io::read(from, spare_capacity(buffer)) {
            Ok(count) if count > 0 => {
                if self.waiting.write(target.fd(), buffer).is_err() {
                    // The container reads no more.
                    self.close(attached, poll);
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Ok(_) | Err(_) => {
                attached.end_input(client, poll);
                if self.once {
                    self.end(attached, poll);
                }
            }
        }
        self.watch(attached, poll);
    }

    /// The container takes more.
    pub(crate) fn on_target(&mut self, attached: &mut Attachments, poll: &Poll) {
        let Some(target) = &self.target else { return };
        if self.waiting.flush(target.fd()).is_err() || (self.ends && self.waiting.is_empty()) {
            self.close(attached, poll);
        }
        self.watch(attached, poll);
    }

    /// Brings the poll in step: either the clients are read or the container is waited for.
    pub(crate) fn watch(&mut self, attached: &mut Attachments, poll: &Poll) {
        let waits = !self.waiting.is_empty();
        let write = waits.then_some(Interest { read: false, write: true });
        let watched = match &mut self.target {
            Some(target) => target.watch(poll, write).and_then(|()| attached.watch_inputs(!waits, poll)),
            None => Ok(()),
        };
        if watched.is_err() {
            self.close(attached, poll);
        }
    }

    /// No more input comes: closed for good when all that waits is written.
    pub(crate) fn end(&mut self, attached: &mut Attachments, poll: &Poll) {
        attached.end_inputs(poll);
        if self.waiting.is_empty() {
            self.close(attached, poll);
        } else {
            self.ends = true;
        }
    }

    /// Closed for good, now.
    pub(crate) fn close(&mut self, attached: &mut Attachments, poll: &Poll) {
        attached.end_inputs(poll);
        self.waiting.clear();
        if let Some(target) = self.target.take() {
            target.close(poll);
        }
    }
}
