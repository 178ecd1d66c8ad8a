//! Whole sessions, frame by frame: a client that says anything, and processes that are tasks.

mod forward;
mod remote;
mod tunnel;
mod witness;

use super::{
    channels::{Messages, Said},
    frame::{Close, Kind, Role},
    protocol::Protocol,
    socket::{Reader, Received},
};
use crate::{
    Settings,
    backend::{Backend, BackendError, Control, Ended, Process},
    session::{Life, Size, Want},
    ticket::{Attach, Exec, Streams},
};
use bytes::Bytes;
use std::{
    collections::BTreeMap,
    future::Future,
    path::Path,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf},
    net::{
        TcpStream,
        unix::pipe::{Receiver, Sender, pipe},
    },
    sync::watch,
    task::JoinHandle,
    time::timeout,
};

/// All streams, without a terminal.
pub(crate) const ALL: Streams = Streams { stdin: true, stdout: true, stderr: true, tty: false };

/// A life that nobody ends.
pub(crate) fn life() -> (watch::Sender<bool>, Life) {
    let (stop, stopped) = watch::channel(false);
    (stop, Life { settings: Settings::default(), stop: stopped })
}

/// An exec of one of the [`Fake`]'s programs.
pub(crate) fn exec(command: &[&str], streams: Streams) -> Want {
    Want::Exec(Exec {
        shim: "/shim".into(),
        bundle: "/bundle".into(),
        container: "c".to_owned(),
        command: command.iter().map(|&word| word.to_owned()).collect(),
        streams,
    })
}

/// Processes that are tasks of the test's runtime.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fake(Arc<State>);

#[derive(Debug, Default)]
pub(crate) struct State {
    /// Processes that have not ended.
    pub(crate) alive: AtomicUsize,
    /// Sizes that were set, in order.
    pub(crate) sizes: Mutex<Vec<Size>>,
    /// Bytes that processes have read and written.
    pub(crate) read: AtomicUsize,
    pub(crate) written: AtomicUsize,
}

impl std::ops::Deref for Fake {
    type Target = State;
    fn deref(&self) -> &State {
        &self.0
    }
}

struct Running {
    state: Arc<State>,
    end: Mutex<Option<JoinHandle<u32>>>,
}

impl Control for Running {
    fn resize(&self, size: Size) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.state.sizes.lock().expect("lock").push(size);
        Box::pin(async {})
    }

    fn input_ended(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {})
    }

    fn wait(&self) -> Pin<Box<dyn Future<Output = Result<Ended, BackendError>> + Send + '_>> {
        Box::pin(async {
            let end = self.end.lock().expect("lock").take().expect("waited for once");
            end.await.map(Ended::Code).map_err(|error| BackendError(error.to_string()))
        })
    }
}

/// A client's share in a process, which it loses: it took nothing for too long.
struct LetGo;

impl Control for LetGo {
    fn resize(&self, _: Size) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {})
    }

    fn input_ended(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {})
    }

    fn wait(&self) -> Pin<Box<dyn Future<Output = Result<Ended, BackendError>> + Send + '_>> {
        Box::pin(async {
            tokio::time::sleep(Duration::from_secs(10)).await;
            Err(BackendError("let go".to_owned()))
        })
    }
}

impl Backend for Fake {
    async fn exec(&self, exec: &Exec) -> Result<Process, BackendError> {
        let words: Vec<&str> = exec.command.iter().map(String::as_str).collect();
        if words == ["missing"] {
            return Err(BackendError("no such file: missing".to_owned()));
        }
        Ok(self.start(&words, exec.streams))
    }

    async fn attach(&self, attach: &Attach) -> Result<Process, BackendError> {
        if attach.container == "slow" {
            let process = self.start(&["pattern", "100000000"], attach.streams);
            return Ok(Process { control: Box::new(LetGo), ..process });
        }
        Ok(self.start(&["cat"], attach.streams))
    }

    async fn dial(&self, _: Option<&Path>, port: u16) -> Result<TcpStream, BackendError> {
        TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| BackendError(error.to_string()))
    }
}

