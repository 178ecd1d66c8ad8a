//! Websocket frames (RFC 6455, section 5), without any input or output.
//!
//! What arrives is decoded where it lies and handed on in pieces, as it comes: no message is ever held
//! whole, so its size needs no limit and costs no memory. That is why the frames are read here and not by
//! a library, which must gather a message (or a frame) before it gives it away; tests hold this file against
//! one.

use std::ops::Range;

/// Longest payload of a ping, pong or close (RFC 6455, section 5.5).
pub(crate) const CONTROL_MAX: usize = 125;
/// Longest head of a frame: two bytes, eight of length, four of mask.
const HEAD_MAX: usize = 14;

/// Which end of the connection we are: clients mask what they send, servers do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Who answered the upgrade.
    Server,
    /// Who asked for it.
    Client,
}

/// How the bytes of a message are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// UTF-8; what the base64 protocols send.
    Text,
    /// Anything.
    Binary,
}

/// The payload of a control frame.
pub type Payload = bytes::Bytes;

/// What a peer sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Item {
    /// A piece of a message.
    Data(Piece),
    /// To be answered with a pong of the same bytes.
    Ping(Payload),
    /// The answer to a ping, or a sign of life.
    Pong,
    /// The peer is done.
    Close(Close),
}

/// Why a peer is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Close {
    /// Its code, if it gave one.
    pub code: Option<u16>,
    /// Its words, at most 123 bytes.
    pub reason: String,
}

/// A piece of a message: where it lies in the buffer that was decoded, already unmasked.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece {
    /// How the message is meant.
    pub kind: Kind,
    /// Where the bytes are.
    pub at: Range<usize>,
    /// Nothing of this message came before.
    pub first: bool,
    /// Nothing of this message comes after.
    pub last: bool,
}

/// Why a connection cannot go on; each is a protocol error (close code 1002).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Reserved bits without an extension, or a reserved opcode.
    #[error("websocket frame with reserved bits or a reserved opcode {0:#04x}")]
    Reserved(u8),
    /// A client's frame without a mask, or a server's with one.
    #[error("websocket frame is masked by the wrong side")]
    Mask,
    /// A control frame that is fragmented or longer than 125 bytes.
    #[error("websocket control frame is fragmented or too long")]
    Control,
    /// A continuation of nothing, or a new message within another.
    #[error("websocket frame is out of order")]
    Order,
    /// A length with its top bit set.
    #[error("websocket frame has an impossible length")]
    Length,
    /// A close with half a code.
    #[error("websocket close frame is garbled")]
    Close,
}

/// The frame that is being read.
#[derive(Debug)]
struct Frame {
    opcode: u8,
    fin: bool,
    left: u64,
    mask: [u8; 4],
    masked_at: usize,
}

/// Where in a conversation a reader is.
#[derive(Debug)]
pub struct Decoder {
    role: Role,
    frame: Option<Frame>,
    /// The message whose frames come, and whether a piece of it was given away.
    message: Option<(Kind, bool)>,
    control: Vec<u8>,
}

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

impl Decoder {
    /// Reads what the other side of `role` sends.
    #[must_use]
    pub fn new(role: Role) -> Decoder {
        Decoder { role, frame: None, message: None, control: Vec::new() }
    }

    /// Takes from the start of `buf` up to one item: how many bytes it took, and what they were. With
    /// `None` there is more to come: all that can be taken was, and the rest stays for the next call.
    ///
    /// # Errors
    /// [`FrameError`]: nothing after it means anything.
    pub fn decode(&mut self, buf: &mut [u8]) -> Result<(usize, Option<Item>), FrameError> {
        let mut taken = 0;
        loop {
            if self.frame.is_none() {
                let Some((frame, head)) = read_head(self.role, &buf[taken..])? else {
                    return Ok((taken, None));
                };
                self.begin(&frame)?;
                taken += head;
                self.frame = Some(frame);
            }
            let Some(frame) = self.frame.as_mut() else { return Ok((taken, None)) };
            let length = usize::try_from(frame.left).unwrap_or(usize::MAX).min(buf.len() - taken);
            let at = taken..taken + length;
            unmask(&mut buf[at.clone()], frame.mask, frame.masked_at);
            frame.masked_at = (frame.masked_at + length) % 4;
            frame.left -= length as u64;
            taken += length;
            let whole = frame.left == 0;
            let (opcode, fin) = (frame.opcode, frame.fin);
            if whole {
                self.frame = None;
            }
            let item = match opcode {
                CLOSE | PING | PONG => self.control(opcode, &buf[at], whole)?,
                _ => self.data(at, fin && whole),
            };
            if item.is_some() || !whole {
                return Ok((taken, item));
            }
        }
    }

