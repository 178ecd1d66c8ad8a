//! `hosts.toml`: where the images of a registry are really fetched from, in containerd's format
//! (containerd: docs/hosts.md). It is read anew at each pull.

use super::link::{Link, is_loopback};
use http::{HeaderName, HeaderValue};
use serde::Deserialize;
use std::{
    io,
    path::{Path, PathBuf},
};
use sys::bounded::Bounded;

const MAX_FILE: u64 = 1 << 20;
const MAX_HOSTS: usize = 64;

/// Why the settings of a registry cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is no TOML of the right shape. The text is not shown: headers in it may be secrets.
    #[error("{path} is malformed: {why}")]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// One place to ask.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    /// With the API's root as its path, without a trailing slash: `/v2`.
    pub(super) base: Link,
    /// May turn a tag into a digest.
    pub(super) resolve: bool,
    /// May give content.
    pub(super) pull: bool,
    pub(super) tls: TlsSettings,
    /// Sent to this origin only.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// It is the registry itself, so that the registry's credentials are for it.
    pub(super) is_registry: bool,
}

/// Of one endpoint.
#[derive(Clone, Debug, Default)]
pub(super) struct TlsSettings {
    pub(super) skip_verify: bool,
    /// PEM files with further roots.
    pub(super) ca: Vec<PathBuf>,
    /// PEM files with a certificate and its key; without the second, both are in the first.
    pub(super) client: Vec<(PathBuf, Option<PathBuf>)>,
}

#[derive(Debug, Default, Deserialize)]
struct File {
    server: Option<String>,
    #[serde(flatten)]
    own: HostTable,
    #[serde(default)]
    host: toml::map::Map<String, toml::Value>,
}

#[derive(Debug, Default, Deserialize)]
struct HostTable {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMore>,
    client: Option<Clients>,
    skip_verify: Option<bool>,
    #[serde(default)]
    override_path: bool,
    #[serde(default)]
    header: toml::map::Map<String, toml::Value>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Clients {
    One(String),
    More(Vec<String>),
    Pairs(Vec<Vec<String>>),
}

/// All places to ask for images of `registry`, in order; the registry itself is the last.
pub(super) fn endpoints(dir: Option<&Path>, registry: &str) -> Result<Vec<Endpoint>, HostsError> {
    let Some(path) = dir.map(|dir| find(dir, registry)).transpose()?.flatten() else {
        let malformed =
            |why: &str| HostsError::Malformed { path: PathBuf::from(registry), why: why.to_owned() };
        let own = HostTable::default();
        return own
            .endpoint(&default_server(registry), Path::new("/"), true)
            .map(|e| vec![e])
            .map_err(malformed);
    };
    let read = |source| HostsError::Read { path: path.clone(), source };
    let text =
        std::fs::File::open(&path).and_then(|file| Bounded::new(file, MAX_FILE).read_text()).map_err(read)?;
    parse(&text, &path, registry)
}

fn parse(text: &str, path: &Path, registry: &str) -> Result<Vec<Endpoint>, HostsError> {
    let malformed = |why: String| HostsError::Malformed { path: path.to_owned(), why };
    // The message alone: its rendering would quote the line.
    let file: File = toml::from_str(text).map_err(|e| malformed(e.message().to_owned()))?;
    let beside = path.parent().unwrap_or(Path::new("/"));
    if file.host.len() > MAX_HOSTS {
        return Err(malformed(format!("it names more than {MAX_HOSTS} hosts")));
    }
    let mut all = Vec::new();
    for (url, table) in file.host {
        let in_host = |why: &str| malformed(format!("host {}: {why}", shown(&url)));
        let table: HostTable = table.try_into().map_err(|e: toml::de::Error| in_host(e.message()))?;
        let full = if url.contains("://") { url.clone() } else { format!("{}://{url}", scheme(&url)) };
        all.push(table.endpoint(&full, beside, false).map_err(in_host)?);
    }
    let server = match file.server.as_deref().filter(|server| !server.is_empty()) {
        None => default_server(registry),
        Some("https://docker.io") => default_server("docker.io"),
        Some(server) if server.contains("://") => server.to_owned(),
        Some(server) => format!("{}://{server}", scheme(server)),
    };
    all.push(file.own.endpoint(&server, beside, true).map_err(|why| malformed(format!("server: {why}")))?);
    Ok(all)
}

/// A host's name without user info, for a message.
fn shown(url: &str) -> String {
    url.rsplit('@').next().unwrap_or_default().chars().take(100).flat_map(char::escape_default).collect()
}

/// The first file of containerd's search: `host_port_`, `host:port`, `_default`.
fn find(dir: &Path, registry: &str) -> Result<Option<PathBuf>, HostsError> {
    let plain = match registry.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => format!("{host}_{port}_"),
        _ => registry.to_owned(),
    };
    for name in [plain.as_str(), registry, "_default"] {
        let path = dir.join(name).join("hosts.toml");
        match path.try_exists() {
            Ok(true) => return Ok(Some(path)),
            Ok(false) => {}
            Err(source) => return Err(HostsError::Read { path, source }),
        }
    }
    Ok(None)
}

