//! How a daemon speaks to the stream server: on a unix socket, one line of JSON there and one back.
//!
//! The server outlives daemons, so each side may be older than the other: fields and verbs are only
//! added, and what is not understood is answered with [`Answer::Refused`].

use crate::{
    ticket::Ticket,
    tokens::{NoToken, Tokens},
};
use serde::{Deserialize, Serialize};
use std::{io, path::Path, time::Duration};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
};

/// Longest line: an argv of 2 MiB, escaped.
const LONGEST: u64 = 16 << 20;
/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a daemon asks.
#[derive(Debug, Serialize, Deserialize)]
pub enum Ask {
    /// Who are you?
    Hello,
    /// A token for a session.
    Grant(Ticket),
    /// End when nothing is left to do: no session, no token. Busy ones answer [`Answer::Busy`].
    EndIfIdle,
    /// End now; sessions are cut with a message.
    End,
}

/// What the server answers.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Ask::Hello`].
    Hello(Identity),
    /// To [`Ask::Grant`]: the path of the session beneath the server's address, `/exec/TOKEN`.
    Granted {
        /// Beginning with a slash.
        path: String,
    },
    /// To [`Ask::Grant`]: as many as may be wait for their clients.
    Full,
    /// To [`Ask::EndIfIdle`]: there is something to do.
    Busy,
    /// To [`Ask::EndIfIdle`] and [`Ask::End`], and to [`Ask::Grant`] of a server that ends.
    Ends,
    /// The line was not understood.
    Refused {
        /// Why.
        reason: String,
    },
}

/// Who a stream server is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Version of the program.
    pub version: String,
    /// The settings that it was started with, as they were given.
    pub settings: String,
    /// `http://127.0.0.1:41234`: what the paths of sessions are appended to.
    pub base: String,
}

/// Asks the server whose socket this is.
///
/// # Errors
/// If nobody listens there, or it does not answer in ten seconds.
pub async fn ask(socket: &Path, ask: &Ask) -> io::Result<Answer> {
    let talk = async {
        let mut stream = UnixStream::connect(socket).await?;
        let mut line = serde_json::to_vec(ask).map_err(io::Error::other)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        read_line(&mut stream).await
    };
    tokio::time::timeout(PATIENCE, talk).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn read_line<T: serde::de::DeserializeOwned>(stream: &mut UnixStream) -> io::Result<T> {
    let mut line = Vec::new();
    if BufReader::new(stream.take(LONGEST)).read_until(b'\n', &mut line).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_slice(&line).map_err(|e| {
        // Its text may quote the line, and that an argument: only the place is told.
        io::Error::new(io::ErrorKind::InvalidData, format!("no message, at column {}", e.column()))
    })
}

/// What the server's own part must know to answer.
pub trait Attendant: Send + Sync + 'static {
    /// Who it is.
    fn identity(&self) -> Identity;
    /// The tokens of its sessions.
    fn tokens(&self) -> &Tokens;
    /// Ends if there is nothing to do; whether it does.
    fn end_if_idle(&self) -> bool;
    /// Ends now.
    fn end(&self);
}

/// Answers one daemon's connection.
///
/// # Errors
/// If the connection breaks; nothing is granted then that anybody could know of.
pub async fn attend(mut stream: UnixStream, attendant: &impl Attendant) -> io::Result<()> {
    let asked = tokio::time::timeout(PATIENCE, read_line(&mut stream)).await;
    let answer = match asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(question) => reply(question, attendant),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => Answer::Refused { reason: e.to_string() },
        Err(e) => return Err(e),
    };
    self::answer(stream, &answer).await
}

/// Says one thing, whatever was asked.
///
/// # Errors
/// If the connection breaks.
pub async fn answer(mut stream: UnixStream, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer).map_err(io::Error::other)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    stream.shutdown().await
}

