//! A registry of the suite's own images on the loopback, with repositories that want credentials and some that misbehave.

use crate::image::{self, Documents, Entry, Form, Layer};
use anyhow::{Context as _, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

/// The user of the repositories beneath `private/`, and their password.
pub const USER: &str = "alice";
/// See [`USER`].
pub const PASSWORD: &str = "open sesame";
/// What a credential provider may give in place of a password: it is exchanged for a token.
pub const IDENTITY_TOKEN: &str = "identity-of-alice";
/// A token that the registry takes as it is.
pub const REGISTRY_TOKEN: &str = "token-given-before";
const ISSUED: &str = "token-issued";

/// A registry that serves.
#[derive(Clone, Debug)]
pub struct Registry {
    address: String,
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    repositories: BTreeMap<String, Documents>,
    ids: BTreeMap<String, String>,
    asked: Mutex<BTreeMap<String, u32>>,
}

impl Registry {
    /// Packs the images and serves them until the program ends.
    ///
    /// # Errors
    /// When it cannot listen there.
    pub async fn serve(address: &str) -> Result<Registry> {
        let (repositories, ids) = tokio::task::spawn_blocking(images).await?;
        let inner = Arc::new(Inner { repositories, ids, asked: Mutex::default() });
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("the registry's {address}"))?;
        let address = listener.local_addr()?.to_string();
        let registry = Registry { address, inner };
        let serving = registry.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let registry = serving.clone();
                // A client may break off.
                tokio::spawn(async move { registry.answer(stream).await.ok() });
            }
        });
        Ok(registry)
    }

    /// The reference of a repository and tag, such as `busybox:1`.
    #[must_use]
    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// The id that the image has: its config's digest.
    ///
    /// # Errors
    /// When there is no such image.
    pub fn id(&self, name: &str) -> Result<String> {
        self.inner.ids.get(name).cloned().with_context(|| format!("no image {name}"))
    }

    /// The digest of a tag's manifest or index.
    ///
    /// # Errors
    /// When there is no such image.
    pub fn digest(&self, repository: &str, tag: &str) -> Result<String> {
        let documents = self.inner.repositories.get(repository);
        let document = documents.and_then(|all| all.get(&format!("manifests/{tag}")));
        Ok(image::digest(&document.with_context(|| format!("no image {repository}:{tag}"))?.bytes))
    }

    /// How often layers and configs of a repository were fetched.
    #[must_use]
    pub fn fetched(&self, repository: &str) -> u32 {
        let asked = self.inner.asked.lock();
        let prefix = format!("GET /v2/{repository}/blobs/");
        asked.map_or(0, |asked| {
            asked.iter().filter(|(path, _)| path.starts_with(&prefix)).map(|(_, n)| n).sum()
        })
    }

    async fn answer(&self, mut stream: TcpStream) -> Result<()> {
        let mut reader = BufReader::new(&mut stream);
        let request = Request::read(&mut reader).await?;
        let (status, headers, body) = self.decide(&request).await;
        let mut head =
            format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n", body.len());
        for header in headers {
            head.push_str(&header);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).await?;
        if request.method != "HEAD" {
            stream.write_all(&body).await?;
        }
        stream.shutdown().await?;
        Ok(())
    }

    async fn decide(&self, request: &Request) -> (&'static str, Vec<String>, Arc<Vec<u8>>) {
        let none = || Arc::new(Vec::new());
        let path = request.path.split('?').next().unwrap_or_default();
        if path == "/token" {
            return self.token(request);
        }
        if path == "/v2/" {
            return ("200 OK", vec!["Content-Type: application/json".to_owned()], Arc::new(b"{}".to_vec()));
        }
        if let Ok(mut asked) = self.inner.asked.lock() {
            *asked.entry(format!("{} {path}", request.method)).or_default() += 1;
        }
        let Some((repository, document)) = path.strip_prefix("/v2/").and_then(split) else {
            return ("404 Not Found", Vec::new(), none());
        };
        if !self.may(repository, request) {
            return ("401 Unauthorized", vec![self.challenge(repository)], none());
        }
        if repository == "broken/unavailable" {
            return ("503 Service Unavailable", Vec::new(), none());
        }
        if repository == "slow/layers" && document.starts_with("blobs/") {
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
        match self.inner.repositories.get(repository).and_then(|all| all.get(document)) {
            Some(found) => {
                let digest = image::digest(&found.bytes);
                let headers =
                    vec![format!("Content-Type: {}", found.kind), format!("Docker-Content-Digest: {digest}")];
                ("200 OK", headers, Arc::clone(&found.bytes))
            }
            None => ("404 Not Found", Vec::new(), none()),
        }
    }

    fn may(&self, repository: &str, request: &Request) -> bool {
        let said = request.authorization.as_deref();
        let basic = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
        match repository {
            "private/basic" => said == Some(&basic),
            "private/token" => said == Some(&format!("Bearer {ISSUED}")),
            "private/given" => said == Some(&format!("Bearer {REGISTRY_TOKEN}")),
            _open => true,
        }
    }

    fn challenge(&self, repository: &str) -> String {
        if repository == "private/basic" {
            return "WWW-Authenticate: Basic realm=\"conformance\"".to_owned();
        }
        format!(
            "WWW-Authenticate: Bearer realm=\"http://{}/token\",service=\"conformance\",scope=\"repository:{repository}:pull\"",
            self.address
        )
    }

    fn token(&self, request: &Request) -> (&'static str, Vec<String>, Arc<Vec<u8>>) {
        let basic = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
        let refresh = format!("refresh_token={IDENTITY_TOKEN}");
        let known = request.authorization.as_deref() == Some(&basic)
            || (request.method == "POST" && request.body.split('&').any(|pair| pair == refresh));
        if !known {
            return ("401 Unauthorized", Vec::new(), Arc::new(Vec::new()));
        }
        let answer = json!({ "token": ISSUED, "access_token": ISSUED, "expires_in": 600 });
        (
            "200 OK",
            vec!["Content-Type: application/json".to_owned()],
            Arc::new(answer.to_string().into_bytes()),
        )
    }
}

