//! Between client and runtime: notes which fields the requests set and which the answers fill, and can spoil one field
//! of all answers, so that a suite that does not look is found out.

use crate::wire::SCHEMA;
use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as HttpBody, Frame};
use std::{
    collections::BTreeSet,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};
use tonic::{Status, body::Body, transport::Channel};
use tower::Service;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What one case has sent and got.
#[derive(Debug, Default)]
pub struct Tap {
    sent: Mutex<BTreeSet<String>>,
    answered: Mutex<BTreeSet<String>>,
    spoil: Option<String>,
    spoilt: AtomicBool,
}

impl Tap {
    /// A tap that only looks; or one that spoils the field of that path.
    #[must_use]
    pub fn new(spoil: Option<String>) -> Tap {
        Tap { spoil, ..Tap::default() }
    }

    /// Paths of all request fields that were set so far.
    #[must_use]
    pub fn sent(&self) -> BTreeSet<String> {
        self.sent.lock().map(|set| set.clone()).unwrap_or_default()
    }

    /// Paths of all answer fields that were filled so far.
    #[must_use]
    pub fn answered(&self) -> BTreeSet<String> {
        self.answered.lock().map(|set| set.clone()).unwrap_or_default()
    }

    /// Whether an answer was changed.
    #[must_use]
    pub fn has_spoilt(&self) -> bool {
        self.spoilt.load(Ordering::Relaxed)
    }

    fn note_request(&self, message: &str, bytes: &[u8]) {
        if let Ok(mut set) = self.sent.lock() {
            // The client's own bytes are a message.
            let _ = SCHEMA.fields_set(message, bytes, &mut set);
        }
    }

    /// The message to hand on.
    fn answer(&self, message: &str, bytes: Bytes) -> Result<Bytes, Status> {
        let wrong = |error: anyhow::Error| Status::data_loss(format!("{message}: {error:#}"));
        if let Ok(mut set) = self.answered.lock() {
            SCHEMA.fields_set(message, &bytes, &mut set).map_err(wrong)?;
        }
        let Some(target) = &self.spoil else { return Ok(bytes) };
        let spoilt = SCHEMA.spoil(message, &bytes, target).map_err(wrong)?;
        if *spoilt != *bytes {
            self.spoilt.store(true, Ordering::Relaxed);
        }
        Ok(Bytes::from(spoilt))
    }
}

/// A channel with a tap on it.
#[derive(Clone, Debug)]
pub struct Tapped {
    /// The way to the runtime.
    pub channel: Channel,
    /// What looks on.
    pub tap: Arc<Tap>,
}

impl Service<http::Request<Body>> for Tapped {
    type Response = http::Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.channel.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        // The clone is not ready, the one that was asked is.
        let fresh = self.channel.clone();
        let mut channel = std::mem::replace(&mut self.channel, fresh);
        let tap = Arc::clone(&self.tap);
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let bytes = body.collect().await?.to_bytes();
            let name = head.uri.path().rsplit('/').next().unwrap_or_default();
            let call = SCHEMA.calls.get(name).ok_or_else(|| format!("no call {name}"))?;
            if let Some(message) = bytes.get(PREFIX..) {
                tap.note_request(&call.request, message);
            }
            let request = http::Request::from_parts(head, Body::new(Full::new(bytes)));
            let response = channel.call(request).await?;
            let message = call.response.clone();
            Ok(response.map(|body| Body::new(Answers { body, buffer: BytesMut::new(), tap, message })))
        })
    }
}

/// A compression flag and a length of four bytes stand before each message.
const PREFIX: usize = 5;

struct Answers {
    body: Body,
    buffer: BytesMut,
    tap: Arc<Tap>,
    message: String,
}

impl Answers {
    fn whole(&mut self) -> Option<Result<Bytes, Status>> {
        let length = self.buffer.get(1..PREFIX)?.get_u32() as usize;
        if self.buffer.len() < PREFIX + length {
            return None;
        }
        let mut message = self.buffer.split_to(PREFIX + length);
        message.advance(PREFIX);
        Some(self.tap.answer(&self.message, message.freeze()).map(|bytes| {
            let mut framed = Vec::with_capacity(PREFIX + bytes.len());
            framed.push(0);
            framed.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
            framed.extend_from_slice(&bytes);
            Bytes::from(framed)
        }))
    }
}

impl HttpBody for Answers {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if let Some(message) = self.whole() {
                return Poll::Ready(Some(message.map(Frame::data)));
            }
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
    }
}
