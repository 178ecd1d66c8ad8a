//! What a daemon would prepare: a directory, a root file system, specifications; and a shim.

use cgroup::{Cgroup, CgroupPath, Mounts};
use prost::Message as _;
use serde_json::{Value, json};
use shimlink::{CreateTask, Program, RootMount, Shim, SpawnRequest};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use types::PodId;
use types::shim::{EXIT_FILE, ExitRecord, LOG_SCHEME, log_address};

/// The shim under test.
pub(crate) static PROGRAM: LazyLock<Arc<Program>> = LazyLock::new(|| {
    Arc::new(
        Program::open(Path::new(env!("CARGO_BIN_EXE_containerd-shim-peapod-v1")))
            .expect("the shim's program"),
    )
});

/// A pod's place on this host. Dropping it ends and removes all that is left.
pub(crate) struct Host {
    pub(crate) directory: PathBuf,
    group: CgroupPath,
    mounts: Mounts,
    /// Shims that were started and not shut down.
    shims: Mutex<Vec<u32>>,
}

/// How a container differs from the usual one.
pub(crate) struct Container<'a> {
    pub(crate) id: &'a str,
    pub(crate) args: &'a [&'a str],
    /// Path of the PID namespace to join; a new one by default.
    pub(crate) pid_namespace: Option<String>,
    pub(crate) uid: u32,
    pub(crate) log: bool,
    pub(crate) terminal: bool,
    pub(crate) memory: Option<i64>,
    /// With the default seccomp profile.
    pub(crate) seccomp: bool,
}

impl<'a> Container<'a> {
    pub(crate) fn new(id: &'a str, args: &'a [&'a str]) -> Self {
        Self {
            id,
            args,
            pid_namespace: None,
            uid: 0,
            log: true,
            terminal: false,
            memory: None,
            seccomp: false,
        }
    }
}

impl Host {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("peapod-test-shim-{}-pod{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(&name);
        let bin = directory.join("lower/bin");
        std::fs::create_dir_all(&bin).expect("create the root file system");
        std::fs::create_dir(directory.join("log")).expect("create the log directory");
        std::fs::copy("/bin/busybox", bin.join("busybox")).expect("busybox-static is installed");
        for applet in [
            "sh",
            "sleep",
            "cat",
            "echo",
            "yes",
            "head",
            "ls",
            "grep",
            "ps",
            "readlink",
            "seq",
            "kill",
            "dd",
            "true",
            "stty",
            "tty",
            "pwd",
            "sha256sum",
        ] {
            symlink("busybox", bin.join(applet)).expect("link an applet");
        }
        for place in ["proc", "dev", "tmp", "sys", "etc"] {
            std::fs::create_dir(directory.join("lower").join(place)).expect("create a mount point");
        }
        let group = CgroupPath::parse(&format!("/{name}")).expect("path");
        Self { directory, group, mounts: Mounts::detect().expect("cgroups"), shims: Mutex::default() }
    }

    pub(crate) async fn spawn(&self, pause: bool) -> Shim {
        self.spawn_with(pause, types::shim::LOG_LINE_DEFAULT).await
    }

    pub(crate) async fn spawn_with(&self, pause: bool, log_line: usize) -> Shim {
        let request = SpawnRequest {
            program: Arc::clone(&PROGRAM),
            pod: self.pod(),
            directory: self.directory.clone(),
            seccomp_cache: None,
            pause,
            userns: None,
            log_line,
            handler: None,
        };
        let shim = Shim::spawn(request).await.expect("spawn the shim");
        let pid = shim.pod_state().await.expect("the shim answers").shim_pid;
        self.shims.lock().expect("no panic").push(pid);
        shim
    }

    pub(crate) fn pod(&self) -> PodId {
        PodId::from_random([0xab; 32])
    }

    pub(crate) fn bundle(&self, id: &str) -> PathBuf {
        self.directory.join(id)
    }

    pub(crate) fn log(&self, id: &str) -> Vec<u8> {
        std::fs::read(self.directory.join("log").join(format!("{id}.log"))).expect("read the log")
    }

    /// The exit record on disk, if there is one.
    pub(crate) fn exit(&self, id: &str) -> Option<ExitRecord> {
        let bytes = std::fs::read(self.bundle(id).join(EXIT_FILE)).ok()?;
        Some(ExitRecord::decode(bytes.as_slice()).expect("a whole record"))
    }

    pub(crate) fn cgroup(&self, id: &str) -> Cgroup {
        Cgroup::at(&self.mounts, &self.group.join(id).expect("path"))
    }

