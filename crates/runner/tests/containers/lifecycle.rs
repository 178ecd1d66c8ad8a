//! create, start, run, kill, delete and their errors.

use crate::bundle::Bundle;
use serde_json::json;
use std::path::PathBuf;

const NOTHING: [PathBuf; 0] = [];

#[test]
fn the_exit_code_is_the_programs_or_128_and_its_signal() {
    let bundle = Bundle::sh("exit 7");
    assert_eq!(bundle.run().code, 7);
    let mut bundle = Bundle::sh("kill -9 $$");
    bundle.spec["linux"]["namespaces"] = json!([{ "type": "mount" }]);
    bundle.spec["hostname"] = json!("");
    assert_eq!(bundle.run().code, 137);
    assert_eq!(bundle.leftovers(), NOTHING);
    let mut bundle = Bundle::new();
    bundle.sleeping();
    assert_eq!(bundle.exec(&["c", "sh", "-c", "exit 9"]).code, 9);
    assert_eq!(bundle.exec(&["c", "sh", "-c", "kill -15 $$"]).code, 143);
}

#[test]
fn a_process_without_a_home_gets_that_of_its_user() {
    use std::io::Write;
    let mut bundle = Bundle::sh("echo $HOME");
    bundle.spec["process"]["env"] = json!(["PATH=/bin"]);
    assert_eq!(bundle.run_well().out, "/\n", "there is no /etc/passwd");
    let etc = bundle.rootfs().join("etc");
    std::fs::create_dir_all(&etc).expect("mkdir");
    std::fs::File::create(etc.join("passwd"))
        .and_then(|mut file| file.write_all(b"a:x:0:0::/root:/bin/sh\nb:x:5:5::/home/b:/bin/sh\n"))
        .expect("write");
    assert_eq!(bundle.run_well().out, "/root\n");
    bundle.spec["process"]["user"] = json!({ "uid": 5, "gid": 5 });
    assert_eq!(bundle.run_well().out, "/home/b\n");
    bundle.spec["process"]["env"] = json!(["PATH=/bin", "HOME=/own"]);
    assert_eq!(bundle.run_well().out, "/own\n");
    // A file that leads out of the root, or that nobody would ever write to.
    bundle.spec["process"]["env"] = json!(["PATH=/bin"]);
    std::fs::remove_file(etc.join("passwd")).expect("remove");
    std::os::unix::fs::symlink("/../../../../etc/passwd", etc.join("passwd")).expect("link");
    assert_eq!(bundle.run_well().out, "/\n", "it leads to itself");
    std::fs::remove_file(etc.join("passwd")).expect("remove");
    let made = std::process::Command::new("mkfifo").arg(etc.join("passwd")).status();
    assert!(made.expect("run").success());
    assert_eq!(bundle.run_well().out, "/\n");
}

#[test]
fn a_program_that_is_not_there_is_told_in_known_words_and_leaves_nothing() {
    let mut bundle = Bundle::new();
    for (program, code, text) in [
        ("no-such", 127, "exec: \"no-such\": executable file not found in $PATH"),
        ("/no/such", 127, "exec: \"/no/such\": stat /no/such: no such file or directory"),
        ("/bin", 126, "exec: \"/bin\": permission denied"),
        ("/plain", 126, "exec: \"/plain\": permission denied"),
        ("/text", 126, "exec: \"/text\": Exec format error"),
    ] {
        use std::{io::Write, os::unix::fs::OpenOptionsExt};
        for (name, mode) in [("plain", 0o644), ("text", 0o755)] {
            let mut options = std::fs::OpenOptions::new();
            let file =
                options.write(true).create(true).truncate(true).mode(mode).open(bundle.rootfs().join(name));
            file.and_then(|mut file| file.write_all(b"text")).expect("write");
        }
        bundle.args(&[program]);
        let answer = bundle.run();
        assert_eq!(answer.code, code, "{}", answer.err);
        assert!(answer.err.contains(text), "{}", answer.err);
        assert_eq!(bundle.leftovers(), NOTHING);
    }
    bundle.sleeping();
    let answer = bundle.exec(&["c", "no-such"]);
    assert!(
        answer.code == 127 && answer.err.contains("executable file not found in $PATH"),
        "{}",
        answer.err
    );
}

#[test]
fn an_error_of_the_exec_reaches_the_start() {
    let mut bundle = Bundle::new();
    bundle.args(&["no-such"]);
    bundle.create();
    let started = bundle.start();
    assert_eq!(started.code, 127);
    assert!(
        started.err.contains("start.sock") || started.err.contains("executable file not found"),
        "{}",
        started.err
    );
}

