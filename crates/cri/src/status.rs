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
use engine::{EngineError, EventsEnded};
use image::{ErrorKind, ImageError};
use std::error::Error;
use stream::GrantError;
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

/// Of the images. The kubelet matches the start of the text for a registry that cannot be reached
/// (cri-api `RegistryUnavailable`), and only if the code is Unknown.
pub(crate) fn of_image(error: &ImageError) -> Status {
    match error.kind() {
        ErrorKind::Invalid => Status::invalid_argument(text(error)),
        ErrorKind::NotFound => Status::not_found(text(error)),
        ErrorKind::Denied => Status::permission_denied(text(error)),
        ErrorKind::Unavailable => Status::unknown(format!("RegistryUnavailable: {}", text(error))),
        ErrorKind::Refused => Status::failed_precondition(text(error)),
        ErrorKind::Internal => Status::internal(text(error)),
    }
}

/// Of the stream server.
pub(crate) fn of_grant(error: &GrantError) -> Status {
    let code = match error {
        GrantError::Full => Code::ResourceExhausted,
        GrantError::Refused(_) | GrantError::Unreachable { .. } => Code::Internal,
    };
    Status::new(code, text(error))
}

/// Nobody reads this answer: its caller has gone.
pub(crate) fn caller_left(method: &str) -> Status {
    Status::cancelled(format!("{method}: the caller has left"))
}

/// Why a stream of events ends. The kubelet opens a new one.
pub(crate) fn of_ended_events(ended: EventsEnded) -> Status {
    match ended {
        EventsEnded::Slow => Status::resource_exhausted(
            "GetContainerEvents: too many events waited for this caller; a new call gets those that follow",
        ),
        EventsEnded::Stopping => of_engine(&EngineError::Unavailable),
    }
}

/// Of an RPC that this version does not serve: nothing pretends.
pub(crate) fn not_served(method: &str) -> Status {
    Status::unimplemented(format!("{method} is not served by this version of peapod"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_of_the_engine_has_its_code() {
        let why = || "why".to_owned();
        for (error, code) in [
            (EngineError::NotFound { what: "container", id: why(), source: None }, Code::NotFound),
            (EngineError::AlreadyExists { what: "container", name: why(), id: why() }, Code::AlreadyExists),
            (EngineError::FailedPrecondition { why: why(), source: None }, Code::FailedPrecondition),
            (
                EngineError::InvalidArgument { field: "config", why: why(), source: None },
                Code::InvalidArgument,
            ),
            (EngineError::ResourceExhausted { why: why(), source: None }, Code::ResourceExhausted),
            (EngineError::DeadlineExceeded { doing: why(), source: None }, Code::DeadlineExceeded),
            (EngineError::Unavailable, Code::Unavailable),
            (EngineError::Internal { doing: why(), source: None }, Code::Internal),
        ] {
            assert_eq!(of_engine(&error).code(), code, "{error}");
        }
        let bad = Bad::field("config.CDI_devices", "no device");
        assert_eq!(of_request(&bad).code(), Code::InvalidArgument);
        assert!(of_request(&bad).message().starts_with("config.CDI_devices: "));
        assert_eq!(not_served("Exec").code(), Code::Unimplemented);
    }

    #[test]
    fn a_long_chain_of_causes_is_cut() {
        let error = EngineError::Internal { doing: "ü".repeat(10_000), source: None };
        assert!(of_engine(&error).message().len() <= LONGEST + 4);
    }
}
