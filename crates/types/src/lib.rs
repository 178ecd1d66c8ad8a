//! Ids, references, domain requests and the messages between daemon and shim.
//!
//! Everything here is plain data: no IO, no clock but the [`Clock`] trait, no policy. Requests are
//! what the CRI asks for after `cri::parse` has checked it; they are stored inside plans, so a
//! field is only ever added with `#[serde(default)]`.
#![forbid(unsafe_code)]

pub mod cdi;
mod clock;
pub mod container;
mod digest;
pub mod handler;
mod id;
pub mod pod;
pub mod reference;
pub mod shim;
pub mod signal;
pub mod slice;

pub use clock::{Clock, SystemClock, Timestamp};
pub use digest::{BadDigest, Digest};
pub use id::{BadId, ContainerId, PodId};
pub use reference::{BadImageRef, ImageRef};

/// Labels or annotations: stored and returned unaltered, in a stable order.
pub type Labels = std::collections::BTreeMap<String, String>;
