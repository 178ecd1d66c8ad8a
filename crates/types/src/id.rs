//! The names that peapod makes: 64 lower-case hex digits, parsed once.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Text that is not an id of ours.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{}` is not an id: want 64 lower-case hex digits", shown(.0))]
pub struct BadId(pub String);

/// The start of a wrong id, so that a 64 KiB one does not fill a log.
fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_default).collect()
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Takes exactly 64 lower-case hex digits.
            ///
            /// # Errors
            /// [`BadId`] for any other text.
            pub fn parse(text: &str) -> Result<Self, BadId> {
                let fine = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
                if fine { Ok(Self(text.to_owned())) } else { Err(BadId(text.to_owned())) }
            }

            /// The id of 32 random bytes.
            #[must_use]
            pub fn from_random(bytes: [u8; 32]) -> Self {
                use fmt::Write as _;
                let mut text = String::with_capacity(64);
                for byte in bytes {
                    write!(text, "{byte:02x}").expect("a String takes every write");
                }
                Self(text)
            }

            /// All 64 digits.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The first 12 digits: unique enough for a file name beneath a directory of ours and
            /// short enough for the 107 bytes of a unix socket's path.
            #[must_use]
            pub fn short(&self) -> &str {
                &self.0[..12]
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadId;
            fn try_from(text: String) -> Result<Self, BadId> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
    };
}

id!(
    /// Names a pod sandbox.
    PodId
);
id!(
    /// Names a container.
    ContainerId
);

impl PodId {
    /// The pod's pair of SELinux categories, of 1024, the smaller one first. It follows from the id alone, in
    /// every version of peapod; who makes ids sees to it that no two pods have the same pair.
    #[must_use]
    pub fn categories(&self) -> (u16, u16) {
        // FNV-1a: what hash it is does not matter, but it must stay the same.
        let hash = self.0.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let first = hash % 1024;
        // One of the other 1023.
        let second = (first + 1 + (hash >> 20) % 1023) % 1024;
        let cut = |category: u64| u16::try_from(category).unwrap_or(0);
        (cut(first.min(second)), cut(first.max(second)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_64_lower_case_hex_digits_are_an_id() {
        let good = "0123456789abcdef".repeat(4);
        assert_eq!(PodId::parse(&good).expect("good").as_str(), good);
        for bad in ["", "../x", "/", "\0", &good[1..], &good.to_uppercase(), &format!("{good}0"), "ａ"] {
            assert!(PodId::parse(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn each_id_has_two_different_categories_that_never_change() {
        let of = |byte| PodId::from_random([byte; 32]).categories();
        for byte in 0..=u8::MAX {
            let (first, second) = of(byte);
            assert!(first < second && second < 1024, "{first} {second}");
        }
        assert_eq!(of(7), (128, 933), "levels of pods that run would not be theirs any more");
    }

    #[test]
    fn an_id_made_of_random_bytes_parses_again() {
        let id = ContainerId::from_random([0xa7; 32]);
        assert_eq!(ContainerId::parse(id.as_str()), Ok(id));
    }
}