impl Fake {
    fn start(&self, words: &[&str], streams: Streams) -> Process {
        let (stdin, input) = pair(streams.stdin);
        let (output, stdout) = pair(streams.stdout);
        let (errors, stderr) = pair(streams.stderr);
        let (state, words) = (Arc::clone(&self.0), words.join(" "));
        state.alive.fetch_add(1, Ordering::SeqCst);
        let program = async move {
            let code = program(&words, &state, input, output, errors).await;
            state.alive.fetch_sub(1, Ordering::SeqCst);
            code
        };
        let end = Mutex::new(Some(tokio::spawn(program)));
        let control = Box::new(Running { state: Arc::clone(&self.0), end });
        Process { stdin, stdout, stderr, control }
    }

    /// Waits until no process is left.
    pub(crate) async fn all_ended(&self) {
        soon(async {
            while self.alive.load(Ordering::SeqCst) > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

fn pair(wanted: bool) -> (Option<Sender>, Option<Receiver>) {
    wanted.then(|| pipe().expect("a pipe")).unzip()
}

/// The programs: each ends when its streams do.
async fn program(
    words: &str,
    state: &State,
    stdin: Option<Receiver>,
    stdout: Option<Sender>,
    stderr: Option<Sender>,
) -> u32 {
    match words.split_once(' ').unwrap_or((words, "")) {
        // Its input to its output, and its last word to its error output.
        ("cat", code) => {
            let (Some(mut stdin), Some(mut stdout)) = (stdin, stdout) else { return 2 };
            let mut buffer = vec![0; 16 << 10];
            while let Ok(n @ 1..) = stdin.read(&mut buffer).await {
                state.read.fetch_add(n, Ordering::SeqCst);
                if stdout.write_all(&buffer[..n]).await.is_err() {
                    return 141;
                }
            }
            if let Some(mut stderr) = stderr {
                let _ = stderr.write_all(b"bye").await;
            }
            code.parse().unwrap_or(0)
        }
        // So many bytes of the pattern.
        ("pattern", length) => {
            let Some(mut stdout) = stdout else { return 2 };
            let length: usize = length.parse().expect("a length");
            while state.written.load(Ordering::SeqCst) < length {
                let at = state.written.load(Ordering::SeqCst);
                let piece = pattern(at, (length - at).min(32 << 10));
                if stdout.write_all(&piece).await.is_err() {
                    return 141;
                }
                state.written.fetch_add(piece.len(), Ordering::SeqCst);
            }
            0
        }
        // Reads the pattern, and nothing else, to its end: 0 if it was so long.
        ("check", length) => {
            let Some(mut stdin) = stdin else { return 2 };
            let mut buffer = vec![0; 16 << 10];
            while let Ok(n @ 1..) = stdin.read(&mut buffer).await {
                let at = state.read.fetch_add(n, Ordering::SeqCst);
                if buffer[..n] != pattern(at, n) {
                    return 1;
                }
            }
            u32::from(state.read.load(Ordering::SeqCst) != length.parse::<usize>().expect("a length"))
        }
        // Reads nothing, until its output is closed.
        ("stuck", _) => {
            if let Some(stdout) = stdout {
                let _ = stdout.ready(tokio::io::Interest::ERROR).await;
            }
            drop(stdin);
            141
        }
        (_, code) => code.parse().unwrap_or(0),
    }
}

/// Bytes that are different at each place for a long while.
pub(crate) fn pattern(at: usize, length: usize) -> Vec<u8> {
    (at..at + length).map(|n| (n ^ (n >> 8) ^ (n >> 16)).to_le_bytes()[0]).collect()
}

/// A masked frame, as the RFC draws it.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [7, 0, 255, 113];
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..=125 => frame.push(0x80 | u8::try_from(short).expect("short")),
        middle @ 126..=65535 => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&u16::try_from(middle).expect("middle").to_be_bytes());
        }
        long => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

pub(crate) const BINARY: u8 = 0x82;
pub(crate) const TEXT: u8 = 0x81;
pub(crate) const PING: u8 = 0x89;
pub(crate) const CLOSE: u8 = 0x88;

/// What must come soon; a test that waits for ever tells nothing.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(60), what).await.expect("it comes within a minute")
}

/// A client that says what it is told to.
pub(crate) struct Raw {
    pub(crate) reader: Reader<ReadHalf<DuplexStream>>,
    pub(crate) write: WriteHalf<DuplexStream>,
    protocol: Protocol,
    messages: Messages,
}

/// What a client heard until the end.
#[derive(Debug, Default)]
pub(crate) struct Transcript {
    /// Bytes by channel, and the channel of the first message.
    pub(crate) said: BTreeMap<u8, Vec<u8>>,
    pub(crate) first: Option<u8>,
    pub(crate) kinds: Vec<Kind>,
    /// Channels that were closed, in order (v5).
    pub(crate) closed: Vec<u8>,
    pub(crate) pongs: usize,
    /// The goodbye; none if the connection just ended.
    pub(crate) close: Option<Close>,
}

impl Transcript {
    /// What was said on a channel.
    pub(crate) fn text(&self, channel: u8) -> String {
        String::from_utf8_lossy(self.said.get(&channel).map_or(&[], Vec::as_slice)).into_owned()
    }

