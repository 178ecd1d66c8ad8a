//! Images: references, registries, layers, garbage.
//!
//! ```text
//! Images ── pull ─── registry (manifests, blobs) ──┐
//!    │  └── load ── archive ──────────────────────┤
//!    │                                              v
//!    │                              layer ── unpack (child) ── layers/<number>
//!    └── state (in memory) + record (store)
//! ```
//!
//! Invariants:
//! - An image is listed only when each of its layers is on the disk, synced and recorded.
//! - Nothing of an image is decoded in the daemon but bounded JSON; archives are read in a child.
//! - A layer is one directory, keyed by the digest of its content (diff ID) and shared by all images.
//! - A directory without a record is garbage; a record without its directory is forgotten.
#![forbid(unsafe_code)]

mod archive;
mod disk;
mod error;
mod flight;
mod image_config;
mod images;
mod inherit;
mod layer;
mod manifest;
mod points;
mod pull;
mod record;
mod registry;
#[cfg(test)]
mod scratch;
mod stacked;
mod state;
mod tarball;
mod unpack;
mod user;

pub use archive::{ArchiveError, Loaded};
pub use error::{ErrorKind, ImageError};
pub use images::{FsInfo, Image, ImageUser, Images, Resolved, Setup};
pub use layer::Progress;
pub use manifest::ManifestError;
pub use points::Points;
pub use pull::Pulling;
pub use registry::{
    BadCredentials, Credentials, HostsError, MIN_PROGRESS, Patience, PullAuth, RegistryError,
};
pub use stacked::StackError;
pub use unpack::{Unpacker, child_main as unpack_child_main};
pub use user::{UserError, UserRequest};
