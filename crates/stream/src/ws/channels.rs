//! Channels in websocket messages: which one a message is for, and its bytes.
//!
//! Messages come in pieces (see `frame`), so a message's head and its base64 are followed over the pieces'
//! borders. Nothing here reads or writes: the same functions are fuzzed.

use super::protocol::{CLOSE_SIGNAL, Protocol};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{Bytes, BytesMut};

/// What a piece of a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// Bytes of a channel.
    Data {
        /// Its number.
        channel: u8,
        /// Not empty.
        bytes: Bytes,
    },
    /// The channel ends: nothing more comes on it.
    Close {
        /// Its number.
        channel: u8,
    },
}

/// Why a message means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// Its first character is below `0`.
    #[error("a message of a base64 protocol begins with the channel's digit, not with byte {0}")]
    Digit(u8),
    /// Not base64.
    #[error("channel {0}: the data is not base64")]
    Base64(u8),
    /// The close signal without exactly one channel.
    #[error("the close signal is byte 255 and the channel's number, nothing else")]
    Close,
}

/// A message that is being taken apart.
#[derive(Debug)]
pub struct Messages {
    protocol: Protocol,
    within: Within,
    /// Characters of base64 that are not yet a group of four.
    carry: [u8; 4],
    carried: usize,
    /// The group with the padding came: nothing may follow.
    padded: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Within {
    Start,
    Channel(u8),
    Signal,
    Closing(u8),
}

impl Messages {
    /// For one connection.
    #[must_use]
    pub fn new(protocol: Protocol) -> Messages {
        Messages { protocol, within: Within::Start, carry: [0; 4], carried: 0, padded: false }
    }

    /// Takes the next piece of a message; `last` ends the message. An empty message says nothing, and so
    /// does a channel without data.
    ///
    /// # Errors
    /// [`ChannelError`]: the connection should end.
    pub fn piece(&mut self, mut piece: Bytes, last: bool) -> Result<Option<Said>, ChannelError> {
        if self.within == Within::Start && !piece.is_empty() {
            let first = piece.split_to(1)[0];
            self.within = self.begin(first)?;
        }
        let said = match self.within {
            Within::Start => None,
            Within::Channel(channel) => {
                let bytes =
                    if self.protocol.is_base64() { self.decode(channel, &piece, last)? } else { piece };
                if bytes.is_empty() { None } else { Some(Said::Data { channel, bytes }) }
            }
            Within::Signal | Within::Closing(_) => {
                for channel in piece {
                    self.within = match self.within {
                        Within::Signal => Within::Closing(channel),
                        Within::Start | Within::Channel(_) | Within::Closing(_) => {
                            return Err(ChannelError::Close);
                        }
                    };
                }
                match (self.within, last) {
                    (Within::Closing(channel), true) => Some(Said::Close { channel }),
                    (Within::Signal, true) => return Err(ChannelError::Close),
                    (Within::Start | Within::Channel(_) | Within::Signal | Within::Closing(_), _) => None,
                }
            }
        };
        if last {
            self.within = Within::Start;
            self.padded = false;
        }
        Ok(said)
    }

    /// What the first byte of a message announces.
    fn begin(&self, first: u8) -> Result<Within, ChannelError> {
        if self.protocol.is_base64() {
            let channel = first.checked_sub(b'0').ok_or(ChannelError::Digit(first))?;
            return Ok(Within::Channel(channel));
        }
        // Only v5 has it, but client-go says it whatever was agreed on, and no channel has that number.
        if first == CLOSE_SIGNAL {
            return Ok(Within::Signal);
        }
        Ok(Within::Channel(first))
    }

