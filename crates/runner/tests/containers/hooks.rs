//! Hooks: when they run, where, with what on their standard input, and what a failed one does.

use crate::bundle::Bundle;
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
};

const KINDS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// A hook of the host's shell.
fn sh(script: &str) -> Value {
    json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"], "timeout": 30 })
}

/// A directory of the host that the container sees, too, at the same path.
fn shared(bundle: &mut Bundle) -> PathBuf {
    let dir = bundle.dir.join("told");
    fs::create_dir(&dir).expect("mkdir");
    bundle.mount(json!({ "destination": dir, "type": "bind", "source": dir, "options": ["rbind", "rw"] }));
    dir
}

fn read(path: PathBuf) -> String {
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn is_there(path: &Path) -> bool {
    path.try_exists().expect("stat")
}

#[test]
fn all_kinds_run_in_order_each_where_it_belongs() {
    let mut bundle = Bundle::new();
    let dir = shared(&mut bundle);
    let note = dir.join("order");
    for kind in KINDS {
        // By shell words alone: the container's own shell knows them, too.
        let script = |name: &str| {
            format!(
                "echo {name} $(readlink /proc/self/ns/mnt) $(readlink /proc/self/ns/net) >> {}; cat > {}/{name}",
                note.display(),
                dir.display()
            )
        };
        bundle.spec["hooks"][kind] = json!([sh(&script(kind)), sh(&script(&format!("{kind}2")))]);
    }
    bundle.spec["annotations"] = json!({ "a": "b" });
    let pid = {
        bundle.args(&["sh", "-c", &format!("echo program >> {}; sleep 1000", note.display())]);
        bundle.create();
        assert!(!read(note.clone()).contains("startContainer"), "before the start");
        let pid = bundle.pid();
        assert_eq!(bundle.start().code, 0);
        pid
    };
    let own =
        |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).expect("link").display().to_string();
    let of =
        |kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("link").display().to_string();
    let (host, container) = ((own("mnt"), own("net")), (of("mnt"), of("net")));
    assert_eq!(bundle.call(&["delete", "--force", "c"]).code, 0);

    let seen = read(note);
    // The program and poststart run at the same time.
    let lines: Vec<_> = seen.lines().filter(|line| *line != "program").collect();
    let names: Vec<_> = lines.iter().filter_map(|line| line.split(' ').next()).collect();
    let wanted: Vec<_> = KINDS.iter().flat_map(|kind| [(*kind).to_owned(), format!("{kind}2")]).collect();
    assert_eq!(names, wanted, "{seen}");
    for line in lines {
        let (mnt, net) = if line.contains("Container") { &container } else { &host };
        assert!(line.ends_with(&format!("{mnt} {net}")), "{line}; wanted {mnt} {net}");
    }
    for (kind, status, number) in [
        ("prestart", "creating", Some(pid)),
        ("createRuntime", "creating", Some(pid)),
        ("createContainer", "creating", Some(1)),
        ("startContainer2", "created", Some(1)),
        ("poststart", "running", Some(pid)),
        ("poststop", "stopped", None),
    ] {
        let state: Value = serde_json::from_str(&read(dir.join(kind))).expect("json");
        assert_eq!(
            (&state["status"], &state["id"], &state["bundle"], &state["annotations"]["a"], &state["pid"]),
            (&json!(status), &json!("c"), &json!(bundle.dir.join("bundle")), &json!("b"), &json!(number)),
            "{kind}"
        );
    }
}

#[test]
fn hooks_before_the_pivot_find_the_root_with_all_that_is_mounted_where_the_bundle_says() {
    let mut bundle = Bundle::sh("cat /etc/of-the-hook");
    bundle.spec["root"]["readonly"] = json!(false);
    let rootfs = bundle.rootfs();
    bundle.spec["hooks"]["createContainer"] = json!([sh(&format!(
        "test -c {0}/dev/null && test -d {0}/proc/1 && mkdir -p {0}/etc && umask > {0}/etc/of-the-hook",
        rootfs.display()
    ))]);
    assert_eq!(bundle.run_well().out, "0022\n");
}

#[test]
fn a_failed_hook_of_create_leaves_no_container_and_runs_poststop() {
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let mut bundle = Bundle::new();
        let gone = bundle.dir.join("gone");
        let never = bundle.dir.join("never");
        bundle.spec["hooks"][kind] =
            json!([sh("echo for a reason >&2; exit 3"), sh(&format!("touch {}", never.display()))]);
        bundle.spec["hooks"]["poststop"] = json!([sh(&format!("touch {}", gone.display()))]);
        let refused = bundle.create_with(&[]);
        assert_ne!(refused.code, 0, "{kind}");
        let wanted = format!("hooks.{kind}[0] /bin/sh: exit status: 3: for a reason");
        assert!(refused.out.contains(&wanted), "{}", refused.out);
        assert!(is_there(&gone) && !is_there(&never), "{kind}");
        assert_eq!(bundle.leftovers(), [] as [PathBuf; 0]);
    }
}

