//! Capability sets of the calling thread, capabilities(7).

use rustix::{
    io::{Errno, Result},
    thread::{self, CapabilitySet, CapabilitySets},
};

/// The highest capability number that this kernel may know; above it every bit is unused.
pub const HIGHEST: u32 = 63;

/// All five sets, one bit for each capability number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sets {
    /// What a file or a user change can still give.
    pub bounding: u64,
    /// In force.
    pub effective: u64,
    /// What may be put in force.
    pub permitted: u64,
    /// Kept through exec for files with inheritable capabilities.
    pub inheritable: u64,
    /// Kept through exec of an ordinary file.
    pub ambient: u64,
}

/// Effective, permitted and inheritable of the calling thread.
///
/// # Errors
/// Of capget(2).
pub fn current() -> Result<CapabilitySets> {
    thread::capabilities(None)
}

/// Sets effective, permitted and inheritable.
///
/// # Errors
/// Of capset(2): EPERM when a capability is not permitted now.
pub fn set(effective: u64, permitted: u64, inheritable: u64) -> Result<()> {
    let bits = CapabilitySet::from_bits_retain;
    thread::set_capabilities(
        None,
        CapabilitySets {
            effective: bits(effective),
            permitted: bits(permitted),
            inheritable: bits(inheritable),
        },
    )
}

/// The bounding set of the calling thread; stops at the first number that the kernel does not know.
///
/// # Errors
/// Of prctl(2), PR_CAPBSET_READ.
pub fn bounding() -> Result<u64> {
    let mut found = 0;
    for number in 0..=HIGHEST {
        match thread::capability_is_in_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Ok(true) => found |= 1 << number,
            Ok(false) => {}
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Every capability that this kernel knows.
///
/// # Errors
/// Of prctl(2), PR_CAPBSET_READ.
pub fn known() -> Result<u64> {
    let mut found = 0;
    for number in 0..=HIGHEST {
        match thread::capability_is_in_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Ok(_) => found |= 1 << number,
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Takes everything but `keep` out of the bounding set. Needs CAP_SETPCAP.
///
/// # Errors
/// Of prctl(2), PR_CAPBSET_DROP.
pub fn limit_bounding(keep: u64) -> Result<()> {
    for number in 0..=HIGHEST {
        if keep & (1 << number) != 0 {
            continue;
        }
        match thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Ok(()) => {}
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Makes the ambient set exactly `wanted`; each must be permitted and inheritable already.
///
/// # Errors
/// Of prctl(2), PR_CAP_AMBIENT.
pub fn set_ambient(wanted: u64) -> Result<()> {
    thread::clear_ambient_capability_set()?;
    for number in (0..=HIGHEST).filter(|number| wanted & (1 << number) != 0) {
        thread::configure_capability_in_ambient_set(CapabilitySet::from_bits_retain(1 << number), true)?;
    }
    Ok(())
}

/// The names of capability.h without `CAP_`, by number.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The number of a capability by its name, with or without `CAP_`, upper case.
#[must_use]
pub fn number(name: &str) -> Option<u32> {
    let bare = name.strip_prefix("CAP_").unwrap_or(name);
    NAMES.iter().position(|known| *known == bare).and_then(|at| u32::try_from(at).ok())
}

/// The name of a capability with `CAP_`, if this build knows its number.
#[must_use]
pub fn name(number: u32) -> Option<String> {
    NAMES.get(number as usize).map(|bare| format!("CAP_{bare}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_agree_with_the_kernel_headers() {
        for (wanted, text) in
            [(0, "CAP_CHOWN"), (21, "SYS_ADMIN"), (24, "CAP_SYS_RESOURCE"), (40, "CAP_CHECKPOINT_RESTORE")]
        {
            assert_eq!(number(text), Some(wanted), "{text}");
        }
        assert_eq!(number("CAP_"), None);
        assert_eq!(number("cap_chown"), None);
        assert_eq!(name(27).as_deref(), Some("CAP_MKNOD"));
        assert_eq!(name(63), None);
    }

    #[test]
    fn the_bounding_set_holds_what_is_permitted_to_root() {
        let permitted = current().expect("capget").permitted.bits();
        assert_eq!(bounding().expect("prctl") & permitted, permitted);
    }
}
