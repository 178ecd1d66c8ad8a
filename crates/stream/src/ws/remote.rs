//! Exec and attach over a websocket.

use super::{
    channels::{Messages, Said},
    end::{Bye, Heard, Line},
    frame::Role,
    protocol::Protocol,
    resize::Sizes,
    socket::{Code, Reader},
};
use crate::{
    backend::Backend,
    session::{self, Channel, Client, Event, Inlet, Life, Want, queue},
    status::Outcome,
    ticket::Streams,
};
use std::io;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf};

/// Serves a session over a connection that was upgraded to a websocket with this protocol; ready when
/// the connection can be dropped.
pub(crate) async fn serve_remote<B, S>(io: S, protocol: Protocol, want: &Want, backend: &B, life: &Life)
where
    B: Backend,
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (read, write) = tokio::io::split(io);
    let mut reader = Reader::new(read, Role::Server);
    let line = Line::new(protocol, write, Role::Server);
    let streams = want.streams();
    // The session is open: clients wait for it, process or not (remotecommand/websocket.go).
    if line.send(lowest_writable(streams) as u8, b"").await.is_err() {
        return;
    }
    let (inlet, outlet) = queue();
    let mut session = std::pin::pin!(session::serve(backend, want, Remote(line.clone()), outlet, life));
    let bye = tokio::select! {
        () = &mut session => Bye::Over,
        bye = listen(&line, &mut reader, streams, inlet) => {
            // Without an inlet it ends by itself, and lets the process go as it should.
            session.await;
            bye
        }
    };
    line.goodbye(&mut reader, &bye).await;
}

/// The channel on which the session is announced.
fn lowest_writable(streams: Streams) -> Channel {
    match streams {
        Streams { stdout: true, .. } => Channel::Stdout,
        Streams { stderr: true, .. } => Channel::Stderr,
        Streams { stdout: false, stderr: false, .. } => Channel::Error,
    }
}

/// Hands on what the client says, until it has no more to say; the inlet goes with it.
async fn listen<S: AsyncRead + AsyncWrite + Send>(
    line: &Line<S>,
    reader: &mut Reader<ReadHalf<S>>,
    streams: Streams,
    inlet: Inlet,
) -> Bye {
    let mut messages = Messages::new(line.protocol());
    let mut sizes = Sizes::default();
    loop {
        let said = match line.hear(reader).await {
            Ok(Heard::Piece { bytes, last }) => messages.piece(bytes, last),
            Ok(Heard::Sign) => Ok(None),
            Err(bye) => return bye,
        };
        inlet.activity().touch();
        let event = match said {
            Ok(None) => None,
            Ok(Some(said)) => match event(said, streams, &mut sizes) {
                Ok(event) => event,
                Err(bye) => return bye,
            },
            Err(error) => return error.into(),
        };
        let Some(event) = event else { continue };
        match line.hand_over(inlet.send(event)).await {
            Ok(Ok(())) => {}
            Ok(Err(session::Gone)) => return Bye::Over,
            Err(bye) => return bye,
        }
    }
}

/// What the client's words mean for the session. Input that the session does not have is dropped, as the
/// reference does; on a channel that is not the client's nothing may come.
fn event(said: Said, streams: Streams, sizes: &mut Sizes) -> Result<Option<Event>, Bye> {
    const STDIN: u8 = Channel::Stdin as u8;
    const RESIZE: u8 = Channel::Resize as u8;
    match said {
        Said::Data { channel: STDIN, bytes } => Ok(streams.stdin.then_some(Event::Input(bytes))),
        Said::Data { channel: RESIZE, bytes } => Ok(sizes.take(&bytes).map(Event::Resize)),
        Said::Close { channel: STDIN } => Ok(streams.stdin.then_some(Event::InputEnd)),
        // client-go closes whatever stream it is done with.
        Said::Close { channel } if channel <= RESIZE => Ok(None),
        Said::Data { channel, .. } | Said::Close { channel } => {
            Err(Bye::Refused(Code::Policy, format!("channel {channel} is not the client's to write")))
        }
    }
}

/// The client of an exec or attach session.
#[derive(Debug)]
struct Remote<S>(Line<S>);

impl<S> Clone for Remote<S> {
    fn clone(&self) -> Remote<S> {
        Remote(self.0.clone())
    }
}

impl<S: AsyncRead + AsyncWrite + Send + 'static> Client for Remote<S> {
    async fn write(&self, channel: Channel, bytes: &[u8]) -> io::Result<()> {
        self.0.send(channel as u8, bytes).await
    }

    /// The protocols have no word for it: v5's close signal is the client's (clients that know no channel
    /// 255 would complain).
    async fn close(&self, _: Channel) {}

    async fn finish(&self, outcome: &Outcome) {
        let last = if self.0.protocol().has_status() {
            Some(outcome.json())
        } else {
            outcome.text().map(String::into_bytes)
        };
        if let Some(last) = last
            && let Err(error) = self.0.send(Channel::Error as u8, &last).await
        {
            tracing::debug!(%error, "the client did not wait for the end of its session");
        }
    }
}
