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

/// A field that cannot be obeyed: malformed, out of range, or in contradiction to another.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{field}: {reason}")]
pub(crate) struct Bad {
    /// Path of the field in the request.
    field: String,
    /// What is wrong, and what would be right.
    reason: String,
}

impl Bad {
    pub(crate) fn field(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Bad { field: field.into(), reason: reason.into() }
    }
}

#[cfg(test)]
mod tests;
