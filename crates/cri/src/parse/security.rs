//! Security contexts: users, capabilities, profiles, namespaces.

use super::{Bad, text};
use api::cri;
use std::path::PathBuf;
use types::{
    container::{
        AppArmorProfile, ContainerNamespaces, GroupsPolicy, PidMode, RunAs, SeccompProfile, Security,
        SelinuxLabel,
    },
    pod::{Namespaces, NsMode, UserMapping, UserMode},
};

/// `LinuxContainerSecurityContext`.
pub(super) fn container(field: &str, asked: &cri::LinuxContainerSecurityContext) -> Result<Security, Bad> {
    let at = |name: &str| format!("{field}.{name}");
    let user = match (&asked.run_as_user, asked.run_as_username.as_str()) {
        (Some(_), name) if !name.is_empty() => {
            return Err(Bad::field(at("run_as_username"), "is given beside run_as_user: want one of them"));
        }
        (Some(uid), _) => Some(RunAs::Uid(id(&at("run_as_user"), uid.value)?)),
        (None, "") => None,
        (None, name) => Some(RunAs::Name(text::bounded(&at("run_as_username"), name, 256)?)),
    };
    let group = asked.run_as_group.as_ref().map(|g| id(&at("run_as_group"), g.value)).transpose()?;
    if group.is_some() && user.is_none() {
        return Err(Bad::field(at("run_as_group"), "is given without run_as_user or run_as_username"));
    }
    let capabilities = asked.capabilities.clone().unwrap_or_default();
    Ok(Security {
        privileged: asked.privileged,
        add_capabilities: names(&at("capabilities.add_capabilities"), &capabilities.add_capabilities)?,
        drop_capabilities: names(&at("capabilities.drop_capabilities"), &capabilities.drop_capabilities)?,
        add_ambient_capabilities: names(
            &at("capabilities.add_ambient_capabilities"),
            &capabilities.add_ambient_capabilities,
        )?,
        namespaces: container_namespaces(&at("namespace_options"), asked.namespace_options.as_ref())?,
        user,
        group,
        supplemental_groups: groups(&at("supplemental_groups"), &asked.supplemental_groups)?,
        groups_policy: policy(&at("supplemental_groups_policy"), asked.supplemental_groups_policy)?,
        readonly_rootfs: asked.readonly_rootfs,
        no_new_privs: asked.no_new_privs,
        masked_paths: paths(&at("masked_paths"), &asked.masked_paths)?,
        readonly_paths: paths(&at("readonly_paths"), &asked.readonly_paths)?,
        seccomp: container_seccomp(field, asked)?,
        apparmor: container_apparmor(field, asked)?,
        selinux: selinux(&at("selinux_options"), asked.selinux_options.as_ref())?,
    })
}

/// A privileged container runs without a filter, whatever profile comes along (CRI comment).
#[expect(deprecated, reason = "an older client names the profile in the deprecated field only")]
fn container_seccomp(field: &str, asked: &cri::LinuxContainerSecurityContext) -> Result<SeccompProfile, Bad> {
    let profile = seccomp(&format!("{field}.seccomp"), asked.seccomp.as_ref(), &asked.seccomp_profile_path)?;
    Ok(if asked.privileged { SeccompProfile::Unconfined } else { profile })
}

/// A privileged container is not confined, whatever profile comes along (CRI comment).
#[expect(deprecated, reason = "an older client names the profile in the deprecated field only")]
fn container_apparmor(
    field: &str,
    asked: &cri::LinuxContainerSecurityContext,
) -> Result<AppArmorProfile, Bad> {
    let profile = apparmor(&format!("{field}.apparmor"), asked.apparmor.as_ref(), &asked.apparmor_profile)?;
    Ok(if asked.privileged { AppArmorProfile::Unconfined } else { profile })
}

/// A user or group id: all of u32 but the last, which the kernel keeps for "no change".
pub(super) fn id(field: &str, value: i64) -> Result<u32, Bad> {
    u32::try_from(value)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or_else(|| Bad::field(field, format!("{value} is not an id from 0 to 4294967294")))
}

