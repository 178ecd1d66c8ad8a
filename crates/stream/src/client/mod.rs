//! The other end of the wire: what `peapod exec`, `attach` and `port-forward` use.
//!
//! ```text
//! URL of the CRI's answer --connect--> websocket v5.channel.k8s.io --remote--> Input, Output
//!                                                                  --forward-> one TCP connection
//! ```

mod connect;
mod forward;
mod remote;

#[cfg(test)]
mod tests;

pub use connect::{Authorities, ConnectError};
pub use forward::{ForwardError, forward};
pub use remote::{Input, Outcome, Output, Remote, Said, remote};
