//! Starting a shim: the socket is made and listened on here and handed over, so that nobody waits
//! for the shim to come up.

use crate::ShimError;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use sys::rustix::fs::{Mode, OFlags, open};
use sys::rustix::process::{Pid, PidfdFlags, pidfd_open};
use types::{PodId, handler::Handler, shim::LOG_LINE_DEFAULT};

/// Longest path of a unix socket (unix(7): 108 bytes with the final NUL).
const LONGEST: usize = 107;
/// The socket's name in the shim's directory.
const SOCKET: &str = "shim.sock";
/// The shim's own complaints.
const LOG: &str = "shim.log";

/// The shim's program, held open on a read-only mount of its own: no container can find a way to
/// overwrite the file (CVE-2019-5736), and no shim has to execute itself anew for that. One for the
/// daemon's whole life.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
    file: OwnedFd,
}

impl Program {
    /// Opens the program at a trusted path.
    ///
    /// # Errors
    /// [`ShimError::Spawn`].
    pub fn open(path: &Path) -> Result<Self, ShimError> {
        let file = sys::exec::read_only_file(path).map_err(|e| failed("open", path)(e.into()))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Where it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A command that executes it.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        command.arg0(&self.path);
        command
    }
}

/// A shim to be started.
#[derive(Debug, Clone)]
pub struct SpawnRequest {
    /// The shim's program.
    pub program: Arc<Program>,
    /// The pod.
    pub pod: PodId,
    /// The shim's own directory, which must exist: gets the socket and the shim's log.
    pub directory: PathBuf,
    /// Directory of compiled seccomp programs, shared by all shims; none = beneath `directory`.
    pub seccomp_cache: Option<PathBuf>,
    /// The pod's containers share one PID namespace: the shim starts a process that holds it.
    pub pause: bool,
    /// The pod's user namespace, in which that process is; none = the node's.
    pub userns: Option<PathBuf>,
    /// The longest piece of a line in one record of a log, bytes; within [`types::shim::LOG_LINE`].
    pub log_line: usize,
    /// What makes the containers; none = the shim's own runner.
    pub handler: Option<Handler>,
}

/// The socket's place in a shim's directory.
pub(crate) fn socket_in(directory: &Path) -> PathBuf {
    directory.join(SOCKET)
}

/// Starts a shim and connects; if one listens there already, connects to that. Blocks for about a
/// millisecond. The descriptor is the pidfd of a child that was started.
pub(crate) fn spawn(request: &SpawnRequest) -> Result<(UnixStream, Option<OwnedFd>), ShimError> {
    let socket = socket_in(&request.directory);
    let listener = match listen(&socket) {
        Ok(listener) => listener,
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => match dial(&socket) {
            Ok(stream) => return Ok((stream, None)),
            // What a daemon left that died before it had started the shim, or a shim that was killed.
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(&socket).map_err(failed("remove the stale socket", &socket))?;
                listen(&socket).map_err(failed("listen at", &socket))?
            }
            Err(e) => return Err(ShimError::Connect { path: socket, source: e }),
        },
        Err(e) => return Err(failed("listen at", &socket)(e)),
    };
    // Connected before there is a shim: one that ends at once is a closed connection, not a lost child.
    let started = dial(&socket)
        .map_err(|source| ShimError::Connect { path: socket.clone(), source })
        .and_then(|stream| Ok((stream, Some(start(request, listener)?))));
    if started.is_err() {
        // Nobody will ever listen there.
        let _ = std::fs::remove_file(&socket);
    }
    started
}

