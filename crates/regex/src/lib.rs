//! `regex` for our dependencies, by [`regex_lite`]: `[patch.crates-io]` in the top manifest puts it in the published
//! crate's place.
//!
//! `oci-spec` checks one field (`execCPUAffinity`: digits, commas and dashes) by a regular expression. For that the
//! published crate links three automata and Unicode's tables into each program that reads a container's
//! configuration: more than a quarter of the shim, of which each pod has one. The others that ask for `regex` make
//! code at build time. In `regex_lite` classes such as `\d` are ASCII's, which is what a list of CPUs consists of.

pub use regex_lite::*;

#[cfg(test)]
mod tests {
    use super::Regex;

    /// The pattern of oci-spec 0.10 (`src/runtime/process.rs`).
    const AFFINITY: &str = r"^(\d+(-\d+)?)(,\d+(-\d+)?)*$";

    #[test]
    fn a_list_of_cpus_is_told_from_what_is_none() {
        let pattern = Regex::new(AFFINITY).expect("a pattern");
        for list in ["0", "0-3", "0-3,7", "1,2,3"] {
            assert!(pattern.is_match(list), "{list}");
        }
        for list in ["", ",", "0-", "-1", "0,,1", "0 1", "a", "0-3,", "٣"] {
            assert!(!pattern.is_match(list), "{list}");
        }
    }
}
