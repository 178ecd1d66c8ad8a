//! `-info`: what the runtime can do (containerd:api/types/introspection.proto). containerd asks once for each
//! runtime, and reads from it whether mounts can be idmapped or recursively read-only.

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use protobuf::{Message as _, MessageField};

/// The name of features.md's structure (containerd:core/runtime/typeurl.go); its value is JSON.
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// The answer. What options the runtime has been given changes nothing of it, so they are not read.
///
/// # Errors
/// It cannot be encoded.
pub(super) fn info() -> Result<Vec<u8>, String> {
    let version =
        RuntimeVersion { version: env!("CARGO_PKG_VERSION").to_owned(), ..RuntimeVersion::default() };
    let features = Any {
        type_url: FEATURES.to_owned(),
        value: runner::front::features().into_bytes(),
        ..Any::default()
    };
    let info = RuntimeInfo {
        name: "io.containerd.peapod.v1".to_owned(),
        version: MessageField::some(version),
        features: MessageField::some(features),
        ..RuntimeInfo::default()
    };
    info.write_to_bytes().map_err(|e| format!("encode the answer: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_features_are_those_of_the_runner() {
        let info = RuntimeInfo::parse_from_bytes(&info().expect("encode")).expect("decode");
        assert_eq!(info.name, "io.containerd.peapod.v1");
        let features: serde_json::Value = serde_json::from_slice(&info.features.value).expect("JSON");
        assert_eq!(features["linux"]["mountExtensions"]["idmap"]["enabled"], true);
        assert!(features["mountOptions"].as_array().is_some_and(|all| all.iter().any(|one| one == "rro")));
    }
}
