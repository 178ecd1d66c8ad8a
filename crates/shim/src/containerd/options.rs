//! The runtime options of a Create (`[...runtimes.NAME.options]` of containerd's configuration). This runtime
//! has none of its own, so any that asks for something is refused by its name.

use crate::wire::Refusal;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim::oci::Options as RuncOptions;
use protobuf::Message as _;

/// What runc's shim takes (containerd:api/types/runc/options/oci.proto).
const RUNC: &str = "containerd.runc.v1.Options";
/// What containerd's CRI gives to a runtime that it does not know (containerd:api/types/runtimeoptions/v1).
const GENERIC: &str = "runtimeoptions.v1.Options";

/// `runtimeoptions.v1.Options`, which the protocol's crate does not have.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Generic {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(string, tag = "2")]
    config_path: String,
    #[prost(bytes = "vec", tag = "3")]
    config_body: Vec<u8>,
}

/// Refuses options that ask for something.
///
/// # Errors
/// The refusal, with the option's name.
pub(crate) fn check(options: Option<&Any>) -> Result<(), Refusal> {
    let Some(options) = options.filter(|any| !any.type_url.is_empty() || !any.value.is_empty()) else {
        return Ok(());
    };
    // With or without a domain before it.
    let name = options.type_url.rsplit('/').next().unwrap_or_default();
    let unreadable = || Refusal::invalid(format!("options: not a {name}"));
    let set: Vec<(&str, bool)> = match name {
        RUNC => {
            let all = RuncOptions::parse_from_bytes(&options.value).map_err(|_| unreadable())?;
            vec![
                ("NoPivotRoot", all.no_pivot_root),
                ("NoNewKeyring", all.no_new_keyring),
                ("ShimCgroup", !all.shim_cgroup.is_empty()),
                ("IoUid", all.io_uid != 0),
                ("IoGid", all.io_gid != 0),
                ("BinaryName", !all.binary_name.is_empty()),
                ("Root", !all.root.is_empty()),
                ("SystemdCgroup", all.systemd_cgroup),
                ("CriuImagePath", !all.criu_image_path.is_empty()),
                ("CriuWorkPath", !all.criu_work_path.is_empty()),
                ("TaskApiAddress", !all.task_api_address.is_empty()),
            ]
        }
        GENERIC => {
            let all =
                <Generic as prost::Message>::decode(options.value.as_slice()).map_err(|_| unreadable())?;
            vec![("ConfigPath", !all.config_path.is_empty()), ("ConfigBody", !all.config_body.is_empty())]
        }
        _ => return Err(Refusal::unimplemented(&format!("options: {name:?}"))),
    };
    match set.iter().find(|(_, set)| *set) {
        Some((field, _)) => Err(Refusal::unimplemented(&format!("options: {field}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(name: &str, value: Vec<u8>) -> Any {
        Any { type_url: name.to_owned(), value, ..Any::default() }
    }

    #[test]
    fn empty_options_are_taken() {
        assert_eq!(check(None), Ok(()));
        for name in ["", RUNC, GENERIC, "type.googleapis.com/containerd.runc.v1.Options"] {
            assert_eq!(check(Some(&any(name, Vec::new()))), Ok(()), "{name}");
        }
        let named = Generic { type_url: "x".to_owned(), ..Generic::default() };
        assert_eq!(check(Some(&any(GENERIC, prost::Message::encode_to_vec(&named)))), Ok(()));
    }

    #[test]
    fn an_option_that_is_set_is_refused_by_its_name() {
        let runc = |options: RuncOptions| any(RUNC, options.write_to_bytes().expect("encode"));
        let body = Generic { config_body: b"a = 1".to_vec(), ..Generic::default() };
        for (options, name) in [
            (runc(RuncOptions { systemd_cgroup: true, ..RuncOptions::default() }), "SystemdCgroup"),
            (runc(RuncOptions { binary_name: "crun".to_owned(), ..RuncOptions::default() }), "BinaryName"),
            (any(GENERIC, prost::Message::encode_to_vec(&body)), "ConfigBody"),
            (any("a.B", Vec::new()), "a.B"),
            (any(RUNC, vec![0xff]), RUNC),
        ] {
            let refusal = check(Some(&options)).expect_err(name);
            assert!(refusal.message.contains("options") && refusal.message.contains(name), "{refusal}");
        }
    }
}
