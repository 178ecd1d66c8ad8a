//! Namespaces, cgroups and what a container sees of them.

use crate::bundle::Bundle;
use serde_json::json;
use std::fs;

const KINDS: [&str; 6] = ["mnt", "pid", "net", "ipc", "uts", "cgroup"];

fn link(pid: &str, kind: &str) -> String {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("readlink").display().to_string()
}

#[test]
fn asked_namespaces_are_new_and_the_others_are_the_hosts() {
    let mut all = Bundle::new();
    let pid = all.sleeping().to_string();
    for kind in KINDS {
        assert_ne!(link(&pid, kind), link("self", kind), "{kind}");
    }
    let mut few = Bundle::new();
    few.spec["linux"]["namespaces"] = json!([{ "type": "mount" }]);
    few.spec["hostname"] = json!("");
    let pid = few.sleeping().to_string();
    for kind in KINDS {
        assert_eq!(link(&pid, kind) == link("self", kind), kind != "mnt", "{kind}");
    }
    assert_eq!(few.exec_well(&["c", "sh", "-c", "test -d /proc/self && echo fine"]).out, "fine\n");
}

#[test]
fn namespaces_are_joined_by_path() {
    let mut first = Bundle::new();
    let pid = first.sleeping().to_string();
    let joined = ["net", "ipc", "uts", "pid"];
    let mut second = Bundle::new();
    let path = |kind: &str| format!("/proc/{pid}/ns/{kind}");
    second.spec["linux"]["namespaces"] = json!([
        { "type": "mount" }, { "type": "cgroup" }, { "type": "network", "path": path("net") },
        { "type": "ipc", "path": path("ipc") }, { "type": "uts", "path": path("uts") }, { "type": "pid", "path": path("pid") }
    ]);
    second.spec["hostname"] = json!("");
    let other = second.sleeping().to_string();
    for kind in KINDS {
        assert_eq!(link(&other, kind) == link(&pid, kind), joined.contains(&kind), "{kind}");
    }
    // Its first process is not the first of its PID namespace, and exec finds it all the same.
    let shown = second.exec_well(&["c", "sh", "-c", "cat /proc/1/cmdline; hostname"]);
    assert_eq!(shown.out, "sleep\x001000\0peapod\n");
    assert_eq!(second.exec_well(&["c", "readlink", "/proc/self/ns/pid"]).out.trim(), link(&pid, "pid"));
}

#[test]
fn the_container_is_in_its_cgroup_in_every_hierarchy_and_sees_it_as_the_root() {
    let mut bundle = Bundle::new();
    bundle.spec["linux"]["resources"]["memory"] = json!({ "limit": 64 << 20 });
    bundle.spec["linux"]["resources"]["pids"] = json!({ "limit": 32 });
    let pid = bundle.sleeping();
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("read");
    for line in groups.lines().filter(|line| !line.starts_with("0::") || groups.lines().count() == 1) {
        assert!(line.ends_with(&format!(":{}", bundle.group)), "{line}");
    }
    let inside = bundle.exec_well(&["c", "cat", "/proc/self/cgroup"]).out;
    assert!(inside.lines().all(|line| line.ends_with(":/")), "{inside}");
    let limit = bundle.exec_well(&[
        "c",
        "sh",
        "-c",
        "cat /sys/fs/cgroup/memory/memory.limit_in_bytes || cat /sys/fs/cgroup/memory.max",
    ]);
    assert_eq!(limit.out.trim(), (64 << 20).to_string());
    let denied = bundle.exec(&[
        "c",
        "sh",
        "-c",
        "echo 1 > /sys/fs/cgroup/pids/cgroup.procs || echo 1 > /sys/fs/cgroup/cgroup.procs",
    ]);
    assert!(denied.code != 0 && denied.err.contains("Read-only file system"), "{}", denied.err);
}

#[test]
fn a_container_that_wants_too_much_memory_is_killed_and_counted() {
    let mut bundle = Bundle::sh("dd if=/dev/zero of=/dev/shm/x bs=1M count=60");
    bundle.spec["linux"]["resources"]["memory"] = json!({ "limit": 12 << 20, "swap": 12 << 20 });
    bundle.create();
    let pid = bundle.pid();
    assert_eq!(bundle.start().code, 0);
    bundle.wait_for_end(pid);
    let mounts = cgroup::Mounts::detect().expect("cgroups");
    let group = cgroup::Cgroup::open(&mounts, &cgroup::CgroupPath::parse(&bundle.group).expect("path"))
        .expect("open");
    assert!(group.oom_kills().expect("count") >= 1, "{}", bundle.output());
}

#[test]
fn the_names_of_the_host_are_set_inside_only() {
    let mut bundle = Bundle::sh("hostname; cat /proc/sys/kernel/domainname");
    let before = fs::read_to_string("/proc/sys/kernel/hostname").expect("read");
    bundle.spec["hostname"] = json!("inside");
    bundle.spec["domainname"] = json!("domain");
    assert_eq!(bundle.run_well().out, "inside\ndomain\n");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/hostname").expect("read"), before);
    bundle.spec["linux"]["namespaces"] = json!([{ "type": "mount" }, { "type": "pid" }]);
    let refused = bundle.run();
    assert!(refused.err.contains("hostname is invalid"), "{}", refused.err);
}

