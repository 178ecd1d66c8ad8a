//! User, capabilities, seccomp, limits, devices, hidden and read-only paths.

use crate::bundle::{Answer, Bundle};
use serde_json::json;
use std::fs;

const LINES: [&str; 12] = [
    "Uid",
    "Gid",
    "Groups",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Umask",
    "NSpid",
];

fn status(answer: &Answer) -> Vec<String> {
    LINES.iter().filter(|line| **line != "NSpid").map(|line| answer.field(line)).collect()
}

fn user(bundle: &mut Bundle) {
    bundle.spec["process"]["user"] =
        json!({ "uid": 1000, "gid": 1001, "additionalGids": [2000, 3000], "umask": 0o27 });
}

fn deny_mkdir(bundle: &mut Bundle) {
    bundle.spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95 }]
    });
}

#[test]
fn the_user_with_all_groups_has_no_capability_but_what_was_asked() {
    let mut bundle = Bundle::sh("cat /proc/self/status");
    user(&mut bundle);
    let answer = bundle.run_well();
    assert_eq!(answer.field("Uid"), "1000\t1000\t1000\t1000");
    assert_eq!(answer.field("Gid"), "1001\t1001\t1001\t1001");
    assert_eq!(answer.field("Groups"), "2000 3000");
    assert_eq!(answer.field("Umask"), "0027");
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(answer.field(set), "0000000000000000", "{set}");
    }
    assert_eq!(answer.field("CapBnd"), "0000000020000420");
    let caps = json!(["CAP_NET_BIND_SERVICE"]);
    bundle.spec["process"]["capabilities"] = json!({ "bounding": caps, "permitted": caps, "effective": caps, "inheritable": caps, "ambient": caps });
    let answer = bundle.run_well();
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb", "CapBnd"] {
        assert_eq!(answer.field(set), "0000000000000400", "{set}");
    }
}

#[test]
fn seccomp_is_in_force_with_and_without_no_new_privs() {
    for no_new_privs in [true, false] {
        let mut bundle = Bundle::sh("cat /proc/self/status; mkdir /dev/shm/x");
        bundle.spec["process"]["noNewPrivileges"] = json!(no_new_privs);
        deny_mkdir(&mut bundle);
        for uid in [0, 1000] {
            bundle.spec["process"]["user"]["uid"] = json!(uid);
            let answer = bundle.run();
            assert_eq!(answer.field("Seccomp"), "2");
            assert_eq!(answer.field("NoNewPrivs"), if no_new_privs { "1" } else { "0" });
            // CAP_SYS_ADMIN was there for the load only.
            assert_eq!(answer.field("CapBnd"), "0000000020000420");
            let effective = if uid == 0 { "0000000020000420" } else { "0000000000000000" };
            assert_eq!(answer.field("CapEff"), effective);
            assert!(answer.err.contains("Operation not supported"), "{}", answer.err);
        }
    }
}

#[test]
fn the_default_profile_lets_a_container_run_and_denies_what_it_should() {
    let mut bundle = Bundle::sh("cat /proc/self/status; mount -t tmpfs x /dev/shm");
    let profile = seccomp::default_profile(&std::collections::HashSet::new());
    bundle.spec["linux"]["seccomp"] = serde_json::to_value(profile).expect("json");
    let answer = bundle.run();
    assert_eq!(answer.field("Seccomp"), "2");
    assert!(
        answer.err.contains("mount: permission denied") || answer.err.contains("Operation not permitted"),
        "{}",
        answer.err
    );
}

#[test]
fn exec_is_confined_as_the_container_is() {
    let mut bundle = Bundle::new();
    user(&mut bundle);
    deny_mkdir(&mut bundle);
    bundle.spec["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 77, "hard": 99 }]);
    bundle.spec["process"]["cwd"] = json!("/work");
    let pid = bundle.sleeping();
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).expect("read");
    let first = Answer { code: 0, out: read("status"), err: String::new() };
    let exec = bundle.exec_well(&["c", "cat", "/proc/self/status"]);
    assert_eq!(status(&exec), status(&first));
    assert_eq!(bundle.exec_well(&["c", "cat", "/proc/self/limits"]).out, read("limits"));
    assert_eq!(bundle.exec_well(&["c", "pwd"]).out, "/work\n");
    for kind in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let inside = bundle.exec_well(&["c", "readlink", &format!("/proc/self/ns/{kind}")]).out;
        let first = fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("readlink");
        assert_eq!(inside.trim(), first.to_str().expect("UTF-8"), "{kind}");
    }
    let other = bundle.exec_well(&[
        "--user",
        "5:6",
        "--cwd",
        "/dev",
        "--env",
        "A=b",
        "c",
        "sh",
        "-c",
        "id -u; id -g; pwd; echo $A",
    ]);
    assert_eq!(other.out, "5\n6\n/dev\nb\n");
    let refused = bundle.exec(&["--user", "root", "c", "id"]);
    assert!(refused.code != 0 && refused.err.contains("--user"), "{}", refused.err);
}

