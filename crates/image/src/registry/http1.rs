//! HTTP/1.1 over TCP or TLS, with the connections of one pull kept for its next requests.

use super::{
    Patience,
    error::RegistryError,
    hosts::{Endpoint, TlsSettings},
    link::Link,
    tls,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::OnceCell,
    time::timeout,
};

/// The head of a response with all its headers must fit here; also what one read takes at most.
const MAX_BUFFER: usize = 256 << 10;
const MAX_HEADERS: usize = 128;
const MAX_IDLE: usize = 16;

type Sender = SendRequest<Full<Bytes>>;

/// Connections to one endpoint and to the hosts that it sends us to.
pub(super) struct Http {
    own: Link,
    settings: TlsSettings,
    patience: Patience,
    own_tls: OnceCell<Arc<ClientConfig>>,
    other_tls: OnceCell<Arc<ClientConfig>>,
    idle: Mutex<Vec<(Link, Sender)>>,
}

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Http({})", self.own)
    }
}

impl Http {
    pub(super) fn new(endpoint: &Endpoint, patience: Patience) -> Self {
        Self {
            own: endpoint.base.clone(),
            settings: endpoint.tls.clone(),
            patience,
            own_tls: OnceCell::new(),
            other_tls: OnceCell::new(),
            idle: Mutex::new(Vec::new()),
        }
    }

    /// One request, one response head; nothing is followed or tried again.
    pub(super) async fn send(
        &self,
        method: Method,
        link: &Link,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, RegistryError> {
        let exchange = async {
            if let Some(mut kept) = self.kept(link) {
                // The peer may have closed it meanwhile; all our requests may be sent twice.
                let request = request(&method, link, headers.clone(), body.clone())?;
                if let Ok(response) = kept.send_request(request).await {
                    self.keep(link, kept);
                    return Ok(response);
                }
            }
            let mut fresh = self.connect(link).await?;
            let request = request(&method, link, headers, body)?;
            let response = fresh
                .send_request(request)
                .await
                .map_err(|source| RegistryError::Broken { url: link.to_string(), source })?;
            self.keep(link, fresh);
            Ok(response)
        };
        timeout(self.patience.response, exchange)
            .await
            .map_err(|_| RegistryError::timeout(link, "the head of a response"))?
    }

    fn kept(&self, link: &Link) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(_, sender)| !sender.is_closed());
        let at = idle.iter().position(|(to, sender)| to.same_origin(link) && sender.is_ready())?;
        Some(idle.swap_remove(at).1)
    }

    /// Keeps a connection; it is ready again when its response was read to the end.
    fn keep(&self, link: &Link, sender: Sender) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push((link.clone(), sender));
        }
    }

    async fn connect(&self, link: &Link) -> Result<Sender, RegistryError> {
        let failed = |source| RegistryError::Connect {
            origin: format!("{}://{}", link.scheme(), link.authority()),
            source,
        };
        let tls = if link.https { Some(self.tls(link).await?) } else { None };
        let late = || io::Error::new(io::ErrorKind::TimedOut, "no connection in time");
        let connecting = async {
            let tcp = tcp(link).await?;
            tcp.set_nodelay(true)?;
            let Some(tls) = tls else { return handshake(tcp).await };
            let name = ServerName::try_from(bare(&link.host).to_owned())
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
            handshake(tokio_rustls::TlsConnector::from(tls).connect(name, tcp).await?).await
        };
        timeout(self.patience.connect, connecting).await.unwrap_or_else(|_| Err(late())).map_err(failed)
    }

    async fn tls(&self, link: &Link) -> Result<Arc<ClientConfig>, RegistryError> {
        let own = self.own.same_origin(link);
        let cell = if own { &self.own_tls } else { &self.other_tls };
        let make = || async {
            let settings = self.settings.clone();
            tokio::task::spawn_blocking(move || tls::config(&settings, own)).await.map_err(|error| {
                RegistryError::Connect { origin: link.authority(), source: io::Error::other(error) }
            })?
        };
        cell.get_or_try_init(make).await.cloned()
    }
}

/// A host without the brackets of a v6 address.
fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Tries each address; the time of all of them is bounded by the caller's, one that is a black hole
/// gets a share of it.
async fn tcp(link: &Link) -> io::Result<TcpStream> {
    let addresses: Vec<_> = tokio::net::lookup_host((bare(&link.host), link.port)).await?.collect();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for (at, address) in addresses.iter().enumerate() {
        let connecting = TcpStream::connect(address);
        let is_last = at + 1 == addresses.len();
        let done = if is_last {
            connecting.await
        } else {
            timeout(std::time::Duration::from_secs(3), connecting)
                .await
                .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no connection in time")))
        };
        match done {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn handshake<S>(stream: S) -> io::Result<Sender>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_BUFFER)
        .max_headers(MAX_HEADERS)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    // Ends with the sender and the last body; an error of it is seen by whoever waits for those.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

fn request(
    method: &Method,
    link: &Link,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, RegistryError> {
    let protocol = |why| RegistryError::Protocol { url: link.to_string(), why };
    // Origin form: the path and query alone.
    let mut request = Request::builder()
        .method(method.clone())
        .uri(link.target.as_str())
        .body(Full::new(body))
        .map_err(|_| protocol("a URL that cannot be asked for"))?;
    *request.headers_mut() = headers;
    let host = HeaderValue::from_str(&link.authority()).map_err(|_| protocol("a malformed host"))?;
    request.headers_mut().insert(header::HOST, host);
    let agent = concat!("peapod/", env!("CARGO_PKG_VERSION"));
    request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static(agent));
    Ok(request)
}

/// A whole body of at most `limit` bytes.
pub(super) async fn read_all(
    mut body: Incoming,
    limit: u64,
    link: &Link,
    patience: &Patience,
) -> Result<Vec<u8>, RegistryError> {
    let reading = async {
        let mut all = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|source| RegistryError::Broken { url: link.to_string(), source })?;
            let Ok(data) = frame.into_data() else { continue };
            if all.len() as u64 + data.len() as u64 > limit {
                return Err(RegistryError::TooLarge { url: link.to_string(), limit });
            }
            all.extend_from_slice(&data);
        }
        Ok(all)
    };
    // Documents are small: their whole transfer has the time of one progress window.
    timeout(patience.progress, reading)
        .await
        .map_err(|_| RegistryError::timeout(link, "the rest of a document"))?
}