fn reply(question: Ask, attendant: &impl Attendant) -> Answer {
    match question {
        Ask::Hello => Answer::Hello(attendant.identity()),
        Ask::Grant(ticket) => {
            let kind = ticket.kind().path();
            match attendant.tokens().grant(ticket) {
                Ok(token) => Answer::Granted { path: format!("/{kind}/{token}") },
                Err(NoToken::Full) => Answer::Full,
                Err(NoToken::Closed) => Answer::Ends,
            }
        }
        Ask::EndIfIdle if attendant.end_if_idle() => Answer::Ends,
        Ask::EndIfIdle => Answer::Busy,
        Ask::End => {
            attendant.end();
            Answer::Ends
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ticket::{Exec, Forward, Streams},
        tokens::Kind,
    };
    use std::sync::atomic::{AtomicBool, Ordering};

    #[derive(Default)]
    struct Server {
        tokens: Tokens,
        ended: AtomicBool,
    }

    impl Attendant for Server {
        fn identity(&self) -> Identity {
            let base = "http://127.0.0.1:1".to_owned();
            Identity { version: "1.2.3".to_owned(), settings: "{}".to_owned(), base }
        }
        fn tokens(&self) -> &Tokens {
            &self.tokens
        }
        fn end_if_idle(&self) -> bool {
            self.tokens.close_if_empty()
        }
        fn end(&self) {
            self.ended.store(true, Ordering::Relaxed);
        }
    }

    async fn talk(server: &Server, line: &[u8]) -> String {
        let (mut near, far) = UnixStream::pair().expect("pair");
        let said = async {
            near.write_all(line).await.expect("write");
            let mut answer = String::new();
            near.read_to_string(&mut answer).await.expect("read");
            answer
        };
        let (said, _) = tokio::join!(said, attend(far, server));
        said
    }

    #[tokio::test]
    async fn a_grant_is_a_path_whose_token_is_good() {
        let server = Server::default();
        let streams = Streams { stdout: true, ..Streams::default() };
        let exec = Exec {
            shim: "/s".into(),
            bundle: "/b".into(),
            container: "c".to_owned(),
            command: vec!["a\nb".to_owned()],
            streams,
        };
        let mut line = serde_json::to_vec(&Ask::Grant(Ticket::Exec(exec.clone()))).expect("json");
        line.push(b'\n');
        let answer: Answer = serde_json::from_str(&talk(&server, &line).await).expect("answer");
        let Answer::Granted { path } = answer else { panic!("{answer:?}") };
        let token = path.strip_prefix("/exec/").expect("path");
        assert_eq!(server.tokens.take(Kind::Exec, token), Some(Ticket::Exec(exec)));
    }

    #[tokio::test]
    async fn what_is_no_question_is_refused_and_changes_nothing() {
        let server = Server::default();
        for bad in [&b"\n"[..], b"{}\n", b"{\"Grant\":{}}\n", b"\"Quit\"\n", b"[[[[\n"] {
            let said = talk(&server, bad).await;
            assert!(said.starts_with("{\"Refused\":") && said.ends_with("}\n"), "{bad:?}: {said}");
        }
        assert!(server.tokens.is_empty() && !server.ended.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn a_busy_server_goes_on_and_an_idle_one_grants_nothing_more() {
        let server = Server::default();
        let grant = Ticket::Forward(Forward { netns: None, ports: vec![] });
        let token = server.tokens.grant(grant).expect("room");
        assert!(talk(&server, b"\"EndIfIdle\"\n").await.contains("Busy"));
        assert!(server.tokens.take(Kind::Forward, &token).is_some());
        assert!(talk(&server, b"\"EndIfIdle\"\n").await.contains("Ends"));
        let late = talk(&server, b"{\"Grant\":{\"Forward\":{\"netns\":null,\"ports\":[]}}}\n").await;
        assert!(late.contains("Ends"), "{late}");
        assert!(talk(&server, b"\"End\"\n").await.contains("Ends"));
        assert!(server.ended.load(Ordering::Relaxed));
    }

    #[test]
    fn a_ticket_in_the_logs_has_no_arguments() {
        let exec = Exec {
            shim: "/s".into(),
            bundle: "/b".into(),
            container: "c".to_owned(),
            command: vec!["--password=secret".to_owned()],
            streams: Streams::default(),
        };
        assert!(!format!("{:?}", Ask::Grant(Ticket::Exec(exec))).contains("secret"));
    }
}
