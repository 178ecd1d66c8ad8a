//! Who gets credentials, and over what: the request logs of several hosts are the witnesses.

#![allow(clippy::tests_outside_test_module, reason = "cargo builds this whole file for tests only")]
#![allow(clippy::disallowed_methods, reason = "tests read and remove their own directories by path")]

mod support;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use image::{Credentials, ErrorKind, ImageError, Images, PullAuth};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer},
};
use std::{error::Error as _, sync::Arc};
use support::{
    Place,
    build::{Image, Tar, gzip},
    server::{Reply, Seen, Server, ok, redirect, status, with},
};
use tokio_rustls::TlsAcceptor;
use types::{Digest, ImageRef};

const BASIC: &str = "Basic dXNlcjpodW50ZXIy";

fn image() -> Image {
    Image::new(&[Tar::new().file("f", "content").end()], gzip)
}

fn reference(server: &Server) -> ImageRef {
    ImageRef::parse(&format!("{}/a:1", server.host())).expect("a reference")
}

fn password() -> Option<Credentials> {
    let auth =
        PullAuth { username: "user".to_owned(), password: "hunter2".to_owned(), ..PullAuth::default() };
    auth.checked().expect("good")
}

fn identity() -> Option<Credentials> {
    let auth = PullAuth { identity_token: "refresh-s3cr3t".to_owned(), ..PullAuth::default() };
    auth.checked().expect("good")
}

async fn pull(
    images: &Images,
    server: &Server,
    credentials: Option<Credentials>,
) -> Result<Digest, ImageError> {
    images.pull(&reference(server), credentials).done().await
}

