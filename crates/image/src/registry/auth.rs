//! Who gets which credentials: Basic, Bearer tokens from a token server, identity tokens.
//!
//! Distribution's token specification (docs/spec/auth/token.md). A challenge is a stranger's word: it
//! may choose a realm, but not make us send a secret over a weaker transport, to this machine's own
//! services, or (for refresh tokens) to another host at all.

use super::{
    Patience,
    credentials::Secret,
    error::RegistryError,
    http1::{self, Http},
    link::Link,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use serde::Deserialize;

const MAX_TOKEN: u64 = 64 << 10;
const MAX_CHALLENGE: usize = 8 << 10;

/// One way that a registry offers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// Reads all `WWW-Authenticate` headers; a Bearer challenge is preferred.
pub(super) fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let texts = headers.get_all(header::WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    let all: Vec<Challenge> =
        texts.filter(|text| text.len() <= MAX_CHALLENGE).filter_map(parse).take(8).collect();
    let mut basic = None;
    for one in all {
        match one {
            Challenge::Bearer { .. } => return Some(one),
            Challenge::Basic => basic = Some(one),
        }
    }
    basic
}

fn parse(text: &str) -> Option<Challenge> {
    let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service, mut scope) = (None, None, None);
    for (key, value) in parameters(rest)? {
        match key.to_ascii_lowercase().as_str() {
            "realm" => realm = Some(value),
            "service" => service = Some(value),
            "scope" => scope = Some(value),
            _ => {}
        }
    }
    Some(Challenge::Bearer { realm: realm?, service, scope })
}

/// `key="value", key=value`; RFC 9110 section 11.2.
fn parameters(mut text: &str) -> Option<Vec<(&str, String)>> {
    let mut all = Vec::new();
    loop {
        text = text.trim_start_matches([' ', ',', '\t']);
        if text.is_empty() {
            return Some(all);
        }
        let (key, rest) = text.split_once('=')?;
        let (value, rest) = match rest.strip_prefix('"') {
            None => {
                let end = rest.find([',', ' ']).unwrap_or(rest.len());
                (rest[..end].to_owned(), &rest[end..])
            }
            Some(quoted) => unquote(quoted)?,
        };
        all.push((key.trim(), value));
        text = rest;
    }
}

fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            other => value.push(other),
        }
    }
    None
}

/// What a token is asked for with.
#[derive(Debug)]
pub(super) struct Asking<'a> {
    pub(super) http: &'a Http,
    pub(super) patience: &'a Patience,
    /// Who sent the challenge.
    pub(super) from: &'a Link,
    /// The repository as this endpoint knows it.
    pub(super) repository: &'a str,
    /// Only if this endpoint may have it.
    pub(super) secret: Option<&'a Secret>,
}

