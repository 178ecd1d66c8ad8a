//! Which protocol a request asks for, by its headers alone.
//!
//! As k8s.io/streaming:pkg/httpstream/{httpstream,spdy/upgrade}.go and wsstream/conn.go, but for one thing:
//! there a request uses its token up before its headers are looked at; here the headers come first, so that
//! a client that asks for what is not spoken here may ask again with the same URL.

use crate::{
    spdy::Version,
    tokens::Kind,
    ws::{self, PROTOCOLS_FORWARD, PROTOCOLS_REMOTE},
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    header::{
        ALLOW, CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
        SEC_WEBSOCKET_VERSION, UPGRADE,
    },
};

/// What a SPDY client may speak, and what was chosen.
const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// What it might have asked for.
const ACCEPTED_VERSIONS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

const SPDY: &str = "SPDY/3.1";
/// The one protocol of port-forward over SPDY.
const FORWARD: &str = "portforward.k8s.io";

/// What is spoken after the 101.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Exec and attach.
    SpdyRemote(Version),
    /// Port-forward.
    SpdyForward,
    /// Anything.
    Websocket(ws::Protocol),
}

/// A protocol, and the headers of the 101.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) protocol: Protocol,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

/// Why not; the text is the body of the answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("there is no such path: it is /exec/TOKEN, /attach/TOKEN or /portforward/TOKEN")]
    Path,
    #[error("this token is wrong, used or too old: ask for a new URL")]
    Token,
    #[error("the method {0} is not allowed: it is GET or POST, and GET alone for a websocket")]
    Method(Method),
    #[error(
        "unable to upgrade: the headers are not \"Connection: Upgrade\" with \"Upgrade: {SPDY}\" or \"Upgrade: websocket\""
    )]
    NoUpgrade,
    #[error("unable to upgrade: the header X-Stream-Protocol-Version is missing or empty")]
    NoVersion,
    #[error("unable to upgrade: the client speaks {}, the server {}", asked.join(", "), accepted.join(", "))]
    NoCommonVersion { asked: Vec<String>, accepted: Vec<&'static str> },
    #[error("unable to upgrade: the header Sec-WebSocket-Version is not {}", ws::VERSION)]
    WebsocketVersion,
    #[error("unable to upgrade: the header Sec-WebSocket-Key is not 16 bytes in base64")]
    WebsocketKey,
    #[error("a request for a session has no body")]
    Body,
}

impl Refusal {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Refusal::Path | Refusal::Token => StatusCode::NOT_FOUND,
            Refusal::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Refusal::NoCommonVersion { .. } => StatusCode::FORBIDDEN,
            Refusal::NoUpgrade
            | Refusal::NoVersion
            | Refusal::WebsocketVersion
            | Refusal::WebsocketKey
            | Refusal::Body => StatusCode::BAD_REQUEST,
        }
    }

    /// What the client needs to do better.
    pub(crate) fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        match self {
            Refusal::Method(_) => vec![(ALLOW, HeaderValue::from_static("GET, POST"))],
            Refusal::NoCommonVersion { accepted, .. } => accepted
                .iter()
                .filter(|name| !name.is_empty())
                .map(|name| (ACCEPTED_VERSIONS, HeaderValue::from_static(name)))
                .collect(),
            Refusal::WebsocketVersion => {
                vec![(SEC_WEBSOCKET_VERSION, HeaderValue::from_static(ws::VERSION))]
            }
            Refusal::Path
            | Refusal::Token
            | Refusal::NoUpgrade
            | Refusal::NoVersion
            | Refusal::WebsocketKey
            | Refusal::Body => Vec::new(),
        }
    }
}

/// The kind of session and the token in a path.
pub(crate) fn path(path: &str) -> Result<(Kind, &str), Refusal> {
    let (kind, token) = path.strip_prefix('/').and_then(|path| path.split_once('/')).ok_or(Refusal::Path)?;
    let kind = Kind::of_path(kind).ok_or(Refusal::Path)?;
    if token.is_empty() || token.contains('/') { Err(Refusal::Path) } else { Ok((kind, token)) }
}

/// The protocol that a request for such a session asks for.
pub(crate) fn negotiate(kind: Kind, method: &Method, headers: &HeaderMap) -> Result<Accepted, Refusal> {
    if method != Method::GET && method != Method::POST {
        return Err(Refusal::Method(method.clone()));
    }
    if !values(headers, &CONNECTION).any(|value| contains(value, "upgrade")) {
        return Err(Refusal::NoUpgrade);
    }
    if values(headers, &UPGRADE).any(|value| value.eq_ignore_ascii_case("websocket")) {
        if method != Method::GET {
            return Err(Refusal::Method(method.clone()));
        }
        return websocket(kind, headers);
    }
    if values(headers, &UPGRADE).any(|value| contains(value, SPDY)) {
        return spdy(kind, headers);
    }
    Err(Refusal::NoUpgrade)
}

