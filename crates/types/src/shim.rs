//! What the daemon and its own shim say to each other beyond containerd's Task and Sandbox API.
//!
//! The shim serves three ttrpc services on one unix socket: `containerd.task.v2.Task` and
//! `containerd.runtime.sandbox.v1.Sandbox` as containerd defines them, and [`SERVICE`], whose
//! messages are here. They are protobuf (prost's derive), so that an older shim and a newer daemon
//! understand each other: unknown fields are ignored, absent ones are zero.

use std::path::Path;

/// Longest piece of a container's line in one record of its log, bytes, as `serve --log-line` takes it: what is longer
/// is cut, each piece but the last with the tag P. The shim keeps the beginning of a line until it ends or is so long.
pub const LOG_LINE: std::ops::RangeInclusive<usize> = 256..=1 << 20;
/// That length where nobody says another: containerd's `max_container_log_line_size`.
pub const LOG_LINE_DEFAULT: usize = 16 << 10;

/// Name of the ttrpc service with the methods below.
pub const SERVICE: &str = "peapod.shim.v1.Pod";
/// [`WatchRequest`] to [`WatchResponse`]: answers at once if there are newer exits, else when the
/// next one comes (long poll; the reply is deferred, no thread waits).
pub const WATCH: &str = "Watch";
/// [`ExecSyncRequest`] to [`ExecSyncResponse`].
pub const EXEC_SYNC: &str = "ExecSync";
/// [`ReopenLogRequest`] to [`Empty`].
pub const REOPEN_LOG: &str = "ReopenLog";
/// [`Empty`] to [`PodStateResponse`].
pub const POD_STATE: &str = "State";

/// [`AttachRequest`] to [`AttachResponse`].
pub const ATTACH: &str = "Attach";
/// [`WaitAttachedRequest`] to [`Empty`], when the attachment was let go.
pub const WAIT_ATTACHED: &str = "WaitAttached";

/// Scheme of the `stdout` of a Task Create request that asks for a CRI log file: an address made by
/// [`log_address`]; the scheme alone discards the output.
pub const LOG_SCHEME: &str = "cri-log:";

/// The `stdin` of a Task Create request that asks for an open standard input to which nobody writes
/// yet; CloseIO ends it. Without it a container reads from /dev/null.
pub const STDIN_HELD: &str = "cri-stdin:";

/// As [`STDIN_HELD`], but closed for good when the first client that writes to it has ended its input
/// (`stdin_once` of the CRI's ContainerConfig).
pub const STDIN_ONCE: &str = "cri-stdin:once";

/// Scheme of a stream's address in a Task Exec and in an [`AttachRequest`]: an address made by
/// [`fifo_address`]; the scheme alone is /dev/null.
///
/// The client holds its end open already: the shim opens the other one during the call, never waits
/// for it, and the path may be unlinked once the call is answered. The FIFO is then all that binds
/// the two: a client that closes its end, or ends, ends the process's input, and breaks its output
/// (SIGPIPE, or the hang-up of its terminal). An exec with such an address belongs to the connection
/// that asked for it: when both that and the process have ended, it is forgotten without a Delete.
pub const FIFO_SCHEME: &str = "cri-fifo:";

/// Address of a FIFO; none for a path that is not absolute or not UTF-8.
#[must_use]
pub fn fifo_address(path: &Path) -> Option<String> {
    let path = path.to_str().filter(|path| path.starts_with('/'))?;
    Some(format!("{FIFO_SCHEME}{path}"))
}

/// Path of a [`fifo_address`]; none for any other text.
#[must_use]
pub fn fifo_path(address: &str) -> Option<&Path> {
    address.strip_prefix(FIFO_SCHEME).filter(|path| path.starts_with('/')).map(Path::new)
}