#[test]
fn sysctls_of_own_namespaces_are_set_and_others_are_refused() {
    let mut bundle = Bundle::sh("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmni");
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").expect("read");
    bundle.spec["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "1", "kernel.shmmni": "77" });
    assert_eq!(bundle.run_well().out, "1\n77\n");
    for (name, value) in
        [("kernel.core_pattern", "|/x"), ("net.ipv4.ip_forward", "1\nkernel.core_pattern=|/x")]
    {
        bundle.spec["linux"]["sysctl"] = json!({ name: value });
        let refused = bundle.run();
        assert!(refused.code != 0 && refused.err.contains("linux.sysctl["), "{}", refused.err);
        assert_eq!(bundle.leftovers(), [] as [std::path::PathBuf; 0]);
    }
    assert_eq!(fs::read_to_string("/proc/sys/kernel/core_pattern").expect("read"), pattern);
}

#[test]
fn mounts_of_the_host_reach_a_volume_only_with_its_propagation() {
    use sys::rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
    let mut bundle = Bundle::new();
    let volume = bundle.dir.join("volume");
    fs::create_dir(&volume).expect("mkdir");
    mount("tmpfs", &volume, "tmpfs", MountFlags::empty(), None).expect("mount");
    mount_change(&volume, MountPropagationFlags::SHARED).expect("share");
    for (target, propagation) in
        [("/private", None), ("/slave", Some("rslave")), ("/shared", Some("rshared"))]
    {
        let mut options = vec!["rbind"];
        options.extend(propagation);
        bundle.mount(json!({ "destination": target, "type": "bind", "source": volume, "options": options }));
    }
    // Making mounts needs this one.
    let caps = json!(["CAP_SYS_ADMIN"]);
    bundle.spec["process"]["capabilities"] =
        json!({ "bounding": caps, "permitted": caps, "effective": caps });
    bundle.sleeping();
    for dir in ["late", "own"] {
        fs::create_dir(volume.join(dir)).expect("mkdir");
    }
    mount("tmpfs", volume.join("late"), "tmpfs", MountFlags::empty(), None).expect("mount");
    let seen = bundle.exec_well(&["c", "cat", "/proc/mounts"]).out;
    let own = bundle.exec_well(&["c", "mount", "-t", "tmpfs", "own", "/shared/own"]);
    let host = fs::read_to_string("/proc/self/mounts").expect("read");
    for _ in 0..2 {
        let _ = unmount(volume.join("own"), UnmountFlags::DETACH);
        let _ = unmount(volume.join("late"), UnmountFlags::DETACH);
    }
    unmount(&volume, UnmountFlags::DETACH).expect("unmount");
    let mounted = |target: &str| seen.lines().any(|line| line.split(' ').nth(1) == Some(target));
    assert!(mounted("/slave/late") && mounted("/shared/late") && !mounted("/private/late"), "{seen}");
    assert!(host.contains(&format!("{}/own", volume.display())), "{host}{}", own.err);
}

#[test]
fn a_time_namespace_has_its_offsets_for_the_container_and_for_exec() {
    let mut bundle = Bundle::new();
    bundle.spec["linux"]["namespaces"].as_array_mut().expect("list").push(json!({ "type": "time" }));
    bundle.spec["linux"]["timeOffsets"] =
        json!({ "boottime": { "secs": 1_000_000_000 }, "monotonic": { "secs": 7 } });
    let pid = bundle.sleeping().to_string();
    assert_ne!(link(&pid, "time"), link("self", "time"));
    // Through the procfs of the container, which shows the time of whoever reads.
    let uptime = bundle.exec_well(&["c", "cat", "/proc/uptime"]).out;
    let seconds: f64 = uptime.split(' ').next().and_then(|text| text.parse().ok()).expect("seconds");
    assert!(seconds > 1e9, "{uptime}");
    assert_eq!(bundle.exec_well(&["c", "readlink", "/proc/self/ns/time"]).out.trim(), link(&pid, "time"));
    let mut refused = Bundle::new();
    refused.spec["linux"]["timeOffsets"] = json!({ "boottime": { "secs": 1 } });
    let answer = refused.run();
    assert!(answer.err.contains("linux.timeOffsets is invalid"), "{}", answer.err);
}

#[test]
fn the_processors_that_the_runtime_may_use_are_no_limit_of_the_container() {
    use sys::rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let all = sched_getaffinity(None).expect("affinity");
    let mut one = CpuSet::new();
    one.set((0..CpuSet::MAX_CPU).find(|at| all.is_set(*at)).expect("a processor"));
    let mut bundle = Bundle::sh("grep Cpus_allowed: /proc/self/status");
    let free = bundle.run_well().out;
    // Of this thread alone, and of what it starts.
    sched_setaffinity(None, &one).expect("set");
    let limited = bundle.run_well().out;
    bundle.sleeping();
    let exec = bundle.exec_well(&["c", "grep", "Cpus_allowed:", "/proc/self/status"]).out;
    sched_setaffinity(None, &all).expect("reset");
    assert_eq!((&limited, &exec), (&free, &free));
}
