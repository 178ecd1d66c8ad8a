//! Device nodes and the rules about which may be used.

use crate::{Input, SpecError};
use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
};
use std::path::PathBuf;

/// A device node of the host as it shall appear in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceNode {
    /// Absolute, in the container.
    pub path: PathBuf,
    /// Block or character.
    pub kind: DeviceKind,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits of the node.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// What the container may do with it: of `r`, `w`, `m`.
    pub permissions: String,
}

/// Kind of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// Block.
    Block,
    /// Character.
    Char,
}

/// The nodes beyond those that every container has, and the rules: nothing, but what is listed (the
/// runtime adds the default devices); a privileged container may use all.
pub(crate) fn all(input: &Input<'_>) -> Result<(Vec<LinuxDevice>, Vec<LinuxDeviceCgroup>), SpecError> {
    let privileged = input.container.security.privileged;
    let mut nodes: Vec<&DeviceNode> = input.devices.iter().collect();
    if privileged {
        let asked = |node: &&DeviceNode| !input.devices.iter().any(|asked| asked.path == node.path);
        nodes.extend(input.host.devices.iter().filter(asked));
    }
    let mut rules = vec![
        LinuxDeviceCgroupBuilder::default()
            .allow(privileged)
            .access("rwm")
            .build()
            .expect("every field has a default"),
    ];
    let mut devices = Vec::with_capacity(nodes.len());
    for node in nodes {
        let field = || format!("devices[{}]", node.path.display());
        if !node.path.is_absolute() {
            return Err(SpecError::bad(field(), "container_path is not absolute"));
        }
        let permissions = &node.permissions;
        if permissions.is_empty() || !permissions.chars().all(|letter| matches!(letter, 'r' | 'w' | 'm')) {
            return Err(SpecError::bad(
                field(),
                format!("permissions {permissions:?} are not of r, w and m"),
            ));
        }
        let kind = match node.kind {
            DeviceKind::Block => LinuxDeviceType::B,
            DeviceKind::Char => LinuxDeviceType::C,
        };
        devices.push(
            LinuxDeviceBuilder::default()
                .path(node.path.clone())
                .typ(kind)
                .major(node.major)
                .minor(node.minor)
                .file_mode(node.mode & 0o7777)
                .uid(node.uid)
                .gid(node.gid)
                .build()
                .expect("every field has a default"),
        );
        if !privileged {
            rules.push(
                LinuxDeviceCgroupBuilder::default()
                    .allow(true)
                    .typ(kind)
                    .major(node.major)
                    .minor(node.minor)
                    .access(permissions.clone())
                    .build()
                    .expect("every field has a default"),
            );
        }
    }
    Ok((devices, rules))
}
