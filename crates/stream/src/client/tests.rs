//! Against our own server, and against servers that do everything wrong.

use super::*;
use crate::{
    Settings, Size,
    server::{Count, serve},
    ticket::{Attach, Exec, Forward, Streams, Ticket},
    tokens::{Kind, Tokens},
    ws::tests::{ALL, Fake, pattern, soon},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use std::{path::Path, sync::Arc};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};

/// A server of sessions on the loopback.
struct Server {
    address: String,
    tokens: Arc<Tokens>,
    fake: Fake,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<()>,
}

impl Server {
    async fn start(tls: Option<Arc<rustls::ServerConfig>>) -> Server {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("bound");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let address = format!("{scheme}://{}", listener.local_addr().expect("an address"));
        let (tokens, fake) = (Arc::new(Tokens::default()), Fake::default());
        let (stop, stopped) = oneshot::channel();
        let served = serve(
            listener,
            tls,
            Arc::clone(&tokens),
            fake.clone(),
            Settings::default(),
            Count::default(),
            async move {
                let _ = stopped.await;
            },
        );
        Server { address, tokens, fake, stop: Some(stop), served: tokio::spawn(served) }
    }

    fn url(&self, ticket: Ticket) -> String {
        let kind = ticket.kind().path();
        format!("{}/{kind}/{}", self.address, self.tokens.grant(ticket).expect("a token"))
    }

    fn exec(&self, command: &str, streams: Streams) -> String {
        self.url(Ticket::Exec(Exec {
            shim: "/shim".into(),
            bundle: "/bundle".into(),
            container: "c".to_owned(),
            command: command.split(' ').map(str::to_owned).collect(),
            streams,
        }))
    }

    fn forward(&self, port: u16) -> String {
        self.url(Ticket::Forward(Forward { netns: None, ports: vec![port] }))
    }
}

/// Everything that a session says, and how it ended.
async fn all(output: &mut Output) -> (Vec<u8>, Vec<u8>, Outcome) {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    loop {
        match soon(output.next()).await {
            Said::Stdout(bytes) => stdout.extend_from_slice(&bytes),
            Said::Stderr(bytes) => stderr.extend_from_slice(&bytes),
            Said::End(outcome) => {
                assert_eq!(output.next().await, Said::End(outcome.clone()), "the end stays the end");
                return (stdout, stderr, outcome);
            }
        }
    }
}

#[tokio::test]
async fn a_command_has_its_streams_and_its_exit_code() {
    let server = Server::start(None).await;
    for code in [0, 1, 137, 255] {
        let url = server.exec(&format!("cat {code}"), ALL);
        let Remote { input, mut output } = remote(&url, &Authorities::System).await.expect("a session");
        input.write(b"one ").await.expect("sent");
        input.write(b"two").await.expect("sent");
        input.end().await.expect("sent");
        assert_eq!(all(&mut output).await, (b"one two".to_vec(), b"bye".to_vec(), Outcome::Exit(code)));
    }
    server.fake.all_ended().await;
}

#[tokio::test]
async fn a_command_that_cannot_start_is_a_sentence() {
    let server = Server::start(None).await;
    let Remote { mut output, .. } =
        remote(&server.exec("missing", ALL), &Authorities::System).await.expect("a session");
    let (_, _, outcome) = all(&mut output).await;
    let Outcome::Failed(text) = outcome else { panic!("{outcome:?}") };
    assert!(text.ends_with("error executing command in container: no such file: missing"), "{text}");
}

#[tokio::test]
async fn megabytes_go_both_ways_at_once_and_sizes_between() {
    const LENGTH: usize = 8 << 20;
    let server = Server::start(None).await;
    let attach = Attach { shim: "/shim".into(), container: "c".to_owned(), streams: ALL };
    let url = server.url(Ticket::Attach(attach));
    let Remote { input, mut output } = remote(&url, &Authorities::System).await.expect("a session");
    let typing = tokio::spawn(async move {
        for (at, width) in (0..LENGTH).step_by(1 << 20).zip(1..) {
            input.write(&pattern(at, 1 << 20)).await.expect("sent");
            input.resize(Size { width, height: 24 }).await.expect("sent");
        }
        input.end().await.expect("sent");
    });
    let (stdout, _, outcome) = all(&mut output).await;
    assert!(stdout == pattern(0, LENGTH), "{} bytes", stdout.len());
    assert_eq!(outcome, Outcome::Exit(0));
    typing.await.expect("typed");
    assert_eq!(server.fake.sizes.lock().expect("lock").last(), Some(&Size { width: 8, height: 24 }));
}