/// `a/b/manifests/x` as `a/b` and `manifests/x`.
fn split(path: &str) -> Option<(&str, &str)> {
    let at = path.find("/manifests/").or_else(|| path.find("/blobs/"))?;
    Some((&path[..at], &path[at + 1..]))
}

struct Request {
    method: String,
    path: String,
    authorization: Option<String>,
    body: String,
}

impl Request {
    async fn read(reader: &mut BufReader<&mut TcpStream>) -> Result<Request> {
        let mut first = String::new();
        reader.read_line(&mut first).await?;
        let mut words = first.split_whitespace().map(str::to_owned);
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (mut authorization, mut length) = (None, 0_u64);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).await? <= 2 {
                break;
            }
            let Some((name, value)) = line.split_once(':') else { continue };
            match name.to_ascii_lowercase().as_str() {
                "authorization" => authorization = Some(value.trim().to_owned()),
                "content-length" => length = value.trim().parse()?,
                _other => {}
            }
        }
        let mut body = String::new();
        reader.take(length.min(1 << 16)).read_to_string(&mut body).await?;
        Ok(Request { method, path, authorization, body })
    }
}

struct Shelf {
    base: Layer,
    repositories: BTreeMap<String, Documents>,
    ids: BTreeMap<String, String>,
}

impl Shelf {
    fn add(&mut self, name: &str, form: Form, layers: &[Layer], config: &serde_json::Value) {
        let (repository, tag) = name.split_once(':').unwrap_or((name, "latest"));
        let documents = self.repositories.entry(repository.to_owned()).or_default();
        let id = image::add(documents, tag, form, layers, config);
        self.ids.insert(name.to_owned(), id);
    }

    /// An image of the base layer alone; `also` is merged over the usual configuration.
    fn plain(&mut self, name: &str, also: serde_json::Value) {
        let mut config = json!({ "Cmd": ["/bin/sleep", "100000"], "Env": ["PATH=/bin"], "WorkingDir": "/" });
        if let (Some(config), serde_json::Value::Object(also)) = (config.as_object_mut(), also) {
            config.extend(also);
        }
        let base = [self.base.clone()];
        self.add(name, Form::Oci, &base, &config);
    }
}

fn images() -> (BTreeMap<String, Documents>, BTreeMap<String, String>) {
    let base = image::base();
    let mut shelf = Shelf { base, repositories: BTreeMap::new(), ids: BTreeMap::new() };
    shelf.plain("busybox:1", json!({}));
    configured(&mut shelf);
    named(&mut shelf);
    layered(&mut shelf);
    private(&mut shelf);
    broken(&mut shelf);
    (shelf.repositories, shelf.ids)
}

/// Images whose configuration says something.
fn configured(shelf: &mut Shelf) {
    shelf.plain(
        "config:entrypoint",
        json!({ "Entrypoint": ["/bin/echo", "from-entrypoint"], "Cmd": ["from-cmd"] }),
    );
    shelf.plain("config:cmd", json!({ "Cmd": ["/bin/echo", "only-cmd"] }));
    shelf.plain("config:nothing", json!({ "Cmd": null }));
    shelf.plain("config:env", json!({ "Env": ["PATH=/bin", "FROM_IMAGE=yes", "BOTH=image", "EMPTY="] }));
    shelf.plain("config:workdir", json!({ "WorkingDir": "/made/for/this" }));
    shelf.plain("config:stopsignal", json!({ "StopSignal": "SIGUSR1" }));
    shelf.plain("config:stopnumber", json!({ "StopSignal": "12" }));
    shelf.plain("config:volume", json!({ "Volumes": { "/a/volume": {}, "/etc": {} } }));
    for (tag, user) in [
        ("uid", "1002"),
        ("username", "alice"),
        ("uid-gid", "1003:1004"),
        ("username-group", "alice:friends"),
        ("unknown", "nobody-knows"),
        ("unlisted", "2147483647"),
        ("too-large", "2147483648"),
    ] {
        shelf.plain(&format!("user:{tag}"), json!({ "User": user }));
    }
}

