//! One client: bytes in, calls out; answers in any order, also long after their call. A client may
//! stop reading, send rubbish or vanish at any time, and only its own calls notice.

use crate::wire::{self, Frame, Payload, Refusal};
use std::collections::VecDeque;
use std::io;
use sys::rustix::buffer::spare_capacity;
use sys::rustix::fd::OwnedFd;
use sys::rustix::io::Errno;
use sys::rustix::net::{SendFlags, send};
use ttrpc::proto::Request;

/// Where the answer of a call goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReplyTo {
    /// Which connection.
    pub(crate) connection: u32,
    /// Which of its streams.
    pub(crate) stream: u32,
}

/// A call that came in.
#[derive(Debug)]
pub(crate) struct Call {
    /// Where its answer goes.
    pub(crate) reply_to: ReplyTo,
    /// What is asked.
    pub(crate) request: Box<Request>,
}

/// The client is gone or is none; the reason is for the shim's own log, empty for an orderly end.
#[derive(Debug)]
pub(crate) struct Closed(pub(crate) String);

impl Closed {
    fn by(what: &str, errno: Errno) -> Self {
        match errno {
            // It ended without waiting for its answers, as a daemon does that is killed.
            Errno::PIPE | Errno::CONNRESET => Self(String::new()),
            errno => Self(format!("{what}: {}", io::Error::from(errno))),
        }
    }
}

/// Answers that wait in memory before the client's requests are no longer read.
const MAX_QUEUED: usize = 4 << 20;
/// Parts of an answer up to this size are joined to one write.
const JOIN: usize = 16 << 10;

/// A connected client.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Its name in this shim.
    pub(crate) id: u32,
    /// Its socket, not blocking.
    pub(crate) socket: OwnedFd,
    input: Vec<u8>,
    /// Bytes of a refused frame that are still to be dropped.
    skip: usize,
    output: VecDeque<Vec<u8>>,
    /// Bytes of the first part that are written.
    sent: usize,
    queued: usize,
}

impl Connection {
    /// A client on `socket`.
    pub(crate) fn new(id: u32, socket: OwnedFd) -> Self {
        Self { id, socket, input: Vec::new(), skip: 0, output: VecDeque::new(), sent: 0, queued: 0 }
    }

    /// Whether its requests are read now.
    pub(crate) fn wants_read(&self) -> bool {
        self.queued < MAX_QUEUED
    }

    /// Whether answers wait for room.
    pub(crate) fn wants_write(&self) -> bool {
        !self.output.is_empty()
    }

