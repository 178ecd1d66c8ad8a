//! One SPDY connection: a reader that hands what comes to its streams, and writers that take turns.
//!
//! Locks: `writer` is held for a whole frame, over awaits; the others never over one.

use super::{
    frame::{self, FrameError, Status},
    headers::{self, HeaderError, Headers, Inflater},
};
use crate::{
    forward::{Peer, Piece},
    session::Activity,
};
use std::{
    collections::{HashMap, VecDeque},
    io::{self, IoSlice},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadHalf},
    sync::{mpsc, oneshot},
};

mod reader;
pub(crate) use reader::Reader;

/// Pieces that wait in one stream, of at most [`reader::PIECE`] bytes.
const PIECES: usize = 4;
/// New streams that wait for being taken.
const ACCEPTED: usize = 4;
/// Small frames that wait for a writer that is at work; a client that makes more has no use for them.
const PENDING: usize = 64;

/// Which end of the connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Takes streams, with odd numbers.
    Server,
    /// Opens them. Clients of ours speak websockets: this end is there to test the other.
    #[cfg(test)]
    Client,
}

/// What ends a connection before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("the connection broke")]
    Io(#[from] io::Error),
    #[error("a wrong frame came")]
    Frame(#[from] FrameError),
    #[error("wrong headers came")]
    Headers(#[from] HeaderError),
}

/// The writing end; clones are the same connection.
#[derive(Clone)]
pub(crate) struct Connection(Arc<Inner>);

struct Inner {
    role: Role,
    writer: tokio::sync::Mutex<Writer>,
    /// Whole small frames for whoever has, or next gets, the writer: the reader does not wait for it,
    /// so that input goes on while output is held up.
    pending: Mutex<VecDeque<Vec<u8>>>,
    streams: Mutex<Streams>,
    /// None on the client's end, and when no more headers are to be read.
    inflater: Mutex<Option<Box<Inflater>>>,
}

struct Writer {
    io: Box<dyn AsyncWrite + Send + Unpin>,
    headers: headers::Writer,
    /// The rest of a frame whose writer was dropped in the middle: it comes first.
    rest: Vec<u8>,
    /// Nothing can be written any more.
    is_broken: bool,
}

struct Streams {
    open: HashMap<u32, Entry>,
    most: usize,
    /// The last stream that the other end has opened.
    last: u32,
    /// The other end is gone.
    is_over: bool,
}

struct Entry {
    /// Kept until the stream is given up, also after its last piece: see [`Piece`].
    pieces: mpsc::Sender<Piece>,
    state: Arc<State>,
    replied: Option<oneshot::Sender<()>>,
}

#[derive(Debug, Default)]
struct State {
    /// We send nothing more.
    is_closed: AtomicBool,
    /// The other end wants nothing more.
    is_reset: AtomicBool,
}

/// A stream of a connection.
#[derive(Debug)]
pub(crate) struct Stream {
    /// Those that it was opened with.
    pub(crate) headers: Headers,
    pub(crate) input: Input,
    pub(crate) output: Output,
}

/// What comes on a stream.
pub(crate) struct Input {
    /// Ends without [`Piece::End`] if the other end gives the stream up, or goes.
    pub(crate) pieces: mpsc::Receiver<Piece>,
    id: u32,
    connection: Connection,
}

/// What goes out on a stream; clones are the same stream.
#[derive(Clone)]
pub(crate) struct Output {
    id: u32,
    state: Arc<State>,
    connection: Connection,
}

/// A connection over `io` with at most so many streams open that the other end opens; its reader, which
/// must run for anything to come; and the streams that come. Each frame that comes touches `activity`.
pub(crate) fn connection<IO>(
    io: IO,
    role: Role,
    most: usize,
    activity: Activity,
) -> (Connection, Reader<ReadHalf<IO>>, mpsc::Receiver<Stream>)
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (read, write) = tokio::io::split(io);
    let (accepted, accept) = mpsc::channel(ACCEPTED);
    let writer = Writer {
        io: Box::new(write),
        headers: headers::Writer::default(),
        rest: Vec::new(),
        is_broken: false,
    };
    let inflater = match role {
        Role::Server => Some(Box::default()),
        // Replies' headers say nothing.
        #[cfg(test)]
        Role::Client => None,
    };
    let inner = Inner {
        role,
        writer: tokio::sync::Mutex::new(writer),
        pending: Mutex::default(),
        streams: Mutex::new(Streams { open: HashMap::new(), most, last: 0, is_over: false }),
        inflater: Mutex::new(inflater),
    };
    let connection = Connection(Arc::new(inner));
    let reader = Reader::new(read, connection.clone(), accepted, activity);
    (connection, reader, accept)
}

/// Each change under these locks is one call: a panic leaves nothing half done.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connection {
    /// No more streams are taken and no more headers read: what that needs is given back.
    pub(crate) fn seal(&self) {
        locked(&self.0.inflater).take();
    }

    /// The last frame, then the end of what we send.
    pub(crate) async fn goodbye(&self) {
        self.end(true).await;
    }

    async fn end(&self, normal: bool) {
        let last = locked(&self.0.streams).last;
        let _ = self.write(&frame::goaway(last, normal), &[]).await;
        let _ = self.0.writer.lock().await.io.shutdown().await;
    }

    /// A new stream; none if the connection is over.
    fn register(&self, id: u32, headers: Headers, replied: Option<oneshot::Sender<()>>) -> Option<Stream> {
        let (sender, pieces) = mpsc::channel(PIECES);
        let state = Arc::new(State::default());
        let mut streams = locked(&self.0.streams);
        if streams.is_over {
            return None;
        }
        streams.open.insert(id, Entry { pieces: sender, state: Arc::clone(&state), replied });
        let input = Input { pieces, id, connection: self.clone() };
        Some(Stream { headers, input, output: Output { id, state, connection: self.clone() } })
    }

    /// A whole frame.
    async fn write(&self, head: &[u8], payload: &[u8]) -> io::Result<()> {
        self.0.writer.lock().await.frame(head, payload).await?;
        self.flush_pending().await
    }

    /// A whole small frame, now if nobody writes, else soon. Never waits for somebody else's frame.
    async fn write_soon(&self, frame: Vec<u8>) -> io::Result<()> {
        {
            let mut pending = locked(&self.0.pending);
            if pending.len() >= PENDING {
                pending.pop_front();
            }
            pending.push_back(frame);
        }
        self.flush_pending().await
    }

    /// Writes what waits, unless somebody writes: who does calls this when he is done.
    async fn flush_pending(&self) -> io::Result<()> {
        loop {
            if locked(&self.0.pending).is_empty() {
                return Ok(());
            }
            let Ok(mut writer) = self.0.writer.try_lock() else { return Ok(()) };
            loop {
                let next = locked(&self.0.pending).pop_front();
                let Some(frame) = next else { break };
                writer.frame(&frame, &[]).await?;
            }
        }
    }
}

