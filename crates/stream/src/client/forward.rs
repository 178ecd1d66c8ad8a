//! The client's side of port-forward: one local connection, one session.

use super::connect::{Authorities, ConnectError, Io, connect};
use crate::ws::{
    Protocol,
    channels::{Messages, Said},
    end::{Bye, Heard, Line},
    frame::Role,
    protocol::CLOSE_SIGNAL,
    socket::{READ_BUSY, Reader},
};
use bytes::Bytes;
use std::io;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// The channels of the one port.
const DATA: u8 = 0;
const ERROR: u8 = 1;
/// Longest error text that is kept.
const TEXT: usize = 4 << 10;

/// Why a local connection was not carried to its end.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// There is no session.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The pod's side: nobody listens on the port, or the connection was cut.
    #[error("{0}")]
    Pod(String),
    /// The local connection broke.
    #[error("the local connection broke")]
    Local(#[source] io::Error),
    /// The runtime's connection ended first.
    #[error("the connection to the runtime was lost: {0}")]
    Lost(String),
}

/// Carries a local connection into a pod, both ways, until both sides have closed it. The URL is of a
/// request that named one port. When one side closes, what the other still sends is delivered.
///
/// # Errors
/// [`ForwardError`]
pub async fn forward(url: &str, tls: &Authorities, local: TcpStream) -> Result<(), ForwardError> {
    let io = connect(url, tls, Protocol::V5).await?;
    let (read, write) = tokio::io::split(io);
    let line = Line::new(Protocol::V5, write, Role::Client);
    let mut reader = Reader::new(read, Role::Client);
    // Small answers must not wait for one another; that it is not possible harms nothing.
    let _ = local.set_nodelay(true);
    let (from, to) = local.into_split();
    let up = up(&line, from);
    let down = down(&line, &mut reader, to);
    let (mut up, mut down) = (std::pin::pin!(up), std::pin::pin!(down));
    tokio::select! {
        sent = &mut up => {
            sent?;
            down.await
        }
        received = &mut down => received,
    }
}

/// From the local side to the pod, then the end of it.
async fn up(line: &Line<Io>, mut from: OwnedReadHalf) -> Result<(), ForwardError> {
    let mut buffer = vec![0; READ_BUSY / 2];
    loop {
        let read = from.read(&mut buffer).await.map_err(ForwardError::Local)?;
        let sent = match read {
            0 => line.send(CLOSE_SIGNAL, &[DATA]).await,
            read => line.send(DATA, &buffer[..read]).await,
        };
        if read == 0 || sent.is_err() {
            // Why nothing can be sent any more is told by the other direction.
            return Ok(());
        }
    }
}

/// From the pod to the local side, to the end of the session.
async fn down(
    line: &Line<Io>,
    reader: &mut Reader<ReadHalf<Io>>,
    to: OwnedWriteHalf,
) -> Result<(), ForwardError> {
    let mut pod = Pod { to: Some(to), ports: [2, 2], error: Vec::new(), over: false };
    let mut messages = Messages::new(Protocol::V5);
    let bye = loop {
        let said = match line.hear(reader).await {
            Ok(Heard::Sign) => continue,
            Ok(Heard::Piece { bytes, last }) => messages.piece(bytes, last),
            Err(bye) => break bye,
        };
        match said {
            Ok(None) => {}
            Ok(Some(said)) => line
                .hand_over(pod.hear(said))
                .await
                .unwrap_or_else(|_| Err(ForwardError::Lost("it takes nothing any more".to_owned())))?,
            Err(error) => break error.into(),
        }
    };
    line.goodbye(reader, &bye).await;
    match bye {
        _ if !pod.error.is_empty() => {
            Err(ForwardError::Pod(String::from_utf8_lossy(&pod.error).into_owned()))
        }
        _ if pod.over => Ok(()),
        Bye::Closed(close) if !close.reason.is_empty() => Err(ForwardError::Lost(close.reason)),
        Bye::Refused(_, reason) => Err(ForwardError::Lost(reason)),
        Bye::Closed(_) | Bye::Over | Bye::Gone => {
            Err(ForwardError::Lost("it ended before the pod's side did".to_owned()))
        }
    }
}

/// The pod's side as it shows on the two channels.
#[derive(Debug)]
struct Pod {
    to: Option<OwnedWriteHalf>,
    /// Bytes of the port's number that are to come on each channel, before anything else.
    ports: [usize; 2],
    error: Vec<u8>,
    over: bool,
}

impl Pod {
    async fn hear(&mut self, said: Said) -> Result<(), ForwardError> {
        match said {
            Said::Data { channel: DATA, bytes } => {
                let bytes = self.without_port(DATA, bytes);
                if let Some(to) = &mut self.to {
                    to.write_all(&bytes).await.map_err(ForwardError::Local)?;
                }
            }
            Said::Data { channel: ERROR, bytes } => {
                let bytes = self.without_port(ERROR, bytes);
                let room = TEXT.saturating_sub(self.error.len()).min(bytes.len());
                self.error.extend_from_slice(&bytes[..room]);
            }
            // Dropping the half ends what the local side reads.
            Said::Close { channel: DATA } => self.to = None,
            Said::Close { channel: ERROR } => self.over = true,
            Said::Data { .. } | Said::Close { .. } => {}
        }
        Ok(())
    }

    fn without_port(&mut self, channel: u8, mut bytes: Bytes) -> Bytes {
        let left = &mut self.ports[usize::from(channel)];
        let port = bytes.split_to(bytes.len().min(*left));
        *left -= port.len();
        bytes
    }
}
