//! All cases, by subject.

mod checkpoint;
mod devices;
mod events;
mod images;
mod lifecycle;
mod lists;
mod logs;
mod mounts;
mod namespaces;
mod refused;
mod resources;
mod runtime;
mod sandbox;
mod security;
mod signals;
mod stats;
mod streams;
mod userns;
mod users;

use crate::case::Case;

/// Every case.
#[must_use]
pub fn all() -> Vec<Case> {
    [
        runtime::cases(),
        sandbox::cases(),
        namespaces::cases(),
        userns::cases(),
        users::cases(),
        security::cases(),
        mounts::cases(),
        devices::cases(),
        resources::cases(),
        lifecycle::cases(),
        signals::cases(),
        logs::cases(),
        streams::cases(),
        images::cases(),
        lists::cases(),
        stats::cases(),
        events::cases(),
        checkpoint::cases(),
        refused::cases(),
    ]
    .concat()
}
