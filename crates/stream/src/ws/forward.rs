//! Port-forward over websocket channels: 2i carries the data of the i-th port, 2i + 1 its error.
//!
//! Over v4 a connection cannot be half-closed: when the pod has closed its side, what the client still
//! sends is delivered until it pauses. v5 is an extension of ours with the close signal of exec: from the
//! client, `255 2i` ends its bytes; from the server, `255 2i` ends the pod's and `255 2i+1` says that the
//! connection is over, with its error (if any) before it.

use super::{
    channels::{Messages, Said},
    end::{Bye, Heard, Line},
    frame::Role,
    protocol::{CLOSE_SIGNAL, Protocol},
    socket::{Code, Reader},
};
use crate::{
    backend::Backend,
    forward::{self, End, Peer, Piece},
    session::{Activity, Life},
    ticket::Forward,
};
use std::{
    future::pending,
    io,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadHalf},
    net::TcpStream,
    sync::{Notify, mpsc},
    task::JoinSet,
};

/// Ports that fit: channels are a byte, and 255 is the close signal.
const PORTS: usize = 127;
/// With base64 the channel is a character from `0` on, and a byte of UTF-8.
const PORTS_BASE64: usize = 40;
/// Pieces that wait for one connection.
const PIECES: usize = 4;
/// How long, after the pod closed its side, the client may pause without ending the connection.
const PAUSE: Duration = Duration::from_secs(1);

/// Serves all ports of a ticket over a connection that was upgraded to a websocket with this protocol;
/// ready when the connection can be dropped.
pub(crate) async fn serve_forward<B, S>(
    io: S,
    protocol: Protocol,
    forward: &Forward,
    backend: &B,
    life: &Life,
) where
    B: Backend,
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (read, write) = tokio::io::split(io);
    let mut reader = Reader::new(read, Role::Server);
    let line = Line::new(protocol, write, Role::Server);
    let bye = match refuse(protocol, forward, life) {
        Some(reason) => Bye::Refused(Code::Policy, reason),
        None => match run(&line, &mut reader, forward, backend, life).await {
            Ok(()) => Bye::Over,
            Err(bye) => bye,
        },
    };
    line.goodbye(&mut reader, &bye).await;
}

/// Why the ports cannot be served at all.
fn refuse(protocol: Protocol, forward: &Forward, life: &Life) -> Option<String> {
    let most = if protocol.is_base64() { PORTS_BASE64 } else { PORTS }.min(life.settings.forwards);
    match forward.ports.len() {
        0 => Some("the request named no port, and these channels belong to ports".to_owned()),
        some if some > most => Some(format!("{some} ports are more than the {most} that fit")),
        _ => None,
    }
}

async fn run<B, S>(
    line: &Line<S>,
    reader: &mut Reader<ReadHalf<S>>,
    forward: &Forward,
    backend: &B,
    life: &Life,
) -> Result<(), Bye>
where
    B: Backend,
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let activity = Activity::default();
    let mut queues = Vec::with_capacity(forward.ports.len());
    let mut connections = JoinSet::new();
    for (channel, port) in (0..=u8::MAX).step_by(2).zip(&forward.ports) {
        for channel in [channel, channel + 1] {
            line.send(channel, &port.to_le_bytes()).await.map_err(|_| Bye::Gone)?;
        }
        let (queue, from) = mpsc::channel(PIECES);
        let (peer, port) = (Pair::new(line.clone(), channel), *port);
        queues.push((queue, peer.heard.clone()));
        let (backend, forward, life) = (backend.clone(), forward.clone(), life.clone());
        let activity = activity.clone();
        connections.spawn(async move {
            let dialled = tokio::select! {
                dialled = dial(&backend, &forward, port) => dialled,
                () = life.stopped() => Err(format!("the stream server ends: no connection to port {port}")),
            };
            connection(&peer, from, port, dialled, &activity, &life).await
        });
    }
    let listening = listen(line, reader, queues, &activity);
    let mut listening = std::pin::pin!(listening);
    let mut cut = false;
    loop {
        tokio::select! {
            done = connections.join_next() => match done {
                Some(Ok(End::Cut)) => cut = true,
                Some(Ok(End::Closed | End::Gone | End::Idle | End::Broken(_)) | Err(_)) => {}
                None if cut => return Err(Bye::Refused(Code::Away, "the stream server ends".to_owned())),
                None => return Ok(()),
            },
            bye = &mut listening => return Err(bye),
        }
    }
}