#[test]
fn a_failed_hook_of_start_ends_and_removes_the_container() {
    for kind in ["startContainer", "poststart"] {
        let mut bundle = Bundle::new();
        let dir = shared(&mut bundle);
        bundle.args(&["sh", "-c", &format!("touch {}/ran; sleep 1000", dir.display())]);
        bundle.spec["hooks"][kind] = json!([sh("exit 3")]);
        bundle.spec["hooks"]["poststop"] = json!([sh(&format!("touch {}/gone", dir.display()))]);
        bundle.create();
        let pid = bundle.pid();
        let refused = bundle.start();
        assert_ne!(refused.code, 0, "{kind}");
        assert!(refused.err.contains(&format!("hooks.{kind}[0] /bin/sh: exit status: 3")), "{}", refused.err);
        bundle.wait_for_end(pid);
        assert!(is_there(&dir.join("gone")), "{kind}");
        assert!(kind == "poststart" || !is_there(&dir.join("ran")), "the program ran in spite of its hook");
        assert_eq!(bundle.leftovers(), [] as [PathBuf; 0]);
    }
}

#[test]
fn a_failed_poststop_hook_is_a_warning_and_the_others_run() {
    let mut bundle = Bundle::new();
    let after = bundle.dir.join("after");
    bundle.spec["hooks"]["poststop"] = json!([sh("exit 3"), sh(&format!("touch {}", after.display()))]);
    bundle.sleeping();
    let deleted = bundle.call(&["delete", "--force", "c"]);
    assert_eq!(deleted.code, 0, "{}", deleted.err);
    assert!(deleted.err.contains("warning: hooks.poststop[0] /bin/sh: exit status: 3"), "{}", deleted.err);
    assert!(is_there(&after));
    assert_eq!(bundle.leftovers(), [] as [PathBuf; 0]);
}

#[test]
fn the_path_of_a_start_hook_is_the_containers_and_its_rights_are_no_more() {
    let mut bundle = Bundle::new();
    let dir = shared(&mut bundle);
    // A shell that only the container has.
    let mut hook = sh(&format!("cat /proc/self/status > {0}/status; echo $ONE > {0}/env", dir.display()));
    // Without an environment of its own it has that of the process.
    hook.as_object_mut().expect("object").remove("env");
    bundle.spec["process"]["env"] = json!(["PATH=/bin", "ONE=two"]);
    fs::hard_link(bundle.rootfs().join("bin/busybox"), bundle.rootfs().join("bin/own-sh")).expect("link");
    hook["path"] = json!("/bin/own-sh");
    bundle.spec["hooks"]["startContainer"] = json!([hook]);
    bundle.sleeping();
    let status = read(dir.join("status"));
    assert!(status.contains("CapBnd:\t0000000020000420"), "{status}");
    assert_eq!(read(dir.join("env")), "two\n");
}

#[test]
fn a_malformed_hook_is_refused_before_anything_is_made() {
    let mut bundle = Bundle::new();
    bundle.spec["hooks"]["poststop"] = json!([{ "path": "bin/true" }]);
    let refused = bundle.create_with(&[]);
    assert!(
        refused.code != 0 && refused.out.contains("hooks.poststop[0].path is invalid"),
        "{}",
        refused.out
    );
    assert_eq!(bundle.leftovers(), [] as [PathBuf; 0]);
}

#[test]
fn a_start_hook_runs_under_the_programs_filter() {
    // Also calls that running a hook takes, which a filter need not know.
    let filter = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{
            "names": ["mkdir", "mkdirat", "memfd_create", "pidfd_open"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1
        }]
    });
    for no_new_privs in [true, false] {
        let mut bundle = Bundle::new();
        let dir = shared(&mut bundle);
        bundle.spec["process"]["noNewPrivileges"] = json!(no_new_privs);
        bundle.spec["linux"]["seccomp"] = filter.clone();
        let script = "cat >{0}/state; cat /proc/self/status >{0}/status; mkdir {0}/made; exit 0";
        let script = script.replace("{0}", dir.to_str().expect("UTF-8"));
        bundle.spec["hooks"]["startContainer"] = json!([sh(&script), sh(&script)]);
        // Those that come before are not the container's to confine.
        let early = script.replace("made", "early");
        bundle.spec["hooks"]["createContainer"] = json!([sh(&early)]);
        bundle.sleeping();
        let status = read(dir.join("status"));
        assert!(status.contains("Seccomp:\t2"), "{status}");
        assert!(status.contains(&format!("NoNewPrivs:\t{}", i32::from(no_new_privs))), "{status}");
        assert!(is_there(&dir.join("early")) && !is_there(&dir.join("made")), "no_new_privs: {no_new_privs}");
        assert!(read(dir.join("state")).contains("\"created\""));
    }
}

#[test]
fn a_start_hook_that_its_filter_does_not_let_run_fails_the_start() {
    let mut bundle = Bundle::new();
    bundle.spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["dup2", "dup3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1 }]
    });
    bundle.spec["hooks"]["startContainer"] = json!([sh("exit 0")]);
    bundle.args(&["sleep", "1000"]);
    bundle.create();
    let pid = bundle.pid();
    let refused = bundle.start();
    let told = &refused.err;
    assert!(refused.code != 0 && told.contains("hooks.startContainer[0] /bin/sh: run it"), "{told}");
    bundle.wait_for_end(pid);
    assert_eq!(bundle.leftovers(), [] as [PathBuf; 0]);
}