#[test]
fn a_container_has_descriptors_0_1_2_and_no_other() {
    // One that is not close-on-exec in the caller is no gift for the container either.
    let leaky = fs::File::open("/").expect("open");
    sys::rustix::io::fcntl_setfd(&leaky, sys::rustix::io::FdFlags::empty()).expect("fcntl");
    let mut bundle = Bundle::new();
    let pid = bundle.sleeping();
    let open = || {
        let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("list");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("entry").file_name().into_string().expect("number")).collect();
        names.sort();
        names
    };
    assert_eq!(open(), ["0", "1", "2"]);
    let exec = bundle.exec_well(&["c", "ls", "/proc/self/fd"]);
    assert_eq!(exec.out, "0\n1\n2\n3\n", "3 is the directory that ls reads");
    assert_eq!(bundle.exec_well(&["c", "ls", "/proc/1/fd"]).out, "0\n1\n2\n");
}

#[test]
fn hidden_paths_are_empty_and_read_only_ones_cannot_be_written() {
    let mut bundle = Bundle::sh(
        "cat /proc/keys /proc/timer_list /proc/interrupts | head -c 1; ls /sys/firmware; ls -d /proc/acpi; ls /proc/acpi;
         echo 1 > /proc/irq/default_smp_affinity; echo 1 > /proc/sys/kernel/shmmni; touch /sys/firmware/x; touch /file; touch /dev/shm/fine && echo fine",
    );
    bundle.spec["linux"]["maskedPaths"].as_array_mut().expect("list").push(json!("/proc/does/not/exist"));
    let answer = bundle.run_well();
    assert_eq!(answer.out.replace("/proc/acpi\n", ""), "fine\n", "{}", answer.err);
    assert_eq!(answer.err.matches("Read-only file system").count(), 4, "{}", answer.err);
    bundle.spec["root"]["readonly"] = json!(false);
    bundle.args(&["touch", "/file"]);
    bundle.run_well();
    assert!(bundle.rootfs().join("file").is_file());
}

#[test]
fn only_listed_devices_are_there_and_can_be_opened() {
    let mut bundle = Bundle::sh(
        "stat -c '%n %F %t:%T %a' /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /dev/fuse2;
         readlink /dev/ptmx; readlink /dev/fd; head -c 3 /dev/zero > /dev/null && echo written;
         mknod /dev/mem2 c 1 1 && head -c 1 /dev/mem2",
    );
    let caps = json!(["CAP_MKNOD"]);
    bundle.spec["process"]["capabilities"] =
        json!({ "bounding": caps, "permitted": caps, "effective": caps });
    bundle.spec["linux"]["devices"] = json!([{ "path": "/dev/fuse2", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 0, "gid": 0 }]);
    let answer = bundle.run();
    for line in [
        "/dev/null character special file 1:3 666",
        "/dev/zero character special file 1:5 666",
        "/dev/full character special file 1:7 666",
        "/dev/random character special file 1:8 666",
        "/dev/urandom character special file 1:9 666",
        "/dev/tty character special file 5:0 666",
        "/dev/fuse2 character special file a:e5 640",
        "pts/ptmx",
        "/proc/self/fd",
        "written",
    ] {
        assert!(
            answer.out.lines().any(|found| found == line),
            "{line} is not in {}{}",
            answer.out,
            answer.err
        );
    }
    assert!(answer.err.contains("/dev/mem2: Operation not permitted"), "{}", answer.err);
}

#[test]
fn a_limit_that_cannot_be_raised_is_cut_and_oom_score_adj_is_set() {
    let mut bundle = Bundle::sh("cat /proc/self/oom_score_adj; ulimit -n; ulimit -Hn");
    let most =
        sys::rustix::process::getrlimit(sys::rustix::process::Resource::Nofile).maximum.expect("limited");
    bundle.spec["process"]["oomScoreAdj"] = json!(500);
    bundle.spec["process"]["rlimits"] =
        json!([{ "type": "RLIMIT_NOFILE", "soft": 55, "hard": most + 1_000_000_000 }]);
    let answer = bundle.run_well();
    let lines: Vec<_> = answer.out.lines().collect();
    assert_eq!(lines[..2], ["500", "55"], "{}", answer.err);
    // With CAP_SYS_RESOURCE the kernel's own most counts: then the request itself is refused.
    assert!(lines[2].parse::<u64>().expect("number") >= most, "{}", answer.out);
    bundle.spec["process"]["oomScoreAdj"] = json!(-999);
    bundle.run_well();
}

#[test]
fn a_user_can_open_its_own_pipes_again() {
    let mut bundle = Bundle::sh("echo one > /dev/stdout; echo two > /dev/stderr");
    user(&mut bundle);
    let answer = bundle.run_well();
    assert_eq!((answer.out.as_str(), answer.err.as_str()), ("one\n", "two\n"));
}

