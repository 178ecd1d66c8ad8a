//! What a server says when it accepts a websocket (RFC 6455, section 4.2.2).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha1::{Digest as _, Sha1};

/// What both sides append to the client's key.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The one version there is; the value of `Sec-WebSocket-Version`.
pub const VERSION: &str = "13";

/// The `Sec-WebSocket-Accept` that answers a client's `Sec-WebSocket-Key`; none if that is not the base64 of
/// 16 bytes.
#[must_use]
pub fn accept_key(key: &str) -> Option<String> {
    let key = key.trim();
    match STANDARD.decode(key) {
        Ok(bytes) if bytes.len() == 16 => {}
        Ok(_) | Err(_) => return None,
    }
    Some(STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_the_rfc_has_the_answer_of_the_rfc() {
        let accept = accept_key("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept.as_deref(), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    }

    #[test]
    fn what_is_not_the_base64_of_sixteen_bytes_is_no_key() {
        for key in ["", "AAAA", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZSEh", "%%%"] {
            assert_eq!(accept_key(key), None, "{key}");
        }
    }
}
