//! The HTTP end: one port, one path a kind of session, an upgrade, then the session's own protocol.
//!
//! ```text
//! accept --> [TLS] --> request --negotiate--> token --> 101 --> spdy | ws, in the same task
//! ```
//! A task owns one connection. What fails or panics in it ends that connection and nothing else.

mod transport;

use crate::{
    backend::Backend,
    negotiate::{self, Accepted, Protocol, Refusal},
    session::{Life, Want},
    settings::Settings,
    spdy,
    ticket::Ticket,
    tokens::Tokens,
    ws,
};
use bytes::Bytes;
use http::{
    HeaderValue, Request, Response, StatusCode,
    header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE},
};
use http_body_util::Full;
use hyper::{
    body::{Body as _, Incoming},
    server::conn::http1,
    service::service_fn,
    upgrade::OnUpgrade,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use transport::{Link, Transport};

/// Longest head of a request.
const HEAD: usize = 16 << 10;
/// Most headers of a request.
const HEADERS: usize = 64;
/// How long is waited when the system has no descriptor or memory for a connection.
const BREATH: Duration = Duration::from_millis(100);

/// How many sessions there are; clones count together.
#[derive(Clone, Debug, Default)]
pub struct Count(Arc<AtomicUsize>);

impl Count {
    /// Now. A session counts from before its token is used up until its connection is gone, so that who
    /// finds neither a token nor a session will find no new one.
    #[must_use]
    pub fn now(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    fn one(&self) -> Counted {
        self.0.fetch_add(1, Ordering::SeqCst);
        Counted(self.clone())
    }
}

/// One session, while it lives.
#[derive(Debug)]
struct Counted(Count);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Serves sessions until `stop` is ready; then no connection is taken any more, the sessions are cut with a
/// message to their clients, and this returns when they are gone, some seconds later. Dropping it ends
/// them without a word.
pub async fn serve<B: Backend>(
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    tokens: Arc<Tokens>,
    backend: B,
    settings: Settings,
    count: Count,
    stop: impl Future<Output = ()>,
) {
    let (stopping, stopped) = watch::channel(false);
    let life = Life { settings, stop: stopped };
    let server = Server { tls: tls.map(TlsAcceptor::from), tokens, backend, life, count };
    let room = Arc::new(Semaphore::new(settings.connections));
    let mut connections = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let next = async {
            let permit = Arc::clone(&room).acquire_owned().await;
            (permit, listener.accept().await)
        };
        tokio::select! {
            () = &mut stop => break,
            Some(done) = connections.join_next() => note(&done),
            (permit, accepted) = next => match accepted {
                Ok((stream, _)) => {
                    let server = server.clone();
                    connections.spawn(async move {
                        server.connection(stream).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a client's connection cannot be accepted");
                    sleep(BREATH).await;
                }
            },
        }
    }
    drop(listener);
    stopping.send_replace(true);
    while let Some(done) = connections.join_next().await {
        note(&done);
    }
}

fn note(done: &Result<(), tokio::task::JoinError>) {
    if let Err(error) = done {
        tracing::error!(%error, "a session failed");
    }
}

#[derive(Clone)]
struct Server<B> {
    tls: Option<TlsAcceptor>,
    tokens: Arc<Tokens>,
    backend: B,
    life: Life,
    count: Count,
}

/// A session that was promised with a 101.
struct Promised {
    protocol: Protocol,
    ticket: Ticket,
    upgrade: OnUpgrade,
    counted: Counted,
}

impl<B: Backend> Server<B> {
    async fn connection(self, stream: TcpStream) {
        transport::prepare(&stream);
        let watch = transport::Watch::of(&stream);
        // On the heap, so that it is gone when the session begins.
        let request = Box::pin(self.request(stream));
        let promised = tokio::select! {
            promised = request => promised,
            () = self.life.stopped() => return,
        };
        let Some(Promised { protocol, ticket, upgrade, counted }) = promised else { return };
        let link = match upgrade.await {
            Ok(upgraded) => match Link::of(upgraded) {
                Some(link) => link,
                None => return tracing::error!("an upgraded connection is of an unknown kind"),
            },
            Err(error) => return tracing::debug!(%error, "a client went before its session began"),
        };
        tokio::select! {
            () = self.session(protocol, ticket, link) => {}
            () = watch.hung_up() => tracing::debug!("the client of a session that is held up is gone"),
        }
        drop(counted);
    }

    /// Answers one request; a session if it was a good one.
    async fn request(&self, stream: TcpStream) -> Option<Promised> {
        let header = self.life.settings.header;
        let transport = match &self.tls {
            None => Transport::Plain(stream),
            Some(tls) => match timeout(header, tls.accept(stream)).await {
                Ok(Ok(stream)) => Transport::Tls(Box::new(stream)),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a client's TLS handshake failed");
                    return None;
                }
                Err(_) => return None,
            },
        };
        let promised = Mutex::new(None);
        let service = service_fn(|request| {
            let answer = self.answer(request).map(|(session, answer)| {
                *promised.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
                answer
            });
            async move { Ok::<_, Infallible>(answer.unwrap_or_else(|refusal| refused(&refusal))) }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(header)
            .max_header_size(HEAD)
            .max_headers(HEADERS)
            .serve_connection(TokioIo::new(transport), service)
            .with_upgrades()
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "a request was not answered");
        }
        promised.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// The token is the last thing to be looked at: only a request that gets its session uses it up.
    fn answer(&self, mut request: Request<Incoming>) -> Result<(Promised, Response<Full<Bytes>>), Refusal> {
        let (kind, token) = negotiate::path(request.uri().path())?;
        let Accepted { protocol, headers } = negotiate::negotiate(kind, request.method(), request.headers())?;
        if !request.body().is_end_stream() {
            return Err(Refusal::Body);
        }
        let counted = self.count.one();
        let ticket = self.tokens.take(kind, token).ok_or(Refusal::Token)?;
        let upgrade = hyper::upgrade::on(&mut request);
        let mut answer = Response::new(Full::default());
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        answer.headers_mut().extend(headers);
        Ok((Promised { protocol, ticket, upgrade, counted }, answer))
    }

    async fn session(&self, protocol: Protocol, ticket: Ticket, link: Link) {
        let (backend, life) = (self.backend.clone(), self.life.clone());
        let want = match ticket {
            Ticket::Exec(exec) => Want::Exec(exec),
            Ticket::Attach(attach) => Want::Attach(attach),
            Ticket::Forward(forward) => {
                return match protocol {
                    Protocol::SpdyForward | Protocol::SpdyRemote(_) => {
                        Box::pin(spdy::forward(link, forward, backend, life)).await;
                    }
                    Protocol::Websocket(ws::Protocol::Tunnel) => {
                        let tunnel = ws::Tunnel::new(link, ws::frame::Role::Server);
                        Box::pin(spdy::forward(tunnel, forward, backend, life)).await;
                    }
                    Protocol::Websocket(protocol) => {
                        Box::pin(ws::serve_forward(link, protocol, &forward, &backend, &life)).await;
                    }
                };
            }
        };
        match protocol {
            Protocol::SpdyRemote(version) => {
                Box::pin(spdy::remote(link, version, want, backend, life)).await;
            }
            Protocol::Websocket(protocol) => {
                Box::pin(ws::serve_remote(link, protocol, &want, &backend, &life)).await;
            }
            // Negotiated for the kind that the token is of.
            Protocol::SpdyForward => tracing::error!("a protocol of port-forward for another session"),
        }
    }
}

fn refused(refusal: &Refusal) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from(format!("{refusal}\n")));
    *answer.status_mut() = refusal.status();
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Here and not for all answers: beside an "Upgrade", Go's clients forget both (net/http:transfer.go).
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    for (name, value) in refusal.headers() {
        headers.append(name, value);
    }
    answer
}

#[cfg(test)]
mod tests;
