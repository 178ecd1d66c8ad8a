//! Exec and attach over SPDY: the client opens a stream for each channel, named by the header
//! `streamType`; the process is started when all are there
//! (k8s.io/cri-streaming:pkg/streaming/remotecommand/httpstream.go).

use super::{
    connection::{Connection, Input, Output, Reader, Role, Stream, connection},
    frame::Status,
};
use crate::{
    backend::Backend,
    forward::Piece,
    session::{Channel, Client, Event, Inlet, Life, Want, queue, serve},
    status::Outcome,
    ticket::Streams,
    ws::resize::Sizes,
};
use std::{
    future::pending,
    io,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    time::timeout,
};

/// How long is read on after the last word: closing while something of the client is unread would be a
/// reset, and that can take the last bytes away from it.
const LINGER: Duration = Duration::from_secs(30);
/// The same when the server ends.
const LINGER_CUT: Duration = Duration::from_secs(1);
/// Streams at a time of one client: those that it may have, and a mistake or two.
const STREAMS: usize = 8;

/// The protocols; they differ in the last word and in resizing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// `channel.k8s.io`: errors are plain text.
    V1,
    /// `v2.channel.k8s.io`: as v1.
    V2,
    /// `v3.channel.k8s.io`: with resizing.
    V3,
    /// `v4.channel.k8s.io`: the end is told as a `metav1.Status`.
    V4,
}

impl Version {
    /// All, best first.
    pub(crate) const ALL: [Version; 4] = [Version::V4, Version::V3, Version::V2, Version::V1];

    /// Its name in `X-Stream-Protocol-Version`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Version::V1 => "channel.k8s.io",
            Version::V2 => "v2.channel.k8s.io",
            Version::V3 => "v3.channel.k8s.io",
            Version::V4 => "v4.channel.k8s.io",
        }
    }

    fn has_resize(self) -> bool {
        match self {
            Version::V1 | Version::V2 => false,
            Version::V3 | Version::V4 => true,
        }
    }

    fn last_word(self, outcome: &Outcome) -> Vec<u8> {
        match self {
            Version::V1 | Version::V2 | Version::V3 => outcome.text().unwrap_or_default().into_bytes(),
            Version::V4 => outcome.json(),
        }
    }
}

/// Serves one client of exec or attach, to the end of its connection.
pub(crate) async fn remote<IO, B>(io: IO, version: Version, want: Want, backend: B, life: Life)
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    B: Backend,
{
    let (inlet, outlet) = queue();
    let (connection, reader, mut accepted) = connection(io, Role::Server, STREAMS, inlet.activity().clone());
    let mut reading = pin!(read(reader));
    let mut opened = Opened::default();
    let expected = Expected::new(version, want.streams());
    let missing = tokio::select! {
        () = &mut reading => return,
        all = timeout(life.settings.creation, gather(&mut accepted, &expected, &mut opened)) => {
            all.err().map(|_| "timed out waiting for the client to create its streams")
        }
        () = life.stopped() => Some("the stream server ends"),
    };
    // Later streams are refused, without looking at their headers.
    drop(accepted);
    connection.seal();
    let Opened { error, stdin, stdout, stderr, resize } = opened;
    let inputs = [&stdin, &resize].into_iter().flatten().map(|stream| stream.output.clone());
    let client = Remote(Arc::new(Outputs {
        version,
        inputs: inputs.collect(),
        error: error.as_ref().map(|stream| stream.output.clone()),
        stdout: stdout.as_ref().map(|stream| stream.output.clone()),
        stderr: stderr.as_ref().map(|stream| stream.output.clone()),
        connection: connection.clone(),
    }));
    let (stdin, resize) = (stdin.map(|stream| stream.input), resize.map(|stream| stream.input));
    // What comes on the others is dropped with them.
    drop((error, stdout, stderr));
    let mut listening = pin!(listen(reading, inlet, stdin, resize));
    let session = async {
        match missing {
            None => serve(&backend, &want, client, outlet, &life).await,
            Some(why) => {
                let outcome = Outcome::Failed(why.to_owned());
                // Who does not read gets no last word.
                let _ = timeout(LINGER_CUT, client.finish(&outcome)).await;
            }
        }
    };
    let mut session = pin!(session);
    tokio::select! {
        () = &mut session => {
            let linger = if *life.stop.borrow() { LINGER_CUT } else { LINGER };
            let _ = timeout(linger, listening).await;
        }
        // The session notices by itself, without losing a process that is just being started.
        () = &mut listening => session.await,
    }
}

async fn read<R: AsyncRead + Unpin>(reader: Reader<R>) {
    if let Err(error) = reader.run().await {
        let error: &dyn std::error::Error = &error;
        tracing::debug!(error, "a client's connection ended");
    }
}

/// The streams that a client must open.
struct Expected {
    wanted: Vec<Channel>,
}

