//! Documents that are taken, and those that lie.

use super::*;
use serde_json::{Value, json};

fn digest(byte: &str) -> String {
    format!("sha256:{}", byte.repeat(32))
}

fn manifest() -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest("aa"), "size": 2},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest("bb"), "size": 3}],
    })
}

fn index(platforms: &[(&str, &str, Option<&str>)]) -> Value {
    let entries: Vec<Value> = platforms
        .iter()
        .enumerate()
        .map(|(at, (os, architecture, variant))| {
            json!({"mediaType": OCI_MANIFEST, "digest": digest(&format!("{at:02x}")), "size": 1,
                   "platform": {"os": os, "architecture": architecture, "variant": variant}})
        })
        .collect();
    json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
}

fn parse(value: &Value, declared: Option<&str>) -> Result<Document, ManifestError> {
    Document::parse(value.to_string().as_bytes(), declared)
}

fn chosen(value: &Value) -> Result<String, ManifestError> {
    match parse(value, None).expect("an index") {
        Document::Index(index) => index.choose().map(|d| d.digest.hex()[..2].to_owned()),
        Document::Manifest(_) => panic!("a manifest"),
    }
}

#[test]
fn a_manifest_is_taken_when_carrier_and_content_agree() {
    for declared in [None, Some(OCI_MANIFEST), Some("application/json"), Some("text/plain; charset=utf-8")] {
        let Ok(Document::Manifest(found)) = parse(&manifest(), declared) else { panic!("{declared:?}") };
        assert_eq!((found.config.size, found.layers.len()), (2, 1));
    }
    let mut silent = manifest();
    silent["mediaType"] = Value::Null;
    assert!(parse(&silent, Some(OCI_MANIFEST)).is_ok(), "OCI documents need no media type of their own");
}

#[test]
fn documents_that_can_be_read_in_two_ways_are_refused() {
    let mut both = manifest();
    both["manifests"] = json!([]);
    let mut both_index = index(&[]);
    both_index["layers"] = json!([]);
    let mut silent = manifest();
    silent["mediaType"] = Value::Null;
    let mut other_case = manifest();
    other_case["Layers"] = json!([]);
    let mut null_layers = manifest();
    null_layers["layers"] = Value::Null;
    let mut no_config = manifest();
    no_config["config"] = Value::Null;
    let cases = [
        ("both", both, None),
        ("both, as index", both_index, None),
        ("sent as an index", manifest(), Some(OCI_INDEX)),
        ("sent as Docker's", manifest(), Some(DOCKER_MANIFEST)),
        ("silent", silent.clone(), None),
        ("silent Docker", silent, Some(DOCKER_MANIFEST)),
        ("wrong case", other_case, None),
        ("null layers", null_layers, None),
        ("no config", no_config, None),
    ];
    for (name, value, declared) in cases {
        assert!(matches!(parse(&value, declared), Err(ManifestError::Ambiguous(_))), "{name}");
    }
    let twice = br#"{"schemaVersion":2,"layers":[],"layers":[],"mediaType":"x"}"#;
    assert!(matches!(Document::parse(twice, None), Err(ManifestError::Malformed { .. })));
}

#[test]
fn what_is_not_done_is_refused_by_name() {
    let with_layer = |media_type: &str| {
        let mut value = manifest();
        value["layers"][0]["mediaType"] = json!(media_type);
        value
    };
    let mut artifact = manifest();
    artifact["config"]["mediaType"] = json!("application/vnd.oci.empty.v1+json");
    let schema1 = json!({"schemaVersion": 1, "fsLayers": [], "mediaType": "application/vnd.docker.distribution.manifest.v1+prettyjws"});
    for (value, word) in [
        (with_layer("application/vnd.oci.image.layer.v1.tar+gzip+encrypted"), "encrypted"),
        (with_layer("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"), "foreign"),
        (with_layer("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"), "foreign"),
        (with_layer("application/x-thing"), "application/x-thing"),
        (artifact, "artifact"),
        (schema1, "schema 1"),
    ] {
        let error = parse(&value, None).expect_err(word).to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn sizes_and_digests_that_cannot_be_are_refused() {
    for size in [json!(-1), json!(-9_223_372_036_854_775_808_i64), json!(1.5), json!("3"), Value::Null] {
        let mut value = manifest();
        value["layers"][0]["size"] = size.clone();
        assert!(parse(&value, None).is_err(), "{size}");
    }
    for bad in ["sha256:../../x", "md5:00", "", "SHA256:AA", &digest("aa")[..70]] {
        let mut value = manifest();
        value["config"]["digest"] = json!(bad);
        assert!(matches!(parse(&value, None), Err(ManifestError::Digest { .. })), "{bad}");
    }
    let mut many = manifest();
    many["layers"] = Value::Array(vec![many["layers"][0].clone(); MAX_LAYERS + 1]);
    assert!(matches!(parse(&many, None), Err(ManifestError::TooMany { .. })));
    assert!(Document::parse(b"null", None).is_err());
    assert!(Document::parse("[".repeat(100_000).as_bytes(), None).is_err(), "depth");
}

#[test]
fn the_entry_for_this_host_is_chosen() {
    let host = host_architecture();
    assert_eq!(chosen(&index(&[("linux", "mips", None), ("linux", host, None)])).expect("fits"), "01");
    assert_eq!(chosen(&index(&[("unknown", "unknown", None), ("linux", host, None)])).expect("fits"), "01");
    assert_eq!(chosen(&index(&[("windows", host, None), ("linux", host, None)])).expect("fits"), "01");
    assert_eq!(chosen(&index(&[("linux", host, None), ("linux", host, None)])).expect("fits"), "00");
    assert_eq!(chosen(&index(&[("linux", host, Some("v99")), ("linux", host, None)])).expect("fits"), "01");
    let error = chosen(&index(&[("linux", "mips", None)])).expect_err("nothing fits");
    assert!(error.to_string().contains("linux/mips"), "{error}");
    assert!(chosen(&index(&[])).is_err());
}
