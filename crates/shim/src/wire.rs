//! The ttrpc wire format (containerd/ttrpc:PROTOCOL.md), the part that unary calls need: a frame is
//! a header of 10 bytes (length of the data u32, stream u32, type u8, flags u8; big endian) and the
//! data, a protobuf `Request` or `Response`.

use protobuf::Message as _;
use ttrpc::proto::{Code, Request, Status};

/// Bytes of a frame's header.
pub(crate) const HEADER: usize = 10;
/// The largest request; the same bound as in ttrpc's other implementations.
pub(crate) const MAX_REQUEST: usize = 4 << 20;
/// Frame type of a request.
const REQUEST: u8 = 1;
/// Frame type of a response.
const RESPONSE: u8 = 2;
/// Tag of `Response.status`, a message.
const TAG_STATUS: u8 = 0x0a;
/// Tag of `Response.payload`, bytes.
const TAG_PAYLOAD: u8 = 0x12;

/// A call that is refused: the code and the text that its caller sees.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code:?}: {message}")]
pub(crate) struct Refusal {
    /// What kind of refusal.
    pub(crate) code: Code,
    /// Names the field or the object and the reason.
    pub(crate) message: String,
}

impl Refusal {
    /// A refusal with its code.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// A field of the request is wrong.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::INVALID_ARGUMENT, message)
    }

    /// What the request names is not there.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NOT_FOUND, message)
    }

    /// What the request names is in the wrong state.
    pub(crate) fn state(message: impl Into<String>) -> Self {
        Self::new(Code::FAILED_PRECONDITION, message)
    }

    /// Something of the host failed; the chain of causes is told.
    pub(crate) fn internal(what: &str, cause: &dyn std::error::Error) -> Self {
        Self::new(Code::INTERNAL, format!("{what}: {}", chain(cause)))
    }

    /// The shim does not do this.
    pub(crate) fn unimplemented(what: &str) -> Self {
        Self::new(Code::UNIMPLEMENTED, format!("{what} is not implemented by this shim"))
    }
}

/// An error and its causes, outermost first.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// What the start of a byte stream holds.
#[derive(Debug)]
pub(crate) enum Frame {
    /// Too few bytes so far.
    Incomplete,
    /// A request of `used` bytes, its header included.
    Request { stream: u32, used: usize, request: Box<Request> },
    /// A frame of `used` bytes that can be answered only with a refusal. With an oversized frame,
    /// `used` is more than was looked at: the reader drops as much as comes.
    Refused { stream: u32, used: usize, refusal: Refusal },
    /// Not a client of this protocol.
    Broken(String),
}

/// Reads one frame off the start of `bytes`.
pub(crate) fn parse(bytes: &[u8]) -> Frame {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else {
        return Frame::Incomplete;
    };
    let [l0, l1, l2, l3, s0, s1, s2, s3, kind, _flags] = *header;
    let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    let stream = u32::from_be_bytes([s0, s1, s2, s3]);
    if kind != REQUEST {
        return Frame::Broken(format!("frame of type {kind}, want a request"));
    }
    let used = HEADER + length;
    if length > MAX_REQUEST {
        let message = format!("request of {length} bytes, at most {MAX_REQUEST} are taken");
        return Frame::Refused { stream, used, refusal: Refusal::new(Code::RESOURCE_EXHAUSTED, message) };
    }
    let Some(data) = rest.get(..length) else {
        return Frame::Incomplete;
    };
    if stream % 2 == 0 {
        let refusal = Refusal::invalid(format!("stream {stream}: a client's streams are odd"));
        return Frame::Refused { stream, used, refusal };
    }
    match Request::parse_from_bytes(data) {
        Ok(request) => Frame::Request { stream, used, request: Box::new(request) },
        Err(e) => {
            Frame::Refused { stream, used, refusal: Refusal::invalid(format!("not a ttrpc request: {e}")) }
        }
    }
}

/// The answer of a call: the parts of its encoded message in order. Several parts so that a large
/// output is never copied.
#[derive(Debug, Default)]
pub(crate) struct Payload(pub(crate) Vec<Vec<u8>>);

impl Payload {
    /// A message of containerd's API.
    pub(crate) fn of(message: &impl protobuf::Message) -> Result<Self, Refusal> {
        match message.write_to_bytes() {
            Ok(bytes) => Ok(Self(vec![bytes])),
            Err(e) => Err(Refusal::internal("encode the answer", &e)),
        }
    }

    /// A message of our own service.
    pub(crate) fn own(message: &impl prost::Message) -> Self {
        Self(vec![message.encode_to_vec()])
    }
}

