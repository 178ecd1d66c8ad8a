//! The reading end: frames to streams. A frame of data is passed on in pieces as it comes, never collected,
//! and nothing is held while nothing comes.

use super::{Broken, Connection, Role, Stream, locked};
use crate::{
    forward::Piece,
    session::Activity,
    spdy::{
        frame::{self, Control, HEAD, Head, Status},
        headers::Headers,
    },
};
use bytes::{BufMut as _, Bytes, BytesMut};
use std::{
    future::{Future as _, poll_fn},
    io,
    pin::pin,
    sync::atomic::Ordering,
    task::Poll,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    sync::mpsc,
};

/// Longest piece of data that is passed on.
pub(super) const PIECE: usize = 32 << 10;
/// What is read ahead: heads and what is typed, not what is piped.
const AHEAD: usize = 256;

/// Reads a connection to its end.
pub(crate) struct Reader<R> {
    io: R,
    connection: Connection,
    accepted: mpsc::Sender<Stream>,
    activity: Activity,
    ahead: [u8; AHEAD],
    start: usize,
    end: usize,
}

impl<R> std::fmt::Debug for Reader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("connection", &self.connection).finish_non_exhaustive()
    }
}

impl<R> Drop for Reader<R> {
    /// Nothing comes any more: the streams must know.
    fn drop(&mut self) {
        let open = {
            let mut streams = locked(&self.connection.0.streams);
            streams.is_over = true;
            std::mem::take(&mut streams.open)
        };
        for entry in open.values() {
            entry.state.is_reset.store(true, Ordering::Relaxed);
        }
    }
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(super) fn new(
        io: R,
        connection: Connection,
        accepted: mpsc::Sender<Stream>,
        activity: Activity,
    ) -> Reader<R> {
        Reader { io, connection, accepted, activity, ahead: [0; AHEAD], start: 0, end: 0 }
    }

    /// Reads until the other end has nothing more to say. A wrong frame is answered with a goodbye.
    pub(crate) async fn run(mut self) -> Result<(), Broken> {
        let result = self.frames().await;
        if let Err(Broken::Frame(_) | Broken::Headers(_)) = &result {
            self.connection.end(false).await;
        }
        result
    }

    async fn frames(&mut self) -> Result<(), Broken> {
        while let Some(bytes) = self.head().await? {
            self.activity.touch();
            match frame::head(bytes)? {
                Head::Data { stream, fin, length } => self.data(stream, fin, length).await?,
                Head::Control { kind, flags, length } => {
                    let mut body = vec![0; length];
                    self.fill(&mut body).await?;
                    self.control(frame::parse(kind, flags, &body)?).await?;
                }
            }
        }
        Ok(())
    }

    /// The next head; none at the end.
    async fn head(&mut self) -> io::Result<Option<[u8; HEAD]>> {
        loop {
            if let Some(head) = self.ahead[self.start..self.end].first_chunk::<HEAD>() {
                let head = *head;
                self.start += HEAD;
                return Ok(Some(head));
            }
            self.ahead.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            match self.io.read(&mut self.ahead[self.end..]).await? {
                0 if self.end == 0 => return Ok(None),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => self.end += n,
            }
        }
    }

    /// Moves what was read ahead.
    fn take_ahead(&mut self, most: usize) -> &[u8] {
        let start = self.start;
        self.start += (self.end - start).min(most);
        &self.ahead[start..self.start]
    }

    async fn fill(&mut self, body: &mut [u8]) -> io::Result<()> {
        let ahead = self.take_ahead(body.len());
        let (first, rest) = body.split_at_mut(ahead.len());
        first.copy_from_slice(ahead);
        self.io.read_exact(rest).await.map(drop)
    }

    async fn data(&mut self, stream: u32, fin: bool, mut length: usize) -> io::Result<()> {
        let pieces = {
            let streams = locked(&self.connection.0.streams);
            streams.open.get(&stream).map(|entry| entry.pieces.clone())
        };
        // Nobody may want it any more, which is no mistake of the other end.
        let Some(pieces) = pieces.filter(|pieces| !pieces.is_closed()) else {
            return self.skip(length).await;
        };
        while length > 0 {
            let piece = self.piece(length.min(PIECE)).await?;
            length -= piece.len();
            // As above.
            let _ = pieces.send(Piece::Data(piece)).await;
        }
        if fin {
            let _ = pieces.send(Piece::End).await;
        }
        Ok(())
    }

