//! `start`: a shim for a container. Containers of one pod share one.
//!
//! containerd waits for the end of this process and of all that hold its standard output; what is
//! started here holds neither that nor anything else of containerd's but the bundle's `log`.

use super::args::Target;
use crate::publish::socket_path;
use crate::wire::chain;
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use protobuf::Message as _;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::fs::{File, Permissions};
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use sys::rustix::fs::{FlockOperation, Mode, OFlags, flock};

/// Where sockets lie if containerd names no place: as short as its own default, for the same reason
/// (containerd:core/runtime/v2/shim_unix.go).
const SOCKETS: &str = "/run/containerd/s";
/// Longest path of a unix socket (unix(7)).
const LONGEST_SOCKET: usize = 107;
/// The most that is read of what containerd says; its own shims read 10 MiB.
const LARGEST_PARAMS: u64 = 1 << 20;
/// The annotation that names a container's pod (containerd:internal/cri/annotations).
const POD: &str = "io.kubernetes.cri.sandbox-id";
/// The version of the Task API that this shim speaks.
const VERSION: i32 = 3;
/// The largest value of /proc/PID/oom_score_adj.
const MOST_OOM_SCORE: i32 = 1000;

/// Starts the shim, or finds the one that runs, and gives what containerd reads.
///
/// # Errors
/// The text for containerd's log.
pub(super) fn start(program: &Path, target: &Target) -> Result<Vec<u8>, String> {
    let asked = Asked::read(io::stdin(), target, std::env::var("TTRPC_ADDRESS").ok())?;
    let bundle = match &target.bundle {
        Some(bundle) => bundle.clone(),
        None => std::env::current_dir().map_err(|e| format!("the bundle's directory: {e}"))?,
    };
    let spec = crate::launch::read_spec(&bundle).map_err(|refusal| refusal.message)?;
    let pod = spec.annotations().as_ref().and_then(|annotations| annotations.get(POD)).cloned();
    let pod = pod.unwrap_or_else(|| target.id.clone());
    let socket = socket(&asked.sockets, &target.address, &target.namespace, &pod)?;
    make_private(&asked.sockets).map_err(|e| format!("make {}: {e}", asked.sockets.display()))?;
    let listener = {
        // Two calls for one pod: the second one finds a shim, not a socket that nobody listens on yet.
        let directory =
            File::open(&asked.sockets).map_err(|e| format!("open {}: {e}", asked.sockets.display()))?;
        flock(&directory, FlockOperation::LockExclusive).map_err(|e| format!("lock the sockets: {e}"))?;
        listen(&socket).map_err(|e| format!("listen at {}: {e}", socket.display()))?
    };
    let address = format!("unix://{}", socket.display());
    if let Some(listener) = listener {
        let begun = begin(program, target, &asked, &pod, &bundle, &socket, listener).and_then(|pid| {
            Ok((note(&bundle, "shim.pid", &pid.to_string())?, note(&bundle, "address", &address)?))
        });
        if let Err(e) = begun {
            // Nobody will ever listen there, or nobody would know where.
            let _ = std::fs::remove_file(&socket);
            return Err(e);
        }
    }
    asked.answer(&address)
}

/// What containerd says at a start.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    /// The directory of the shim's socket.
    sockets: PathBuf,
    /// Where events go.
    events: Option<PathBuf>,
    /// It speaks the bootstrap protocol (since 2.3); else the answer is the bare address, which every
    /// older one takes for version 2 of the Task API.
    bootstrap: bool,
}

impl Asked {
    fn read(input: impl io::Read, target: &Target, environment: Option<String>) -> Result<Self, String> {
        let mut bytes = Vec::new();
        let read = input.take(LARGEST_PARAMS + 1).read_to_end(&mut bytes);
        read.map_err(|e| format!("read the standard input: {e}"))?;
        if bytes.len() as u64 > LARGEST_PARAMS {
            return Err(format!("the standard input has more than {LARGEST_PARAMS} bytes"));
        }
        // Before 2.3 there are runtime options, which may be read as such parameters too: containerd's own
        // shims tell by the names (containerd:pkg/shim/compat.go).
        let params = BootstrapParams::parse_from_bytes(&bytes).ok();
        let params = params.filter(|p| p.instance_id == target.id && p.namespace == target.namespace);
        let bootstrap = params.is_some();
        let (directory, events) = match params {
            Some(params) => (params.socket_dir, Some(params.containerd_ttrpc_address)),
            None => (None, environment),
        };
        let sockets =
            PathBuf::from(directory.filter(|dir| !dir.is_empty()).unwrap_or_else(|| SOCKETS.to_owned()));
        if !sockets.is_absolute() {
            return Err(format!("socket_dir: {}: want an absolute path", sockets.display()));
        }
        let events = match events.filter(|address| !address.is_empty()) {
            None => None,
            Some(address) => match socket_path(&address) {
                Some(path) if path.as_os_str().len() <= LONGEST_SOCKET => Some(path.to_owned()),
                Some(_) | None => {
                    return Err(format!(
                        "containerd_ttrpc_address: {address}: want a unix socket's path of at most {LONGEST_SOCKET} bytes"
                    ));
                }
            },
        };
        Ok(Self { sockets, events, bootstrap })
    }

