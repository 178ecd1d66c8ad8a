//! What is on disk about images and layers. Records only grow by fields with a default; an
//! incompatible change is a new version beside the old one.

use crate::{error::ImageError, image_config::ImageConfig};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use store::{Change, Table};
use types::Digest;

/// An image, by its id (the digest of its configuration).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    /// `host/path:tag`
    pub(crate) tags: BTreeSet<String>,
    /// `host/path@digest`, of the manifest or index that was asked for.
    pub(crate) digests: BTreeSet<String>,
    /// Bytes of the unpacked layers.
    pub(crate) size: u64,
    pub(crate) config: ImageConfig,
}

/// An unpacked layer, by its diff ID.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    /// Name of its directory beneath `layers/`.
    pub(crate) number: u64,
    /// Bytes of content.
    pub(crate) bytes: u64,
    /// Bytes in whole blocks.
    pub(crate) disk: u64,
    pub(crate) inodes: u64,
    /// It hides all layers beneath it.
    pub(crate) opaque_root: bool,
    /// Directories that its archive did not list, base64: they take over owner and mode from the layers
    /// beneath in the first image that has this layer, and then this list is empty.
    #[serde(default)]
    pub(crate) implied: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "version")]
enum Versioned<T> {
    #[serde(rename = "1")]
    V1(T),
}

#[derive(Serialize)]
#[serde(tag = "version")]
enum VersionedRef<'a, T> {
    #[serde(rename = "1")]
    V1(&'a T),
}

/// Key of an image's configuration as the registry sent it, beside its record.
fn config_key(id: &Digest) -> String {
    format!("config/{}", id.hex())
}

pub(crate) fn put_image(id: &Digest, record: &ImageRecord) -> Change {
    Change::put(Table::IMAGES, format!("image/{}", id.hex()), encode(record))
}

pub(crate) fn put_config(id: &Digest, bytes: &[u8]) -> Change {
    Change::put(Table::IMAGES, config_key(id), bytes.to_vec())
}

pub(crate) fn remove_image(id: &Digest) -> [Change; 2] {
    [
        Change::remove(Table::IMAGES, format!("image/{}", id.hex())),
        Change::remove(Table::IMAGES, config_key(id)),
    ]
}

pub(crate) fn put_layer(id: &Digest, record: &LayerRecord) -> Change {
    Change::put(Table::LAYERS, id.hex(), encode(record))
}

pub(crate) fn remove_layer(id: &Digest) -> Change {
    Change::remove(Table::LAYERS, id.hex())
}

/// The configuration of an image, byte for byte.
pub(crate) fn read_config(store: &store::Store, id: &Digest) -> Result<Option<Vec<u8>>, ImageError> {
    Ok(store.get(Table::IMAGES, &config_key(id))?)
}

pub(crate) fn read_images(store: &store::Store) -> Result<Vec<(Digest, ImageRecord)>, ImageError> {
    let all = store.scan(Table::IMAGES)?;
    all.into_iter()
        .filter_map(|(key, bytes)| {
            let id = key.strip_prefix("image/").and_then(digest)?;
            Some(decode(Table::IMAGES, &key, &bytes).map(|record| (id, record)))
        })
        .collect()
}

pub(crate) fn read_layers(store: &store::Store) -> Result<Vec<(Digest, LayerRecord)>, ImageError> {
    let all = store.scan(Table::LAYERS)?;
    all.into_iter()
        .filter_map(|(key, bytes)| {
            let id = digest(&key)?;
            Some(decode(Table::LAYERS, &key, &bytes).map(|record| (id, record)))
        })
        .collect()
}

fn digest(hex: &str) -> Option<Digest> {
    Digest::parse(&format!("sha256:{hex}")).ok()
}

fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    serde_json::to_vec(&VersionedRef::V1(record)).expect("a record is plain data with text keys")
}

fn decode<T: for<'a> Deserialize<'a>>(table: Table, key: &str, bytes: &[u8]) -> Result<T, ImageError> {
    match serde_json::from_slice(bytes) {
        Ok(Versioned::V1(record)) => Ok(record),
        Err(source) => Err(ImageError::Record { table: table.name(), key: key.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_the_first_version_are_read_for_ever() {
        let id = format!("sha256:{}", "ab".repeat(32));
        let image = format!(
            r#"{{"version":"1","tags":["docker.io/library/a:1"],"digests":[],"size":5,"config":{{"diff_ids":["{id}"],
            "user":"1","env":["A=b"],"entrypoint":[],"cmd":["x"],"working_dir":"/","volumes":[],"stop_signal":""}}}}"#
        );
        let image: ImageRecord = decode(Table::IMAGES, "k", image.as_bytes()).expect("golden");
        assert_eq!((image.size, image.config.diff_ids.len(), image.tags.len()), (5, 1, 1));
        let layer = br#"{"version":"1","number":7,"bytes":1,"disk":4096,"inodes":2,"opaque_root":true}"#;
        let layer: LayerRecord = decode(Table::LAYERS, "k", layer).expect("golden");
        let wanted = LayerRecord {
            number: 7,
            bytes: 1,
            disk: 4096,
            inodes: 2,
            opaque_root: true,
            implied: Vec::new(),
        };
        assert_eq!(layer, wanted);
        assert_eq!(decode::<LayerRecord>(Table::LAYERS, "k", &encode(&layer)).expect("again"), layer);
    }

    #[test]
    fn a_record_of_a_newer_version_is_refused_by_its_key() {
        let newer = br#"{"version":"2","number":7}"#;
        let error = decode::<LayerRecord>(Table::LAYERS, "abc", newer).expect_err("newer");
        assert!(error.to_string().contains("abc"), "{error}");
    }
}
