//! The configuration of an image: what a container takes over, and which layers it must find.
//!
//! OCI image-spec config.md; Docker's differs only in fields that nobody here reads.

use crate::manifest::{ManifestError, host_architecture};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use std::collections::BTreeMap;
use types::Digest;

#[derive(Debug, Deserialize)]
struct Raw {
    #[serde(default)]
    architecture: Option<String>,
    #[serde(default)]
    os: Option<String>,
    #[serde(default)]
    config: Option<RawDefaults>,
    rootfs: RawRootfs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawDefaults {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    volumes: Option<BTreeMap<String, IgnoredAny>>,
    stop_signal: Option<String>,
}

#[derive(Debug, Deserialize)]
struct RawRootfs {
    #[serde(rename = "type")]
    kind: String,
    diff_ids: Option<Vec<String>>,
}

/// The parts of a configuration that matter here. Also a part of records: see `record.rs`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageConfig {
    /// Digests of the uncompressed layers, lowest first.
    pub(crate) diff_ids: Vec<Digest>,
    pub(crate) user: String,
    pub(crate) env: Vec<String>,
    pub(crate) entrypoint: Vec<String>,
    pub(crate) cmd: Vec<String>,
    pub(crate) working_dir: String,
    /// Absolute and cleaned.
    pub(crate) volumes: Vec<String>,
    /// As written.
    pub(crate) stop_signal: String,
}

impl ImageConfig {
    /// Reads a configuration; `layers` is how many its manifest has.
    pub(crate) fn parse(bytes: &[u8], layers: usize) -> Result<Self, ManifestError> {
        let raw: Raw = serde_json::from_slice(bytes)
            .map_err(|source| ManifestError::Malformed { what: "image configuration", source })?;
        let (os, architecture) = (raw.os.unwrap_or_default(), raw.architecture.unwrap_or_default());
        let fits = |text: &str, wanted: &str| text.is_empty() || text == wanted;
        if !fits(&os, "linux") || !fits(&architecture, host_architecture()) {
            let found: String =
                format!("{os}/{architecture}").chars().take(80).flat_map(char::escape_default).collect();
            return Err(ManifestError::Platform { wanted: host_architecture(), found });
        }
        if raw.rootfs.kind != "layers" {
            return Err(ManifestError::Unsupported("a root file system that is not of layers".to_owned()));
        }
        let diff_ids: Result<Vec<Digest>, _> =
            raw.rootfs.diff_ids.unwrap_or_default().iter().map(|text| Digest::parse(text)).collect();
        let diff_ids =
            diff_ids.map_err(|source| ManifestError::Digest { what: "image configuration", source })?;
        if diff_ids.len() != layers {
            return Err(ManifestError::Contradiction(
                "its manifest and its configuration have different numbers of layers",
            ));
        }
        let defaults = raw.config.unwrap_or_default();
        let volumes: Result<Vec<String>, _> =
            defaults.volumes.unwrap_or_default().into_keys().map(|path| volume(&path)).collect();
        Ok(Self {
            diff_ids,
            user: defaults.user.unwrap_or_default(),
            env: defaults.env.unwrap_or_default(),
            entrypoint: defaults.entrypoint.unwrap_or_default(),
            cmd: defaults.cmd.unwrap_or_default(),
            working_dir: defaults.working_dir.unwrap_or_default(),
            volumes: volumes?,
            stop_signal: defaults.stop_signal.unwrap_or_default(),
        })
    }
}

/// Cleans the path of a volume; one that climbs is refused.
fn volume(path: &str) -> Result<String, ManifestError> {
    let mut clean = String::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => return Err(ManifestError::Contradiction("a volume's path climbs by `..`")),
            _ if part.contains('\0') => {
                return Err(ManifestError::Contradiction("a volume's path has a NUL"));
            }
            _ => {
                clean.push('/');
                clean.push_str(part);
            }
        }
    }
    if clean.is_empty() {
        return Err(ManifestError::Contradiction("a volume is the root itself"));
    }
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn config() -> Value {
        json!({
            "architecture": host_architecture(), "os": "linux",
            "config": {"User": "1:2", "Env": ["A=b"], "Cmd": ["x"], "Entrypoint": null,
                       "Volumes": {"data/./x": {}, "/b": {}}, "StopSignal": "SIGINT"},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", "ab".repeat(32))]},
        })
    }

    fn parse(value: &Value, layers: usize) -> Result<ImageConfig, ManifestError> {
        ImageConfig::parse(value.to_string().as_bytes(), layers)
    }

    #[test]
    fn what_a_container_takes_over_is_read_and_null_means_absent() {
        let found = parse(&config(), 1).expect("good");
        assert_eq!((found.user.as_str(), found.cmd.len(), found.entrypoint.len()), ("1:2", 1, 0));
        assert_eq!(found.volumes, ["/b", "/data/x"]);
        let bare = json!({"config": null, "rootfs": {"type": "layers", "diff_ids": null}});
        assert_eq!(parse(&bare, 0).expect("bare"), ImageConfig::default());
    }

    #[test]
    fn configurations_that_contradict_are_refused() {
        assert!(matches!(parse(&config(), 2), Err(ManifestError::Contradiction(_))));
        let change = |key: &str, value: Value| {
            let mut changed = config();
            changed[key] = value;
            parse(&changed, 1)
        };
        assert!(matches!(change("architecture", json!("mips")), Err(ManifestError::Platform { .. })));
        assert!(matches!(change("os", json!("windows")), Err(ManifestError::Platform { .. })));
        assert!(change("rootfs", json!({"type": "x", "diff_ids": []})).is_err());
        assert!(change("rootfs", json!({"type": "layers", "diff_ids": ["sha256:x"]})).is_err());
        for bad in ["/../../canary", "..", "/", "", "a\0b"] {
            let volumes = json!({"Volumes": {bad: {}}});
            assert!(change("config", volumes).is_err(), "{bad:?}");
        }
        assert!(ImageConfig::parse(b"null", 0).is_err());
    }
}