fn spdy(kind: Kind, headers: &HeaderMap) -> Result<Accepted, Refusal> {
    let asked = list(headers, &PROTOCOL_VERSION);
    if asked.is_empty() {
        return Err(Refusal::NoVersion);
    }
    let known: Vec<(&'static str, Protocol)> = match kind {
        Kind::Exec | Kind::Attach => {
            Version::ALL.iter().map(|version| (version.name(), Protocol::SpdyRemote(*version))).collect()
        }
        Kind::Forward => vec![(FORWARD, Protocol::SpdyForward)],
    };
    let chosen = asked.iter().find_map(|name| known.iter().find(|(known, _)| known == name));
    let Some((name, protocol)) = chosen else {
        return Err(no_common(&asked, known.iter().map(|(name, _)| *name).collect()));
    };
    let headers = vec![
        (CONNECTION, HeaderValue::from_static("Upgrade")),
        (UPGRADE, HeaderValue::from_static(SPDY)),
        (PROTOCOL_VERSION, HeaderValue::from_static(name)),
    ];
    Ok(Accepted { protocol: *protocol, headers })
}

fn websocket(kind: Kind, headers: &HeaderMap) -> Result<Accepted, Refusal> {
    if !values(headers, &SEC_WEBSOCKET_VERSION).any(|value| value.trim() == ws::VERSION) {
        return Err(Refusal::WebsocketVersion);
    }
    let key = values(headers, &SEC_WEBSOCKET_KEY).find_map(ws::accept_key).ok_or(Refusal::WebsocketKey)?;
    let asked = list(headers, &SEC_WEBSOCKET_PROTOCOL);
    let known: &[ws::Protocol] = match kind {
        Kind::Exec | Kind::Attach => &PROTOCOLS_REMOTE,
        Kind::Forward => &PROTOCOLS_FORWARD,
    };
    let Some(protocol) = ws::Protocol::choose(known, asked.iter().copied()) else {
        return Err(no_common(&asked, known.iter().map(|protocol| protocol.name()).collect()));
    };
    let mut headers = vec![
        (CONNECTION, HeaderValue::from_static("Upgrade")),
        (UPGRADE, HeaderValue::from_static("websocket")),
        (SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&key).map_err(|_| Refusal::WebsocketKey)?),
    ];
    if !protocol.name().is_empty() {
        headers.push((SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol.name())));
    }
    Ok(Accepted { protocol: Protocol::Websocket(protocol), headers })
}

fn no_common(asked: &[&str], accepted: Vec<&'static str>) -> Refusal {
    Refusal::NoCommonVersion { asked: asked.iter().map(|name| (*name).to_owned()).collect(), accepted }
}

/// The values of a header that are text.
fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok())
}

/// The parts of a header that may be there several times and have several values, each time.
fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    values(headers, name)
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .collect()
}

