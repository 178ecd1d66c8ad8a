//! The one place where an error becomes a gRPC status.
//!
//! | code | when |
//! |---|---|
//! | InvalidArgument | a malformed field, named; or one that asks for what this version does not do |
//! | NotFound | no such object; Stop and Remove of it succeed all the same |
//! | AlreadyExists | the name is taken by a different configuration |
//! | FailedPrecondition | the object, or the machine, is in the wrong state |
//! | ResourceExhausted | a bound was met |
//! | DeadlineExceeded | it took too long |
//! | Unavailable | the daemon is stopping |
//! | Internal | anything else, with its causes |

use crate::parse::Bad;
use engine::EngineError;
use std::error::Error;
use tonic::{Code, Status};

/// The longest message: gRPC carries it in a header, and clients bound those (Go: 16 KiB by default).
const LONGEST: usize = 4096;

/// An error and all its causes in one line.
fn text(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    if text.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push_str(" ...");
    }
    text
}

/// Of a request that cannot be obeyed as it stands.
pub(crate) fn of_request(bad: &Bad) -> Status {
    Status::invalid_argument(text(bad))
}

/// Of the engine.
pub(crate) fn of_engine(error: &EngineError) -> Status {
    let code = match error {
        EngineError::NotFound { .. } => Code::NotFound,
        EngineError::AlreadyExists { .. } => Code::AlreadyExists,
        EngineError::FailedPrecondition { .. } => Code::FailedPrecondition,
        EngineError::InvalidArgument { .. } => Code::InvalidArgument,
        EngineError::ResourceExhausted { .. } => Code::ResourceExhausted,
        EngineError::DeadlineExceeded { .. } => Code::DeadlineExceeded,
        EngineError::Unavailable => Code::Unavailable,
        EngineError::Internal { .. } => Code::Internal,
    };
    Status::new(code, text(error))
}
