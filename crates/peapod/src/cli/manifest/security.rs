//! securityContext of the pod and of a container, as far as the CRI carries it.

use super::{
    ManifestError,
    reader::{Object, Result, shown},
};
use std::collections::BTreeMap;

/// `spec.securityContext`.
#[derive(Clone, Debug, Default)]
pub(crate) struct PodSecurity {
    pub(crate) user: User,
    pub(crate) supplemental_groups: Vec<i64>,
    pub(crate) groups_policy: Option<GroupsPolicy>,
    /// Owns the pod's emptyDirs, and is one of every container's groups.
    pub(crate) fs_group: Option<i64>,
    pub(crate) sysctls: BTreeMap<String, String>,
    pub(crate) seccomp: Option<Seccomp>,
}

/// `securityContext` of a container; what it leaves out is the pod's.
#[derive(Clone, Debug, Default)]
pub(crate) struct ContainerSecurity {
    pub(crate) user: User,
    pub(crate) privileged: bool,
    pub(crate) read_only_root: bool,
    /// `allowPrivilegeEscalation: false`.
    pub(crate) no_new_privs: bool,
    pub(crate) add_capabilities: Vec<String>,
    pub(crate) drop_capabilities: Vec<String>,
    pub(crate) seccomp: Option<Seccomp>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: Option<i64>,
    pub(crate) gid: Option<i64>,
    pub(crate) non_root: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GroupsPolicy {
    Merge,
    Strict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seccomp {
    RuntimeDefault,
    Unconfined,
}

/// Ids that Kubernetes takes.
const IDS: std::ops::RangeInclusive<i64> = 0..=i32::MAX as i64;

pub(super) fn pod(object: Option<Object>, host_network: bool) -> Result<PodSecurity> {
    let Some(mut object) = object else { return Ok(PodSecurity::default()) };
    let user = user(&mut object)?;
    let mut supplemental_groups = Vec::new();
    for item in object.list("supplementalGroups")? {
        match item.value.as_i64() {
            Some(group) if IDS.contains(&group) => supplemental_groups.push(group),
            Some(_) | None => {
                let reason = "want a number within 0 to 2147483647".to_owned();
                return Err(ManifestError::Wrong { path: item.path, reason });
            }
        }
    }
    let policies = [("Merge", GroupsPolicy::Merge), ("Strict", GroupsPolicy::Strict)];
    let groups_policy = object.word("supplementalGroupsPolicy", &policies)?;
    let fs_group = object.number("fsGroup", IDS)?;
    // An emptyDir is new: both policies come to the same.
    object.only("fsGroupChangePolicy", &["Always", "OnRootMismatch"])?;
    let mut sysctls = BTreeMap::new();
    for item in object.list("sysctls")? {
        let mut sysctl = item.object()?;
        let name = sysctl.required("name")?.replace('/', ".");
        let value = sysctl.required("value")?;
        if !is_sysctl(&name) {
            return Err(sysctl.wrong("name", format!("`{}` is no name of a sysctl", shown(&name))));
        }
        if host_network && name.starts_with("net.") {
            return Err(sysctl.wrong("name", "the network's sysctls are the host's with hostNetwork"));
        }
        sysctl.finish(&[])?;
        if sysctls.insert(name.clone(), value).is_some() {
            return Err(object.wrong("sysctls", format!("`{name}` is set twice")));
        }
    }
    let seccomp = seccomp(&mut object)?;
    app_armor(&mut object)?;
    object.only("seLinuxChangePolicy", &["MountOption", "Recursive"])?;
    object.finish(&["seLinuxOptions", "windowsOptions"])?;
    Ok(PodSecurity { user, supplemental_groups, groups_policy, fs_group, sysctls, seccomp })
}

pub(super) fn container(object: Option<Object>) -> Result<ContainerSecurity> {
    let Some(mut object) = object else { return Ok(ContainerSecurity::default()) };
    let user = user(&mut object)?;
    let privileged = object.flag("privileged")?.unwrap_or(false);
    let read_only_root = object.flag("readOnlyRootFilesystem")?.unwrap_or(false);
    let (add_capabilities, drop_capabilities) = match object.object("capabilities")? {
        None => (Vec::new(), Vec::new()),
        Some(mut capabilities) => {
            let both = (names_in(&mut capabilities, "add")?, names_in(&mut capabilities, "drop")?);
            capabilities.finish(&[])?;
            both
        }
    };
    let no_new_privs = object.flag("allowPrivilegeEscalation")? == Some(false);
    let all_powerful = |name: &String| matches!(name.as_str(), "SYS_ADMIN" | "CAP_SYS_ADMIN");
    if no_new_privs && (privileged || add_capabilities.iter().any(all_powerful)) {
        let reason = "cannot be false with privileged or CAP_SYS_ADMIN";
        return Err(object.wrong("allowPrivilegeEscalation", reason));
    }
    let seccomp = seccomp(&mut object)?;
    app_armor(&mut object)?;
    // Unmasked is for pods with a user namespace (KEP-4265).
    object.only("procMount", &["Default"])?;
    object.finish(&["seLinuxOptions", "windowsOptions"])?;
    Ok(ContainerSecurity {
        user,
        privileged,
        read_only_root,
        no_new_privs,
        add_capabilities,
        drop_capabilities,
        seccomp,
    })
}

fn user(object: &mut Object) -> Result<User> {
    Ok(User {
        uid: object.number("runAsUser", IDS)?,
        gid: object.number("runAsGroup", IDS)?,
        non_root: object.flag("runAsNonRoot")?,
    })
}

fn names_in(object: &mut Object, key: &str) -> Result<Vec<String>> {
    let names = object.texts(key)?;
    let fine = |name: &&String| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
    };
    match names.iter().find(|name| !fine(name)) {
        Some(name) => Err(object.wrong(key, format!("`{}` is no capability", shown(name)))),
        None => Ok(names),
    }
}

fn seccomp(object: &mut Object) -> Result<Option<Seccomp>> {
    let Some(mut profile) = object.object("seccompProfile")? else { return Ok(None) };
    let kind = profile.required("type")?;
    let seccomp = match kind.as_str() {
        "RuntimeDefault" => Seccomp::RuntimeDefault,
        "Unconfined" => Seccomp::Unconfined,
        // Localhost: the daemon takes no profile files yet.
        other => {
            return Err(ManifestError::NotSupportedValue { path: profile.at("type"), value: shown(other) });
        }
    };
    profile.finish(&["localhostProfile"])?;
    Ok(Some(seccomp))
}

/// AppArmor is unconfined as yet: whoever asks for that gets it.
fn app_armor(object: &mut Object) -> Result<()> {
    let Some(mut profile) = object.object("appArmorProfile")? else { return Ok(()) };
    profile.only("type", &["Unconfined"])?;
    profile.finish(&["localhostProfile"])
}

/// Kubernetes' SysctlFmt, with dots.
fn is_sysctl(name: &str) -> bool {
    let part = |part: &str| {
        let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
        !part.is_empty() && part.bytes().all(inside)
    };
    name.len() <= 253 && name.contains('.') && name.split('.').all(part)
}
