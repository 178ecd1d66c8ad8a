//! The client of the OCI distribution API: manifests and blobs of one repository, by way of the mirrors
//! that `hosts.toml` names.
//!
//! ```text
//! Session (one pull) ── Endpoint (mirror 1) ── Http ── connections
//!                    ├─ Endpoint (mirror 2) ── ...
//!                    └─ Endpoint (the registry itself, last)
//! ```
//! HTTP/1.1 only: it has none of HTTP/2's floods. What a registry sends is bounded in size and time, and
//! credentials go to the host that they were given for and to nobody else.

mod auth;
mod blob;
mod credentials;
mod error;
mod hosts;
mod http1;
mod link;
mod session;
mod tls;

pub(crate) use blob::BlobStream;
pub use credentials::{BadCredentials, Credentials, PullAuth};
pub(crate) use error::Nature;
pub use error::RegistryError;
pub use hosts::HostsError;
pub(crate) use session::Session;

use std::time::Duration;

/// Times and numbers that bound what a registry can make us do.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For one TCP and TLS connection.
    pub connect: Duration,
    /// For the head of a response.
    pub response: Duration,
    /// A body must bring [`MIN_PROGRESS`] bytes (or end) within this time of waiting.
    pub progress: Duration,
    /// Further tries of a request that failed in a way that may pass.
    pub retries: u32,
    /// Pause before the first of them; it doubles with each.
    pub pause: Duration,
    /// A `Retry-After` above this is an error at once.
    pub longest_pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            response: Duration::from_secs(60),
            progress: Duration::from_secs(60),
            retries: 4,
            pause: Duration::from_millis(250),
            longest_pause: Duration::from_secs(30),
        }
    }
}

/// Bytes that a body must bring within [`Patience::progress`]: about 270 bytes a second.
pub const MIN_PROGRESS: u64 = 16 << 10;
