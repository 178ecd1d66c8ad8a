//! The websocket subprotocols, by name (kubernetes:staging/src/k8s.io/cri-streaming/pkg/streaming/
//! {remotecommand,portforward}/websocket.go; v5 and the tunnel from client-go).

/// What is spoken over a websocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// None was asked for: as `channel.k8s.io`.
    Unnamed,
    /// `channel.k8s.io`: a byte with the channel's number, then data; errors are plain text.
    V1,
    /// `base64.channel.k8s.io`: a digit with the channel's number, then data in base64.
    V1Base64,
    /// `v4.channel.k8s.io`: as the first, and the end is a `metav1.Status`.
    V4,
    /// `v4.base64.channel.k8s.io`
    V4Base64,
    /// `v5.channel.k8s.io`: as v4, and byte 255 with a channel's number ends that channel alone. For
    /// port-forward this is an extension of ours: the Go server has no v5 there.
    V5,
    /// `SPDY/3.1+portforward.k8s.io`: a SPDY connection in binary messages.
    Tunnel,
}

/// What exec and attach speak, best first.
pub const PROTOCOLS_REMOTE: [Protocol; 6] =
    [Protocol::V5, Protocol::V4, Protocol::V4Base64, Protocol::V1, Protocol::V1Base64, Protocol::Unnamed];

/// What port-forward speaks, best first.
pub const PROTOCOLS_FORWARD: [Protocol; 5] =
    [Protocol::Tunnel, Protocol::V5, Protocol::V4, Protocol::V4Base64, Protocol::Unnamed];

/// The byte that says in v5 that a channel ends.
pub(crate) const CLOSE_SIGNAL: u8 = 255;

impl Protocol {
    /// Its name in `Sec-WebSocket-Protocol`; empty for the one without.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Unnamed => "",
            Protocol::V1 => "channel.k8s.io",
            Protocol::V1Base64 => "base64.channel.k8s.io",
            Protocol::V4 => "v4.channel.k8s.io",
            Protocol::V4Base64 => "v4.base64.channel.k8s.io",
            Protocol::V5 => "v5.channel.k8s.io",
            Protocol::Tunnel => "SPDY/3.1+portforward.k8s.io",
        }
    }

    /// The one that is meant by what a client asks for, in the client's order; empty if it asks for none.
    #[must_use]
    pub fn choose<'a>(among: &[Protocol], asked: impl IntoIterator<Item = &'a str>) -> Option<Protocol> {
        let mut asked = asked.into_iter().peekable();
        if asked.peek().is_none() {
            return among.iter().copied().find(|protocol| *protocol == Protocol::Unnamed);
        }
        asked.find_map(|name| among.iter().copied().find(|protocol| protocol.name() == name.trim()))
    }

    /// Data travels as base64 in text messages.
    pub(crate) fn is_base64(self) -> bool {
        match self {
            Protocol::V1Base64 | Protocol::V4Base64 => true,
            Protocol::Unnamed | Protocol::V1 | Protocol::V4 | Protocol::V5 | Protocol::Tunnel => false,
        }
    }

    /// A channel can be ended alone.
    pub(crate) fn has_close(self) -> bool {
        self == Protocol::V5
    }

    /// The end of a process is told as a `metav1.Status`, not as plain text.
    pub(crate) fn has_status(self) -> bool {
        match self {
            Protocol::V4 | Protocol::V4Base64 | Protocol::V5 => true,
            Protocol::Unnamed | Protocol::V1 | Protocol::V1Base64 | Protocol::Tunnel => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_first_choice_that_is_known_wins() {
        let asked = ["v9.channel.k8s.io", " v4.channel.k8s.io", "v5.channel.k8s.io"];
        assert_eq!(Protocol::choose(&PROTOCOLS_REMOTE, asked), Some(Protocol::V4));
        assert_eq!(Protocol::choose(&PROTOCOLS_REMOTE, []), Some(Protocol::Unnamed));
        assert_eq!(Protocol::choose(&PROTOCOLS_REMOTE, ["SPDY/3.1+portforward.k8s.io"]), None);
        assert_eq!(Protocol::choose(&PROTOCOLS_FORWARD, ["base64.channel.k8s.io"]), None);
        assert_eq!(
            Protocol::choose(&PROTOCOLS_FORWARD, ["SPDY/3.1+portforward.k8s.io"]),
            Some(Protocol::Tunnel)
        );
    }

    #[test]
    fn every_protocol_is_found_by_its_name() {
        for protocol in PROTOCOLS_REMOTE {
            assert_eq!(Protocol::choose(&PROTOCOLS_REMOTE, [protocol.name()]), Some(protocol));
        }
        for protocol in PROTOCOLS_FORWARD {
            assert_eq!(Protocol::choose(&PROTOCOLS_FORWARD, [protocol.name()]), Some(protocol));
        }
    }
}
