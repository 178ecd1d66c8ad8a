//! The last word of an exec or attach session: a `metav1.Status`, or plain text in the old protocols.

use crate::backend::{BackendError, Ended};
use serde_json::{Value, json};

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The process ended, or the client was let go.
    Ended(Ended),
    /// There was no process, or it was lost: a sentence.
    Failed(String),
}

impl Outcome {
    /// That of a wait.
    pub(crate) fn of(end: Result<Ended, BackendError>) -> Outcome {
        match end {
            Ok(ended) => Outcome::Ended(ended),
            Err(BackendError(text)) => Outcome::Failed(text),
        }
    }

    /// For v4 and later; as k8s.io/cri-streaming:pkg/streaming/remotecommand/{exec,status}.go writes it.
    pub(crate) fn json(&self) -> Vec<u8> {
        let status: Value = match (self, self.text()) {
            (_, None) => json!({ "metadata": {}, "status": "Success" }),
            (Outcome::Ended(Ended::Code(code)), Some(message)) => json!({
                "metadata": {},
                "status": "Failure",
                "message": message,
                "reason": "NonZeroExitCode",
                "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
            }),
            (Outcome::Ended(Ended::Detached) | Outcome::Failed(_), Some(message)) => json!({
                "metadata": {},
                "status": "Failure",
                "message": message,
                "reason": "InternalError",
                "code": 500,
            }),
        };
        status.to_string().into_bytes()
    }

    /// For v1 to v3: nothing on success.
    pub(crate) fn text(&self) -> Option<String> {
        match self {
            Outcome::Ended(Ended::Code(0) | Ended::Detached) => None,
            Outcome::Ended(Ended::Code(code)) => {
                Some(format!("command terminated with non-zero exit code: exit status {code}"))
            }
            Outcome::Failed(text) => Some(format!("Internal error occurred: {text}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(outcome: &Outcome) -> Value {
        serde_json::from_slice(&outcome.json()).expect("json")
    }

    #[test]
    fn success_has_no_text_and_a_short_status() {
        for ended in [Ended::Code(0), Ended::Detached] {
            let outcome = Outcome::Ended(ended);
            assert_eq!(outcome.text(), None);
            assert_eq!(parsed(&outcome), json!({ "metadata": {}, "status": "Success" }));
        }
    }

    #[test]
    fn an_exit_code_is_a_cause() {
        let status = parsed(&Outcome::Ended(Ended::Code(137)));
        assert_eq!(status["status"], "Failure");
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"], json!([{ "reason": "ExitCode", "message": "137" }]));
        assert_eq!(status["message"], "command terminated with non-zero exit code: exit status 137");
    }

    #[test]
    fn anything_else_is_an_internal_error_with_its_text() {
        let outcome = Outcome::of(Err(BackendError("no \"such\" container".to_owned())));
        let status = parsed(&outcome);
        assert_eq!(status["reason"], "InternalError");
        assert_eq!(status["code"], 500);
        assert_eq!(status["message"], "Internal error occurred: no \"such\" container");
        assert_eq!(outcome.text().as_deref(), Some("Internal error occurred: no \"such\" container"));
    }
}