    /// What there is, at least a byte.
    async fn piece(&mut self, most: usize) -> io::Result<Bytes> {
        if self.start == self.end {
            // Whoever announces bytes and keeps them holds none of our memory with it.
            let read = self.io.read(&mut self.ahead).await?;
            (self.start, self.end) = (0, read);
        }
        let may_be_more = self.end == AHEAD;
        let ahead = self.take_ahead(most);
        if ahead.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if ahead.len() == most || !may_be_more {
            return Ok(Bytes::copy_from_slice(ahead));
        }
        let mut piece = BytesMut::with_capacity(most);
        piece.extend_from_slice(ahead);
        while piece.len() < most && self.read_at_once(&mut piece, most).await? {}
        Ok(piece.freeze())
    }

    /// Reads what can be had without waiting, if anything.
    async fn read_at_once(&mut self, piece: &mut BytesMut, most: usize) -> io::Result<bool> {
        let mut room = piece.limit(most.saturating_sub(piece.len()));
        let mut read = pin!(self.io.read_buf(&mut room));
        let read = poll_fn(|cx| match read.as_mut().poll(cx) {
            Poll::Ready(read) => Poll::Ready(Some(read)),
            Poll::Pending => Poll::Ready(None),
        });
        match read.await {
            // An end is met again by whoever must have more.
            Some(read) => Ok(read? > 0),
            None => Ok(false),
        }
    }

    async fn skip(&mut self, length: usize) -> io::Result<()> {
        let mut left = length - self.take_ahead(length).len();
        while left > 0 {
            let most = left.min(PIECE);
            left -= self.piece(most).await?.len();
        }
        Ok(())
    }

    async fn control(&mut self, control: Control<'_>) -> Result<(), Broken> {
        match control {
            Control::SynStream { stream, fin, block } => match self.syn_stream(stream, fin, block)? {
                Ok(new) => {
                    let sent = self.accepted.send(new).await;
                    if sent.is_err() {
                        self.reset(stream, Status::Refused).await?;
                    }
                }
                Err(status) => self.reset(stream, status).await?,
            },
            Control::SynReply { stream, fin, block } => {
                self.inflate(block)?;
                let replied = {
                    let mut streams = locked(&self.connection.0.streams);
                    streams.open.get_mut(&stream).and_then(|entry| entry.replied.take())
                };
                // Nobody may wait for it any more.
                let _ = replied.map(|replied| replied.send(()));
                self.end_of(stream, fin).await;
            }
            Control::Headers { stream, fin, block } => {
                self.inflate(block)?;
                self.end_of(stream, fin).await;
            }
            Control::RstStream { stream, status: _ } => {
                let entry = locked(&self.connection.0.streams).open.remove(&stream);
                if let Some(entry) = entry {
                    entry.state.is_reset.store(true, Ordering::Relaxed);
                }
            }
            Control::Ping(id) => {
                let is_theirs = (id % 2 == 1) == (self.connection.0.role == Role::Server);
                if is_theirs {
                    self.connection.write_soon(frame::ping(id)).await?;
                }
            }
            // Who says goodbye opens no more streams; those that are open go on.
            Control::GoAway { .. } | Control::Ignored => {}
        }
        Ok(())
    }

    /// The stream that is opened, or why it is not.
    fn syn_stream(&self, id: u32, fin: bool, block: &[u8]) -> Result<Result<Stream, Status>, Broken> {
        let Some(headers) = self.inflate(block)? else { return Ok(Err(Status::Refused)) };
        {
            let mut streams = locked(&self.connection.0.streams);
            if id.is_multiple_of(2) || id <= streams.last {
                return Ok(Err(Status::Protocol));
            }
            streams.last = id;
            if streams.open.len() >= streams.most {
                return Ok(Err(Status::Refused));
            }
        }
        let Some(stream) = self.connection.register(id, headers, None) else {
            return Ok(Err(Status::Refused));
        };
        if fin {
            let streams = locked(&self.connection.0.streams);
            // A new queue has room.
            let _ = streams.open.get(&id).map(|entry| entry.pieces.try_send(Piece::End));
        }
        Ok(Ok(stream))
    }

    /// Headers, if headers are still read.
    fn inflate(&self, block: &[u8]) -> Result<Option<Headers>, Broken> {
        match &mut *locked(&self.connection.0.inflater) {
            Some(inflater) => Ok(Some(inflater.headers(block)?)),
            None => Ok(None),
        }
    }

    async fn end_of(&mut self, stream: u32, fin: bool) {
        let pieces = {
            let streams = locked(&self.connection.0.streams);
            streams.open.get(&stream).filter(|_| fin).map(|entry| entry.pieces.clone())
        };
        if let Some(pieces) = pieces {
            // Nobody may want it any more.
            let _ = pieces.send(Piece::End).await;
        }
    }

    async fn reset(&mut self, stream: u32, status: Status) -> io::Result<()> {
        self.connection.write_soon(frame::rst_stream(stream, status)).await
    }
}
