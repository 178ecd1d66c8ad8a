//! One pull's dealings with the endpoints of one registry: redirects, challenges, tries, mirrors.

use super::{
    BlobStream, Patience,
    auth::{self, Asking},
    credentials::{Credentials, Secret},
    error::RegistryError,
    hosts::{self, Endpoint},
    http1::{self, Http},
    link::Link,
};
use crate::manifest::{DOCKER_LIST, DOCKER_MANIFEST, Descriptor, MAX_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use hyper::body::Incoming;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::{
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use types::{Digest, ImageRef};

const MAX_REDIRECTS: u32 = 10;
const MAX_ERROR_BODY: u64 = 64 << 10;

/// A verified manifest or index.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: Digest,
    /// As the registry sent it.
    pub(crate) media_type: Option<String>,
}

/// The endpoints for one repository.
#[derive(Debug)]
pub(crate) struct Session {
    registry: String,
    repository: String,
    endpoints: Vec<Connected>,
    credentials: Option<Credentials>,
    pub(super) patience: Patience,
}

#[derive(Debug)]
struct Connected {
    endpoint: Endpoint,
    http: Http,
    /// The `Authorization` that the last challenge was answered with.
    authorization: Mutex<Option<HeaderValue>>,
}

/// A failed request, and the pause that the server wants.
struct Failed {
    error: RegistryError,
    retry_after: Option<Duration>,
}

impl From<RegistryError> for Failed {
    fn from(error: RegistryError) -> Self {
        Self { error, retry_after: None }
    }
}

impl Session {
    /// Reads the settings of the reference's registry.
    pub(crate) fn open(
        hosts_dir: Option<&Path>,
        image: &ImageRef,
        credentials: Option<Credentials>,
        patience: Patience,
    ) -> Result<Self, RegistryError> {
        let endpoints = hosts::endpoints(hosts_dir, image.host())?
            .into_iter()
            .map(|endpoint| Connected {
                http: Http::new(&endpoint, patience),
                endpoint,
                authorization: Mutex::new(None),
            })
            .collect();
        Ok(Self {
            registry: image.host().to_owned(),
            repository: image.path().to_owned(),
            endpoints,
            credentials: credentials.filter(|credentials| credentials.are_for(image.host())),
            patience,
        })
    }

    /// The manifest or index of a tag or digest.
    pub(crate) async fn manifest(&self, image: &ImageRef) -> Result<Fetched, RegistryError> {
        match (image.digest(), image.tag()) {
            (Some(digest), _) => self.manifest_by_digest(digest).await,
            (None, tag) => {
                let tag = tag.unwrap_or("latest");
                self.first(true, |at| self.manifest_from(at, tag.to_owned(), None)).await
            }
        }
    }

    pub(crate) async fn manifest_by_digest(&self, digest: &Digest) -> Result<Fetched, RegistryError> {
        self.first(false, |at| self.manifest_from(at, digest.to_string(), Some(digest))).await
    }

    /// A whole blob, verified. The caller has bounded the descriptor's size.
    pub(crate) async fn blob(&self, wanted: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        BlobStream::new(self, wanted).read_all().await
    }

    /// Asks one endpoint after the other; what one cannot give the next may.
    pub(super) async fn first<T, F>(
        &self,
        resolve: bool,
        mut ask: impl FnMut(usize) -> F,
    ) -> Result<T, RegistryError>
    where
        F: Future<Output = Result<T, RegistryError>>,
    {
        let able: Vec<usize> = self.able(resolve).collect();
        let mut last = None;
        let mut others = Vec::new();
        for at in able {
            match ask(at).await {
                Ok(found) => return Ok(found),
                Err(error) => {
                    if let Some(before) = last.replace(error) {
                        others.push(before.to_string());
                    }
                }
            }
        }
        match last {
            None => Err(RegistryError::Nobody {
                registry: self.registry.clone(),
                what: if resolve { "resolve a tag" } else { "pull content" },
            }),
            Some(error) if others.is_empty() => Err(error),
            Some(error) => Err(RegistryError::AllFailed { others: others.join("; "), last: Box::new(error) }),
        }
    }

    fn able(&self, resolve: bool) -> impl Iterator<Item = usize> {
        let can = move |endpoint: &Endpoint| if resolve { endpoint.resolve } else { endpoint.pull };
        self.endpoints.iter().enumerate().filter(move |(_, one)| can(&one.endpoint)).map(|(at, _)| at)
    }

    async fn manifest_from(
        &self,
        at: usize,
        reference: String,
        wanted: Option<&Digest>,
    ) -> Result<Fetched, RegistryError> {
        let mut headers = HeaderMap::new();
        let accept = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST].join(", ");
        headers.insert(header::ACCEPT, HeaderValue::from_str(&accept).expect("media types are ASCII"));
        let (link, response) = self.get(at, &format!("manifests/{reference}"), headers).await?;
        let text = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let media_type = text("content-type");
        let announced = text("docker-content-digest");
        let bytes = http1::read_all(response.into_body(), MAX_MANIFEST, &link, &self.patience).await?;
        let digest = Digest::of_sha256(&Sha256::digest(&bytes).into());
        if wanted.is_some_and(|wanted| *wanted != digest) {
            return Err(RegistryError::content(&link, format!("its digest is {digest}")));
        }
        // Of another algorithm it cannot be compared; the content's own digest is what counts.
        if announced.is_some_and(|text| text.starts_with("sha256:") && text != digest.as_str()) {
            return Err(RegistryError::content(&link, "it announced another digest"));
        }
        Ok(Fetched { bytes, digest, media_type })
    }

    /// A successful GET beneath the repository, tried again where that may help.
    pub(super) async fn get(
        &self,
        at: usize,
        what: &str,
        headers: HeaderMap,
    ) -> Result<(Link, Response<Incoming>), RegistryError> {
        let mut pause = self.patience.pause;
        let mut left = self.patience.retries;
        loop {
            let failed = match self.get_once(at, what, &headers).await {
                Ok(found) => return Ok(found),
                Err(failed) => failed,
            };
            let wanted = failed.retry_after.unwrap_or(pause);
            // A mirror that is down costs no waiting: the next one is asked.
            let next_is_there =
                matches!(failed.error, RegistryError::Connect { .. }) && at + 1 < self.endpoints.len();
            if left == 0 || !failed.error.may_pass() || wanted > self.patience.longest_pause || next_is_there
            {
                return Err(failed.error);
            }
            tracing::debug!(error = %failed.error, "asking the registry again");
            tokio::time::sleep(wanted).await;
            left -= 1;
            pause *= 2;
        }
    }

    async fn get_once(
        &self,
        at: usize,
        what: &str,
        headers: &HeaderMap,
    ) -> Result<(Link, Response<Incoming>), Failed> {
        let one = &self.endpoints[at];
        let start = self.link(one, what);
        let mut link = start.clone();
        let (mut hops, mut answered, mut left_origin) = (0, false, false);
        loop {
            let mut sent = headers.clone();
            if !left_origin {
                for (name, value) in &one.endpoint.headers {
                    sent.append(name, value.clone());
                }
                if let Some(value) = one.authorization() {
                    sent.insert(header::AUTHORIZATION, value);
                }
            }
            let response = one.http.send(Method::GET, &link, sent, Bytes::new()).await?;
            match response.status() {
                StatusCode::OK | StatusCode::PARTIAL_CONTENT => return Ok((link, response)),
                status if status.is_redirection() => {
                    hops += 1;
                    link = redirected(&start, &link, &response, hops)?;
                    left_origin |= !link.same_origin(&start);
                }
                StatusCode::UNAUTHORIZED if !left_origin && !answered => {
                    answered = true;
                    if !self.authorize(one, &start, response).await? {
                        let url = start.to_string();
                        return Err(RegistryError::Status { url, status: 401, code: String::new() }.into());
                    }
                    link = start.clone();
                }
                _ => return Err(self.failure(&link, response).await),
            }
        }
    }

    /// Answers a challenge; false when there is nothing to answer it with.
    async fn authorize(
        &self,
        one: &Connected,
        start: &Link,
        response: Response<Incoming>,
    ) -> Result<bool, RegistryError> {
        let challenge = auth::challenge(response.headers());
        // Read to its end, so that the connection can be used again.
        let _ = http1::read_all(response.into_body(), MAX_ERROR_BODY, start, &self.patience).await;
        let Some(challenge) = challenge else { return Ok(false) };
        let asking = Asking {
            http: &one.http,
            patience: &self.patience,
            from: start,
            repository: &self.repository,
            secret: self.secret_for(one),
        };
        let answer = asking.answer(challenge).await?;
        let found = answer.is_some();
        *one.authorization.lock().unwrap_or_else(PoisonError::into_inner) = answer;
        Ok(found)
    }

    /// The credentials, if this endpoint is whom they were given for: the registry itself, or the host
    /// that they name.
    fn secret_for(&self, one: &Connected) -> Option<&Secret> {
        let credentials = self.credentials.as_ref()?;
        let named = credentials.server.as_deref() == Some(one.endpoint.base.authority().as_str());
        let registry = self.registry.to_ascii_lowercase();
        let is_registry = one.endpoint.is_registry
            || (one.endpoint.base.https && one.endpoint.base.authority() == registry);
        (named || is_registry).then_some(&credentials.secret)
    }

    fn link(&self, one: &Connected, what: &str) -> Link {
        let mut link = one.endpoint.base.clone();
        link.target = format!("{}/{}/{what}", link.target, self.repository);
        if !one.endpoint.is_registry {
            // How a mirror of several registries knows whose image it is, as containerd tells it. Hosts
            // have no character that a query needs escaped.
            link.target = format!("{}?ns={}", link.target, self.registry);
        }
        link
    }

    async fn failure(&self, link: &Link, response: Response<Incoming>) -> Failed {
        let status = response.status().as_u16();
        let retry_after = response
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.trim().parse().ok())
            .map(Duration::from_secs);
        let body = http1::read_all(response.into_body(), MAX_ERROR_BODY, link, &self.patience).await;
        let code = body.ok().and_then(|body| error_code(&body)).unwrap_or_default();
        Failed { error: RegistryError::Status { url: link.to_string(), status, code }, retry_after }
    }
}