impl Writer {
    /// Writes a frame: its head, and what it carries, without copying. A frame is whole or not there, also
    /// if this is dropped in the middle: a connection goes on when one of its streams does not.
    async fn frame(&mut self, head: &[u8], payload: &[u8]) -> io::Result<()> {
        if self.is_broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let written = self.try_frame(head, payload).await;
        self.is_broken = written.is_err();
        written
    }

    async fn try_frame(&mut self, head: &[u8], payload: &[u8]) -> io::Result<()> {
        while !self.rest.is_empty() {
            let written = some(self.io.write(&self.rest).await?)?;
            self.rest.drain(..written);
        }
        let mut frame = Unsent { writer: self, head, payload, is_begun: false };
        while !frame.is_sent() {
            let parts = [IoSlice::new(frame.head), IoSlice::new(frame.payload)];
            let written = some(frame.writer.io.write_vectored(&parts).await?)?;
            frame.is_begun = true;
            let of_head = written.min(frame.head.len());
            frame.head = &frame.head[of_head..];
            frame.payload = &frame.payload[written - of_head..];
        }
        drop(frame);
        self.io.flush().await
    }
}

/// What a write has written, if anything.
fn some(written: usize) -> io::Result<usize> {
    if written == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(written) }
}

/// A frame that is being written.
struct Unsent<'a> {
    writer: &'a mut Writer,
    head: &'a [u8],
    payload: &'a [u8],
    is_begun: bool,
}

impl Unsent<'_> {
    fn is_sent(&self) -> bool {
        self.head.is_empty() && self.payload.is_empty()
    }
}

impl Drop for Unsent<'_> {
    fn drop(&mut self) {
        if self.is_begun && !self.is_sent() {
            self.writer.rest = [self.head, self.payload].concat();
        }
    }
}

impl Output {
    /// Answers the stream: it is taken. Nothing may be written before.
    pub(crate) async fn reply(&self) -> io::Result<()> {
        {
            let mut writer = self.connection.0.writer.lock().await;
            let block = writer.headers.block(&[]);
            writer.frame(&frame::syn_reply(self.id, &block), &[]).await?;
        }
        self.connection.flush_pending().await
    }

    /// Writes, one frame for every [`frame::DATA_MAX`] bytes; waits until there is room.
    ///
    /// # Errors
    /// If the other end does not want it any more.
    pub(crate) async fn write(&self, bytes: &[u8]) -> io::Result<()> {
        for part in bytes.chunks(frame::DATA_MAX) {
            if self.state.is_reset.load(Ordering::Relaxed) || self.state.is_closed.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.connection.write(&frame::data(self.id, false, part.len()), part).await?;
        }
        Ok(())
    }

    /// Nothing more is written; what comes goes on. Once is enough.
    pub(crate) async fn close(&self) {
        if self.state.is_reset.load(Ordering::Relaxed) || self.state.is_closed.swap(true, Ordering::Relaxed) {
            return;
        }
        let _ = self.connection.write(&frame::data(self.id, true, 0), &[]).await;
    }

    /// Ends the stream both ways, unless it already has.
    pub(crate) async fn reset(&self, status: Status) {
        self.state.is_closed.store(true, Ordering::Relaxed);
        if !self.state.is_reset.swap(true, Ordering::Relaxed) {
            let _ = self.connection.write(&frame::rst_stream(self.id, status), &[]).await;
        }
    }
}

impl Peer for Output {
    async fn write(&self, bytes: &[u8]) -> io::Result<()> {
        Output::write(self, bytes).await
    }

    async fn close(&self) {
        Output::close(self).await;
    }
}

impl Input {
    /// The number of the stream.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }
}

impl Drop for Input {
    /// What still comes is dropped.
    fn drop(&mut self) {
        locked(&self.connection.0.streams).open.remove(&self.id);
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("role", &self.0.role).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Input").field("id", &self.id).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Output").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
