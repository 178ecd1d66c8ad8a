//! Exec, attach and port-forward for the clients of a node: every protocol that Kubernetes' clients
//! speak, on one port.
//!
//! This crate knows bytes, not pods: what a session is about is a [`Ticket`], which somebody who has
//! checked it leaves here for a token; whoever brings the token in time gets the session, once. The
//! other end of the bytes is a [`Backend`].
//!
//! ```text
//! daemon --Ticket--> control socket --> tokens            (control)
//! client --GET /exec/TOKEN, Upgrade--> server --> spdy | ws --> session --> Backend
//! ```
#![forbid(unsafe_code)]

mod backend;
pub mod client;
pub mod control;
mod door;
mod forward;
mod negotiate;
mod server;
mod session;
mod settings;
pub mod spdy;
mod status;
mod ticket;
mod tokens;
pub mod ws;

pub use backend::{Backend, BackendError, Control, Ended, Process};
pub use door::{Door, GrantError, Sessions};
pub use server::{Count, serve};
pub use session::{Channel, Event, Size};
pub use settings::Settings;
pub use ticket::{Attach, Exec, Forward, Streams, Ticket};
pub use tokens::{Kind, NoToken, Tokens};
