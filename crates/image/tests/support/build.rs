//! Images as blobs: layers of tar members, configuration, manifest, index.

pub use super::tar::Tar;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::{collections::BTreeMap, io::Write as _};
use types::Digest;

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

pub fn digest(bytes: &[u8]) -> Digest {
    Digest::of_sha256(&Sha256::digest(bytes).into())
}

pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(bytes, 1).expect("zstd")
}

/// An image: its documents and blobs, all by digest.
#[derive(Clone)]
pub struct Image {
    pub blobs: BTreeMap<String, Vec<u8>>,
    pub manifest: Vec<u8>,
    pub media_type: &'static str,
    pub id: Digest,
    pub diff_ids: Vec<Digest>,
}

impl Image {
    /// Of uncompressed tars; `compress` makes each layer's blob.
    pub fn new(layers: &[Vec<u8>], compress: fn(&[u8]) -> Vec<u8>) -> Self {
        Self::with_config(layers, compress, &json!({"Cmd": ["/bin/true"], "Env": ["PATH=/bin"]}))
    }

    pub fn with_config(layers: &[Vec<u8>], compress: fn(&[u8]) -> Vec<u8>, config: &Value) -> Self {
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| digest(layer)).collect();
        let config = json!({
            "architecture": architecture(), "os": "linux", "config": config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = config.to_string().into_bytes();
        let id = digest(&config);
        let mut blobs = BTreeMap::new();
        let descriptors: Vec<Value> = layers
            .iter()
            .map(|layer| {
                let blob = compress(layer);
                let digest = digest(&blob);
                let size = blob.len();
                blobs.insert(digest.to_string(), blob);
                json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": size})
            })
            .collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": id, "size": config.len()},
            "layers": descriptors,
        });
        blobs.insert(id.to_string(), config);
        Self { blobs, manifest: manifest.to_string().into_bytes(), media_type: OCI_MANIFEST, id, diff_ids }
    }

    /// With its manifest changed; digests follow.
    pub fn changed(mut self, change: impl FnOnce(&mut Value)) -> Self {
        let mut value: Value = serde_json::from_slice(&self.manifest).expect("JSON");
        change(&mut value);
        self.manifest = value.to_string().into_bytes();
        self
    }

    pub fn digest(&self) -> Digest {
        digest(&self.manifest)
    }

    /// An index with this image among others.
    pub fn index(&self) -> Vec<u8> {
        let entry = |architecture: &str, digest: &str, size: usize| {
            json!({"mediaType": self.media_type, "digest": digest, "size": size,
                   "platform": {"os": "linux", "architecture": architecture}})
        };
        let other = format!("sha256:{}", "00".repeat(32));
        let own = self.digest();
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [
            entry("mips", &other, 1), entry(architecture(), own.as_str(), self.manifest.len())]});
        index.to_string().into_bytes()
    }
}