/// One image under several names, and in several forms.
fn named(shelf: &mut Shelf) {
    for name in ["tags:a", "tags:b", "tags:c", "other-tags:a"] {
        shelf.plain(name, json!({ "Labels": { "which": "tags" } }));
    }
    for n in 0..12 {
        shelf.plain(&format!("single-{n}:1"), json!({ "Labels": { "single": format!("{n}") } }));
        shelf.plain(&format!("single-{n}:latest"), json!({ "Labels": { "single": format!("{n} latest") } }));
    }
    let base = [shelf.base.clone()];
    for (name, form) in [
        ("form:oci", Form::Oci),
        ("form:index", Form::Index),
        ("form:docker", Form::Docker),
        ("form:list", Form::DockerList),
    ] {
        let config = json!({ "Cmd": ["/bin/sleep", "100000"], "Env": ["PATH=/bin", format!("FORM={name}")] });
        shelf.add(name, form, &base, &config);
    }
}

/// Images of several layers, and images that are volumes.
fn layered(shelf: &mut Shelf) {
    let config = json!({ "Cmd": ["/bin/sleep", "100000"], "Env": ["PATH=/bin"] });
    let over = image::layer(&[
        Entry::Dir("data/", 0o755),
        Entry::File("data/removed", b"under", 0o644),
        Entry::File("data/replaced", b"under", 0o644),
        Entry::Dir("data/opaque/", 0o755),
        Entry::File("data/opaque/under", b"under", 0o644),
        Entry::Owned("data/owned", b"owned", 0o640, 1000, 2000),
        Entry::Hard("data/hard", "data/owned", 0o640, 1000, 2000),
    ]);
    let top = image::layer(&[
        Entry::File("data/.wh.removed", b"", 0o644),
        Entry::File("data/replaced", b"over", 0o600),
        Entry::Dir("data/opaque/", 0o755),
        Entry::File("data/opaque/.wh..wh..opq", b"", 0o644),
        Entry::File("data/opaque/over", b"over", 0o644),
    ]);
    let base = shelf.base.clone();
    shelf.add("layers:1", Form::Oci, &[base.clone(), over, top], &config);
    let volume = image::layer(&[
        Entry::Dir("dir/", 0o755),
        Entry::Dir("dir/sub/", 0o755),
        Entry::File("top", b"of the volume\n", 0o644),
        Entry::File("dir/file", b"in the directory\n", 0o644),
        Entry::File("dir/sub/deep", b"deeper\n", 0o644),
        Entry::Link("out", "/etc"),
        Entry::Link("up", "../../../../etc"),
        Entry::Link("inside", "dir/sub"),
    ]);
    shelf.add("volume:1", Form::Oci, std::slice::from_ref(&volume), &json!({}));
    let links = image::layer(&[
        Entry::Dir("nix/", 0o755),
        Entry::Dir("nix/store/", 0o755),
        Entry::File("nix/store/passwd", b"root:x:0:0:::\ncarol:x:1500:1501:::\n", 0o644),
        Entry::File("nix/store/group", b"root:x:0:\nlinked:x:1600:carol\n", 0o644),
        Entry::Link("nix/step", "/nix/store/passwd"),
        Entry::Link("etc/passwd", "/nix/step"),
        Entry::Link("etc/group", "../nix/store/group"),
    ]);
    shelf.add("links:1", Form::Oci, &[base.clone(), links], &config);
    let outside = image::layer(&[
        Entry::Link("etc/passwd", "../../../../../../../../etc/passwd"),
        Entry::Link("etc/group", "etc/group"),
    ]);
    shelf.add("links:outside", Form::Oci, &[base, outside], &config);
}

fn private(shelf: &mut Shelf) {
    for name in ["private/basic", "private/token", "private/given"] {
        for n in 0..4 {
            shelf.plain(&format!("{name}:{n}"), json!({ "Labels": { "private": format!("{name} {n}") } }));
        }
    }
}

/// Images that no runtime may take.
fn broken(shelf: &mut Shelf) {
    let own = |what: &str| image::layer(&[Entry::File("broken", what.as_bytes(), 0o644)]);
    let config = json!({ "Cmd": ["/bin/true"] });
    let spoilt = own("spoilt");
    shelf.add("broken/layer:1", Form::Oci, std::slice::from_ref(&spoilt), &config);
    if let Some(documents) = shelf.repositories.get_mut("broken/layer") {
        image::corrupt(documents, &spoilt);
    }
    let wrong = image::digest(b"another");
    let documents = shelf.repositories.entry("broken/diffid".to_owned()).or_default();
    image::add_with_diff_ids(documents, "1", Form::Oci, &[own("diffid")], &config, &[&wrong]);
    shelf.plain("broken/unavailable:1", json!({}));
    let documents = shelf.repositories.entry("broken/manifest".to_owned()).or_default();
    let text =
        image::Document { kind: image::MANIFEST, bytes: Arc::new(b"{ \"schemaVersion\": 2, ".to_vec()) };
    documents.insert("manifests/1".to_owned(), text);
    let slow = own("slow");
    shelf.add("slow/layers:1", Form::Oci, std::slice::from_ref(&slow), &config);
    shelf.add("slow/layers:2", Form::Oci, &[own("slow too")], &config);
}
