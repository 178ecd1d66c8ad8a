//! A pod: its plan, its phases, the way up and down, and the task that owns it.

mod birth;
mod phase;
pub mod plan;
pub(crate) mod run;
mod size;
pub(crate) mod task;

pub(crate) use birth::{found, new};
pub use phase::{Denied, Effect, Event, Left, Phase, PodUp};
pub use size::PodSize;
