//! Containers in a user namespace of their own.

use crate::bundle::{Bundle, Canary};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::{MetadataExt, chown},
    path::{Path, PathBuf},
};

const FIRST: u32 = 200_000;
const KINDS: [&str; 7] = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"];

fn lines() -> Value {
    json!([{ "containerID": 0, "hostID": FIRST, "size": 65_536 }])
}

/// A root as other runtimes want it: it belongs to the mapped ids.
fn give(path: &Path) {
    std::os::unix::fs::lchown(path, Some(FIRST), Some(FIRST)).expect("chown");
    if path.symlink_metadata().expect("stat").is_dir() {
        for entry in fs::read_dir(path).expect("list") {
            give(&entry.expect("entry").path());
        }
    }
}

fn mapped(mut bundle: Bundle) -> Bundle {
    bundle.spec["linux"]["uidMappings"] = lines();
    bundle.spec["linux"]["gidMappings"] = lines();
    bundle.spec["linux"]["namespaces"].as_array_mut().expect("list").push(json!({ "type": "user" }));
    give(&bundle.rootfs());
    bundle
}

/// The inode of the user namespace that owns one of a process' namespaces.
fn owner(pid: i32, kind: &str) -> u64 {
    let namespace = fs::File::open(format!("/proc/{pid}/ns/{kind}")).expect("open");
    let owner = sys::namespace::owner(&namespace).expect("owner");
    sys::rustix::fs::fstat(owner).expect("stat").st_ino
}

fn inode(pid: &str, kind: &str) -> u64 {
    fs::metadata(format!("/proc/{pid}/ns/{kind}")).expect("stat").ino()
}

