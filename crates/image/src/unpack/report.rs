//! What the child tells the daemon, as one JSON text on its standard output.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use types::Digest;

/// Bound of a report in bytes, and so of the opaque marks of one layer.
pub(crate) const MAX_REPORT: u64 = 64 << 20;

/// How an unpacking ended.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// All of the archive was applied.
    Done(Unpacked),
    /// It was not; why, in words. The target directory holds some of it.
    Failed(String),
}

/// Facts of an applied layer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unpacked {
    /// Digest of the uncompressed archive.
    pub(crate) diff_id: Option<Digest>,
    /// Members of the archive.
    pub(crate) entries: u64,
    /// Names that were made.
    pub(crate) inodes: u64,
    /// Bytes of content.
    pub(crate) bytes: u64,
    /// Bytes on disk, in whole blocks of 4096.
    pub(crate) disk: u64,
    /// The layer hides everything beneath it.
    pub(crate) opaque_root: bool,
    /// Directories that hide those of lower layers: paths beneath the target, base64.
    pub(crate) opaque: Vec<String>,
    /// Directories that were made without being a member, as the parents of members: paths, base64.
    pub(crate) implied: Vec<String>,
    /// Members and attributes left out: overlayfs' own metadata, attributes of unknown namespaces.
    pub(crate) dropped: u64,
}

pub(crate) fn path_to_text(path: &[u8]) -> String {
    STANDARD.encode(path)
}

pub(crate) fn text_to_path(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}