/// Address of a log file: `cri-log://<directory>//<path>`. The first double slash after the scheme's
/// own ends the directory, which is trusted (the kubelet makes it); the path beneath it is opened
/// without following any symlink.
#[must_use]
pub fn log_address(directory: &str, path: &str) -> String {
    let mut address = format!("{LOG_SCHEME}//");
    let names = |text: &str| -> Vec<String> {
        text.split('/').filter(|name| !name.is_empty()).map(str::to_owned).collect()
    };
    for name in names(directory) {
        address.push('/');
        address.push_str(&name);
    }
    address.push_str("//");
    address.push_str(&names(path).join("/"));
    address
}

/// Directory and path of a [`log_address`]; none for any other text.
#[must_use]
pub fn log_place(address: &str) -> Option<(&str, &str)> {
    let rest = address.strip_prefix(LOG_SCHEME)?.strip_prefix("//")?;
    let (directory, path) = rest.split_once("//")?;
    let directory = if directory.is_empty() { "/" } else { directory };
    (directory.starts_with('/') && !path.is_empty()).then_some((directory, path))
}

/// File beneath the container's bundle that holds its [`ExitRecord`]: written, synced and renamed
/// into place before the exit is told to anybody.
pub const EXIT_FILE: &str = "exit";

/// Nothing.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Empty {}

/// How a container ended.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ExitRecord {
    /// The container's id.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// Exit code, or 128 + signal.
    #[prost(uint32, tag = "2")]
    pub code: u32,
    /// Nanoseconds since the Unix epoch.
    #[prost(int64, tag = "3")]
    pub exited_at: i64,
    /// An OOM kill in the container's own cgroup happened during its life and SIGKILL ended it.
    #[prost(bool, tag = "4")]
    pub oom_killed: bool,
    /// Counts all exits of this shim from 1, in the order in which they were recorded.
    #[prost(uint64, tag = "5")]
    pub sequence: u64,
    /// Why output was lost or delayed, or how the process could not be started; often empty.
    #[prost(string, tag = "6")]
    pub message: String,
}

/// Asks for exits after `after`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct WatchRequest {
    /// Sequence of the last exit that the asker knows.
    #[prost(uint64, tag = "1")]
    pub after: u64,
}

/// All exits after the one asked for, oldest first; never empty.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct WatchResponse {
    /// The exits.
    #[prost(message, repeated, tag = "1")]
    pub exits: Vec<ExitRecord>,
}

/// Runs a command in a container and captures its output.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ExecSyncRequest {
    /// Where.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// argv, not empty.
    #[prost(string, repeated, tag = "2")]
    pub command: Vec<String>,
    /// Nanoseconds until the whole process tree is killed; 0 = no limit.
    #[prost(uint64, tag = "3")]
    pub timeout_nanos: u64,
    /// Bytes kept of each stream; the rest is read and dropped.
    #[prost(uint64, tag = "4")]
    pub output_cap: u64,
    /// How long to go on reading after the command ended while a background child holds the pipe.
    #[prost(uint64, tag = "5")]
    pub drain_nanos: u64,
}

/// What the command said.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ExecSyncResponse {
    /// Captured, at most the cap.
    #[prost(bytes = "vec", tag = "1")]
    pub stdout: Vec<u8>,
    /// Captured, at most the cap.
    #[prost(bytes = "vec", tag = "2")]
    pub stderr: Vec<u8>,
    /// Exit code, or 128 + signal.
    #[prost(int32, tag = "3")]
    pub exit_code: i32,
    /// The timeout struck and the process tree was killed.
    #[prost(bool, tag = "4")]
    pub timed_out: bool,
}

/// Joins the streams of a running container. Each of the three is a [`fifo_address`] or empty.
///
/// From the answer on, each attachment gets a copy of what the container writes, as it writes it. An
/// attachment that does not take 32 KiB within ten seconds holds the container (and its log) so long,
/// and is then let go: its FIFOs are closed, and [`WAIT_ATTACHED`] is answered.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct AttachRequest {
    /// Whose streams.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// Read by the shim, for the container's standard input or its terminal.
    #[prost(string, tag = "2")]
    pub stdin: String,
    /// Gets the container's standard output, or what its terminal shows.
    #[prost(string, tag = "3")]
    pub stdout: String,
    /// Gets the container's error output; refused with a terminal.
    #[prost(string, tag = "4")]
    pub stderr: String,
}

