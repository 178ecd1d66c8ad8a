//! Manifests and indexes: which documents are taken, which image of an index fits this host.
//!
//! OCI image-spec manifest.md and image-index.md, Docker Image Manifest V2 Schema 2. A document that can
//! be read as two kinds, or that says another kind than its carrier, is refused: two readers of one
//! digest must never see two images (CVE-2021-41190).

use serde::{Deserialize, de::IgnoredAny};
use std::collections::HashMap;
use types::{BadDigest, Digest};

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// Bound of a manifest or index, bytes: what the distribution spec asks registries to take.
pub(crate) const MAX_MANIFEST: u64 = 4 << 20;
/// Bound of an image configuration, bytes.
pub(crate) const MAX_CONFIG: u64 = 8 << 20;
/// Layers of one image: overlayfs stacks at most 500 directories (kernel, OVL_MAX_STACK).
pub(crate) const MAX_LAYERS: usize = 500;
/// An index may point to an index, once.
pub(crate) const MAX_DEPTH: u32 = 2;

/// Why a document is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is no JSON of the right shape.
    #[error("the {what} is malformed")]
    Malformed {
        /// Which document.
        what: &'static str,
        /// Where and how.
        #[source]
        source: serde_json::Error,
    },
    /// It could be read as two things, or says nothing.
    #[error("the manifest is ambiguous: {0}")]
    Ambiguous(&'static str),
    /// A kind or feature that is not done here.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// A digest in it is not one.
    #[error("the {what} names a malformed digest")]
    Digest {
        /// Which document.
        what: &'static str,
        /// The text.
        #[source]
        source: BadDigest,
    },
    /// Nothing in it runs here.
    #[error("the image has nothing for linux/{wanted}; it is for {found}")]
    Platform {
        /// This host's architecture.
        wanted: &'static str,
        /// What it has.
        found: String,
    },
    /// Its parts contradict one another.
    #[error("the image contradicts itself: {0}")]
    Contradiction(&'static str),
    /// More than is taken.
    #[error("the image has {found} {what}, at most {most} are taken")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        found: usize,
        /// The bound.
        most: usize,
    },
}

/// A pointer to content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// One of the two kinds of document.
#[derive(Debug)]
pub(crate) enum Document {
    Index(Index),
    Manifest(Manifest),
}

/// An image for one platform.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    /// Lowest first.
    pub(crate) layers: Vec<Descriptor>,
}

/// Images for several platforms.
#[derive(Debug)]
pub(crate) struct Index(Vec<RawDescriptor>);

#[derive(Debug, Deserialize)]
struct Raw {
    #[serde(rename = "schemaVersion")]
    schema_version: Option<u32>,
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawDescriptor>>,
    #[serde(rename = "fsLayers")]
    fs_layers: Option<IgnoredAny>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct RawDescriptor {
    #[serde(rename = "mediaType", default)]
    media_type: String,
    digest: String,
    /// Unsigned: a negative size is malformed.
    size: u64,
    platform: Option<Platform>,
    #[serde(default)]
    pub(crate) annotations: Option<HashMap<String, String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
}

impl RawDescriptor {
    /// Whether it says of no platform that it is for another one.
    pub(crate) fn may_fit_host(&self) -> bool {
        is_manifest_type(&self.media_type) && self.platform.as_ref().is_none_or(|platform| fit(platform) > 0)
    }

    /// Checks its digest.
    pub(crate) fn checked(&self, what: &'static str) -> Result<Descriptor, ManifestError> {
        let digest = Digest::parse(&self.digest).map_err(|source| ManifestError::Digest { what, source })?;
        Ok(Descriptor { media_type: self.media_type.clone(), digest, size: self.size })
    }
}

impl Document {
    /// Reads a document; `declared` is what its carrier (a Content-Type or a descriptor) says it is.
    pub(crate) fn parse(bytes: &[u8], declared: Option<&str>) -> Result<Self, ManifestError> {
        let malformed = |source| ManifestError::Malformed { what: "manifest", source };
        let keys: HashMap<String, IgnoredAny> = serde_json::from_slice(bytes).map_err(malformed)?;
        check_keys(keys.keys())?;
        let raw: Raw = serde_json::from_slice(bytes).map_err(malformed)?;
        let media_type = agreed(declared, raw.media_type.as_deref())?;
        if raw.schema_version == Some(1) || raw.fs_layers.is_some() {
            return Err(ManifestError::Unsupported("a Docker manifest of schema 1".to_owned()));
        }
        match media_type {
            OCI_INDEX | DOCKER_LIST => raw.index(),
            OCI_MANIFEST | DOCKER_MANIFEST => raw.manifest(),
            other => Err(ManifestError::Unsupported(format!("a manifest of type `{}`", shown(other)))),
        }
    }
}

impl Raw {
    fn index(self) -> Result<Document, ManifestError> {
        if self.config.is_some() || self.layers.is_some() {
            return Err(ManifestError::Ambiguous("it is an index and a manifest at once"));
        }
        let manifests = self.manifests.ok_or(ManifestError::Ambiguous("an index without manifests"))?;
        Ok(Document::Index(Index(manifests)))
    }