fn start(request: &SpawnRequest, listener: UnixListener) -> Result<OwnedFd, ShimError> {
    let path = request.directory.join(LOG);
    let log = open_log(&path).map_err(failed("open the shim's log", &path))?;
    let mut command = request.program.command();
    command.arg("serve").arg("--id").arg(request.pod.as_str()).arg("--dir").arg(&request.directory);
    if let Some(cache) = &request.seccomp_cache {
        command.arg("--seccomp-cache").arg(cache);
    }
    if request.pause {
        command.arg("--pause");
    }
    if let Some(userns) = &request.userns {
        command.arg("--userns").arg(userns);
    }
    if request.log_line != LOG_LINE_DEFAULT {
        command.arg("--log-line").arg(request.log_line.to_string());
    }
    match &request.handler {
        None => {}
        Some(Handler::Oci { path }) => {
            command.arg("--oci").arg(path);
        }
        Some(Handler::Shim { path, runtime }) => {
            command.arg("--shim").arg(path);
            if let Some(runtime) = runtime {
                command.arg("--shim-runtime").arg(runtime);
            }
        }
    }
    // Chunks in the allocator's per-thread cache would hold pages that are else given back.
    command.env_clear().env("RUST_BACKTRACE", "1").env("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0");
    command.current_dir("/");
    command.stdin(Stdio::from(OwnedFd::from(listener))).stdout(Stdio::null()).stderr(Stdio::from(log));
    let child = command.spawn().map_err(failed("execute", request.program.path()))?;
    // Nobody else reaps it before this: the number is still its own.
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| {
        failed("execute", request.program.path())(io::Error::other("a process without a number"))
    })?;
    pidfd_open(pid, PidfdFlags::NONBLOCK).map_err(|e| failed("watch", request.program.path())(e.into()))
}

fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ShimError + use<> {
    let path = path.to_owned();
    move |source| ShimError::Spawn { step, path, source }
}

fn open_log(path: &Path) -> io::Result<File> {
    let nofollow = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default();
    OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(nofollow).open(path)
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    short(path, |path| UnixListener::bind(path))
}

/// Connects to a socket; not blocking after that.
pub(crate) fn dial(path: &Path) -> io::Result<UnixStream> {
    let stream = short(path, |path| UnixStream::connect(path))?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Gives a path that a socket's address can hold: the longer ones lead through the descriptor of
/// their directory.
fn short<T>(path: &Path, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    if path.as_os_str().len() <= LONGEST {
        return act(path);
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return act(path) };
    let directory = open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    act(&Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    /// An empty directory, removed at the end.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("peapod-test-shimlink-{}-{name}", std::process::id()));
            std::fs::create_dir(&path).expect("create a directory of our own");
            Self(path)
        }
    }

    impl Drop for Directory {
        #[expect(clippy::disallowed_methods, reason = "a directory of this test alone, with no mount in it")]
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_socket_with_a_long_path_is_listened_on_and_dialled() {
        let directory = Directory::new("long");
        let deep = directory.0.join("d".repeat(200));
        std::fs::create_dir(&deep).expect("mkdir");
        let listener = listen(&deep.join(SOCKET)).expect("listen");
        let mut stream = dial(&deep.join(SOCKET)).expect("dial");
        let (mut accepted, _) = listener.accept().expect("accept");
        stream.write_all(b"x").expect("write");
        let mut byte = [0];
        accepted.read_exact(&mut byte).expect("read");
        assert_eq!(&byte, b"x");
    }

    fn request(directory: &Path, program: &str) -> SpawnRequest {
        SpawnRequest {
            program: Arc::new(Program::open(Path::new(program)).expect("open the program")),
            pod: PodId::from_random([7; 32]),
            directory: directory.to_owned(),
            seccomp_cache: None,
            pause: false,
            userns: None,
            log_line: LOG_LINE_DEFAULT,
            handler: None,
        }
    }

    #[test]
    fn a_program_that_is_none_leaves_no_socket() {
        let directory = Directory::new("missing");
        assert!(matches!(
            Program::open(Path::new("/nonexistent")),
            Err(ShimError::Spawn { step: "open", .. })
        ));
        // A file that is no program.
        let error = spawn(&request(&directory.0, "/etc/passwd")).expect_err("no program");
        assert!(matches!(error, ShimError::Spawn { step: "execute", .. }), "{error:?}");
        assert!(!directory.0.join(SOCKET).try_exists().expect("stat"));
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_living_one_is_used() {
        let directory = Directory::new("stale");
        drop(UnixListener::bind(directory.0.join(SOCKET)).expect("bind"));
        // cat ends at once, since it cannot read from a socket that listens.
        let (_stream, child) = spawn(&request(&directory.0, "/bin/cat")).expect("spawn");
        let pidfd = child.expect("a new child");
        while sys::pidfd::try_wait(&pidfd).expect("our child").is_none() {
            sys::pidfd::ended_within(&pidfd, std::time::Duration::from_secs(10)).expect("poll");
        }
        std::fs::remove_file(directory.0.join(SOCKET)).expect("remove");
        let _living = UnixListener::bind(directory.0.join(SOCKET)).expect("bind");
        let (_stream, child) = spawn(&request(&directory.0, "/etc/passwd")).expect("adopt");
        assert!(child.is_none());
    }
}
