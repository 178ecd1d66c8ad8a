//! Content digests, OCI image-spec descriptor.md "Digests".

use serde::{Deserialize, Serialize};
use std::fmt;

/// Text that is not a digest we can verify.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{}` is not a digest: want sha256: and 64 lower-case hex digits", .0.chars().take(80).flat_map(char::escape_default).collect::<String>())]
pub struct BadDigest(pub String);

/// A sha256 content digest, `sha256:<64 lower-case hex digits>`. Safe as a file name by its digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// Parses `sha256:<hex>`.
    ///
    /// # Errors
    /// [`BadDigest`] for anything else, other algorithms too: what cannot be verified is not taken.
    pub fn parse(text: &str) -> Result<Self, BadDigest> {
        let hex = text.strip_prefix("sha256:").unwrap_or("");
        let fine = hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if fine { Ok(Self(text.to_owned())) } else { Err(BadDigest(text.to_owned())) }
    }

    /// The digest of a finished sha256 sum.
    #[must_use]
    pub fn of_sha256(sum: &[u8; 32]) -> Self {
        use fmt::Write as _;
        let mut text = String::with_capacity(71);
        text.push_str("sha256:");
        for byte in sum {
            write!(text, "{byte:02x}").expect("a String takes every write");
        }
        Self(text)
    }

    /// The whole text, `sha256:...`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 64 hex digits without the algorithm.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Digest {
    type Error = BadDigest;
    fn try_from(text: String) -> Result<Self, BadDigest> {
        Self::parse(&text)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_that_could_be_a_path_or_is_cut_is_refused() {
        let good = format!("sha256:{}", "ab".repeat(32));
        assert_eq!(Digest::parse(&good).expect("good").hex().len(), 64);
        let long = format!("{good}0");
        let upper = good.to_uppercase();
        for bad in ["", "sha256:", "sha256:../../x", "md5:00", &good[..70], &long, &upper, &good[7..]] {
            assert!(Digest::parse(bad).is_err(), "{bad:?} was taken");
        }
    }
}
