//! What the text of the sources must and must not hold.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

fn top() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// All files beneath `dir` with this ending, but for build output.
fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(&dir).expect("a directory of the project") {
            let path = entry.expect("entry").path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
            if path.is_dir() && !["target", ".git", "out", "node_modules"].contains(&name.as_str()) {
                left.push(path);
            } else if name.ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no {ending} beneath {}", dir.display());
    found
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).expect("a source is UTF-8")
}

#[test]
fn each_source_file_says_at_its_head_what_it_is() {
    for path in files(&top().join("crates"), ".rs") {
        let text = text(&path);
        // A file of tests alone may go without: what it tests has one.
        if path.file_name().is_some_and(|name| name == "tests.rs") {
            continue;
        }
        let head = text.lines().find(|l| !l.trim().is_empty()).unwrap_or_default();
        assert!(head.starts_with("//!"), "{} has no head comment", path.display());
    }
}

#[test]
fn unsafe_code_lives_in_sys_alone() {
    for path in files(&top().join("crates"), ".rs") {
        if path.components().any(|c| c.as_os_str() == "sys") {
            continue;
        }
        for (number, line) in text(&path).lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let found =
                code.contains("unsafe {") || code.contains("unsafe fn") || code.contains("unsafe impl");
            assert!(!found, "{}:{}: unsafe outside sys", path.display(), number + 1);
        }
    }
    for manifest in
        files(&top().join("crates"), "lib.rs").iter().chain(&files(&top().join("crates"), "main.rs"))
    {
        if !manifest
            .components()
            .any(|c| c.as_os_str() == "sys" || c.as_os_str() == "bin" || c.as_os_str() == "tests")
        {
            assert!(
                text(manifest).contains("forbid(unsafe_code)"),
                "{} does not forbid unsafe",
                manifest.display()
            );
        }
    }
}

#[test]
fn each_unsafe_block_says_why_it_is_sound() {
    for path in files(&top().join("crates/sys/src"), ".rs") {
        let text = text(&path);
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if code.contains("unsafe {") || code.contains("unsafe impl") {
                let before = &lines[number.saturating_sub(8)..=number];
                let told = before.iter().any(|l| l.contains("SAFETY:"));
                assert!(told, "{}:{}: no SAFETY line", path.display(), number + 1);
            }
        }
    }
}

#[test]
fn no_test_is_ignored_and_nothing_is_left_to_do() {
    // Spelled in halves, so that this file does not find itself.
    let words = [["#[ign", "ore"].concat(), ["to", "do!("].concat(), ["unimpl", "emented!("].concat()];
    for path in files(&top().join("crates"), ".rs").iter().chain(&files(&top().join("tests"), ".rs")) {
        for word in &words {
            assert!(!text(path).contains(word.as_str()), "{} holds `{word}`", path.display());
        }
    }
}

#[test]
fn no_directory_has_a_name_that_says_nothing() {
    let vague: BTreeSet<&str> = ["utils", "util", "common", "helpers", "helper", "misc"].into();
    for path in files(&top().join("crates"), ".rs") {
        for part in path.strip_prefix(top()).expect("beneath the top").components() {
            let name = part.as_os_str().to_str().unwrap_or_default().trim_end_matches(".rs");
            assert!(!vague.contains(name), "{}", path.display());
        }
    }
}

#[test]
fn each_dependency_has_its_reason() {
    let manifest: toml::Table = text(&top().join("Cargo.toml")).parse().expect("TOML");
    let reasons = text(&top().join("docs/dependencies.md"));
    let dependencies = manifest["workspace"]["dependencies"].as_table().expect("a table");
    for (name, value) in dependencies {
        let ours = value.get("path").is_some();
        assert!(
            ours || reasons.contains(&format!("`{name}`")),
            "docs/dependencies.md gives no reason for {name}"
        );
    }
}

#[test]
fn each_test_that_the_documentation_names_is_there() {
    let page = text(&top().join("docs/safety-tests.md"));
    let rows = page.lines().filter(|line| line.starts_with("| "));
    let sources: String = files(&top().join("crates"), ".rs")
        .iter()
        .chain(&files(&top().join("tests"), ".rs"))
        .map(|path| text(path))
        .collect();
    let mut named = 0;
    for row in rows {
        let tried = row.split(" | ").nth(1).unwrap_or_default();
        let is_function = |name: &&str| name.contains('_') && !name.chars().any(char::is_uppercase);
        for name in tried.split('`').skip(1).step_by(2).filter(is_function) {
            assert!(sources.contains(&format!("fn {name}()")), "no test is named {name}");
            named += 1;
        }
        for name in tried.split('"').skip(1).step_by(2) {
            assert!(sources.contains(&format!("\"{name}\"")), "no case is named {name:?}");
            named += 1;
        }
    }
    assert!(named > 30, "only {named} are named");
}
