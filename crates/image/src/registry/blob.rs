//! A blob as it arrives: in pieces, resumed where the connection broke, verified at its end.

use super::{MIN_PROGRESS, Session, error::RegistryError, link::Link};
use crate::manifest::Descriptor;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use sha2::{Digest as _, Sha256};
use std::time::Duration;
use tokio::time::{Instant, timeout};
use types::Digest;

/// The content of one descriptor.
#[derive(Debug)]
pub(crate) struct BlobStream<'a> {
    session: &'a Session,
    wanted: &'a Descriptor,
    open: Option<Open>,
    /// Verified to be no more than the descriptor's size.
    received: u64,
    hash: Sha256,
    resumes_left: u32,
    pause: Duration,
}

#[derive(Debug)]
struct Open {
    link: Link,
    body: Incoming,
    /// Bytes that we already have, when the server sends all from the start again.
    skip: u64,
    /// What is left of the time in which [`MIN_PROGRESS`] bytes must come.
    allowance: Duration,
    window: u64,
}

impl<'a> BlobStream<'a> {
    pub(crate) fn new(session: &'a Session, wanted: &'a Descriptor) -> Self {
        Self {
            session,
            wanted,
            open: None,
            received: 0,
            hash: Sha256::new(),
            resumes_left: session.patience.retries,
            pause: session.patience.pause,
        }
    }

    /// The next piece; `None` after the last one, when size and digest were found right.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            match self.piece().await {
                Ok(Some(bytes)) => {
                    self.hash.update(&bytes);
                    return Ok(Some(bytes));
                }
                Ok(None) => return self.verified().map(|()| None),
                Err(error) => {
                    self.open = None;
                    if self.resumes_left == 0 || !error.may_pass() {
                        return Err(error);
                    }
                    self.resumes_left -= 1;
                    tracing::debug!(%error, at = self.received, "resuming a blob");
                    tokio::time::sleep(self.pause).await;
                    self.pause *= 2;
                }
            }
        }
    }

    /// The whole content; the descriptor's size was bounded by who parsed it.
    pub(crate) async fn read_all(mut self) -> Result<Vec<u8>, RegistryError> {
        let mut all = Vec::new();
        while let Some(piece) = self.next().await? {
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }

    fn verified(&mut self) -> Result<(), RegistryError> {
        let found = Digest::of_sha256(&std::mem::take(&mut self.hash).finalize().into());
        if found == self.wanted.digest {
            return Ok(());
        }
        let url = self.open.as_ref().map_or_else(String::new, |open| open.link.to_string());
        Err(RegistryError::Content { url, why: format!("its digest is {found}") })
    }

    async fn piece(&mut self) -> Result<Option<Bytes>, RegistryError> {
        if self.open.is_none() {
            self.open = Some(self.start().await?);
        }
        let open = self.open.as_mut().expect("it was opened above");
        loop {
            let Some(mut data) = open.frame(self.session.patience.progress).await? else {
                if self.received == self.wanted.size {
                    return Ok(None);
                }
                // Like a connection that broke: the rest may be had by resuming.
                return Err(RegistryError::timeout(&open.link, "the rest of a blob that ended early"));
            };
            let known = usize::try_from(open.skip).unwrap_or(usize::MAX).min(data.len());
            open.skip -= known as u64;
            drop(data.split_to(known));
            if data.is_empty() {
                continue;
            }
            if self.received + data.len() as u64 > self.wanted.size {
                let (url, limit) = (open.link.to_string(), self.wanted.size);
                return Err(RegistryError::TooLarge { url, limit });
            }
            self.received += data.len() as u64;
            return Ok(Some(data));
        }
    }

    async fn start(&self) -> Result<Open, RegistryError> {
        let session = self.session;
        session.first(false, |at| self.ask(at)).await
    }

    async fn ask(&self, at: usize) -> Result<Open, RegistryError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        if self.received > 0 {
            let range = format!("bytes={}-", self.received);
            headers.insert(header::RANGE, HeaderValue::from_str(&range).expect("digits are ASCII"));
        }
        let (link, response) =
            self.session.get(at, &format!("blobs/{}", self.wanted.digest), headers).await?;
        let skip = self.skip(&link, &response)?;
        Ok(Open {
            link,
            body: response.into_body(),
            skip,
            allowance: self.session.patience.progress,
            window: 0,
        })
    }

    /// How much of what comes is known already; checks what the head announces.
    fn skip(&self, link: &Link, response: &Response<Incoming>) -> Result<u64, RegistryError> {
        let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let length: Option<u64> = text(header::CONTENT_LENGTH).and_then(|text| text.parse().ok());
        if response.status() != StatusCode::PARTIAL_CONTENT {
            return match length {
                Some(length) if length != self.wanted.size => Err(RegistryError::content(
                    link,
                    format!("it announces {length} bytes, the manifest {}", self.wanted.size),
                )),
                _ => Ok(self.received),
            };
        }
        let range = format!("bytes {}-{}/", self.received, self.wanted.size.saturating_sub(1));
        let total = self.wanted.size.to_string();
        match text(header::CONTENT_RANGE).and_then(|text| text.strip_prefix(&range)) {
            Some(rest) if self.received > 0 && (rest == total || rest == "*") => Ok(0),
            _ => Err(RegistryError::content(link, "it sends another range than asked")),
        }
    }
}

impl Open {
    /// The next data of the body. Only the time spent waiting for the network counts, not that in which
    /// the taker was busy.
    async fn frame(&mut self, patience: Duration) -> Result<Option<Bytes>, RegistryError> {
        loop {
            let began = Instant::now();
            let Ok(frame) = timeout(self.allowance, self.body.frame()).await else {
                return Err(RegistryError::timeout(&self.link, "progress of a blob"));
            };
            self.allowance = self.allowance.saturating_sub(began.elapsed());
            let Some(frame) = frame else { return Ok(None) };
            let frame =
                frame.map_err(|source| RegistryError::Broken { url: self.link.to_string(), source })?;
            let Ok(data) = frame.into_data() else { continue };
            self.window += data.len() as u64;
            if self.window >= MIN_PROGRESS {
                (self.window, self.allowance) = (0, patience);
            }
            return Ok(Some(data));
        }
    }
}