#[test]
fn the_states_follow_the_specification_and_wrong_ones_are_refused() {
    let mut bundle = Bundle::new();
    let refused = |bundle: &Bundle, args: &[&str], why: &str| {
        let answer = bundle.call(args);
        assert!(answer.code != 0 && answer.err.contains(why), "{args:?}: {}", answer.err);
    };
    for args in [["state", "c"], ["start", "c"], ["kill", "c"], ["delete", "c"]] {
        refused(&bundle, &args, "does not exist");
    }
    bundle.args(&["sleep", "1000"]);
    bundle.create();
    assert_eq!(bundle.state()["status"], "created");
    let early = bundle.exec_well(&["c", "sh", "-c", "test -d /proc/1 && echo mnt:"]);
    assert!(early.out.starts_with("mnt:"), "exec goes before the start, too");
    assert!(bundle.create_with(&[]).out.contains("exists already"));
    assert_eq!(bundle.state()["status"], "created", "the second create changed something");
    assert_eq!(bundle.start().code, 0);
    let state = bundle.state();
    assert_eq!((&state["status"], &state["id"]), (&json!("running"), &json!("c")));
    assert_eq!(bundle.call(&["list", "-q"]).out, "c\n");
    refused(&bundle, &["start", "c"], "is running, not created");
    refused(&bundle, &["delete", "c"], "is running");
    refused(&bundle, &["kill", "c", "SIGNONE"], "SIGNONE");
    assert_eq!(bundle.call(&["kill", "c", "KILL"]).code, 0);
    bundle.wait_for_end(i32::try_from(state["pid"].as_i64().expect("pid")).expect("pid"));
    assert_eq!(bundle.state()["status"], "stopped");
    refused(&bundle, &["kill", "c", "KILL"], "is not running");
    refused(&bundle, &["exec", "c", "true"], "is stopped");
    assert_eq!(bundle.call(&["delete", "c"]).code, 0);
    assert_eq!(bundle.leftovers(), NOTHING);
    assert_eq!(bundle.call(&["delete", "--force", "c"]).code, 0, "twice is fine with --force");
    for id in ["../c", "a/b", "", "."] {
        refused(&bundle, &["delete", "--force", id], "is no container id");
    }
}

#[test]
fn a_container_that_was_never_started_is_deleted_whole() {
    let mut bundle = Bundle::new();
    bundle.args(&["true"]);
    bundle.create();
    let pid = bundle.pid();
    assert_eq!(bundle.call(&["delete", "c"]).code, 0);
    bundle.wait_for_end(pid);
    assert_eq!(bundle.leftovers(), NOTHING);
}

#[test]
fn fields_that_are_not_done_are_refused_by_name_and_leave_nothing() {
    let check = |change: &dyn Fn(&mut serde_json::Value), field: &str| {
        let mut bundle = Bundle::new();
        change(&mut bundle.spec);
        let answer = bundle.run();
        assert!(answer.code == 1 && answer.err.contains(field), "{field}: {}", answer.err);
        assert_eq!(bundle.leftovers(), NOTHING);
    };
    check(
        &|spec| spec["hooks"] = json!({ "prestart": [{ "path": "/bin/true", "timeout": 0 }] }),
        "hooks.prestart[0].timeout is invalid",
    );
    check(&|spec| spec["linux"]["namespaces"][0] = json!({ "type": "user" }), "a user namespace");
    check(&|spec| spec["linux"]["intelRdt"] = json!({}), "linux.intelRdt");
    check(&|spec| spec["linux"]["mountLabel"] = json!("x"), "linux.mountLabel");
    check(&|spec| spec["process"]["apparmorProfile"] = json!("x"), "process.apparmorProfile");
    check(&|spec| spec["process"]["selinuxLabel"] = json!("x"), "process.selinuxLabel");
    check(&|spec| spec["process"]["scheduler"] = json!({ "policy": "SCHED_FIFO" }), "process.scheduler");
    check(&|spec| spec["mounts"][1]["options"] = json!(["idmap"]), "idmap");
    check(&|spec| spec["process"]["args"] = json!([]), "process.args");
    check(&|spec| spec["root"] = json!({ "path": "nowhere" }), "open the root");
    check(&|spec| spec["mounts"][1]["destination"] = json!("dev"), "mounts[1].destination");
    check(&|spec| spec["linux"]["cgroupsPath"] = json!("../x"), "cgroup");
}

#[test]
fn what_the_container_leaves_running_ends_with_it() {
    let mut bundle = Bundle::sh("sleep 1000 & exit 0");
    bundle.spec["linux"]["namespaces"] = json!([{ "type": "mount" }]);
    bundle.spec["hostname"] = json!("");
    bundle.create();
    let pid = bundle.pid();
    assert_eq!(bundle.start().code, 0);
    bundle.wait_for_end(pid);
    let mounts = cgroup::Mounts::detect().expect("cgroups");
    let group = cgroup::Cgroup::at(&mounts, &cgroup::CgroupPath::parse(&bundle.group).expect("path"));
    assert_eq!(group.processes().expect("list").len(), 1, "the sleep");
    assert_eq!(bundle.call(&["delete", "c"]).code, 0);
    assert_eq!(bundle.leftovers(), NOTHING);
}

