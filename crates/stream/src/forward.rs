//! One forwarded connection: bytes both ways between a client and a port of a pod.

use crate::{
    backend::{Backend, BackendError},
    session::{Activity, Buffer, Life},
    ticket::Forward,
};
use bytes::Bytes;
use std::{future::Future, io};
use tokio::{
    io::AsyncWriteExt as _,
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Notify, mpsc},
};

/// What comes from the client for one connection; the end of the queue without [`Piece::End`] means
/// that the client has given the connection up, or is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Bytes.
    Data(Bytes),
    /// No more bytes that way; the other goes on.
    End,
}

/// The client's side of one connection, as one protocol writes it.
pub(crate) trait Peer: Send + Sync {
    /// Writes and waits until there is room: that is the back-pressure. An error means that nobody is
    /// there any more.
    fn write(&self, bytes: &[u8]) -> impl Future<Output = io::Result<()>> + Send;

    /// No more bytes that way; the other goes on.
    fn close(&self) -> impl Future<Output = ()> + Send;
}

/// How a connection ended.
#[derive(Debug)]
pub(crate) enum End {
    /// Both sides have closed it.
    Closed,
    /// The client gave it up.
    Gone,
    /// The pod's end broke in the middle: the client's must break too, but it is no failure of the
    /// forwarding, and a client that is told of one gives up all of its connections
    /// (kubernetes#74551).
    Broken(io::Error),
    /// Nothing was sent or received for the idle time.
    Idle,
    /// The server ends.
    Cut,
}

/// Connects to a port of a pod.
///
/// # Errors
/// The text for the client's error channel, as k8s.io/cri-streaming:pkg/streaming/portforward words it.
pub(crate) async fn dial<B: Backend>(backend: &B, forward: &Forward, port: u16) -> Result<TcpStream, String> {
    let dialled = backend.dial(forward.netns.as_deref(), port).await;
    dialled.map_err(|BackendError(text)| format!("error forwarding port {port} to pod , uid : {text}"))
}

/// Copies until both sides have closed the connection. When one has, what the other still sends is
/// delivered. `activity` is the session's, which counts all frames of the client.
pub(crate) async fn copy<P: Peer>(
    peer: &P,
    from: &mut mpsc::Receiver<Piece>,
    connection: TcpStream,
    activity: &Activity,
    life: &Life,
) -> End {
    // Small answers must not wait for one another; that it is not possible harms nothing.
    let _ = connection.set_nodelay(true);
    let (read, write) = connection.into_split();
    let answered = Notify::new();
    let both = async {
        tokio::try_join!(up(from, write, &answered, activity), down(peer, read, &answered, activity))
    };
    tokio::select! {
        done = both => match done {
            Ok(((), ())) => End::Closed,
            Err(end) => end,
        },
        () = activity.idle(life.settings.idle) => End::Idle,
        () = life.stopped() => End::Cut,
    }
}

/// From the client to the pod, then until the answer has ended, too, or the client gives up.
async fn up(
    from: &mut mpsc::Receiver<Piece>,
    mut write: OwnedWriteHalf,
    answered: &Notify,
    activity: &Activity,
) -> Result<(), End> {
    while let Some(piece) = from.recv().await {
        match piece {
            Piece::Data(mut bytes) => {
                while !bytes.is_empty() {
                    write.write_buf(&mut bytes).await.map_err(End::Broken)?;
                    activity.touch();
                }
            }
            Piece::End => {
                // Dropping the half shuts it down.
                drop(write);
                return tokio::select! {
                    () = answered.notified() => Ok(()),
                    () = exhausted(from) => Err(End::Gone),
                };
            }
        }
    }
    Err(End::Gone)
}

/// Waits for the end of the queue; what comes after the end of the bytes is a mistake of the client.
async fn exhausted(from: &mut mpsc::Receiver<Piece>) {
    while from.recv().await.is_some() {}
}

/// From the pod to the client.
async fn down<P: Peer>(
    peer: &P,
    read: OwnedReadHalf,
    answered: &Notify,
    activity: &Activity,
) -> Result<(), End> {
    loop {
        read.readable().await.map_err(End::Broken)?;
        let mut buffer = Buffer::take();
        match read.try_read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => peer.write(&buffer[..n]).await.map_err(|_| End::Gone)?,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(End::Broken(e)),
        }
        activity.touch();
    }
    peer.close().await;
    answered.notify_one();
    Ok(())
}
