//! Why a container cannot be specified.

/// An error of this crate: the request asks for what cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Neither request nor image names a program.
    #[error("command: neither the request nor the image has one")]
    NoCommand,
    /// `config.json` is text.
    #[error("envs: the value of {name:?} is not UTF-8, which the OCI runtime specification cannot carry")]
    NotUtf8 {
        /// Name of the variable.
        name: String,
    },
    /// A field has a value that means nothing here.
    #[error("{field}: {why}")]
    BadField {
        /// Field of the request.
        field: String,
        /// What is wrong with it.
        why: String,
    },
    /// The container joins a namespace that its pod does not have.
    #[error("linux.security_context.namespace_options: the pod has no {what} namespace to share")]
    NoNamespace {
        /// Which kind.
        what: &'static str,
    },
}

impl SpecError {
    pub(crate) fn bad(field: impl Into<String>, why: impl Into<String>) -> SpecError {
        SpecError::BadField { field: field.into(), why: why.into() }
    }
}