#[tokio::test]
async fn a_session_that_the_server_cuts_is_told() {
    let mut server = Server::start(None).await;
    let url = server.exec("cat", ALL);
    let Remote { input, mut output } = remote(&url, &Authorities::System).await.expect("a session");
    input.write(b"x").await.expect("sent");
    assert_eq!(output.next().await, Said::Stdout("x".into()));
    server.stop.take().expect("once").send(()).expect("served");
    let (_, _, outcome) = all(&mut output).await;
    let Outcome::Failed(text) = outcome else { panic!("{outcome:?}") };
    assert!(text.contains("the stream server ends"), "{text}");
    server.served.await.expect("served");
}

#[tokio::test]
async fn dropping_a_session_ends_its_process() {
    let server = Server::start(None).await;
    for command in ["cat", "stuck", "pattern 1000000000"] {
        let session = remote(&server.exec(command, ALL), &Authorities::System).await.expect("a session");
        session.input.write(&[0; 1000]).await.expect("sent");
        drop(session);
        server.fake.all_ended().await;
    }
}

#[tokio::test]
async fn a_forwarded_connection_is_closed_half_by_half() {
    let server = Server::start(None).await;
    let (pod, local) = (listener().await, listener().await);
    let url = server.forward(pod.1);
    let mut user = TcpStream::connect(("127.0.0.1", local.1)).await.expect("connected");
    let here = local.0.accept().await.expect("accepted").0;
    let forwarding = tokio::spawn(async move { forward(&url, &Authorities::System, here).await });
    let mut there = pod.0.accept().await.expect("dialled").0;
    user.write_all(b"question").await.expect("sent");
    user.shutdown().await.expect("half-closed");
    let mut question = String::new();
    soon(there.read_to_string(&mut question)).await.expect("an end");
    assert_eq!(question, "question");
    let answering = tokio::spawn(async move { there.write_all(&pattern(0, 5 << 20)).await });
    let mut answer = Vec::new();
    soon(user.read_to_end(&mut answer)).await.expect("an end");
    assert!(answer == pattern(0, 5 << 20), "{} bytes", answer.len());
    answering.await.expect("answered").expect("sent");
    soon(forwarding).await.expect("a task").expect("forwarded");
}

#[tokio::test]
async fn when_the_pod_ends_first_the_user_may_still_send() {
    let server = Server::start(None).await;
    let (pod, local) = (listener().await, listener().await);
    let url = server.forward(pod.1);
    let mut user = TcpStream::connect(("127.0.0.1", local.1)).await.expect("connected");
    let here = local.0.accept().await.expect("accepted").0;
    let forwarding = tokio::spawn(async move { forward(&url, &Authorities::System, here).await });
    let mut there = pod.0.accept().await.expect("dialled").0;
    there.write_all(b"hello").await.expect("sent");
    there.shutdown().await.expect("half-closed");
    let mut hello = String::new();
    soon(user.read_to_string(&mut hello)).await.expect("an end");
    assert_eq!(hello, "hello");
    user.write_all(b"late").await.expect("sent");
    drop(user);
    let mut late = String::new();
    soon(there.read_to_string(&mut late)).await.expect("an end");
    assert_eq!(late, "late");
    soon(forwarding).await.expect("a task").expect("forwarded");
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_told_with_its_number() {
    let server = Server::start(None).await;
    let closed = listener().await.1;
    let local = listener().await;
    let mut user = TcpStream::connect(("127.0.0.1", local.1)).await.expect("connected");
    let here = local.0.accept().await.expect("accepted").0;
    let error = forward(&server.forward(closed), &Authorities::System, here).await.expect_err("refused");
    let text = error.to_string();
    assert!(text.contains(&format!("port {closed}")) && text.contains("refused"), "{text}");
    assert_eq!(user.read(&mut [0]).await.expect("an end"), 0);
}

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("bound");
    let port = listener.local_addr().expect("an address").port();
    (listener, port)
}

/// A server that reads one request, answers with these bytes, `KEY` being the right accept, and goes.
async fn odd(answer: &str) -> String {
    let (listener, port) = listener().await;
    let answer = answer.to_owned();
    tokio::spawn(async move {
        let (mut io, _) = listener.accept().await.expect("accepted");
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(io.read_u8().await.expect("a request"));
        }
        let request = String::from_utf8(request).expect("text");
        let key = request.lines().find_map(|line| line.strip_prefix("sec-websocket-key: "));
        let accept = key.and_then(crate::ws::accept_key).expect("a key");
        io.write_all(answer.replace("KEY", &accept).as_bytes()).await
    });
    format!("http://127.0.0.1:{port}/exec/secret")
}

