//! A bundle with a busybox root, and the runner's command line on it.

use serde_json::{Value, json};
use std::{
    fs,
    io::Write,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

const PROGRAMS: [&str; 24] = [
    "sh", "cat", "ls", "id", "sleep", "true", "false", "mount", "umount", "touch", "mkdir", "readlink",
    "grep", "kill", "dd", "stat", "tty", "hostname", "head", "pwd", "mknod", "chmod", "timeout", "test",
];

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A container to be; all that it leaves is removed with it.
pub struct Bundle {
    pub dir: PathBuf,
    pub spec: Value,
    pub group: String,
    id: String,
}

/// What one command answered.
pub struct Answer {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Answer {
    /// The value of a line `name:\tvalue`, as in /proc/PID/status.
    pub fn field(&self, name: &str) -> String {
        let line = self.out.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {name} in: {}{}", self.out, self.err)).trim().to_owned()
    }
}

impl Bundle {
    /// The runner's own example with all namespaces, in a cgroup of the test.
    pub fn new() -> Self {
        let id =
            format!("peapod-test-runner-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(&id);
        fs::create_dir(&dir).expect("mkdir");
        let bundle = dir.join("bundle");
        let bin = bundle.join("rootfs/bin");
        fs::create_dir_all(&bin).expect("mkdir");
        fs::copy("/bin/busybox", bin.join("busybox")).expect("busybox-static is installed");
        for name in PROGRAMS {
            symlink("busybox", bin.join(name)).expect("link");
        }
        let made = Command::new(env!("CARGO_BIN_EXE_peapod-runner"))
            .args(["spec", "--bundle"])
            .arg(&bundle)
            .status();
        assert!(made.expect("run").success());
        let text = fs::read_to_string(bundle.join("config.json")).expect("read");
        let mut spec: Value = serde_json::from_str(&text).expect("json");
        spec["linux"]["cgroupsPath"] = json!(format!("/{id}/c"));
        Bundle { dir, spec, group: format!("/{id}/c"), id }
    }

    /// With another program.
    pub fn sh(script: &str) -> Self {
        let mut bundle = Bundle::new();
        bundle.args(&["sh", "-c", script]);
        bundle
    }

    pub fn args(&mut self, args: &[&str]) {
        self.spec["process"]["args"] = json!(args);
    }

    pub fn mount(&mut self, mount: Value) {
        self.spec["mounts"].as_array_mut().expect("mounts").push(mount);
    }

    pub fn rootfs(&self) -> PathBuf {
        self.dir.join("bundle/rootfs")
    }

    fn save(&self) {
        fs::File::create(self.dir.join("bundle/config.json"))
            .and_then(|mut file| file.write_all(self.spec.to_string().as_bytes()))
            .expect("write");
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_peapod-runner"));
        command.arg("--root").arg(self.dir.join("state")).args(args).stdin(Stdio::null());
        command
    }

    fn answer(mut command: Command) -> Answer {
        let Output { status, stdout, stderr } = command.output().expect("run");
        Answer {
            code: status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&stdout).into_owned(),
            err: String::from_utf8_lossy(&stderr).into_owned(),
        }
    }

    /// Runs the whole container.
    pub fn run(&self) -> Answer {
        self.save();
        let bundle = self.dir.join("bundle");
        Self::answer(self.command(&["run", "--bundle", bundle.to_str().expect("UTF-8"), "c"]))
    }

    /// Runs it and wants it to succeed.
    pub fn run_well(&self) -> Answer {
        let answer = self.run();
        assert_eq!(answer.code, 0, "{}{}", answer.out, answer.err);
        answer
    }

    /// Creates it with its output to a file, so that nothing waits for a pipe that it keeps open.
    pub fn create_with(&self, more: &[&str]) -> Answer {
        self.save();
        let bundle = self.dir.join("bundle");
        let mut command = self.command(&["create", "--bundle", bundle.to_str().expect("UTF-8")]);
        let out = || fs::File::options().append(true).create(true).open(self.dir.join("out")).expect("out");
        let status = command.args(more).arg("c").stdout(out()).stderr(out()).status().expect("run");
        Answer { code: status.code().unwrap_or(-1), out: self.output(), err: String::new() }
    }

    pub fn create(&self) {
        let answer = self.create_with(&[]);
        assert_eq!(answer.code, 0, "{}", answer.out);
    }

    pub fn output(&self) -> String {
        fs::read_to_string(self.dir.join("out")).unwrap_or_default()
    }

    pub fn start(&self) -> Answer {
        Self::answer(self.command(&["start", "c"]))
    }

    /// Creates and starts a container that sleeps, and gives the pid of its first process.
    pub fn sleeping(&mut self) -> i32 {
        self.args(&["sleep", "1000"]);
        self.create();
        let started = self.start();
        assert_eq!(started.code, 0, "{}", started.err);
        self.pid()
    }

    pub fn exec(&self, args: &[&str]) -> Answer {
        Self::answer(self.command(&[&["exec"], args].concat()))
    }

    pub fn exec_well(&self, args: &[&str]) -> Answer {
        let answer = self.exec(args);
        assert_eq!(answer.code, 0, "{}{}", answer.out, answer.err);
        answer
    }

    /// Starts a process by a copy of the runner and leaves it; its output goes where nobody waits for its end.
    pub fn exec_detached_by(&self, program: &Path, args: &[&str]) {
        let mut command = Command::new(program);
        command
            .arg("--root")
            .arg(self.dir.join("state"))
            .args(["exec", "--detach"])
            .args(args)
            .stdin(Stdio::null());
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("run");
        assert!(status.success(), "{args:?}");
    }

    pub fn call(&self, args: &[&str]) -> Answer {
        Self::answer(self.command(args))
    }

    pub fn state(&self) -> Value {
        serde_json::from_str(&self.call(&["state", "c"]).out).unwrap_or(Value::Null)
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.state()["pid"].as_i64().expect("pid")).expect("pid")
    }

    /// Waits for the end of the container's first process, which is no child of the test.
    pub fn wait_for_end(&self, pid: i32) {
        let pid = sys::rustix::process::Pid::from_raw(pid).expect("pid");
        if let Ok(pidfd) = sys::pidfd::open(pid) {
            let ended = sys::pidfd::ended_within(&pidfd, std::time::Duration::from_secs(60));
            assert!(ended.expect("poll"), "the container does not end");
        }
    }

    /// Whether anything of the container is left: its record, its cgroup in any hierarchy.
    pub fn leftovers(&self) -> Vec<PathBuf> {
        let mut left: Vec<_> = self.group_dirs().into_iter().filter(|dir| dir.is_dir()).collect();
        left.extend(Some(self.dir.join("state/c")).filter(|dir| dir.is_dir()));
        left
    }

    pub fn group_dirs(&self) -> Vec<PathBuf> {
        let mounts = cgroup::Mounts::detect().expect("cgroups");
        mounts.points().map(|(point, _)| point.join(self.group.trim_start_matches('/'))).collect()
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        self.call(&["delete", "--force", "c"]);
        for dir in self.group_dirs() {
            for dir in [dir.as_path(), dir.parent().expect("parent")] {
                // It may not exist, or be on no hierarchy that the container used.
                let _ = fs::remove_dir(dir);
            }
        }
        let removed = sys::tree::remove_path(&self.dir);
        // A second panic would hide the first.
        assert!(std::thread::panicking() || removed.is_ok(), "{} stays: {removed:?}", self.id);
    }
}

/// A directory that nothing in a container may change, as the host sees it.
pub struct Canary(Vec<(PathBuf, String)>, PathBuf);

impl Canary {
    pub fn new(bundle: &Bundle) -> Self {
        let dir = bundle.dir.join("canary");
        fs::create_dir_all(dir.join("inner")).expect("mkdir");
        fs::File::create(dir.join("file")).and_then(|mut file| file.write_all(b"precious")).expect("write");
        Canary(Self::look(&dir), dir)
    }

    pub fn path(&self) -> &Path {
        &self.1
    }

    fn look(dir: &Path) -> Vec<(PathBuf, String)> {
        use std::os::unix::fs::MetadataExt;
        let mut found = Vec::new();
        let mut todo = vec![dir.to_owned()];
        while let Some(path) = todo.pop() {
            let meta = fs::symlink_metadata(&path).expect("stat");
            let content =
                if meta.is_file() { fs::read_to_string(&path).expect("read") } else { String::new() };
            found.push((
                path.clone(),
                format!("{:o} {} {} {content}", meta.mode(), meta.mtime_nsec(), meta.dev()),
            ));
            if meta.is_dir() {
                todo.extend(fs::read_dir(&path).expect("list").map(|entry| entry.expect("entry").path()));
            }
        }
        found.sort();
        found
    }

    pub fn check(&self) {
        assert_eq!(Self::look(&self.1), self.0, "the container reached the host");
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        assert!(!mounts.contains(self.1.to_str().expect("UTF-8")), "a mount on the host: {mounts}");
    }
}
