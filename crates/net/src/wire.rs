//! The few bytes of netlink: messages out of headers and attributes, and back; netlink(7).
//!
//! Everything here is in the machine's byte order unless a caller hands over bytes of its own.

/// `NLM_F_REQUEST`
pub(crate) const REQUEST: u16 = 0x01;
/// `NLM_F_ACK`
pub(crate) const ACK: u16 = 0x04;
/// `NLM_F_EXCL`: fail if it exists.
pub(crate) const EXCL: u16 = 0x200;
/// `NLM_F_CREATE`
pub(crate) const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`: at the end of the chain.
pub(crate) const APPEND: u16 = 0x800;
/// `NLM_F_DUMP` = `NLM_F_ROOT | NLM_F_MATCH`
pub(crate) const DUMP: u16 = 0x300;

/// `NLMSG_ERROR`: an error, or with code 0 the acknowledgement.
pub(crate) const ERROR: u16 = 2;
/// `NLMSG_DONE`: the end of a dump.
pub(crate) const DONE: u16 = 3;

const NESTED: u16 = 0x8000;
const KIND_MASK: u16 = 0x3fff;
const HEADER: usize = 16;
const ALIGN: usize = 4;

fn aligned(length: usize) -> usize {
    length.next_multiple_of(ALIGN)
}

/// One message under construction.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A message of that type with `NLM_F_REQUEST | flags` and the family's own fixed header.
    pub(crate) fn new(kind: u16, flags: u16, family_header: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&[0; 4]); // length: Message::finish
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(REQUEST | flags).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]); // sequence: Message::finish; port 0 = the kernel
        bytes.extend_from_slice(family_header);
        let mut message = Self { bytes };
        message.pad();
        message
    }

    fn pad(&mut self) {
        self.bytes.resize(aligned(self.bytes.len()), 0);
    }

    /// Appends an attribute.
    #[must_use]
    pub(crate) fn attr(mut self, kind: u16, payload: &[u8]) -> Self {
        self.raw_attr(kind, payload);
        self
    }

    fn raw_attr(&mut self, kind: u16, payload: &[u8]) {
        let length = u16::try_from(payload.len() + 4).expect("no attribute of ours is near 64 KiB");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(payload);
        self.pad();
    }

    /// Appends attributes that came from the kernel, as they are.
    #[must_use]
    pub(crate) fn raw(mut self, attributes: &[u8]) -> Self {
        self.bytes.extend_from_slice(attributes);
        self.pad();
        self
    }

    /// Appends a number in the machine's byte order, as rtnetlink has them.
    #[must_use]
    pub(crate) fn u32(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// Appends a number in network byte order, as nf_tables has them.
    #[must_use]
    pub(crate) fn be32(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// Appends one byte.
    #[must_use]
    pub(crate) fn u8(self, kind: u16, value: u8) -> Self {
        self.attr(kind, &[value])
    }

    /// Appends text with the NUL that the kernel wants.
    #[must_use]
    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    /// Appends an attribute that holds what `inside` appends.
    #[must_use]
    pub(crate) fn nest(self, kind: u16, inside: impl FnOnce(Self) -> Self) -> Self {
        self.nest_after(kind, &[], inside)
    }

    /// [`Message::nest`] with a fixed header before the inner attributes (`VETH_INFO_PEER`).
    #[must_use]
    pub(crate) fn nest_after(mut self, kind: u16, head: &[u8], inside: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self.raw_attr(kind | NESTED, head);
        let mut done = inside(self);
        let length = u16::try_from(done.bytes.len() - start).expect("no attribute of ours is near 64 KiB");
        done.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        done
    }

    /// The bytes, with their length and that sequence number.
    pub(crate) fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).expect("a message of ours is small");
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }

    /// Adds flags to those that it was made with.
    #[must_use]
    pub(crate) fn with_flags(mut self, flags: u16) -> Self {
        let now = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | flags;
        self.bytes[6..8].copy_from_slice(&now.to_ne_bytes());
        self
    }
}

/// One message of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// Everything behind the `nlmsghdr`.
    pub(crate) payload: Vec<u8>,
}

fn be_or_ne_u32(bytes: &[u8]) -> Option<[u8; 4]> {
    bytes.get(..4)?.try_into().ok()
}

/// The number at the start of these bytes, in the machine's byte order.
pub(crate) fn number(bytes: &[u8]) -> Option<u32> {
    be_or_ne_u32(bytes).map(u32::from_ne_bytes)
}

/// The messages of one datagram; a malformed rest is left out (the kernel sends none).
pub(crate) fn messages(mut bytes: &[u8]) -> Vec<Received> {
    let mut found = Vec::new();
    while let Some(length) = number(bytes).and_then(|n| usize::try_from(n).ok()) {
        if length < HEADER || length > bytes.len() {
            break;
        }
        found.push(Received {
            kind: u16::from_ne_bytes([bytes[4], bytes[5]]),
            flags: u16::from_ne_bytes([bytes[6], bytes[7]]),
            sequence: u32::from_ne_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]),
            payload: bytes[HEADER..length].to_vec(),
        });
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
    }
    found
}

/// Walks over the attributes in these bytes: (type without flags, payload).
pub(crate) fn attrs(bytes: &[u8]) -> Attrs<'_> {
    Attrs(bytes)
}

/// See [`attrs`].
#[derive(Clone, Debug)]
pub(crate) struct Attrs<'a>(&'a [u8]);

impl<'a> Iterator for Attrs<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let head = self.0.get(..4)?;
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & KIND_MASK;
        let payload = self.0.get(4..length)?;
        self.0 = self.0.get(aligned(length)..).unwrap_or_default();
        Some((kind, payload))
    }
}

/// The payload of the first attribute of that type.
pub(crate) fn attr(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attrs(bytes).find(|(k, _)| *k == kind).map(|(_, payload)| payload)
}

/// Text of an attribute, without the NUL and what follows it.
pub(crate) fn text(payload: &[u8]) -> String {
    let end = payload.iter().position(|b| *b == 0).unwrap_or(payload.len());
    String::from_utf8_lossy(&payload[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_attributes_are_padded_and_counted() {
        let message = Message::new(16, ACK, &[0; 16])
            .text(3, "eth0")
            .nest(18, |m| m.text(1, "veth").nest_after(2, &[9; 16], |m| m.u32(28, 7)))
            .finish(42);
        let read = messages(&message);
        assert_eq!(read.len(), 1);
        assert_eq!((read[0].kind, read[0].flags, read[0].sequence), (16, REQUEST | ACK, 42));
        let body = &read[0].payload[16..];
        assert_eq!(text(attr(body, 3).expect("name")), "eth0");
        let info = attr(body, 18).expect("nest");
        let data = attr(info, 2).expect("data");
        assert_eq!(data[..16], [9; 16]);
        assert_eq!(attr(&data[16..], 28).and_then(number), Some(7));
    }

    #[test]
    fn broken_lengths_end_the_walk() {
        assert!(messages(&[1, 0, 0, 0, 2]).is_empty());
        assert!(messages(&[255; 40]).is_empty());
        assert_eq!(attrs(&[3, 0, 1, 0]).count(), 0, "shorter than its own head");
        assert_eq!(attrs(&[200, 0, 1, 0, 5]).count(), 0, "longer than the bytes");
    }
}
