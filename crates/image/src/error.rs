//! What can go wrong with an image, and of what kind it is.

use crate::{
    archive::ArchiveError,
    manifest::ManifestError,
    registry::{Nature, RegistryError},
    unpack::UnpackError,
};
use types::{BadImageRef, Digest};

/// Why a verb of [`crate::Images`] failed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The name is not an image reference.
    #[error(transparent)]
    Reference(#[from] BadImageRef),
    /// No image of that name is here.
    #[error("image `{0}` is not here")]
    NotFound(String),
    /// The start of an id fits several images.
    #[error("`{0}` is the start of several image ids")]
    AmbiguousId(String),
    /// The registry did not give it.
    #[error("cannot fetch image {image}")]
    Registry {
        /// Which image.
        image: String,
        /// Why.
        #[source]
        source: RegistryError,
    },
    /// Its documents are refused.
    #[error("image {image} is refused")]
    Manifest {
        /// Which image.
        image: String,
        /// Why.
        #[source]
        source: ManifestError,
    },
    /// A layer is refused or could not be unpacked.
    #[error("layer {layer} cannot be used")]
    Layer {
        /// Its diff ID.
        layer: Digest,
        /// Why.
        #[source]
        source: UnpackError,
    },
    /// An archive to be loaded is refused.
    #[error("the archive is refused")]
    Archive(#[source] ArchiveError),
    /// The image's own STOPSIGNAL is not one.
    #[error("image {image} names a stop signal that does not exist: `{signal}`")]
    StopSignal {
        /// Its id.
        image: Digest,
        /// As written, cut.
        signal: String,
    },
    /// The records cannot be written.
    #[error("cannot record the images")]
    Commit(#[from] store::CommitError),
    /// The records cannot be read.
    #[error("cannot read the records of the images")]
    Read(#[from] store::ReadError),
    /// A record was written by something newer or is broken.
    #[error("the record `{key}` of table `{table}` is unreadable")]
    Record {
        /// Which table.
        table: &'static str,
        /// Which record.
        key: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The directory of the layers cannot be used.
    #[error("cannot {what}")]
    Disk {
        /// What was tried.
        what: &'static str,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The work was ended before it was done (the daemon stops, or a bug).
    #[error("the work on image {0} was broken off")]
    BrokenOff(String),
    /// A pull or load that this call had joined failed.
    #[error(transparent)]
    Shared(std::sync::Arc<ImageError>),
}

/// What an [`ImageError`] means for a caller; the CRI's status codes follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request is malformed.
    Invalid,
    /// There is no such image, here or in the registry.
    NotFound,
    /// The registry wants other credentials.
    Denied,
    /// The registry cannot be reached or is overloaded: later it may work.
    Unavailable,
    /// The image itself is refused: trying again does not help.
    Refused,
    /// This host's disk, store or settings.
    Internal,
}

impl ImageError {
    /// Of what kind it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Reference(_) | Self::AmbiguousId(_) => ErrorKind::Invalid,
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::Registry { source, .. } => match source.nature() {
                Nature::NotFound => ErrorKind::NotFound,
                Nature::Denied => ErrorKind::Denied,
                Nature::Unavailable => ErrorKind::Unavailable,
                Nature::Refused => ErrorKind::Refused,
                Nature::Local => ErrorKind::Internal,
            },
            Self::Manifest { .. } | Self::StopSignal { .. } => ErrorKind::Refused,
            Self::Layer { source, .. } if source.is_refusal() => ErrorKind::Refused,
            Self::Archive(source) if source.is_refusal() => ErrorKind::Refused,
            Self::Layer { .. }
            | Self::Archive(_)
            | Self::Commit(_)
            | Self::Read(_)
            | Self::Record { .. }
            | Self::Disk { .. }
            | Self::BrokenOff(_) => ErrorKind::Internal,
            Self::Shared(error) => error.kind(),
        }
    }

    pub(crate) fn disk(what: &'static str) -> impl FnOnce(sys::rustix::io::Errno) -> Self {
        move |source| Self::Disk { what, source: source.into() }
    }
}