    /// Reads once and gives the calls that are complete.
    ///
    /// `scratch` is empty and has room.
    pub(crate) fn receive(&mut self, scratch: &mut Vec<u8>) -> Result<Vec<Call>, Closed> {
        match sys::rustix::io::read(&self.socket, spare_capacity(scratch)) {
            Ok(0) => return Err(Closed(String::new())),
            Ok(_) => {}
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Vec::new()),
            Err(e) => return Err(Closed::by("read", e)),
        }
        self.input.extend_from_slice(scratch);
        let mut calls = Vec::new();
        let mut at = 0;
        loop {
            let dropped = self.skip.min(self.input.len() - at);
            at += dropped;
            self.skip -= dropped;
            match wire::parse(&self.input[at..]) {
                Frame::Incomplete => break,
                Frame::Request { stream, used, request } => {
                    at += used;
                    calls.push(Call { reply_to: ReplyTo { connection: self.id, stream }, request });
                }
                Frame::Refused { stream, used, refusal } => {
                    self.skip = used;
                    self.answer(stream, Err(refusal));
                }
                Frame::Broken(reason) => return Err(Closed(reason)),
            }
        }
        if at == self.input.len() {
            // The next request is most likely small, and an idle connection should hold nothing.
            self.input = Vec::new();
        } else {
            self.input.drain(..at);
        }
        Ok(calls)
    }

    /// Takes an answer; it is written by [`Self::transmit`].
    pub(crate) fn answer(&mut self, stream: u32, answer: Result<Payload, Refusal>) {
        let parts = wire::response(stream, answer);
        let size: usize = parts.iter().map(Vec::len).sum();
        self.queued += size;
        if size <= JOIN {
            self.output.push_back(parts.concat());
        } else {
            self.output.extend(parts);
        }
    }

    /// Writes what the socket takes.
    pub(crate) fn transmit(&mut self) -> Result<(), Closed> {
        while let Some(part) = self.output.front() {
            match send(&self.socket, &part[self.sent..], SendFlags::NOSIGNAL) {
                Ok(count) => {
                    self.sent += count;
                    self.queued -= count;
                    if self.sent == part.len() {
                        self.output.pop_front();
                        self.sent = 0;
                    }
                }
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(e) => return Err(Closed::by("write", e)),
            }
        }
        self.output = VecDeque::new();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protobuf::Message as _;
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    fn pair() -> (Connection, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("socket pair");
        ours.set_nonblocking(true).expect("non-blocking");
        (Connection::new(1, ours.into()), theirs)
    }

    fn request(stream: u32, payload: usize) -> Vec<u8> {
        let body = Request { method: "M".to_owned(), payload: vec![1; payload], ..Request::default() };
        let body = body.write_to_bytes().expect("encode");
        let mut frame = u32::try_from(body.len()).expect("small").to_be_bytes().to_vec();
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(&[1, 0]);
        frame.extend_from_slice(&body);
        frame
    }

    fn streams(connection: &mut Connection) -> Vec<u32> {
        let calls = connection.receive(&mut Vec::with_capacity(4096)).expect("open");
        calls.iter().map(|call| call.reply_to.stream).collect()
    }

    #[test]
    fn requests_are_found_however_the_bytes_are_cut() {
        let (mut connection, mut client) = pair();
        let bytes = [request(1, 3), request(3, 0), request(5, 900)].concat();
        let mut seen = Vec::new();
        for chunk in bytes.chunks(7) {
            client.write_all(chunk).expect("write");
            seen.extend(streams(&mut connection));
        }
        assert_eq!(seen, [1, 3, 5]);
        client.write_all(&bytes).expect("write");
        assert_eq!(streams(&mut connection), [1, 3, 5]);
        assert_eq!(connection.input.capacity(), 0, "an idle connection holds no buffer");
    }

    #[test]
    fn an_oversized_request_is_refused_and_the_next_one_is_served() {
        let (mut connection, mut client) = pair();
        let length = wire::MAX_REQUEST + 1;
        let mut head = u32::try_from(length).expect("small").to_be_bytes().to_vec();
        head.extend_from_slice(&[0, 0, 0, 7, 1, 0]);
        client.write_all(&head).expect("write");
        let mut left = length;
        while left > 0 {
            let chunk = left.min(4096);
            client.write_all(&vec![b'x'; chunk]).expect("write");
            left -= chunk;
            assert_eq!(streams(&mut connection), [] as [u32; 0]);
            assert!(connection.input.len() < 8192, "the frame is not kept");
        }
        client.write_all(&request(9, 1)).expect("write");
        assert_eq!(streams(&mut connection), [9]);
        connection.transmit().expect("open");
        let mut answer = [0; 10];
        client.read_exact(&mut answer).expect("refusal");
        assert_eq!(answer[4..9], [0, 0, 0, 7, 2]);
    }

    #[test]
    fn a_client_that_does_not_read_is_not_read_from_and_loses_nothing() {
        let (mut connection, mut client) = pair();
        let parts = vec![vec![1; 3 << 20], vec![2; 3 << 20]];
        connection.answer(1, Ok(Payload(parts)));
        connection.transmit().expect("open");
        assert!(connection.wants_write() && !connection.wants_read());
        let total = wire::HEADER + 5 + (6 << 20);
        let mut got = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        while got.len() < total {
            let count = client.read(&mut buffer).expect("read");
            got.extend_from_slice(&buffer[..count]);
            connection.transmit().expect("open");
        }
        assert!(!connection.wants_write() && connection.wants_read());
        assert_eq!(got.len(), total);
        assert_eq!((got[15], got[total - 1]), (1, 2));
    }

    #[test]
    fn a_vanished_client_and_a_stranger_are_told_as_closed() {
        let (mut connection, client) = pair();
        drop(client);
        assert!(connection.receive(&mut Vec::with_capacity(64)).is_err());
        let (mut connection, mut client) = pair();
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("write");
        assert!(connection.receive(&mut Vec::with_capacity(64)).is_err());
    }
}
