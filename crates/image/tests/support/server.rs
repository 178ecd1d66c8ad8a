//! The registry: serves images, and does what a script says instead.

use super::build::{Image, digest};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
};

pub type Body = BoxBody<Bytes, io::Error>;
pub type Reply = Response<Body>;

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub query: String,
    pub headers: HeaderMap,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// What to answer in place of the content, if anything.
type Script = dyn Fn(&Seen, usize) -> Option<Reply> + Send + Sync;

struct Inner {
    manifests: Mutex<BTreeMap<String, (String, Vec<u8>)>>,
    blobs: Mutex<BTreeMap<String, Vec<u8>>>,
    log: Mutex<Vec<Seen>>,
    script: Mutex<Box<Script>>,
    arrived: Notify,
}

pub struct Server {
    inner: Arc<Inner>,
    pub address: SocketAddr,
    tls: bool,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub async fn start() -> Self {
        Self::listen(None).await
    }

    pub async fn start_tls(tls: tokio_rustls::TlsAcceptor) -> Self {
        Self::listen(Some(tls)).await
    }

    async fn listen(tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        let inner = Arc::new(Inner {
            manifests: Mutex::default(),
            blobs: Mutex::default(),
            log: Mutex::default(),
            script: Mutex::new(Box::new(|_, _| None)),
            arrived: Notify::new(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let is_tls = tls.is_some();
        let serving = Arc::clone(&inner);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(connection(Arc::clone(&serving), stream, tls.clone()));
            }
        });
        Server { inner, address, tls: is_tls, task }
    }

    /// `127.0.0.1:PORT`
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.address)
    }

    /// Serves an image under `repository` by tag and digest.
    pub fn put(&self, repository: &str, tag: &str, image: &Image) {
        self.put_manifest(repository, tag, image.media_type, &image.manifest);
        self.inner.blobs.lock().expect("no panic").extend(image.blobs.clone());
    }

    pub fn put_manifest(&self, repository: &str, tag: &str, media_type: &str, bytes: &[u8]) {
        let mut manifests = self.inner.manifests.lock().expect("no panic");
        for reference in [tag.to_owned(), digest(bytes).to_string()] {
            let path = format!("/v2/{repository}/manifests/{reference}");
            manifests.insert(path, (media_type.to_owned(), bytes.to_vec()));
        }
    }

    /// `script` sees each request and how many came before it for the same path.
    pub fn script(&self, script: impl Fn(&Seen, usize) -> Option<Reply> + Send + Sync + 'static) {
        *self.inner.script.lock().expect("no panic") = Box::new(script);
    }

    pub fn log(&self) -> Vec<Seen> {
        self.inner.log.lock().expect("no panic").clone()
    }

    pub fn count(&self, part: &str) -> usize {
        self.log().iter().filter(|seen| seen.path.contains(part)).count()
    }

    /// Waits until a request whose path has `part` was seen.
    pub async fn saw(&self, part: &str) {
        loop {
            let arrived = self.inner.arrived.notified();
            if self.count(part) > 0 {
                return;
            }
            arrived.await;
        }
    }

    /// Whether a header with a secret ever came.
    pub fn saw_secret(&self) -> bool {
        self.log().iter().any(|seen| {
            ["authorization", "proxy-authorization", "cookie", "x-secret"]
                .iter()
                .any(|name| seen.headers.contains_key(*name))
        })
    }
}

async fn connection(inner: Arc<Inner>, stream: TcpStream, tls: Option<tokio_rustls::TlsAcceptor>) {
    let service = service_fn(move |request| answer(Arc::clone(&inner), request));
    match tls {
        None => drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await),
        Some(tls) => {
            if let Ok(stream) = tls.accept(stream).await {
                drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
            }
        }
    }
}