    fn answer(&self, address: &str) -> Result<Vec<u8>, String> {
        if !self.bootstrap {
            return Ok(address.as_bytes().to_vec());
        }
        let result = BootstrapResult {
            version: VERSION,
            address: address.to_owned(),
            protocol: "ttrpc".to_owned(),
            ..BootstrapResult::default()
        };
        result.write_to_bytes().map_err(|e| format!("encode the answer: {e}"))
    }
}

/// The pod's socket: the same for all of its containers, another one for the same id in another
/// namespace, or of another containerd.
fn socket(directory: &Path, address: &str, namespace: &str, pod: &str) -> Result<PathBuf, String> {
    let mut hash = Sha256::new();
    for part in ["peapod", address, namespace, pod] {
        hash.update(part);
        hash.update([0]);
    }
    let mut name = String::new();
    // Half of it: a socket's path is short.
    for byte in &hash.finalize()[..16] {
        let _ = write!(name, "{byte:02x}");
    }
    let path = directory.join(name);
    if path.as_os_str().len() > LONGEST_SOCKET {
        return Err(format!("socket_dir: {} is too long for a socket's path", directory.display()));
    }
    // The address is a text, and the path goes into it as it is.
    if path.to_str().is_none_or(|path| path.contains(['\n', '\0'])) {
        return Err(format!("socket_dir: {}: want UTF-8 in one line", directory.display()));
    }
    Ok(path)
}

/// Makes the sockets' directory, for its owner alone; one that is there stays as it is, for it may be
/// shared with other shims.
fn make_private(directory: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// Listens at a path; `None` if somebody does already.
fn listen(path: &Path) -> io::Result<Option<UnixListener>> {
    let bound = match UnixListener::bind(path) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            match UnixStream::connect(path) {
                Ok(_) => return Ok(None),
                // What a shim left that was killed.
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
                Err(e) => return Err(e),
            }
            UnixListener::bind(path)?
        }
        bound => bound?,
    };
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(Some(bound))
}

/// Executes the shim; gives its number.
fn begin(
    program: &Path,
    target: &Target,
    asked: &Asked,
    pod: &str,
    bundle: &Path,
    socket: &Path,
    listener: UnixListener,
) -> Result<u32, String> {
    // Sooner than containerd, later than any pod: as containerd's own shims (pkg/shim/util_unix.go).
    if let Err(e) = raise_oom_score() {
        return Err(format!("oom_score_adj: {e}"));
    }
    // From a read-only mount, so that the shim need not execute itself anew to be safe from its containers.
    let file = sys::exec::read_only_file(Path::new("/proc/self/exe"))
        .map_err(|e| format!("open {}: {}", program.display(), io::Error::from(e)))?;
    // What this process has inherited beside its standard descriptors is not the shim's.
    sys::exec::close_on_exec_from(3).map_err(|e| format!("close descriptors: {}", io::Error::from(e)))?;
    let log = open_log(&bundle.join("log")).map_err(|e| format!("open {}/log: {e}", bundle.display()))?;
    let mut command = Command::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
    command.arg0(program).arg("serve").arg("--id").arg(pod).arg("--dir").arg(bundle);
    command.arg("--containerd-namespace").arg(&target.namespace).arg("--socket").arg(socket);
    if let Some(events) = &asked.events {
        command.arg("--events").arg(events);
    }
    // As our daemon starts it: see `shimlink`.
    command.env_clear().env("RUST_BACKTRACE", "1").env("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0");
    command.current_dir("/");
    command.stdin(Stdio::from(OwnedFd::from(listener))).stdout(Stdio::null()).stderr(log);
    command.spawn().map(|child| child.id()).map_err(|e| format!("execute {}: {e}", program.display()))
}

