//! Device rules: an ordered OCI list as one policy, and that policy as lines of v1's devices
//! controller or as an eBPF program of v2.

mod program;

use crate::{Cgroup, CgroupError, Version};
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use std::fmt;

/// Reading.
const READ: u8 = 1;
/// Writing.
const WRITE: u8 = 2;
/// Making a node.
const MKNOD: u8 = 4;
/// All three.
const ALL: u8 = READ | WRITE | MKNOD;

/// Most rules that are taken.
const MAX_RULES: usize = 1024;

/// The default devices of the OCI specification, which every container may use whatever its list
/// says, and mknod of any node, which by itself opens nothing: type, major, minor, access.
const DEFAULTS: [(Kind, Option<u32>, Option<u32>, u8); 10] = [
    (Kind::Char, None, None, MKNOD),
    (Kind::Block, None, None, MKNOD),
    (Kind::Char, Some(1), Some(3), ALL), // null
    (Kind::Char, Some(1), Some(5), ALL), // zero
    (Kind::Char, Some(1), Some(7), ALL), // full
    (Kind::Char, Some(1), Some(8), ALL), // random
    (Kind::Char, Some(1), Some(9), ALL), // urandom
    (Kind::Char, Some(5), Some(0), ALL), // tty
    (Kind::Char, Some(5), Some(2), ALL), // ptmx
    (Kind::Char, Some(136), None, ALL),  // pts/*
];

/// Type of a device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Block,
    Char,
}

/// What differs from the policy's default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Exception {
    kind: Kind,
    /// `None` = any.
    major: Option<u32>,
    /// `None` = any.
    minor: Option<u32>,
    access: u8,
}

/// All rules taken together, in the form in which the kernel's devices controller keeps them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Policy {
    allow: bool,
    exceptions: Vec<Exception>,
}

impl Exception {
    fn covers(&self, other: &Exception) -> bool {
        self.kind == other.kind
            && (self.major.is_none() || self.major == other.major)
            && (self.minor.is_none() || self.minor == other.minor)
    }

    fn meets(&self, other: &Exception) -> bool {
        let one = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
        self.kind == other.kind && one(self.major, other.major) && one(self.minor, other.minor)
    }
}

impl fmt::Display for Exception {
    /// As devices.allow and devices.deny read it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |part: Option<u32>| part.map_or_else(|| "*".to_owned(), |part| part.to_string());
        let kind = match self.kind {
            Kind::Block => 'b',
            Kind::Char => 'c',
        };
        write!(f, "{kind} {}:{} ", number(self.major), number(self.minor))?;
        for (bit, letter) in [(READ, "r"), (WRITE, "w"), (MKNOD, "m")] {
            if self.access & bit != 0 {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

impl Policy {
    /// Takes the rules in order over a default of denial, then the default devices.
    fn from_rules(rules: &[LinuxDeviceCgroup]) -> Result<Policy, CgroupError> {
        if rules.len() > MAX_RULES {
            return Err(bad("has more than 1024 rules"));
        }
        let mut policy = Policy { allow: false, exceptions: Vec::new() };
        for rule in rules {
            let (major, minor) = (number(rule.major())?, number(rule.minor())?);
            let access = access(rule.access().as_deref())?;
            let kinds: &[Kind] = match rule.typ() {
                None | Some(LinuxDeviceType::A) => {
                    if major.is_none() && minor.is_none() && access == ALL {
                        policy = Policy { allow: rule.allow(), exceptions: Vec::new() };
                        continue;
                    }
                    &[Kind::Block, Kind::Char]
                }
                Some(LinuxDeviceType::B) => &[Kind::Block],
                Some(LinuxDeviceType::C | LinuxDeviceType::U) => &[Kind::Char],
                Some(LinuxDeviceType::P) => return Err(bad("a FIFO has no device number")),
            };
            for kind in kinds {
                policy.add(rule.allow(), Exception { kind: *kind, major, minor, access })?;
            }
        }
        for (kind, major, minor, access) in DEFAULTS {
            policy.add(true, Exception { kind, major, minor, access })?;
        }
        Ok(policy)
    }

    fn add(&mut self, allow: bool, rule: Exception) -> Result<(), CgroupError> {
        if allow == self.allow {
            // Back to the default: takes the access from the exceptions within the rule.
            for exception in &mut self.exceptions {
                if !exception.meets(&rule) || exception.access & rule.access == 0 {
                    continue;
                }
                if !rule.covers(exception) {
                    // The kernel's controller cannot say "all but this one". Denying too much is
                    // an error of the list; the default devices may stay denied with the rest.
                    if allow {
                        continue;
                    }
                    return Err(bad("denies a part of what an earlier rule allows"));
                }
                exception.access &= !rule.access;
            }
            self.exceptions.retain(|exception| exception.access != 0);
            return Ok(());
        }
        let same = |seen: &&mut Exception| {
            seen.kind == rule.kind && seen.major == rule.major && seen.minor == rule.minor
        };
        match self.exceptions.iter_mut().find(same) {
            Some(seen) => seen.access |= rule.access,
            None => self.exceptions.push(rule),
        }
        Ok(())
    }

    /// Lines for v1: (file, value). A new group has its parent's rules, so all are set.
    fn lines(&self) -> Vec<(&'static str, String)> {
        let (all, each) =
            if self.allow { ("devices.allow", "devices.deny") } else { ("devices.deny", "devices.allow") };
        let mut lines = vec![(all, "a".to_owned())];
        lines.extend(self.exceptions.iter().map(|exception| (each, exception.to_string())));
        lines
    }
}

fn bad(why: &str) -> CgroupError {
    CgroupError::BadValue { field: "linux.resources.devices".to_owned(), why: why.to_owned() }
}

/// A major or minor number; absent and -1 mean any.
fn number(value: Option<i64>) -> Result<Option<u32>, CgroupError> {
    match value {
        None | Some(-1) => Ok(None),
        // 12 and 20 bits in the kernel.
        Some(value) => match u32::try_from(value) {
            Ok(value) if value < 1 << 20 => Ok(Some(value)),
            Ok(_) | Err(_) => Err(bad("has a device number out of range")),
        },
    }
}

fn access(text: Option<&str>) -> Result<u8, CgroupError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(ALL) };
    text.chars().try_fold(0, |bits, letter| match letter {
        'r' => Ok(bits | READ),
        'w' => Ok(bits | WRITE),
        'm' => Ok(bits | MKNOD),
        _ => Err(bad("has an access that is not of r, w and m")),
    })
}

/// Sets the rules of a group. A process that is in it while they are set on v1 may see all devices
/// denied for a moment, so this is for groups without processes.
pub(crate) fn apply(group: &Cgroup, rules: &[LinuxDeviceCgroup]) -> Result<(), CgroupError> {
    let policy = Policy::from_rules(rules)?;
    let Some(node) = group.node("devices") else {
        return Err(CgroupError::NoController {
            field: "linux.resources.devices",
            controller: "devices".to_owned(),
        });
    };
    match group.mounts().version() {
        Version::V1 => {
            for (file, value) in policy.lines() {
                node.write(file, &value)?;
            }
            Ok(())
        }
        Version::V2 => program::attach(&node, &policy),
    }
}
