//! Capabilities, seccomp, hidden and read-only paths.

use crate::{HostFacts, Input, SpecError};
use oci_spec::runtime::{Capability, LinuxSeccomp};
use std::collections::HashSet;
use types::container::{SeccompProfile, Security};

/// All capabilities by number (linux/capability.h).
const ALL: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// What a container may do that asks for nothing: Docker's and containerd's set.
const DEFAULT: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::SysChroot,
    Capability::Mknod,
    Capability::AuditWrite,
    Capability::Setfcap,
];

/// Hidden from a container: what tells about or acts on the whole machine. The union of what the
/// kubelet, containerd and CRI-O hide.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Read-only in a container.
const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The capabilities of a container's first process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sets {
    /// Bounding, permitted and effective set.
    pub bounding: HashSet<Capability>,
    /// Ambient and inheritable set (KEP-2763); empty unless asked for.
    pub ambient: HashSet<Capability>,
}

/// The capabilities for a request: `ALL` on either side first, then what is added, then what is dropped;
/// ambient ones are added to all sets.
///
/// # Errors
/// [`SpecError::BadField`] for a name that is no capability.
pub fn capabilities(security: &Security, last_capability: u32) -> Result<Sets, SpecError> {
    let known = usize::try_from(last_capability).unwrap_or(usize::MAX).saturating_add(1).min(ALL.len());
    let known: HashSet<Capability> = ALL[..known].iter().copied().collect();
    let parse = |field: &str, names: &[String]| -> Result<(bool, HashSet<Capability>), SpecError> {
        let (all, names): (Vec<&String>, Vec<&String>) = names.iter().partition(|name| *name == "ALL");
        let one = |name: &&String| {
            parse_name(name).ok_or_else(|| {
                let field = format!("linux.security_context.capabilities.{field}");
                SpecError::bad(field, format!("{name:?} is not a capability"))
            })
        };
        Ok((!all.is_empty(), names.iter().map(one).collect::<Result<_, _>>()?))
    };
    let (add_all, add) = parse("add_capabilities", &security.add_capabilities)?;
    let (drop_all, drop) = parse("drop_capabilities", &security.drop_capabilities)?;
    let (ambient_all, mut ambient) = parse("add_ambient_capabilities", &security.add_ambient_capabilities)?;
    if ambient_all {
        ambient.clone_from(&known);
    }
    let mut bounding: HashSet<Capability> = if security.privileged {
        known.clone()
    } else {
        let base = match (drop_all, add_all) {
            (true, _) => HashSet::new(),
            (false, true) => known.clone(),
            (false, false) => DEFAULT.into_iter().collect(),
        };
        base.union(&add).filter(|capability| !drop.contains(capability)).copied().collect()
    };
    bounding.extend(&ambient);
    // One that this kernel does not have cannot be given; nothing checks for it either.
    bounding.retain(|capability| known.contains(capability));
    ambient.retain(|capability| known.contains(capability));
    Ok(Sets { bounding, ambient })
}

fn parse_name(name: &str) -> Option<Capability> {
    let plain = name.strip_prefix("CAP_").unwrap_or(name);
    ALL.into_iter().find(|capability| capability.to_string() == plain)
}

/// The profile in effect; none for a privileged container.
pub(crate) fn seccomp(
    input: &Input<'_>,
    bounding: &HashSet<Capability>,
) -> Result<Option<LinuxSeccomp>, SpecError> {
    let security = &input.container.security;
    if security.privileged {
        return Ok(None);
    }
    match &security.seccomp {
        SeccompProfile::Unconfined => Ok(None),
        SeccompProfile::RuntimeDefault => Ok(Some((input.default_seccomp)(bounding))),
        SeccompProfile::Localhost(path) => match input.localhost_seccomp {
            Some(profile) => Ok(Some(profile.clone())),
            None => Err(SpecError::bad(
                "linux.security_context.seccomp.localhost_ref",
                format!("the profile {} was not loaded", path.display()),
            )),
        },
    }
}

type Paths = Option<Vec<String>>;

/// Masked and read-only paths.
pub(crate) fn hidden(security: &Security, host: &HostFacts) -> (Paths, Paths) {
    if security.privileged {
        return (None, None);
    }
    let (masked, readonly) = (&security.masked_paths, &security.readonly_paths);
    if masked.is_empty() && readonly.is_empty() && host.masks_by_default {
        let throttle = |cpu: u32| format!("/sys/devices/system/cpu/cpu{cpu}/thermal_throttle");
        let masked = MASKED.into_iter().map(str::to_owned).chain((0..host.possible_cpus).map(throttle));
        return (Some(masked.collect()), Some(READONLY.map(str::to_owned).to_vec()));
    }
    let given = |paths: &[String]| (!paths.is_empty()).then(|| paths.to_vec());
    (given(masked), given(readonly))
}
