//! What all protocols have in common: named channels between a client and a process.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

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
