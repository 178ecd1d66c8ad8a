//! The client's half of the ttrpc wire format (containerd/ttrpc:PROTOCOL.md): requests out, responses
//! in. A frame is a header of 10 bytes (length u32, stream u32, type u8, flags u8; big endian) and a
//! protobuf message.

use protobuf::Message as _;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use ttrpc::proto::{Request, Response};

/// Bytes of a frame's header.
const HEADER: usize = 10;
/// The largest request that a shim takes.
pub(crate) const MAX_REQUEST: usize = 4 << 20;
/// The largest response: two captured outputs of 16 MiB each, and some.
const MAX_RESPONSE: u32 = (32 << 20) + (64 << 10);
/// Frame type of a request.
const REQUEST: u8 = 1;
/// Frame type of a response.
const RESPONSE: u8 = 2;

/// A call that was answered with a status: its number and its text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// gRPC's number.
    pub(crate) code: i32,
    /// The text.
    pub(crate) message: String,
}

/// A response as it came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Which call.
    pub(crate) stream: u32,
    /// The encoded message of the method, or why there is none.
    pub(crate) result: Result<Vec<u8>, Refused>,
}

/// Encodes a request; none if it is too large.
pub(crate) fn request(stream: u32, request: &Request) -> Option<Vec<u8>> {
    let body = request.write_to_bytes().ok()?;
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= MAX_REQUEST)?;
    let mut frame = Vec::with_capacity(HEADER + body.len());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(&[REQUEST, 0]);
    frame.extend_from_slice(&body);
    Some(frame)
}

/// Reads the next response; none at an orderly end.
pub(crate) async fn answer(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<Answer>, String> {
    let mut header = [0; HEADER];
    match from.read_exact(&mut header).await {
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(format!("read: {e}")),
    }
    let [l0, l1, l2, l3, s0, s1, s2, s3, kind, _flags] = header;
    let length = u32::from_be_bytes([l0, l1, l2, l3]);
    let stream = u32::from_be_bytes([s0, s1, s2, s3]);
    if kind != RESPONSE {
        return Err(format!("frame of type {kind}, want a response"));
    }
    if length > MAX_RESPONSE {
        return Err(format!("response of {length} bytes, at most {MAX_RESPONSE} are taken"));
    }
    // The buffer grows as the bytes come, not as the header promises.
    let mut body = Vec::new();
    let read = from.take(length.into()).read_to_end(&mut body).await;
    if read.map_err(|e| format!("read: {e}"))? < length as usize {
        return Ok(None);
    }
    let response = Response::parse_from_bytes(&body).map_err(|e| format!("response: {e}"))?;
    let refused = response.status.into_option().filter(|status| status.code.value() != 0);
    let result = match refused {
        Some(status) => Err(Refused { code: status.code.value(), message: status.message }),
        None => Ok(response.payload),
    };
    Ok(Some(Answer { stream, result }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_its_golden_bytes() {
        let body = Request {
            service: "s".to_owned(),
            method: "m".to_owned(),
            payload: vec![1],
            timeout_nano: 5,
            ..Request::default()
        };
        let frame = request(3, &body).expect("small");
        let golden = [0, 0, 0, 11, 0, 0, 0, 3, 1, 0, 0x0a, 1, b's', 0x12, 1, b'm', 0x1a, 1, 1, 0x20, 5];
        assert_eq!(frame, golden);
        let large = Request { payload: vec![0; MAX_REQUEST], ..Request::default() };
        assert_eq!(request(3, &large), None);
    }

    async fn read(mut bytes: &[u8]) -> Result<Option<Answer>, String> {
        answer(&mut bytes).await
    }

    #[tokio::test]
    async fn answers_and_refusals_are_read() {
        let fine = [0, 0, 0, 5, 0, 0, 0, 3, 2, 0, 0x12, 3, 7, 8, 9];
        assert_eq!(read(&fine).await, Ok(Some(Answer { stream: 3, result: Ok(vec![7, 8, 9]) })));
        let empty = [0, 0, 0, 0, 0, 0, 0, 3, 2, 0];
        assert_eq!(read(&empty).await, Ok(Some(Answer { stream: 3, result: Ok(vec![]) })));
        let refused = [0, 0, 0, 7, 0, 0, 0, 3, 2, 0, 0x0a, 5, 0x08, 5, 0x12, 1, b'x'];
        let refusal = Refused { code: 5, message: "x".to_owned() };
        assert_eq!(read(&refused).await, Ok(Some(Answer { stream: 3, result: Err(refusal) })));
    }

    #[tokio::test]
    async fn a_cut_answer_is_an_end_and_nonsense_is_an_error() {
        let fine = [0, 0, 0, 5, 0, 0, 0, 3, 2, 0, 0x12, 3, 7, 8, 9];
        for cut in 0..fine.len() {
            assert_eq!(read(&fine[..cut]).await, Ok(None), "cut at {cut}");
        }
        assert!(read(b"HTTP/1.1 400 Bad Request").await.is_err());
        assert!(read(&[255, 0, 0, 0, 0, 0, 0, 3, 2, 0]).await.is_err());
        assert!(read(&[0, 0, 0, 2, 0, 0, 0, 3, 2, 0, 0x12, 9]).await.is_err());
    }
}