    /// Checks a frame's place in the conversation.
    fn begin(&mut self, frame: &Frame) -> Result<(), FrameError> {
        match (frame.opcode, self.message) {
            (CONTINUATION, Some(_)) => {}
            (TEXT, None) => self.message = Some((Kind::Text, false)),
            (BINARY, None) => self.message = Some((Kind::Binary, false)),
            (CONTINUATION | TEXT | BINARY, _) => return Err(FrameError::Order),
            (CLOSE | PING | PONG, _) => {
                if !frame.fin || frame.left > CONTROL_MAX as u64 {
                    return Err(FrameError::Control);
                }
            }
            (other, _) => return Err(FrameError::Reserved(other)),
        }
        Ok(())
    }

    /// A piece of a message; nothing if it says nothing.
    fn data(&mut self, at: Range<usize>, last: bool) -> Option<Item> {
        let (kind, begun) = self.message?;
        if at.is_empty() && !last {
            return None;
        }
        self.message = if last { None } else { Some((kind, true)) };
        Some(Item::Data(Piece { kind, at, first: !begun, last }))
    }

    /// A part of a control frame's payload; the item with the last one.
    fn control(&mut self, opcode: u8, part: &[u8], whole: bool) -> Result<Option<Item>, FrameError> {
        self.control.extend_from_slice(part);
        if !whole {
            return Ok(None);
        }
        let payload = std::mem::take(&mut self.control);
        Ok(Some(match opcode {
            PING => Item::Ping(payload.into()),
            PONG => Item::Pong,
            _ => match payload[..] {
                [] => Item::Close(Close::default()),
                [_] => return Err(FrameError::Close),
                [high, low, ref reason @ ..] => Item::Close(Close {
                    code: Some(u16::from_be_bytes([high, low])),
                    reason: String::from_utf8_lossy(reason).into_owned(),
                }),
            },
        }))
    }
}

/// The frame that `buf` starts with, and how long its head is; none if the head is not all there.
fn read_head(role: Role, buf: &[u8]) -> Result<Option<(Frame, usize)>, FrameError> {
    let [first, second, rest @ ..] = buf else { return Ok(None) };
    if first & 0x70 != 0 {
        return Err(FrameError::Reserved(*first));
    }
    if (second & 0x80 != 0) != (role == Role::Server) {
        return Err(FrameError::Mask);
    }
    let (left, wide) = match second & 0x7f {
        126 => match rest.first_chunk::<2>() {
            Some(bytes) => (u64::from(u16::from_be_bytes(*bytes)), 2),
            None => return Ok(None),
        },
        127 => match rest.first_chunk::<8>() {
            Some(bytes) => (u64::from_be_bytes(*bytes), 8),
            None => return Ok(None),
        },
        short => (u64::from(short), 0),
    };
    if left >> 63 != 0 {
        return Err(FrameError::Length);
    }
    let (mask, head) = match role {
        Role::Client => ([0; 4], 2 + wide),
        Role::Server => match rest[wide..].first_chunk::<4>() {
            Some(mask) => (*mask, 6 + wide),
            None => return Ok(None),
        },
    };
    let frame = Frame { opcode: first & 0x0f, fin: first & 0x80 != 0, left, mask, masked_at: 0 };
    Ok(Some((frame, head)))
}

/// Applies a mask, whose byte `at` meets the first byte; applied twice it is gone.
pub(crate) fn unmask(bytes: &mut [u8], mask: [u8; 4], at: usize) {
    let mut turned = mask;
    turned.rotate_left(at % 4);
    if turned == [0; 4] {
        return;
    }
    let wide = u64::from_ne_bytes(std::array::from_fn(|i| turned[i % 4]));
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(turned.iter().cycle()) {
        *byte ^= mask;
    }
}

/// What we send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opcode {
    /// A whole message.
    Message(Kind),
    /// I am.
    Pong,
    /// I am done.
    Close,
}

/// The head of one unfragmented frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    bytes: [u8; HEAD_MAX],
    length: usize,
}

impl Head {
    /// Of a frame with a payload of that many bytes; with a mask if we are a client.
    pub(crate) fn new(opcode: Opcode, payload: usize, mask: Option<[u8; 4]>) -> Head {
        let opcode = match opcode {
            Opcode::Message(Kind::Text) => TEXT,
            Opcode::Message(Kind::Binary) => BINARY,
            Opcode::Pong => PONG,
            Opcode::Close => CLOSE,
        };
        let mut head = Head { bytes: [0; HEAD_MAX], length: 0 };
        let flag = if mask.is_some() { 0x80 } else { 0 };
        head.push(&[0x80 | opcode]);
        match (u8::try_from(payload), u16::try_from(payload)) {
            (Ok(short @ 0..=125), _) => head.push(&[flag | short]),
            (_, Ok(middle)) => {
                head.push(&[flag | 126]);
                head.push(&middle.to_be_bytes());
            }
            _ => {
                head.push(&[flag | 127]);
                head.push(&(payload as u64).to_be_bytes());
            }
        }
        if let Some(mask) = mask {
            head.push(&mask);
        }
        head
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    /// Its bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}
