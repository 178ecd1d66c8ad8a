//! A client: HTTP by hand, then the client's end of SPDY.

use super::Rig;
use crate::{
    session::{Activity, Channel},
    spdy::{Connection, Role, Stream, connection},
};
use serde_json::Value;
use std::io;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};

pub(super) const V4: &str = "v4.channel.k8s.io";

/// Sends a request and returns the answer's head, and the connection if that is a 101.
pub(super) async fn request(rig: &Rig, text: &str) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(rig.address).await.expect("connect");
    stream.set_nodelay(true).expect("no delay");
    stream.write_all(text.as_bytes()).await.expect("request");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    (String::from_utf8(head).expect("text"), stream)
}

pub(super) fn upgrade(path: &str, version: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
         X-Stream-Protocol-Version: {version}\r\nContent-Length: 0\r\n\r\n"
    )
}

/// A SPDY connection after its upgrade.
pub(super) struct Spdy {
    pub(super) connection: Connection,
    pub(super) reading: JoinHandle<()>,
    next: u32,
}

impl Spdy {
    pub(super) async fn new(rig: &Rig, path: &str, version: &str) -> Spdy {
        let (head, stream) = request(rig, &upgrade(path, version)).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.to_ascii_lowercase().contains(&format!("x-stream-protocol-version: {version}\r\n")));
        Spdy::over(stream)
    }

    pub(super) fn over(stream: TcpStream) -> Spdy {
        let (connection, reader, _) = connection(stream, Role::Client, 0, Activity::default());
        let reading = tokio::spawn(async move {
            let _ = reader.run().await;
        });
        Spdy::of(connection, reading)
    }

    pub(super) fn of(connection: Connection, reading: JoinHandle<()>) -> Spdy {
        Spdy { connection, reading, next: 1 }
    }

    pub(super) async fn open(&mut self, headers: &[(&str, &str)]) -> io::Result<Stream> {
        self.next += 2;
        self.connection.open(self.next - 2, headers).await
    }

    pub(super) async fn channel(&mut self, channel: Channel) -> Stream {
        let name = match channel {
            Channel::Stdin => "stdin",
            Channel::Stdout => "stdout",
            Channel::Stderr => "stderr",
            Channel::Error => "error",
            Channel::Resize => "resize",
        };
        self.open(&[("streamtype", name)]).await.expect("the stream is taken")
    }

    /// Reads on until the server has closed its side.
    pub(super) async fn ends(self) {
        self.reading.await.expect("read");
    }
}

/// An exec or attach session with all of its streams.
pub(super) struct Session {
    pub(super) spdy: Spdy,
    pub(super) error: Stream,
    pub(super) stdin: Option<Stream>,
    pub(super) stdout: Option<Stream>,
    pub(super) stderr: Option<Stream>,
    pub(super) resize: Option<Stream>,
}

impl Session {
    pub(super) async fn new(rig: &Rig, path: &str, version: &str, channels: &[Channel]) -> Session {
        Session::over(Spdy::new(rig, path, version).await, channels).await
    }

    pub(super) async fn over(mut spdy: Spdy, channels: &[Channel]) -> Session {
        let error = spdy.channel(Channel::Error).await;
        let (mut stdin, mut stdout, mut stderr, mut resize) = (None, None, None, None);
        for channel in channels {
            let stream = Some(spdy.channel(*channel).await);
            match channel {
                Channel::Stdin => stdin = stream,
                Channel::Stdout => stdout = stream,
                Channel::Stderr => stderr = stream,
                Channel::Resize => resize = stream,
                Channel::Error => {}
            }
        }
        Session { spdy, error, stdin, stdout, stderr, resize }
    }

    /// Output, error output and the last word, to the end of the connection.
    pub(super) async fn end(mut self) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let whole = |stream: Option<Stream>| async move {
            match stream {
                Some(mut stream) => {
                    let (bytes, whole) = stream.all().await;
                    assert!(whole, "the stream has an end");
                    bytes
                }
                None => Vec::new(),
            }
        };
        let (stdout, stderr) = tokio::join!(whole(self.stdout), whole(self.stderr));
        let (word, is_whole) = self.error.all().await;
        assert!(is_whole, "the last word has an end");
        self.spdy.ends().await;
        (stdout, stderr, word)
    }

    /// The `metav1.Status`.
    pub(super) async fn status(self) -> Value {
        serde_json::from_slice(&self.end().await.2).expect("a status")
    }
}
