//! A registry of one image, in the network namespace of a test's daemon.

use crate::{Daemon, image};
use sha2::{Digest as _, Sha256};
use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    sync::Arc,
};

/// Where the image is found: the busybox that [`crate::busybox_archive`] packs, with a gzip layer.
pub const PULLED: &str = "127.0.0.1:5000/busybox:pulled";

/// Serves [`PULLED`] until the test's process ends.
///
/// # Panics
/// When the port cannot be bound.
pub fn serve(daemon: &Daemon) {
    let netns = File::open(format!("/run/netns/{}", daemon.netns())).expect("the test's namespace");
    let documents = Arc::new(documents());
    let (told, ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // Of this thread alone: the test's own stays where it is.
        sys::namespace::join(&netns, sys::rustix::thread::LinkNameSpaceType::Network).expect("joined");
        let listener = TcpListener::bind("127.0.0.1:5000").expect("bound");
        told.send(()).expect("the test waits");
        for stream in listener.incoming().flatten() {
            // A daemon that is killed breaks its connections off.
            let _ = answer(&stream, &documents);
        }
    });
    ready.recv().expect("it serves");
}

struct Document {
    kind: &'static str,
    bytes: Vec<u8>,
}

/// All paths that a pull asks for.
fn documents() -> HashMap<String, Document> {
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    let digest = |bytes: &[u8]| format!("sha256:{:x}", Sha256::digest(bytes));
    let (config, layer) = image::busybox();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&layer).expect("written to memory");
    let gzip = gzip.finish().expect("written to memory");
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest(&config),
            "size": config.len(),
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": digest(&gzip),
            "size": gzip.len(),
        }],
    })
    .to_string()
    .into_bytes();
    let mut all = HashMap::new();
    all.insert("/v2/".to_owned(), Document { kind: "application/json", bytes: b"{}".to_vec() });
    for name in ["pulled".to_owned(), digest(&manifest)] {
        let document = Document { kind: MANIFEST, bytes: manifest.clone() };
        all.insert(format!("/v2/busybox/manifests/{name}"), document);
    }
    for blob in [config, gzip] {
        let document = Document { kind: "application/octet-stream", bytes: blob };
        all.insert(format!("/v2/busybox/blobs/{}", digest(&document.bytes)), document);
    }
    all
}

fn answer(mut stream: &TcpStream, documents: &HashMap<String, Document>) -> std::io::Result<()> {
    let mut head = BufReader::new(stream);
    let mut request = String::new();
    head.read_line(&mut request)?;
    let mut line = String::new();
    while head.read_line(&mut line)? > 2 {
        line.clear();
    }
    let mut words = request.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let Some(document) = documents.get(path) else {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    let (kind, length) = (document.kind, document.bytes.len());
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    if method == "HEAD" {
        return Ok(());
    }
    stream.write_all(&document.bytes)
}
