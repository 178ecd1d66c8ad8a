//! The brain: pods and containers, their plans, phases and tasks.
//!
//! [`Engine`] is what the CRI is served from. It opens no file, socket or process: it asks a
//! [`Host`]. Invariants:
//!
//! - One task owns one pod, one task each of its containers; all changes go through them. Readers
//!   get the last published snapshot and wait for nobody.
//! - The plan is on disk before the host is touched, and it names all that the object will own.
//!   Rollback, Stop and recovery after a crash are one function, `tear_down(plan)`.
//! - The caller may leave; the work goes on. An identical retry joins it, or gets the same id as long
//!   as the object lives.
//! - A call has answered only when its result is on disk. RunPodSandbox and CreateContainer commit
//!   twice (plan, result), other calls once.
//!
//! ```text
//!  cri --> Engine --> names, index --> pod::task --> container::task --> Host
//!             |           ^               |  commits      |
//!             | views     +-- publishes --+-------> store +
//! ```
#![forbid(unsafe_code)]

pub mod container;
mod core;
mod engine;
mod error;
mod events;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod feed;
pub mod host;
mod index;
mod names;
pub mod pod;
mod record;
mod recover;
#[cfg(any(test, feature = "fake"))]
pub mod suite;
#[cfg(test)]
mod tests;
mod view;

pub use crate::core::{Go, Parts, Probe, Random};
pub use engine::Engine;
pub use error::{Cause, EngineError};
pub use feed::{Ended as EventsEnded, Event, EventKind, Subscription};
pub use host::Host;
pub use view::{ContainerFilter, ContainerState, ContainerView, PodFilter, PodState, PodView};
