//! Requests to domain types. Every InvalidArgument that needs no look at the host is decided here,
//! before anything is touched, and names the field as the CRI spells it.

mod container;
mod mount;
mod pod;
mod resources;
mod security;
mod text;

pub(crate) use container::container;
pub(crate) use pod::pod;
pub(crate) use resources::resources;

/// A field that cannot be obeyed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Bad {
    /// It is malformed, out of range or contradicts another.
    #[error("{field}: {reason}")]
    Malformed {
        /// Path of the field in the request.
        field: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// It is well-formed and asks for something that this version does not do.
    #[error("{field}: {what} is not supported by this version of peapod")]
    Unsupported {
        /// Path of the field in the request.
        field: String,
        /// What was asked for.
        what: String,
    },
}

impl Bad {
    /// A malformed field.
    pub(crate) fn field(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Bad::Malformed { field: field.into(), reason: reason.into() }
    }

    /// A field that is refused by name.
    pub(crate) fn refused(field: impl Into<String>, what: impl Into<String>) -> Self {
        Bad::Unsupported { field: field.into(), what: what.into() }
    }
}

#[cfg(test)]
mod tests;