/// Without settings: TLS, but plain HTTP on this machine; Docker's hub has another name than its images.
fn default_server(registry: &str) -> String {
    match registry {
        "docker.io" => "https://registry-1.docker.io".to_owned(),
        other => format!("{}://{other}", scheme(other)),
    }
}

fn scheme(host: &str) -> &'static str {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port),
        _ => (host, ""),
    };
    if is_loopback(name) && port != "443" { "http" } else { "https" }
}

impl HostTable {
    fn endpoint(self, url: &str, beside: &Path, is_registry: bool) -> Result<Endpoint, &'static str> {
        let mut base = Link::parse(url)?;
        if base.target.contains('?') {
            return Err("the URL has a query");
        }
        let path = base.target.trim_end_matches('/').to_owned();
        base.target = if self.override_path || path.ends_with("/v2") { path } else { format!("{path}/v2") };
        let may = |what: &str| self.capabilities.as_ref().is_none_or(|all| all.iter().any(|one| one == what));
        let (resolve, pull) = (may("resolve"), may("pull"));
        let at = |file: String| beside.join(file);
        let ca = match self.ca {
            None => Vec::new(),
            Some(OneOrMore::One(file)) => vec![at(file)],
            Some(OneOrMore::More(files)) => files.into_iter().map(at).collect(),
        };
        let client = match self.client {
            None => Vec::new(),
            Some(Clients::One(file)) => vec![(at(file), None)],
            Some(Clients::More(files)) => files.into_iter().map(|file| (at(file), None)).collect(),
            Some(Clients::Pairs(pairs)) => pairs
                .into_iter()
                .map(|pair| match pair.as_slice() {
                    [both] => Ok((beside.join(both), None)),
                    [cert, key] if key.is_empty() => Ok((beside.join(cert), None)),
                    [cert, key] => Ok((beside.join(cert), Some(beside.join(key)))),
                    _ => Err("client wants pairs of certificate and key"),
                })
                .collect::<Result<_, _>>()?,
        };
        let tls = TlsSettings { skip_verify: self.skip_verify.unwrap_or(false), ca, client };
        let headers = headers(self.header)?;
        Ok(Endpoint { base, resolve, pull, tls, headers, is_registry })
    }
}