    /// The data in a piece of base64. Line ends are skipped, as Go's decoder does.
    fn decode(&mut self, channel: u8, piece: &[u8], last: bool) -> Result<Bytes, ChannelError> {
        let wrong = ChannelError::Base64(channel);
        let mut text = BytesMut::with_capacity(self.carried + piece.len());
        text.extend_from_slice(&self.carry[..self.carried]);
        text.extend(piece.iter().copied().filter(|byte| !matches!(byte, b'\r' | b'\n')));
        let whole = text.len() / 4 * 4;
        let rest = &text[whole..];
        if last && !rest.is_empty() || whole > 0 && self.padded {
            return Err(wrong);
        }
        self.carried = rest.len();
        self.carry[..rest.len()].copy_from_slice(rest);
        self.padded |= text[..whole].ends_with(b"=");
        STANDARD.decode(&text[..whole]).map(Bytes::from).map_err(|_| wrong)
    }
}

/// What one whole message says.
///
/// # Errors
/// [`ChannelError`]
pub fn parse(protocol: Protocol, message: &[u8]) -> Result<Option<Said>, ChannelError> {
    Messages::new(protocol).piece(Bytes::copy_from_slice(message), true)
}

/// The payload of a message for a channel: the byte that goes first, and the rest.
pub(crate) fn compose(protocol: Protocol, channel: u8, bytes: &[u8]) -> (u8, Bytes) {
    if protocol.is_base64() {
        (b'0'.wrapping_add(channel), STANDARD.encode(bytes).into())
    } else {
        (channel, Bytes::copy_from_slice(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(channel: u8, bytes: &'static [u8]) -> Result<Option<Said>, ChannelError> {
        Ok(Some(Said::Data { channel, bytes: Bytes::from_static(bytes) }))
    }

    #[test]
    fn the_first_byte_is_the_channel() {
        assert_eq!(parse(Protocol::V4, b"\0ls\n"), data(0, b"ls\n"));
        assert_eq!(parse(Protocol::V1, b"\xfe\x00"), data(254, b"\0"));
        assert_eq!(parse(Protocol::V1Base64, b"0Zm9vCgo="), data(0, b"foo\n\n"));
        assert_eq!(parse(Protocol::V4Base64, b"4Cg=="), data(4, b"\n"));
        assert_eq!(parse(Protocol::V4Base64, b"0Zm9v\r\nCgo="), data(0, b"foo\n\n"));
    }

    #[test]
    fn empty_messages_say_nothing() {
        for protocol in super::super::protocol::PROTOCOLS_REMOTE {
            assert_eq!(parse(protocol, b""), Ok(None));
            assert_eq!(parse(protocol, b"0"), Ok(None));
        }
    }

    #[test]
    fn the_close_signal_names_one_channel() {
        for protocol in [Protocol::V5, Protocol::V4, Protocol::V1, Protocol::Unnamed] {
            assert_eq!(parse(protocol, &[255, 0]), Ok(Some(Said::Close { channel: 0 })));
        }
        assert_eq!(parse(Protocol::V5, &[255]), Err(ChannelError::Close));
        assert_eq!(parse(Protocol::V5, &[255, 0, 1]), Err(ChannelError::Close));
        let mut messages = Messages::new(Protocol::V5);
        assert_eq!(messages.piece(Bytes::from_static(&[255]), false), Ok(None));
        assert_eq!(messages.piece(Bytes::from_static(&[0]), false), Ok(None));
        assert_eq!(messages.piece(Bytes::new(), true), Ok(Some(Said::Close { channel: 0 })));
        assert_eq!(messages.piece(Bytes::from_static(b"\0x"), true), data(0, b"x"));
    }

    #[test]
    fn what_is_not_base64_is_refused() {
        for message in ["0Zm9", "0Zm9v=", "0****", "0Zg==Zg==", "0Zm9v\u{e9}aa"] {
            let wrong = Err(ChannelError::Base64(0));
            assert_eq!(parse(Protocol::V4Base64, message.as_bytes()), wrong, "{message}");
            for cut in 0..message.len() {
                let (first, rest) = message.as_bytes().split_at(cut);
                let mut messages = Messages::new(Protocol::V4Base64);
                let said = messages.piece(Bytes::copy_from_slice(first), false);
                let said = said.and_then(|_| messages.piece(Bytes::copy_from_slice(rest), true));
                assert_eq!(said, wrong, "{message} cut at {cut}");
            }
        }
        assert_eq!(parse(Protocol::V4Base64, b"\x01Zm9v"), Err(ChannelError::Digit(1)));
    }

    #[test]
    fn base64_goes_over_the_borders_of_pieces() {
        let message = b"1cGVhcG9kIGlzIGEgcnVudGltZQ==";
        for cut in 0..message.len() {
            let mut messages = Messages::new(Protocol::V4Base64);
            let mut got = Vec::new();
            for (piece, last) in [(&message[..cut], false), (&message[cut..], true)] {
                match messages.piece(Bytes::from_static(piece), last).expect("well-formed") {
                    Some(Said::Data { channel: 1, bytes }) => got.extend_from_slice(&bytes),
                    None => {}
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(got, b"peapod is a runtime", "cut at {cut}");
            assert_eq!(messages.piece(Bytes::from_static(b"0Zg=="), true), data(0, b"f"));
        }
    }

    #[test]
    fn what_is_composed_is_parsed() {
        for protocol in super::super::protocol::PROTOCOLS_REMOTE {
            let (first, rest) = compose(protocol, 3, b"\xff\0bytes");
            let message = [&[first], &rest[..]].concat();
            assert_eq!(parse(protocol, &message), data(3, b"\xff\0bytes"));
        }
    }
}
