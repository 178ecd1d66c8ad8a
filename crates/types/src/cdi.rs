//! Names of the Container Device Interface: `vendor/class=device`, parsed once.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A qualified device name (CDI specification, "Kind" and "Devices").
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CdiName {
    /// `vendor/class`.
    pub kind: CdiKind,
    /// `gpu0`
    pub device: String,
}

/// What a device is of: `vendor.com/class`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CdiKind {
    vendor: String,
    class: String,
}

/// Text that is no such name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{}` is not {what}", .text.chars().take(100).flat_map(char::escape_default).collect::<String>())]
pub struct BadCdiName {
    text: String,
    what: &'static str,
}

/// No name of Kubernetes' is longer, and none of a device either.
const LONGEST: usize = 256;

impl CdiName {
    /// Parses `vendor/class=device`.
    ///
    /// # Errors
    /// [`BadCdiName`] for anything else.
    pub fn parse(text: &str) -> Result<Self, BadCdiName> {
        let bad = || BadCdiName { text: text.to_owned(), what: "a CDI device: want vendor.com/class=device" };
        let (kind, device) = text.split_once('=').ok_or_else(bad)?;
        if !is_device(device) {
            return Err(bad());
        }
        let kind = CdiKind::parse(kind).map_err(|_| bad())?;
        Ok(CdiName { kind, device: device.to_owned() })
    }
}

impl CdiKind {
    /// Parses `vendor/class`.
    ///
    /// # Errors
    /// [`BadCdiName`] for anything else.
    pub fn parse(text: &str) -> Result<Self, BadCdiName> {
        match text.split_once('/') {
            Some((vendor, class)) if is_part(vendor) && is_part(class) => {
                Ok(CdiKind { vendor: vendor.to_owned(), class: class.to_owned() })
            }
            _ => Err(BadCdiName {
                text: text.to_owned(),
                what: "a kind of CDI devices: want vendor.com/class",
            }),
        }
    }

    /// The part after the slash.
    #[must_use]
    pub fn class(&self) -> &str {
        &self.class
    }
}

/// Vendors and classes: letters, digits, `_`, `-` and `.`; a letter first, a letter or digit last.
fn is_part(text: &str) -> bool {
    text.as_bytes().first().is_some_and(u8::is_ascii_alphabetic) && is_named(text, b"_-.")
}

/// Devices: the same and `:`; a digit may be first.
fn is_device(text: &str) -> bool {
    is_named(text, b"_-.:")
}

fn is_named(text: &str, more: &[u8]) -> bool {
    let bytes = text.as_bytes();
    let plain = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    text.len() <= LONGEST
        && plain(bytes.first())
        && plain(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || more.contains(byte))
}

impl fmt::Display for CdiKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.vendor, self.class)
    }
}

impl fmt::Display for CdiName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.kind, self.device)
    }
}

impl TryFrom<String> for CdiName {
    type Error = BadCdiName;
    fn try_from(text: String) -> Result<Self, BadCdiName> {
        CdiName::parse(&text)
    }
}

impl From<CdiName> for String {
    fn from(name: CdiName) -> String {
        name.to_string()
    }
}

impl TryFrom<String> for CdiKind {
    type Error = BadCdiName;
    fn try_from(text: String) -> Result<Self, BadCdiName> {
        CdiKind::parse(&text)
    }
}

impl From<CdiKind> for String {
    fn from(kind: CdiKind) -> String {
        kind.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_qualified_name_has_a_vendor_a_class_and_a_device() {
        for good in ["nvidia.com/gpu=0", "a/b=c", "v-1.x_y/net.v2=dev:0-1_a.b", "v/c=0"] {
            assert_eq!(CdiName::parse(good).expect(good).to_string(), good);
        }
        let long = format!("v/c={}", "x".repeat(257));
        for bad in [
            "", "=", "v/c", "v/c=", "/c=d", "v/=d", "v=d", "1v/c=d", "v/1c=d", "v./c=d", "v/c-=d", "v/c=-d",
            "v/c=d:", "v/c=d=e", "v/c/x=d", "v/c=d\n", "v/c=../d", "v c/c=d", &long,
        ] {
            assert!(CdiName::parse(bad).is_err(), "{bad:?} was taken");
        }
        let name = CdiName::parse("v.com/c=d").expect("a name");
        assert_eq!((name.kind.to_string().as_str(), name.kind.class()), ("v.com/c", "c"));
        assert_eq!(serde_json::to_string(&name).expect("JSON"), r#""v.com/c=d""#);
    }
}
