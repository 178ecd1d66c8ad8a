//! Image references: `[host[:port]/]path[:tag][@digest]`, normalised as the container world does.
//!
//! Grammar: distribution/reference and OCI distribution-spec "Pulling manifests".

use crate::Digest;
use std::fmt;

/// Text that is not an image reference.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{}` is not an image reference: {reason}", .text.chars().take(120).flat_map(char::escape_default).collect::<String>())]
pub struct BadImageRef {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// A normalised image reference: `busybox` is `docker.io/library/busybox:latest`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageRef {
    host: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl ImageRef {
    /// Parses and normalises: no host means docker.io, one path element there means `library/`,
    /// neither tag nor digest means `:latest`.
    ///
    /// # Errors
    /// [`BadImageRef`] says what is wrong.
    pub fn parse(text: &str) -> Result<Self, BadImageRef> {
        let bad = |reason| BadImageRef { text: text.to_owned(), reason };
        if text.len() > 4096 {
            return Err(bad("it is longer than 4096 bytes"));
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (
                name,
                Some(Digest::parse(digest).map_err(|_| bad("its digest is not sha256 and 64 hex digits"))?),
            ),
            None => (text, None),
        };
        let (host, rest) = match name.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
            _ => ("docker.io", name),
        };
        let host = if host == "index.docker.io" { "docker.io" } else { host };
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        if !is_host(host) {
            return Err(bad("its registry host is malformed"));
        }
        if path.is_empty() {
            return Err(bad("it names no repository"));
        }
        if path.len() + host.len() > 255 || !path.split('/').all(is_path_element) {
            return Err(bad(
                "its repository wants lower-case letters, digits and single . _ __ - between them, at most 255 bytes",
            ));
        }
        if !tag.is_none_or(is_tag) {
            return Err(bad("its tag wants 1 to 128 of letters, digits, _ . -"));
        }
        let path = if host == "docker.io" && !path.contains('/') {
            format!("library/{path}")
        } else {
            path.to_owned()
        };
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, None) => Some("latest".to_owned()),
            (None, Some(_)) => None,
        };
        Ok(ImageRef { host: host.to_owned(), path, tag, digest })
    }

    /// Registry host with its port, as written (`docker.io`, not the address behind it).
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Repository path beneath the host.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Tag, if one was given or implied.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Digest, if one was given. It wins over the tag.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// `host/path`.
    #[must_use]
    pub fn repository(&self) -> String {
        format!("{}/{}", self.host, self.path)
    }

    /// `host/path@digest`: how the image list names a manifest.
    #[must_use]
    pub fn with_digest(&self, digest: &Digest) -> String {
        format!("{}@{digest}", self.repository())
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn is_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    let port_fine = port.is_none_or(|p| p.parse::<u16>().is_ok_and(|n| n > 0));
    let bracketed = name.strip_prefix('[').and_then(|n| n.strip_suffix(']'));
    let name_fine = match bracketed {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !name.is_empty()
                && name.split('.').all(|label| {
                    !label.is_empty()
                        && !label.starts_with('-')
                        && !label.ends_with('-')
                        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                })
        }
    };
    port_fine && name_fine
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_element(element: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let inner = element
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'));
    let separators = element
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|s| matches!(s, "" | "." | "_" | "__") || s.bytes().all(|b| b == b'-'));
    edge(element.bytes().next()) && edge(element.bytes().last()) && inner && separators
}

fn is_tag(tag: &str) -> bool {
    (1..=128).contains(&tag.len())
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        && !tag.starts_with(['.', '-'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_completed() {
        let hex = "ab".repeat(32);
        for (text, full) in [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("myapp:latest", "docker.io/library/myapp:latest".to_owned()),
            ("user/app:1", "docker.io/user/app:1".to_owned()),
            ("localhost/app", "localhost/app:latest".to_owned()),
            ("127.0.0.1:5000/bench/large:gzip", "127.0.0.1:5000/bench/large:gzip".to_owned()),
            ("[::1]:5000/a", "[::1]:5000/a:latest".to_owned()),
            ("registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.9".to_owned()),
            (&format!("gcr.io/a/b@sha256:{hex}"), format!("gcr.io/a/b@sha256:{hex}")),
            (&format!("gcr.io/a/b:t@sha256:{hex}"), format!("gcr.io/a/b:t@sha256:{hex}")),
        ] {
            assert_eq!(ImageRef::parse(text).map(|r| r.to_string()), Ok(full), "{text}");
        }
    }

    #[test]
    fn malformed_references_are_refused() {
        let long = "a".repeat(300);
        for bad in [
            "",
            ":",
            "@",
            "a:",
            "a@sha256:12",
            "../x",
            "a//b",
            "A/b",
            "a..b",
            "a/../b",
            "host.io/",
            "a:b:c!",
            "-a",
            "a-",
            "host.io:0/a",
            "host.io:99999/a",
            "a b",
            "a\n",
            &long,
            "http://x/y",
            "a___b",
            "a._b",
        ] {
            assert!(ImageRef::parse(bad).is_err(), "{bad:?} was taken");
        }
    }
}
