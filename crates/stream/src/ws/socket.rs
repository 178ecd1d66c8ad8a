//! A websocket on a connection that was upgraded: pieces of messages in, whole messages out.
//!
//! The two halves are apart, so that a peer that does not read cannot keep us from reading. A frame that
//! was begun is owned by the [`Writer`], not by the future that sends it: a cancelled write leaves no torn
//! frame, the next one finishes it.

use super::frame::{
    CONTROL_MAX, Close, Decoder, FrameError, Head, Item, Kind, Opcode, Payload, Piece, Role, unmask,
};
use bytes::{Buf, Bytes, BytesMut};
use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};

/// What an idle connection holds for reading.
const READ_IDLE: usize = 4 << 10;
/// What a busy one holds; also the longest piece of a message.
pub(crate) const READ_BUSY: usize = 64 << 10;

/// Close codes that we send (RFC 6455, section 7.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Code {
    /// The session is over.
    Normal = 1000,
    /// The server ends.
    Away = 1001,
    /// The peer broke the protocol.
    Protocol = 1002,
    /// Data is not what it should be: base64.
    Invalid = 1007,
    /// The peer used what is not its own.
    Policy = 1008,
}

/// What came, with its bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// A piece of a message, at most [`READ_BUSY`] bytes; with `last` the message is whole.
    Piece {
        /// Its bytes; may be empty at the end of a message.
        bytes: Bytes,
        /// How the message is meant.
        kind: Kind,
        /// The message is whole.
        last: bool,
    },
    /// To be answered: [`Pong::owe`].
    Ping(Payload),
    /// A sign of life.
    Pong,
    /// The peer is done.
    Close(Close),
    /// The connection ended without a word.
    End,
}

/// Why nothing more can be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The peer does not speak as it should.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The connection broke.
    #[error("the connection broke")]
    Io(#[source] io::Error),
}

/// The reading half.
#[derive(Debug)]
pub(crate) struct Reader<R> {
    io: R,
    decoder: Decoder,
    buf: BytesMut,
    busy: bool,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Reads as `role`.
    pub(crate) fn new(io: R, role: Role) -> Reader<R> {
        Reader { io, decoder: Decoder::new(role), buf: BytesMut::new(), busy: false }
    }

    /// The next that comes. Cancelled it loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Received, ReadError> {
        loop {
            if !self.buf.is_empty() {
                let (taken, item) = self.decoder.decode(&mut self.buf)?;
                let mut bytes = self.buf.split_to(taken);
                match item {
                    Some(Item::Data(Piece { kind, at, last, .. })) => {
                        bytes.truncate(at.end);
                        bytes.advance(at.start);
                        return Ok(Received::Piece { bytes: bytes.freeze(), kind, last });
                    }
                    Some(Item::Ping(payload)) => return Ok(Received::Ping(payload)),
                    Some(Item::Pong) => return Ok(Received::Pong),
                    Some(Item::Close(close)) => return Ok(Received::Close(close)),
                    None => {}
                }
            }
            if !self.fill().await.map_err(ReadError::Io)? {
                return Ok(Received::End);
            }
        }
    }

    /// Waits for the peer's close, or its end, passing over everything else.
    pub(crate) async fn close(&mut self) {
        loop {
            match self.next().await {
                Ok(Received::Close(_) | Received::End) | Err(_) => return,
                Ok(Received::Piece { .. } | Received::Ping(_) | Received::Pong) => {}
            }
        }
    }

    /// Waits for the connection's end, whatever the peer still sends: it is not understood any more.
    ///
    /// # Errors
    /// The connection's.
    pub(crate) async fn end(&mut self) -> io::Result<()> {
        self.buf.clear();
        while self.fill().await? {
            self.buf.clear();
        }
        Ok(())
    }

    /// Bytes that its buffer takes.
    #[cfg(test)]
    pub(crate) fn holds(&self) -> usize {
        self.buf.capacity()
    }

    /// Reads what there is; false at the end. The buffer is as large as the last read was: one that nobody
    /// fills is given back.
    async fn fill(&mut self) -> io::Result<bool> {
        let size = if self.busy { READ_BUSY } else { READ_IDLE };
        let mut fresh = BytesMut::with_capacity(size.max(self.buf.len() + READ_IDLE));
        fresh.extend_from_slice(&self.buf);
        self.buf = fresh;
        let room = self.buf.capacity() - self.buf.len();
        let read = self.io.read_buf(&mut self.buf).await?;
        self.busy = read == room;
        Ok(read != 0)
    }
}

/// The pong that is owed. Of several pings only the last needs an answer (RFC 6455, section 5.5.3).
#[derive(Clone, Debug, Default)]
pub(crate) struct Pong(Arc<Mutex<Option<Payload>>>);

