//! The daemon's end of a shim: start one, connect to one that runs, call it, learn of its end.
//!
//! One [`Shim`] is one connection with any number of calls in flight; clones share it. Every call has
//! a deadline, and every failure is one of [`ShimError`]: a shim that is gone, frozen, refusing or
//! talking nonsense are four different things to the daemon.

#![forbid(unsafe_code)]

mod client;
mod error;
mod fifo;
mod hold;
mod process;
mod shim;
mod spawn;
mod wire;

pub use error::{Code, ShimError};
pub use fifo::{Input, Output};
pub use hold::Holder;
pub use process::{Attach, Attached, ExecProcess};
pub use shim::{CreateTask, Ended, ExecSync, RootMount, Shim};
pub use spawn::{Program, SpawnRequest};