#[test]
fn an_exec_that_cannot_be_told_of_does_not_go_on() {
    let mut bundle = Bundle::new();
    bundle.sleeping();
    let refused = bundle.exec(&["--detach", "--pid-file", "/nowhere/pid", "c", "sleep", "1000"]);
    assert!(refused.code != 0 && refused.err.contains("/nowhere/pid"), "{}", refused.err);
    let mounts = cgroup::Mounts::detect().expect("cgroups");
    let group = cgroup::Cgroup::at(&mounts, &cgroup::CgroupPath::parse(&bundle.group).expect("path"));
    assert_eq!(group.processes().expect("list").len(), 1, "the container's own");
}

#[test]
fn signals_reach_the_container_that_runs_in_the_foreground() {
    use std::io::{BufRead, BufReader};
    let bundle = Bundle::sh("trap 'exit 33' TERM; echo ready; while true; do sleep 0.05; done");
    // Saves config.json as `run` does.
    bundle.create();
    assert_eq!(bundle.call(&["delete", "c"]).code, 0);
    let dir = bundle.dir.join("bundle");
    let mut command = bundle.command(&["run", "--bundle", dir.to_str().expect("UTF-8"), "c"]);
    let mut running = command.stdout(std::process::Stdio::piped()).spawn().expect("spawn");
    let mut line = String::new();
    BufReader::new(running.stdout.take().expect("piped")).read_line(&mut line).expect("read");
    assert_eq!(line, "ready\n");
    let pidfd = sys::pidfd::open(sys::rustix::process::Pid::from_child(&running)).expect("pidfd");
    sys::pidfd::send_signal(&pidfd, sys::rustix::process::Signal::TERM).expect("signal");
    assert_eq!(running.wait().expect("wait").code(), Some(33));
    assert_eq!(bundle.leftovers(), NOTHING);
}

#[test]
fn features_name_what_is_done_and_what_is_not() {
    let bundle = Bundle::new();
    let features: serde_json::Value = serde_json::from_str(&bundle.call(&["features"]).out).expect("json");
    assert_eq!(features["linux"]["cgroup"]["systemd"], false);
    assert_eq!(features["linux"]["seccomp"]["enabled"], true);
    let hooks = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
    assert_eq!(features["hooks"], json!(hooks));
    // What containerd asks for before it lets a mount be mapped.
    assert_eq!(features["linux"]["mountExtensions"]["idmap"]["enabled"], true);
    let options = features["mountOptions"].as_array().expect("list");
    assert!(["rro", "ridmap", "rslave"].iter().all(|word| options.contains(&json!(word))));
    let known: oci_spec::runtime::Features =
        serde_json::from_value(features.clone()).expect("the features document");
    assert!(known.linux().is_some());
}

#[test]
fn a_group_with_a_process_in_it_is_refused_and_the_process_lives() {
    let mounts = cgroup::Mounts::detect().expect("cgroups");
    let bundle = Bundle::new();
    let path = cgroup::CgroupPath::parse(&bundle.group).expect("path");
    // In the group itself, and beneath it.
    for beneath in [false, true] {
        let group = cgroup::Cgroup::create(&mounts, &path, None).expect("made");
        let child = std::process::Command::new("/bin/sleep").arg("1000").spawn();
        let mut stranger = child.expect("a process of somebody else's");
        if beneath {
            group.adopt("beneath", stranger.id()).expect("moved");
        } else {
            // Only the hierarchy that is asked: what the others hold does not matter.
            enter(&bundle, stranger.id());
        }
        let refused = bundle.create_with(&[]);
        let told = &refused.out;
        assert!(
            refused.code != 0 && told.contains("linux.cgroupsPath") && told.contains("not empty"),
            "{told}"
        );
        assert_eq!(bundle.call(&["delete", "--force", "c"]).code, 0);
        assert_eq!(stranger.try_wait().expect("ours").map(|status| status.code()), None, "it was killed");
        assert!(!group.processes().expect("list").is_empty(), "it was moved");
        stranger.kill().and_then(|()| stranger.wait()).expect("ended");
        group.remove().expect("removed");
    }
    bundle.create();
}

/// Moves a process into the bundle's group, in all hierarchies.
fn enter(bundle: &Bundle, pid: u32) {
    for dir in bundle.group_dirs() {
        let file = std::fs::OpenOptions::new().write(true).open(dir.join("cgroup.procs"));
        let written =
            file.and_then(|mut file| std::io::Write::write_all(&mut file, pid.to_string().as_bytes()));
        written.expect("moved");
    }
}

#[test]
fn a_frozen_group_is_refused_and_one_that_is_only_there_is_taken() {
    let mounts = cgroup::Mounts::detect().expect("cgroups");
    let bundle = Bundle::new();
    let path = cgroup::CgroupPath::parse(&bundle.group).expect("path");
    let group = cgroup::Cgroup::create(&mounts, &path, None).expect("made");
    let above = cgroup::Cgroup::at(&mounts, &path.parent().expect("parent"));
    for frozen in [&group, &above] {
        frozen.freeze().expect("frozen");
        let refused = bundle.create_with(&[]);
        let told = &refused.out;
        assert!(refused.code != 0 && told.contains("linux.cgroupsPath") && told.contains("frozen"), "{told}");
        assert!(group.is_frozen().expect("there"), "the group was changed");
        frozen.thaw().expect("thawed");
    }
    bundle.create();
}