fn headers(
    table: toml::map::Map<String, toml::Value>,
) -> Result<Vec<(HeaderName, HeaderValue)>, &'static str> {
    let mut all = Vec::new();
    for (name, value) in table {
        let name: HeaderName = name.parse().map_err(|_| "a header's name is malformed")?;
        let values = if let toml::Value::Array(values) = value { values } else { vec![value] };
        for value in values {
            let text = value.as_str().ok_or("a header's value is not text")?;
            let mut value = HeaderValue::from_str(text).map_err(|_| "a header's value is malformed")?;
            value.set_sensitive(true);
            all.push((name.clone(), value));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, registry: &str) -> Vec<String> {
        let all = parse(text, Path::new("/certs.d/x/hosts.toml"), registry).expect("good");
        all.iter()
            .map(|e| {
                let may = [(e.resolve, " resolve"), (e.pull, " pull"), (e.is_registry, " registry")];
                let may: String = may.into_iter().filter(|(yes, _)| *yes).map(|(_, word)| word).collect();
                format!("{}{may}", e.base)
            })
            .collect()
    }

    #[test]
    fn without_settings_a_registry_is_asked_by_tls_and_this_machine_by_http() {
        for (registry, wanted) in [
            ("docker.io", "https://registry-1.docker.io/v2"),
            ("reg.example", "https://reg.example/v2"),
            ("127.0.0.1:5000", "http://127.0.0.1:5000/v2"),
            ("127.8.0.1:5000", "http://127.8.0.1:5000/v2"),
            ("[::1]:5000", "http://[::1]:5000/v2"),
            ("localhost", "http://localhost/v2"),
            ("localhost:443", "https://localhost/v2"),
            ("localhost.example:5000", "https://localhost.example:5000/v2"),
        ] {
            let all = endpoints(None, registry).expect("good");
            assert_eq!(all.iter().map(|e| e.base.to_string()).collect::<Vec<_>>(), [wanted], "{registry}");
        }
    }

    #[test]
    fn mirrors_come_in_the_order_of_the_file_and_the_registry_last() {
        let text = r#"
            server = "https://docker.io"
            [host."http://z.example:5000"]
              capabilities = ["pull", "resolve"]
              skip_verify = true
            [host."https://a.example/prefix/v2"]
              capabilities = ["pull"]
              override_path = true
            [host."https://b.example/sub"]
        "#;
        assert_eq!(
            check(text, "docker.io"),
            [
                "http://z.example:5000/v2 resolve pull",
                "https://a.example/prefix/v2 pull",
                "https://b.example/sub/v2 resolve pull",
                "https://registry-1.docker.io/v2 resolve pull registry",
            ]
        );
        assert_eq!(check("", "reg.example"), ["https://reg.example/v2 resolve pull registry"]);
    }

    #[test]
    fn certificates_are_named_beside_the_file_and_each_form_is_taken() {
        let text = r#"
            server = "https://reg.example"
            ca = "ca.pem"
            [host."https://m.example"]
              ca = ["/etc/ca1.pem", "ca2.pem"]
              client = [["c.pem", "k.pem"], ["both.pem", ""]]
              [host."https://m.example".header]
                x-one = "1"
                x-two = ["2", "3"]
        "#;
        let all = parse(text, Path::new("/certs.d/x/hosts.toml"), "reg.example").expect("good");
        let path = PathBuf::from;
        assert_eq!(all[1].tls.ca, [path("/certs.d/x/ca.pem")]);
        assert_eq!(all[0].tls.ca, [path("/etc/ca1.pem"), path("/certs.d/x/ca2.pem")]);
        let pairs =
            [(path("/certs.d/x/c.pem"), Some(path("/certs.d/x/k.pem"))), (path("/certs.d/x/both.pem"), None)];
        assert_eq!(all[0].tls.client, pairs);
        assert_eq!(all[0].headers.len(), 3);
    }

    #[test]
    fn malformed_settings_are_an_error_that_does_not_quote_them() {
        for bad in [
            "server = 1",
            "server = \"ftp://x\"",
            "[host.\"https://u:s3cr3t@h\"]",
            "[host.\"https://h\"]\nskip_verify = \"yes\"",
            "[host.\"https://h\".header]\nauthorization = \"s3cr3t\\n\"",
            "[host.\"https://h\".header]\nauthorization = s3cr3t",
            "[host.\"https://h/?q=s3cr3t\"]\nca = {}",
        ] {
            let error = parse(bad, Path::new("/h.toml"), "x.example").expect_err(bad).to_string();
            assert!(!error.contains("s3cr3t") || bad.contains("?q="), "{error}");
        }
    }
}