/// Supplementary groups, at most NGROUPS_MAX.
pub(super) fn groups(field: &str, asked: &[i64]) -> Result<Vec<u32>, Bad> {
    if asked.len() > 65_536 {
        return Err(Bad::field(field, format!("are {}, the kernel takes at most 65536", asked.len())));
    }
    asked.iter().map(|group| id(field, *group)).collect()
}

/// `SupplementalGroupsPolicy`; an unknown value must be an error (KEP-3619).
pub(super) fn policy(field: &str, asked: i32) -> Result<GroupsPolicy, Bad> {
    match cri::SupplementalGroupsPolicy::try_from(asked) {
        Ok(cri::SupplementalGroupsPolicy::Merge) => Ok(GroupsPolicy::Merge),
        Ok(cri::SupplementalGroupsPolicy::Strict) => Ok(GroupsPolicy::Strict),
        Err(_) => Err(Bad::field(field, format!("{asked} is no policy"))),
    }
}

/// `SecurityProfile` for seccomp, or the deprecated string in its place. Whether a localhost profile can
/// be read is seen when the container is made.
pub(super) fn seccomp(
    field: &str,
    profile: Option<&cri::SecurityProfile>,
    deprecated: &str,
) -> Result<SeccompProfile, Bad> {
    use cri::security_profile::ProfileType;
    let localhost =
        |field: &str, path: &str| Ok(SeccompProfile::Localhost(PathBuf::from(text::absolute(field, path)?)));
    match profile {
        Some(profile) => match ProfileType::try_from(profile.profile_type) {
            Ok(ProfileType::RuntimeDefault) => Ok(SeccompProfile::RuntimeDefault),
            Ok(ProfileType::Unconfined) => Ok(SeccompProfile::Unconfined),
            Ok(ProfileType::Localhost) => {
                localhost(&format!("{field}.localhost_ref"), &profile.localhost_ref)
            }
            Err(_) => Err(Bad::field(
                format!("{field}.profile_type"),
                format!("{} is no type", profile.profile_type),
            )),
        },
        None => match deprecated {
            "" | "unconfined" => Ok(SeccompProfile::Unconfined),
            "runtime/default" | "docker/default" => Ok(SeccompProfile::RuntimeDefault),
            other => match other.strip_prefix("localhost/") {
                Some(path) => localhost(&format!("{field}_profile_path"), path),
                None => Err(Bad::field(
                    format!("{field}_profile_path"),
                    format!("`{}` is not unconfined, runtime/default or localhost/PATH", text::short(other)),
                )),
            },
        },
    }
}

/// `SecurityProfile` for AppArmor, or the deprecated string in its place. Whether a localhost profile is
/// loaded is seen when the container is made.
pub(super) fn apparmor(
    field: &str,
    profile: Option<&cri::SecurityProfile>,
    deprecated: &str,
) -> Result<AppArmorProfile, Bad> {
    use cri::security_profile::ProfileType;
    // Older kubelets put what they had in a pod's annotation into the new field.
    let localhost = |field: &str, name: &str| {
        let name = text::bounded(field, name.strip_prefix("localhost/").unwrap_or(name), 1024)?;
        if name.is_empty() || name == "unconfined" {
            return Err(Bad::field(field, "wants the name of a profile"));
        }
        Ok(AppArmorProfile::Localhost(name))
    };
    match profile {
        Some(profile) => match ProfileType::try_from(profile.profile_type) {
            Ok(ProfileType::RuntimeDefault) => Ok(AppArmorProfile::RuntimeDefault),
            Ok(ProfileType::Unconfined) => Ok(AppArmorProfile::Unconfined),
            Ok(ProfileType::Localhost) => {
                localhost(&format!("{field}.localhost_ref"), &profile.localhost_ref)
            }
            Err(_) => Err(Bad::field(
                format!("{field}.profile_type"),
                format!("{} is no type", profile.profile_type),
            )),
        },
        None => match deprecated {
            "" | "runtime/default" => Ok(AppArmorProfile::RuntimeDefault),
            "unconfined" => Ok(AppArmorProfile::Unconfined),
            other if other.starts_with("localhost/") => localhost(&format!("{field}_profile"), other),
            other => Err(Bad::field(
                format!("{field}_profile"),
                format!("`{}` is not unconfined, runtime/default or localhost/NAME", text::short(other)),
            )),
        },
    }
}

