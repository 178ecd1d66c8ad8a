//! Images from an archive: a tar of an OCI image layout, or what `docker save` writes.
//!
//! The archive is spooled into a file without a name (so that nothing is left of it whatever happens),
//! its members are noted by their offsets, and then it is read like a registry: every document and
//! layer is verified by its digest. OCI image-spec image-layout.md.

use crate::{
    error::ImageError,
    image_config::ImageConfig,
    images::{Images, NewImage, Pins},
    layer::{Progress, Source},
    manifest::{
        Descriptor, Document, MAX_CONFIG, MAX_DEPTH, MAX_LAYERS, MAX_MANIFEST, Manifest, ManifestError,
        OCI_INDEX,
    },
    pull::{fetch_layers, linked},
    tarball::{Kind, Reader, TarError},
};
use bytes::Bytes;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufReader, Seek as _},
    os::unix::fs::FileExt as _,
    sync::Arc,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    sync::watch,
};
use types::{BadImageRef, Digest, ImageRef};

/// Bound of a whole archive, bytes.
const MAX_ARCHIVE: u64 = 256 << 30;
const MAX_MEMBERS: usize = 50_000;
const MAX_NAME: usize = 4096;
const MAX_IMAGES: usize = 100;
const MAX_LINKS: u32 = 8;
const PIECE: usize = 256 << 10;

/// Why an archive is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It cannot be received or kept.
    #[error("the archive cannot be spooled")]
    Spool(#[source] io::Error),
    /// It is no readable tar.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// More than is taken.
    #[error("it has more than {0}")]
    TooMuch(&'static str),
    /// It is neither of the two kinds.
    #[error("it is neither an OCI image layout nor a docker-archive{0}")]
    Unknown(&'static str),
    /// A document of it is refused.
    #[error("`{member}` is refused")]
    Manifest {
        /// Which member.
        member: String,
        /// Why.
        #[source]
        source: ManifestError,
    },
    /// A member that is referred to is not there.
    #[error("it has no member `{0}`, which it refers to")]
    Missing(String),
    /// A member is not what its digest or size says, or is larger than is taken.
    #[error("member `{member}` {why}")]
    Content {
        /// Which member.
        member: String,
        /// What is wrong.
        why: String,
    },
    /// A name in it is no image reference.
    #[error("an image in it has a malformed name")]
    Name(#[source] BadImageRef),
}

impl ArchiveError {
    /// Whether the archive is to blame, and not this host.
    pub(crate) fn is_refusal(&self) -> bool {
        !matches!(self, Self::Spool(_) | Self::Tar(TarError::Io(_)))
    }
}

/// An image that was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Its id.
    pub id: Digest,
    /// The tags that it got.
    pub names: Vec<String>,
}

/// Content within a spooled archive.
#[derive(Clone, Debug)]
pub(crate) struct ArchiveBlob {
    file: Arc<File>,
    member: String,
    offset: u64,
    size: u64,
    /// A docker-archive gives no digest of its layers as they are; their diff IDs decide.
    digest: Option<Digest>,
}

impl ArchiveBlob {
    pub(crate) fn pieces(&self) -> Pieces<'_> {
        Pieces { blob: self, at: 0, hash: Sha256::new() }
    }
}

/// Reads a blob piece by piece, and verifies it at its end.
pub(crate) struct Pieces<'a> {
    blob: &'a ArchiveBlob,
    at: u64,
    hash: Sha256,
}

impl Pieces<'_> {
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, ArchiveError> {
        let left = self.blob.size - self.at;
        if left == 0 {
            let found = Digest::of_sha256(&std::mem::take(&mut self.hash).finalize().into());
            return match &self.blob.digest {
                Some(wanted) if *wanted != found => Err(ArchiveError::Content {
                    member: self.blob.member.clone(),
                    why: format!("has the digest {found}"),
                }),
                _ => Ok(None),
            };
        }
        let size = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        let (file, from) = (Arc::clone(&self.blob.file), self.blob.offset + self.at);
        let reading = tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; size];
            file.read_exact_at(&mut piece, from)?;
            Ok(piece)
        });
        let piece =
            reading.await.unwrap_or_else(|e| Err(io::Error::other(e))).map_err(ArchiveError::Spool)?;
        self.hash.update(&piece);
        self.at += piece.len() as u64;
        Ok(Some(piece.into()))
    }
}

/// An archive whose members are known.
struct Archive {
    file: Arc<File>,
    members: HashMap<String, Member>,
}

