//! Images and volumes that want to reach the host. Each test names the advisory that it replays.

use crate::bundle::{Bundle, Canary};
use serde_json::json;
use std::{
    fs,
    io::Write,
    os::unix::fs::{OpenOptionsExt, symlink},
};

fn write(path: &std::path::Path, mode: u32, text: &str) {
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).expect("write");
}

/// CVE-2019-18837, CVE-2026-41579, CVE-2026-47766, CVE-2019-19921: a mount target of the image is a link.
#[test]
fn a_target_that_is_a_link_never_leads_out_of_the_root() {
    let up = "../../../../../../../../..";
    for target in [
        "proc",
        "sys",
        "dev",
        "dev/pts",
        "dev/shm",
        "dev/mqueue",
        "sys/fs/cgroup",
        "etc/hosts",
        "data",
        "deep/er",
    ] {
        for to in ["canary", "canary/inner", "canary/file", "canary/missing", "itself"] {
            let mut bundle = Bundle::sh("cat /proc/self/mountinfo");
            let canary = Canary::new(&bundle);
            fs::create_dir_all(bundle.dir.join("volume")).expect("mkdir");
            write(&bundle.dir.join("hosts"), 0o644, "h");
            bundle.mount(json!({ "destination": "/etc/hosts", "source": bundle.dir.join("hosts"), "options": ["rbind", "ro"] }));
            for destination in ["/data", "/deep/er"] {
                bundle.mount(json!({ "destination": destination, "source": bundle.dir.join("volume"), "options": ["rbind"] }));
            }
            let link = bundle.rootfs().join(target);
            fs::create_dir_all(link.parent().expect("parent")).expect("mkdir");
            let absolute = bundle.dir.join(to);
            if to == "itself" {
                symlink(link.file_name().expect("name"), &link).expect("link");
            } else if target.len() % 2 == 0 {
                symlink(&absolute, &link).expect("link");
            } else {
                symlink(format!("{up}{}", absolute.display()), &link).expect("link");
            }
            let answer = bundle.run();
            canary.check();
            assert_eq!(bundle.leftovers(), [] as [std::path::PathBuf; 0]);
            if ["proc", "sys"].contains(&target) {
                assert_ne!(answer.code, 0, "{target} -> {to} was taken");
            }
        }
    }
}

/// CVE-2019-16884: a volume over /proc, or a link to it.
#[test]
fn nothing_but_procfs_is_taken_for_proc() {
    for (destination, link) in
        [("/proc", None), ("/proc/self/attr", None), ("/link", Some("/proc/self")), ("/link", Some("proc"))]
    {
        let mut bundle = Bundle::sh("true");
        if let Some(to) = link {
            symlink(to, bundle.rootfs().join("link")).expect("link");
        }
        let volume = bundle.dir.join("volume");
        fs::create_dir(&volume).expect("mkdir");
        bundle.mount(json!({ "destination": destination, "source": volume, "options": ["rbind"] }));
        let answer = bundle.run();
        assert_eq!(answer.code, 1, "{destination} {link:?}: {}", answer.out);
    }
    // Without a PID namespace of its own a container may have the host's procfs.
    let mut bundle = Bundle::sh("cat /proc/self/status");
    bundle.spec["linux"]["namespaces"] = json!([{ "type": "mount" }]);
    bundle.spec["hostname"] = json!("");
    bundle.spec["mounts"][0] = json!({ "destination": "/proc", "source": "/proc", "options": ["rbind"] });
    bundle.spec["linux"]["maskedPaths"] = json!([]);
    bundle.spec["linux"]["readonlyPaths"] = json!([]);
    bundle.run_well();
}

/// CVE-2025-31133: the image's /dev/null, with which files are hidden, is something else.
#[test]
fn paths_are_hidden_with_the_null_device_and_nothing_else() {
    for mounted in [true, false] {
        let mut bundle = Bundle::sh("cat /proc/keys");
        let canary = Canary::new(&bundle);
        let dev = if mounted { bundle.dir.join("dev") } else { bundle.rootfs().join("dev") };
        fs::create_dir(&dev).expect("mkdir");
        symlink("/proc/sys/kernel/core_pattern", dev.join("null")).expect("link");
        if mounted {
            bundle.spec["mounts"][1] = json!({ "destination": "/dev", "source": dev, "options": ["rbind"] });
        } else {
            bundle.spec["mounts"].as_array_mut().expect("mounts").remove(1);
        }
        let answer = bundle.run();
        assert_eq!(answer.code, 1, "{}", answer.out);
        assert!(answer.err.contains("/dev/null") || answer.err.contains("mask /proc"), "{}", answer.err);
        canary.check();
    }
}

