//! The path of a group: absolute from the hierarchy's root, parsed once.

use crate::CgroupError;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Longest path that is taken; cgroupfs itself allows 255 bytes a component.
const MAX_LEN: usize = 1024;
/// Deepest nesting that is taken.
const MAX_DEPTH: usize = 32;

/// A cgroupfs path such as `/kubepods/burstable/pod1234/abcd`, the same in every hierarchy and
/// independent of the caller's own group. Never the root, never with `.` or `..`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CgroupPath(String);

impl CgroupPath {
    /// Parses an absolute path; repeated and trailing slashes are dropped.
    ///
    /// # Errors
    /// [`CgroupError::BadPath`] if it is relative, the root, has `.`, `..`, a NUL or a newline, or
    /// is too long or deep. A systemd triple (`slice:prefix:name`) is relative and so refused.
    pub fn parse(text: &str) -> Result<CgroupPath, CgroupError> {
        let bad = |why| Err(CgroupError::BadPath { path: text.chars().take(128).collect(), why });
        if text.len() > MAX_LEN {
            return bad("longer than 1024 bytes");
        }
        let Some(relative) = text.strip_prefix('/') else {
            return bad("must be absolute");
        };
        let mut clean = String::with_capacity(text.len());
        for (depth, name) in relative.split('/').filter(|name| !name.is_empty()).enumerate() {
            if name == "." || name == ".." {
                return bad("must not contain . or ..");
            }
            if name.len() > 255 {
                return bad("has a component longer than 255 bytes");
            }
            if name.contains(['\0', '\n']) {
                return bad("must not contain NUL or a newline");
            }
            if depth == MAX_DEPTH {
                return bad("has more than 32 components");
            }
            clean.push('/');
            clean.push_str(name);
        }
        if clean.is_empty() {
            return bad("the root group is not a target");
        }
        Ok(CgroupPath(clean))
    }

    /// The path with its leading slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path beneath the hierarchy's root.
    pub(crate) fn relative(&self) -> &str {
        &self.0[1..]
    }

    /// A group beneath this one.
    ///
    /// # Errors
    /// [`CgroupError::BadPath`] if `name` is not a single usable component.
    pub fn join(&self, name: &str) -> Result<CgroupPath, CgroupError> {
        if name.is_empty() || name.contains('/') {
            return Err(CgroupError::BadPath {
                path: name.chars().take(128).collect(),
                why: "must be one component",
            });
        }
        CgroupPath::parse(&format!("{}/{name}", self.0))
    }

    /// The group above, unless that is the root.
    #[must_use]
    pub fn parent(&self) -> Option<CgroupPath> {
        let (above, _) = self.0.rsplit_once('/')?;
        (!above.is_empty()).then(|| CgroupPath(above.to_owned()))
    }
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for CgroupPath {
    type Error = CgroupError;

    fn try_from(text: String) -> Result<Self, CgroupError> {
        CgroupPath::parse(&text)
    }
}

impl From<CgroupPath> for String {
    fn from(path: CgroupPath) -> String {
        path.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_cleaned_of_empty_components() {
        assert_eq!(CgroupPath::parse("//kubepods///pod1/").unwrap().as_str(), "/kubepods/pod1");
    }

    #[test]
    fn paths_that_leave_or_are_the_root_are_refused() {
        for text in ["", "/", "//", "a", "a/b", "/a/../b", "/..", "/./a", "/a\0b", "/a\nb", "s:p:n"] {
            assert!(CgroupPath::parse(text).is_err(), "{text:?}");
        }
        assert!(CgroupPath::parse(&format!("/{}", "x".repeat(256))).is_err());
        assert!(CgroupPath::parse(&"/x".repeat(33)).is_err());
        assert!(CgroupPath::parse(&"/x".repeat(32)).is_ok());
        assert!(CgroupPath::parse(&"/xxxxxxxxxxxxxxxx".repeat(100)).is_err());
    }

    #[test]
    fn a_child_is_one_component_below() {
        let path = CgroupPath::parse("/a").unwrap();
        assert_eq!(path.join("b").unwrap().as_str(), "/a/b");
        for name in ["", "b/c", "..", ".", "b\0"] {
            assert!(path.join(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn the_parent_of_a_first_level_group_is_no_target() {
        let path = CgroupPath::parse("/a/b").unwrap();
        assert_eq!(path.parent().unwrap().as_str(), "/a");
        assert_eq!(path.parent().unwrap().parent(), None);
    }
}
