//! Exec, attach and port-forward over a websocket, once the server has answered 101.
//!
//! ```text
//! upgraded io --> socket::Reader --frame, channels--> session queue | one queue a connection
//!             <-- socket::Writer <-- session::Client | forward::Peer
//!             <-> Tunnel (SPDY/3.1+portforward.k8s.io): the bytes of a SPDY connection
//! ```
//!
//! Limits: a message may have any size, since it is handed on in pieces of at most 64 KiB and never held;
//! a queue holds four pieces; then the connection is not read until the process or the pod takes them.

pub mod channels;
pub(crate) mod end;
mod forward;
pub mod frame;
mod handshake;
pub(crate) mod protocol;
mod remote;
pub mod resize;
pub(crate) mod socket;
mod tunnel;

#[cfg(test)]
pub(crate) mod tests;

pub use handshake::{VERSION, accept_key};
pub use protocol::{PROTOCOLS_FORWARD, PROTOCOLS_REMOTE, Protocol};

pub(crate) use forward::serve_forward;
pub(crate) use remote::serve_remote;
pub(crate) use tunnel::Tunnel;