#[test]
fn its_root_is_another_user_outside_and_owns_its_namespaces() {
    let mut bundle = mapped(Bundle::new());
    let pid = bundle.sleeping();
    let user = inode(&pid.to_string(), "user");
    for kind in KINDS {
        assert_ne!(inode(&pid.to_string(), kind), inode("self", kind), "{kind}");
        if kind != "user" {
            assert_eq!(owner(pid, kind), user, "{kind}");
        }
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("read");
    let ids = format!("Uid:\t{FIRST}\t{FIRST}\t{FIRST}\t{FIRST}");
    assert!(status.contains(&ids), "{status}");
    let map = bundle.exec_well(&["c", "cat", "/proc/self/uid_map", "/proc/self/gid_map"]).out;
    let words: Vec<_> = map.split_whitespace().collect();
    assert_eq!(words, ["0", "200000", "65536", "0", "200000", "65536"]);
    let shown = bundle.exec_well(&["c", "sh", "-c", "id -u; hostname; cat /proc/1/cmdline; ls -ld /proc/1"]);
    assert!(shown.out.starts_with("0\npeapod\nsleep\x001000\x00"), "{}", shown.out);
    let ours = bundle.exec_well(&["c", "readlink", "/proc/self/ns/user"]);
    assert_eq!(ours.out.trim(), format!("user:[{user}]"));
}

#[test]
fn another_user_is_mapped_too_in_the_first_process_and_in_a_further_one() {
    let mut bundle = mapped(Bundle::new());
    bundle.spec["process"]["user"] = json!({ "uid": 1000, "gid": 2000, "additionalGids": [7] });
    let pid = bundle.sleeping();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("read");
    for line in ["Uid:\t201000", "Gid:\t202000", "Groups:\t200007"] {
        assert!(status.contains(line), "{line}: {status}");
    }
    let said = bundle.exec_well(&["c", "id"]).out;
    assert!(said.contains("uid=1000") && said.contains("gid=2000"), "{said}");
    let mut bundle = mapped(Bundle::new());
    bundle.spec["process"]["user"] = json!({ "uid": 65_536, "gid": 0 });
    let refused = bundle.run();
    assert!(refused.code != 0 && refused.err.contains("process.user.uid is invalid"), "{}", refused.err);
    assert_eq!(bundle.leftovers(), [] as [PathBuf; 0]);
}

#[test]
fn it_has_the_kernels_file_systems_and_its_own_devices() {
    let script = "set -e; echo x >/dev/null; head -c 1 /dev/zero >/dev/shm/z; test -c /dev/tty; \
        stat -c '%u:%g %t:%T' /dev/null /dev/full; stat -c %u /dev /dev/pts /dev/mqueue; \
        readlink /dev/fd; cat /proc/self/cgroup | grep -v ':/$' || echo own; touch /made /dev/shm/made; \
        grep -c ' /sys sysfs ' /proc/mounts; test -r /dev/stdout; echo again >/proc/self/fd/1";
    let mut bundle = mapped(Bundle::sh(script));
    bundle.spec["root"]["readonly"] = json!(false);
    let said = bundle.run_well().out;
    assert_eq!(said, "0:0 1:3\n0:0 1:7\n0\n0\n0\n/proc/self/fd\nown\n1\nagain\n");
    let made = fs::metadata(bundle.rootfs().join("made")).expect("stat");
    assert_eq!((made.uid(), made.gid()), (FIRST, FIRST));
}

#[test]
fn its_root_has_no_rights_outside() {
    let script = "echo 1 >/proc/sys/kernel/panic; mknod /tmp-null c 1 3; mount -t ext4 /dev/null /mnt; \
        echo 0 >/sys/fs/cgroup/pids/cgroup.procs; echo 0 >/sys/fs/cgroup/cgroup.procs; cat /canary/file";
    let mut bundle = mapped(Bundle::sh(script));
    bundle.spec["root"]["readonly"] = json!(false);
    let canary = Canary::new(&bundle);
    chown(canary.path(), Some(0), Some(0)).expect("chown");
    sys::rustix::fs::chmod(canary.path(), sys::rustix::fs::Mode::from_raw_mode(0o700)).expect("chmod");
    let all: Vec<_> = (0..=40).filter_map(sys::caps::name).collect();
    bundle.spec["process"]["capabilities"] = json!({ "bounding": all, "permitted": all, "effective": all });
    for list in ["maskedPaths", "readonlyPaths"] {
        bundle.spec["linux"][list] = json!([]);
    }
    bundle.mount(json!({
        "destination": "/canary", "type": "bind", "source": canary.path(), "options": ["rbind"]
    }));
    let said = bundle.run();
    assert_ne!(said.code, 0);
    for thing in ["/proc/sys/kernel/panic", "/tmp-null", "/canary/file"] {
        let refused = said.err.lines().any(|line| line.contains(thing) && line.contains("denied"));
        let not_permitted =
            said.err.lines().any(|line| line.contains(thing) && line.contains("not permitted"));
        assert!(refused || not_permitted, "{thing}: {}", said.err);
    }
}

#[test]
fn it_has_all_capabilities_that_are_asked_for_but_no_more() {
    let mut bundle = mapped(Bundle::sh("cat /proc/self/status"));
    let wanted = json!(["CAP_SYS_RESOURCE", "CAP_NET_ADMIN"]);
    bundle.spec["process"]["capabilities"] =
        json!({ "bounding": wanted, "permitted": wanted, "effective": wanted });
    let said = bundle.run_well();
    // 24 and 12: the first is one that the node may not have itself.
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(said.field(set), "0000000001001000", "{set}");
    }
    assert_eq!(said.field("NoNewPrivs"), "1");
}

#[test]
fn a_second_container_joins_the_namespaces_of_the_first() {
    let mut first = mapped(Bundle::new());
    let pid = first.sleeping();
    let mut second = mapped(Bundle::new());
    let path = |kind: &str| format!("/proc/{pid}/ns/{kind}");
    second.spec["linux"]["namespaces"] = json!([
        { "type": "mount" }, { "type": "cgroup" }, { "type": "user", "path": path("user") },
        { "type": "network", "path": path("net") }, { "type": "ipc", "path": path("ipc") },
        { "type": "uts", "path": path("uts") }, { "type": "pid", "path": path("pid") }
    ]);
    second.spec["hostname"] = json!("");
    let other = second.sleeping();
    for kind in KINDS {
        let same = inode(&other.to_string(), kind) == inode(&pid.to_string(), kind);
        assert_eq!(same, !["mnt", "cgroup"].contains(&kind), "{kind}");
    }
    let shown = second.exec_well(&["c", "cat", "/proc/1/cmdline"]);
    assert_eq!(shown.out, "sleep\x001000\x00");
}