    fn manifest(self) -> Result<Document, ManifestError> {
        if self.manifests.is_some() {
            return Err(ManifestError::Ambiguous("it is an index and a manifest at once"));
        }
        let (Some(config), Some(layers)) = (self.config, self.layers) else {
            return Err(ManifestError::Ambiguous("a manifest without a config or without layers"));
        };
        if layers.len() > MAX_LAYERS {
            return Err(ManifestError::TooMany { what: "layers", found: layers.len(), most: MAX_LAYERS });
        }
        check_config_type(&config.media_type)?;
        for layer in &layers {
            check_layer_type(&layer.media_type)?;
        }
        let layers: Result<Vec<_>, _> = layers.iter().map(|layer| layer.checked("manifest")).collect();
        let config = config.checked("manifest")?;
        if config.size > MAX_CONFIG {
            return Err(ManifestError::Contradiction("its configuration is larger than 8 MiB"));
        }
        Ok(Document::Manifest(Manifest { config, layers: layers? }))
    }
}

/// Go's JSON takes `Layers` for `layers`: such a document means different things to different readers.
fn check_keys<'a>(keys: impl Iterator<Item = &'a String>) -> Result<(), ManifestError> {
    const KNOWN: [&str; 6] = ["schemaVersion", "mediaType", "config", "layers", "manifests", "fsLayers"];
    for key in keys {
        if KNOWN.iter().any(|known| known.eq_ignore_ascii_case(key) && known != key) {
            return Err(ManifestError::Ambiguous("a field's name is written in the wrong case"));
        }
    }
    Ok(())
}

/// The media type on which the carrier and the document agree.
fn agreed<'a>(declared: Option<&'a str>, own: Option<&'a str>) -> Result<&'a str, ManifestError> {
    let declared = declared
        .map(|text| text.split(';').next().unwrap_or_default().trim())
        // What a registry says that does not know better.
        .filter(|text| !matches!(*text, "" | "application/json" | "application/octet-stream" | "text/plain"));
    match (declared, own.filter(|own| !own.is_empty())) {
        (Some(declared), Some(own)) if !declared.eq_ignore_ascii_case(own) => {
            Err(ManifestError::Ambiguous("its media type is not the one it was sent as"))
        }
        // OCI documents need not repeat it; Docker's must.
        (Some(DOCKER_LIST | DOCKER_MANIFEST), None) => {
            Err(ManifestError::Ambiguous("it does not name its own media type"))
        }
        (_, Some(own)) => Ok(own),
        (Some(declared), None) => Ok(declared),
        (None, None) => Err(ManifestError::Ambiguous("nothing names its media type")),
    }
}

fn check_config_type(media_type: &str) -> Result<(), ManifestError> {
    match media_type {
        "application/vnd.oci.image.config.v1+json" | "application/vnd.docker.container.image.v1+json" => {
            Ok(())
        }
        other => Err(ManifestError::Unsupported(format!(
            "an artifact of type `{}`, which is not a container image",
            shown(other)
        ))),
    }
}

fn check_layer_type(media_type: &str) -> Result<(), ManifestError> {
    match media_type {
        "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Ok(()),
        other if other.ends_with("+encrypted") => {
            Err(ManifestError::Unsupported("encrypted layers".to_owned()))
        }
        other if other.contains(".foreign.") || other.contains(".nondistributable.") => {
            Err(ManifestError::Unsupported("foreign (non-distributable) layers".to_owned()))
        }
        other => Err(ManifestError::Unsupported(format!("a layer of type `{}`", shown(other)))),
    }
}

fn shown(text: &str) -> String {
    text.chars().take(100).flat_map(char::escape_default).collect()
}

/// This host's architecture as Go names it, and how well a variant of it fits (0 = not).
pub(crate) fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "loongarch64" => "loong64",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        other => other,
    }
}

fn fit(platform: &Platform) -> u32 {
    if platform.os != "linux" || platform.architecture != host_architecture() {
        return 0;
    }
    match (host_architecture(), platform.variant.as_deref().unwrap_or("")) {
        // The baseline; images for newer processors are never taken, so that any node can run them.
        (_, "") | ("amd64", "v1") | ("arm64", "v8") => 10,
        ("arm", "v7") => 9,
        ("arm", "v6") => 8,
        ("arm", "v5") => 7,
        _ => 0,
    }
}

impl Index {
    /// The entry for this host: the best fit, the first of equals.
    pub(crate) fn choose(&self) -> Result<Descriptor, ManifestError> {
        let mut best: Option<(&RawDescriptor, u32)> = None;
        for entry in &self.0 {
            let fit = match &entry.platform {
                Some(platform) => fit(platform),
                // It may be anything: its configuration will tell.
                None => u32::from(is_manifest_type(&entry.media_type)),
            };
            if fit > best.map_or(0, |(_, before)| before) {
                best = Some((entry, fit));
            }
        }
        match best {
            Some((entry, _)) => entry.checked("index"),
            None => Err(self.nothing_fits()),
        }
    }

    /// The error of an index in which nothing fits.
    pub(crate) fn nothing_fits(&self) -> ManifestError {
        ManifestError::Platform { wanted: host_architecture(), found: self.platforms() }
    }

    /// All entries, for the index of an archive, which lists images and not platforms.
    pub(crate) fn entries(&self) -> &[RawDescriptor] {
        &self.0
    }

    fn platforms(&self) -> String {
        let mut all: Vec<String> = self
            .0
            .iter()
            .filter_map(|entry| entry.platform.as_ref())
            .map(|p| shown(&format!("{}/{}", p.os, p.architecture)))
            .take(20)
            .collect();
        all.dedup();
        if all.is_empty() { "nothing".to_owned() } else { all.join(", ") }
    }
}

/// One of the four document types.
pub(crate) fn is_manifest_type(media_type: &str) -> bool {
    matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST | OCI_INDEX | DOCKER_LIST)
}

#[cfg(test)]
mod tests;
