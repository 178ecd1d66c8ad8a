//! From a streaming URL to a websocket.

use crate::ws::{Protocol, VERSION, accept_key};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{body::Incoming, client::conn::http1, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use std::{io, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// How long a server may take until it has answered.
const PATIENCE: Duration = Duration::from_secs(30);
/// As much of a refusal is shown.
const REFUSAL: usize = 4 << 10;

/// A connection that was upgraded.
pub(super) type Io = TokioIo<Upgraded>;

/// Whose certificates are believed when the URL is `https`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Authorities {
    /// The system's.
    #[default]
    System,
    /// Those in this file of PEM, and no other.
    File(PathBuf),
}

/// Why there is no session. Each says what can be done; none shows the token.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Not a streaming URL.
    #[error("the runtime gave no usable streaming URL: it must be http or https, with a host")]
    Url,
    /// Nobody listens there.
    #[error(
        "nobody answers at {address}, where the runtime serves streams: is it running, and may this machine \
         connect to it?"
    )]
    Dial {
        /// host:port
        address: String,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// The certificates to believe cannot be read.
    #[error("no certificate authority can be read from {0}: give a file of PEM certificates")]
    Authorities(String),
    /// TLS failed.
    #[error("the TLS of {address} is not trusted: give the authority that signed its certificate")]
    Tls {
        /// host:port
        address: String,
        /// What is wrong.
        #[source]
        source: io::Error,
    },
    /// The token is of no use.
    #[error(
        "the runtime does not know this session: a streaming URL is good once and for a minute, ask again"
    )]
    Token,
    /// It does not speak our protocol.
    #[error("the runtime does not speak {0} over a websocket: this needs peapod's own stream server")]
    Protocol(&'static str),
    /// Any other answer.
    #[error("the runtime refused the session with status {status}: {text}")]
    Refused {
        /// Of HTTP.
        status: u16,
        /// Its body, shortened.
        text: String,
    },
    /// It does not speak HTTP as it should.
    #[error("the runtime's stream server did not answer as a websocket server does")]
    Http(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No answer.
    #[error("the runtime's stream server at {0} did not answer for half a minute")]
    Late(String),
}

/// Asks for a websocket with this protocol.
pub(super) async fn connect(url: &str, tls: &Authorities, protocol: Protocol) -> Result<Io, ConnectError> {
    let uri: Uri = url.parse().map_err(|_| ConnectError::Url)?;
    let secure = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        Some(_) | None => return Err(ConnectError::Url),
    };
    let host = uri.host().ok_or(ConnectError::Url)?.trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let address = format!("{host}:{port}");
    let connecting = async {
        let dialled = TcpStream::connect((host.as_str(), port)).await;
        let tcp = dialled.map_err(|source| ConnectError::Dial { address: address.clone(), source })?;
        // Keystrokes must not wait for one another; that it is not possible harms nothing.
        let _ = tcp.set_nodelay(true);
        if !secure {
            return upgrade(tcp, &uri, protocol).await;
        }
        let name = ServerName::try_from(host.clone()).map_err(|_| ConnectError::Url)?;
        let connector = TlsConnector::from(Arc::new(client_config(tls)?));
        let tls = connector.connect(name, tcp).await;
        let tls = tls.map_err(|source| ConnectError::Tls { address: address.clone(), source })?;
        upgrade(tls, &uri, protocol).await
    };
    timeout(PATIENCE, connecting).await.map_err(|_| ConnectError::Late(address.clone()))?
}

fn client_config(tls: &Authorities) -> Result<ClientConfig, ConnectError> {
    let mut roots = RootCertStore::empty();
    let whose = match tls {
        Authorities::System => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            "the system".to_owned()
        }
        Authorities::File(path) => {
            let shown = path.display().to_string();
            let wrong = |_| ConnectError::Authorities(shown.clone());
            let read: Vec<_> =
                CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(wrong)?;
            roots.add_parsable_certificates(read);
            shown
        }
    };
    if roots.is_empty() {
        return Err(ConnectError::Authorities(whose));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| ConnectError::Http(error.into()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

async fn upgrade<S>(io: S, uri: &Uri, protocol: Protocol) -> Result<Io, ConnectError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut requests, connection) =
        http1::handshake(TokioIo::new(io)).await.map_err(|error| ConnectError::Http(error.into()))?;
    // It ends with the upgraded connection, or when `requests` is dropped.
    tokio::spawn(connection.with_upgrades());
    let mut key = [0; 16];
    sys::rustix::rand::getrandom(&mut key[..], sys::rustix::rand::GetRandomFlags::empty())
        .map_err(|error| ConnectError::Http(io::Error::from(error).into()))?;
    let key = STANDARD.encode(key);
    let request = request(uri, &key, protocol)?;
    let answer = requests.send_request(request).await.map_err(|error| ConnectError::Http(error.into()))?;
    let answer = accepted(answer, &key, protocol).await?;
    let upgraded = hyper::upgrade::on(answer).await.map_err(|error| ConnectError::Http(error.into()))?;
    Ok(TokioIo::new(upgraded))
}

fn request(uri: &Uri, key: &str, protocol: Protocol) -> Result<Request<Empty<Bytes>>, ConnectError> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().ok_or(ConnectError::Url)?;
    let host = authority.as_str().rsplit_once('@').map_or(authority.as_str(), |(_, host)| host);
    Request::get(path)
        .header(header::HOST, host)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, VERSION)
        .header(header::SEC_WEBSOCKET_KEY, key)
        .header(header::SEC_WEBSOCKET_PROTOCOL, protocol.name())
        .body(Empty::new())
        .map_err(|_| ConnectError::Url)
}

/// The answer, if it is the one that was hoped for (RFC 6455, section 4.1).
async fn accepted(
    answer: Response<Incoming>,
    key: &str,
    protocol: Protocol,
) -> Result<Response<Incoming>, ConnectError> {
    let text = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
    match answer.status() {
        StatusCode::SWITCHING_PROTOCOLS => {
            if text(header::SEC_WEBSOCKET_ACCEPT) != accept_key(key).as_deref() {
                return Err(ConnectError::Http("its Sec-WebSocket-Accept is wrong".into()));
            }
            if text(header::SEC_WEBSOCKET_PROTOCOL) != Some(protocol.name()) {
                return Err(ConnectError::Protocol(protocol.name()));
            }
            Ok(answer)
        }
        StatusCode::NOT_FOUND => Err(ConnectError::Token),
        StatusCode::FORBIDDEN => Err(ConnectError::Protocol(protocol.name())),
        status => {
            let body = Limited::new(answer.into_body(), REFUSAL).collect().await;
            let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            let text = String::from_utf8_lossy(&body).trim().to_owned();
            Err(ConnectError::Refused { status: status.as_u16(), text })
        }
    }
}
