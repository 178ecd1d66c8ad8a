//! A pod: its plan, its phases, the way up and down, and the task that owns it.

pub mod plan;