/// Encodes the answer to `stream`; the first part holds header and tag.
pub(crate) fn response(stream: u32, answer: Result<Payload, Refusal>) -> Vec<Vec<u8>> {
    let (tag, parts) = match answer {
        Ok(Payload(parts)) => (TAG_PAYLOAD, parts),
        Err(refusal) => {
            let status = Status { code: refusal.code.into(), message: refusal.message, ..Status::default() };
            // Writing to memory fails only beyond 2 GiB.
            (TAG_STATUS, vec![status.write_to_bytes().unwrap_or_default()])
        }
    };
    let size: usize = parts.iter().map(Vec::len).sum();
    let mut lead = Vec::with_capacity(HEADER + 6);
    lead.extend_from_slice(&[0; 4]);
    lead.extend_from_slice(&stream.to_be_bytes());
    lead.extend_from_slice(&[RESPONSE, 0]);
    // An empty message is told by its absence.
    if size > 0 {
        lead.push(tag);
        varint(size, &mut lead);
    }
    let length = u32::try_from(lead.len() - HEADER + size).unwrap_or(u32::MAX);
    lead[..4].copy_from_slice(&length.to_be_bytes());
    let mut all = Vec::with_capacity(1 + parts.len());
    all.push(lead);
    all.extend(parts.into_iter().filter(|part| !part.is_empty()));
    all
}

/// Protobuf's base-128 number.
pub(crate) fn varint(mut value: usize, out: &mut Vec<u8>) {
    loop {
        let [low, ..] = (value & 0x7f).to_le_bytes();
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `Request{service: "s", method: "m", payload: [1], timeout_nano: 5}` on stream 3, by hand.
    const GOLDEN_REQUEST: [u8; 21] = [
        0, 0, 0, 11, 0, 0, 0, 3, 1, 0, // header
        0x0a, 1, b's', 0x12, 1, b'm', 0x1a, 1, 1, 0x20, 5,
    ];

    #[test]
    fn the_golden_request_is_understood() {
        let Frame::Request { stream, used, request } = parse(&GOLDEN_REQUEST) else {
            panic!("not a request")
        };
        assert_eq!((stream, used), (3, 21));
        assert_eq!((request.service.as_str(), request.method.as_str()), ("s", "m"));
        assert_eq!((request.payload.as_slice(), request.timeout_nano), (&[1u8][..], 5));
    }

    #[test]
    fn a_request_cut_anywhere_is_incomplete() {
        for cut in 0..GOLDEN_REQUEST.len() {
            assert!(matches!(parse(&GOLDEN_REQUEST[..cut]), Frame::Incomplete), "cut at {cut}");
        }
    }

    #[test]
    fn an_answer_and_a_refusal_have_their_golden_bytes() {
        let flat = |answer| response(3, answer).concat();
        assert_eq!(
            flat(Ok(Payload(vec![vec![7, 8], vec![9]]))),
            [0, 0, 0, 5, 0, 0, 0, 3, 2, 0, 0x12, 3, 7, 8, 9]
        );
        assert_eq!(flat(Ok(Payload::default())), [0, 0, 0, 0, 0, 0, 0, 3, 2, 0]);
        let refused = flat(Err(Refusal::not_found("x")));
        assert_eq!(refused, [0, 0, 0, 7, 0, 0, 0, 3, 2, 0, 0x0a, 5, 0x08, 5, 0x12, 1, b'x']);
    }

    #[test]
    fn an_oversized_frame_is_refused_before_it_is_read() {
        let mut bytes = vec![0, 64, 0, 1, 0, 0, 0, 5, 1, 0];
        let Frame::Refused { stream, used, refusal } = parse(&bytes) else { panic!("taken") };
        assert_eq!((stream, used, refusal.code), (5, HEADER + MAX_REQUEST + 1, Code::RESOURCE_EXHAUSTED));
        bytes[3] = 0;
        assert!(matches!(parse(&bytes), Frame::Incomplete), "exactly the bound is fine");
    }

    #[test]
    fn what_is_not_a_request_is_refused() {
        let mut even = GOLDEN_REQUEST;
        even[7] = 2;
        assert!(matches!(parse(&even), Frame::Refused { stream: 2, used: 21, .. }));
        let mut kind = GOLDEN_REQUEST;
        kind[8] = 3;
        assert!(matches!(parse(&kind), Frame::Broken(_)));
        let mut garbage = GOLDEN_REQUEST;
        garbage[11] = 200;
        assert!(matches!(parse(&garbage), Frame::Refused { stream: 3, used: 21, .. }));
    }

    #[test]
    fn a_number_is_written_in_base_128() {
        let mut out = Vec::new();
        for value in [0, 127, 128, 300, 16 << 20] {
            varint(value, &mut out);
        }
        assert_eq!(out, [0, 127, 0x80, 1, 0xac, 2, 0x80, 0x80, 0x80, 8]);
    }
}