#[test]
fn a_terminal_is_the_containers_own_and_its_console() {
    use std::os::unix::net::UnixListener;
    let mut bundle = Bundle::sh(
        "tty; stat -c '%t' /dev/console; stat -c '%u' /dev/pts/0; ls -1 /proc/self/fd; echo in > /dev/console",
    );
    user(&mut bundle);
    bundle.spec["process"]["terminal"] = json!(true);
    bundle.spec["process"]["consoleSize"] = json!({ "height": 40, "width": 99 });
    let socket = bundle.dir.join("console");
    let listener = UnixListener::bind(&socket).expect("bind");
    let created = bundle.create_with(&["--console-socket", socket.to_str().expect("UTF-8")]);
    assert_eq!(created.code, 0, "{}", created.out);
    let (connected, _) = listener.accept().expect("accept");
    let mut name = [0; 32];
    let (got, mut fds) = sys::socket::receive(&connected, &mut name).expect("receive");
    assert_eq!(&name[..got], b"/dev/ptmx");
    let terminal = fds.pop().expect("a descriptor");
    let size = sys::rustix::termios::tcgetwinsize(&terminal).expect("size");
    assert_eq!((size.ws_row, size.ws_col), (40, 99));
    assert_eq!(bundle.start().code, 0);
    let mut shown = Vec::new();
    // EIO: the other end is closed.
    let _ = std::io::Read::read_to_end(&mut fs::File::from(terminal), &mut shown);
    let shown = String::from_utf8_lossy(&shown).replace("\r\n", "\n");
    // stat of /dev/console: major 136 = 0x88.
    assert!(shown.starts_with("/dev/pts/0\n88\n1000\n0\n1\n2\n"), "{shown}");
    assert!(shown.ends_with("in\n"), "{shown}");
}

#[test]
fn scheduler_io_priority_and_personality_are_the_processes_own() {
    let mut bundle = Bundle::sh("cat /proc/self/sched /proc/self/stat; cat /proc/self/personality; uname -m");
    bundle.spec["process"]["scheduler"] = json!({ "policy": "SCHED_BATCH", "nice": 3 });
    bundle.spec["process"]["ioPriority"] = json!({ "class": "IOPRIO_CLASS_IDLE", "priority": 0 });
    bundle.spec["linux"]["personality"] = json!({ "domain": "LINUX32" });
    let answer = bundle.run();
    let stat = answer.out.lines().find(|line| line.contains(") R ") || line.contains(") S ")).expect("stat");
    let fields: Vec<_> = stat.rsplit_once(')').expect("name").1.split_ascii_whitespace().collect();
    // proc_pid_stat(5): 19 is nice, 41 is the policy; SCHED_BATCH is 3.
    assert_eq!((fields[19 - 3], fields[41 - 3]), ("3", "3"), "{stat}");
    assert!(answer.out.contains("00000008"), "{}", answer.out);
    let pid = {
        bundle.sleeping();
        bundle.pid()
    };
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/personality")).expect("read").trim(), "00000008");
    let exec = bundle.exec_well(&["c", "cat", "/proc/self/personality"]);
    assert_eq!(exec.out.trim(), "00000008", "an exec is of the same system");
    for (field, value) in [
        ("scheduler", json!({ "policy": "SCHED_OTHER", "priority": 1 })),
        ("ioPriority", json!({ "class": "IOPRIO_CLASS_BE", "priority": 8 })),
    ] {
        let mut bad = Bundle::sh("true");
        bad.spec["process"][field] = value;
        let refused = bad.run();
        assert!(refused.err.contains(&format!("process.{field}.priority is invalid")), "{}", refused.err);
    }
}

#[test]
fn an_exec_runs_on_the_processors_that_it_names() {
    let mut bundle = Bundle::new();
    bundle.sleeping();
    let process = bundle.dir.join("process.json");
    let mut wanted = bundle.spec["process"].clone();
    wanted["args"] = json!(["grep", "Cpus_allowed_list", "/proc/self/status"]);
    wanted["execCPUAffinity"] = json!({ "initial": "0-1", "final": "0" });
    fs::File::create(&process)
        .and_then(|mut file| std::io::Write::write_all(&mut file, wanted.to_string().as_bytes()))
        .expect("write");
    let answer = bundle.exec_well(&["--process", process.to_str().expect("UTF-8"), "c"]);
    assert_eq!(answer.out.trim(), "Cpus_allowed_list:\t0");
}

#[test]
fn a_path_that_is_hidden_twice_is_mounted_once() {
    let mut bundle = Bundle::sh("grep -c ' /proc/keys ' /proc/self/mounts");
    bundle.spec["linux"]["maskedPaths"] = json!(["/proc/keys", "/proc/./keys", "/proc/keys"]);
    assert_eq!(bundle.run_well().out, "1\n");
}
