//! What can go wrong with a registry. No variant holds a query string, user info, header or token.

use super::{hosts::HostsError, link::Link};
use std::{io, path::PathBuf};

/// Why a registry did not give what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// Its settings cannot be used.
    #[error(transparent)]
    Hosts(#[from] HostsError),
    /// No connection to it.
    #[error("cannot reach {origin}")]
    Connect {
        /// Scheme and host.
        origin: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The certificates for its TLS cannot be read.
    #[error("cannot use {path} for TLS: {why}")]
    Certificate {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The connection broke.
    #[error("the connection to {url} broke")]
    Broken {
        /// What was asked, without its query.
        url: String,
        /// How.
        #[source]
        source: hyper::Error,
    },
    /// It took too long.
    #[error("{url} gave no answer in time ({waiting_for})")]
    Timeout {
        /// What was asked, without its query.
        url: String,
        /// What did not come.
        waiting_for: &'static str,
    },
    /// It answered with another status than wanted.
    #[error("{url} answered {status}{code}")]
    Status {
        /// What was asked, without its query.
        url: String,
        /// HTTP status.
        status: u16,
        /// The registry's own error code, in parentheses, if it gave one.
        code: String,
    },
    /// It sent more than is taken, or than it announced.
    #[error("{url} sent more than {limit} bytes")]
    TooLarge {
        /// What was asked, without its query.
        url: String,
        /// The bound.
        limit: u64,
    },
    /// The content is not what its digest or size says.
    #[error("{url} sent other content than asked: {why}")]
    Content {
        /// What was asked, without its query.
        url: String,
        /// The difference.
        why: String,
    },
    /// It sends us somewhere we do not go.
    #[error("{url} redirects to a place that is refused: {why}")]
    Redirect {
        /// What was asked, without its query.
        url: String,
        /// Why not.
        why: &'static str,
    },
    /// Its way of asking for credentials is refused or not known.
    #[error("{url} asks for credentials in a way that is refused: {why}")]
    Auth {
        /// What was asked, without its query.
        url: String,
        /// Why not.
        why: &'static str,
    },
    /// It breaks the protocol.
    #[error("{url} does not keep to the protocol: {why}")]
    Protocol {
        /// What was asked, without its query.
        url: String,
        /// How.
        why: &'static str,
    },
    /// Neither the registry nor a mirror gave it.
    #[error("no mirror of the registry gave it ({others}), nor the last one")]
    AllFailed {
        /// The other failures, in words.
        others: String,
        /// The last one.
        #[source]
        last: Box<RegistryError>,
    },
    /// The settings name nobody who could be asked.
    #[error("the settings of registry {registry} allow nobody to {what}")]
    Nobody {
        /// The host in the reference.
        registry: String,
        /// `resolve` or `pull`.
        what: &'static str,
    },
}

/// Of what nature an error is, for the status of an RPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nature {
    NotFound,
    Denied,
    /// It may be different later.
    Unavailable,
    /// It will not be different later.
    Refused,
    /// Something on this host.
    Local,
}

impl RegistryError {
    pub(crate) fn nature(&self) -> Nature {
        match self {
            Self::Status { status: 404, .. } => Nature::NotFound,
            Self::Status { status: 401 | 403, .. } | Self::Auth { .. } => Nature::Denied,
            Self::Connect { .. } | Self::Broken { .. } | Self::Timeout { .. } | Self::Status { .. } => {
                Nature::Unavailable
            }
            Self::TooLarge { .. } | Self::Content { .. } | Self::Redirect { .. } | Self::Protocol { .. } => {
                Nature::Refused
            }
            Self::Hosts(_) | Self::Certificate { .. } | Self::Nobody { .. } => Nature::Local,
            Self::AllFailed { last, .. } => last.nature(),
        }
    }

    /// Whether the same request may work a moment later.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Connect { source, .. } => {
                // A certificate that is refused now is refused then.
                source.kind() != io::ErrorKind::InvalidData
            }
            Self::Broken { .. } | Self::Timeout { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 429 | 500 | 502 | 503 | 504),
            Self::Hosts(_)
            | Self::Certificate { .. }
            | Self::TooLarge { .. }
            | Self::Content { .. }
            | Self::Redirect { .. }
            | Self::Auth { .. }
            | Self::Protocol { .. }
            | Self::AllFailed { .. }
            | Self::Nobody { .. } => false,
        }
    }

    pub(super) fn timeout(link: &Link, waiting_for: &'static str) -> Self {
        Self::Timeout { url: link.to_string(), waiting_for }
    }

    pub(super) fn content(link: &Link, why: impl Into<String>) -> Self {
        Self::Content { url: link.to_string(), why: why.into() }
    }
}
