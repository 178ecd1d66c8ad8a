//! The client's side of exec and attach.

use super::connect::{Authorities, ConnectError, Io, connect};
use crate::{
    session::{Channel, Size},
    ws::{
        Protocol,
        channels::{self, Messages},
        end::{Bye, Heard, Line},
        frame::Role,
        protocol::CLOSE_SIGNAL,
        socket::Reader,
    },
};
use bytes::Bytes;
use serde::Deserialize;
use std::io;
use tokio::io::ReadHalf;

/// Longest last word that is kept.
const STATUS: usize = 64 << 10;

/// A session of exec or attach. Its halves live apart: one task may write while another reads, and
/// someone must read, for that is how the session's pings are answered.
#[derive(Debug)]
pub struct Remote {
    /// To the process.
    pub input: Input,
    /// From the process.
    pub output: Output,
}

/// The way to the process; clones lead to the same. Dropping it tells nothing: see [`Input::end`].
#[derive(Clone, Debug)]
pub struct Input {
    line: Line<Io>,
}

/// What comes from the process.
#[derive(Debug)]
pub struct Output {
    line: Line<Io>,
    reader: Reader<ReadHalf<Io>>,
    messages: Messages,
    status: Vec<u8>,
    end: Option<Outcome>,
}

/// One thing that a session says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// Bytes of its standard output, or of its terminal; at most 64 KiB.
    Stdout(Bytes),
    /// Bytes of its standard error; at most 64 KiB.
    Stderr(Bytes),
    /// How it ended; the same again if asked again.
    End(Outcome),
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The process ended with this code, 128 + signal if by one; 0 also when an attached client was let
    /// go.
    Exit(u8),
    /// There was no process, or it was lost: a sentence of the runtime.
    Failed(String),
    /// The connection ended before the process: a sentence. The process may still run.
    Lost(String),
}

/// Opens the session that a streaming URL is for. Which streams it has was said when the URL was asked
/// for.
///
/// # Errors
/// [`ConnectError`]
pub async fn remote(url: &str, tls: &Authorities) -> Result<Remote, ConnectError> {
    let io = connect(url, tls, Protocol::V5).await?;
    let (read, write) = tokio::io::split(io);
    let line = Line::new(Protocol::V5, write, Role::Client);
    let output = Output {
        line: line.clone(),
        reader: Reader::new(read, Role::Client),
        messages: Messages::new(Protocol::V5),
        status: Vec::new(),
        end: None,
    };
    Ok(Remote { input: Input { line }, output })
}

impl Input {
    /// Writes to the process's standard input, and waits until there is room. A write that is cancelled
    /// may have been sent.
    ///
    /// # Errors
    /// The session is over: [`Output::next`] tells how.
    pub async fn write(&self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(32 << 10) {
            self.line.send(Channel::Stdin as u8, piece).await?;
        }
        Ok(())
    }

    /// Ends the process's standard input; its output goes on.
    ///
    /// # Errors
    /// The session is over.
    pub async fn end(&self) -> io::Result<()> {
        self.line.send(CLOSE_SIGNAL, &[Channel::Stdin as u8]).await
    }

    /// Tells the size of the window.
    ///
    /// # Errors
    /// The session is over.
    pub async fn resize(&self, size: Size) -> io::Result<()> {
        let json = serde_json::to_vec(&size)?;
        self.line.send(Channel::Resize as u8, &json).await
    }
}

