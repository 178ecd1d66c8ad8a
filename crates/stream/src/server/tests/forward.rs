//! Port-forward.

use super::{client::Spdy, *};
use crate::{
    forward::Piece,
    spdy::{Stream, frame::Status},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const VERSION: &str = "portforward.k8s.io";

async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    (listener, port.to_string())
}

/// The streams of one connection: data and error.
async fn connect(spdy: &mut Spdy, port: &str, request: &str) -> (Stream, Stream) {
    let headers = |kind| [("streamtype", kind), ("port", port), ("requestid", request)];
    let error = spdy.open(&headers("error")).await.expect("taken");
    error.output.close().await;
    let data = spdy.open(&headers("data")).await.expect("taken");
    (data, error)
}

async fn text(error: &mut Stream) -> String {
    let (bytes, whole) = error.all().await;
    assert!(whole, "the error stream has an end");
    String::from_utf8(bytes).expect("text")
}

#[tokio::test]
async fn bytes_after_a_half_close_arrive_both_ways() {
    let (rig, (listener, port)) = (Rig::new().await, listener().await);
    let mut spdy = Spdy::new(&rig, &rig.forward(), VERSION).await;
    let big: Vec<u8> = (0..5_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    // The client closes first, and then gets its answer.
    let (mut data, mut error) = connect(&mut spdy, &port, "0").await;
    let (mut pod, _) = listener.accept().await.expect("accept");
    let output = data.output.clone();
    let asked = async {
        output.write(&big).await.expect("write");
        output.close().await;
    };
    let answered = async {
        let mut question = Vec::new();
        pod.read_to_end(&mut question).await.expect("read");
        pod.write_all(&question).await.expect("write");
        drop(pod);
    };
    let ((), (answer, whole), ()) = tokio::join!(asked, data.all(), answered);
    assert!(whole && answer == big);
    assert_eq!(text(&mut error).await, "");
    // The pod closes first, and then gets the rest.
    let (mut data, mut error) = connect(&mut spdy, &port, "1").await;
    let (mut pod, _) = listener.accept().await.expect("accept");
    pod.write_all(b"only this").await.expect("write");
    pod.shutdown().await.expect("shutdown");
    assert_eq!(data.all().await, (b"only this".to_vec(), true));
    data.output.write(&big).await.expect("write");
    data.output.close().await;
    let mut rest = Vec::new();
    pod.read_to_end(&mut rest).await.expect("read");
    assert!(rest == big);
    assert_eq!(text(&mut error).await, "");
    drop(spdy.reading);
}

#[tokio::test]
async fn a_refused_connection_is_told_on_its_error_stream_and_others_go_on() {
    let (rig, (closed, port)) = (Rig::new().await, listener().await);
    drop(closed);
    let mut spdy = Spdy::new(&rig, &rig.forward(), VERSION).await;
    for request in ["0", "1"] {
        let (mut data, mut error) = connect(&mut spdy, &port, request).await;
        let text = text(&mut error).await;
        assert!(text.starts_with(&format!("error forwarding port {port} to pod , uid : ")), "{text}");
        assert!(text.contains("refused"), "{text}");
        assert!(!data.all().await.1, "the data stream is reset");
    }
}

#[tokio::test]
async fn wrong_ports_are_told_by_name() {
    let rig = Rig::new().await;
    let mut spdy = Spdy::new(&rig, &rig.forward(), VERSION).await;
    for (request, port) in ["0", "65536", "-1", "+80", "eighty", "", "80 "].iter().enumerate() {
        let (mut data, mut error) = connect(&mut spdy, port, &request.to_string()).await;
        let text = text(&mut error).await;
        assert!(text.contains(&format!("{port:?}")) && text.contains("from 1 to 65535"), "{text}");
        assert!(!data.all().await.1);
    }
    let error = spdy.open(&[("streamtype", "error"), ("port", "80"), ("requestid", "x")]).await;
    let _data = spdy.open(&[("streamtype", "data"), ("port", "81"), ("requestid", "x")]).await;
    assert!(text(&mut error.expect("taken")).await.contains("port 81 and the error stream for port 80"));
    assert!(spdy.open(&[("streamtype", "stdin"), ("port", "80")]).await.is_err());
    assert!(spdy.open(&[("port", "80")]).await.is_err());
}

#[tokio::test]
async fn streams_without_a_request_are_paired_by_their_numbers() {
    let (rig, (listener, port)) = (Rig::new().await, listener().await);
    let mut spdy = Spdy::new(&rig, &rig.forward(), VERSION).await;
    let mut pairs = Vec::new();
    for _ in 0..2 {
        let error = spdy.open(&[("streamtype", "error"), ("port", &port)]).await.expect("taken");
        let data = spdy.open(&[("streamtype", "data"), ("port", &port)]).await.expect("taken");
        let (pod, _) = listener.accept().await.expect("accept");
        pairs.push((data, error, pod));
    }
    for (number, (data, _, pod)) in pairs.iter_mut().enumerate() {
        pod.write_all(&[b'a' + u8::try_from(number).expect("small")]).await.expect("write");
        let Some(Piece::Data(bytes)) = data.input.pieces.recv().await else { panic!("no data") };
        assert_eq!(bytes[0], b'a' + u8::try_from(number).expect("small"));
    }
}

#[tokio::test]
async fn a_stream_that_stays_alone_is_ended_and_a_second_of_its_kind_refused() {
    let settings = Settings { creation: Duration::from_millis(150), ..Settings::default() };
    let rig = Rig::with(settings).await;
    let mut spdy = Spdy::new(&rig, &rig.forward(), VERSION).await;
    let headers = |kind| [("streamtype", kind), ("port", "80"), ("requestid", "7")];
    let mut error = spdy.open(&headers("error")).await.expect("taken");
    let mut second = spdy.open(&headers("error")).await.expect("taken");
    assert!(text(&mut second).await.contains("there already is one"));
    assert!(text(&mut error).await.contains("request 7 timed out waiting for streams"));
    let mut data = spdy.open(&headers("data")).await.expect("taken");
    assert_eq!(data.all().await, (Vec::new(), false));
}

#[tokio::test]
async fn many_connections_share_a_session_up_to_the_bound() {
    let settings = Settings { forwards: 50, ..Settings::default() };
    let (rig, (listener, port)) = (Rig::with(settings).await, listener().await);
    let mut spdy = Spdy::new(&rig, &rig.forward(), VERSION).await;
    let mut held = Vec::new();
    for request in 0..50 {
        let pair = connect(&mut spdy, &port, &request.to_string()).await;
        held.push((pair, listener.accept().await.expect("accept")));
    }
    let (_, mut error) = connect(&mut spdy, &port, "one more").await;
    assert!(text(&mut error).await.contains("there are 50 connections already"));
    for ((data, _), (pod, _)) in &mut held {
        data.output.write(b"hello").await.expect("write");
        let mut bytes = [0; 5];
        pod.read_exact(&mut bytes).await.expect("read");
    }
    let ((data, mut error), pod) = held.pop().expect("one");
    data.output.close().await;
    drop(pod);
    assert_eq!(text(&mut error).await, "");
    let (_data, _error) = connect(&mut spdy, &port, "again").await;
    listener.accept().await.expect("accept");
}

#[tokio::test]
async fn what_breaks_inside_the_pod_breaks_that_connection_alone_and_is_no_error() {
    let (rig, (listener, port)) = (Rig::new().await, listener().await);
    let mut spdy = Spdy::new(&rig, &rig.forward(), VERSION).await;
    let (mut data, mut error) = connect(&mut spdy, &port, "0").await;
    let (pod, _) = listener.accept().await.expect("accept");
    // Closing with something unread is a reset.
    data.output.write(b"unread").await.expect("write");
    pod.readable().await.expect("readable");
    sys::rustix::net::sockopt::set_socket_linger(&pod, Some(Duration::ZERO)).expect("linger");
    drop(pod);
    assert!(!data.all().await.1, "the data stream is reset");
    assert_eq!(text(&mut error).await, "");
    let (_data, _error) = connect(&mut spdy, &port, "1").await;
    listener.accept().await.expect("accept");
}

#[tokio::test]
async fn a_client_that_gives_up_or_goes_closes_the_pods_connections() {
    let (rig, (listener, port)) = (Rig::new().await, listener().await);
    let mut spdy = Spdy::new(&rig, &rig.forward(), VERSION).await;
    let (data, mut error) = connect(&mut spdy, &port, "0").await;
    let (mut pod, _) = listener.accept().await.expect("accept");
    data.output.reset(Status::Cancel).await;
    assert_eq!(pod.read(&mut [0; 8]).await.unwrap_or(0), 0);
    assert_eq!(text(&mut error).await, "");
    drop((data, error));
    let (data, error) = connect(&mut spdy, &port, "1").await;
    let (mut pod, _) = listener.accept().await.expect("accept");
    data.output.write(b"x").await.expect("write");
    pod.read_u8().await.expect("read");
    spdy.reading.abort();
    drop((data, error, spdy));
    assert_eq!(pod.read(&mut [0; 8]).await.unwrap_or(0), 0);
    rig.is_quiet().await;
}

#[tokio::test]
async fn when_the_server_ends_each_connection_is_told() {
    let (mut rig, (listener, port)) = (Rig::new().await, listener().await);
    let mut spdy = Spdy::new(&rig, &rig.forward(), VERSION).await;
    let (_data, mut error) = connect(&mut spdy, &port, "0").await;
    let _pod = listener.accept().await.expect("accept");
    rig.stop.take().expect("running").send(()).expect("running");
    assert!(text(&mut error).await.contains("is cut"));
    spdy.ends().await;
    (&mut rig.served).await.expect("served");
}
