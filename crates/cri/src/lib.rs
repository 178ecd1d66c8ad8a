//! The CRI services: requests to domain, answers, gRPC codes.
//!
//! Only this crate (and `api`) knows protobuf, and only [`status`] makes a gRPC status.
#![forbid(unsafe_code)]

mod call;
mod parse;

pub use call::{Call, CallLayer, Caller};
