//! The CRI services: requests to domain, answers, gRPC codes.
//!
//! Only this crate (and `api`) knows protobuf, and only `status.rs` makes a gRPC status.
#![forbid(unsafe_code)]

mod admin;
mod call;
mod image;
mod parse;
mod render;
mod runtime;
mod status;

pub use admin::AdminApi;
pub use call::{Call, CallLayer, Caller};
pub use image::ImageApi;
pub use parse::Handlers;
pub use runtime::{HandlerState, NetworkState, Node, Runtime};
