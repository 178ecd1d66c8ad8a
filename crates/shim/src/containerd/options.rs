//! The runtime options of a Create (`[...runtimes.NAME.options]` of containerd's configuration). This runtime
//! has none of its own, so any that asks for something is refused by its name; but for the owner of the pipes, which
//! containerd's CRI names for a container in a user namespace, and which the process's user is in any case.

use crate::wire::Refusal;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim::oci::Options as RuncOptions;
use oci_spec::runtime::{LinuxIdMapping, Spec};
use protobuf::Message as _;
use std::path::Path;

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

/// User and group of the container's first process, as the host numbers them.
fn owner(spec: &Spec) -> Option<(u32, u32)> {
    let user = spec.process().as_ref()?.user();
    let linux = spec.linux().as_ref();
    let users = linux.and_then(|linux| linux.uid_mappings().as_deref()).unwrap_or_default();
    let groups = linux.and_then(|linux| linux.gid_mappings().as_deref()).unwrap_or_default();
    Some((on_host(user.uid(), users)?, on_host(user.gid(), groups)?))
}

/// An id of the container's on the host; none if it is not mapped.
fn on_host(id: u32, mappings: &[LinuxIdMapping]) -> Option<u32> {
    if mappings.is_empty() {
        return Some(id);
    }
    let within = |mapping: &&LinuxIdMapping| {
        id.checked_sub(mapping.container_id()).is_some_and(|offset| offset < mapping.size())
    };
    let mapping = mappings.iter().find(within)?;
    mapping.host_id().checked_add(id - mapping.container_id())
}

/// Refuses options that ask for something. `bundle`: the container's.
///
/// # Errors
/// The refusal, with the option's name.
pub(crate) fn check(options: Option<&Any>, bundle: &Path) -> Result<(), Refusal> {
    let Some(options) = options.filter(|any| !any.type_url.is_empty() || !any.value.is_empty()) else {
        return Ok(());
    };
    // With or without a domain before it.
    let name = options.type_url.rsplit('/').next().unwrap_or_default();
    let unreadable = || Refusal::invalid(format!("options: not a {name}"));
    let set: Vec<(&str, bool)> = match name {
        RUNC => {
            let all = RuncOptions::parse_from_bytes(&options.value).map_err(|_| unreadable())?;
            let mut other_owner = (false, false);
            if (all.io_uid, all.io_gid) != (0, 0) {
                let owner = owner(&crate::launch::read_spec(bundle)?);
                other_owner = (
                    owner.is_none_or(|(uid, _)| uid != all.io_uid),
                    owner.is_none_or(|(_, gid)| gid != all.io_gid),
                );
            }
            vec![
                ("NoPivotRoot", all.no_pivot_root),
                ("NoNewKeyring", all.no_new_keyring),
                ("ShimCgroup", !all.shim_cgroup.is_empty()),
                ("IoUid", other_owner.0),
                ("IoGid", other_owner.1),
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

    const NOWHERE: &str = "/nonexistent";

    #[test]
    fn empty_options_are_taken() {
        assert_eq!(check(None, NOWHERE.as_ref()), Ok(()));
        for name in ["", RUNC, GENERIC, "type.googleapis.com/containerd.runc.v1.Options"] {
            assert_eq!(check(Some(&any(name, Vec::new())), NOWHERE.as_ref()), Ok(()), "{name}");
        }
        let named = Generic { type_url: "x".to_owned(), ..Generic::default() };
        assert_eq!(
            check(Some(&any(GENERIC, prost::Message::encode_to_vec(&named))), NOWHERE.as_ref()),
            Ok(())
        );
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
            let refusal = check(Some(&options), NOWHERE.as_ref()).expect_err(name);
            assert!(refusal.message.contains("options") && refusal.message.contains(name), "{refusal}");
        }
    }

    #[test]
    fn the_owner_of_the_pipes_is_the_processs_user_as_the_host_numbers_it() {
        let directory = crate::testing::Directory::new();
        let map = serde_json::json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
        let spec = serde_json::json!({
            "ociVersion": "1.2.0",
            "process": { "user": { "uid": 5, "gid": 6 }, "cwd": "/", "args": ["a"] },
            "linux": { "uidMappings": map, "gidMappings": map },
        });
        std::fs::File::create(directory.0.join("config.json"))
            .and_then(|mut file| std::io::Write::write_all(&mut file, spec.to_string().as_bytes()))
            .expect("write");
        let owned = |io_uid, io_gid| {
            let options = RuncOptions { io_uid, io_gid, ..RuncOptions::default() };
            check(Some(&any(RUNC, options.write_to_bytes().expect("encode"))), &directory.0)
        };
        assert_eq!(owned(100_005, 100_006), Ok(()));
        assert!(owned(5, 100_006).expect_err("another user").message.contains("IoUid"));
        assert!(owned(100_005, 6).expect_err("another group").message.contains("IoGid"));
    }
}
