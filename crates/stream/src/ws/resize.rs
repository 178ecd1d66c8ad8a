//! The window's size as clients send it: `{"Width":80,"Height":24}`, one after another, cut anywhere.

use crate::session::Size;
use serde::Deserialize;

/// More than any size takes; what is longer is none.
const LONGEST: usize = 256;

/// Sizes from a stream of JSON.
#[derive(Debug, Default)]
pub struct Sizes {
    begun: Vec<u8>,
    over: bool,
}

/// As Go's decoder reads it: other fields are ignored, missing ones are zero.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Wire {
    #[serde(alias = "width")]
    width: u64,
    #[serde(alias = "height")]
    height: u64,
}

impl Sizes {
    /// Takes the next bytes; gives the last size that they complete. One that no terminal has is passed
    /// over. After what is not a size nothing is read any more, as in
    /// k8s.io/cri-streaming:pkg/streaming/remotecommand/httpstream.go `handleResizeEvents`: a session does
    /// not end for it.
    pub fn take(&mut self, bytes: &[u8]) -> Option<Size> {
        if self.over {
            return None;
        }
        self.begun.extend_from_slice(bytes);
        let (mut newest, mut rest) = (None, self.begun.trim_ascii_start());
        while let Some(length) = object(rest) {
            match serde_json::from_slice(&rest[..length]) {
                Ok(Wire { width, height }) => newest = size(width, height).or(newest),
                Err(_) => {
                    self.over = true;
                    break;
                }
            }
            rest = rest[length..].trim_ascii_start();
        }
        // What is begun must be an object that can still end in time.
        self.over |= !matches!(rest, [] | [b'{', ..]) || rest.len() >= LONGEST;
        if self.over {
            tracing::debug!("what a client sent as its window's size is none");
        }
        // Anew, so that a flood leaves no large buffer behind.
        self.begun = if self.over { Vec::new() } else { rest.to_vec() };
        newest
    }
}

/// How long the JSON object is that `bytes` begin with; none if its end is not there, or too far. The
/// parser itself is no help: it takes a number that is cut for a wrong one.
fn object(bytes: &[u8]) -> Option<usize> {
    let (mut depth, mut in_string, mut is_escaped) = (0_usize, false, false);
    for (at, byte) in bytes.iter().enumerate().take(LONGEST) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = in_string,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' => depth += 1,
            b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return (at > 0).then_some(at + 1);
        }
    }
    None
}

/// A size that a terminal can have; zero means that there is none.
fn size(width: u64, height: u64) -> Option<Size> {
    let (width, height) = (u16::try_from(width).ok()?, u16::try_from(height).ok()?);
    (width > 0 && height > 0).then_some(Size { width, height })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(sizes: &mut Sizes, text: &str) -> Option<(u16, u16)> {
        sizes.take(text.as_bytes()).map(|size| (size.width, size.height))
    }

    #[test]
    fn sizes_are_read_however_they_are_cut() {
        let text = r#" {"Width":80,"Height":24}{"Width":81,"Height":25}
            {"height":26,"width":82,"Depth":[1]}"#;
        for cut in 0..=text.len() {
            let mut sizes = Sizes::default();
            let first = take(&mut sizes, &text[..cut]);
            assert_eq!(take(&mut sizes, &text[cut..]).or(first), Some((82, 26)), "cut at {cut}");
        }
        let mut sizes = Sizes::default();
        let each: Vec<_> =
            text.chars().filter_map(|c| take(&mut sizes, c.encode_utf8(&mut [0; 4]))).collect();
        assert_eq!(each, [(80, 24), (81, 25), (82, 26)]);
    }

    #[test]
    fn of_a_flood_the_last_is_given_and_nothing_is_kept() {
        let mut sizes = Sizes::default();
        let flood: String = (1..=5000).map(|n| format!("{{\"Width\":{n},\"Height\":1}}")).collect();
        assert_eq!(take(&mut sizes, &flood), Some((5000, 1)));
        assert!(sizes.begun.is_empty());
    }

    #[test]
    fn a_size_that_no_terminal_has_is_passed_over() {
        let mut sizes = Sizes::default();
        assert_eq!(take(&mut sizes, r#"{"Width":70000,"Height":24}"#), None);
        assert_eq!(take(&mut sizes, r#"{"Width":80,"Height":24}{"Width":80,"Height":0}{}"#), Some((80, 24)));
        assert_eq!(
            take(&mut sizes, r#"{"Width":18446744073709551615,"Height":24}{"Width":3,"Height":4}"#),
            Some((3, 4))
        );
    }

    #[test]
    fn after_garbage_no_size_is_read_and_nothing_is_kept() {
        let long = format!("{{\"Width\":8,\"Height\":2,\"x\":\"{}\"}}", "x".repeat(LONGEST));
        for garbage in ["}", "null", "[80,24]", "{\"Width\":-1}", "[[[[", &"[".repeat(70_000), &long, "\u{0}"]
        {
            let mut sizes = Sizes::default();
            assert_eq!(take(&mut sizes, garbage), None, "{garbage:.20}");
            assert_eq!(take(&mut sizes, r#"{"Width":80,"Height":24}"#), None, "{garbage:.20}");
            assert!(sizes.begun.len() <= LONGEST, "{garbage:.20}");
        }
    }
}
