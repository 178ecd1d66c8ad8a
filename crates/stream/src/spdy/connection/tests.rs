//! Both ends over a pipe in memory, and an end that says anything.

use super::*;
use crate::spdy::headers::Writer as HeaderWriter;
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, DuplexStream, duplex},
    task::JoinHandle,
};

impl Connection {
    /// Opens a stream with that number and waits until it is taken.
    pub(crate) async fn open(&self, id: u32, headers: &[(&str, &str)]) -> io::Result<Stream> {
        let (replied, reply) = oneshot::channel();
        let stream = {
            let mut writer = self.0.writer.lock().await;
            let stream = self.register(id, Headers::default(), Some(replied));
            let stream = stream.ok_or(io::ErrorKind::NotConnected)?;
            let block = writer.headers.block(headers);
            writer.frame(&frame::syn_stream(id, &block), &[]).await?;
            stream
        };
        match reply.await {
            Ok(()) => Ok(stream),
            Err(_) => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }

    /// Asks for an echo.
    pub(crate) async fn ping(&self, id: u32) -> io::Result<()> {
        self.write(&frame::ping(id), &[]).await
    }

    /// How many streams are open.
    fn open_streams(&self) -> usize {
        locked(&self.0.streams).open.len()
    }
}

impl Stream {
    /// Everything that comes, and whether it was all.
    pub(crate) async fn all(&mut self) -> (Vec<u8>, bool) {
        let mut all = Vec::new();
        loop {
            match self.input.pieces.recv().await {
                Some(Piece::Data(bytes)) => all.extend_from_slice(&bytes),
                Some(Piece::End) => return (all, true),
                None => return (all, false),
            }
        }
    }
}

type Running = JoinHandle<Result<(), Broken>>;

fn end<IO: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    io: IO,
    role: Role,
) -> (Connection, Running, mpsc::Receiver<Stream>) {
    let (connection, reader, accepted) = connection(io, role, 4, Activity::default());
    (connection, tokio::spawn(reader.run()), accepted)
}

/// A client and a server.
fn both() -> (Connection, Connection, mpsc::Receiver<Stream>) {
    let (near, far) = duplex(64 << 10);
    let (client, _, _) = end(near, Role::Client);
    let (server, _, accepted) = end(far, Role::Server);
    (client, server, accepted)
}

async fn pair(client: &Connection, accepted: &mut mpsc::Receiver<Stream>, id: u32) -> (Stream, Stream) {
    let taken = async {
        let stream = accepted.recv().await.expect("a stream");
        stream.output.reply().await.expect("reply");
        stream
    };
    let (opened, taken) = tokio::join!(client.open(id, &[("streamtype", "data")]), taken);
    (opened.expect("open"), taken)
}

#[tokio::test]
async fn bytes_arrive_both_ways_and_half_closes_are_told() {
    let (client, _server, mut accepted) = both();
    let (mut near, mut far) = pair(&client, &mut accepted, 1).await;
    assert_eq!(far.headers.get("streamtype"), Some("data"));
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let sent = async {
        near.output.write(&bytes).await.expect("write");
        near.output.close().await;
    };
    let ((), (received, whole)) = tokio::join!(sent, far.all());
    assert!(whole && received == bytes);
    far.output.write(b"after the half-close").await.expect("write");
    far.output.close().await;
    assert_eq!(near.all().await, (b"after the half-close".to_vec(), true));
}

#[tokio::test]
async fn pieces_of_a_frame_are_bounded() {
    let (client, _server, mut accepted) = both();
    let (near, mut far) = pair(&client, &mut accepted, 1).await;
    tokio::spawn(async move {
        near.output.write(&vec![7; 1 << 20]).await.expect("write");
        near.output.close().await;
    });
    let mut all = 0;
    while let Some(Piece::Data(bytes)) = far.input.pieces.recv().await {
        assert!(bytes.len() <= reader::PIECE);
        all += bytes.len();
    }
    assert_eq!(all, 1 << 20);
}

#[tokio::test]
async fn a_reset_ends_both_ways_and_leaves_nothing() {
    let (client, server, mut accepted) = both();
    let (near, mut far) = pair(&client, &mut accepted, 1).await;
    near.output.write(b"x").await.expect("write");
    near.output.reset(Status::Cancel).await;
    assert_eq!(far.all().await, (b"x".to_vec(), false));
    assert!(far.output.write(b"y").await.is_err());
    assert_eq!(server.open_streams(), 0);
    drop(near);
    assert_eq!(client.open_streams(), 0);
}