enum Member {
    Content {
        offset: u64,
        size: u64,
    },
    /// Old `docker save` stores a layer that occurs twice as a link.
    Link(String),
}

/// An image of an archive with all its documents verified.
struct Found {
    id: Digest,
    config: ImageConfig,
    config_bytes: Vec<u8>,
    layers: Vec<ArchiveBlob>,
    tag: Option<ImageRef>,
    /// Digest of the manifest or index that the archive's index names.
    digest: Option<Digest>,
}

impl Images {
    /// Loads all images of an archive that fit this host. None is listed before all their layers are here.
    ///
    /// # Errors
    /// [`ImageError::Archive`] and those of a pull; nothing is recorded then.
    pub async fn load(&self, archive: impl AsyncRead + Unpin) -> Result<Vec<Loaded>, ImageError> {
        let shared = &self.0;
        let file = self.spool(archive).await.map_err(ImageError::Archive)?;
        let reading = tokio::task::spawn_blocking(move || Archive::read(file)?.images());
        let images = reading.await.map_err(|_| ImageError::BrokenOff("an archive".to_owned()))?;
        let images = images.map_err(ImageError::Archive)?;
        let wanted: Vec<(Digest, ArchiveBlob)> = images
            .iter()
            .flat_map(|image| image.config.diff_ids.iter().cloned().zip(image.layers.iter().cloned()))
            .collect();
        let diff_ids: Vec<Digest> = wanted.iter().map(|(diff_id, _)| diff_id.clone()).collect();
        let _pins = Pins::new(shared, &diff_ids);
        let layers = wanted.into_iter().map(|(id, blob)| (id, (blob.size, Source::Archive(blob))));
        fetch_layers(shared, layers.collect(), &watch::channel(Progress::default()).0).await?;
        let mut loaded: Vec<Loaded> = Vec::new();
        for image in images {
            let tag = image.tag.as_ref().map(ToString::to_string);
            let digest = image.tag.as_ref().zip(image.digest).map(|(name, digest)| name.with_digest(&digest));
            let Found { id, config, config_bytes, .. } = image;
            shared.inherit(&config.diff_ids).await?;
            match loaded.iter_mut().find(|known| known.id == id) {
                Some(known) => known.names.extend(tag.clone()),
                None => loaded.push(Loaded { id: id.clone(), names: tag.iter().cloned().collect() }),
            }
            shared.add_image(NewImage { id, config, config_bytes, tag, digest }).await?;
        }
        Ok(loaded)
    }

    /// Receives the archive into a file that has no name.
    async fn spool(&self, archive: impl AsyncRead + Unpin) -> Result<File, ArchiveError> {
        let layers = Arc::clone(&self.0.layers);
        let making = tokio::task::spawn_blocking(move || layers.spool_file());
        let file = making.await.unwrap_or_else(|e| Err(io::Error::other(e))).map_err(ArchiveError::Spool)?;
        let mut spool = tokio::fs::File::from_std(file);
        let mut bounded = archive.take(MAX_ARCHIVE + 1);
        let size = tokio::io::copy(&mut bounded, &mut spool).await.map_err(ArchiveError::Spool)?;
        spool.flush().await.map_err(ArchiveError::Spool)?;
        if size > MAX_ARCHIVE {
            return Err(ArchiveError::TooMuch("256 GiB"));
        }
        Ok(spool.into_std().await)
    }
}

impl Archive {
    fn read(mut file: File) -> Result<Self, ArchiveError> {
        file.rewind().map_err(ArchiveError::Spool)?;
        let mut magic = [0; 4];
        if file.read_exact_at(&mut magic, 0).is_ok()
            && matches!(magic, [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd])
        {
            return Err(ArchiveError::Unknown(": it is compressed, and only plain tar is taken"));
        }
        let mut members = HashMap::new();
        let mut tar = Reader::new(BufReader::with_capacity(PIECE, &file));
        while let Some(entry) = tar.next()? {
            let Some(name) = clean(&entry.name) else { continue };
            let member = match entry.kind {
                Kind::File => Member::Content { offset: tar.position(), size: entry.size },
                Kind::Symlink => Member::Link(beside(&name, &entry.link)),
                Kind::HardLink => Member::Link(clean(&entry.link).unwrap_or_default()),
                Kind::Directory | Kind::Character | Kind::Block | Kind::Fifo => continue,
            };
            let why = || "comes twice".to_owned();
            if members.insert(name.clone(), member).is_some() {
                return Err(ArchiveError::Content { member: name, why: why() });
            }
            if members.len() > MAX_MEMBERS {
                return Err(ArchiveError::TooMuch("50 000 members"));
            }
        }
        drop(tar);
        Ok(Self { file: Arc::new(file), members })
    }

