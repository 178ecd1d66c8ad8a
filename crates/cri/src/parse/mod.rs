//! Requests to domain types. Every InvalidArgument that needs no look at the host is decided here,
//! before anything is touched, and names the field as the CRI spells it.

mod container;
mod mount;
mod pod;
mod resources;
mod security;
mod text;

use std::sync::Arc;
use types::handler::OWN;

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

/// The names of RuntimeClass handlers that this node has, our own runner's among them.
#[derive(Clone, Debug)]
pub struct Handlers(Arc<[String]>);

impl Handlers {
    /// Our own runner, and those that are configured.
    pub fn new<'a>(configured: impl Iterator<Item = &'a str>) -> Handlers {
        Handlers(OWN.into_iter().chain(configured).map(str::to_owned).collect())
    }

    /// That a field names one of them.
    pub(crate) fn check(&self, field: impl Into<String>, name: &str) -> Result<(), Bad> {
        if self.0.iter().any(|known| known == name) {
            return Ok(());
        }
        let known: Vec<String> = self.0.iter().map(|known| format!("`{known}`")).collect();
        let name = text::short(name);
        Err(Bad::field(field, format!("`{name}` is not configured; this node has {}", known.join(", "))))
    }
}

impl Default for Handlers {
    fn default() -> Handlers {
        Handlers::new(std::iter::empty())
    }
}

#[cfg(test)]
mod tests;
