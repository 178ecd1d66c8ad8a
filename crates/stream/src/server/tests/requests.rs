//! Requests that get no session, and those that get one all the same.

use super::{
    client::{Spdy, V4, request, upgrade},
    *,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// The status line's number, and the body.
async fn answer(rig: &Rig, text: &str) -> (u16, String, String) {
    let (head, mut stream) = request(rig, text).await;
    let mut body = String::new();
    let _ = stream.read_to_string(&mut body).await;
    let status = head.split(' ').nth(1).and_then(|number| number.parse().ok()).unwrap_or_default();
    (status, head.to_ascii_lowercase(), body)
}

#[tokio::test]
async fn wrong_requests_are_answered_and_use_no_token_up() {
    let rig = Rig::new().await;
    let path = rig.exec(OUTPUT, "true");
    let (_, token) = path.rsplit_once('/').expect("a token");
    for (text, status) in [
        (upgrade(&format!("/attach/{token}"), V4), 404),
        (upgrade("/exec/AAAAAAAAAAAAAAAAAAAAAA", V4), 404),
        (upgrade(&format!("{path}/"), V4), 404),
        (upgrade(&path, "v9.channel.k8s.io"), 403),
        (upgrade(&path, ""), 400),
        (upgrade(&path, V4).replace("POST", "PUT"), 405),
        (upgrade(&path, V4).replace("POST", "DELETE"), 405),
        (format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"), 400),
        (upgrade(&path, V4).replace("Length: 0\r\n\r\n", "Length: 2\r\n\r\nhi"), 400),
        (upgrade(&path, V4).replace("SPDY/3.1", "h2c"), 400),
    ] {
        let (got, head, body) = answer(&rig, &text).await;
        assert_eq!(got, status, "{text}{head}{body}");
        assert!(body.ends_with('\n') && body.len() > 20, "{body}");
        assert!(head.contains("\r\nconnection: close\r\n"), "{head}");
        assert_eq!(
            head.contains("x-accepted-stream-protocol-versions: v4.channel.k8s.io"),
            status == 403,
            "{head}"
        );
    }
    assert_eq!(rig.count.now(), 0);
    Spdy::new(&rig, &path, V4).await;
    let (status, _, _) = answer(&rig, &upgrade(&path, V4)).await;
    assert_eq!(status, 404, "a used token is not good any more");
}

#[tokio::test]
async fn get_works_as_well_as_post_and_bytes_may_come_early() {
    let rig = Rig::new().await;
    let path = rig.exec(OUTPUT, "true");
    let (head, _) = request(&rig, &upgrade(&path, V4).replace("POST", "GET")).await;
    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
    assert!(head.to_ascii_lowercase().contains("\r\nconnection: upgrade\r\n"), "{head}");
    // With a "close" in it Go drops the whole header, and its clients then find no upgrade.
    assert!(head.to_ascii_lowercase().contains("\r\nconnection: upgrade\r\n"), "{head}");
    let path = rig.exec(OUTPUT, "true");
    let ping = crate::spdy::frame::ping(5);
    let mut stream = TcpStream::connect(rig.address).await.expect("connect");
    stream.write_all(&[upgrade(&path, V4).as_bytes(), &ping].concat()).await.expect("request");
    let mut all = Vec::new();
    while !all.ends_with(&ping) {
        all.push(stream.read_u8().await.expect("an echo"));
    }
}

#[tokio::test]
async fn heads_that_are_too_big_are_refused() {
    let rig = Rig::new().await;
    let path = rig.exec(OUTPUT, "true");
    let big = upgrade(&path, V4).replace("Host: a", &format!("Host: a\r\nX-Big: {}", "x".repeat(20_000)));
    let many: String = (0..100).map(|number| format!("X-{number}: 1\r\n")).collect();
    let many = upgrade(&path, V4).replace("Host: a\r\n", &format!("Host: a\r\n{many}"));
    for text in [big, many] {
        let (status, _, _) = answer(&rig, &text).await;
        assert_eq!(status, 431);
    }
    let (status, _, _) = answer(&rig, "no http at all\r\n\r\n").await;
    assert_eq!(status, 400);
    Spdy::new(&rig, &path, V4).await;
}

#[tokio::test]
async fn a_client_that_sends_no_whole_head_is_let_go() {
    let settings = Settings { header: Duration::from_millis(100), ..Settings::default() };
    let rig = Rig::with(settings).await;
    for text in ["", "POST /exec/a HTTP/1.1\r\nHost"] {
        let (_, mut stream) = request(&rig, text).await;
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    }
}

#[tokio::test]
async fn connections_are_bounded_and_the_next_one_waits() {
    let settings = Settings { connections: 2, ..Settings::default() };
    let rig = Rig::with(settings).await;
    let first = Spdy::new(&rig, &rig.exec(OUTPUT, "true"), V4).await;
    let _second = Spdy::new(&rig, &rig.exec(OUTPUT, "true"), V4).await;
    let path = rig.exec(OUTPUT, "true");
    let third = Spdy::new(&rig, &path, V4);
    let mut third = std::pin::pin!(third);
    tokio::select! {
        _ = &mut third => panic!("there was no room"),
        () = sleep(Duration::from_millis(100)) => {}
    }
    assert_eq!(rig.tokens.len(), 1, "the third is not looked at");
    first.connection.goodbye().await;
    third.await;
}

#[tokio::test]
async fn sessions_work_over_tls_and_plain_clients_are_let_go() {
    use crate::{
        session::Channel,
        spdy::{Role, connection},
    };
    let cert = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let key = rustls::pki_types::PrivateKeyDer::try_from(cert.signing_key.serialize_der()).expect("a key");
    let chain = vec![cert.cert.der().clone()];
    let server = rustls::ServerConfig::builder().with_no_client_auth();
    let server = server.with_single_cert(chain, key).expect("a server");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cert.cert.der().clone()).expect("a root");
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let rig = Rig::tls(Settings::default(), Some(Arc::new(server))).await;

    let mut plain = TcpStream::connect(rig.address).await.expect("connect");
    let path = rig.exec(ALL, "cat");
    plain.write_all(upgrade(&path, V4).as_bytes()).await.expect("request");
    let mut nothing = Vec::new();
    let _ = plain.read_to_end(&mut nothing).await;
    assert!(!nothing.starts_with(b"HTTP"));

    let plain = TcpStream::connect(rig.address).await.expect("connect");
    let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(name, plain).await.expect("TLS");
    stream.write_all(upgrade(&path, V4).as_bytes()).await.expect("request");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a head"));
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    let (connection, reader, _) = connection(stream, Role::Client, 0, crate::session::Activity::default());
    let reading = tokio::spawn(async move {
        let _ = reader.run().await;
    });
    let channels = [Channel::Stdin, Channel::Stdout, Channel::Stderr];
    let session = super::client::Session::over(Spdy::of(connection, reading), &channels).await;
    let stdin = session.stdin.as_ref().expect("stdin").output.clone();
    let sent = vec![b'x'; 3_000_000];
    let writing = async {
        stdin.write(&sent).await.expect("write");
        stdin.close().await;
    };
    let ((), (out, _, word)) = tokio::join!(writing, session.end());
    assert!(out == sent && word.ends_with(b"\"Success\"}"));
}