#[test]
fn a_volume_is_mapped_as_it_is_asked_and_else_shown_as_it_is() {
    let script = "stat -c '%n %u:%g' /own /mapped/a /plain/a; touch /mapped/new; touch /plain/new";
    let mut bundle = mapped(Bundle::sh(script));
    fs::create_dir(bundle.rootfs().join("own")).expect("mkdir");
    give(&bundle.rootfs());
    let volume = bundle.dir.join("volume");
    fs::create_dir(&volume).expect("mkdir");
    fs::File::create(volume.join("a")).expect("create");
    chown(volume.join("a"), Some(7), Some(8)).expect("chown");
    bundle.mount(json!({
        "destination": "/mapped", "type": "bind", "source": volume, "options": ["rbind"],
        "uidMappings": lines(), "gidMappings": lines()
    }));
    bundle.mount(json!({ "destination": "/plain", "type": "bind", "source": volume, "options": ["rbind"] }));
    let said = bundle.run();
    assert_eq!(said.out, "/own 0:0\n/mapped/a 7:8\n/plain/a 65534:65534\n", "{}", said.err);
    assert!(said.err.contains("/plain/new: Permission denied"), "{}", said.err);
    let made = fs::metadata(volume.join("new")).expect("stat");
    assert_eq!((made.uid(), made.gid()), (0, 0), "root inside is root on disk");
}

#[test]
fn sysctls_of_its_namespaces_are_set_and_limits_are_as_asked() {
    let mut bundle = mapped(Bundle::sh("cat /proc/sys/net/ipv4/ip_forward; ulimit -n; ulimit -Hn"));
    bundle.spec["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "1" });
    bundle.spec["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 99, "hard": 111 }]);
    bundle.spec["process"]["oomScoreAdj"] = json!(321);
    assert_eq!(bundle.run_well().out, "1\n99\n111\n");
    let pid = bundle.sleeping();
    let score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("read");
    assert_eq!(score.trim(), "321");
}

#[test]
fn what_cannot_be_is_an_error_by_name_and_leaves_nothing() {
    let check = |change: &dyn Fn(&mut Value), why: &str| {
        let mut bundle = mapped(Bundle::sh("true"));
        change(&mut bundle.spec);
        let refused = bundle.run();
        assert!(refused.code != 0 && refused.err.contains(why), "{why}: {}", refused.err);
        assert_eq!(bundle.leftovers(), [] as [PathBuf; 0], "{why}");
    };
    check(&|spec| spec["linux"]["gidMappings"] = json!([]), "linux.gidMappings is invalid");
    check(
        &|spec| spec["linux"]["uidMappings"][0]["containerID"] = json!(1),
        "linux.uidMappings is not supported",
    );
    // Two lines for one id: the kernel's to say.
    check(
        &|spec| {
            let line = spec["linux"]["uidMappings"][0].clone();
            spec["linux"]["uidMappings"].as_array_mut().expect("list").push(line);
        },
        "make a user namespace of its mapping",
    );
    // A failure of the one inside reaches the creator as any other.
    check(
        &|spec| {
            let bad = json!({ "destination": "/x", "type": "nosuchfs", "source": "x" });
            spec["mounts"].as_array_mut().expect("list").push(bad);
        },
        "mount /x: nosuchfs",
    );
}

#[test]
fn a_limit_of_one_process_lets_the_first_one_start_and_no_second_one() {
    for own_users in [true, false] {
        let script = "echo one; (true); echo two";
        let bundle = if own_users { mapped(Bundle::sh(script)) } else { Bundle::sh(script) };
        let mut bundle = bundle;
        bundle.spec["linux"]["resources"]["pids"] = json!({ "limit": 1 });
        let answer = bundle.run();
        assert_eq!(answer.out, "one\n", "{}", answer.err);
        assert!(answer.code != 0 && answer.err.contains("fork"), "{}", answer.err);
        assert_eq!(bundle.leftovers(), [] as [PathBuf; 0]);
    }
}
