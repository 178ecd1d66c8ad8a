//! What a client of a session may send: nothing of it may panic, be understood differently when it arrives
//! in other pieces, come out as more than went in, or come out of another channel than it was sent on.

use bytes::Bytes;
use std::collections::BTreeMap;
use stream::{
    Size,
    spdy::{frame as spdy, headers},
    ws::{
        PROTOCOLS_FORWARD, PROTOCOLS_REMOTE, Protocol,
        channels::{ChannelError, Messages, Said, parse},
        frame::{Decoder, FrameError, Item, Role},
        resize::Sizes,
    },
};

/// What a decoder made of all it got: messages as bytes, other items as text.
#[derive(Debug, Default, PartialEq, Eq)]
struct Decoded {
    items: Vec<String>,
    bytes: Vec<u8>,
    error: Option<FrameError>,
}

fn decode(role: Role, data: &[u8], size: usize) -> Decoded {
    let (mut decoder, mut arrived, mut all) = (Decoder::new(role), Vec::new(), Decoded::default());
    let mut within = false;
    for piece in data.chunks(size.max(1)) {
        arrived.extend_from_slice(piece);
        loop {
            let (taken, item) = match decoder.decode(&mut arrived) {
                Ok(step) => step,
                Err(error) => {
                    all.error = Some(error);
                    return all;
                }
            };
            assert!(taken <= arrived.len(), "no more is taken than is there");
            match &item {
                Some(Item::Data(piece)) => {
                    assert!(piece.at.end <= taken, "a piece lies in what was taken");
                    assert_eq!(piece.first, !within, "a message begins once");
                    within = !piece.last;
                    all.bytes.extend_from_slice(&arrived[piece.at.clone()]);
                    if piece.last {
                        all.items.push(format!("{:?} to {}", piece.kind, all.bytes.len()));
                    }
                }
                Some(other) => all.items.push(format!("{other:?} at {}", all.bytes.len())),
                None => {}
            }
            arrived.drain(..taken);
            if item.is_none() {
                break;
            }
        }
        assert!(arrived.len() < 14 + 1, "only a head is left for later");
    }
    all
}

/// Websocket frames: the first byte chooses the side and the pieces.
pub fn ws_frames(data: &[u8]) {
    let Some((choice, data)) = data.split_first() else { return };
    let role = if choice & 1 == 0 { Role::Server } else { Role::Client };
    let whole = decode(role, data, data.len());
    assert!(whole.bytes.len() <= data.len());
    assert_eq!(decode(role, data, usize::from(choice >> 1) + 1), whole, "pieces make no difference");
}

/// What messages said, by channel; closed channels in order.
#[derive(Debug, Default, PartialEq, Eq)]
struct Channels {
    said: BTreeMap<u8, Vec<u8>>,
    closed: Vec<u8>,
    error: Option<ChannelError>,
}

impl Channels {
    fn take(&mut self, said: Result<Option<Said>, ChannelError>) {
        match said {
            Ok(Some(Said::Data { channel, bytes })) => {
                assert!(!bytes.is_empty());
                self.said.entry(channel).or_default().extend_from_slice(&bytes);
            }
            Ok(Some(Said::Close { channel })) => self.closed.push(channel),
            Ok(None) => {}
            Err(error) => self.error = Some(error),
        }
    }
}

/// Channel messages: the first byte chooses the protocol, the second the pieces; then messages, each after
/// its length.
pub fn ws_channels(data: &[u8]) {
    let [choice, size, rest @ ..] = data else { return };
    let protocols: Vec<Protocol> = PROTOCOLS_REMOTE.into_iter().chain(PROTOCOLS_FORWARD).collect();
    let protocol = protocols[usize::from(*choice) % protocols.len()];
    let (mut messages, mut rest) = (Messages::new(protocol), rest);
    while let [length, after @ ..] = rest {
        let (message, after) = after.split_at(after.len().min(usize::from(*length)));
        rest = after;
        let (mut whole, mut pieces) = (Channels::default(), Channels::default());
        whole.take(parse(protocol, message));
        assert!(whole.said.len() <= 1, "a message is of one channel");
        assert!(whole.said.values().all(|bytes| bytes.len() < message.len()));
        if let Some(channel) = whole.said.keys().next() {
            assert!([Some(channel), Some(&channel.wrapping_add(b'0'))].contains(&message.first()));
        }
        for piece in message.chunks(usize::from(*size).max(1)) {
            pieces.take(messages.piece(Bytes::copy_from_slice(piece), false));
            if pieces.error.is_some() {
                break;
            }
        }
        if pieces.error.is_none() {
            pieces.take(messages.piece(Bytes::new(), true));
        }
        assert_eq!(pieces.error, whole.error, "pieces make no difference");
        if pieces.error.is_some() {
            return;
        }
        assert_eq!(pieces, whole, "pieces make no difference");
    }
}

/// Window sizes: the first byte chooses the pieces.
pub fn resize(data: &[u8]) {
    let Some((size, data)) = data.split_first() else { return };
    let whole = Sizes::default().take(data);
    let mut sizes = Sizes::default();
    let newest = |newest: Option<Size>, piece| sizes.take(piece).or(newest);
    let pieces = data.chunks(usize::from(*size).max(1)).fold(None, newest);
    assert_eq!(pieces, whole, "pieces of {size} make no difference to {:?}", String::from_utf8_lossy(data));
}

/// SPDY frames, one after the other.
pub fn spdy_frames(data: &[u8]) {
    let mut rest = data;
    while let Some((head, after)) = rest.split_first_chunk::<{ spdy::HEAD }>() {
        let length = match spdy::head(*head) {
            Ok(spdy::Head::Data { stream, length, .. }) => {
                assert!(stream > 0 && stream >> 31 == 0 && length <= spdy::DATA_MAX);
                length
            }
            Ok(spdy::Head::Control { kind, flags, length }) => {
                assert!(length <= spdy::CONTROL_MAX);
                let body = &after[..length.min(after.len())];
                control(&spdy::parse(kind, flags, body), body);
                length
            }
            Err(_) => return,
        };
        rest = after.get(length..).unwrap_or_default();
    }
}

fn control(parsed: &Result<spdy::Control<'_>, spdy::FrameError>, body: &[u8]) {
    use spdy::Control;
    match parsed {
        Ok(
            Control::SynStream { stream, block, .. }
            | Control::SynReply { stream, block, .. }
            | Control::Headers { stream, block, .. },
        ) => {
            assert!(*stream > 0 && stream >> 31 == 0);
            assert!(body.ends_with(block), "the block is the rest of the frame");
        }
        Ok(Control::RstStream { stream, status }) => assert!(*stream > 0 && *status > 0),
        Ok(Control::Ping(_) | Control::GoAway { .. } | Control::Ignored) | Err(_) => {}
    }
}

/// SPDY header blocks of one connection, each after its length in two bytes.
pub fn spdy_headers(data: &[u8]) {
    let (mut inflater, mut rest) = (headers::Inflater::default(), data);
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let (block, after) = after.split_at(after.len().min(usize::from(u16::from_be_bytes(*length))));
        rest = after;
        match inflater.headers(block) {
            Ok(headers) => {
                assert!(headers.get("").is_none(), "no header is without a name");
                let shown = format!("{headers:?}").len();
                assert!(shown < 8 * headers::BYTES_MAX, "{shown} characters");
            }
            Err(_) => return,
        }
    }
}