    /// Writes the bundle and gives the request that creates the container.
    pub(crate) fn task(&self, container: &Container<'_>) -> CreateTask {
        let bundle = self.bundle(container.id);
        for place in ["", "rootfs", "upper", "work"] {
            std::fs::create_dir_all(bundle.join(place)).expect("create the bundle");
        }
        let spec = serde_json::to_vec(&self.spec(container)).expect("encode");
        std::fs::File::create(bundle.join("config.json"))
            .and_then(|mut file| std::io::Write::write_all(&mut file, &spec))
            .expect("write config.json");
        let option = |name: &str, path: PathBuf| format!("{name}={}", path.display());
        let options = vec![
            option("lowerdir", self.directory.join("lower")),
            option("upperdir", bundle.join("upper")),
            option("workdir", bundle.join("work")),
        ];
        let log = format!("{}.log", container.id);
        let directory = self.directory.join("log");
        CreateTask {
            id: container.id.to_owned(),
            rootfs: vec![RootMount { kind: "overlay".to_owned(), source: "overlay".to_owned(), options }],
            bundle,
            stdout: if container.log {
                log_address(directory.to_str().expect("utf-8"), &log)
            } else {
                LOG_SCHEME.to_owned()
            },
            stdin: false,
            stdin_once: false,
            terminal: container.terminal,
        }
    }

    fn spec(&self, container: &Container<'_>) -> Value {
        let group = self.group.join(container.id).expect("path");
        let pid = match &container.pid_namespace {
            Some(path) => json!({ "type": "pid", "path": path }),
            None => json!({ "type": "pid" }),
        };
        let capabilities = json!(["CAP_KILL", "CAP_CHOWN"]);
        let seccomp = container.seccomp.then(|| seccomp::default_profile(&Default::default()));
        json!({
            "ociVersion": "1.2.0",
            "root": { "path": "rootfs" },
            "process": {
                "args": container.args,
                "env": ["PATH=/bin"],
                "cwd": "/",
                "terminal": container.terminal,
                "user": { "uid": container.uid, "gid": container.uid },
                "noNewPrivileges": true,
                "capabilities": {
                    "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
                },
            },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"] },
                { "destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"] },
            ],
            "linux": {
                "cgroupsPath": group.as_str(),
                "seccomp": seccomp,
                "resources": { "memory": container.memory.map(|limit| json!({ "limit": limit })) },
                "namespaces": [pid, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" }, { "type": "network" }, { "type": "cgroup" }],
            },
        })
    }

    /// Creates and starts a container.
    pub(crate) async fn run(&self, shim: &Shim, container: &Container<'_>) -> u32 {
        let pid = shim.create(self.task(container)).await.expect("create");
        assert_eq!(shim.start(container.id).await.expect("start"), pid);
        pid
    }

    /// Ends the shim.
    pub(crate) async fn end(&self, shim: &Shim) {
        shim.shutdown(true).await.expect("shutdown");
        shim.gone().await;
        self.shims.lock().expect("no panic").clear();
    }

    /// Kills the shim.
    pub(crate) fn kill_shim(&self) {
        for pid in self.shims.lock().expect("no panic").drain(..) {
            let pid = sys::rustix::process::Pid::from_raw(i32::try_from(pid).expect("pid")).expect("pid");
            sys::rustix::process::kill_process(pid, sys::rustix::process::Signal::KILL).expect("kill");
        }
    }

    /// Ends the shim and checks that it leaves nothing.
    pub(crate) async fn shutdown(self, shim: Shim) {
        let pid = shim.pod_state().await.expect("state").shim_pid;
        self.end(&shim).await;
        assert!(
            Cgroup::open(&self.mounts, &self.group)
                .is_ok_and(|group| { group.processes().expect("list") == [] as [i32; 0] })
                || Cgroup::open(&self.mounts, &self.group).is_err()
        );
        for id in std::fs::read_dir(&self.directory).expect("list").flatten() {
            let Some(id) = id.file_name().to_str().map(str::to_owned) else { continue };
            if self.bundle(&id).join("config.json").is_file() {
                let path = self.group.join(&id).expect("path");
                assert!(Cgroup::open(&self.mounts, &path).is_err(), "the cgroup of {id} is left");
            }
        }
        let complaints = std::fs::read_to_string(self.directory.join("shim.log")).expect("shim.log");
        assert_eq!(complaints, "", "shim {pid}");
    }
}

impl Drop for Host {
    #[expect(clippy::disallowed_methods, reason = "a directory of this test alone, with no mount in it")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.kill_shim();
        }
        let group = Cgroup::at(&self.mounts, &self.group);
        let _ = group.kill();
        let _ = group.remove();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// The bytes of one stream of a CRI log, and whether its last line had an end.
pub(crate) fn stream_of(log: &[u8], stream: &str) -> Vec<u8> {
    assert!(log.is_empty() || log.ends_with(b"\n"), "the log ends inside a record");
    let mut bytes = Vec::new();
    for line in log.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let fields: Vec<&[u8]> = line.splitn(4, |byte| *byte == b' ').collect();
        let [time, of, tag, piece] = fields.as_slice() else { panic!("{:?}", String::from_utf8_lossy(line)) };
        assert_eq!(time.len(), 30);
        if *of == stream.as_bytes() {
            bytes.extend_from_slice(piece);
            match *tag {
                b"F" => bytes.push(b'\n'),
                b"P" => {}
                other => panic!("tag {other:?}"),
            }
        }
    }
    bytes
}
