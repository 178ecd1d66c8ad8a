//! Starts, kills and ends a daemon of the test's own.

use crate::{Client, leaks::Tables, until};
use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A daemon with directories and a network namespace of its own. [`Daemon::end`] checks that it
/// left nothing behind; a test that fails before leaves its directory for a look.
#[derive(Debug)]
pub struct Daemon {
    dir: PathBuf,
    netns: String,
    child: Option<Child>,
    before: Tables,
    /// Further environment of the daemon, for instance a crash point.
    pub env: Vec<(String, String)>,
    /// Further arguments of `peapod serve`, for instance a configuration file.
    pub args: Vec<String>,
}

/// A program of the build that the test belongs to.
///
/// # Panics
/// When it was not built: `cargo build --workspace --bins` comes first.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(format!("{}_BIN", name.to_uppercase().replace('-', "_"))) {
        return PathBuf::from(path);
    }
    // <target>/<profile>/deps/<test>
    let test = std::env::current_exe().expect("a test has a path");
    let path = test.parent().and_then(Path::parent).expect("the build directory").join(name);
    assert!(path.exists(), "{} is not built: cargo build --workspace --bins", path.display());
    path
}

fn run(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status().expect("the program is installed");
    assert!(status.success(), "{program} {args:?}: {status}");
}

impl Daemon {
    /// Makes directories and namespace and starts the daemon.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn start(name: &str) -> Daemon {
        let mut daemon = Daemon::prepare(name);
        daemon.up().await;
        daemon
    }

    /// Directories and namespace only; [`Daemon::up`] starts the daemon.
    ///
    /// # Panics
    /// When they cannot be made.
    #[must_use]
    pub fn prepare(name: &str) -> Daemon {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        // Short, for the 107 bytes of a unix socket's path.
        let tag = format!("pt{}-{number}", std::process::id());
        let dir = PathBuf::from("/tmp").join(&tag);
        std::fs::create_dir_all(dir.join("logs")).expect("a directory");
        std::fs::write(dir.join("test"), name).expect("the test's name, for whoever finds the directory");
        let before = Tables::now(&dir, &tag);
        run("ip", &["netns", "add", &tag]);
        run("ip", &["-n", &tag, "link", "set", "lo", "up"]);
        Daemon { dir, netns: tag, child: None, before, env: Vec::new(), args: Vec::new() }
    }

    /// Where its directories are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The network namespace in which it plays the host.
    #[must_use]
    pub fn netns(&self) -> &str {
        &self.netns
    }

    /// Pod log directory for a pod of that name.
    #[must_use]
    pub fn logs(&self, pod: &str) -> String {
        let dir = self.dir.join("logs").join(pod);
        std::fs::create_dir_all(&dir).expect("a directory");
        dir.display().to_string()
    }

    /// A cgroup parent of this test's own.
    #[must_use]
    pub fn cgroup(&self) -> String {
        format!("/peapod-test-{}", self.netns)
    }

    /// Starts the daemon's process and waits until it answers.
    ///
    /// # Panics
    /// When it ends or does not answer.
    pub async fn up(&mut self) {
        self.spawn();
        let client = self.client();
        until("the daemon's first answer", || async { client.version().await.ok() }).await;
    }

    /// Starts the daemon's process only.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn(&mut self) {
        let path = |name: &str| self.dir.join(name);
        let log = File::options().create(true).append(true).open(path("daemon.log")).expect("a log");
        let mut command = Command::new("ip");
        // `ip netns exec` would mount a /sys of its own, with no cgroups in it: nsenter does not.
        let mut enter = Command::new("nsenter");
        enter.arg(format!("--net=/run/netns/{}", self.netns)).arg(binary("peapod"));
        std::mem::swap(&mut command, &mut enter);
        command
            .arg("serve")
            .args(["--root", &path("r").display().to_string()])
            .args(["--state", &path("s").display().to_string()])
            .args(["--listen", &format!("unix://{}", self.socket().display())])
            .args(["--cni-conf-dir", &path("cni").display().to_string()])
            .args(["--registry-dir", &path("certs.d").display().to_string()])
            .args(["--fallback-network", "bridge", "--log-level", "debug"])
            .args(&self.args)
            .envs(self.env.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log);
        self.child = Some(command.spawn().expect("nsenter runs"));
    }

    /// The daemon's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join("s/peapod.sock")
    }

    /// A client of it.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(&self.socket())
    }

    /// Its process id.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// SIGKILL, and waits for its end.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("killed");
        child.wait().expect("reaped");
    }

    /// Waits until the process has ended by itself (a crash point), and tells how.
    ///
    /// # Panics
    /// When it does not end within half a minute.
    pub async fn crashed(&mut self) -> std::process::ExitStatus {
        let mut child = self.child.take().expect("it runs");
        for _ in 0..3000 {
            if let Some(status) = child.try_wait().expect("waited") {
                return status;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        self.child = Some(child);
        panic!("the daemon did not reach its crash point");
    }

    /// Whether the process still runs.
    ///
    /// # Panics
    /// When it cannot be looked at.
    pub fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().expect("waited").is_none())
    }

    /// Removes all pods, ends the daemon, and checks that all tables are as before.
    ///
    /// # Panics
    /// When something is left.
    pub async fn end(mut self) {
        self.client().remove_all().await;
        let child = self.child.take().expect("it runs");
        let pid = child.id();
        run("kill", &["-TERM", &pid.to_string()]);
        let mut child = child;
        let status =
            tokio::task::spawn_blocking(move || child.wait()).await.expect("joined").expect("reaped");
        assert!(status.success(), "the daemon ended with {status}; see {}/daemon.log", self.dir.display());
        let state = self.dir.join("s");
        let left: Vec<_> = ["pods", "ns"]
            .iter()
            .flat_map(|name| std::fs::read_dir(state.join(name)).into_iter().flatten())
            .map(|entry| entry.expect("an entry").path())
            .collect();
        assert_eq!(left, Vec::<PathBuf>::new(), "left beneath the state directory");
        run("ip", &["netns", "del", &self.netns]);
        self.before.same_again().await;
        sys::tree::remove_path(&self.dir).expect("removed");
    }
}

impl Drop for Daemon {
    /// A failed test still ends what it started, but keeps its directory for a look.
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if !std::thread::panicking() {
            return;
        }
        crate::leaks::kill_all(&self.dir, &self.cgroup());
        let _ = Command::new("ip").args(["netns", "del", &self.netns]).status();
    }
}
