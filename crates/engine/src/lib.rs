//! The brain: pods and containers, their plans, phases and tasks.
#![forbid(unsafe_code)]

pub mod container;
pub mod host;
pub mod pod;