/// CVE-2024-21626: the working directory is a descriptor of the runtime's.
#[test]
fn a_working_directory_through_a_descriptor_is_refused() {
    let mut running = Bundle::new();
    running.sleeping();
    for fd in 0..24 {
        let cwd = format!("/proc/self/fd/{fd}");
        let mut bundle = Bundle::sh("pwd; cat etc/shadow");
        bundle.spec["process"]["cwd"] = json!(cwd);
        let answer = bundle.run();
        assert!(
            answer.code == 1 && answer.err.contains("process.cwd"),
            "{cwd}: {}{}",
            answer.out,
            answer.err
        );
        let answer = running.exec(&["--cwd", &cwd, "c", "pwd"]);
        assert!(
            answer.code == 1 && answer.err.contains("process.cwd"),
            "exec {cwd}: {}{}",
            answer.out,
            answer.err
        );
    }
    let mut bundle = Bundle::sh("pwd");
    symlink("/proc/self/cwd/../../../..", bundle.rootfs().join("link")).expect("link");
    bundle.spec["process"]["cwd"] = json!("/link");
    assert_eq!(bundle.run().code, 1);
}

/// CVE-2019-5736: the container executes the runtime's binary, then writes to it.
#[test]
fn the_runtimes_own_binary_cannot_be_written_from_a_container() {
    let mut bundle = Bundle::new();
    // A binary that nobody else executes: else "Text file busy" would hide what is to be seen.
    let runner = bundle.dir.join("runner");
    fs::copy(env!("CARGO_BIN_EXE_peapod-runner"), &runner).expect("copy");
    let before = fs::read(&runner).expect("read");
    // The log is a FIFO: the runner, executed in the container, hangs there as long as nobody reads.
    write(&bundle.rootfs().join("entry"), 0o755, "#!/proc/self/exe --log=/dev/shm/fifo\n");
    // An attacker's image brings the libraries that the binary needs, if any.
    for dir in ["/lib", "/lib64", "/usr/lib"].iter().filter(|dir| fs::metadata(dir).is_ok()) {
        bundle.mount(json!({ "destination": dir, "source": dir, "options": ["rbind", "ro"] }));
    }
    bundle.spec["root"]["readonly"] = json!(false);
    let caps = json!(["CAP_DAC_OVERRIDE", "CAP_SYS_PTRACE", "CAP_MKNOD", "CAP_SYS_ADMIN"]);
    bundle.spec["process"]["capabilities"] =
        json!({ "bounding": caps, "permitted": caps, "effective": caps });
    bundle.sleeping();
    bundle.exec_well(&["c", "mknod", "/dev/shm/fifo", "p"]);
    let pid_file = bundle.dir.join("pid");
    bundle.exec_detached_by(&runner, &["--pid-file", pid_file.to_str().expect("UTF-8"), "c", "/entry"]);
    let pid = fs::read_to_string(&pid_file).expect("pid");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let inside =
        status.lines().find(|line| line.starts_with("NSpid:")).and_then(|line| line.split('\t').next_back());
    let attack = format!(
        "exec 3< /proc/{0}/exe
        echo x >> /proc/{0}/exe && echo written
        mount -o remount,rw,bind none /proc/{0}/exe && echo remounted
        timeout 20 cat /dev/shm/fifo > /dev/null
        while test -e /proc/{0}/exe; do sleep 0.01; done
        mount -o remount,rw,bind none /proc/self/fd/3 && echo remounted
        echo x >> /proc/self/fd/3 && echo written later",
        inside.expect("NSpid")
    );
    let exe = fs::metadata(format!("/proc/{pid}/exe")).expect("the victim runs");
    let own = fs::metadata(&runner).expect("stat");
    use std::os::unix::fs::MetadataExt;
    assert_eq!((exe.dev(), exe.ino()), (own.dev(), own.ino()), "the attack has no victim");
    let answer = bundle.exec(&["c", "sh", "-c", &attack]);
    assert_eq!(fs::read(&runner).expect("read"), before, "the binary was changed");
    assert_eq!(answer.out, "", "{}", answer.err);
    assert!(answer.err.contains("can't create /proc/self/fd/3: Read-only file system"), "{}", answer.err);
}

