//! Names of systemd slices: `kubepods-burstable.slice` lies in `kubepods.slice`.
//!
//! systemd.slice(5), systemd.unit(5).

use std::fmt;

/// Longest name of a unit (systemd.unit(5)).
const MAX_LEN: usize = 255;
/// Deepest nesting that is taken.
const MAX_DEPTH: usize = 32;

/// Text that is not the name of a slice.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{}` is not a systemd slice: {why}", .text.chars().take(120).flat_map(char::escape_default).collect::<String>())]
pub struct BadSlice {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// A slice beneath the root slice, by the name of its unit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slice(String);

impl Slice {
    /// Parses the name of a slice, `test.slice`. The root slice `-.slice` is none that a pod may have.
    ///
    /// # Errors
    /// [`BadSlice`] says what is wrong.
    pub fn parse(text: &str) -> Result<Slice, BadSlice> {
        let bad = |why| Err(BadSlice { text: text.chars().take(MAX_LEN).collect(), why });
        let Some(name) = text.strip_suffix(".slice") else {
            return bad("it does not end in .slice");
        };
        if text.len() > MAX_LEN {
            return bad("it is longer than 255 bytes");
        }
        if name == "-" {
            return bad("the root slice cannot be a pod's: name one beneath it");
        }
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\".contains(&byte);
        if !name.bytes().all(valid) {
            return bad("a unit's name has letters, digits and :-_.\\ only");
        }
        // Between dashes are the names of the slices above; none of them can be empty.
        if name.split('-').any(str::is_empty) {
            return bad("a dash separates two names");
        }
        if name.split('-').count() > MAX_DEPTH {
            return bad("it is nested deeper than 32");
        }
        Ok(Slice(text.to_owned()))
    }

    /// Parses a `cgroup_parent`: the name alone, or as the kubelet gives it the whole path of the
    /// slice's group, `/kubepods.slice/kubepods-burstable.slice`.
    ///
    /// # Errors
    /// [`BadSlice`]; also for a path that is not where systemd has that slice.
    pub fn parse_path(text: &str) -> Result<Slice, BadSlice> {
        let path = text.trim_end_matches('/');
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        let bad = |error: BadSlice| BadSlice { text: text.chars().take(MAX_LEN).collect(), ..error };
        let slice = Slice::parse(name).map_err(bad)?;
        // One component alone, with or without its slash, is a name.
        let told: Vec<&str> = above.split('/').filter(|part| !part.is_empty()).collect();
        let own = slice.group();
        let own: Vec<&str> = own.split('/').filter(|part| !part.is_empty()).collect();
        if told.is_empty() || told == own[..own.len() - 1] {
            return Ok(slice);
        }
        Err(bad(BadSlice { text: String::new(), why: "systemd has the slice of that name elsewhere" }))
    }

    /// The name of the unit.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Its group: one directory for each dash, `/a.slice/a-b.slice` for `a-b.slice`.
    #[must_use]
    pub fn group(&self) -> String {
        let name = self.0.strip_suffix(".slice").unwrap_or(&self.0);
        let ends = name.match_indices('-').map(|(at, _)| at).chain([name.len()]);
        ends.map(|end| format!("/{}.slice", &name[..end])).collect()
    }
}

impl fmt::Display for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_lies_in_those_that_its_name_begins_with() {
        for (name, group) in [
            ("test.slice", "/test.slice"),
            ("a-b.slice", "/a.slice/a-b.slice"),
            (
                "kubepods-burstable-pod1a_2b.slice",
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1a_2b.slice",
            ),
            ("x.y-z.slice", "/x.y.slice/x.y-z.slice"),
        ] {
            let slice = Slice::parse(name).expect(name);
            assert_eq!((slice.name(), slice.group().as_str()), (name, group));
        }
    }

    #[test]
    fn what_systemd_would_not_take_is_refused() {
        for bad in [
            "",
            "slice",
            ".slice",
            "-.slice",
            "a",
            "a.scope",
            "-a.slice",
            "a-.slice",
            "a--b.slice",
            "a b.slice",
            "a/b.slice",
            "a\nb.slice",
            "a@b.slice",
            "a\u{e9}.slice",
            "../a.slice",
        ] {
            assert!(Slice::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Slice::parse(&format!("{}.slice", "x".repeat(250))).is_err());
        assert!(Slice::parse(&format!("{}x.slice", "x-".repeat(32))).is_err());
        assert!(Slice::parse(&format!("{}x.slice", "x-".repeat(31))).is_ok());
    }

    #[test]
    fn the_kubelet_s_whole_path_names_the_same_slice() {
        for path in ["a-b.slice", "/a-b.slice", "/a.slice/a-b.slice", "//a.slice//a-b.slice/"] {
            assert_eq!(Slice::parse_path(path).expect(path).name(), "a-b.slice");
        }
        for elsewhere in ["/b.slice/a-b.slice", "/a-b.slice/a-b.slice", "/x/a.slice/a-b.slice", "/a.slice/.."]
        {
            let error = Slice::parse_path(elsewhere).expect_err(elsewhere).to_string();
            assert!(error.contains(elsewhere), "{error}");
        }
        assert!(Slice::parse_path("/").is_err());
    }
}
