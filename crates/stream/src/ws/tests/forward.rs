//! Port-forward by channels.

use super::*;
use crate::{
    ticket::Forward,
    ws::{forward::serve_forward, protocol::PROTOCOLS_FORWARD},
};
use tokio::net::TcpListener;

fn session(protocol: Protocol, ports: &[u16]) -> (Raw, JoinHandle<()>) {
    let (raw, io) = Raw::new(protocol, 16 << 10);
    let forward = Forward { netns: None, ports: ports.to_vec() };
    let served = tokio::spawn(async move {
        let (_stop, life) = life();
        serve_forward(io, protocol, &forward, &Fake::default(), &life).await;
    });
    (raw, served)
}

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("bound");
    let port = listener.local_addr().expect("an address").port();
    (listener, port)
}

/// A port where nobody listens.
async fn refused() -> u16 {
    listener().await.1
}

/// Hears so many bytes of each channel.
async fn hear(raw: &mut Raw, wanted: &[(u8, usize)]) -> BTreeMap<u8, Vec<u8>> {
    let mut heard: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
    while wanted.iter().any(|(channel, length)| heard.get(channel).map_or(0, Vec::len) < *length) {
        let (channel, bytes) = raw.hear().await.expect("more");
        heard.entry(channel).or_default().extend_from_slice(&bytes);
    }
    heard
}

fn channels() -> impl Iterator<Item = Protocol> {
    PROTOCOLS_FORWARD.into_iter().filter(|protocol| *protocol != Protocol::Tunnel)
}

#[tokio::test]
async fn each_port_has_two_channels_that_begin_with_its_number() {
    for protocol in channels() {
        let ((first, one), (second, two)) = (listener().await, listener().await);
        let (mut raw, served) = session(protocol, &[one, two]);
        let (mut first, mut second) =
            (first.accept().await.expect("dialled").0, second.accept().await.expect("dialled").0);
        raw.say(0, b"to one").await;
        raw.say(2, b"to two").await;
        let mut buffer = [0; 6];
        first.read_exact(&mut buffer).await.expect("bytes");
        assert_eq!(&buffer, b"to one");
        second.read_exact(&mut buffer).await.expect("bytes");
        assert_eq!(&buffer, b"to two");
        first.write_all(b"from one").await.expect("sent");
        second.write_all(b"from two").await.expect("sent");
        let heard = hear(&mut raw, &[(0, 10), (1, 2), (2, 10), (3, 2)]).await;
        assert_eq!(heard[&0], [&one.to_le_bytes()[..], b"from one"].concat(), "{protocol:?}");
        assert_eq!(heard[&1], one.to_le_bytes());
        assert_eq!(heard[&2], [&two.to_le_bytes()[..], b"from two"].concat());
        assert_eq!(heard[&3], two.to_le_bytes());
        drop((first, second));
        if protocol.has_close() {
            // Its other half is the client's to end.
            raw.end(0).await;
            raw.end(2).await;
        }
        assert_eq!(raw.transcript().await.code(), Some(1000), "both are over: {protocol:?}");
        drop(raw);
        soon(served).await.expect("served");
    }
}

#[tokio::test]
async fn a_refused_port_is_told_and_the_others_go_on() {
    for protocol in channels() {
        let (listener, port) = listener().await;
        let closed = refused().await;
        let (mut raw, served) = session(protocol, &[closed, 0, port]);
        let mut pod = listener.accept().await.expect("dialled").0;
        let refusal = format!("error forwarding port {closed} to pod");
        let heard = hear(&mut raw, &[(1, refusal.len()), (3, 30)]).await;
        assert_eq!(
            heard[&1][2..],
            *format!("{}Connection refused (os error 111)", prefix(closed)).as_bytes()
        );
        assert_eq!(heard[&3][2..], *b"error forwarding port 0: a port is 1 to 65535");
        raw.say(4, b"ping").await;
        let mut buffer = [0; 4];
        pod.read_exact(&mut buffer).await.expect("bytes");
        pod.write_all(b"pong").await.expect("sent");
        drop(pod);
        if protocol.has_close() {
            raw.end(4).await;
        }
        let all = raw.transcript().await;
        assert!(all.said[&4].ends_with(b"pong"), "{protocol:?}: {all:?}");
        assert_eq!(all.code(), Some(1000));
        drop(raw);
        soon(served).await.expect("served");
    }
}

fn prefix(port: u16) -> String {
    format!("error forwarding port {port} to pod , uid : ")
}

#[tokio::test]
async fn over_v5_each_side_may_end_first_and_the_other_goes_on() {
    let (listener, port) = listener().await;
    let (mut raw, served) = session(Protocol::V5, &[port]);
    let mut pod = listener.accept().await.expect("dialled").0;
    raw.say(0, b"question").await;
    raw.end(0).await;
    let mut question = String::new();
    pod.read_to_string(&mut question).await.expect("the end of the question");
    assert_eq!(question, "question");
    let answer = tokio::spawn(async move { pod.write_all(&pattern(0, 3 << 20)).await.map(|()| drop(pod)) });
    let all = raw.transcript().await;
    answer.await.expect("answered").expect("sent");
    assert!(all.said[&0][2..] == pattern(0, 3 << 20)[..], "the answer is whole");
    assert_eq!(all.closed, [0, 1]);
    assert_eq!(all.code(), Some(1000));
    soon(served).await.expect("served");

    let (listener, port) = self::listener().await;
    let (mut raw, served) = session(Protocol::V5, &[port]);
    let mut pod = listener.accept().await.expect("dialled").0;
    pod.shutdown().await.expect("half-closed");
    // The pod's end is told before the client says anything.
    while !matches!(next(&mut raw).await, Said::Close { channel: 0 }) {}
    raw.say(0, b"late").await;
    raw.end(0).await;
    let mut late = String::new();
    pod.read_to_string(&mut late).await.expect("the end");
    assert_eq!(late, "late");
    assert_eq!(raw.transcript().await.closed, [1]);
    soon(served).await.expect("served");
}

