//! `linux.devices` and the nodes that every container has.

use super::{process::absolute, userns::UserPlan};
use crate::RunnerError;
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use std::path::{Path, PathBuf};
use sys::rustix::{
    fs::{Dev, FileType, Mode, makedev},
    process::{Gid, Uid},
};

/// A device node, or a FIFO, to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) path: PathBuf,
    pub(crate) kind: FileType,
    pub(crate) device: Dev,
    pub(crate) mode: Mode,
    pub(crate) owner: (Uid, Gid),
}

/// Links of the runtime specification's "Default Devices" and those that other runtimes add.
pub(crate) const LINKS: [(&str, &str); 4] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];

/// config-linux.md "Default Devices": minors of memory devices (major 1), and tty (5:0).
const DEFAULTS: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// The default devices, then those of the specification, which may name one of them again.
pub(crate) fn parse(wanted: &[LinuxDevice]) -> Result<Vec<Node>, RunnerError> {
    let mut nodes: Vec<Node> = DEFAULTS
        .iter()
        .map(|&(path, major, minor)| Node {
            path: path.into(),
            kind: FileType::CharacterDevice,
            device: makedev(major, minor),
            mode: Mode::from_raw_mode(0o666),
            owner: (Uid::ROOT, Gid::ROOT),
        })
        .collect();
    for (at, device) in wanted.iter().enumerate() {
        let node = one(&format!("linux.devices[{at}]"), device)?;
        nodes.retain(|earlier| earlier.path != node.path);
        nodes.push(node);
    }
    Ok(nodes)
}

/// Owners as the host has them. One that the container does not know becomes the host's root, nobody inside.
pub(crate) fn map_owners(nodes: &mut [Node], user: &UserPlan) {
    for Node { owner: (uid, gid), .. } in nodes {
        *uid = user.host_uid(uid.as_raw()).map_or(Uid::ROOT, Uid::from_raw);
        *gid = user.host_gid(gid.as_raw()).map_or(Gid::ROOT, Gid::from_raw);
    }
}

fn one(field: &str, device: &LinuxDevice) -> Result<Node, RunnerError> {
    let path = absolute(&format!("{field}.path"), device.path())?;
    if path == Path::new("/") {
        return Err(RunnerError::invalid(format!("{field}.path"), "it is the root"));
    }
    let kind = match device.typ() {
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
        LinuxDeviceType::P => FileType::Fifo,
        LinuxDeviceType::A => {
            return Err(RunnerError::invalid(
                format!("{field}.type"),
                "`a` is for the rules of the cgroup only",
            ));
        }
    };
    let number = |name: &str, value: i64, most: u32| match u32::try_from(value) {
        Ok(value) if value <= most => Ok(value),
        Ok(_) | Err(_) => {
            Err(RunnerError::invalid(format!("{field}.{name}"), format!("{value} is out of range")))
        }
    };
    let device_number = if kind == FileType::Fifo {
        0
    } else {
        // 12 bits of major and 20 of minor, linux/kdev_t.h.
        makedev(number("major", device.major(), 0xfff)?, number("minor", device.minor(), 0xf_ffff)?)
    };
    let id = |name: &str, value: Option<u32>| match value {
        Some(u32::MAX) => Err(RunnerError::invalid(format!("{field}.{name}"), "4294967295 is no id")),
        value => Ok(value.unwrap_or(0)),
    };
    Ok(Node {
        path,
        kind,
        device: device_number,
        mode: Mode::from_raw_mode(device.file_mode().unwrap_or(0o666) & 0o7777),
        owner: (Uid::from_raw(id("uid", device.uid())?), Gid::from_raw(id("gid", device.gid())?)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(device: &str) -> Result<Vec<Node>, String> {
        parse(&[serde_json::from_str(device).expect("device")]).map_err(|error| error.to_string())
    }

    #[test]
    fn a_named_device_replaces_the_default_of_its_path() {
        let nodes = check(r#"{"path":"/dev/null","type":"c","major":1,"minor":5,"fileMode":384,"gid":5}"#)
            .expect("fine");
        let null: Vec<_> = nodes.iter().filter(|node| node.path == Path::new("/dev/null")).collect();
        assert_eq!(null.len(), 1);
        assert_eq!((null[0].device, null[0].mode), (makedev(1, 5), Mode::from_raw_mode(0o600)));
        assert_eq!(nodes.len(), 6);
    }

    #[test]
    fn a_number_that_would_be_cut_is_refused() {
        for (device, field) in [
            (r#"{"path":"/dev/x","type":"c","major":4096,"minor":0}"#, "linux.devices[0].major"),
            (r#"{"path":"/dev/x","type":"b","major":1,"minor":-1}"#, "linux.devices[0].minor"),
            (r#"{"path":"/dev/../x","type":"b","major":1,"minor":1}"#, "linux.devices[0].path"),
            (r#"{"path":"/dev/x","type":"a","major":1,"minor":1}"#, "linux.devices[0].type"),
            (r#"{"path":"/dev/x","type":"c","major":1,"minor":1,"uid":4294967295}"#, "linux.devices[0].uid"),
        ] {
            let error = check(device).expect_err(device);
            assert!(error.starts_with(field), "{error}");
        }
    }
}
