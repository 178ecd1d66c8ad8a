//! Device nodes of the host that a container is given.

use super::blocking::failed;
use engine::host::{Fault, HostError, OciSpec, Result};
use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
};
use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};
use types::container::{Device, ResolvedUser, Security};

/// Nodes of one container.
const MOST: usize = 4096;
/// What of /dev a privileged container has by mounts of its own, or not at all.
const NOT_DEVICES: [&str; 8] = ["pts", "shm", "mqueue", "fd", "console", "ptmx", "hugepages", ".udev"];

/// A node and the rule that lets it be used.
pub(super) struct Given {
    node: LinuxDevice,
    rule: Option<LinuxDeviceCgroup>,
}

/// The nodes that were asked for; a directory means all nodes beneath it.
pub(super) fn asked(devices: &[Device]) -> Result<Vec<Given>> {
    let mut all = Vec::new();
    for device in devices {
        let found = fs::metadata(&device.host_path).map_err(|error| {
            HostError::because(
                format!("cannot give the device {}", device.host_path.display()),
                Fault::Invalid("config.devices"),
                error,
            )
        })?;
        let before = all.len();
        if found.is_dir() {
            beneath(
                &device.host_path,
                Path::new(&device.container_path),
                &device.permissions,
                &[],
                &mut all,
            )?;
        } else if let Some(given) = given(&found, Path::new(&device.container_path), &device.permissions)? {
            all.push(given);
        }
        if all.len() == before {
            return Err(HostError::new(
                format!("{} is no device, and there is none beneath it", device.host_path.display()),
                Fault::Invalid("config.devices"),
            ));
        }
    }
    Ok(all)
}

/// All nodes of the host, for a privileged container.
pub(super) fn of_the_host() -> Result<Vec<Given>> {
    let mut all = Vec::new();
    beneath(Path::new("/dev"), Path::new("/dev"), "rwm", &NOT_DEVICES, &mut all)?;
    Ok(all)
}

fn beneath(host: &Path, inside: &Path, permissions: &str, skip: &[&str], all: &mut Vec<Given>) -> Result<()> {
    let mut left: Vec<(PathBuf, PathBuf)> = vec![(host.to_owned(), inside.to_owned())];
    while let Some((host, inside)) = left.pop() {
        let entries = fs::read_dir(&host).map_err(failed(format!("cannot read {}", host.display())))?;
        for entry in entries.flatten() {
            let name = entry.file_name();
            if skip.iter().any(|skipped| name == *skipped) {
                continue;
            }
            // Of a link or a node that has just vanished there is nothing to give.
            let Ok(found) = entry.path().symlink_metadata() else { continue };
            let inside = inside.join(&name);
            if found.is_dir() {
                left.push((entry.path(), inside));
            } else if let Some(given) = given(&found, &inside, permissions)? {
                all.push(given);
            }
            if all.len() + left.len() > MOST {
                return Err(HostError::new(format!("more than {MOST} devices"), Fault::Exhausted));
            }
        }
    }
    Ok(())
}

fn given(found: &fs::Metadata, inside: &Path, permissions: &str) -> Result<Option<Given>> {
    Node::of(found, inside).map(|node| node.given(permissions)).transpose()
}

/// What a node shall be.
pub(super) struct Node<'a> {
    /// Inside.
    pub(super) path: &'a Path,
    pub(super) kind: LinuxDeviceType,
    pub(super) major: i64,
    pub(super) minor: i64,
    pub(super) mode: Option<u32>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

impl<'a> Node<'a> {
    /// That of the host at another place; `None` for what is no device.
    pub(super) fn of(found: &fs::Metadata, path: &'a Path) -> Option<Node<'a>> {
        let kind = match found.file_type() {
            kind if kind.is_char_device() => LinuxDeviceType::C,
            kind if kind.is_block_device() => LinuxDeviceType::B,
            _ => return None,
        };
        Some(Node {
            path,
            kind,
            major: i64::from(sys::rustix::fs::major(found.rdev())),
            minor: i64::from(sys::rustix::fs::minor(found.rdev())),
            mode: Some(found.mode() & 0o7777),
            uid: Some(found.uid()),
            gid: Some(found.gid()),
        })
    }

    /// It, with the rule that lets it be used; a FIFO needs none.
    pub(super) fn given(&self, permissions: &str) -> Result<Given> {
        let mut node =
            LinuxDeviceBuilder::default().path(self.path).typ(self.kind).major(self.major).minor(self.minor);
        if let Some(mode) = self.mode {
            node = node.file_mode(mode);
        }
        if let Some(uid) = self.uid {
            node = node.uid(uid);
        }
        if let Some(gid) = self.gid {
            node = node.gid(gid);
        }
        let kind = if self.kind == LinuxDeviceType::U { LinuxDeviceType::C } else { self.kind };
        let rule = LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(kind)
            .major(self.major)
            .minor(self.minor)
            .access(permissions)
            .build()
            .map_err(failed("a device rule cannot be described"))?;
        Ok(Given {
            node: node.build().map_err(failed("a device cannot be described"))?,
            rule: (self.kind != LinuxDeviceType::P).then_some(rule),
        })
    }
}

/// Adds nodes, and lets them be used; one that is there at the same place is replaced.
pub(super) fn add(spec: &mut OciSpec, given: Vec<Given>) {
    if given.is_empty() {
        return;
    }
    let mut linux = spec.linux().clone().unwrap_or_default();
    let mut resources = linux.resources().clone().unwrap_or_default();
    let mut rules = resources.devices().clone().unwrap_or_default();
    let mut nodes = linux.devices().clone().unwrap_or_default();
    for Given { node, rule } in given {
        rules.extend(rule);
        nodes.retain(|known| known.path() != node.path());
        nodes.push(node);
    }
    resources.set_devices(Some(rules));
    linux.set_resources(Some(resources)).set_devices(Some(nodes));
    spec.set_linux(Some(linux));
}

/// Has the nodes belong to whom the container runs as, as far as the request says who that is.
pub(super) fn own(given: &mut [Given], security: &Security, user: &ResolvedUser) {
    for Given { node, .. } in given {
        if security.user.is_some() {
            node.set_uid(Some(user.uid));
        }
        if security.group.is_some() {
            node.set_gid(Some(user.gid));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_given_with_its_numbers_and_a_plain_file_is_not() {
        let device = |path: &str| Device {
            container_path: "/dev/x".to_owned(),
            host_path: path.into(),
            permissions: "rw".to_owned(),
        };
        let given = asked(&[device("/dev/zero")]).expect("a device");
        assert_eq!((given[0].node.major(), given[0].node.minor()), (1, 5));
        assert_eq!(given[0].node.path(), Path::new("/dev/x"));
        for bad in ["/etc/passwd", "/no/such/device"] {
            let error = asked(&[device(bad)]).err().expect("refused");
            assert_eq!(error.fault, Fault::Invalid("config.devices"), "{error}");
        }
    }
}