#[tokio::test]
async fn what_comes_for_a_stream_that_nobody_reads_is_dropped() {
    let (client, server, mut accepted) = both();
    let (near, far) = pair(&client, &mut accepted, 1).await;
    let (mut other, other_far) = pair(&client, &mut accepted, 3).await;
    drop(far.input);
    near.output.write(&vec![0; 1 << 20]).await.expect("write");
    near.output.close().await;
    other_far.output.write(b"still").await.expect("write");
    other_far.output.close().await;
    assert_eq!(other.all().await.0, b"still");
    assert_eq!(server.open_streams(), 1);
}

#[tokio::test]
async fn streams_are_bounded_and_places_come_back() {
    let (client, _server, mut accepted) = both();
    let mut held = Vec::new();
    for id in [1, 3, 5, 7] {
        held.push(pair(&client, &mut accepted, id).await);
    }
    let refused = client.open(9, &[]).await.expect_err("full");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    held.pop();
    pair(&client, &mut accepted, 11).await;
}

#[tokio::test]
async fn when_the_other_end_goes_every_stream_is_given_up() {
    let (near, far) = duplex(1024);
    let (client, reading, _) = end(near, Role::Client);
    let (_server, _, mut accepted) = end(far, Role::Server);
    let (near, mut far) = pair(&client, &mut accepted, 1).await;
    client.goodbye().await;
    assert_eq!(far.all().await, (Vec::new(), false));
    assert!(far.output.write(b"x").await.is_err());
    assert!(accepted.recv().await.is_none());
    drop((near, reading));
}

#[tokio::test]
async fn a_stream_whose_reader_is_slow_holds_only_a_few_pieces() {
    let (client, _server, mut accepted) = both();
    let (near, mut far) = pair(&client, &mut accepted, 1).await;
    let sent = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    tokio::spawn(async move {
        for _ in 0..1000 {
            near.output.write(&[1; 4096]).await.expect("write");
            counter.fetch_add(4096, Ordering::SeqCst);
        }
        near.output.close().await;
    });
    // On one thread, the writer runs until it is held up.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(sent.load(Ordering::SeqCst) <= (64 << 10) + (PIECES + 2) * reader::PIECE);
    assert_eq!(far.all().await.0.len(), 4_096_000);
}

/// A server's end, and a peer that says anything.
struct Raw {
    io: DuplexStream,
    server: Connection,
    running: Running,
    accepted: mpsc::Receiver<Stream>,
    headers: HeaderWriter,
}

impl Raw {
    fn new() -> Raw {
        let (io, far) = duplex(1 << 20);
        let (server, running, accepted) = end(far, Role::Server);
        Raw { io, server, running, accepted, headers: HeaderWriter::default() }
    }

    async fn say(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.expect("say");
    }

    async fn open(&mut self, id: u32) {
        let block = self.headers.block(&[("streamtype", "data")]);
        self.say(&frame::syn_stream(id, &block)).await;
    }

    async fn hears(&mut self, expected: &[u8]) {
        let mut bytes = vec![0; expected.len()];
        self.io.read_exact(&mut bytes).await.expect("hear");
        assert_eq!(bytes, expected);
    }

    /// The answer to what is wrong with a whole connection.
    async fn let_go(mut self, last: u32) -> Broken {
        self.hears(&frame::goaway(last, false)).await;
        let mut rest = Vec::new();
        self.io.read_to_end(&mut rest).await.expect("hear");
        assert!(rest.is_empty());
        self.running.await.expect("run").expect_err("broken")
    }
}

#[tokio::test]
async fn pings_of_the_other_end_are_echoed_and_answers_are_not() {
    let mut raw = Raw::new();
    raw.say(&[frame::ping(2), frame::ping(1), frame::ping(u32::MAX)].concat()).await;
    raw.hears(&[frame::ping(1), frame::ping(u32::MAX)].concat()).await;
}

#[tokio::test]
async fn pings_do_not_wait_for_output_that_is_held_up() {
    let (mut io, far) = duplex(256);
    let (_server, _running, mut accepted) = end(far, Role::Server);
    let block = HeaderWriter::default().block(&[]);
    io.write_all(&frame::syn_stream(1, &block)).await.expect("say");
    let mut stream = accepted.recv().await.expect("a stream");
    let output = stream.output.clone();
    let held_up = tokio::spawn(async move { output.write(&[9; 1000]).await });
    for id in (1..1000).step_by(2) {
        io.write_all(&frame::ping(id)).await.expect("say");
    }
    io.write_all(&frame::data(1, false, 1)).await.expect("say");
    io.write_all(b"!").await.expect("say");
    // Input goes on.
    assert_eq!(stream.input.pieces.recv().await, Some(Piece::Data(Bytes::from_static(b"!"))));
    let mut whole = vec![0; HEAD_AND_DATA + PENDING * 12];
    io.read_exact(&mut whole).await.expect("hear");
    assert_eq!(whole[HEAD_AND_DATA..][..12], frame::ping(999 - 2 * 63));
    assert_eq!(whole[whole.len() - 12..], frame::ping(999));
    held_up.await.expect("join").expect("write");
}

