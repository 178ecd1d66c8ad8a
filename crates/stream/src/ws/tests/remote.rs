//! Exec and attach.

use super::*;
use crate::ws::{protocol::PROTOCOLS_REMOTE, remote::serve_remote};

/// A session of a program; whoever awaits the handle knows that the server has let go of it.
fn session(protocol: Protocol, want: Want, holds: usize) -> (Raw, Fake, JoinHandle<()>) {
    let (raw, io) = Raw::new(protocol, holds);
    let fake = Fake::default();
    let backend = fake.clone();
    let served = tokio::spawn(async move {
        let (_stop, life) = life();
        serve_remote(io, protocol, &want, &backend, &life).await;
    });
    (raw, fake, served)
}

#[tokio::test]
async fn every_protocol_carries_all_streams_and_the_exit_code() {
    for protocol in PROTOCOLS_REMOTE {
        let (mut raw, fake, served) = session(protocol, exec(&["cat", "3"], ALL), 1 << 16);
        raw.say(0, b"hello\n").await;
        assert_eq!(raw.hear().await, Some((1, Bytes::from_static(b"hello\n"))), "{protocol:?}");
        if protocol.has_close() {
            raw.end(0).await;
            let all = raw.transcript().await;
            assert_eq!(all.text(2), "bye");
            assert!(all.text(3).contains(r#""message":"3""#), "{}", all.text(3));
            assert_eq!(all.code(), Some(1000));
        } else {
            // Without a word for the end of input, the end of the session is that of input.
            raw.raw(&frame(CLOSE, &1000_u16.to_be_bytes())).await;
            assert_eq!(raw.transcript().await.code(), Some(1000), "{protocol:?}");
        }
        soon(served).await.expect("served");
        fake.all_ended().await;
    }
}

#[tokio::test]
async fn the_end_is_a_status_or_a_text_as_the_protocol_has_it() {
    for protocol in PROTOCOLS_REMOTE {
        let (mut raw, _, served) = session(protocol, exec(&["exit", "7"], ALL), 1 << 16);
        let all = raw.transcript().await;
        assert_eq!(all.first, Some(1), "the session is announced on standard output");
        let expected = if protocol.is_base64() { Kind::Text } else { Kind::Binary };
        assert!(all.kinds.iter().all(|kind| *kind == expected), "{protocol:?}");
        if protocol.has_status() {
            let status: serde_json::Value = serde_json::from_str(&all.text(3)).expect("json");
            assert_eq!(status["reason"], "NonZeroExitCode");
            assert_eq!(status["details"]["causes"][0]["message"], "7");
        } else {
            assert_eq!(all.text(3), "command terminated with non-zero exit code: exit status 7");
        }
        assert_eq!(all.code(), Some(1000));
        soon(served).await.expect("served");

        let (mut raw, _, _served) = session(protocol, exec(&["true"], ALL), 1 << 16);
        let success = if protocol.has_status() { r#""status":"Success""# } else { "" };
        let text = raw.transcript().await.text(3);
        assert!(text.contains(success) && text.is_empty() == success.is_empty(), "{protocol:?}: {text}");
    }
}

#[tokio::test]
async fn the_session_is_announced_on_the_lowest_channel_that_can_be() {
    let streams = |stdout, stderr| Streams { stdin: true, stdout, stderr, tty: false };
    for (streams, channel) in
        [(streams(true, true), 1), (streams(false, true), 2), (streams(false, false), 3)]
    {
        let (mut raw, _, _served) = session(Protocol::V4, exec(&["true"], streams), 1 << 16);
        assert_eq!(raw.transcript().await.first, Some(channel));
    }
}

#[tokio::test]
async fn a_command_that_cannot_start_is_told_and_leaves_nothing() {
    for _ in 0..200 {
        let (mut raw, fake, served) = session(Protocol::V5, exec(&["missing"], ALL), 1 << 20);
        for width in 1..50 {
            raw.say(4, format!("{{\"Width\":{width},\"Height\":1}}").as_bytes()).await;
        }
        let all = raw.transcript().await;
        assert!(all.text(3).contains("InternalError") && all.text(3).contains("no such file: missing"));
        assert_eq!(all.code(), Some(1000));
        soon(served).await.expect("served");
        fake.all_ended().await;
    }
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
}

#[tokio::test]
async fn what_is_not_the_clients_to_say_ends_the_session_with_a_reason() {
    let policy = |channel: u8| (1008, format!("channel {channel} is not the client's to write"));
    let cases: [(Protocol, Vec<u8>, (u16, String)); 9] = [
        (Protocol::V4, frame(BINARY, b"\x01output"), policy(1)),
        (Protocol::V5, frame(BINARY, b"\x02output"), policy(2)),
        (Protocol::V5, frame(BINARY, b"\x03{}"), policy(3)),
        (Protocol::Unnamed, frame(BINARY, b"\x05?"), policy(5)),
        (Protocol::V4, frame(BINARY, &[254, 0]), policy(254)),
        (Protocol::V5, frame(BINARY, &[255, 9]), policy(9)),
        (
            Protocol::V5,
            frame(BINARY, &[255]),
            (1002, "the close signal is byte 255 and the channel's number, nothing else".to_owned()),
        ),
        (Protocol::V4Base64, frame(TEXT, b"0*"), (1007, "channel 0: the data is not base64".to_owned())),
        (
            Protocol::V4,
            vec![0xf2, 0x80, 0, 0, 0, 0],
            (1002, "websocket frame with reserved bits or a reserved opcode 0xf2".to_owned()),
        ),
    ];
    for (protocol, said, (code, reason)) in cases {
        let (mut raw, fake, served) = session(protocol, exec(&["cat"], ALL), 1 << 16);
        raw.raw(&said).await;
        raw.say(0, b"more").await;
        let all = raw.transcript().await;
        assert_eq!(all.close, Some(Close { code: Some(code), reason }));
        drop(raw);
        soon(served).await.expect("served");
        fake.all_ended().await;
    }
}

#[tokio::test]
async fn what_the_session_does_not_have_is_passed_over() {
    let streams = Streams { stdin: false, stdout: true, stderr: false, tty: false };
    let (mut raw, _, served) = session(Protocol::V5, exec(&["pattern", "10"], streams), 1 << 16);
    raw.say(0, b"nobody reads this").await;
    raw.say(0, b"").await;
    raw.raw(&frame(BINARY, b"")).await;
    for channel in 0..=4 {
        raw.end(channel).await;
    }
    let all = raw.transcript().await;
    assert_eq!(all.said[&1], pattern(0, 10));
    assert!(all.text(3).contains("Success"));
    soon(served).await.expect("served");
}

#[tokio::test]
async fn of_a_flood_of_sizes_the_last_is_set_and_garbage_harms_nothing() {
    let (mut raw, fake, _served) = session(Protocol::V5, exec(&["cat"], ALL), 4 << 10);
    for width in 1..=5000_u16 {
        let size = format!("{{\"Width\":{width},\"Height\":24}}");
        let (start, rest) = size.split_at(usize::from(width) % size.len());
        raw.say(4, start.as_bytes()).await;
        raw.say(4, rest.as_bytes()).await;
    }
    let last = Size { width: 5000, height: 24 };
    soon(async {
        while fake.sizes.lock().expect("lock").last() != Some(&last) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    raw.say(4, b"{\"Width\":[[[[\"").await;
    raw.say(4, &vec![b'['; 1 << 20]).await;
    raw.say(4, br#"{"Width":1,"Height":1}"#).await;
    raw.say(0, b"still here").await;
    assert_eq!(raw.hear().await, Some((1, Bytes::from_static(b"still here"))));
    assert_eq!(fake.sizes.lock().expect("lock").last(), Some(&last));
}

#[tokio::test]
async fn a_message_may_come_in_fragments_with_pings_between() {
    let (mut raw, _, _served) = session(Protocol::V4Base64, exec(&["cat"], ALL), 1 << 16);
    raw.raw(&frame(0x01, b"")).await;
    for byte in b"0Zm9v" {
        raw.raw(&frame(0x00, &[*byte])).await;
        raw.raw(&frame(PING, b"?")).await;
    }
    raw.raw(&frame(0x80, b"Cg==")).await;
    let mut heard = Vec::new();
    while heard.len() < 4 {
        heard.extend_from_slice(&raw.hear().await.expect("output").1);
    }
    assert_eq!(heard, b"foo\n");
}

#[tokio::test]
async fn a_ping_is_answered_with_its_own_bytes() {
    let (mut ours, theirs) = tokio::io::duplex(1 << 10);
    tokio::spawn(async move {
        let (_stop, life) = life();
        serve_remote(theirs, Protocol::V5, &exec(&["cat"], ALL), &Fake::default(), &life).await;
    });
    ours.write_all(&frame(PING, b"are you there")).await.expect("sent");
    let mut heard = [0; 3 + 15];
    ours.read_exact(&mut heard).await.expect("heard");
    assert_eq!(heard, *b"\x82\x01\x01\x8a\x0dare you there");
}

#[tokio::test]
async fn a_message_of_any_size_passes_and_little_of_it_is_held() {
    const LENGTH: usize = 40 << 20;
    let (mut raw, fake, served) = session(Protocol::V5, exec(&["check", &LENGTH.to_string()], ALL), 16 << 10);
    let mut payload = vec![0];
    payload.extend(pattern(0, LENGTH));
    let message = frame(BINARY, &payload);
    for (at, piece) in (0..).step_by(8 << 10).zip(message.chunks(8 << 10)) {
        raw.raw(piece).await;
        let held = at - fake.read.load(Ordering::SeqCst).min(at);
        // The pipes, the pieces in the queue, and one that is being read.
        assert!(held < 600 << 10, "{held} bytes are held after {at}");
    }
    raw.end(0).await;
    let all = raw.transcript().await;
    assert!(all.text(3).contains("Success"), "{}", all.text(3));
    soon(served).await.expect("served");
}

#[tokio::test]
async fn a_slow_reader_holds_the_process_up_and_gets_every_byte() {
    const LENGTH: usize = 20 << 20;
    for protocol in [Protocol::V5, Protocol::V4Base64] {
        let want = exec(&["pattern", &LENGTH.to_string()], ALL);
        let (mut raw, fake, served) = session(protocol, want, 16 << 10);
        let mut heard = 0;
        while heard < LENGTH {
            let (channel, bytes) = raw.hear().await.expect("output");
            assert_eq!(channel, 1);
            assert!(bytes[..] == pattern(heard, bytes.len())[..], "other bytes at {heard}");
            heard += bytes.len();
            let ahead = fake.written.load(Ordering::SeqCst) - heard.min(fake.written.load(Ordering::SeqCst));
            assert!(ahead < 400 << 10, "{ahead} bytes wait for the client");
        }
        assert!(raw.transcript().await.text(3).contains("Success"));
        soon(served).await.expect("served");
    }
}

#[tokio::test]
async fn bytes_go_both_ways_at_once() {
    const LENGTH: usize = 8 << 20;
    let (raw, _, served) = session(Protocol::V5, exec(&["cat"], ALL), 8 << 10);
    let Raw { mut reader, mut write, mut messages, .. } = raw;
    let talk = async {
        for at in (0..LENGTH).step_by(50_000) {
            let bytes = message(Protocol::V5, 0, &pattern(at, (LENGTH - at).min(50_000)));
            write.write_all(&bytes).await.expect("sent");
        }
        write.write_all(&frame(BINARY, &[255, 0])).await.expect("sent");
    };
    let hear = async {
        let mut heard = 0;
        while heard < LENGTH {
            let Ok(Received::Piece { bytes, last, .. }) = reader.next().await else {
                panic!("the end at {heard}")
            };
            if let Some(Said::Data { channel: 1, bytes }) = messages.piece(bytes, last).expect("a message") {
                assert!(bytes[..] == pattern(heard, bytes.len())[..], "other bytes at {heard}");
                heard += bytes.len();
            }
        }
    };
    soon(async { tokio::join!(talk, hear) }).await;
    drop((reader, write));
    soon(served).await.expect("served");
}

/// A small session, byte by byte.
fn script() -> Vec<u8> {
    [
        message(Protocol::V5, 0, b"input"),
        frame(PING, b"?"),
        message(Protocol::V5, 4, br#"{"Width":8,"Height":2}"#),
        frame(0x02, b"\0fragment"),
        frame(0x80, b"s"),
        frame(BINARY, &[255, 0]),
        frame(CLOSE, &1000_u16.to_be_bytes()),
    ]
    .concat()
}

#[tokio::test]
async fn a_client_may_vanish_after_any_byte_and_leaves_nothing() {
    let script = script();
    for command in ["cat", "stuck", "pattern 100000000"] {
        for cut in 0..=script.len() {
            let (mut raw, fake, served) = session(Protocol::V5, exec(&[command], ALL), 8 << 10);
            raw.raw(&script[..cut]).await;
            drop(raw);
            soon(served).await.expect("served");
            fake.all_ended().await;
        }
        while tokio::runtime::Handle::current().metrics().num_alive_tasks() > 0 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn while_nobody_takes_the_input_the_client_hears_that_we_are_there() {
    let (mut raw, fake, served) = session(Protocol::V5, exec(&["stuck"], ALL), 16 << 10);
    let Raw { reader, write, .. } = &mut raw;
    let mut pongs = 0;
    tokio::select! {
        () = async { loop { write.write_all(&message(Protocol::V5, 0, &[0; 9000])).await.expect("sent") } } => {}
        () = async {
            while pongs < 3 {
                if reader.next().await.expect("an item") == Received::Pong {
                    pongs += 1;
                }
            }
        } => {}
        () = tokio::time::sleep(std::time::Duration::from_secs(70)) => panic!("{pongs} signs of life"),
    }
    drop(raw);
    // It is behind the input that the client is gone: the next heartbeat finds it.
    soon(served).await.expect("served");
    fake.all_ended().await;
}

#[tokio::test]
async fn an_attached_client_may_leave_and_another_may_come() {
    for _ in 0..3 {
        let attach = Attach { shim: "/shim".into(), container: "c".to_owned(), streams: ALL };
        let (mut raw, fake, served) = session(Protocol::V5, Want::Attach(attach), 1 << 16);
        raw.say(0, b"x").await;
        assert_eq!(raw.hear().await, Some((1, Bytes::from_static(b"x"))));
        raw.raw(&frame(CLOSE, b"")).await;
        assert_eq!(raw.transcript().await.code(), Some(1000), "the goodbye is answered");
        soon(served).await.expect("served");
        fake.all_ended().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_say_goodbye_is_not_waited_for_long() {
    let (mut raw, _, served) = session(Protocol::V5, exec(&["true"], ALL), 1 << 16);
    let before = tokio::time::Instant::now();
    while raw.hear().await.is_some() {}
    soon(served).await.expect("served");
    assert!(before.elapsed() < std::time::Duration::from_secs(6));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_was_let_go_or_has_lost_its_terminal_is_not_waited_for_for_hours() {
    let slow = Attach { shim: "/shim".into(), container: "slow".to_owned(), streams: ALL };
    let terminal = Streams { stderr: false, tty: true, ..ALL };
    for want in [Want::Attach(slow), exec(&["pattern", "40000"], terminal)] {
        let (raw, fake, served) = session(Protocol::V5, want, 8 << 10);
        let before = tokio::time::Instant::now();
        let limit = std::time::Duration::from_secs(3600);
        tokio::time::timeout(limit, served).await.expect("it is not kept").expect("served");
        let took = before.elapsed().as_secs();
        // It has a minute, not less, and the goodbyes are bounded.
        assert!((60..100).contains(&took), "{took} s");
        drop(raw);
        fake.all_ended().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_rest_of_an_output_waits_for_a_client_that_pauses() {
    let (mut raw, fake, served) = session(Protocol::V5, exec(&["pattern", "40000"], ALL), 8 << 10);
    tokio::time::sleep(std::time::Duration::from_secs(3600)).await;
    let all = raw.transcript().await;
    assert_eq!(all.said[&1], pattern(0, 40_000));
    assert!(all.text(3).contains("Success"), "{}", all.text(3));
    soon(served).await.expect("served");
    fake.all_ended().await;
}

#[tokio::test]
async fn when_the_server_ends_the_client_is_told() {
    let (mut raw, io) = Raw::new(Protocol::V5, 1 << 16);
    let (stop, life) = life();
    let fake = Fake::default();
    let backend = fake.clone();
    let want = exec(&["cat"], ALL);
    let served = tokio::spawn(async move { serve_remote(io, Protocol::V5, &want, &backend, &life).await });
    raw.say(0, b"x").await;
    assert!(raw.hear().await.is_some());
    stop.send(true).expect("served");
    let all = raw.transcript().await;
    assert!(all.text(3).contains("the stream server ends"), "{}", all.text(3));
    soon(served).await.expect("served");
    fake.all_ended().await;
}
