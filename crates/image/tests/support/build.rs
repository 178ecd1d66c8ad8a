//! Images as blobs: layers of tar members, configuration, manifest, index.

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

/// A tar, member by member; names are taken as they are.
#[derive(Default)]
pub struct Tar(Vec<u8>);

impl Tar {
    pub fn new() -> Self {
        Self::default()
    }

    /// Any member: type flag, name, link, content; `change` may touch the header before its checksum.
    pub fn raw(mut self, flag: u8, name: &[u8], link: &[u8], content: &[u8], change: impl Fn(&mut [u8; 512])) -> Self {
        let mut block = [0_u8; 512];
        block[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
        let mode: &[u8] = if flag == b'5' { b"0000755\0" } else { b"0000644\0" };
        block[100..108].copy_from_slice(mode);
        block[108..116].copy_from_slice(b"0000000\0");
        block[116..124].copy_from_slice(b"0000000\0");
        block[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
        block[136..148].copy_from_slice(b"00000000012\0");
        block[156] = flag;
        block[157..157 + link.len().min(100)].copy_from_slice(&link[..link.len().min(100)]);
        block[257..265].copy_from_slice(b"ustar\x0000");
        change(&mut block);
        block[148..156].copy_from_slice(b"        ");
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&block);
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().div_ceil(512) * 512, 0);
        self
    }

    pub fn file(self, name: &str, content: &str) -> Self {
        self.raw(b'0', name.as_bytes(), b"", content.as_bytes(), |_| ())
    }

    pub fn dir(self, name: &str) -> Self {
        self.raw(b'5', name.as_bytes(), b"", b"", |_| ())
    }

    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.raw(b'2', name.as_bytes(), target.as_bytes(), b"", |_| ())
    }

    pub fn hard_link(self, name: &str, target: &str) -> Self {
        self.raw(b'1', name.as_bytes(), target.as_bytes(), b"", |_| ())
    }

    pub fn mode(self, flag: u8, name: &str, mode: u32) -> Self {
        self.raw(flag, name.as_bytes(), b"", b"", |block| {
            block[100..108].copy_from_slice(format!("{mode:07o}\0").as_bytes());
        })
    }

    /// A device node; the numbers are written as octal text, or base-256 when they do not fit.
    pub fn device(self, flag: u8, name: &str, major: i64, minor: i64) -> Self {
        let number = |value: i64| -> [u8; 8] {
            if (0..=0o7_777_777).contains(&value) {
                format!("{value:07o}\0").into_bytes().try_into().expect("eight")
            } else {
                let mut bytes = value.to_be_bytes();
                bytes[0] = if value < 0 { 0xff } else { 0x80 | bytes[0] };
                bytes
            }
        };
        self.raw(flag, name.as_bytes(), b"", b"", move |block| {
            block[329..337].copy_from_slice(&number(major));
            block[337..345].copy_from_slice(&number(minor));
        })
    }

    /// PAX records for the member that follows.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut content = Vec::new();
        for (key, value) in records {
            let body = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
            let mut length = body.len() + 1;
            while length != body.len() + length.to_string().len() {
                length = body.len() + length.to_string().len();
            }
            content.extend_from_slice(length.to_string().as_bytes());
            content.extend_from_slice(&body);
        }
        self.raw(b'x', b"PaxHeaders/x", b"", &content, |_| ())
    }

    pub fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
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