    fn images(&self) -> Result<Vec<Found>, ArchiveError> {
        let found = if self.members.contains_key("index.json") && self.members.contains_key("oci-layout") {
            self.layout_images()?
        } else if self.members.contains_key("manifest.json") {
            self.docker_images()?
        } else {
            return Err(ArchiveError::Unknown(""));
        };
        if found.len() > MAX_IMAGES { Err(ArchiveError::TooMuch("100 images")) } else { Ok(found) }
    }

    fn layout_images(&self) -> Result<Vec<Found>, ArchiveError> {
        let refused = |source| ArchiveError::Manifest { member: "index.json".to_owned(), source };
        let index = self.document("index.json", MAX_MANIFEST)?;
        let index = match Document::parse(&index, Some(OCI_INDEX)).map_err(refused)? {
            Document::Index(index) => index,
            Document::Manifest(_) => return Err(refused(ManifestError::Ambiguous("it is not an index"))),
        };
        let fitting: Vec<_> = index.entries().iter().filter(|entry| entry.may_fit_host()).collect();
        if fitting.len() > MAX_IMAGES {
            return Err(ArchiveError::TooMuch("100 images"));
        }
        if fitting.is_empty() {
            return Err(refused(index.nothing_fits()));
        }
        fitting
            .into_iter()
            .map(|entry| {
                let top = entry.checked("index").map_err(refused)?;
                let name = entry.annotations.as_ref().and_then(|all| {
                    let full = all.get("io.containerd.image.name");
                    // Often a bare tag, which names no repository.
                    let short = all.get("org.opencontainers.image.ref.name");
                    full.or(short.filter(|text| text.contains(['/', ':'])))
                });
                let tag = name.map(|text| ImageRef::parse(text)).transpose().map_err(ArchiveError::Name)?;
                self.layout_image(&top, tag)
            })
            .collect()
    }

    fn layout_image(&self, top: &Descriptor, tag: Option<ImageRef>) -> Result<Found, ArchiveError> {
        let mut at = top.clone();
        for _ in 0..=MAX_DEPTH {
            let member = blob_name(&at.digest);
            let refused = |source| ArchiveError::Manifest { member: member.clone(), source };
            let bytes = self.verified(&at, MAX_MANIFEST)?;
            match linked(&at, &bytes, None).map_err(refused)? {
                Document::Index(index) => at = index.choose().map_err(refused)?,
                Document::Manifest(manifest) => {
                    return self.manifest_image(&manifest, tag, top.digest.clone());
                }
            }
        }
        let source = ManifestError::Unsupported("an index of indexes of indexes".to_owned());
        Err(ArchiveError::Manifest { member: blob_name(&at.digest), source })
    }

    fn manifest_image(
        &self,
        manifest: &Manifest,
        tag: Option<ImageRef>,
        digest: Digest,
    ) -> Result<Found, ArchiveError> {
        let config_bytes = self.verified(&manifest.config, MAX_CONFIG)?;
        let config = ImageConfig::parse(&config_bytes, manifest.layers.len()).map_err(|source| {
            ArchiveError::Manifest { member: blob_name(&manifest.config.digest), source }
        })?;
        let layers: Result<Vec<_>, _> = manifest
            .layers
            .iter()
            .map(|layer| {
                let blob = self.blob(&blob_name(&layer.digest), Some(layer.digest.clone()))?;
                if blob.size == layer.size {
                    return Ok(blob);
                }
                let why = format!("has {} bytes, its manifest says {}", blob.size, layer.size);
                Err(ArchiveError::Content { member: blob.member, why })
            })
            .collect();
        let id = manifest.config.digest.clone();
        Ok(Found { id, config, config_bytes, layers: layers?, tag, digest: Some(digest) })
    }