fn contains(value: &str, part: &str) -> bool {
    value.to_ascii_lowercase().contains(&part.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    fn spdy_with(kind: Kind, versions: &[&'static str]) -> Result<Protocol, Refusal> {
        let mut all = headers(&[("connection", "keep-alive, Upgrade"), ("upgrade", "spdy/3.1")]);
        for version in versions {
            all.append(PROTOCOL_VERSION, HeaderValue::from_static(version));
        }
        negotiate(kind, &Method::POST, &all).map(|accepted| accepted.protocol)
    }

    fn websocket_with(kind: Kind, protocols: &[&'static str]) -> Result<Protocol, Refusal> {
        let mut all = headers(&[
            ("connection", "Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", KEY),
        ]);
        for protocol in protocols {
            all.append(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        }
        negotiate(kind, &Method::GET, &all).map(|accepted| accepted.protocol)
    }

    #[test]
    fn paths_are_a_kind_and_a_token() {
        for (text, expected) in [
            ("/exec/abc", Some((Kind::Exec, "abc"))),
            ("/attach/abc", Some((Kind::Attach, "abc"))),
            ("/portforward/a-_", Some((Kind::Forward, "a-_"))),
            ("/exec/", None),
            ("/exec", None),
            ("/", None),
            ("", None),
            ("/exec/a/b", None),
            ("//exec/a", None),
            ("/Exec/a", None),
            ("/cri/exec/a", None),
        ] {
            assert_eq!(path(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn the_clients_first_choice_that_the_server_knows_wins() {
        use Version::{V1, V2, V3, V4};
        for (versions, chosen) in [
            (&["v4.channel.k8s.io"][..], V4),
            (&["v3.channel.k8s.io", "v4.channel.k8s.io"], V3),
            (&["v5.channel.k8s.io", "v2.channel.k8s.io"], V2),
            (&["v5.channel.k8s.io , channel.k8s.io,v4.channel.k8s.io"], V1),
        ] {
            assert_eq!(spdy_with(Kind::Exec, versions), Ok(Protocol::SpdyRemote(chosen)));
            assert_eq!(spdy_with(Kind::Attach, versions), Ok(Protocol::SpdyRemote(chosen)));
        }
        assert_eq!(spdy_with(Kind::Forward, &["x", FORWARD]), Ok(Protocol::SpdyForward));
        for (kind, protocols, chosen) in [
            (
                Kind::Exec,
                &["v9.channel.k8s.io, v5.channel.k8s.io", "v4.channel.k8s.io"][..],
                ws::Protocol::V5,
            ),
            (Kind::Exec, &[], ws::Protocol::Unnamed),
            (Kind::Forward, &["SPDY/3.1+portforward.k8s.io"], ws::Protocol::Tunnel),
        ] {
            assert_eq!(websocket_with(kind, protocols), Ok(Protocol::Websocket(chosen)));
        }
    }

    #[test]
    fn no_common_version_is_forbidden_with_the_list_of_those_that_are() {
        let refusal = spdy_with(Kind::Exec, &["v5.channel.k8s.io, v6"]).expect_err("unknown");
        assert_eq!(refusal.status(), StatusCode::FORBIDDEN);
        let accepted: Vec<_> = refusal.headers().into_iter().map(|(_, value)| value).collect();
        assert_eq!(
            accepted,
            ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"]
        );
        assert!(refusal.to_string().contains("v5.channel.k8s.io, v6"), "{refusal}");
        for refused in [
            spdy_with(Kind::Forward, &["v4.channel.k8s.io"]),
            spdy_with(Kind::Exec, &[FORWARD]),
            websocket_with(Kind::Exec, &["SPDY/3.1+portforward.k8s.io"]),
            websocket_with(Kind::Forward, &["nothing"]),
        ] {
            assert_eq!(refused.expect_err("unknown").status(), StatusCode::FORBIDDEN);
        }
    }

    #[test]
    fn missing_headers_are_bad_requests() {
        let version = ("x-stream-protocol-version", "v4.channel.k8s.io");
        for (pairs, refusal) in [
            (&[][..], Refusal::NoUpgrade),
            (&[version], Refusal::NoUpgrade),
            (&[("connection", "Upgrade"), version], Refusal::NoUpgrade),
            (&[("upgrade", "SPDY/3.1"), version], Refusal::NoUpgrade),
            (&[("connection", "Upgrade"), ("upgrade", "h2c"), version], Refusal::NoUpgrade),
            (&[("connection", "Upgrade"), ("upgrade", "SPDY/3.1")], Refusal::NoVersion),
            (
                &[("connection", "Upgrade"), ("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", " , ")],
                Refusal::NoVersion,
            ),
            (&[("connection", "Upgrade"), ("upgrade", "websocket")], Refusal::WebsocketVersion),
            (
                &[
                    ("connection", "Upgrade"),
                    ("upgrade", "websocket"),
                    ("sec-websocket-version", "13"),
                    ("sec-websocket-key", "short"),
                ],
                Refusal::WebsocketKey,
            ),
        ] {
            let refused = negotiate(Kind::Exec, &Method::GET, &headers(pairs)).expect_err("incomplete");
            assert_eq!(refused, refusal, "{pairs:?}");
            assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
        }
    }

    #[test]
    fn only_get_and_post_are_allowed_and_only_get_for_websockets() {
        let spdy = headers(&[
            ("connection", "Upgrade"),
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", "v4.channel.k8s.io"),
        ]);
        let websocket = headers(&[("connection", "Upgrade"), ("upgrade", "websocket")]);
        for (method, all) in [
            (Method::PUT, &spdy),
            (Method::HEAD, &spdy),
            (Method::DELETE, &spdy),
            (Method::CONNECT, &spdy),
            (Method::POST, &websocket),
        ] {
            let refused = negotiate(Kind::Exec, &method, all).expect_err("method");
            assert_eq!(refused.status(), StatusCode::METHOD_NOT_ALLOWED);
            assert_eq!(refused.headers()[0].0, ALLOW);
        }
    }

    #[test]
    fn the_answer_names_what_was_chosen() {
        let all = headers(&[
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", KEY),
            ("sec-websocket-protocol", "v4.channel.k8s.io"),
        ]);
        let accepted = negotiate(Kind::Attach, &Method::GET, &all).expect("accepted");
        let answer: HeaderMap = accepted.headers.into_iter().collect();
        assert_eq!(answer[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(answer[SEC_WEBSOCKET_PROTOCOL], "v4.channel.k8s.io");
    }
}
