//! A container: its plan, its phases, the way up and down, and the task that owns it.

mod birth;
mod phase;
pub mod plan;
pub(crate) mod run;
mod stop;
pub(crate) mod task;
mod update;

pub(crate) use birth::{found, new};
pub use phase::{Denied, Effect, Ended, Event, Phase, Reason, START_FAILED_CODE, UNKNOWN_CODE};
