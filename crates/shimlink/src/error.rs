//! What can go wrong with a shim.

use std::path::PathBuf;
use std::time::Duration;

/// Why a shim refused a call: the codes of gRPC, which ttrpc shares (google/rpc/code.proto).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// A field of the request is wrong; of Start and ExecSync: the program cannot be executed.
    InvalidArgument,
    /// The container is not known; of Kill: its process has ended.
    NotFound,
    /// A container of that id exists.
    AlreadyExists,
    /// The container is in the wrong state.
    FailedPrecondition,
    /// A bound is reached.
    ResourceExhausted,
    /// The shim does not do that.
    Unimplemented,
    /// The host did not do what was asked.
    Internal,
    /// Any other number.
    Other(i32),
}

impl From<i32> for Code {
    fn from(number: i32) -> Self {
        match number {
            3 => Self::InvalidArgument,
            5 => Self::NotFound,
            6 => Self::AlreadyExists,
            8 => Self::ResourceExhausted,
            9 => Self::FailedPrecondition,
            12 => Self::Unimplemented,
            13 => Self::Internal,
            other => Self::Other(other),
        }
    }
}

/// A shim could not be started, reached or made to do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// The connection is closed: the shim has ended, or was killed. Nothing is known of the call.
    #[error("{method}: the shim is gone")]
    Gone {
        /// The call.
        method: &'static str,
    },
    /// No answer in time. The call may still be carried out.
    #[error("{method}: the shim has not answered within {} ms", .after.as_millis())]
    Deadline {
        /// The call.
        method: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// The shim's own answer.
    #[error("{message}")]
    Refused {
        /// The call.
        method: &'static str,
        /// What kind of refusal.
        code: Code,
        /// Its text.
        message: String,
    },
    /// The answer cannot be read, or the request exceeds what a shim takes.
    #[error("{method}: {reason}")]
    Protocol {
        /// The call.
        method: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Nobody listens at the socket.
    #[error("connect to the shim at {}", .path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The shim's process could not be started.
    #[error("start the shim: {step} {}", .path.display())]
    Spawn {
        /// What was tried.
        step: &'static str,
        /// With what.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl ShimError {
    /// Whether the shim said that what the call names is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { code: Code::NotFound, .. })
    }

    /// Whether the shim has ended, or never was.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        match self {
            Self::Gone { .. } => true,
            Self::Connect { source, .. } => {
                matches!(source.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused)
            }
            Self::Deadline { .. } | Self::Refused { .. } | Self::Protocol { .. } | Self::Spawn { .. } => {
                false
            }
        }
    }
}
