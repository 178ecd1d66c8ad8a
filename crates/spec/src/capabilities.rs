//! Which capabilities a container has (capabilities(7); CRI `Capability`).

use crate::SpecError;
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, LinuxCapabilitiesBuilder};
use types::container::Security;

/// What a container has that asks for nothing: the peers' list.
const DEFAULT: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// All that Linux 6 knows; the runner leaves out what the running kernel does not.
pub(crate) const ALL: [Capability; 41] = [
    Capability::AuditControl,
    Capability::AuditRead,
    Capability::AuditWrite,
    Capability::BlockSuspend,
    Capability::Bpf,
    Capability::CheckpointRestore,
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::Kill,
    Capability::Lease,
    Capability::LinuxImmutable,
    Capability::MacAdmin,
    Capability::MacOverride,
    Capability::Mknod,
    Capability::NetAdmin,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetRaw,
    Capability::Perfmon,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysChroot,
    Capability::SysModule,
    Capability::SysNice,
    Capability::SysPacct,
    Capability::SysPtrace,
    Capability::SysRawio,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Syslog,
    Capability::WakeAlarm,
];

/// The five sets. Inheritable stays empty unless ambient capabilities are asked for: a container
/// with inheritable ones gives them to every program with file capabilities (safety: CVE-2022-24769).
pub(crate) fn sets(security: &Security) -> Result<LinuxCapabilities, SpecError> {
    let bounding = bounding(security)?;
    let asked = &security.add_ambient_capabilities;
    let mut ambient = named("config.linux.security_context.capabilities.add_ambient_capabilities", asked)?;
    if asked.iter().any(|name| name == "ALL") {
        ambient.extend(ALL);
    }
    let with_ambient: Capabilities = bounding.union(&ambient).copied().collect();
    LinuxCapabilitiesBuilder::default()
        .bounding(with_ambient.clone())
        .effective(with_ambient.clone())
        .permitted(with_ambient)
        .inheritable(ambient.clone())
        .ambient(ambient)
        .build()
        .map_err(SpecError::builder)
}

/// `drop ALL` first, then the adds, then the other drops.
fn bounding(security: &Security) -> Result<Capabilities, SpecError> {
    const ADD: &str = "config.linux.security_context.capabilities.add_capabilities";
    const DROP: &str = "config.linux.security_context.capabilities.drop_capabilities";
    if security.privileged {
        return Ok(ALL.into());
    }
    let is_all = |name: &String| name == "ALL";
    let mut set: Capabilities =
        if security.drop_capabilities.iter().any(is_all) { Capabilities::new() } else { DEFAULT.into() };
    if security.add_capabilities.iter().any(is_all) {
        set.extend(ALL);
    }
    set.extend(named(ADD, &security.add_capabilities)?);
    for dropped in named(DROP, &security.drop_capabilities)? {
        set.remove(&dropped);
    }
    Ok(set)
}

/// Names with or without `CAP_`; `ALL` is skipped.
fn named(field: &'static str, names: &[String]) -> Result<Capabilities, SpecError> {
    names
        .iter()
        .filter(|name| *name != "ALL")
        .map(|name| {
            let short = name.strip_prefix("CAP_").unwrap_or(name);
            ALL.into_iter()
                .find(|known| known.to_string().replace("CAP_", "") == short)
                .ok_or_else(|| SpecError::new(field, format!("`{name}` is not a capability")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(add: &[&str], drop: &[&str]) -> Result<Vec<String>, SpecError> {
        let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        let security =
            Security { add_capabilities: owned(add), drop_capabilities: owned(drop), ..Security::default() };
        let mut names: Vec<String> = bounding(&security)?.iter().map(ToString::to_string).collect();
        names.sort();
        Ok(names)
    }

    #[test]
    fn drop_all_comes_before_the_adds_and_other_drops_after() {
        assert_eq!(set(&[], &[]).expect("fine").len(), 14);
        assert_eq!(set(&[], &["ALL"]).expect("fine").len(), 0);
        assert_eq!(set(&["NET_ADMIN"], &["ALL"]).expect("fine").len(), 1);
        assert_eq!(set(&["CAP_SYS_ADMIN"], &[]).expect("fine").len(), 15);
        assert_eq!(set(&["ALL"], &["CHOWN"]).expect("fine").len(), 40);
        assert_eq!(set(&["ALL"], &["ALL"]).expect("fine").len(), 41);
    }

    #[test]
    fn a_name_that_is_no_capability_is_refused() {
        let error = set(&["SYS_MAGIC"], &[]).expect_err("unknown");
        assert!(error.field.ends_with("add_capabilities") && error.why.contains("SYS_MAGIC"), "{error}");
    }

    #[test]
    fn nothing_is_inheritable_unless_ambient_was_asked_for() {
        let plain = sets(&Security::default()).expect("fine");
        assert!(plain.inheritable().as_ref().is_none_or(|set| set.is_empty()));
        let security =
            Security { add_ambient_capabilities: vec!["NET_BIND_SERVICE".to_owned()], ..Security::default() };
        let ambient = sets(&security).expect("fine");
        assert_eq!(ambient.ambient().as_ref().map(|set| set.len()), Some(1));
        assert_eq!(ambient.inheritable().as_ref().map(|set| set.len()), Some(1));
        let all = Security { add_ambient_capabilities: vec!["ALL".to_owned()], ..Security::default() };
        let all = sets(&all).expect("fine");
        for set in [all.ambient(), all.inheritable(), all.bounding(), all.permitted(), all.effective()] {
            assert_eq!(set.as_ref().map(|set| set.len()), Some(ALL.len()));
        }
    }
}
