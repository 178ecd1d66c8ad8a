//! The library itself, as the shim uses it: each case runs in this process' only thread, as root.

#![expect(clippy::print_stdout, reason = "a test program without the harness tells its cases itself")]

use oci_spec::runtime::Spec;
use runner::{
    CreateRequest, Created, ExecError, ExecRequest, Gate, RootMount, RunnerError, StartError, Stdio,
};
use serde_json::{Value, json};
use std::{
    fs::File,
    io::{Read, Write, pipe},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};
use sys::{
    pidfd::{self, Exit},
    rustix::process::Signal,
};

/// What is proven, and how.
type Case = (&'static str, fn(&Place));

fn main() {
    let cases: [Case; 15] = [
        ("the unified hierarchy is entered by the clone itself", the_unified_hierarchy),
        ("an overlay of many layers is the root and nothing of it is on the host", an_overlay),
        ("layers are seen with the ids of a user namespace", mapped_layers),
        ("a waiting container in a user namespace holds no descriptor of its creator", none_is_held_inside),
        ("a failure on either side of a user namespace leaves nothing", a_failure_with_userns),
        ("a container whose creator drops it before the start ends", a_dropped_creation),
        ("a waiting container holds no descriptor of its creator", no_descriptor_is_held),
        ("a failed exec of the first process is told by start", a_failed_start),
        ("a container that has ended takes no further process", an_ended_container),
        ("exec starts in the cgroup that is given", exec_in_a_sub_group),
        ("a failure leaves no cgroup and no child", a_failure),
        ("a read-only overlay gets its working directory all the same", a_read_only_root),
        ("a part of the root can be written where the root cannot", a_part_of_the_root),
        ("a compiled seccomp program is kept and used again", the_seccomp_cache),
        ("a caller with two threads is refused", two_threads),
    ];
    let wanted: Vec<_> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    for (name, case) in cases {
        if wanted.is_empty() || wanted.iter().any(|word| name.contains(word.as_str())) {
            let place = Place::new();
            case(&place);
            drop(place);
            println!("test {name} ... ok");
        }
    }
}

/// A directory and a cgroup, removed with all in them.
struct Place {
    dir: PathBuf,
    group: String,
    cgroups: cgroup::Mounts,
}

impl Place {
    fn new() -> Self {
        let name = format!("peapod-test-single-{}", std::process::id());
        let dir = std::env::temp_dir().join(&name);
        for layer in ["layers/0/bin", "layers/1", "bundle"] {
            std::fs::create_dir_all(dir.join(layer)).expect("mkdir");
        }
        let bin = dir.join("layers/0/bin");
        std::fs::copy("/bin/busybox", bin.join("busybox")).expect("busybox-static is installed");
        for name in ["sh", "true", "sleep", "cat", "ls", "pwd"] {
            std::os::unix::fs::symlink("busybox", bin.join(name)).expect("link");
        }
        let cgroups = cgroup::Mounts::detect().expect("cgroups");
        Place { dir, group: format!("/{name}/c"), cgroups }
    }

    /// The same directories under another name of the cgroup.
    fn beside(other: &Place, cgroups: cgroup::Mounts) -> Self {
        let dir = other.dir.join("beside");
        std::fs::create_dir(&dir).expect("mkdir");
        for name in ["layers", "bundle"] {
            std::os::unix::fs::symlink(other.dir.join(name), dir.join(name)).expect("link");
        }
        Place { dir, group: format!("{}-v2", other.group), cgroups }
    }

    fn spec(&self, args: &[&str], change: impl FnOnce(&mut Value)) -> Spec {
        let mut spec = json!({
            "ociVersion": "1.2.1",
            "root": { "path": "" },
            "process": { "user": { "uid": 0, "gid": 0 }, "args": args, "cwd": "/", "env": ["PATH=/bin"], "noNewPrivileges": true },
            "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
            "linux": {
                "cgroupsPath": self.group,
                "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
                "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "network" }, { "type": "cgroup" }]
            }
        });
        change(&mut spec);
        serde_json::from_value(spec).expect("spec")
    }

    fn overlay(&self, layers: usize) -> RootMount {
        for layer in 2..layers {
            std::fs::create_dir_all(self.dir.join(format!("layers/{layer}"))).expect("mkdir");
        }
        let lower: Vec<_> =
            (0..layers.max(2)).rev().map(|layer| format!("{}/layers/{layer}", self.dir.display())).collect();
        let own = |name: &str| {
            let dir = self.dir.join(format!("{name}-{layers}"));
            std::fs::create_dir_all(&dir).expect("mkdir");
            format!("{name}dir={}", dir.display())
        };
        RootMount {
            kind: "overlay".to_owned(),
            source: "overlay".into(),
            options: vec![format!("lowerdir={}", lower.join(":")), own("upper"), own("work")],
        }
    }

    fn create_with(&self, spec: &Spec, stdio: Stdio, layers: usize) -> Result<Created, RunnerError> {
        self.create_on(self.overlay(layers), spec, stdio)
    }

    fn create_on(&self, root: RootMount, spec: &Spec, stdio: Stdio) -> Result<Created, RunnerError> {
        runner::create(CreateRequest {
            id: "c",
            spec,
            bundle: &self.dir.join("bundle"),
            rootfs: vec![root],
            stdio,
            cgroups: &self.cgroups,
            seccomp_cache: Some(&self.dir.join("seccomp")),
            gate: Gate::Creator,
        })
    }

    fn create(&self, spec: &Spec) -> Created {
        self.create_with(spec, null(), 2).expect("create")
    }

    /// Runs to the end; gives what it wrote and how it ended.
    fn run(&self, spec: &Spec, layers: usize) -> (String, Exit) {
        self.run_on(self.overlay(layers), spec)
    }

    fn run_on(&self, root: RootMount, spec: &Spec) -> (String, Exit) {
        let (mut reader, writer) = pipe().expect("pipe");
        let stdio = Stdio::Files { stdin: open_null(), stdout: copy(&writer), stderr: writer.into() };
        let mut created = self.create_on(root, spec, stdio).expect("create");
        created.start().expect("start");
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("read");
        let exit = pidfd::wait(&created.pidfd).expect("wait");
        runner::delete(&created.cgroup).expect("delete");
        (text, exit)
    }

    fn groups(&self) -> Vec<PathBuf> {
        self.cgroups.points().map(|(point, _)| point.join(self.group.trim_start_matches('/'))).collect()
    }

    fn has_group(&self) -> bool {
        self.groups().iter().any(|dir| dir.is_dir())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let group = cgroup::CgroupPath::parse(&self.group).expect("path");
        runner::delete(&cgroup::Cgroup::at(&self.cgroups, &group)).expect("delete");
        for dir in self.groups() {
            // The group above, which the runner made and nobody else uses; it may be in use on no hierarchy.
            let _ = std::fs::remove_dir(dir.parent().expect("parent"));
        }
        sys::tree::remove_path(&self.dir).expect("remove");
    }
}

fn open_null() -> OwnedFd {
    File::options().read(true).write(true).open("/dev/null").expect("open").into()
}

fn null() -> Stdio {
    Stdio::Files { stdin: open_null(), stdout: open_null(), stderr: open_null() }
}

fn copy(fd: impl AsFd) -> OwnedFd {
    fd.as_fd().try_clone_to_owned().expect("dup")
}

fn an_overlay(place: &Place) {
    for (layers, file) in [(2, "few"), (400, "many")] {
        let mut top = File::create(place.dir.join("layers/1").join(file)).expect("create");
        top.write_all(b"of the upper layer\n").expect("write");
        let script = format!("cat /{file}; echo new > /made-by-{file}; cat /proc/mounts");
        let (text, exit) = place.run(&place.spec(&["sh", "-c", &script], |_| ()), layers);
        assert_eq!(exit, Exit::Code(0), "{text}");
        assert!(text.starts_with("of the upper layer\noverlay / overlay rw"), "{text}");
        assert!(place.dir.join(format!("upper-{layers}/made-by-{file}")).is_file());
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    assert!(!mounts.contains(place.dir.to_str().expect("UTF-8")), "{mounts}");
}

/// With a user namespace: root is 100000 outside.
fn with_userns(place: &Place, args: &[&str], change: impl FnOnce(&mut Value)) -> Spec {
    place.spec(args, |spec| {
        let lines = json!([{ "containerID": 0, "hostID": 100_000, "size": 1000 }]);
        spec["linux"]["uidMappings"] = lines.clone();
        spec["linux"]["gidMappings"] = lines;
        spec["linux"]["namespaces"].as_array_mut().expect("list").push(json!({ "type": "user" }));
        change(spec);
    })
}

fn mapped(mut root: RootMount) -> RootMount {
    let more = ["uidmap=0:100000:1000", "gidmap=0:100000:1000", "idmap-upper", "volatile"];
    root.options.extend(more.map(str::to_owned));
    root
}

fn mapped_layers(place: &Place) {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    for name in ["roots", "users", "gone", "nobodys"] {
        let path = place.dir.join("layers/1").join(name);
        File::create(&path).and_then(|mut file| file.write_all(b"text\n")).expect("write");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("chmod");
    }
    chown(place.dir.join("layers/1/users"), Some(7), Some(8)).expect("chown");
    chown(place.dir.join("layers/1/nobodys"), Some(1000), Some(1000)).expect("chown");
    std::os::unix::fs::symlink("busybox", place.dir.join("layers/0/bin/stat")).expect("link");
    for name in ["rm", "mkdir", "chown"] {
        std::os::unix::fs::symlink("busybox", place.dir.join("layers/0/bin").join(name)).expect("link");
    }
    let script = "set -e; cat roots; stat -c '%n %u:%g' / roots users nobodys; rm gone; echo new >>roots; \
        echo x >made; chown 7:8 made; mkdir dir; rm -r bin/cat; test ! -e gone; stat -c %u:%g roots made; \
        cat nobodys && exit 1; test -w / ";
    // More rights than needed: what is refused is so because of the ids.
    let caps = json!(["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER"]);
    let spec = with_userns(place, &["sh", "-c", script], |spec| {
        spec["process"]["capabilities"] = json!({ "bounding": caps, "permitted": caps, "effective": caps });
    });
    let (text, exit) = place.run_on(mapped(place.overlay(2)), &spec);
    let told = "text\n/ 0:0\nroots 0:0\nusers 7:8\nnobodys 65534:65534\n0:0\n7:8\n";
    assert!(exit == Exit::Code(0) && text.starts_with(told), "{exit:?}: {text}");
    // On disk all is as a container without a user namespace leaves it.
    let upper = place.dir.join("upper-2");
    for (name, owner) in [("roots", (0, 0)), ("made", (7, 8)), ("dir", (0, 0)), ("gone", (0, 0))] {
        let found = upper.join(name).symlink_metadata().expect(name);
        assert_eq!((found.uid(), found.gid()), owner, "{name}");
    }
    assert_eq!(place.dir.join("work-2/work").symlink_metadata().expect("work").uid(), 0);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    assert!(!mounts.contains(place.dir.to_str().expect("UTF-8")), "{mounts}");
    // Many of them do not fit in a page by their names.
    let spec = with_userns(place, &["sh", "-c", "cat /roots"], |_| ());
    let (text, exit) = place.run_on(mapped(place.overlay(400)), &spec);
    assert_eq!((text.as_str(), exit), ("text\n", Exit::Code(0)));
}

fn none_is_held_inside(place: &Place) {
    let spec = with_userns(place, &["sleep", "1000"], |_| ());
    let created = place.create_on(mapped(place.overlay(2)), &spec, null()).expect("create");
    let fds = format!("/proc/{}/fd", created.pid.as_raw_pid());
    let held = std::fs::read_dir(fds).expect("list").count();
    assert!(held <= 5, "{held} descriptors: 0, 1, 2, the channel, and the root's at most");
    end(&created);
    no_child_is_left();
}

fn no_child_is_left() {
    let waited = sys::rustix::process::wait(sys::rustix::process::WaitOptions::NOHANG);
    assert_eq!(waited.map(|found| found.is_some()), Err(sys::rustix::io::Errno::CHILD));
}

fn a_failure_with_userns(place: &Place) {
    let create = |change: &dyn Fn(&mut Value)| {
        let spec = with_userns(place, &["true"], change);
        place.create_on(mapped(place.overlay(2)), &spec, null())
    };
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 2] = [
        // Before the user namespace is entered, and within.
        (
            |spec| push(spec, json!({ "destination": "/x", "type": "bind", "source": "/nowhere" })),
            "open the source",
        ),
        (|spec| push(spec, json!({ "destination": "/x", "type": "nosuchfs", "source": "x" })), "nosuchfs"),
    ];
    for (change, why) in cases {
        let error = create(&change).expect_err(why).to_string();
        assert!(error.contains(why), "{error}");
        assert!(!place.has_group(), "{why}: a cgroup is left");
        no_child_is_left();
    }
    let plain = place.create_on(mapped(place.overlay(2)), &place.spec(&["true"], |_| ()), null());
    assert!(matches!(plain, Err(RunnerError::Unsupported { .. })), "mapped layers want a user namespace");
}

fn push(spec: &mut Value, mount: Value) {
    spec["mounts"].as_array_mut().expect("list").push(mount);
}

fn a_dropped_creation(place: &Place) {
    let created = place.create(&place.spec(&["sleep", "1000"], |_| ()));
    let pidfd = copy(&created.pidfd);
    drop(created);
    assert_eq!(pidfd::wait(&pidfd), Ok(Exit::Code(1)));
}

fn no_descriptor_is_held(place: &Place) {
    let (mut reader, writer) = pipe().expect("pipe");
    let created = place.create(&place.spec(&["sleep", "1000"], |_| ()));
    drop(writer);
    // The child was cloned while the writer was open; if it still had it the pipe would not end.
    let mut polled = [sys::rustix::event::PollFd::new(&reader, sys::rustix::event::PollFlags::IN)];
    let limit = sys::rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
    assert_eq!(
        sys::rustix::event::poll(&mut polled, Some(&limit)).expect("poll"),
        1,
        "the child holds the pipe"
    );
    assert_eq!(reader.read(&mut [0; 1]).expect("read"), 0);
    let held = std::fs::read_dir(format!("/proc/{}/fd", created.pid.as_raw_pid())).expect("list").count();
    assert!(held <= 5, "{held} descriptors: 0, 1, 2, the channel, and the root's at most");
    end(&created);
}

fn end(created: &Created) {
    pidfd::send_signal(&created.pidfd, Signal::KILL).expect("kill");
    pidfd::wait(&created.pidfd).expect("wait");
}

fn a_failed_start(place: &Place) {
    let mut created = place.create(&place.spec(&["no-such"], |_| ()));
    let error = created.start().expect_err("not there");
    assert!(matches!(&error, StartError::NotFound { program, .. } if program == "no-such"), "{error}");
    assert_eq!(pidfd::wait(&created.pidfd), Ok(Exit::Code(127)));
    assert!(matches!(created.start(), Err(StartError::NotWaiting)));
}

fn an_ended_container(place: &Place) {
    let spec = place.spec(&["sleep", "1000"], |_| ());
    let mut created = place.create(&spec);
    created.start().expect("start");
    let exec = |created: &Created| {
        runner::exec(ExecRequest {
            container: created.pidfd.as_fd(),
            spec: &spec,
            process: spec.process().as_ref().expect("process"),
            stdio: null(),
            cgroup: &created.cgroup,
            seccomp_cache: None,
        })
    };
    let further = exec(&created).expect("exec");
    pidfd::send_signal(&created.pidfd, Signal::KILL).expect("kill");
    assert_eq!(pidfd::wait(&further.pidfd), Ok(Exit::Signal(9)), "it ends with the first process");
    assert!(pidfd::ended_within(&created.pidfd, std::time::Duration::from_secs(60)).expect("poll"));
    assert!(matches!(exec(&created), Err(ExecError::Runner(RunnerError::Gone))));
    pidfd::wait(&created.pidfd).expect("reap");
    assert!(matches!(exec(&created), Err(ExecError::Runner(RunnerError::Gone))));
}

fn exec_in_a_sub_group(place: &Place) {
    let spec = place.spec(&["sleep", "1000"], |_| ());
    let mut created = place.create(&spec);
    created.start().expect("start");
    let group = created.cgroup.sub("exec").expect("sub");
    let further = runner::exec(ExecRequest {
        container: created.pidfd.as_fd(),
        spec: &spec,
        process: spec.process().as_ref().expect("process"),
        stdio: null(),
        cgroup: &group,
        seccomp_cache: None,
    })
    .expect("exec");
    assert_eq!(group.processes().expect("list"), [further.pid.as_raw_pid()]);
    group.kill().expect("kill");
    assert_eq!(pidfd::wait(&further.pidfd), Ok(Exit::Signal(9)));
    assert_eq!(pidfd::try_wait(&created.pidfd), Ok(None), "the container itself lives");
    end(&created);
    group.remove().expect("remove");
}

fn a_failure(place: &Place) {
    let spec = place.spec(&["true"], |spec| {
        spec["mounts"]
            .as_array_mut()
            .expect("mounts")
            .push(json!({ "destination": "/x", "source": "/no/such", "options": ["rbind"] }));
    });
    let error = place.create_with(&spec, null(), 2).expect_err("no source");
    assert_eq!(error.to_string(), "mount /x: open the source /no/such");
    assert!(!place.has_group(), "a cgroup is left");
    let children = std::fs::read_to_string("/proc/self/task/self/children")
        .or_else(|_| std::fs::read_to_string("/proc/thread-self/children"));
    assert_eq!(children.unwrap_or_default(), "", "a child is left");
}

fn a_read_only_root(place: &Place) {
    let spec = place.spec(&["sh", "-c", "pwd; echo x > file || echo read-only"], |spec| {
        spec["process"]["cwd"] = json!("/made/for/it");
        spec["root"]["readonly"] = json!(true);
    });
    let (text, exit) = place.run(&spec, 2);
    assert_eq!(exit, Exit::Code(0));
    assert!(text.starts_with("/made/for/it\n") && text.ends_with("read-only\n"), "{text}");
}

fn a_part_of_the_root(place: &Place) {
    std::fs::create_dir_all(place.dir.join("layers/1/data")).expect("mkdir");
    let mut file = File::create(place.dir.join("layers/1/data/file")).expect("create");
    file.write_all(b"of the image\n").expect("write");
    std::os::unix::fs::symlink("/data/../../../tmp/link", place.dir.join("layers/1/to")).expect("link");
    let script = "cat /data/file; echo changed >/data/file && cat /data/file; touch /to/x && ls /tmp/link; touch /x || true";
    let spec = place.spec(&["sh", "-c", script], |spec| {
        spec["root"] = json!({ "path": "rootfs", "readonly": true });
        for volume in ["data", "to"] {
            spec["mounts"].as_array_mut().expect("mounts").push(json!({
                "destination": format!("/{volume}"), "type": "bind", "source": format!("rootfs/{volume}"),
                "options": ["rbind", "rprivate", "rw"]
            }));
        }
    });
    let (text, exit) = place.run(&spec, 2);
    assert_eq!(exit, Exit::Code(0), "{text}");
    assert!(text.starts_with("of the image\nchanged\nx\n"), "{text}");
    assert!(text.contains("touch: /x: Read-only file system"), "{text}");
    assert!(std::fs::symlink_metadata("/tmp/link").is_err(), "a link led out of the root");
}

fn the_seccomp_cache(place: &Place) {
    let spec = place.spec(&["sh", "-c", "cat /proc/self/status"], |spec| {
        spec["linux"]["seccomp"] =
            serde_json::to_value(seccomp::default_profile(&Default::default())).expect("json");
    });
    let listed = || {
        let files = std::fs::read_dir(place.dir.join("seccomp")).expect("list");
        files.map(|file| file.expect("entry").path()).collect::<Vec<_>>()
    };
    for _ in 0..2 {
        let (text, _) = place.run(&spec, 2);
        assert!(text.contains("Seccomp:\t2\n"), "{text}");
        assert_eq!(listed().len(), 1);
    }
    let file: &Path = &listed()[0];
    File::create(file).and_then(|mut file| file.write_all(b"garbage")).expect("write");
    let (text, _) = place.run(&spec, 2);
    assert!(text.contains("Seccomp:\t2\n"), "a damaged cache is no reason to run unconfined: {text}");
}

/// Also where the controllers are on v1: cgroup2 is mounted beside them, or the kernel can.
fn the_unified_hierarchy(place: &Place) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    let point =
        mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|words| words[2] == "cgroup2");
    let point = point.map(|words| words[1].to_owned()).expect("cgroup2 is mounted");
    let cgroups = cgroup::Mounts::unified_at(Path::new(&point)).expect("open");
    let place = &Place::beside(place, cgroups);
    let script = "cat /proc/self/cgroup; cat /sys/fs/cgroup/cgroup.procs; echo 1 > /sys/fs/cgroup/cgroup.procs || echo refused";
    let spec = place.spec(&["sh", "-c", script], |spec| {
        let view = json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid"] });
        spec["mounts"].as_array_mut().expect("mounts").push(view);
    });
    let (text, exit) = place.run(&spec, 2);
    assert_eq!(exit, Exit::Code(0), "{text}");
    // The shell and its `cat`; other hierarchies have lines of their own.
    assert!(text.contains("0::/\n1\n"), "{text}");
    assert!(text.ends_with("refused\n"), "{text}");
    let spec = place.spec(&["sleep", "1000"], |_| ());
    let mut created = place.create(&spec);
    created.start().expect("start");
    let group = created.cgroup.sub("exec").expect("sub");
    let further = runner::exec(ExecRequest {
        container: created.pidfd.as_fd(),
        spec: &spec,
        process: spec.process().as_ref().expect("process"),
        stdio: null(),
        cgroup: &group,
        seccomp_cache: None,
    });
    // v2 takes no process into a group that has some beneath, but one exec's own group may stand there.
    let further = further.expect("exec");
    assert_eq!(group.processes().expect("list"), [further.pid.as_raw_pid()]);
    runner::delete(&created.cgroup).expect("delete ends all beneath");
    assert_eq!(pidfd::wait(&further.pidfd), Ok(Exit::Signal(9)));
    assert_eq!(pidfd::wait(&created.pidfd), Ok(Exit::Signal(9)));
    assert!(!place.has_group(), "a cgroup is left");
}

fn two_threads(place: &Place) {
    let (waiting, release) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || release.recv());
        let error = place.create_with(&place.spec(&["true"], |_| ()), null(), 2).expect_err("threads");
        assert!(error.to_string().contains("more than one thread"), "{error}");
        drop(waiting);
    });
    assert!(!place.has_group(), "a cgroup is left");
}