    /// The code of the goodbye.
    pub(crate) fn code(&self) -> Option<u16> {
        self.close.as_ref().and_then(|close| close.code)
    }
}

impl Raw {
    /// At one end of a pipe that holds so many bytes; the other is the server's.
    pub(crate) fn new(protocol: Protocol, holds: usize) -> (Raw, DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(holds);
        let (read, write) = tokio::io::split(ours);
        let reader = Reader::new(read, Role::Client);
        (Raw { reader, write, protocol, messages: Messages::new(protocol) }, theirs)
    }

    /// Sends these bytes as they are; that nobody takes them is no failure.
    pub(crate) async fn raw(&mut self, bytes: &[u8]) {
        let _ = self.write.write_all(bytes).await;
    }

    /// Sends a message of a channel in the protocol's form.
    pub(crate) async fn say(&mut self, channel: u8, bytes: &[u8]) {
        let message = message(self.protocol, channel, bytes);
        self.raw(&message).await;
    }

    /// Says that a channel ends.
    pub(crate) async fn end(&mut self, channel: u8) {
        self.raw(&frame(BINARY, &[255, channel])).await;
    }

    /// The next piece of a message.
    pub(crate) async fn hear(&mut self) -> Option<(u8, Bytes)> {
        loop {
            match soon(self.reader.next()).await {
                Ok(Received::Piece { bytes, last, .. }) => match self.messages.piece(bytes, last) {
                    Ok(Some(Said::Data { channel, bytes })) => return Some((channel, bytes)),
                    Ok(_) => {}
                    Err(error) => panic!("{error}"),
                },
                Ok(Received::Ping(_) | Received::Pong) => {}
                Ok(Received::Close(_) | Received::End) | Err(_) => return None,
            }
        }
    }

    /// Hears everything to the end, and answers the goodbye.
    pub(crate) async fn transcript(&mut self) -> Transcript {
        let mut all = Transcript::default();
        loop {
            match soon(self.reader.next()).await {
                Ok(Received::Piece { bytes, last, kind }) => {
                    if all.kinds.is_empty() {
                        let first = bytes.first().copied();
                        all.first = first.map(|first| if kind == Kind::Text { first - b'0' } else { first });
                    }
                    all.kinds.push(kind);
                    match self.messages.piece(bytes, last) {
                        Ok(Some(Said::Data { channel, bytes })) => {
                            all.said.entry(channel).or_default().extend_from_slice(&bytes);
                        }
                        Ok(Some(Said::Close { channel })) => all.closed.push(channel),
                        Ok(None) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                Ok(Received::Pong) => all.pongs += 1,
                Ok(Received::Ping(_)) => {}
                Ok(Received::Close(close)) => {
                    all.close = Some(close);
                    self.raw(&frame(CLOSE, &1000_u16.to_be_bytes())).await;
                }
                Ok(Received::End) | Err(_) => return all,
            }
        }
    }
}

/// A message of a channel in a protocol's form, as one frame.
pub(crate) fn message(protocol: Protocol, channel: u8, bytes: &[u8]) -> Vec<u8> {
    let (first, rest) = super::channels::compose(protocol, channel, bytes);
    frame(if protocol.is_base64() { TEXT } else { BINARY }, &[&[first], &rest[..]].concat())
}
