//! The allowed edges between crates, drawn in ARCHITECTURE.md. A new edge is a decision: it is made
//! here and there in one commit.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]

use std::{collections::BTreeMap, path::Path};

/// What each room may use. Rooms that are not named on the right of a row are out of its sight.
const ALLOWED: &[(&str, &[&str])] = &[
    (
        "peapod",
        &[
            "api", "cgroup", "config", "cri", "engine", "image", "net", "seccomp", "shimlink", "spec",
            "stats", "store", "stream", "sys", "types",
        ],
    ),
    ("cri", &["api", "engine", "image", "stats", "stream", "types"]),
    ("engine", &["config", "spec", "store", "types"]),
    ("spec", &["config", "types"]),
    ("image", &["config", "seccomp", "store", "sys", "types"]),
    ("net", &["cgroup", "config", "store", "sys", "types"]),
    ("shimlink", &["cgroup", "config", "store", "sys", "types"]),
    ("stats", &["cgroup", "config", "store", "sys", "types"]),
    ("stream", &["config", "sys", "types"]),
    ("shim", &["cgroup", "runner", "seccomp", "sys", "types"]),
    ("runner", &["cgroup", "seccomp", "sys", "types"]),
    ("cgroup", &["sys", "types"]),
    ("seccomp", &["sys", "types"]),
    ("store", &["sys", "types"]),
    ("config", &["sys", "types"]),
    ("api", &["sys", "types"]),
    ("sys", &["types"]),
    ("types", &[]),
    ("regex", &[]),
];

fn top() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// Each crate of `crates/` with the names in its `[dependencies]`.
fn manifests() -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(top().join("crates")).expect("crates/") {
        let path = entry.expect("entry").path().join("Cargo.toml");
        let text = std::fs::read_to_string(&path).expect("a crate has a manifest");
        let manifest: toml::Table = text.parse().expect("a manifest is TOML");
        let name = manifest["package"]["name"].as_str().expect("a name").to_owned();
        let of = |key: &str| {
            manifest.get(key).and_then(toml::Value::as_table).map(|t| t.keys().cloned().collect::<Vec<_>>())
        };
        let mut names = of("dependencies").unwrap_or_default();
        names.extend(of("build-dependencies").unwrap_or_default());
        all.insert(name, names);
    }
    all
}

#[test]
fn each_crate_uses_only_the_rooms_that_it_may() {
    let manifests = manifests();
    let mut wrong = Vec::new();
    for (name, dependencies) in &manifests {
        let Some((_, allowed)) = ALLOWED.iter().find(|(known, _)| known == name) else {
            wrong.push(format!("{name} is a crate that the map does not know"));
            continue;
        };
        for dependency in dependencies.iter().filter(|d| manifests.contains_key(*d)) {
            if !allowed.contains(&dependency.as_str()) {
                wrong.push(format!("{name} -> {dependency} is not allowed"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_cri_and_the_binary_know_the_wire_types() {
    for (name, dependencies) in manifests() {
        let wire = dependencies.iter().any(|d| d == "tonic" || d == "api");
        assert!(!wire || ["api", "cri", "peapod"].contains(&name.as_str()), "{name} speaks gRPC");
    }
}

#[test]
fn the_shim_links_no_grpc_tls_or_http() {
    let banned = ["tonic", "hyper", "rustls", "tokio", "h2"];
    for (name, dependencies) in manifests() {
        if ["shim", "runner", "cgroup", "seccomp", "sys", "types"].contains(&name.as_str()) {
            for dependency in &dependencies {
                assert!(!banned.contains(&dependency.as_str()), "{name} -> {dependency}");
            }
        }
    }
}

#[test]
fn the_map_names_each_crate() {
    let map = std::fs::read_to_string(top().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    for name in manifests().keys() {
        assert!(map.contains(&format!("`{name}`")), "ARCHITECTURE.md does not name `{name}`");
    }
}