    fn docker_images(&self) -> Result<Vec<Found>, ArchiveError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Item {
            config: String,
            repo_tags: Option<Vec<String>>,
            layers: Option<Vec<String>>,
        }
        let malformed = |source| ArchiveError::Manifest {
            member: "manifest.json".to_owned(),
            source: ManifestError::Malformed { what: "manifest", source },
        };
        let items = self.document("manifest.json", MAX_MANIFEST)?;
        let items: Vec<Item> = serde_json::from_slice(&items).map_err(malformed)?;
        let mut found = Vec::new();
        for item in items.into_iter().take(MAX_IMAGES + 1) {
            let refused = |source| ArchiveError::Manifest { member: item.config.clone(), source };
            let config_bytes = self.document(&item.config, MAX_CONFIG)?;
            let id = Digest::of_sha256(&Sha256::digest(&config_bytes).into());
            if hex_name(&item.config).is_some_and(|hex| hex != id.hex()) {
                let why = format!("has the digest {id}");
                return Err(ArchiveError::Content { member: item.config.clone(), why });
            }
            let layers = item.layers.unwrap_or_default();
            if layers.len() > MAX_LAYERS {
                return Err(refused(ManifestError::TooMany {
                    what: "layers",
                    found: layers.len(),
                    most: MAX_LAYERS,
                }));
            }
            let config = ImageConfig::parse(&config_bytes, layers.len()).map_err(refused)?;
            let layers: Result<Vec<_>, _> = layers.iter().map(|name| self.blob(name, None)).collect();
            let layers = layers?;
            let tags = item.repo_tags.unwrap_or_default();
            let tags: Result<Vec<_>, _> =
                tags.iter().take(MAX_IMAGES).map(|tag| ImageRef::parse(tag)).collect();
            let tags: Vec<Option<ImageRef>> =
                tags.map_err(ArchiveError::Name)?.into_iter().map(Some).collect();
            for tag in if tags.is_empty() { vec![None] } else { tags } {
                let (config, config_bytes) = (config.clone(), config_bytes.clone());
                found.push(Found {
                    id: id.clone(),
                    config,
                    config_bytes,
                    layers: layers.clone(),
                    tag,
                    digest: None,
                });
            }
        }
        Ok(found)
    }

    fn blob(&self, name: &str, digest: Option<Digest>) -> Result<ArchiveBlob, ArchiveError> {
        let missing = || ArchiveError::Missing(name.chars().take(200).collect());
        let mut at = clean(name.as_bytes()).ok_or_else(missing)?;
        for _ in 0..=MAX_LINKS {
            match self.members.get(&at).ok_or_else(missing)? {
                Member::Link(to) => at = to.clone(),
                Member::Content { offset, size } => {
                    let file = Arc::clone(&self.file);
                    return Ok(ArchiveBlob { file, member: at, offset: *offset, size: *size, digest });
                }
            }
        }
        Err(missing())
    }

    fn document(&self, name: &str, limit: u64) -> Result<Vec<u8>, ArchiveError> {
        let blob = self.blob(name, None)?;
        let size = usize::try_from(blob.size).ok().filter(|_| blob.size <= limit);
        let Some(size) = size else {
            let why = format!("has {} bytes, at most {limit} are taken", blob.size);
            return Err(ArchiveError::Content { member: blob.member, why });
        };
        let mut bytes = vec![0; size];
        blob.file.read_exact_at(&mut bytes, blob.offset).map_err(ArchiveError::Spool)?;
        Ok(bytes)
    }

    /// A document with the digest of its descriptor.
    fn verified(&self, wanted: &Descriptor, limit: u64) -> Result<Vec<u8>, ArchiveError> {
        let member = blob_name(&wanted.digest);
        let bytes = self.document(&member, limit)?;
        let found = Digest::of_sha256(&Sha256::digest(&bytes).into());
        if found == wanted.digest && bytes.len() as u64 == wanted.size {
            return Ok(bytes);
        }
        let why = format!("has {} bytes and the digest {found}", bytes.len());
        Err(ArchiveError::Content { member, why })
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// The digits of `<64 digits>.json` or `blobs/sha256/<64 digits>`.
fn hex_name(name: &str) -> Option<&str> {
    let hex = name.strip_suffix(".json").or_else(|| name.strip_prefix("blobs/sha256/"))?;
    (hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit())).then_some(hex)
}

/// A member's name without `./` and the like; `None` for what cannot be referred to.
fn clean(name: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(name).ok().filter(|text| text.len() <= MAX_NAME)?;
    let parts: Vec<&str> = text.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    (!parts.is_empty() && !parts.contains(&"..")).then(|| parts.join("/"))
}

/// Where a symbolic link of the archive leads, as a member's name.
fn beside(name: &str, link: &[u8]) -> String {
    let Ok(link) = std::str::from_utf8(link) else { return String::new() };
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in link.split('/').filter(|part| !matches!(*part, "" | ".")) {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts.join("/")
}