/// The parts of a label, each one word that cannot become two parts. What they do is the host's to say.
pub(super) fn selinux(
    field: &str,
    options: Option<&cri::SeLinuxOption>,
) -> Result<Option<SelinuxLabel>, Bad> {
    let Some(options) = options else { return Ok(None) };
    let part = |name: &str, value: &str, more: &[u8]| {
        let fine = value.len() <= 256
            && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b) || more.contains(&b));
        if fine {
            Ok(value.to_owned())
        } else {
            Err(Bad::field(
                format!("{field}.{name}"),
                format!("`{}` is not a part of a label", text::short(value)),
            ))
        }
    };
    let label = SelinuxLabel {
        user: part("user", &options.user, b"")?,
        role: part("role", &options.role, b"")?,
        kind: part("type", &options.r#type, b"")?,
        level: part("level", &options.level, b":,")?,
    };
    Ok(Some(label).filter(|label| *label != SelinuxLabel::default()))
}

/// `UserNamespace`: the node's, or one with exactly one line for users and one for groups, both from id 0 on.
fn userns(field: &str, options: Option<&cri::UserNamespace>) -> Result<Option<UserMode>, Bad> {
    let Some(options) = options else { return Ok(None) };
    let unmapped = options.uids.is_empty() && options.gids.is_empty();
    match cri::NamespaceMode::try_from(options.mode) {
        Ok(cri::NamespaceMode::Node) if unmapped => Ok(Some(UserMode::Node)),
        Ok(cri::NamespaceMode::Node) => Err(Bad::field(field, "maps ids in the node's user namespace")),
        // A kubelet older than user namespaces leaves the mode at POD and sends no mapping.
        Ok(cri::NamespaceMode::Pod) if unmapped => Ok(Some(UserMode::Unmapped)),
        Ok(cri::NamespaceMode::Pod) => {
            let (first_uid, length) = line(&format!("{field}.uids"), &options.uids)?;
            let (first_gid, groups) = line(&format!("{field}.gids"), &options.gids)?;
            if groups != length {
                return Err(Bad::field(
                    format!("{field}.gids[0].length"),
                    format!("is {groups}, and that of uids is {length}"),
                ));
            }
            Ok(Some(UserMode::Pod(UserMapping { first_uid, first_gid, length })))
        }
        Ok(cri::NamespaceMode::Container | cri::NamespaceMode::Target) | Err(_) => {
            Err(Bad::field(format!("{field}.mode"), "wants POD or NODE"))
        }
    }
}

/// The first id outside and the length of a mapping that has one line, which begins with root inside.
fn line(field: &str, asked: &[cri::IdMapping]) -> Result<(u32, u32), Bad> {
    let [asked] = super::mount::mappings(field, asked)?[..] else {
        return Err(Bad::field(field, format!("are {} lines, exactly one is taken", asked.len())));
    };
    if asked.container_id != 0 {
        return Err(Bad::field(
            format!("{field}[0].container_id"),
            format!("is {}: id 0 must be mapped", asked.container_id),
        ));
    }
    Ok((asked.host_id, asked.length))
}