/// Hands on what the client says, until it has no more to say.
async fn listen<S: AsyncRead + AsyncWrite + Send>(
    line: &Line<S>,
    reader: &mut Reader<ReadHalf<S>>,
    queues: Vec<(mpsc::Sender<Piece>, Activity)>,
    activity: &Activity,
) -> Bye {
    let mut messages = Messages::new(line.protocol());
    loop {
        let said = match line.hear(reader).await {
            Ok(Heard::Piece { bytes, last }) => messages.piece(bytes, last),
            Ok(Heard::Sign) => Ok(None),
            Err(bye) => return bye,
        };
        activity.touch();
        let (channel, piece) = match said {
            Ok(None) => continue,
            Ok(Some(Said::Data { channel, bytes })) => (channel, Piece::Data(bytes)),
            Ok(Some(Said::Close { channel })) => (channel, Piece::End),
            Err(error) => return error.into(),
        };
        match (queues.get(usize::from(channel / 2)), channel % 2, &piece) {
            (Some((queue, heard)), 0, _) => {
                heard.touch();
                match line.hand_over(queue.send(piece)).await {
                    // A connection that is over takes nothing more.
                    Ok(Ok(()) | Err(mpsc::error::SendError(_))) => {}
                    Err(bye) => return bye,
                }
            }
            (Some(_), _, Piece::End) => {}
            (Some(_) | None, _, _) => {
                let reason = format!("channel {channel} is not the client's to write");
                return Bye::Refused(Code::Policy, reason);
            }
        }
    }
}

async fn dial<B: Backend>(backend: &B, forward: &Forward, port: u16) -> Result<TcpStream, String> {
    match port {
        0 => Err("error forwarding port 0: a port is 1 to 65535".to_owned()),
        port => forward::dial(backend, forward, port).await,
    }
}

/// One port, from the dial to its end.
async fn connection<S: AsyncRead + AsyncWrite + Send + 'static>(
    peer: &Pair<S>,
    mut from: mpsc::Receiver<Piece>,
    port: u16,
    dialled: Result<TcpStream, String>,
    activity: &Activity,
    life: &Life,
) -> End {
    let (end, error) = match dialled {
        Ok(connection) => {
            let end = tokio::select! {
                end = forward::copy(peer, &mut from, connection, activity, life) => end,
                () = peer.abandoned() => End::Closed,
            };
            let error = error_text(&end, port, life);
            (end, error)
        }
        Err(text) => (End::Closed, Some(text)),
    };
    // It takes nothing more; whoever waits for room learns it now.
    drop(from);
    peer.finish(error.as_deref()).await;
    end
}

/// What a client is told of an end. A connection that broke within the pod is no failure of the
/// forwarding.
fn error_text(end: &End, port: u16, life: &Life) -> Option<String> {
    match end {
        End::Closed | End::Gone => None,
        End::Broken(error) => {
            tracing::debug!(%error, port, "a forwarded connection broke");
            None
        }
        End::Idle => {
            let idle = life.settings.idle;
            Some(format!(
                "nothing was sent or received on port {port} for {idle:?}: the connection is closed"
            ))
        }
        End::Cut => Some(format!("the stream server ends: the connection to port {port} is cut")),
    }
}

/// The two channels of a port.
#[derive(Debug)]
struct Pair<S> {
    line: Line<S>,
    channel: u8,
    heard: Activity,
    /// The pod has closed its side, and whoever waits for that.
    closed: AtomicBool,
    closing: Notify,
}

impl<S: AsyncRead + AsyncWrite + Send + 'static> Pair<S> {
    fn new(line: Line<S>, channel: u8) -> Pair<S> {
        let (heard, closed, closing) = (Activity::default(), AtomicBool::new(false), Notify::new());
        Pair { line, channel, heard, closed, closing }
    }

    /// Waits until the pod has closed its side and the client, which cannot be told, pauses.
    async fn abandoned(&self) {
        if self.line.protocol().has_close() {
            return pending().await;
        }
        self.closing.notified().await;
        self.heard.idle(PAUSE).await;
    }

    /// The error, if there is one, and that nothing more comes.
    async fn finish(&self, error: Option<&str>) {
        self.close().await;
        let told = async {
            if let Some(error) = error {
                self.line.send(self.channel + 1, error.as_bytes()).await?;
            }
            if self.line.protocol().has_close() {
                self.line.send(CLOSE_SIGNAL, &[self.channel + 1]).await?;
            }
            io::Result::Ok(())
        };
        if let Err(error) = told.await {
            tracing::debug!(%error, "the client did not wait for the end of a connection");
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Send + 'static> Peer for Pair<S> {
    async fn write(&self, bytes: &[u8]) -> io::Result<()> {
        self.line.send(self.channel, bytes).await
    }

    async fn close(&self) {
        if !self.closed.swap(true, Ordering::Relaxed) && self.line.protocol().has_close() {
            // That nobody is there is found by whoever reads.
            let _ = self.line.send(CLOSE_SIGNAL, &[self.channel]).await;
        }
        self.closing.notify_one();
    }
}
