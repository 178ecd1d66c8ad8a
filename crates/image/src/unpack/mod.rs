//! From a compressed layer to a directory that overlayfs can stack.
//!
//! The bytes are a stranger's, so they are never decoded in the daemon: [`Unpacker`] starts one child
//! process a layer ([`child_main`], the daemon's own binary again), which confines itself, inflates,
//! hashes and writes. The daemon hashes the compressed bytes while it hands them over.
//!
//! ```text
//! daemon:  download -> sha256 (blob) -> pipe ─┐                     ┌─> Report -> opaque marks, syncfs
//! child:                                      └> inflate -> sha256 (diff ID) -> tar -> files
//! ```

mod apply;
mod child;
mod confine;
mod inflate;
mod metadata;
mod parent;
mod report;

pub use child::child_main;
use inflate::inflate;
pub use parent::Unpacker;
pub(crate) use parent::{UnpackError, Unpacking};
pub(crate) use report::text_to_path;