/// Namespaces of a pod. An absent message means POD for all, protobuf's zero.
pub(super) fn pod_namespaces(field: &str, asked: Option<&cri::NamespaceOption>) -> Result<Namespaces, Bad> {
    let asked = asked.cloned().unwrap_or_default();
    let user = userns(&format!("{field}.userns_options"), asked.userns_options.as_ref())?;
    let shared_or_node = |name: &str, value: i32| match cri::NamespaceMode::try_from(value) {
        Ok(cri::NamespaceMode::Pod) => Ok(NsMode::Pod),
        Ok(cri::NamespaceMode::Node) => Ok(NsMode::Node),
        Ok(cri::NamespaceMode::Container | cri::NamespaceMode::Target) | Err(_) => {
            Err(Bad::field(format!("{field}.{name}"), "wants POD or NODE"))
        }
    };
    let pid = match cri::NamespaceMode::try_from(asked.pid) {
        Ok(cri::NamespaceMode::Pod) => NsMode::Pod,
        Ok(cri::NamespaceMode::Container) => NsMode::Container,
        Ok(cri::NamespaceMode::Node) => NsMode::Node,
        Ok(cri::NamespaceMode::Target) | Err(_) => {
            return Err(Bad::field(format!("{field}.pid"), "wants POD, CONTAINER or NODE"));
        }
    };
    let ipc = shared_or_node("ipc", asked.ipc)?;
    if matches!(user, Some(UserMode::Pod(_))) {
        // What lies in /proc and /dev/mqueue of the node's is not for who is nobody there (KEP-127).
        for (name, mode) in [("pid", pid), ("ipc", ipc)] {
            if mode == NsMode::Node {
                return Err(Bad::field(
                    format!("{field}.{name}"),
                    "is NODE, which a pod with a user namespace of its own cannot have",
                ));
            }
        }
    }
    Ok(Namespaces { network: shared_or_node("network", asked.network)?, pid, ipc, user })
}

/// Namespaces of a container; whether they agree with its pod's is `spec`'s to say.
fn container_namespaces(
    field: &str,
    asked: Option<&cri::NamespaceOption>,
) -> Result<ContainerNamespaces, Bad> {
    let asked = asked.cloned().unwrap_or_default();
    let user = userns(&format!("{field}.userns_options"), asked.userns_options.as_ref())?;
    let mode = |name: &str, value: i32| match cri::NamespaceMode::try_from(value) {
        Ok(cri::NamespaceMode::Node) => Ok(NsMode::Node),
        Ok(cri::NamespaceMode::Pod) => Ok(NsMode::Pod),
        Ok(cri::NamespaceMode::Container) => Err(Bad::field(
            format!("{field}.{name}"),
            "is CONTAINER, and the containers of a pod share this one",
        )),
        Ok(cri::NamespaceMode::Target) | Err(_) => {
            Err(Bad::field(format!("{field}.{name}"), "wants POD or NODE"))
        }
    };
    let pid = match cri::NamespaceMode::try_from(asked.pid) {
        Ok(cri::NamespaceMode::Pod) => PidMode::Pod,
        Ok(cri::NamespaceMode::Container) => PidMode::Container,
        Ok(cri::NamespaceMode::Node) => PidMode::Node,
        Ok(cri::NamespaceMode::Target) => {
            PidMode::Target(text::name(&format!("{field}.target_id"), &asked.target_id)?)
        }
        Err(_) => return Err(Bad::field(format!("{field}.pid"), format!("{} is no mode", asked.pid))),
    };
    let (network, ipc) = (mode("network", asked.network)?, mode("ipc", asked.ipc)?);
    Ok(ContainerNamespaces { pid, network, ipc, user })
}

/// Capability names, with or without `CAP_`; whether the kernel knows them is `spec`'s to say.
fn names(field: &str, asked: &[String]) -> Result<Vec<String>, Bad> {
    asked
        .iter()
        .map(|name| {
            let upper = name.to_ascii_uppercase();
            let fine = (1..=64).contains(&upper.len())
                && upper.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
            if fine {
                Ok(upper)
            } else {
                Err(Bad::field(field, format!("`{}` is not the name of a capability", text::short(name))))
            }
        })
        .collect()
}

fn paths(field: &str, asked: &[String]) -> Result<Vec<String>, Bad> {
    asked.iter().map(|path| text::absolute(field, path)).collect()
}