/// An answer that upgrades.
fn upgrade(accept: &str, protocol: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-accept: {accept}\r\nsec-websocket-protocol: {protocol}\r\n\r\n"
    )
}

#[tokio::test]
async fn a_connection_that_is_lost_is_no_exit() {
    let good = upgrade("KEY", "v5.channel.k8s.io");
    let cases = [
        (good.clone(), "the process may still run"),
        (format!("{good}\u{2}\u{3}"), "the process may still run"),
        (format!("{good}\u{7f}\u{3}\u{1}hi"), "reserved bits"),
    ];
    for (answer, expected) in cases {
        let mut session = remote(&odd(&answer).await, &Authorities::System).await.expect("a session");
        let (_, _, outcome) = all(&mut session.output).await;
        let Outcome::Lost(text) = outcome else { panic!("{outcome:?}") };
        assert!(text.contains(expected), "{text}");
    }
}

#[tokio::test]
async fn every_refusal_says_what_to_do_and_shows_no_token() {
    let closed = listener().await.1;
    let unused = format!("http://127.0.0.1:{closed}/exec/secret");
    let cases = [
        ("".to_owned(), "no usable streaming URL"),
        ("ftp://host/exec/secret".to_owned(), "no usable streaming URL"),
        ("/exec/secret".to_owned(), "no usable streaming URL"),
        (unused, "nobody answers at 127.0.0.1:"),
        (odd("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await, "good once and for a minute"),
        (
            odd("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").await,
            "does not speak v5.channel.k8s.io",
        ),
        (odd("HTTP/1.1 503 No\r\ncontent-length: 9\r\n\r\ntry later").await, "with status 503: try later"),
        (
            odd("HTTP/1.1 302 Found\r\nlocation: http://elsewhere/\r\ncontent-length: 0\r\n\r\n").await,
            "with status 302",
        ),
        (odd("SSH-2.0-OpenSSH_9.2\r\n\r\n").await, "did not answer as a websocket server does"),
        (odd("").await, "did not answer as a websocket server does"),
        (odd(&upgrade("AAAA", "v5.channel.k8s.io")).await, "did not answer as a websocket server does"),
        (odd(&upgrade("KEY", "v4.channel.k8s.io")).await, "does not speak v5.channel.k8s.io"),
    ];
    for (url, expected) in cases {
        let error = remote(&url, &Authorities::System).await.expect_err("refused");
        let text = error.to_string();
        assert!(text.contains(expected), "{url}: {text}");
        assert!(!text.contains("secret"), "{text}");
        assert!(!format!("{error:?}").contains("secret"), "{error:?}");
    }
}

#[tokio::test]
async fn a_url_is_good_once() {
    let server = Server::start(None).await;
    let url = server.exec("true", ALL);
    let mut first = remote(&url, &Authorities::System).await.expect("a session");
    assert_eq!(all(&mut first.output).await.2, Outcome::Exit(0));
    let error = remote(&url, &Authorities::System).await.expect_err("used");
    assert!(matches!(error, ConnectError::Token), "{error}");
    assert!(server.tokens.take(Kind::Exec, url.rsplit('/').next().expect("a token")).is_none());
}

#[tokio::test]
async fn over_tls_only_a_trusted_server_is_spoken_to() {
    let signed = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let key = rustls::pki_types::PrivateKeyDer::try_from(signed.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![signed.cert.der().clone()], key)
        .expect("a server");
    let server = Server::start(Some(Arc::new(config))).await;
    let pem = format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        STANDARD.encode(signed.cert.der())
    );
    let file = std::env::temp_dir().join(format!("peapod-test-{}-ca.pem", std::process::id()));
    sys::file::replace_path(&file, pem.as_bytes(), sys::rustix::fs::Mode::RUSR).expect("written");

    let trusted = Authorities::File(file.clone());
    let mut session = remote(&server.exec("exit 4", ALL), &trusted).await.expect("a session");
    assert_eq!(all(&mut session.output).await.2, Outcome::Exit(4));
    let error = remote(&server.exec("true", ALL), &Authorities::System).await.expect_err("untrusted");
    assert!(matches!(error, ConnectError::Tls { .. } | ConnectError::Authorities(_)), "{error}");
    std::fs::remove_file(&file).expect("removed");
    let missing = Authorities::File(Path::new("/nonexistent.pem").to_owned());
    let error = remote(&server.exec("true", ALL), &missing).await.expect_err("no file");
    assert!(error.to_string().contains("/nonexistent.pem"), "{error}");
}
