//! How long a container of this runner takes: `churn [ROUNDS]`, as root, with /bin/busybox.
//!
//! Each round creates, starts, waits for and deletes a container of `true` with an overlay root, all new
//! namespaces, the default seccomp profile and the masks of the example bundle, then another runs `true` by exec in a
//! container that stays. Prints medians and 95th percentiles in milliseconds.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "its figures are what it is for")]

use oci_spec::runtime::Spec;
use runner::{CreateRequest, Created, ExecRequest, Gate, RootMount, Stdio};
use serde_json::json;
use std::{
    fs::File,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::Instant,
};

fn main() {
    let rounds: usize = std::env::args().nth(1).map_or(200, |text| text.parse().expect("ROUNDS is a number"));
    let dir = std::env::temp_dir().join(format!("peapod-churn-{}", std::process::id()));
    for part in ["lower/bin", "lower/proc", "top", "bundle"] {
        std::fs::create_dir_all(dir.join(part)).expect("mkdir");
    }
    std::fs::copy("/bin/busybox", dir.join("lower/bin/busybox")).expect("busybox-static is installed");
    for name in ["true", "sleep"] {
        std::os::unix::fs::symlink("busybox", dir.join("lower/bin").join(name)).expect("link");
    }
    let cgroups = cgroup::Mounts::detect().expect("cgroups");
    let mut times: Vec<(&str, Vec<f64>)> =
        ["create", "start", "wait", "delete", "whole", "exec"].map(|step| (step, Vec::new())).into();
    let stay = spec(&["sleep", "100000"], "stay");
    // The directories of the layers are the caller's business.
    for name in (0..rounds).map(|round| round.to_string()).chain(["stay".to_owned()]) {
        for kind in ["upper", "work"] {
            std::fs::create_dir_all(dir.join(format!("top/{name}-{kind}"))).expect("mkdir");
        }
    }
    let mut staying = create(&dir, &stay, &cgroups, "stay");
    staying.start().expect("start");
    for round in 0..rounds {
        let spec = spec(&["true"], "churn");
        let mut laps = vec![Instant::now()];
        let mut created = create(&dir, &spec, &cgroups, &round.to_string());
        laps.push(Instant::now());
        created.start().expect("start");
        laps.push(Instant::now());
        sys::pidfd::wait(&created.pidfd).expect("wait");
        laps.push(Instant::now());
        runner::delete(&created.cgroup).expect("delete");
        laps.push(Instant::now());
        exec(&staying, &stay);
        laps.push(Instant::now());
        let milliseconds = |from: usize, to: usize| (laps[to] - laps[from]).as_secs_f64() * 1e3;
        for (times, (from, to)) in times.iter_mut().zip([(0, 1), (1, 2), (2, 3), (3, 4), (0, 4), (4, 5)]) {
            times.1.push(milliseconds(from, to));
        }
    }
    sys::pidfd::send_signal(&staying.pidfd, sys::rustix::process::Signal::KILL).expect("kill");
    sys::pidfd::wait(&staying.pidfd).expect("wait");
    runner::delete(&staying.cgroup).expect("delete");
    for (point, _) in cgroups.points() {
        let _ = std::fs::remove_dir(point.join("peapod-churn"));
    }
    sys::tree::remove_path(&dir).expect("remove");
    for (step, mut times) in times {
        times.sort_by(f64::total_cmp);
        println!("{step:>7}: median {:.2} ms, p95 {:.2} ms", times[rounds / 2], times[rounds * 95 / 100]);
    }
}

fn exec(container: &Created, spec: &Spec) {
    let mut process = spec.process().clone().expect("process");
    process.set_args(Some(vec!["true".to_owned()]));
    let execed = runner::exec(ExecRequest {
        container: container.pidfd.as_fd(),
        spec,
        process: &process,
        stdio: null(),
        cgroup: &container.cgroup,
        seccomp_cache: Some(&std::env::temp_dir().join("peapod-churn-seccomp")),
    });
    sys::pidfd::wait(execed.expect("exec").pidfd).expect("wait");
}

fn create(dir: &Path, spec: &Spec, cgroups: &cgroup::Mounts, name: &str) -> Created {
    let own = |kind: &str| format!("{kind}dir={}", dir.join(format!("top/{name}-{kind}")).display());
    let options = vec![
        format!("lowerdir={}", dir.join("lower").display()),
        own("upper"),
        own("work"),
        "volatile".to_owned(),
    ];
    runner::create(CreateRequest {
        id: "churn",
        spec,
        bundle: &dir.join("bundle"),
        rootfs: vec![RootMount { kind: "overlay".to_owned(), source: "overlay".into(), options }],
        stdio: null(),
        cgroups,
        seccomp_cache: Some(&std::env::temp_dir().join("peapod-churn-seccomp")),
        gate: Gate::Creator,
    })
    .expect("create")
}

fn null() -> Stdio {
    let open =
        || -> OwnedFd { File::options().read(true).write(true).open("/dev/null").expect("open").into() };
    Stdio::Files { stdin: open(), stdout: open(), stderr: open() }
}

fn spec(args: &[&str], name: &str) -> Spec {
    let caps = ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    let mount = |to: &str, kind: &str, options: &[&str]| json!({ "destination": to, "type": kind, "source": kind, "options": options });
    let seccomp = seccomp::default_profile(&std::collections::HashSet::new());
    serde_json::from_value(json!({
        "ociVersion": "1.2.1",
        "root": { "path": "" },
        "process": {
            "user": { "uid": 0, "gid": 0 }, "args": args, "cwd": "/", "env": ["PATH=/bin"], "noNewPrivileges": true,
            "capabilities": { "bounding": caps, "permitted": caps, "effective": caps }
        },
        "mounts": [
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"])
        ],
        "linux": {
            "cgroupsPath": format!("/peapod-churn/{name}"),
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": [
                { "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }, { "type": "cgroup" }
            ],
            "seccomp": seccomp,
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
                "/sys/devices/virtual/powercap"
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    }))
    .expect("spec")
}