fn raise_oom_score() -> io::Result<()> {
    const PLACE: &str = "/proc/self/oom_score_adj";
    let now: i32 = std::fs::read_to_string(PLACE)?.trim().parse().map_err(io::Error::other)?;
    let more = (now + 1).min(MOST_OOM_SCORE).to_string();
    io::Write::write_all(&mut File::options().write(true).open(PLACE)?, more.as_bytes())
}

/// The FIFO that containerd copies into its own log. Open at both ends: a line may find no room, but a
/// containerd that is away breaks nothing. Without one the shim says nothing.
fn open_log(path: &Path) -> io::Result<Stdio> {
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    match File::options().read(true).write(true).custom_flags(flags).open(path) {
        Ok(file) if file.metadata()?.file_type().is_fifo() => Ok(Stdio::from(file)),
        Ok(_) => Err(io::Error::other("it is no FIFO")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Stdio::null()),
        Err(e) => Err(e),
    }
}

/// Writes a file that tells of the shim: whole, or not at all.
fn note(bundle: &Path, name: &str, text: &str) -> Result<(), String> {
    sys::file::replace_path(&bundle.join(name), text.as_bytes(), Mode::from_raw_mode(0o600))
        .map_err(|e| format!("write {name}: {}", chain(&e)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Directory;

    fn target() -> Target {
        Target { namespace: "k8s.io".to_owned(), id: "c".to_owned(), ..Target::default() }
    }

    fn read(params: &BootstrapParams) -> Result<Asked, String> {
        Asked::read(params.write_to_bytes().expect("encode").as_slice(), &target(), Some("/older".to_owned()))
    }

    #[test]
    fn the_bootstrap_parameters_are_obeyed() {
        let mut params = BootstrapParams {
            instance_id: "c".to_owned(),
            namespace: "k8s.io".to_owned(),
            containerd_ttrpc_address: "/run/c.ttrpc".to_owned(),
            ..BootstrapParams::default()
        };
        let asked = read(&params).expect("fine");
        let want = Asked { sockets: SOCKETS.into(), events: Some("/run/c.ttrpc".into()), bootstrap: true };
        assert_eq!(asked, want);
        let result =
            BootstrapResult::parse_from_bytes(&asked.answer("unix:///s").expect("encode")).expect("decode");
        assert_eq!((result.version, result.protocol.as_str()), (3, "ttrpc"));
        assert_eq!(result.address, "unix:///s");
        params.socket_dir = Some("/run/x".to_owned());
        assert_eq!(read(&params).expect("fine").sockets, Path::new("/run/x"));
        params.socket_dir = Some("x".to_owned());
        assert!(read(&params).expect_err("relative").starts_with("socket_dir"));
        params.socket_dir = None;
        params.containerd_ttrpc_address = "vsock://2:1".to_owned();
        assert!(read(&params).expect_err("not ours").starts_with("containerd_ttrpc_address"));
    }

    #[test]
    fn an_older_containerd_gets_the_bare_address() {
        // Runtime options, or nothing, on the standard input; the address in the environment.
        for input in [&b""[..], &b"\x0a\x05hello"[..], &[0xff; 9]] {
            let asked = Asked::read(input, &target(), Some("/run/c.ttrpc".to_owned())).expect("fine");
            assert_eq!((asked.events.as_deref(), asked.bootstrap), (Some(Path::new("/run/c.ttrpc")), false));
            assert_eq!(asked.answer("unix:///s").expect("fine"), b"unix:///s");
        }
        let large = vec![0; usize::try_from(LARGEST_PARAMS).expect("small") + 1];
        assert!(Asked::read(large.as_slice(), &target(), None).is_err());
    }

    #[test]
    fn a_socket_is_its_pods_own() {
        let of = |address, namespace, pod| socket(Path::new("/s"), address, namespace, pod).expect("short");
        assert_eq!(of("/a", "n", "p"), of("/a", "n", "p"));
        for other in [of("/b", "n", "p"), of("/a", "m", "p"), of("/a", "n", "q"), of("/a", "np", "")] {
            assert_ne!(of("/a", "n", "p"), other);
        }
        assert!(socket(Path::new(&"/d".repeat(50)), "", "", "").is_err());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_living_one_is_left() {
        let directory = Directory::new();
        let path = directory.0.join("s");
        let first = listen(&path).expect("listen").expect("new");
        assert!(listen(&path).expect("listen").is_none());
        drop(first);
        assert!(listen(&path).expect("listen").is_some());
        let mode = std::fs::metadata(&path).expect("stat").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
