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
        let mut values = serde_json::Deserializer::from_slice(&self.begun).into_iter::<Wire>();
        let (mut newest, mut whole) = (None, 0);
        loop {
            match values.next() {
                Some(Ok(Wire { width, height })) => newest = size(width, height).or(newest),
                Some(Err(error)) if !error.is_eof() => self.over = true,
                Some(Err(_)) | None => break,
            }
            if self.over {
                break;
            }
            whole = values.byte_offset();
        }
        self.begun.drain(..whole);
        self.over |= self.begun.len() > LONGEST;
        if self.over {
            tracing::debug!("what a client sent as its window's size is none");
            self.begun = Vec::new();
        }
        newest
    }
}

fn size(width: u64, height: u64) -> Option<Size> {
    Some(Size { width: u16::try_from(width).ok()?, height: u16::try_from(height).ok()? })
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
        assert_eq!(
            take(&mut sizes, r#"{"Width":18446744073709551615,"Height":24}{"Width":3,"Height":4}"#),
            Some((3, 4))
        );
    }

    #[test]
    fn after_garbage_no_size_is_read_and_nothing_is_kept() {
        for garbage in
            ["}", "null x", "{\"Width\":-1}", "[[[[", &"[".repeat(70_000), &" ".repeat(300), "\u{0}"]
        {
            let mut sizes = Sizes::default();
            assert_eq!(take(&mut sizes, garbage), None, "{garbage:.20}");
            let after = take(&mut sizes, r#"{"Width":80,"Height":24}"#);
            if !garbage.trim().is_empty() {
                assert_eq!(after, None, "{garbage:.20}");
            }
            assert!(sizes.begun.len() <= LONGEST, "{garbage:.20}");
        }
    }
}