/// CVE-2021-30465 and CVE-2024-45310: a volume's content is swapped for a link while it is mounted on.
#[test]
fn a_race_for_a_mount_target_stays_in_the_root() {
    let mut bundle = Bundle::sh("cat /proc/self/mountinfo");
    let canary = Canary::new(&bundle);
    let volume = bundle.dir.join("volume");
    fs::create_dir_all(volume.join("a")).expect("mkdir");
    symlink(format!("../../../../../../..{}", canary.path().display()), volume.join("b")).expect("link");
    bundle.mount(json!({ "destination": "/vol", "source": volume, "options": ["rbind"] }));
    for target in ["/vol/a/inner", "/vol/a/new/deep"] {
        bundle.mount(json!({ "destination": target, "type": "tmpfs", "source": "tmpfs" }));
    }
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            use sys::rustix::fs::{CWD, RenameFlags, renameat_with};
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                renameat_with(CWD, volume.join("a"), CWD, volume.join("b"), RenameFlags::EXCHANGE)
                    .expect("swap");
            }
        });
        for _ in 0..40 {
            let answer = bundle.run();
            if answer.code == 0 {
                let targets = answer.out.lines().filter_map(|line| line.split(' ').nth(4));
                assert!(targets.clone().all(|target| target.starts_with('/')), "{}", answer.out);
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    canary.check();
}

/// CVE-2025-52565: /dev/console of the image is a link.
#[test]
fn a_console_that_is_a_link_is_refused() {
    let mut bundle = Bundle::sh("true");
    let canary = Canary::new(&bundle);
    let dev = bundle.dir.join("dev");
    fs::create_dir(&dev).expect("mkdir");
    symlink(canary.path().join("file"), dev.join("console")).expect("link");
    fs::create_dir(dev.join("pts")).expect("mkdir");
    bundle.spec["mounts"] = json!([
        { "destination": "/dev", "source": dev, "options": ["rbind"] },
        { "destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"] }
    ]);
    bundle.spec["process"]["terminal"] = json!(true);
    let socket = bundle.dir.join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("bind");
    let created = bundle.create_with(&["--console-socket", socket.to_str().expect("UTF-8")]);
    assert!(created.code == 1 && created.out.contains("mount /dev/console"), "{}", created.out);
    canary.check();
}

/// CVE-2021-43784: much and long data between the parent and the child.
#[test]
fn many_mounts_and_a_large_environment_arrive_whole() {
    let mut bundle = Bundle::sh("cat /proc/self/mountinfo | grep -c /many/; echo ${#BIG}");
    let long = "d".repeat(200);
    for at in 0..300 {
        bundle.mount(
            json!({ "destination": format!("/dev/many/{at}/{long}"), "type": "tmpfs", "source": "tmpfs" }),
        );
    }
    bundle.spec["process"]["env"] = json!(["PATH=/bin", format!("BIG={}", "x".repeat(120_000))]);
    assert_eq!(bundle.run_well().out, "300\n120000\n");
    bundle.spec["process"]["env"] = json!([format!("BIG={}", "x".repeat(140_000))]);
    let refused = bundle.run();
    assert!(refused.err.contains("process.env[0]"), "{}", refused.err);
}

/// CVE-2025-62161, CVE-2025-62596: a hidden or read-only path is swapped for a link while it is covered.
#[test]
fn a_race_for_a_hidden_path_stays_in_the_root() {
    let mut bundle = Bundle::sh("cat /proc/self/mountinfo");
    let canary = Canary::new(&bundle);
    let volume = bundle.dir.join("volume");
    fs::create_dir_all(volume.join("a/inner")).expect("mkdir");
    symlink(format!("../../../../../../..{}", canary.path().display()), volume.join("b")).expect("link");
    bundle.mount(json!({ "destination": "/vol", "source": volume, "options": ["rbind"] }));
    bundle.spec["linux"]["maskedPaths"] =
        json!(["/vol/a/inner", "/vol/b/inner", "/vol/a/file", "/vol/b/file"]);
    bundle.spec["linux"]["readonlyPaths"] = json!(["/vol/a", "/vol/b"]);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let mut covered = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            use sys::rustix::fs::{CWD, RenameFlags, renameat_with};
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                renameat_with(CWD, volume.join("a"), CWD, volume.join("b"), RenameFlags::EXCHANGE)
                    .expect("swap");
            }
        });
        for _ in 0..40 {
            let answer = bundle.run();
            let targets = answer.out.lines().filter_map(|line| line.split(' ').nth(4));
            covered += targets.filter(|target| target.starts_with("/vol/")).count();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    canary.check();
    assert!(covered > 0, "nothing was ever covered");
}

/// CVE-2016-9962: a container looks at what is put into it before it is confined.
#[test]
fn an_exec_shows_nothing_of_the_runtime_to_the_container() {
    let mut bundle = Bundle::new();
    let told = bundle.dir.join("told");
    fs::create_dir(&told).expect("mkdir");
    bundle
        .mount(json!({ "destination": "/told", "type": "bind", "source": told, "options": ["rbind", "rw"] }));
    // Its own processes, with their descriptors, are what it should see, and all of it.
    let look =
        "while test ! -e /told/stop; do for p in /proc/[0-9]*; do ls -l $p/fd/ $p/exe $p/cwd; done; done";
    bundle.args(&["sh", "-c", &format!("{look} > /told/seen 2> /dev/null")]);
    bundle.create();
    let pid = bundle.pid();
    assert_eq!(bundle.start().code, 0);
    for _ in 0..40 {
        bundle.exec_well(&["c", "true"]);
    }
    write(&told.join("stop"), 0o600, "");
    bundle.wait_for_end(pid);
    let seen = fs::read_to_string(told.join("seen")).expect("read");
    assert!(seen.contains("/told/seen") && seen.contains("/bin/busybox"), "it did not look: {seen}");
    for line in seen.lines() {
        let ours =
            ["socket:", "anon_inode:", "peapod-runner", "cgroup"].iter().any(|word| line.contains(word));
        assert!(!ours, "the container saw {line}");
    }
}
