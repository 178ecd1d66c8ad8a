//! Why a profile cannot become a program.

use std::path::PathBuf;

/// An error of this crate. The fields are those of the OCI `linux.seccomp`.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// Something that this runtime does not do.
    #[error("{field}: {what} is not supported")]
    Unsupported {
        /// Which field.
        field: String,
        /// Which of its values.
        what: String,
    },
    /// A value that means nothing.
    #[error("{field}: {why}")]
    BadValue {
        /// Which field.
        field: String,
        /// What is wrong with it.
        why: String,
    },
    /// The kernel takes 4096 instructions.
    #[error("the profile needs {instructions} instructions, more than the kernel's 4096")]
    TooLong {
        /// How many it needs.
        instructions: usize,
    },
    /// A profile file cannot be read.
    #[error("the seccomp profile {path}")]
    Profile {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The directory of compiled programs cannot be used.
    #[error("the directory of compiled profiles {path}")]
    Cache {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
}