const HEAD_AND_DATA: usize = frame::HEAD + 1000;

#[tokio::test]
async fn streams_in_the_wrong_order_are_reset_and_the_others_live() {
    let mut raw = Raw::new();
    raw.open(5).await;
    for wrong in [5, 3, 2] {
        raw.open(wrong).await;
        raw.hears(&frame::rst_stream(wrong, Status::Protocol)).await;
    }
    let mut stream = raw.accepted.recv().await.expect("a stream");
    raw.say(&frame::data(5, true, 2)).await;
    raw.say(b"hi").await;
    assert_eq!(stream.all().await, (b"hi".to_vec(), true));
}

#[tokio::test]
async fn frames_for_no_stream_are_ignored() {
    let mut raw = Raw::new();
    raw.say(&frame::data(7, true, 100_000)).await;
    raw.say(&vec![0; 100_000]).await;
    raw.say(&frame::rst_stream(7, Status::Cancel)).await;
    raw.say(&frame::goaway(0, true)).await;
    raw.say(&frame::syn_reply(9, &HeaderWriter::default().block(&[]))).await;
    raw.headers = HeaderWriter::default();
    raw.headers.block(&[]);
    raw.open(7).await;
    assert!(raw.accepted.recv().await.is_some());
}

#[tokio::test]
async fn after_the_seal_streams_are_refused_and_data_goes_on() {
    let mut raw = Raw::new();
    raw.open(1).await;
    let mut stream = raw.accepted.recv().await.expect("a stream");
    raw.server.seal();
    raw.open(3).await;
    raw.hears(&frame::rst_stream(3, Status::Refused)).await;
    raw.say(&frame::data(1, true, 0)).await;
    assert_eq!(stream.all().await, (Vec::new(), true));
}

#[tokio::test]
async fn wrong_frames_and_headers_end_the_connection_with_a_goodbye() {
    let mut raw = Raw::new();
    raw.say(&[0x80, 2, 0, 1, 0, 0, 0, 0]).await;
    assert!(matches!(raw.let_go(0).await, Broken::Frame(FrameError::Version(2))));
    let mut raw = Raw::new();
    raw.open(1).await;
    raw.say(&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]).await;
    assert!(matches!(raw.let_go(1).await, Broken::Frame(FrameError::Long { .. })));
    let mut raw = Raw::new();
    raw.say(&frame::syn_stream(1, b"no zlib")).await;
    assert!(matches!(raw.let_go(0).await, Broken::Headers(HeaderError::Zlib)));
}

#[tokio::test]
async fn an_end_in_the_middle_of_a_frame_is_an_error() {
    for part in [&frame::ping(1)[..5], &frame::ping(1)[..9], &frame::data(1, false, 9)] {
        let mut raw = Raw::new();
        raw.open(1).await;
        raw.say(part).await;
        drop(raw.io);
        assert!(matches!(raw.running.await.expect("run"), Err(Broken::Io(_))));
    }
}

#[tokio::test]
async fn frames_that_come_byte_by_byte_are_the_same() {
    let mut raw = Raw::new();
    let block = raw.headers.block(&[("port", "80")]);
    let mut all = frame::syn_stream(1, &block);
    all.extend(frame::data(1, true, 3));
    all.extend(b"abc");
    for byte in all {
        raw.say(&[byte]).await;
        tokio::task::yield_now().await;
    }
    let mut stream = raw.accepted.recv().await.expect("a stream");
    assert_eq!(stream.headers.get("port"), Some("80"));
    assert_eq!(stream.all().await, (b"abc".to_vec(), true));
}

#[tokio::test]
async fn a_writer_that_is_dropped_in_the_middle_leaves_whole_frames() {
    let (mut io, far) = duplex(100);
    let (server, _running, mut accepted) = end(far, Role::Server);
    let mut headers = HeaderWriter::default();
    for id in [1, 3] {
        let block = headers.block(&[]);
        io.write_all(&frame::syn_stream(id, &block)).await.expect("say");
    }
    let (first, second) = (accepted.recv().await.expect("first"), accepted.recv().await.expect("second"));
    let write = first.output.write(&[1; 1000]);
    tokio::select! {
        biased;
        _ = write => panic!("there is no room"),
        () = tokio::task::yield_now() => {}
    }
    let writing = tokio::spawn(async move {
        second.output.write(&[2; 10]).await.expect("write");
        server.goodbye().await;
    });
    let mut all = Vec::new();
    io.read_to_end(&mut all).await.expect("hear");
    writing.await.expect("join");
    let expected = [
        &frame::data(1, false, 1000)[..],
        &[1; 1000],
        &frame::data(3, false, 10),
        &[2; 10],
        &frame::goaway(3, true),
    ];
    assert_eq!(all, expected.concat());
}
