//! The functions under fuzz: each takes any bytes and panics when something that must hold does not.

pub mod stream_targets;
