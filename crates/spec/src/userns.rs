//! A container in its pod's user namespace (KEP-127).

use crate::{Input, SpecError, mounts};
use oci_spec::runtime::Linux;
use types::{
    container::IdMapping,
    pod::{UserMapping, UserMode},
};

const FIELD: &str = "config.linux.security_context.namespace_options.userns_options";

/// That the container asks for what its pod has, and that who it runs as is somebody there.
pub(crate) fn check(input: &Input<'_>) -> Result<(), SpecError> {
    let pod = input.pod.namespaces.user_mapping();
    match (input.container.security.namespaces.user, pod) {
        // POD without a mapping is the pod's, whatever that is.
        (None | Some(UserMode::Unmapped), _) | (Some(UserMode::Node), None) => {}
        (Some(UserMode::Pod(own)), Some(pod)) if own == pod => {}
        (Some(UserMode::Node), Some(_)) => {
            return Err(SpecError::new(
                FIELD,
                "is NODE, but the pod sandbox has a user namespace of its own",
            ));
        }
        (Some(UserMode::Pod(_)), _) => {
            return Err(SpecError::new(FIELD, "is another mapping than that of the pod sandbox"));
        }
    }
    let Some(UserMapping { length, .. }) = pod else { return Ok(()) };
    let user = input.user;
    for (field, id) in [
        ("config.linux.security_context.run_as_user", Some(user.uid)),
        ("config.linux.security_context.run_as_group", Some(user.gid)),
        ("config.linux.security_context.supplemental_groups", user.groups.iter().copied().max()),
    ] {
        if id.is_some_and(|id| id >= length) {
            let id = id.unwrap_or_default();
            return Err(SpecError::new(field, format!("{id} is not one of the pod's {length} ids")));
        }
    }
    Ok(())
}

/// The mapping of the pod.
pub(crate) fn map(input: &Input<'_>, linux: &mut Linux) -> Result<(), SpecError> {
    let Some(UserMapping { first_uid, first_gid, length }) = input.pod.namespaces.user_mapping() else {
        return Ok(());
    };
    let line = |host_id| mounts::mappings(&[IdMapping { container_id: 0, host_id, length }]);
    linux.set_uid_mappings(Some(line(first_uid)?));
    linux.set_gid_mappings(Some(line(first_gid)?));
    Ok(())
}
