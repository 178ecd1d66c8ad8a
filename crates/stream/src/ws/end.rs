//! What the server's sessions have in common: the shared writer, pings, and the way out.

use super::{
    channels::{ChannelError, compose},
    frame::{Close, Kind, Payload, Role},
    protocol::Protocol,
    socket::{Code, Pong, ReadError, Reader, Received, Writer},
};
use bytes::Bytes;
use std::{future::pending, io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite, WriteHalf},
    sync::Mutex,
    time::{sleep, timeout},
};

/// How long a client may take to answer our close, and to take what is on its way to it.
const GOODBYE: Duration = Duration::from_secs(5);
/// How often we say that we are there while nobody takes the client's input. Its pings wait behind that
/// input, so they are not seen; client-go gives up after 61 s without an answer
/// (client-go:tools/remotecommand/websocket.go). And a client that is gone is found so.
const HEARTBEAT: Duration = Duration::from_secs(20);

/// Why a client is not listened to any longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Bye {
    /// The session ended.
    Over,
    /// It said goodbye.
    Closed(Close),
    /// The connection is of no use.
    Gone,
    /// It did what it may not.
    Refused(Code, String),
}

impl From<ChannelError> for Bye {
    fn from(error: ChannelError) -> Bye {
        let code = match error {
            ChannelError::Digit(_) | ChannelError::Base64(_) => Code::Invalid,
            ChannelError::Close => Code::Protocol,
        };
        Bye::Refused(code, error.to_string())
    }
}

/// The way to the client. Clones lead to the same.
#[derive(Debug)]
pub(crate) struct Line<S> {
    protocol: Protocol,
    writer: Arc<Mutex<Writer<WriteHalf<S>>>>,
    pong: Pong,
}

impl<S> Clone for Line<S> {
    fn clone(&self) -> Line<S> {
        Line { protocol: self.protocol, writer: Arc::clone(&self.writer), pong: self.pong.clone() }
    }
}

impl<S: AsyncRead + AsyncWrite + Send> Line<S> {
    /// Over the writing half of an upgraded connection.
    pub(crate) fn new(protocol: Protocol, write: WriteHalf<S>, role: Role) -> Line<S> {
        let pong = Pong::default();
        let writer = Writer::new(write, role, pong.clone());
        Line { protocol, writer: Arc::new(Mutex::new(writer)), pong }
    }

    /// What is spoken.
    pub(crate) fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Sends bytes of a channel.
    ///
    /// # Errors
    /// The connection's.
    pub(crate) async fn send(&self, channel: u8, bytes: &[u8]) -> io::Result<()> {
        if self.protocol.is_base64() {
            let (first, rest) = compose(self.protocol, channel, bytes);
            return self.writer.lock().await.message(Kind::Text, first, &rest).await;
        }
        self.writer.lock().await.message(Kind::Binary, channel, bytes).await
    }

    /// Says goodbye, and waits a while for the client to go: a connection that is dropped with bytes
    /// unread would take our last ones with it.
    pub(crate) async fn goodbye<R: AsyncRead + Unpin>(&self, reader: &mut Reader<R>, bye: &Bye) {
        let (code, reason) = match bye {
            Bye::Gone => return,
            Bye::Over | Bye::Closed(_) => (Code::Normal, ""),
            Bye::Refused(code, reason) => (*code, reason.as_str()),
        };
        let parting = async {
            let mut writer = self.writer.lock().await;
            writer.close(code, reason).await?;
            match bye {
                Bye::Over => reader.close().await,
                Bye::Refused(..) => {
                    writer.shutdown().await?;
                    return reader.end().await;
                }
                Bye::Closed(_) | Bye::Gone => {}
            }
            writer.shutdown().await
        };
        // Nobody is left to be told.
        let _ = timeout(GOODBYE, parting).await;
    }

    /// The next that the client says; its pings are answered meanwhile.
    pub(crate) async fn hear<R: AsyncRead + Unpin>(&self, reader: &mut Reader<R>) -> Result<Heard, Bye> {
        loop {
            let received = tokio::select! {
                received = reader.next() => received,
                sent = self.answer() => {
                    sent.map_err(|_| Bye::Gone)?;
                    continue;
                }
            };
            match received {
                Ok(Received::Piece { bytes, last, .. }) => return Ok(Heard::Piece { bytes, last }),
                Ok(Received::Ping(payload)) => {
                    self.pong.owe(payload);
                    return Ok(Heard::Sign);
                }
                Ok(Received::Pong) => return Ok(Heard::Sign),
                Ok(Received::Close(close)) => return Err(Bye::Closed(close)),
                Ok(Received::End) => return Err(Bye::Gone),
                Err(ReadError::Frame(error)) => return Err(Bye::Refused(Code::Protocol, error.to_string())),
                Err(ReadError::Io(error)) => {
                    tracing::debug!(%error, "a client's connection broke");
                    return Err(Bye::Gone);
                }
            }
        }
    }

    /// Waits for what hands the client's bytes on, and shows meanwhile that we are there.
    pub(crate) async fn hand_over<T>(&self, taken: impl Future<Output = T>) -> Result<T, Bye> {
        let heartbeat = async {
            loop {
                sleep(HEARTBEAT).await;
                self.pong.owe(Payload::new());
                if self.answer().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            taken = taken => Ok(taken),
            () = heartbeat => Err(Bye::Gone),
        }
    }

    /// Sends the pong that is owed, if one is; else never ready.
    async fn answer(&self) -> io::Result<()> {
        if !self.pong.is_owed() {
            return pending().await;
        }
        self.writer.lock().await.drain().await
    }
}

/// What a client said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// A piece of a message.
    Piece {
        /// Its bytes.
        bytes: Bytes,
        /// The message is whole.
        last: bool,
    },
    /// That it is there.
    Sign,
}
