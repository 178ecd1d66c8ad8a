//! Commands that only tell: state, list, features, spec.

use super::{
    FrontError,
    args::Arguments,
    print,
    store::{Place, Record, Status},
};
use crate::SPEC_VERSION;
use serde_json::{Value, json};
use std::path::Path;

fn state_of(place: &Place, record: &Record, status: Status) -> Value {
    let root = record.config.root().as_ref().map(|root| record.bundle.join(root.path()));
    json!({
        "ociVersion": SPEC_VERSION,
        "id": place.id,
        "pid": if status == Status::Stopped { 0 } else { record.pid },
        "status": status.name(),
        "bundle": record.bundle,
        "rootfs": root,
        "created": record.created,
        "annotations": record.config.annotations(),
    })
}

pub(crate) fn state(mut args: Arguments, root: &Path) -> Result<u8, FrontError> {
    if let Some(option) = args.next_option() {
        return Err(super::args::not_supported(&option));
    }
    let place = Place::new(root, &args.word("a container id")?)?;
    args.end()?;
    let record = place.load()?;
    let status = place.status(&record)?;
    print(&format!("{:#}\n", state_of(&place, &record, status)))?;
    Ok(0)
}

pub(crate) fn list(mut args: Arguments, root: &Path) -> Result<u8, FrontError> {
    let (mut as_json, mut quiet) = (false, false);
    while let Some(option) = args.next_option() {
        match option.as_str() {
            "--format" | "-f" => as_json = args.value(&option)? == "json",
            "--quiet" | "-q" => quiet = true,
            other => return Err(super::args::not_supported(other)),
        }
    }
    args.end()?;
    let mut states = Vec::new();
    let entries = match std::fs::read_dir(root) {
        Ok(entries) => {
            entries.collect::<Result<Vec<_>, _>>().map_err(FrontError::io("list the containers"))?
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(FrontError::io(format!("list {}", root.display()))(error)),
    };
    for entry in entries {
        let Ok(place) = Place::new(root, &entry.file_name().to_string_lossy()) else { continue };
        // One that is being made or removed at this moment has no record.
        let Ok(record) = place.load() else { continue };
        let status = place.status(&record)?;
        states.push(state_of(&place, &record, status));
    }
    states.sort_by_key(|state| state["id"].to_string());
    let text = |state: &Value, key: &str| state[key].as_str().unwrap_or_default().to_owned();
    print(&if as_json {
        format!("{}\n", Value::Array(states))
    } else if quiet {
        states.iter().map(|state| text(state, "id") + "\n").collect()
    } else {
        let row = |state: &Value| {
            format!(
                "{:<30} {:<8} {:<9} {}\n",
                text(state, "id"),
                state["pid"],
                text(state, "status"),
                text(state, "bundle")
            )
        };
        format!("{:<30} {:<8} {:<9} BUNDLE\n", "ID", "PID", "STATUS")
            + &states.iter().map(row).collect::<String>()
    })?;
    Ok(0)
}

/// What this runtime can do, in the structure of features.md of the runtime specification.
pub(super) fn capabilities() -> Value {
    let capabilities: Vec<_> = (0..=sys::caps::HIGHEST).filter_map(sys::caps::name).collect();
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPEC_VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": [
            "async", "atime", "bind", "defaults", "dev", "diratime", "dirsync", "exec", "idmap", "lazytime", "loud",
            "noatime", "nodev", "nodiratime", "noexec", "nomand", "norelatime", "nostrictatime", "nosuid",
            "nosymfollow", "private", "ratime", "rbind", "rdev", "rdiratime", "relatime", "rexec", "ridmap", "rnoatime",
            "rnodev", "rnodiratime", "rnoexec", "rnorelatime", "rnostrictatime", "rnosuid", "rnosymfollow", "ro",
            "rprivate", "rrelatime", "rro", "rrw", "rshared", "rslave", "rstrictatime", "rsuid", "rsymfollow",
            "runbindable", "rw", "shared", "silent", "slave", "strictatime", "suid", "symfollow", "sync", "unbindable"
        ],
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": capabilities,
            "cgroup": { "v1": true, "v2": true, "systemd": false, "systemdUser": false, "rdma": false },
            "seccomp": {
                "enabled": true,
                "actions": [
                    "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
                    "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP"
                ],
                "supportedFlags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"],
                "knownFlags": [
                    "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC",
                    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"
                ]
            },
            "apparmor": { "enabled": true },
            "selinux": { "enabled": true },
            "intelRdt": { "enabled": false },
            "mountExtensions": { "idmap": { "enabled": true } },
            "netDevices": { "enabled": false }
        }
    })
}

/// features.md of the runtime specification.
pub(crate) fn features(args: Arguments) -> Result<u8, FrontError> {
    args.end()?;
    print(&format!("{:#}\n", capabilities()))?;
    Ok(0)
}

/// A `config.json` to start from, with a shell and all namespaces, in the bundle.
pub(crate) fn spec(mut args: Arguments) -> Result<u8, FrontError> {
    let mut bundle = std::path::PathBuf::from(".");
    while let Some(option) = args.next_option() {
        match option.as_str() {
            "--bundle" | "-b" => bundle = args.value(&option)?.into(),
            other => return Err(super::args::not_supported(other)),
        }
    }
    args.end()?;
    let path = bundle.join("config.json");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(FrontError::io(format!("create {}", path.display())))?;
    std::io::Write::write_all(&mut file, format!("{:#}\n", example()).as_bytes())
        .map_err(FrontError::io(format!("write {}", path.display())))?;
    Ok(0)
}

fn example() -> Value {
    let caps = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": kind, "options": options });
    json!({
        "ociVersion": SPEC_VERSION,
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": { "bounding": caps, "effective": caps, "permitted": caps },
            "noNewPrivileges": true
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "peapod",
        "mounts": [
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"])
        ],
        "linux": {
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": [
                { "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }, { "type": "cgroup" }
            ],
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
                "/sys/devices/virtual/powercap"
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_a_specification() {
        let spec: oci_spec::runtime::Spec = serde_json::from_value(example()).expect("spec");
        assert_eq!(spec.mounts().as_ref().map(Vec::len), Some(7));
    }
}
