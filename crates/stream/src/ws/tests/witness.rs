//! Our frames against another implementation's, and against the RFC's own words.

use super::*;
use crate::ws::{
    frame::{Decoder, FrameError, Item},
    socket::{Code, Pong, Writer},
};
use std::io::{Cursor, Read, Write};
use tungstenite::{
    Message, WebSocket,
    protocol::{CloseFrame, Role as Theirs, WebSocketConfig, frame::coding::CloseCode},
};

/// Lengths around each form of the head.
const LENGTHS: [usize; 9] = [0, 1, 125, 126, 127, 65_535, 65_536, 65_537, 300_000];

/// A connection that is a piece of memory, one way.
struct Tape(Cursor<Vec<u8>>);

impl Read for Tape {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        Read::read(&mut self.0, buf)
    }
}

impl Write for Tape {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.0.get_mut().extend_from_slice(buf);
        Ok(buf.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn theirs(tape: Vec<u8>, role: Theirs) -> WebSocket<Tape> {
    let config = WebSocketConfig::default().write_buffer_size(0);
    WebSocket::from_raw_socket(Tape(Cursor::new(tape)), role, Some(config))
}

/// What a decoder makes of bytes that arrive in pieces of that size: messages whole again.
fn decoded(role: Role, bytes: &[u8], size: usize) -> Result<Vec<(Kind, Vec<u8>)>, FrameError> {
    let (mut decoder, mut arrived) = (Decoder::new(role), Vec::new());
    let (mut messages, mut message) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(size) {
        arrived.extend_from_slice(piece);
        loop {
            let (taken, item) = decoder.decode(&mut arrived)?;
            if let Some(Item::Data(piece)) = &item {
                assert_eq!(piece.first, message.is_empty());
                message.extend_from_slice(&arrived[piece.at.clone()]);
                if piece.last {
                    messages.push((piece.kind, std::mem::take(&mut message)));
                }
            }
            arrived.drain(..taken);
            if item.is_none() {
                break;
            }
        }
    }
    Ok(messages)
}

#[test]
fn what_another_implementation_sends_is_read_however_it_arrives() {
    for (ours, role) in [(Role::Server, Theirs::Client), (Role::Client, Theirs::Server)] {
        let mut socket = theirs(Vec::new(), role);
        let mut expected = Vec::new();
        for length in LENGTHS {
            let bytes = pattern(length, length);
            socket.send(Message::binary(bytes.clone())).expect("sent");
            socket.send(Message::Ping("ping".into())).expect("sent");
            let text = "pea".repeat(length / 3);
            socket.send(Message::text(text.clone())).expect("sent");
            expected.push((Kind::Binary, bytes));
            expected.push((Kind::Text, text.into_bytes()));
        }
        let tape = std::mem::take(socket.get_mut().0.get_mut());
        for size in [1, 2, 3, 7, 4096, 65_537, tape.len()] {
            let got = decoded(ours, &tape, size).expect("well-formed");
            assert!(got == expected, "in pieces of {size}");
        }
    }
}

#[tokio::test]
async fn what_we_send_is_read_by_another_implementation() {
    for (ours, role) in [(Role::Server, Theirs::Client), (Role::Client, Theirs::Server)] {
        let (mut io, far) = tokio::io::duplex(2 << 20);
        let pong = Pong::default();
        let mut writer = Writer::new(far, ours, pong.clone());
        for length in LENGTHS {
            writer.message(Kind::Binary, 9, &pattern(0, length)).await.expect("sent");
            writer.message(Kind::Text, b'1', "ü".repeat(length / 2).as_bytes()).await.expect("sent");
        }
        pong.owe(Bytes::from_static(b"first"));
        pong.owe(Bytes::from_static(b"second"));
        writer.drain().await.expect("sent");
        writer.close(Code::Policy, &"é".repeat(80)).await.expect("sent");
        writer.close(Code::Normal, "again").await.expect("said already");
        writer.message(Kind::Binary, 0, b"late").await.expect_err("closed");
        drop(writer);
        let mut tape = Vec::new();
        io.read_to_end(&mut tape).await.expect("read");
        let mut socket = theirs(tape, role);
        for length in LENGTHS {
            let binary = [&[9], &pattern(0, length)[..]].concat();
            assert!(socket.read().expect("read") == Message::binary(binary), "{ours:?} {length}");
            assert_eq!(socket.read().expect("read"), Message::text(format!("1{}", "ü".repeat(length / 2))));
        }
        assert_eq!(socket.read().expect("read"), Message::Pong("second".into()));
        // Cut at a character, within the 125 bytes of a control frame.
        let close = CloseFrame { code: CloseCode::Policy, reason: "é".repeat(61).into() };
        assert_eq!(socket.read().expect("read"), Message::Close(Some(close)));
    }
}

#[test]
fn frames_that_the_rfc_forbids_are_errors() {
    let cases: [(&[u8], FrameError); 14] = [
        (&[0xc2, 0x80, 0, 0, 0, 0], FrameError::Reserved(0xc2)),
        (&[0x92, 0x80, 0, 0, 0, 0], FrameError::Reserved(0x92)),
        (&[0x83, 0x80, 0, 0, 0, 0], FrameError::Reserved(3)),
        (&[0x8b, 0x80, 0, 0, 0, 0], FrameError::Reserved(11)),
        (&[0x82, 0x00], FrameError::Mask),
        (&[0x82, 0x7f], FrameError::Mask),
        (&[0x80, 0x80, 0, 0, 0, 0], FrameError::Order),
        (&[0x02, 0x80, 0, 0, 0, 0, 0x82, 0x80, 0, 0, 0, 0], FrameError::Order),
        (&[0x01, 0x81, 0, 0, 0, 0, b'a', 0x01, 0x80, 0, 0, 0, 0], FrameError::Order),
        (&[0x09, 0x80, 0, 0, 0, 0], FrameError::Control),
        (&[0x89, 0xfe, 0, 126, 0, 0, 0, 0], FrameError::Control),
        (&[0x88, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], FrameError::Control),
        (&[0x88, 0x81, 0, 0, 0, 0, 3], FrameError::Close),
        (&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], FrameError::Length),
    ];
    for (bytes, error) in cases {
        for size in 1..=bytes.len() {
            assert_eq!(decoded(Role::Server, bytes, size), Err(error), "{bytes:02x?} in pieces of {size}");
        }
    }
    assert_eq!(decoded(Role::Client, &[0x82, 0x80, 0, 0, 0, 0], 1), Err(FrameError::Mask));
}

#[test]
fn a_message_may_be_cut_into_frames_with_control_frames_between() {
    let bytes = [
        frame(0x01, b"pea"),
        frame(PING, b"x"),
        frame(0x00, b""),
        frame(0x8a, b"unasked"),
        frame(0x00, b"po"),
        frame(0x80, b"d"),
        frame(0x02, b""),
        frame(0x80, b""),
    ]
    .concat();
    for size in 1..=bytes.len() {
        let messages = decoded(Role::Server, &bytes, size).expect("well-formed");
        assert_eq!(messages, [(Kind::Text, b"peapod".to_vec()), (Kind::Binary, Vec::new())]);
    }
}

#[tokio::test]
async fn a_write_that_is_cancelled_leaves_no_torn_frame() {
    for role in [Role::Server, Role::Client] {
        let (mut io, far) = tokio::io::duplex(7);
        let mut writer = Writer::new(far, role, Pong::default());
        for length in 0..40 {
            let bytes = pattern(0, length);
            let sending = writer.message(Kind::Binary, 1, &bytes);
            // One poll: as much as fits, then it is dropped.
            tokio::select! { biased; _ = sending => {}, () = std::future::ready(()) => {} }
            let (sent, mut piece) = (std::sync::atomic::AtomicBool::new(false), [0; 64]);
            let rest = async {
                writer.drain().await.expect("sent");
                sent.store(true, Ordering::Relaxed);
            };
            let hear = async {
                let (mut all, mut decoder) = (Vec::new(), Decoder::new(other(role)));
                loop {
                    let n = io.read(&mut piece).await.expect("read");
                    all.extend_from_slice(&piece[..n]);
                    let mut copy = all.clone();
                    let (taken, item) = decoder.decode(&mut copy).expect("whole frames");
                    match item {
                        Some(Item::Data(piece)) if piece.last => return copy[piece.at].to_vec(),
                        Some(_) | None => decoder = Decoder::new(other(role)),
                    }
                    assert!(taken <= all.len());
                }
            };
            let ((), heard) = soon(async { tokio::join!(rest, hear) }).await;
            assert!(sent.load(Ordering::Relaxed));
            assert_eq!(heard, [&[1], &bytes[..]].concat(), "{role:?} {length}");
        }
    }
}

fn other(role: Role) -> Role {
    match role {
        Role::Server => Role::Client,
        Role::Client => Role::Server,
    }
}

#[tokio::test]
async fn a_busy_reader_has_a_large_buffer_and_an_idle_one_a_small_one() {
    let (mut io, far) = tokio::io::duplex(1 << 20);
    let mut reader = Reader::new(far, Role::Server);
    io.write_all(&frame(BINARY, &[7; 400_000])).await.expect("sent");
    let (mut largest, mut left) = (0, 400_000);
    while left > 0 {
        let Ok(Received::Piece { bytes, .. }) = reader.next().await else { panic!("a piece") };
        (largest, left) = (largest.max(bytes.len()), left - bytes.len());
    }
    assert!(largest > 32 << 10 && largest <= 64 << 10, "{largest}");
    io.write_all(&frame(BINARY, b"x")).await.expect("sent");
    reader.next().await.expect("a piece");
    io.write_all(&frame(PING, b"x")).await.expect("sent");
    reader.next().await.expect("a ping");
    assert!(reader.holds() <= 8 << 10, "{} bytes", reader.holds());
}
