//! URLs as far as a registry client needs them: split, joined, and shown without secrets.

use http::Uri;
use std::{fmt, net::IpAddr};

/// An absolute http or https URL. Its `Display` leaves out the query, which may be a signature.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(super) https: bool,
    /// Lower case, a v6 address in brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// Path and query, starting with `/`.
    pub(super) target: String,
}

impl Link {
    /// Parses an absolute URL; user info in it is refused.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let uri: Uri = text.parse().map_err(|_| "is not a URL")?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            Some(_) | None => return Err("is not an http or https URL"),
        };
        let authority = uri.authority().ok_or("names no host")?;
        if authority.as_str().contains('@') {
            return Err("has user info in it");
        }
        let host = authority.host().to_ascii_lowercase();
        if host.is_empty() {
            return Err("names no host");
        }
        // A port that is not a number makes `port()` empty; do not fall back to the default then.
        let after = &authority.as_str()[authority.host().len()..];
        let port = match (after, authority.port_u16()) {
            (_, Some(port)) => port,
            ("", None) => {
                if https {
                    443
                } else {
                    80
                }
            }
            (_, None) => return Err("has a malformed port"),
        };
        let target = uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
        let target = if target.starts_with('/') { target } else { format!("/{target}") };
        Ok(Self { https, host, port, target })
    }

    /// The URL that a `Location` header means when it was sent for this one.
    pub(super) fn join(&self, location: &str) -> Result<Self, &'static str> {
        if location.starts_with("http://") || location.starts_with("https://") {
            return Self::parse(location);
        }
        if let Some(rest) = location.strip_prefix("//") {
            return Self::parse(&format!("{}://{rest}", self.scheme()));
        }
        if !location.starts_with('/') {
            return Err("is neither absolute nor starts with `/`");
        }
        Self::parse(&format!("{}://{}{location}", self.scheme(), self.authority()))
    }

    pub(super) fn scheme(&self) -> &'static str {
        if self.https { "https" } else { "http" }
    }

    /// Host, and the port unless it is the scheme's own.
    pub(super) fn authority(&self) -> String {
        match (self.https, self.port) {
            (true, 443) | (false, 80) => self.host.clone(),
            _ => format!("{}:{}", self.host, self.port),
        }
    }

    /// Scheme, host and port: what credentials and connections are bound to.
    pub(super) fn same_origin(&self, other: &Self) -> bool {
        (self.https, &self.host, self.port) == (other.https, &other.host, other.port)
    }

    pub(super) fn is_loopback(&self) -> bool {
        is_loopback(&self.host)
    }

    /// An address that only this machine or this link can mean: a stranger's redirect or token server
    /// there is an attempt to reach what the stranger cannot (metadata services, for one).
    pub(super) fn is_inner(&self) -> bool {
        let inner_address = match address(&self.host) {
            Some(IpAddr::V4(v4)) => v4.is_link_local() || v4.is_unspecified(),
            Some(IpAddr::V6(v6)) => {
                let v4 = v6.to_ipv4_mapped();
                v6.is_unicast_link_local()
                    || v6.is_unspecified()
                    || v4.is_some_and(|v4| v4.is_link_local() || v4.is_loopback() || v4.is_unspecified())
            }
            None => false,
        };
        inner_address || self.is_loopback()
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.target.split('?').next().unwrap_or_default();
        write!(f, "{}://{}{path}", self.scheme(), self.authority())
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn address(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// `localhost`, 127.0.0.0/8, `::1`.
pub(super) fn is_loopback(host: &str) -> bool {
    host == "localhost" || address(host).is_some_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_split_and_the_query_is_never_shown() {
        let link = Link::parse("https://Reg.example:5000/v2/?X-Amz-Signature=s3cr3t").expect("good");
        assert_eq!(link.to_string(), "https://reg.example:5000/v2/");
        assert_eq!(link.target, "/v2/?X-Amz-Signature=s3cr3t");
        assert_eq!(Link::parse("http://[::1]:80").expect("good").to_string(), "http://[::1]/");
        for bad in
            ["ftp://x/", "https:///x", "https://u:p@h/", "x", "/x", "https://h:99999/", "https://h:x/", ""]
        {
            assert!(Link::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn redirects_are_resolved_against_where_they_came_from() {
        let from = Link::parse("https://a.example/v2/x").expect("good");
        for (location, wanted) in [
            ("/other?q=1", "https://a.example/other"),
            ("//b.example/y", "https://b.example/y"),
            ("http://b.example:8080/y", "http://b.example:8080/y"),
        ] {
            assert_eq!(from.join(location).expect(location).to_string(), wanted);
        }
        assert!(from.join("relative").is_err());
        assert!(from.join("javascript:x").is_err());
    }

    #[test]
    fn addresses_of_this_machine_and_this_link_are_known() {
        for inner in [
            "169.254.169.254",
            "127.0.0.1",
            "localhost",
            "[fe80::1]",
            "[::1]",
            "0.0.0.0",
            "[::ffff:169.254.169.254]",
        ] {
            assert!(Link::parse(&format!("http://{inner}/")).expect("good").is_inner(), "{inner}");
        }
        assert!(!Link::parse("http://10.0.0.1/").expect("good").is_inner());
        assert!(!Link::parse("http://localhost.example/").expect("good").is_inner());
    }
}