impl Connected {
    fn authorization(&self) -> Option<HeaderValue> {
        self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Where a redirect leads, if that is a place to go.
fn redirected(
    start: &Link,
    from: &Link,
    response: &Response<Incoming>,
    hops: u32,
) -> Result<Link, RegistryError> {
    let refused = |why| RegistryError::Redirect { url: start.to_string(), why };
    if hops > MAX_REDIRECTS {
        return Err(refused("it is the eleventh in a row"));
    }
    let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
    let next = from.join(location.unwrap_or_default()).map_err(|_| refused("its Location is malformed"))?;
    if from.https && !next.https {
        return Err(refused("it leads from TLS to plain HTTP"));
    }
    if next.is_inner() && !start.is_loopback() && !next.same_origin(start) {
        return Err(refused("it leads to an address of this machine or link"));
    }
    Ok(next)
}

#[derive(Deserialize)]
struct ErrorBody {
    errors: Vec<ErrorItem>,
}

#[derive(Deserialize)]
struct ErrorItem {
    code: String,
}

/// The code of the distribution specification, in parentheses. The message beside it is a stranger's
/// text and may quote what must not be shown.
fn error_code(body: &[u8]) -> Option<String> {
    let body: ErrorBody = serde_json::from_slice(body).ok()?;
    let code = &body.errors.first()?.code;
    let fine = (1..=64).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    fine.then(|| format!(" ({code})"))
}
