//! Device nodes of the host that a container is given.

use super::blocking::failed;
use engine::host::{Fault, HostError, Result};
use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
};
use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};
use types::container::Device;

/// Nodes of one container.
const MOST: usize = 4096;
/// What of /dev a privileged container has by mounts of its own, or not at all.
const NOT_DEVICES: [&str; 8] = ["pts", "shm", "mqueue", "fd", "console", "ptmx", "hugepages", ".udev"];

/// A node and the rule that lets it be used.
pub(super) struct Given {
    pub(super) node: LinuxDevice,
    pub(super) rule: LinuxDeviceCgroup,
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
    let kind = match found.file_type() {
        kind if kind.is_char_device() => LinuxDeviceType::C,
        kind if kind.is_block_device() => LinuxDeviceType::B,
        _ => return Ok(None),
    };
    let (major, minor) =
        (i64::from(sys::rustix::fs::major(found.rdev())), i64::from(sys::rustix::fs::minor(found.rdev())));
    let node = LinuxDeviceBuilder::default()
        .path(inside)
        .typ(kind)
        .major(major)
        .minor(minor)
        .file_mode(found.mode() & 0o7777)
        .uid(found.uid())
        .gid(found.gid())
        .build()
        .map_err(failed("a device cannot be described"))?;
    let rule = LinuxDeviceCgroupBuilder::default()
        .allow(true)
        .typ(kind)
        .major(major)
        .minor(minor)
        .access(permissions)
        .build()
        .map_err(failed("a device rule cannot be described"))?;
    Ok(Some(Given { node, rule }))
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
