//! What a server of sessions may be told, with defaults that are those of the reference.

use std::time::Duration;

/// Bounds of all sessions of one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A session without any frame for so long, either way, is closed (`StreamIdleTimeout` of
    /// k8s.io/cri-streaming: 4 h).
    pub idle: Duration,
    /// How long a client may take to open the streams that it must open (`StreamCreationTimeout` of
    /// k8s.io/cri-streaming: 30 s).
    pub creation: Duration,
    /// How long a request's header may take.
    pub header: Duration,
    /// How long, in all, is waited for output after a process's end: children that it left behind may
    /// hold its output open for ever.
    pub drain: Duration,
    /// How long a client that takes nothing is waited for when it was let go, or its terminal's process has ended: it
    /// did not take what it was shown before. Without a terminal the rest of the output may be waiting for a reader
    /// who pauses (`kubectl exec ... | less`): there only `idle` counts.
    pub unheard: Duration,
    /// Connections at a time; more wait unaccepted.
    pub connections: usize,
    /// Forwarded connections at a time in one session.
    pub forwards: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            idle: Duration::from_secs(4 * 60 * 60),
            creation: Duration::from_secs(30),
            header: Duration::from_secs(10),
            drain: Duration::from_secs(1),
            unheard: Duration::from_secs(60),
            connections: 2000,
            forwards: 1000,
        }
    }
}