impl Asking<'_> {
    /// The `Authorization` that answers a challenge; `None` when there is nothing to answer with.
    pub(super) async fn answer(&self, challenge: Challenge) -> Result<Option<HeaderValue>, RegistryError> {
        match (challenge, self.secret) {
            (_, Some(Secret::Bearer(token))) => self.header(&format!("Bearer {token}")).map(Some),
            (Challenge::Basic, Some(Secret::Basic { username, password })) => {
                self.header(&basic(username, password)).map(Some)
            }
            (Challenge::Basic, Some(Secret::Identity(_)) | None) => Ok(None),
            (Challenge::Bearer { realm, service, scope }, secret) => {
                let realm = self.checked_realm(&realm, secret)?;
                let scope = self.scope(scope);
                let token = self.token(&realm, service.as_deref(), &scope, secret).await?;
                self.header(&format!("Bearer {token}")).map(Some)
            }
        }
    }

    fn refused(&self, why: &'static str) -> RegistryError {
        RegistryError::Auth { url: self.from.to_string(), why }
    }

    fn checked_realm(&self, realm: &str, secret: Option<&Secret>) -> Result<Link, RegistryError> {
        let realm = Link::parse(realm).map_err(|_| self.refused("its token server's URL is malformed"))?;
        let same_host = realm.host == self.from.host;
        if self.from.https && !realm.https {
            return Err(self.refused("its token server has no TLS, though it has"));
        }
        if !self.from.https && !realm.https && !same_host {
            return Err(self.refused("its token server is another host without TLS"));
        }
        if realm.is_inner() && !same_host && !self.from.is_loopback() {
            return Err(self.refused("its token server is an address of this machine or link"));
        }
        let hub = self.from.host == "registry-1.docker.io" && realm.host == "auth.docker.io";
        if matches!(secret, Some(Secret::Identity(_))) && !same_host && !hub {
            return Err(self.refused("it wants the identity token for another host"));
        }
        if !same_host && secret.is_some() {
            tracing::debug!(registry = %self.from.authority(), realm = %realm.authority(), "token server on another host");
        }
        Ok(realm)
    }

    /// What the challenge asks for, if that is only reading one repository; else what we need.
    fn scope(&self, asked: Option<String>) -> String {
        let reads = |scope: &String| {
            scope.strip_prefix("repository:").and_then(|rest| rest.strip_suffix(":pull")).is_some_and(
                |name| {
                    !name.is_empty()
                        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b))
                },
            )
        };
        asked.filter(reads).unwrap_or_else(|| format!("repository:{}:pull", self.repository))
    }

    async fn token(
        &self,
        realm: &Link,
        service: Option<&str>,
        scope: &str,
        secret: Option<&Secret>,
    ) -> Result<String, RegistryError> {
        let service = service.map(|service| format!("&service={}", percent(service))).unwrap_or_default();
        let mut headers = HeaderMap::new();
        let mut link = realm.clone();
        let (method, body) = match secret {
            Some(Secret::Identity(token)) => {
                let form = HeaderValue::from_static("application/x-www-form-urlencoded");
                headers.insert(header::CONTENT_TYPE, form);
                let body = format!(
                    "grant_type=refresh_token&client_id=peapod{service}&scope={}&refresh_token={}",
                    percent(scope),
                    percent(token)
                );
                (Method::POST, body)
            }
            Some(Secret::Basic { .. } | Secret::Bearer(_)) | None => {
                if let Some(Secret::Basic { username, password }) = secret {
                    headers.insert(header::AUTHORIZATION, self.header(&basic(username, password))?);
                }
                let sign = if link.target.contains('?') { '&' } else { '?' };
                link.target = format!("{}{sign}scope={}{service}", link.target, percent(scope));
                (Method::GET, String::new())
            }
        };
        // Nothing is followed: a token server that redirects is none.
        let response = self.http.send(method, &link, headers, Bytes::from(body)).await?;
        let status = response.status();
        if !status.is_success() {
            return Err(RegistryError::Status {
                url: link.to_string(),
                status: status.as_u16(),
                code: String::new(),
            });
        }
        let bytes = http1::read_all(response.into_body(), MAX_TOKEN, &link, self.patience).await?;
        let answer: TokenAnswer =
            serde_json::from_slice(&bytes).map_err(|_| self.refused("its token server sends no token"))?;
        let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty());
        token.ok_or_else(|| self.refused("its token server sends no token"))
    }

    fn header(&self, text: &str) -> Result<HeaderValue, RegistryError> {
        let mut value =
            HeaderValue::from_str(text).map_err(|_| self.refused("the credentials do not fit a header"))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{username}:{password}")))
}

/// application/x-www-form-urlencoded, all but unreserved bytes.
fn percent(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte.into());
        } else {
            write!(out, "%{byte:02X}").expect("a String takes every write");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_str(text).expect("text"));
        challenge(&headers)
    }

    #[test]
    fn challenges_are_read_with_and_without_quotes() {
        assert_eq!(parsed("Basic realm=\"x\""), Some(Challenge::Basic));
        let bearer = |scope: Option<&str>| Challenge::Bearer {
            realm: "https://a/t".to_owned(),
            service: Some("s, \"q\"".to_owned()),
            scope: scope.map(str::to_owned),
        };
        let text = "bearer realm=\"https://a/t\",service=\"s, \\\"q\\\"\"";
        assert_eq!(parsed(text), Some(bearer(None)));
        assert_eq!(
            parsed(&format!("{text}, scope=repository:a:pull")),
            Some(bearer(Some("repository:a:pull")))
        );
        for bad in
            ["", "Bearer", "Bearer realm", "Bearer realm=\"x", "Digest realm=\"x\"", "Bearer service=\"x\""]
        {
            assert_eq!(parsed(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn form_values_are_escaped() {
        assert_eq!(percent("repository:a/b:pull &=+"), "repository%3Aa%2Fb%3Apull%20%26%3D%2B");
    }
}