impl Pong {
    /// Owes it; it goes out with whatever is sent or drained next.
    pub(crate) fn owe(&self, payload: Payload) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(payload);
    }

    /// Whether one is owed.
    pub(crate) fn is_owed(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn take(&self) -> Option<Payload> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The writing half.
#[derive(Debug)]
pub(crate) struct Writer<W> {
    io: W,
    mask: Option<Masks>,
    /// What is left of the frame that was begun: its head, with the payload's first byte, and the rest.
    head: Bytes,
    body: Bytes,
    unflushed: bool,
    pong: Pong,
    closed: bool,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// Writes as `role`.
    pub(crate) fn new(io: W, role: Role, pong: Pong) -> Writer<W> {
        let mask = match role {
            Role::Server => None,
            Role::Client => Some(Masks::default()),
        };
        Writer { io, mask, head: Bytes::new(), body: Bytes::new(), unflushed: false, pong, closed: false }
    }

    /// Sends a message whose first byte is `first`.
    ///
    /// # Errors
    /// The connection's, or that it is closed.
    pub(crate) async fn message(&mut self, kind: Kind, first: u8, rest: &[u8]) -> io::Result<()> {
        self.drain().await?;
        if self.mask.is_some() {
            self.begin(Opcode::Message(kind), Some(first), Bytes::copy_from_slice(rest))?;
            return self.drain().await;
        }
        self.begin_head(Opcode::Message(kind), Some(first), rest.len())?;
        let mut borrowed = Borrowed { writer: self, rest };
        poll_fn(|cx| borrowed.poll(cx)).await?;
        drop(borrowed);
        self.drain().await
    }

    /// Sends what was begun or is owed.
    ///
    /// # Errors
    /// The connection's.
    pub(crate) async fn drain(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_drain(cx)).await
    }

    /// Says that we are done; after it nothing can be sent. Twice is once.
    ///
    /// # Errors
    /// The connection's.
    pub(crate) async fn close(&mut self, code: Code, reason: &str) -> io::Result<()> {
        poll_fn(|cx| self.poll_close(cx, code, reason)).await
    }

    /// Ends the connection's writing side.
    ///
    /// # Errors
    /// The connection's.
    pub(crate) async fn shutdown(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_shutdown(cx)).await
    }

    /// As [`Writer::close`].
    pub(crate) fn poll_close(
        &mut self,
        cx: &mut Context<'_>,
        code: Code,
        reason: &str,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        if !self.closed {
            let reason = &reason.as_bytes()[..reason.floor_char_boundary(CONTROL_MAX - 2)];
            let payload = [&(code as u16).to_be_bytes(), reason].concat();
            self.begin(Opcode::Close, None, payload.into())?;
            self.closed = true;
        }
        self.poll_drain(cx)
    }

    /// As [`Writer::shutdown`].
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    /// Makes a frame the one that is sent. Nothing else may be under way.
    pub(crate) fn begin(&mut self, opcode: Opcode, first: Option<u8>, body: Bytes) -> io::Result<()> {
        let mask = self.begin_head(opcode, first, body.len())?;
        self.body = match mask {
            Some(mask) => {
                let mut masked = BytesMut::from(body);
                unmask(&mut masked, mask, usize::from(first.is_some()));
                masked.freeze()
            }
            None => body,
        };
        Ok(())
    }

    /// The head of a frame; whoever asks for it sends the rest, under the mask that this gives.
    fn begin_head(&mut self, opcode: Opcode, first: Option<u8>, rest: usize) -> io::Result<Option<[u8; 4]>> {
        if self.closed {
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the websocket is closed"));
        }
        let mask = self.mask.as_mut().map(Masks::next).transpose()?;
        let head = Head::new(opcode, rest + usize::from(first.is_some()), mask);
        let mut start = Vec::with_capacity(head.bytes().len() + 1);
        start.extend_from_slice(head.bytes());
        start.extend(first.map(|first| first ^ mask.unwrap_or_default()[0]));
        self.head = start.into();
        Ok(mask)
    }

    /// Sends what was begun, then a pong that is owed; ready when nothing is left of either.
    pub(crate) fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while !self.head.is_empty() || !self.body.is_empty() {
                let sent = ready!(poll_parts(&mut self.io, cx, &self.head, &self.body))?;
                let of_head = sent.min(self.head.len());
                self.head.advance(of_head);
                self.body.advance(sent - of_head);
                self.unflushed = true;
            }
            self.body = Bytes::new();
            if self.closed {
                break;
            }
            let Some(payload) = self.pong.take() else { break };
            self.begin(Opcode::Pong, None, payload)?;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

/// A frame whose payload is somebody else's: what is not sent of it when the future goes is copied.
struct Borrowed<'a, W> {
    writer: &'a mut Writer<W>,
    rest: &'a [u8],
}

impl<W: AsyncWrite + Unpin> Borrowed<'_, W> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.writer.head.is_empty() || !self.rest.is_empty() {
            let sent = ready!(poll_parts(&mut self.writer.io, cx, &self.writer.head, self.rest))?;
            let of_head = sent.min(self.writer.head.len());
            self.writer.head.advance(of_head);
            self.rest = &self.rest[sent - of_head..];
            self.writer.unflushed = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl<W> Drop for Borrowed<'_, W> {
    fn drop(&mut self) {
        self.writer.body = Bytes::copy_from_slice(self.rest);
    }
}

/// Writes from two slices, at least one of which has something, as if they were one.
fn poll_parts<W: AsyncWrite + Unpin>(
    io: &mut W,
    cx: &mut Context<'_>,
    head: &[u8],
    body: &[u8],
) -> Poll<io::Result<usize>> {
    let sent = match (head, body) {
        ([], one) | (one, []) => ready!(Pin::new(io).poll_write(cx, one))?,
        _ => {
            let parts = [io::IoSlice::new(head), io::IoSlice::new(body)];
            ready!(Pin::new(io).poll_write_vectored(cx, &parts))?
        }
    };
    Poll::Ready(if sent == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(sent) })
}

/// Where a client's masks come from: they must not be foreseen (RFC 6455, section 10.3).
#[derive(Debug, Default)]
struct Masks {
    left: Vec<u8>,
}

impl Masks {
    fn next(&mut self) -> io::Result<[u8; 4]> {
        if self.left.len() < 4 {
            self.left.resize(256, 0);
            let flags = sys::rustix::rand::GetRandomFlags::empty();
            let got = sys::rustix::rand::getrandom(&mut self.left[..], flags)?;
            self.left.truncate(got);
        }
        let mask = self.left.last_chunk::<4>().copied();
        self.left.truncate(self.left.len().saturating_sub(4));
        mask.ok_or_else(|| io::Error::other("the kernel gave no random bytes"))
    }
}
