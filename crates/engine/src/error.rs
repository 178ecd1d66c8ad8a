//! What the engine answers when it cannot do what was asked; `cri/status.rs` makes codes of it.
//!
//! An error may be told to several askers (a retry that joined the work), so it can be cloned.

use crate::host::{Fault, HostError};
use std::{error::Error, sync::Arc};

/// A cause, shared by all who are told.
pub type Cause = Arc<dyn Error + Send + Sync>;

/// Why a call failed. Where it says nothing else, nothing was changed or all of it was undone.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineError {
    /// There is no such object.
    #[error("no {what} `{}`", shown(.id))]
    NotFound {
        /// `pod sandbox`, `container` or `image`.
        what: &'static str,
        /// As asked.
        id: String,
        /// What the host said, for an image.
        #[source]
        source: Option<Cause>,
    },
    /// The name is taken by an object with a different configuration.
    #[error("the {what} name {name} is taken by {id}, which has a different configuration")]
    AlreadyExists {
        /// `pod sandbox` or `container`.
        what: &'static str,
        /// The name with all its parts.
        name: String,
        /// Who has it.
        id: String,
    },
    /// The object is in the wrong state, or the machine is not ready.
    #[error("{why}")]
    FailedPrecondition {
        /// Which state, and which is wanted.
        why: String,
        /// What the host said, if it did.
        #[source]
        source: Option<Cause>,
    },
    /// The request asks for what cannot be.
    #[error("{field}: {why}")]
    InvalidArgument {
        /// By its CRI name.
        field: &'static str,
        /// What is wrong with it.
        why: String,
        /// More, if there is more.
        #[source]
        source: Option<Cause>,
    },
    /// A bound was met.
    #[error("{why}")]
    ResourceExhausted {
        /// Which.
        why: String,
        /// What the host said, if it did.
        #[source]
        source: Option<Cause>,
    },
    /// It took too long; what was begun may go on.
    #[error("{doing}: it took too long")]
    DeadlineExceeded {
        /// What was being done: `cannot ...`.
        doing: String,
        /// More, if there is more.
        #[source]
        source: Option<Cause>,
    },
    /// The daemon is stopping.
    #[error("the daemon is stopping")]
    Unavailable,
    /// Anything else.
    #[error("{doing}")]
    Internal {
        /// What was being done: `cannot ...`.
        doing: String,
        /// Why it failed.
        #[source]
        source: Option<Cause>,
    },
}

impl EngineError {
    pub(crate) fn precondition(why: impl Into<String>) -> Self {
        EngineError::FailedPrecondition { why: why.into(), source: None }
    }

    pub(crate) fn invalid(field: &'static str, why: impl Into<String>) -> Self {
        EngineError::InvalidArgument { field, why: why.into(), source: None }
    }

    pub(crate) fn exhausted(why: impl Into<String>) -> Self {
        EngineError::ResourceExhausted { why: why.into(), source: None }
    }

    pub(crate) fn internal(doing: impl Into<String>, cause: impl Error + Send + Sync + 'static) -> Self {
        EngineError::Internal { doing: doing.into(), source: Some(Arc::new(cause)) }
    }

    /// The task that should have answered has ended without.
    pub(crate) fn task_died(what: &'static str) -> Self {
        EngineError::Internal { doing: format!("the {what}'s task ended without an answer"), source: None }
    }

    /// The same failure, said of the image that was asked for, if it is that.
    pub(crate) fn image(image: &str, doing: &str, error: HostError) -> Self {
        match error.fault {
            Fault::NotFound => {
                EngineError::NotFound { what: "image", id: image.to_owned(), source: Some(Arc::new(error)) }
            }
            Fault::Invalid(_)
            | Fault::Precondition
            | Fault::Exhausted
            | Fault::Deadline
            | Fault::ShimGone
            | Fault::Internal => EngineError::host(doing, error),
        }
    }

    /// The same failure, said of what the host was asked for.
    pub(crate) fn host(doing: &str, error: HostError) -> Self {
        let fault = error.fault;
        let doing = doing.to_owned();
        // What the host says in the same words is not said twice.
        let source: Option<Cause> =
            if error.doing == doing { error.source.map(Arc::from) } else { Some(Arc::new(error)) };
        match fault {
            // Only an image can be missing, and who asked for it by name says so with its name.
            Fault::NotFound => EngineError::FailedPrecondition { why: doing, source },
            Fault::Invalid(field) => EngineError::InvalidArgument { field, why: doing, source },
            Fault::Precondition => EngineError::FailedPrecondition { why: doing, source },
            Fault::Exhausted => EngineError::ResourceExhausted { why: doing, source },
            Fault::Deadline => EngineError::DeadlineExceeded { doing, source },
            Fault::ShimGone | Fault::Internal => EngineError::Internal { doing, source },
        }
    }
}

/// The start of an id as it was asked for: it may be anything, and long.
fn shown(id: &str) -> String {
    id.chars().take(80).flat_map(char::escape_default).collect()
}

/// The text of an error with all its causes, as it is kept in a status message.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
