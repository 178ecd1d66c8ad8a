//! SPDY/3.1 as Kubernetes' clients speak it: streams with headers over one connection, no flow control.
//!
//! The protocol is that of the draft `draft-mbelshe-httpbis-spdy-00` (with window updates: 3.1), less what
//! moby/spdystream does not do: windows and settings are neither sent nor honoured, and the back-pressure
//! is that of TCP.
//!
//! ```text
//! io --> Reader --Piece--> Input   (stream 1)      Output --\
//!                \-Piece--> Input   (stream 3)      Output ---> Connection --> io
//! ```

mod connection;
mod forward;
pub mod frame;
pub mod headers;
mod remote;

#[cfg(test)]
pub(crate) use connection::{Connection, Role, Stream, connection};
pub(crate) use forward::forward;
pub(crate) use remote::{Version, remote};
