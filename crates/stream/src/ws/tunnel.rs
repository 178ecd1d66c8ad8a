//! `SPDY/3.1+portforward.k8s.io`: the bytes of a SPDY connection, in binary messages whose borders mean
//! nothing (client-go:tools/portforward/tunneling_connection.go).

use super::{
    frame::{Decoder, Item, Kind, Opcode, Role},
    socket::{Code, Pong, READ_BUSY, Writer},
};
use bytes::{Buf, Bytes, BytesMut};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, WriteHalf};

/// What is read at once, and so what a tunnel holds for reading.
const READ: usize = 16 << 10;

/// A websocket that is read and written like the connection that it carries. Its end is the end of the
/// other side's bytes, and shutting it down closes the websocket.
#[derive(Debug)]
pub(crate) struct Tunnel<S> {
    read: ReadHalf<S>,
    decoder: Decoder,
    arrived: BytesMut,
    /// Payload that nobody has taken yet.
    payload: Bytes,
    ended: bool,
    writer: Writer<WriteHalf<S>>,
    pong: Pong,
    /// Who waits for room to write: a reader that answers a ping must not take its place.
    waiting: Option<Waker>,
}

impl<S: AsyncRead + AsyncWrite> Tunnel<S> {
    /// Over a connection that was upgraded to a websocket.
    pub(crate) fn new(io: S, role: Role) -> Tunnel<S> {
        let (read, write) = tokio::io::split(io);
        let pong = Pong::default();
        Tunnel {
            read,
            decoder: Decoder::new(role),
            arrived: BytesMut::new(),
            payload: Bytes::new(),
            ended: false,
            writer: Writer::new(write, role, pong.clone()),
            pong,
            waiting: None,
        }
    }

    /// Takes payload from what arrived; false if more must arrive first.
    fn decode(&mut self) -> io::Result<bool> {
        while !self.arrived.is_empty() {
            let wrong = |error| io::Error::new(io::ErrorKind::InvalidData, error);
            let (taken, item) = self.decoder.decode(&mut self.arrived).map_err(wrong)?;
            let mut bytes = self.arrived.split_to(taken);
            match item {
                Some(Item::Data(piece)) => {
                    bytes.truncate(piece.at.end);
                    bytes.advance(piece.at.start);
                    self.payload = bytes.freeze();
                    if !self.payload.is_empty() {
                        return Ok(true);
                    }
                }
                Some(Item::Ping(payload)) => self.pong.owe(payload),
                Some(Item::Close(_)) => {
                    self.ended = true;
                    return Ok(true);
                }
                Some(Item::Pong) => {}
                None => return Ok(false),
            }
        }
        Ok(false)
    }

    /// Sends a pong that is owed, unless somebody is writing, who will.
    fn answer(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.waiting.is_none() && self.pong.is_owed() {
            match self.writer.poll_drain(cx) {
                Poll::Ready(sent) => sent?,
                Poll::Pending => {}
            }
        }
        Ok(())
    }

    /// Remembers that a writer waits.
    fn wait<T>(&mut self, cx: &Context<'_>, polled: Poll<T>) -> Poll<T> {
        self.waiting = polled.is_pending().then(|| cx.waker().clone());
        polled
    }
}

impl<S: AsyncRead + AsyncWrite> AsyncRead for Tunnel<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.payload.is_empty() {
                let length = this.payload.len().min(buf.remaining());
                buf.put_slice(&this.payload.split_to(length));
                return Poll::Ready(Ok(()));
            }
            if this.ended {
                return Poll::Ready(Ok(()));
            }
            let decoded = this.decode()?;
            this.answer(cx)?;
            if decoded {
                continue;
            }
            let mut fresh = BytesMut::zeroed(this.arrived.len() + READ);
            fresh[..this.arrived.len()].copy_from_slice(&this.arrived);
            let mut room = ReadBuf::new(&mut fresh[this.arrived.len()..]);
            ready!(Pin::new(&mut this.read).poll_read(cx, &mut room))?;
            let read = room.filled().len();
            // Without a close, too: nothing else tells a SPDY connection that its client is gone.
            this.ended = read == 0;
            fresh.truncate(this.arrived.len() + read);
            this.arrived = fresh;
        }
    }
}

impl<S: AsyncRead + AsyncWrite> AsyncWrite for Tunnel<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let drained = this.writer.poll_drain(cx);
        ready!(this.wait(cx, drained))?;
        let length = buf.len().min(READ_BUSY);
        this.writer.begin(Opcode::Message(Kind::Binary), None, Bytes::copy_from_slice(&buf[..length]))?;
        // What does not go now goes with the next write or flush.
        if let Poll::Ready(sent) = this.writer.poll_drain(cx) {
            sent?;
        }
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let drained = this.writer.poll_drain(cx);
        this.wait(cx, drained)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let closed = this.writer.poll_close(cx, Code::Normal, "");
        ready!(this.wait(cx, closed))?;
        let shut = this.writer.poll_shutdown(cx);
        this.wait(cx, shut)
    }
}
