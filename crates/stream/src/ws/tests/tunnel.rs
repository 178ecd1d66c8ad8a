//! A connection in messages.

use super::*;
use crate::ws::Tunnel;
use tokio::io::AsyncWrite;

/// Writes the pattern in pieces of odd sizes, then the end.
async fn talk(mut to: impl AsyncWrite + Unpin, length: usize) {
    let (mut at, mut size) = (0, 1);
    while at < length {
        let piece = pattern(at, size.min(length - at));
        to.write_all(&piece).await.expect("sent");
        to.flush().await.expect("flushed");
        at += piece.len();
        size = size * 7 % 100_003 + 1;
    }
    to.shutdown().await.expect("shut");
}

async fn listen(mut from: impl tokio::io::AsyncRead + Unpin, length: usize) {
    let (mut at, mut buffer) = (0, vec![0; 10_000]);
    loop {
        let n = from.read(&mut buffer).await.expect("bytes");
        if n == 0 {
            break;
        }
        assert!(buffer[..n] == pattern(at, n)[..], "other bytes at {at}");
        at += n;
    }
    assert_eq!(at, length);
}

#[tokio::test]
async fn bytes_go_both_ways_at_once_whatever_the_borders() {
    for holds in [1, 100, 50_000] {
        let length = if holds == 1 { 200_000 } else { 6 << 20 };
        let (ours, theirs) = tokio::io::duplex(holds);
        let (server_read, server_write) = tokio::io::split(Tunnel::new(theirs, Role::Server));
        let (client_read, client_write) = tokio::io::split(Tunnel::new(ours, Role::Client));
        // In tasks of their own, so that each has a waker of its own.
        let tasks = [
            tokio::spawn(talk(server_write, length)),
            tokio::spawn(talk(client_write, length)),
            tokio::spawn(listen(server_read, length)),
            tokio::spawn(listen(client_read, length)),
        ];
        for task in tasks {
            soon(task).await.expect("done");
        }
    }
}

#[tokio::test]
async fn pings_are_answered_between_messages_and_delay_no_writer() {
    let (mut raw, io) = Raw::new(Protocol::Tunnel, 64);
    let (mut read, write) = tokio::io::split(Tunnel::new(io, Role::Server));
    let writing = tokio::spawn(talk(write, 300_000));
    let reading = tokio::spawn(async move {
        let mut all = Vec::new();
        read.read_to_end(&mut all).await.map(|_| all)
    });
    let Raw { reader, write, .. } = &mut raw;
    let pinging = async {
        for n in 0..2000_u32 {
            write.write_all(&frame(PING, &n.to_le_bytes())).await.expect("sent");
            write.write_all(&frame(BINARY, b"ab")).await.expect("sent");
        }
        write.write_all(&frame(CLOSE, b"")).await.expect("sent");
    };
    let hearing = async {
        let (mut heard, mut pongs) = (Vec::new(), 0);
        loop {
            match reader.next().await.expect("an item") {
                Received::Piece { bytes, .. } => heard.extend_from_slice(&bytes),
                Received::Pong => pongs += 1,
                Received::Close(_) => return (heard, pongs),
                other @ (Received::Ping(_) | Received::End) => panic!("{other:?}"),
            }
        }
    };
    let ((), (heard, pongs)) = soon(async { tokio::join!(pinging, hearing) }).await;
    assert!(heard == pattern(0, 300_000));
    assert!(pongs > 0);
    writing.await.expect("written");
    assert_eq!(reading.await.expect("read").expect("an end"), b"ab".repeat(2000));
}

#[tokio::test]
async fn a_frame_that_is_none_is_an_error() {
    let (mut raw, io) = Raw::new(Protocol::Tunnel, 64);
    let mut tunnel = Tunnel::new(io, Role::Server);
    raw.raw(&frame(BINARY, b"a")).await;
    raw.raw(&[0x82, 0x01, b'b']).await;
    let mut bytes = [0; 8];
    assert_eq!(tunnel.read(&mut bytes).await.expect("a byte"), 1);
    let error = tunnel.read(&mut bytes).await.expect_err("no mask");
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn a_client_that_vanishes_is_the_end() {
    let (mut raw, io) = Raw::new(Protocol::Tunnel, 64);
    let mut tunnel = Tunnel::new(io, Role::Server);
    raw.raw(&frame(BINARY, b"abc")[..8]).await;
    drop(raw);
    let mut all = Vec::new();
    tunnel.read_to_end(&mut all).await.expect("an end");
    assert_eq!(all, b"ab");
    assert!(tunnel.write_all(&[0; 200]).await.is_err());
}
