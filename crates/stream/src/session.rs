//! What all protocols have in common: named channels between a client and a process.
//!
//! A protocol (`spdy`, `ws`) makes a [`Client`] to write to, and a `queue` into which it puts what it
//! reads; [`serve`] does the rest. The protocol reads on, whatever the session does, until the client
//! is gone, and then drops its [`Inlet`]: that is how a session learns it.
//!
//! The server has done the HTTP part (the 101 is sent) when it calls a protocol; each returns when the
//! connection is done with. `IO` is `AsyncRead + AsyncWrite + Send + Unpin + 'static`, `protocol` one of
//! `negotiate`'s lists, `""` for a websocket that named none:
//!
//! ```text
//! spdy::remote(io, version, want: Want, backend: B, life: Life)
//! spdy::forward(io, forward: Forward, backend: B, life: Life)             also tunnelled in websockets
//! ws::remote(io, protocol: &'static str, want: Want, backend: B, life: Life)
//! ws::forward(io, protocol: &'static str, forward: Forward, backend: B, life: Life)
//! ```

mod pool;
mod queue;
mod run;

pub(crate) use pool::Buffer;
pub(crate) use queue::{Activity, Gone, Inlet, Outlet, queue};
pub(crate) use run::serve;

use crate::{
    settings::Settings,
    status::Outcome,
    ticket::{Attach, Exec, Streams},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::{future::Future, io};
use tokio::sync::watch;

/// A channel of exec and attach; its number is that of the websocket protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Channel {
    /// From the client.
    Stdin = 0,
    /// To the client.
    Stdout = 1,
    /// To the client.
    Stderr = 2,
    /// How it ended, to the client.
    Error = 3,
    /// The window's size, from the client.
    Resize = 4,
}

/// Size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Size {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// What comes from the client; that nothing more comes at all is the end of the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Bytes for standard input, at most 64 KiB.
    Input(Bytes),
    /// No more input; output goes on.
    InputEnd,
    /// The window's size.
    Resize(Size),
}

/// The client's side of a session, as one protocol writes it. Clones write to the same client.
pub(crate) trait Client: Clone + Send + Sync + 'static {
    /// Writes to a channel and waits until there is room: that is the back-pressure. An error means
    /// that nobody is there any more.
    fn write(&self, channel: Channel, bytes: &[u8]) -> impl Future<Output = io::Result<()>> + Send;

    /// That output is at its end.
    fn close(&self, channel: Channel) -> impl Future<Output = ()> + Send;

    /// The last word: the outcome in the protocol's own form, then goodbye. What was not closed is
    /// closed by it.
    fn finish(&self, outcome: &Outcome) -> impl Future<Output = ()> + Send;
}

/// What a client of exec or attach has asked for.
#[derive(Clone, Debug)]
pub(crate) enum Want {
    Exec(Exec),
    Attach(Attach),
}

impl Want {
    /// The streams that the client may have.
    pub(crate) fn streams(&self) -> Streams {
        match self {
            Want::Exec(exec) => exec.streams,
            Want::Attach(attach) => attach.streams,
        }
    }
}

/// The bounds of a session, and the word that the server ends.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub(crate) settings: Settings,
    /// True, or without a sender: sessions are cut with a message.
    pub(crate) stop: watch::Receiver<bool>,
}

impl Life {
    /// Waits until the server ends.
    pub(crate) async fn stopped(&self) {
        // Without a sender there is no server any more: the same.
        let _ = self.stop.clone().wait_for(|stop| *stop).await;
    }
}