async fn answer(inner: Arc<Inner>, request: Request<Incoming>) -> Result<Reply, Infallible> {
    let seen = Seen {
        method: request.method().to_string(),
        path: request.uri().path().to_owned(),
        query: request.uri().query().unwrap_or_default().to_owned(),
        headers: request.headers().clone(),
    };
    let before = {
        let mut log = inner.log.lock().expect("no panic");
        let before = log.iter().filter(|old| old.path == seen.path).count();
        log.push(seen.clone());
        before
    };
    inner.arrived.notify_waiters();
    let scripted = (inner.script.lock().expect("no panic"))(&seen, before);
    Ok(scripted.unwrap_or_else(|| content(&inner, &seen)))
}

fn content(inner: &Inner, seen: &Seen) -> Reply {
    if let Some((media_type, bytes)) = inner.manifests.lock().expect("no panic").get(&seen.path) {
        let mut reply = ok(bytes.clone());
        reply.headers_mut().insert("content-type", media_type.parse().expect("a media type"));
        let digest = digest(bytes).to_string();
        reply.headers_mut().insert("docker-content-digest", digest.parse().expect("a digest"));
        return reply;
    }
    let wanted = seen.path.rsplit('/').next().unwrap_or_default();
    match inner.blobs.lock().expect("no panic").get(wanted) {
        Some(bytes) => ranged(bytes, seen.header("range")),
        None => status(404),
    }
}

fn ranged(bytes: &[u8], range: Option<&str>) -> Reply {
    let from = range.and_then(|text| text.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    match from {
        Some(from) if from < bytes.len() => {
            let mut reply = ok(bytes[from..].to_vec());
            *reply.status_mut() = StatusCode::PARTIAL_CONTENT;
            let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
            reply.headers_mut().insert("content-range", range.parse().expect("a range"));
            reply
        }
        _ => ok(bytes.to_vec()),
    }
}

pub fn ok(bytes: Vec<u8>) -> Reply {
    let body =
        http_body_util::Full::new(Bytes::from(bytes)).map_err(|never: Infallible| match never {}).boxed();
    Response::new(body)
}

pub fn status(code: u16) -> Reply {
    let mut reply = ok(b"<html>no</html>".to_vec());
    *reply.status_mut() = StatusCode::from_u16(code).expect("a status");
    reply
}

pub fn with(mut reply: Reply, name: &'static str, value: &str) -> Reply {
    reply.headers_mut().insert(name, value.parse().expect("a header"));
    reply
}

pub fn redirect(to: &str) -> Reply {
    with(status(307), "location", to)
}

/// Sends `first` and then breaks the connection.
pub fn broken_after(first: Vec<u8>, announced: usize) -> Reply {
    let frames = Frames { first: Some(first.into()), then: Then::BreakSoon };
    let mut reply = Response::new(StreamBody::new(frames).boxed());
    reply.headers_mut().insert("content-length", announced.into());
    reply
}

/// Sends `first`, and then nothing for ever.
pub fn stalled_after(first: Vec<u8>) -> Reply {
    Response::new(StreamBody::new(Frames { first: Some(first.into()), then: Then::Stall }).boxed())
}

/// Sends `piece` again and again without an announced length.
pub fn endless(piece: Vec<u8>) -> Reply {
    let frames = Frames { first: None, then: Then::Repeat(piece.into()) };
    Response::new(StreamBody::new(frames).boxed())
}

enum Then {
    /// One more turn, so that what came before is sent.
    BreakSoon,
    Break,
    Stall,
    Repeat(Bytes),
}

struct Frames {
    first: Option<Bytes>,
    then: Then,
}

impl tokio_stream::Stream for Frames {
    type Item = Result<Frame<Bytes>, io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(first) = self.first.take().filter(|first| !first.is_empty()) {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        match &self.then {
            Then::BreakSoon => {
                self.then = Then::Break;
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Then::Break => Poll::Ready(Some(Err(io::Error::other("broken on purpose")))),
            Then::Stall => Poll::Pending,
            Then::Repeat(piece) => Poll::Ready(Some(Ok(Frame::data(piece.clone())))),
        }
    }
}