impl Output {
    /// The next that the session says. Cancelled it loses nothing.
    pub async fn next(&mut self) -> Said {
        loop {
            if let Some(end) = &self.end {
                return Said::End(end.clone());
            }
            let heard = self.line.hear(&mut self.reader).await;
            let said = match heard {
                Ok(Heard::Sign) => continue,
                Ok(Heard::Piece { bytes, last }) => self.messages.piece(bytes, last),
                Err(bye) => {
                    self.end = Some(self.outcome(&bye));
                    self.line.goodbye(&mut self.reader, &bye).await;
                    continue;
                }
            };
            match said {
                Ok(Some(channels::Said::Data { channel, bytes })) => {
                    if let Some(said) = self.data(channel, bytes) {
                        return said;
                    }
                }
                Ok(Some(channels::Said::Close { .. }) | None) => {}
                Err(error) => self.end = Some(Outcome::Lost(format!("the runtime sent nonsense: {error}"))),
            }
        }
    }

    fn data(&mut self, channel: u8, bytes: Bytes) -> Option<Said> {
        const STDOUT: u8 = Channel::Stdout as u8;
        const STDERR: u8 = Channel::Stderr as u8;
        const ERROR: u8 = Channel::Error as u8;
        match channel {
            STDOUT => Some(Said::Stdout(bytes)),
            STDERR => Some(Said::Stderr(bytes)),
            ERROR => {
                let room = STATUS.saturating_sub(self.status.len()).min(bytes.len());
                self.status.extend_from_slice(&bytes[..room]);
                None
            }
            _ => None,
        }
    }

    /// What the session's last word was.
    fn outcome(&self, bye: &Bye) -> Outcome {
        if !self.status.is_empty() {
            return outcome(&self.status);
        }
        let how = match bye {
            Bye::Closed(close) if !close.reason.is_empty() => close.reason.as_str(),
            Bye::Refused(_, reason) => reason.as_str(),
            Bye::Closed(_) | Bye::Over | Bye::Gone => {
                return Outcome::Lost(
                    "the connection to the runtime ended before the process did; the process may still run"
                        .to_owned(),
                );
            }
        };
        Outcome::Lost(format!("the session was cut: {how}"))
    }
}

/// The parts of a `metav1.Status` that count.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    status: String,
    message: String,
    reason: String,
    details: Details,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Details {
    causes: Vec<Cause>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cause {
    reason: String,
    message: String,
}

/// What a `metav1.Status` says, as client-go reads it (client-go:tools/remotecommand/v4.go).
fn outcome(json: &[u8]) -> Outcome {
    let Ok(status) = serde_json::from_slice::<Status>(json) else {
        return Outcome::Failed(String::from_utf8_lossy(json).into_owned());
    };
    if status.status == "Success" {
        return Outcome::Exit(0);
    }
    let causes = &status.details.causes;
    let code = causes.iter().find(|cause| cause.reason == "ExitCode").map(|cause| cause.message.parse());
    match (status.reason.as_str(), code) {
        ("NonZeroExitCode", Some(Ok(code))) => Outcome::Exit(code),
        _ if status.message.is_empty() => {
            Outcome::Failed("the runtime did not say why the session failed".to_owned())
        }
        _ => Outcome::Failed(status.message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_an_exit_code_or_a_sentence() {
        let cases: [(&str, Outcome); 6] = [
            (r#"{"metadata":{},"status":"Success"}"#, Outcome::Exit(0)),
            (
                r#"{"status":"Failure","reason":"NonZeroExitCode","message":"m","details":{"causes":[{"reason":"x"},{"reason":"ExitCode","message":"137"}]}}"#,
                Outcome::Exit(137),
            ),
            (
                r#"{"status":"Failure","reason":"NonZeroExitCode","message":"m","details":{"causes":[{"reason":"ExitCode","message":"-1"}]}}"#,
                Outcome::Failed("m".to_owned()),
            ),
            (
                r#"{"status":"Failure","reason":"InternalError","message":"no shell"}"#,
                Outcome::Failed("no shell".to_owned()),
            ),
            ("{}", Outcome::Failed("the runtime did not say why the session failed".to_owned())),
            ("plain text", Outcome::Failed("plain text".to_owned())),
        ];
        for (json, expected) in cases {
            assert_eq!(outcome(json.as_bytes()), expected, "{json}");
        }
    }
}