fn chain(error: &ImageError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

fn challenged(seen: &Seen, wanted: &str, challenge: &str) -> Option<Reply> {
    (seen.header("authorization") != Some(wanted)).then(|| with(status(401), "www-authenticate", challenge))
}

/// A certificate for 127.0.0.1 and its server.
struct Tls {
    pem: String,
    acceptor: TlsAcceptor,
}

fn tls(names: &[&str]) -> Tls {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
    let der: CertificateDer<'static> = made.cert.der().clone();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(&der));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![der], key.into())
        .expect("a certificate and its key");
    Tls { pem, acceptor: TlsAcceptor::from(Arc::new(config)) }
}

#[tokio::test]
async fn a_password_is_sent_when_asked_for_and_not_before() {
    let place = Place::new();
    let server = Server::start().await;
    let images = place.open().await;
    server.put("a", "1", &image());
    server.script(|seen, _| challenged(seen, BASIC, "Basic realm=\"here\""));
    let error = pull(&images, &server, None).await.expect_err("anonymous");
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(!server.saw_secret());
    pull(&images, &server, password()).await.expect("with a password");
    assert_eq!(server.log()[1].header("authorization"), None, "not before it is asked for");
    let wrong = PullAuth { username: "user".to_owned(), password: "wr0ng".to_owned(), ..PullAuth::default() };
    images.remove(image().id.as_str()).await.expect("removed");
    let error = pull(&images, &server, wrong.checked().expect("good")).await.expect_err("wrong");
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(!chain(&error).contains("wr0ng"));
}

#[tokio::test]
async fn tokens_come_from_the_token_server_and_last_for_the_pull() {
    let place = Place::new();
    let (server, tokens) = (Server::start().await, Server::start().await);
    let images = place.open().await;
    server.put("a", "1", &image());
    let challenge = format!(
        "Bearer realm=\"{}/token?x=1\",service=\"s&1\",scope=\"repository:a:pull,push\"",
        tokens.url()
    );
    server.script(move |seen, _| challenged(seen, "Bearer t0ken", &challenge));
    tokens.script(|seen, _| (seen.path == "/token").then(|| ok(br#"{"token":"t0ken"}"#.to_vec())));
    for credentials in [None, password()] {
        let anonymous = credentials.is_none();
        pull(&images, &server, credentials).await.expect("with a token");
        images.remove(image().id.as_str()).await.expect("removed");
        let asked = tokens.log();
        let last = asked.last().expect("asked");
        assert_eq!(last.query, "x=1&scope=repository%3Aa%3Apull&service=s%261", "no more than reading");
        assert_eq!(last.header("authorization"), (!anonymous).then_some(BASIC));
    }
    assert_eq!(tokens.log().len(), 2, "one token for each pull");
    tokens.script(|_, _| Some(ok(vec![b' '; 70_000])));
    assert!(pull(&images, &server, None).await.is_err(), "a token of more than 64 KiB");
    tokens.script(|_, _| Some(ok(br#"{"token":"a\nb"}"#.to_vec())));
    assert!(pull(&images, &server, None).await.is_err(), "a token that breaks the header");
    assert!(
        server
            .log()
            .iter()
            .all(|seen| seen.header("authorization").is_none_or(|text| text == "Bearer t0ken"))
    );
}

#[tokio::test]
async fn an_identity_token_goes_to_the_registrys_own_host_alone() {
    let place = Place::new();
    let server = Server::start().await;
    let images = place.open().await;
    server.put("a", "1", &image());
    let other = Server::start().await;
    // The same server under another name of this machine is another host.
    let challenge = format!("Bearer realm=\"http://localhost:{}/token\"", other.address.port());
    server.script(move |seen, _| challenged(seen, "Bearer t", &challenge));
    other.script(|_, _| Some(ok(br#"{"token":"t"}"#.to_vec())));
    let error = pull(&images, &server, identity()).await.expect_err("another host");
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert_eq!(other.log().len(), 0);
    let own = format!("Bearer realm=\"{}/token\"", server.url());
    server.script(move |seen, _| match seen.path.as_str() {
        "/token" => Some(ok(br#"{"access_token":"t"}"#.to_vec())),
        _ => challenged(seen, "Bearer t", &own),
    });
    pull(&images, &server, identity()).await.expect("its own host");
    let asked = server.log().into_iter().find(|seen| seen.path == "/token").expect("asked");
    assert_eq!((asked.method.as_str(), asked.query.as_str()), ("POST", ""), "not in a URL");
}

#[tokio::test]
async fn a_redirect_to_another_host_gets_no_credentials() {
    let place = Place::new();
    let (server, storage) = (Server::start().await, Server::start().await);
    let images = place.open().await;
    server.put("a", "1", &image());
    storage.put("a", "1", &image());
    place.hosts(&server.host(), &format!("server = \"{}\"\n[header]\nx-secret = \"s3cr3t\"\n", server.url()));
    let (to, back) = (storage.url(), server.url());
    server.script(move |seen, _| {
        if seen.path.starts_with("/back/") {
            return Some(redirect(&format!("{to}{}", &seen.path["/back".len()..])));
        }
        let denied = challenged(seen, BASIC, "Basic realm=\"here\"");
        denied.or_else(|| {
            seen.path
                .contains("/blobs/")
                .then(|| redirect(&format!("{to}{}?X-Amz-Signature=s3cr3t", seen.path)))
        })
    });
    // A -> B -> A -> B: what came back from B does not get them again.
    storage.script(move |seen, before| (before == 0).then(|| redirect(&format!("{back}/back{}", seen.path))));
    pull(&images, &server, password()).await.expect("pulled");
    assert!(storage.count("/blobs/") >= 2);
    assert!(!storage.saw_secret());
    for seen in server.log() {
        let back = seen.path.starts_with("/back/");
        assert!(!(back && seen.header("authorization").is_some()), "{}", seen.path);
        assert_eq!(seen.header("x-secret").is_some(), !back, "{}", seen.path);
    }
    // A failure behind the redirect tells no signature.
    images.remove(image().id.as_str()).await.expect("removed");
    storage.script(|_, _| Some(status(403)));
    let error = pull(&images, &server, password()).await.expect_err("refused");
    let text = chain(&error);
    assert!(!text.contains("s3cr3t") && !text.contains("Signature") && text.contains("/blobs/"), "{text}");
}

#[tokio::test]
async fn redirects_end() {
    let place = Place::new();
    let server = Server::start().await;
    let images = place.open().await;
    server.put("a", "1", &image());
    server.script(|seen, _| Some(redirect(&seen.path)));
    let error = pull(&images, &server, None).await.expect_err("a loop");
    assert_eq!(server.log().len(), 11, "{error}");
    for location in ["", "x/y", "ftp://a/b", "http://u:p@127.0.0.1/x", "//"] {
        server.script(move |_, _| Some(with(status(302), "location", location)));
        assert_eq!(
            pull(&images, &server, None).await.expect_err(location).kind(),
            ErrorKind::Refused,
            "{location}"
        );
    }
}

#[tokio::test]
async fn a_mirror_is_asked_first_and_gets_no_credentials_of_the_registry() {
    let place = Place::new();
    let (server, mirror, dead) = (Server::start().await, Server::start().await, Server::start().await);
    let images = place.open().await;
    server.put("a", "1", &image());
    mirror.put("a", "1", &image());
    let gone = dead.url();
    drop(dead);
    let text = format!(
        "server = \"{}\"\n[host.\"{gone}\"]\n[host.\"{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
        server.url(),
        mirror.url()
    );
    place.hosts("reg.example", &text);
    let name = ImageRef::parse("reg.example/a:1").expect("a reference");
    images.pull(&name, password()).done().await.expect("from the mirror");
    assert_eq!((server.log().len(), mirror.log().len()), (0, 3));
    assert!(mirror.log().iter().all(|seen| seen.query == "ns=reg.example"));
    images.remove(image().id.as_str()).await.expect("removed");
    // The mirror wants a password: it is not the registry, and the registry gives the image.
    mirror.script(|seen, _| challenged(seen, BASIC, "Basic realm=\"mirror\""));
    server.script(|seen, _| challenged(seen, BASIC, "Basic realm=\"registry\""));
    images.pull(&name, password()).done().await.expect("from the registry");
    assert!(!mirror.saw_secret());
    assert!(server.saw_secret());
    // Given for another host, they go nowhere.
    images.remove(image().id.as_str()).await.expect("removed");
    let asked = server.log().len();
    let auth = PullAuth {
        username: "user".to_owned(),
        password: "hunter2".to_owned(),
        server_address: "other.example".to_owned(),
        ..PullAuth::default()
    };
    let error = images.pull(&name, auth.checked().expect("good")).done().await.expect_err("not for it");
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(server.log()[asked..].iter().all(|seen| seen.header("authorization").is_none()));
}

#[tokio::test]
async fn tls_is_verified_unless_the_settings_of_that_host_say_otherwise() {
    let place = Place::new();
    let good = tls(&["127.0.0.1"]);
    let server = Server::start_tls(good.acceptor).await;
    let images = place.open().await;
    server.put("a", "1", &image());
    support::put(&place.dir.join("ca.pem"), good.pem.as_bytes());
    let ca = place.dir.join("ca.pem").display().to_string();
    let url = server.url();
    place.hosts(&server.host(), &format!("server = \"{url}\"\n"));
    let error = pull(&images, &server, password()).await.expect_err("an unknown certificate");
    assert_eq!((error.kind(), server.log().len()), (ErrorKind::Unavailable, 0), "{}", chain(&error));
    for settings in [format!("ca = \"{ca}\""), "skip_verify = true".to_owned()] {
        place.hosts(&server.host(), &format!("server = \"{url}\"\n{settings}\n"));
        pull(&images, &server, None).await.expect(&settings);
        images.remove(image().id.as_str()).await.expect("removed");
    }
    // The right authority, but for another name.
    let other = tls(&["elsewhere.example"]);
    support::put(&place.dir.join("ca.pem"), other.pem.as_bytes());
    let wrong = Server::start_tls(other.acceptor).await;
    wrong.put("a", "1", &image());
    place.hosts(&wrong.host(), &format!("server = \"{}\"\nca = \"{ca}\"\n", wrong.url()));
    assert!(pull(&images, &wrong, None).await.is_err());
    assert_eq!(wrong.log().len(), 0);
    // A client certificate that cannot be read is an error, and nothing is asked without it.
    place.hosts(
        &server.host(),
        &format!("server = \"{url}\"\nskip_verify = true\nclient = \"missing.pem\"\n"),
    );
    let asked = server.log().len();
    assert_eq!(pull(&images, &server, None).await.expect_err("no file").kind(), ErrorKind::Internal);
    assert_eq!(server.log().len(), asked);
}

#[tokio::test]
async fn neither_tokens_nor_blobs_are_fetched_over_less_than_the_registrys_tls() {
    let place = Place::new();
    let good = tls(&["127.0.0.1"]);
    support::put(&place.dir.join("ca.pem"), good.pem.as_bytes());
    let ca = place.dir.join("ca.pem").display().to_string();
    let server = Server::start_tls(good.acceptor).await;
    let (plain, untrusted) = (Server::start().await, Server::start_tls(tls(&["127.0.0.1"]).acceptor).await);
    let images = place.open().await;
    server.put("a", "1", &image());
    place.hosts(
        &server.host(),
        &format!("server = \"{}\"\nca = \"{ca}\"\nskip_verify = true\n", server.url()),
    );
    let metadata = "http://169.254.169.254/token".to_owned();
    for realm in [
        format!("{}/token", plain.url()),
        format!("{}/token", untrusted.url()),
        metadata,
        "nonsense".to_owned(),
    ] {
        let challenge = format!("Bearer realm=\"{realm}\",service=\"s\"");
        server.script(move |seen, _| challenged(seen, "Bearer t", &challenge));
        assert!(pull(&images, &server, password()).await.is_err(), "{realm}");
    }
    assert_eq!((plain.log().len(), untrusted.log().len()), (0, 0));
    for target in [plain.url(), untrusted.url()] {
        server.script(move |seen, _| {
            seen.path.contains("/blobs/").then(|| redirect(&format!("{target}{}", seen.path)))
        });
        assert!(pull(&images, &server, None).await.is_err());
    }
    assert_eq!((plain.log().len(), untrusted.log().len()), (0, 0), "skip_verify is for one host");
    server.script(|_, _| None);
    pull(&images, &server, None).await.expect("an honest pull");
}