impl Expected {
    fn new(version: Version, streams: Streams) -> Expected {
        let all = [
            (Channel::Error, true),
            (Channel::Stdin, streams.stdin),
            (Channel::Stdout, streams.stdout),
            (Channel::Stderr, streams.stderr),
            (Channel::Resize, streams.tty && version.has_resize()),
        ];
        Expected {
            wanted: all.into_iter().filter(|(_, wanted)| *wanted).map(|(channel, _)| channel).collect(),
        }
    }
}

#[derive(Default)]
struct Opened {
    error: Option<Stream>,
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    resize: Option<Stream>,
}

impl Opened {
    fn place(&mut self, channel: Channel) -> &mut Option<Stream> {
        match channel {
            Channel::Stdin => &mut self.stdin,
            Channel::Stdout => &mut self.stdout,
            Channel::Stderr => &mut self.stderr,
            Channel::Error => &mut self.error,
            Channel::Resize => &mut self.resize,
        }
    }
}

fn channel(name: &str) -> Option<Channel> {
    match name {
        "error" => Some(Channel::Error),
        "stdin" => Some(Channel::Stdin),
        "stdout" => Some(Channel::Stdout),
        "stderr" => Some(Channel::Stderr),
        "resize" => Some(Channel::Resize),
        _ => None,
    }
}

/// Takes streams until all are there. What is not expected, or there already, is reset.
async fn gather(accepted: &mut mpsc::Receiver<Stream>, expected: &Expected, opened: &mut Opened) {
    let mut missing = expected.wanted.len();
    while missing > 0 {
        let Some(stream) = accepted.recv().await else { return pending().await };
        let kind = stream.headers.get("streamtype").and_then(channel);
        match kind.filter(|kind| expected.wanted.contains(kind)) {
            Some(kind) if opened.place(kind).is_none() => {
                // If that fails, so will the reader.
                let _ = stream.output.reply().await;
                *opened.place(kind) = Some(stream);
                missing -= 1;
            }
            Some(_) | None => {
                tracing::debug!(headers = ?stream.headers, "a client opens a stream that is not expected");
                stream.output.reset(Status::Refused).await;
            }
        }
    }
}

/// Hands what comes to the session, until the client is gone.
async fn listen(
    reading: Pin<&mut impl Future<Output = ()>>,
    inlet: Inlet,
    stdin: Option<Input>,
    resize: Option<Input>,
) {
    let hand_over = async { tokio::join!(input(&inlet, stdin), sizes(&inlet, resize)) };
    tokio::select! {
        // First: that the client is gone must not look like the end of its input.
        biased;
        () = reading => {}
        _ = hand_over => {}
    }
}

/// Never returns. A session that is over lets the rest be dropped.
async fn input(inlet: &Inlet, stdin: Option<Input>) {
    if let Some(mut stdin) = stdin {
        loop {
            let event = match stdin.pieces.recv().await {
                Some(Piece::Data(bytes)) => Event::Input(bytes),
                // A stream that the client resets is at its end, too.
                Some(Piece::End) | None => Event::InputEnd,
            };
            let is_end = event == Event::InputEnd;
            if inlet.send(event).await.is_err() || is_end {
                break;
            }
        }
    }
    pending().await
}

/// Never returns.
async fn sizes(inlet: &Inlet, resize: Option<Input>) {
    if let Some(mut resize) = resize {
        let mut sizes = Sizes::default();
        while let Some(Piece::Data(bytes)) = resize.pieces.recv().await {
            if let Some(size) = sizes.take(&bytes)
                && inlet.send(Event::Resize(size)).await.is_err()
            {
                break;
            }
        }
    }
    pending().await
}

#[derive(Clone, Debug)]
struct Remote(Arc<Outputs>);

#[derive(Debug)]
struct Outputs {
    version: Version,
    connection: Connection,
    error: Option<Output>,
    stdout: Option<Output>,
    stderr: Option<Output>,
    /// Those that the client may still write to.
    inputs: Vec<Output>,
}

impl Remote {
    fn output(&self, channel: Channel) -> Option<&Output> {
        match channel {
            Channel::Stdout => self.0.stdout.as_ref(),
            Channel::Stderr => self.0.stderr.as_ref(),
            Channel::Error => self.0.error.as_ref(),
            Channel::Stdin | Channel::Resize => None,
        }
    }
}

impl Client for Remote {
    async fn write(&self, channel: Channel, bytes: &[u8]) -> io::Result<()> {
        match self.output(channel) {
            Some(output) => output.write(bytes).await,
            None => Ok(()),
        }
    }

    async fn close(&self, channel: Channel) {
        if let Some(output) = self.output(channel) {
            output.close().await;
        }
    }

    async fn finish(&self, outcome: &Outcome) {
        let word = self.0.version.last_word(outcome);
        if let Some(error) = &self.0.error {
            if !word.is_empty() {
                // Who is gone needs no last word.
                let _ = error.write(&word).await;
            }
            error.close().await;
        }
        for output in [&self.0.stdout, &self.0.stderr].into_iter().flatten() {
            output.close().await;
        }
        for input in &self.0.inputs {
            input.reset(Status::Cancel).await;
        }
        self.0.connection.goodbye().await;
    }
}