async fn next(raw: &mut Raw) -> Said {
    loop {
        let Ok(Received::Piece { bytes, last, .. }) = raw.reader.next().await else { panic!("the end") };
        if let Some(said) = raw.messages.piece(bytes, last).expect("a message") {
            return said;
        }
    }
}

#[tokio::test]
async fn over_v4_what_the_client_still_sends_is_delivered_until_it_pauses() {
    let (listener, port) = listener().await;
    let (mut raw, served) = session(Protocol::V4, &[port]);
    let mut pod = listener.accept().await.expect("dialled").0;
    pod.write_all(b"answer").await.expect("sent");
    pod.shutdown().await.expect("half-closed");
    assert!(hear(&mut raw, &[(0, 8)]).await[&0].ends_with(b"answer"));
    raw.say(0, b"late").await;
    let mut late = String::new();
    pod.read_to_string(&mut late).await.expect("the end");
    assert_eq!(late, "late");
    assert_eq!(raw.transcript().await.code(), Some(1000));
    soon(served).await.expect("served");
}

#[tokio::test]
async fn what_is_not_the_clients_to_say_ends_the_session_with_a_reason() {
    for (protocol, channel) in
        [(Protocol::V4, 1), (Protocol::V5, 2), (Protocol::V4Base64, 9), (Protocol::V4, 254)]
    {
        let (listener, port) = listener().await;
        let (mut raw, served) = session(protocol, &[port]);
        let mut pod = listener.accept().await.expect("dialled").0;
        raw.say(channel, b"x").await;
        let all = raw.transcript().await;
        assert_eq!(
            all.close.expect("a goodbye").reason,
            format!("channel {channel} is not the client's to write")
        );
        assert_eq!(pod.read(&mut [0; 8]).await.expect("the end"), 0, "the connection into the pod goes, too");
        drop(raw);
        soon(served).await.expect("served");
    }
}

#[tokio::test]
async fn ports_that_do_not_fit_are_refused_by_number() {
    let cases: [(Protocol, usize, &str); 3] = [
        (Protocol::V4, 0, "the request named no port, and these channels belong to ports"),
        (Protocol::V5, 128, "128 ports are more than the 127 that fit"),
        (Protocol::V4Base64, 41, "41 ports are more than the 40 that fit"),
    ];
    for (protocol, ports, reason) in cases {
        let (mut raw, served) = session(protocol, &vec![1; ports]);
        let close = raw.transcript().await.close;
        assert_eq!(close, Some(Close { code: Some(1008), reason: reason.to_owned() }));
        drop(raw);
        soon(served).await.expect("served");
    }
    for (protocol, ports) in [(Protocol::V5, 127), (Protocol::V4Base64, 40)] {
        let (mut raw, _served) = session(protocol, &vec![0; ports]);
        let all = raw.transcript().await;
        assert_eq!(all.said.len(), 2 * ports);
        assert_eq!(all.code(), Some(1000));
    }
}

#[tokio::test]
async fn a_client_may_vanish_after_any_byte_and_the_pod_sees_the_end() {
    let script = [
        message(Protocol::V5, 0, b"some bytes"),
        frame(PING, b""),
        frame(BINARY, &[255, 0]),
        frame(CLOSE, b""),
    ]
    .concat();
    for cut in 0..=script.len() {
        let (listener, port) = listener().await;
        let (mut raw, served) = session(Protocol::V5, &[port]);
        let mut pod = listener.accept().await.expect("dialled").0;
        raw.raw(&script[..cut]).await;
        drop(raw);
        let mut bytes = Vec::new();
        // A reset is an end, too.
        let _ = pod.read_to_end(&mut bytes).await;
        soon(served).await.expect("served");
    }
    while tokio::runtime::Handle::current().metrics().num_alive_tasks() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn many_bytes_go_into_a_pod_and_out_of_it() {
    const TOTAL: usize = 32 << 20;
    let (listener, port) = listener().await;
    let (raw, served) = session(Protocol::V5, &[port]);
    let Raw { mut reader, mut write, mut messages, .. } = raw;
    let pod = tokio::spawn(async move {
        let (mut read, mut write) = listener.accept().await.expect("dialled").0.into_split();
        tokio::io::copy(&mut read, &mut write).await
    });
    let talk = async {
        for at in (0..TOTAL).step_by(1 << 16) {
            write.write_all(&message(Protocol::V5, 0, &pattern(at, 1 << 16))).await.expect("sent");
        }
        write.write_all(&frame(BINARY, &[255, 0])).await.expect("sent");
    };
    let hear = async {
        let (mut heard, mut port) = (0, 2);
        loop {
            let Ok(Received::Piece { bytes, last, .. }) = reader.next().await else { panic!("the end") };
            match messages.piece(bytes, last).expect("a message") {
                Some(Said::Data { channel: 0, mut bytes }) => {
                    port -= bytes.split_to(port).len();
                    assert!(bytes[..] == pattern(heard, bytes.len())[..], "other bytes at {heard}");
                    heard += bytes.len();
                }
                Some(Said::Close { channel: 0 }) => return assert_eq!(heard, TOTAL),
                _ => {}
            }
        }
    };
    soon(async { tokio::join!(talk, hear) }).await;
    assert_eq!(pod.await.expect("a pod").expect("copied"), TOTAL as u64);
    drop((reader, write));
    soon(served).await.expect("served");
}