/// What was joined.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct AttachResponse {
    /// The container has a terminal.
    #[prost(bool, tag = "1")]
    pub terminal: bool,
    /// The container's input is closed for good when this attachment's ends.
    #[prost(bool, tag = "2")]
    pub stdin_once: bool,
    /// The container's input was closed for good before: what is written goes nowhere (EPIPE).
    #[prost(bool, tag = "3")]
    pub stdin_closed: bool,
    /// Its number, never 0; 0 from a shim that knows no [`WAIT_ATTACHED`].
    #[prost(uint32, tag = "4")]
    pub attachment: u32,
}

/// Waits until an attachment is let go because it took nothing. Its other ends are not told here but by
/// its streams and the container's end; with the container's Delete it is refused as not found.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct WaitAttachedRequest {
    /// Whose streams.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// [`AttachResponse::attachment`].
    #[prost(uint32, tag = "2")]
    pub attachment: u32,
}

/// Asks for the log file to be opened anew at its path (after the kubelet renamed it).
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ReopenLogRequest {
    /// Whose log.
    #[prost(string, tag = "1")]
    pub container_id: String,
}

/// All that the shim knows, for a daemon that has just connected.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PodStateResponse {
    /// The shim's process id.
    #[prost(uint32, tag = "1")]
    pub shim_pid: u32,
    /// Process id of the pause process; 0 = none.
    #[prost(uint32, tag = "2")]
    pub pause_pid: u32,
    /// Each container that was created and not deleted.
    #[prost(message, repeated, tag = "3")]
    pub containers: Vec<ContainerState>,
    /// Sequence of the newest exit.
    #[prost(uint64, tag = "4")]
    pub last_exit: u64,
}

/// One container as the shim knows it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ContainerState {
    /// Its id.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// Its first process; 0 = not created or ended.
    #[prost(uint32, tag = "2")]
    pub pid: u32,
    /// [`Phase`].
    #[prost(enumeration = "Phase", tag = "3")]
    pub phase: i32,
    /// Nanoseconds since the Unix epoch; 0 = not started.
    #[prost(int64, tag = "4")]
    pub started_at: i64,
    /// Set in [`Phase::Exited`].
    #[prost(message, optional, tag = "5")]
    pub exit: Option<ExitRecord>,
    /// Why log lines wait to be written (a full disk, ...); empty = they do not.
    #[prost(string, tag = "6")]
    pub log_trouble: String,
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Phase {
    /// Never sent.
    Unknown = 0,
    /// Its process waits before exec.
    Created = 1,
    /// It runs.
    Running = 2,
    /// It ended; the exit record is on disk.
    Exited = 3,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifo_address_is_read_back() {
        let path = Path::new("/run/a b/0");
        assert_eq!(fifo_address(path).as_deref().and_then(fifo_path), Some(path));
        assert_eq!(fifo_address(Path::new("a")), None);
        for bad in ["", "cri-fifo:", "cri-fifo:a", "/a", "file:/a"] {
            assert_eq!(fifo_path(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_log_address_is_read_back() {
        for (directory, path, want) in [
            ("/var/log/pods/x", "app/0.log", ("/var/log/pods/x", "app/0.log")),
            ("/var//log/pods/x/", "/app//0.log", ("/var/log/pods/x", "app/0.log")),
            ("/", "0.log", ("/", "0.log")),
            ("/a", "../b", ("/a", "../b")),
        ] {
            assert_eq!(log_place(&log_address(directory, path)), Some(want));
        }
        for bad in ["", "cri-log:", "cri-log:///a/b", "cri-log:///a//", "cri-log://a//b", "file:///a//b"] {
            assert_eq!(log_place(bad), None, "{bad}");
        }
    }
}
