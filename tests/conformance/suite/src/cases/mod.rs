//! All cases, by subject.

mod lifecycle;
mod runtime;
mod sandbox;

use crate::case::Case;

/// Every case.
#[must_use]
pub fn all() -> Vec<Case> {
    [runtime::cases(), sandbox::cases(), lifecycle::cases()].concat()
}
