//! Containers that a shim of containerd's runtime v2 makes (containerd:core/runtime/v2/README.md), behind this one:
//! one such shim for the pod, started with the first container. It is told all that containerd tells it, and asked
//! over ttrpc; its containers write to our pipes, which it opens by their names in /proc, and their ends are answers
//! of Wait calls that stand open.
//!
//! ```text
//! daemon ──ttrpc──> this shim ──ttrpc──> foreign shim ──> runc ──> container
//!                    │  ▲ pipes: output, input                      │
//!                    ▼  └───────────────────────────────────────────┘
//!              log, exit record
//! ```
//!
//! The loop waits while a call is answered, so each has its time ([`CALL`], [`QUICK`]). A foreign shim that ends, or
//! that is ended because it does not tell of a process which has, takes the other ends of its containers' outputs
//! along: they are killed then. As this shim is a subreaper they become its children, and their true exit codes are
//! told; of one that was reaped before, and not told of, it is 137.

mod link;
mod start;

use crate::launch::{Further, NotStarted, read_spec};
use crate::oci::{Started, gather};
use crate::poll::{Interest, Poll, Source};
use crate::wire::Refusal;
use cgroup::Cgroup;
use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use link::{Live, Wait, answered, ready};
use prost::Message as _;
use protobuf::{Message, MessageField};
use std::cell::{Cell, RefCell};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};
use sys::rustix::event::PollFlags;
use sys::rustix::fd::{AsRawFd as _, OwnedFd};
use sys::rustix::fs::{OFlags, fstat};
use sys::rustix::io::Errno;
use sys::rustix::process::{Pid, Signal};
use ttrpc::proto::Code;
use types::handler::{RuncOptions, state_root};

/// How long a call that makes processes may take, and the start of a shim. The daemon waits for 30 s.
const CALL: Duration = Duration::from_secs(20);
/// How long other calls may take.
const QUICK: Duration = Duration::from_secs(5);
/// How long a shim may take to tell that a process has ended; then it hangs, and is ended itself.
const TELLS_WITHIN: Duration = Duration::from_secs(10);
/// How long a shim may take to end, or to open what it was given.
const SOON: Duration = Duration::from_secs(2);
/// So much of a shim's log goes into ours.
const MOST_LOG: u64 = 256 << 10;
/// Type of the runc options in containerd's registry.
const RUNC_OPTIONS: &str = "containerd.runc.v1.Options";
/// Type of an OCI process there.
const OCI_PROCESS: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// Programs are looked for there.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A pod's foreign shim, whether it runs or not.
#[derive(Debug)]
pub(crate) struct Foreign {
    program: PathBuf,
    runtime: Option<PathBuf>,
    pod: String,
    directory: PathBuf,
    live: RefCell<Option<Live>>,
    execs: Cell<u64>,
}

/// A container's first process.
#[derive(Debug)]
pub(crate) struct Container {
    foreign: Rc<Foreign>,
    id: String,
    pid: Pid,
    pidfd: OwnedFd,
    cgroup: Cgroup,
}

/// How a process is told where its streams are.
#[derive(Default)]
struct Streams {
    stdin: String,
    stdout: String,
    stderr: String,
}

impl Foreign {
    pub(crate) fn new(program: PathBuf, runtime: Option<PathBuf>, pod: String, directory: PathBuf) -> Self {
        Self { program, runtime, pod, directory, live: RefCell::default(), execs: Cell::default() }
    }

    /// Makes a container's first process, which waits for its start. What fails leaves nothing behind.
    pub(crate) fn create(
        self: &Rc<Self>,
        poll: &Poll,
        id: &str,
        bundle: &Path,
        stdio: &runner::Stdio,
        cgroup: Cgroup,
    ) -> Result<Container, Refusal> {
        let streams = Streams::of(stdio)?;
        if self.live.borrow().is_none() {
            self.start(poll)?;
        }
        let made = self.make(poll, id, bundle, &streams, &cgroup);
        let (pid, pidfd) = match made {
            Ok(made) => made,
            Err(refusal) => {
                let _ = self.delete(id, "");
                let _ = cgroup.kill().and_then(|()| cgroup.remove());
                return Err(refusal);
            }
        };
        self.let_input_end(id, "", stdio, &streams);
        Ok(Container { foreign: Rc::clone(self), id: id.to_owned(), pid, pidfd, cgroup })
    }

    fn make(
        &self,
        poll: &Poll,
        id: &str,
        bundle: &Path,
        streams: &Streams,
        cgroup: &Cgroup,
    ) -> Result<(Pid, OwnedFd), Refusal> {
        let options = self.runtime.as_ref().map(|runtime| Any {
            type_url: RUNC_OPTIONS.to_owned(),
            value: RuncOptions {
                binary_name: runtime.to_string_lossy().into_owned(),
                root: state_root(&self.directory).to_string_lossy().into_owned(),
            }
            .encode_to_vec(),
            ..Any::default()
        });
        let request = api::CreateTaskRequest {
            id: id.to_owned(),
            bundle: bundle.to_string_lossy().into_owned(),
            stdin: streams.stdin.clone(),
            stdout: streams.stdout.clone(),
            stderr: streams.stderr.clone(),
            options: options.map_or_else(MessageField::none, MessageField::some),
            ..api::CreateTaskRequest::default()
        };
        let made: api::CreateTaskResponse = self.call("Create", &request, CALL)?;
        let (pid, pidfd) = self.process(made.pid)?;
        // Limits, statistics and the end of what the container forks go by this group.
        let there = cgroup.processes().is_ok_and(|all| all.contains(&pid.as_raw_pid()));
        if !there && sys::pidfd::ended_within(&pidfd, Duration::ZERO) != Ok(true) {
            let text = format!(
                "{} put it into another cgroup than {}",
                self.program.display(),
                cgroup.path().as_str()
            );
            return Err(self.failed("create the container", text));
        }
        let copy = pidfd.try_clone().map_err(|e| self.failed("watch the process", e))?;
        self.wait(poll, id, "", pid, Some(copy))?;
        Ok((pid, pidfd))
    }

    /// A process that the shim tells of.
    fn process(&self, pid: u32) -> Result<(Pid, OwnedFd), Refusal> {
        let none = |why: &dyn std::fmt::Display| self.failed("find the process", format!("{pid}: {why}"));
        let found = i32::try_from(pid).ok().and_then(Pid::from_raw).filter(|pid| pid.as_raw_pid() > 1);
        let found = found.ok_or_else(|| none(&"it is no process"))?;
        let pidfd = sys::pidfd::open(found).map_err(|e| none(&io::Error::from(e)))?;
        Ok((found, pidfd))
    }

    fn failed(&self, doing: &str, why: impl std::fmt::Display) -> Refusal {
        Refusal::new(Code::INTERNAL, format!("{doing}: {}: {why}", self.program.display()))
    }

    /// One call and its answer.
    fn call<R: Message>(&self, method: &str, request: &impl Message, limit: Duration) -> Result<R, Refusal> {
        let mut live = self.live.borrow_mut();
        let gone = || self.failed(method, "the handler's shim has ended");
        let live = live.as_mut().ok_or_else(gone)?;
        let until = Instant::now() + limit;
        let stream = live.send(method, request, until)?;
        loop {
            if let Some(response) = live.answer(stream) {
                let payload = answered(response, method)?;
                return R::parse_from_bytes(&payload).map_err(|e| self.failed(method, e));
            }
            if live.broken {
                return Err(gone());
            }
            if !ready(&live.socket, PollFlags::IN, until) {
                let text = format!("it did not answer within {} s", limit.as_secs());
                return Err(self.failed(method, text));
            }
            live.receive();
        }
    }

    /// Leaves a Wait call standing.
    fn wait(
        &self,
        epoll: &Poll,
        id: &str,
        exec_id: &str,
        pid: Pid,
        pidfd: Option<OwnedFd>,
    ) -> Result<(), Refusal> {
        let (id, exec_id) = (id.to_owned(), exec_id.to_owned());
        let request =
            api::WaitRequest { id: id.clone(), exec_id: exec_id.clone(), ..api::WaitRequest::default() };
        let mut live = self.live.borrow_mut();
        let live = live.as_mut().ok_or_else(|| self.failed("Wait", "the handler's shim has ended"))?;
        let stream = live.send("Wait", &request, Instant::now() + QUICK)?;
        if let Some(pidfd) = &pidfd {
            let watched = epoll.add(pidfd, Source::HandlerProcess(stream), Interest::READ);
            watched.map_err(|e| self.failed("watch the process", e))?;
        }
        live.waits.push(Wait { stream, pid, pidfd, due: None, id, exec_id });
        Ok(())
    }

    /// A process has ended: the shim is to tell it soon.
    pub(crate) fn on_process(&self, epoll: &Poll, stream: u32) {
        let mut live = self.live.borrow_mut();
        let waits = live.iter_mut().flat_map(|live| &mut live.waits);
        for wait in waits.filter(|wait| wait.stream == stream) {
            wait.due = Some(Instant::now() + TELLS_WITHIN);
            wait.unwatch(epoll);
        }
    }

    /// When the loop has to look at it again.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.live.borrow().iter().flat_map(|live| &live.waits).filter_map(|wait| wait.due).min()
    }

    /// A shim that did not tell in time hangs.
    pub(crate) fn on_time(&self, now: Instant) {
        if let Some(live) = self.live.borrow_mut().as_mut()
            && live.waits.iter().any(|wait| wait.due.is_some_and(|due| due <= now))
        {
            live.broken = true;
        }
    }

    fn delete(&self, id: &str, exec_id: &str) -> Result<(), Refusal> {
        let request = api::DeleteRequest {
            id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            ..api::DeleteRequest::default()
        };
        self.call::<api::DeleteResponse>("Delete", &request, QUICK).map(drop)
    }

    /// Once the shim reads a process's input itself, it is told to hold no end of its own open for writing: the input
    /// then ends when whoever writes lets go.
    fn let_input_end(&self, id: &str, exec_id: &str, stdio: &runner::Stdio, streams: &Streams) {
        let runner::Stdio::Files { stdin, .. } = stdio else { return };
        if streams.stdin.is_empty() {
            return;
        }
        let pid = self.live.borrow().as_ref().map_or(0, |live| live.pid);
        let opened = sys::wait::until(SOON, || Ok::<_, Errno>(reads(pid, stdin)));
        if opened == Ok(true) {
            let request = api::CloseIORequest {
                id: id.to_owned(),
                exec_id: exec_id.to_owned(),
                stdin: true,
                ..api::CloseIORequest::default()
            };
            let _ = self.call::<api::Empty>("CloseIO", &request, QUICK);
        }
    }

    /// What came from the shim is taken in.
    pub(crate) fn on_readable(&self) {
        if let Some(live) = self.live.borrow_mut().as_mut() {
            live.receive();
        }
    }

    /// A piece of the shim's log, for ours; none when it is enough.
    pub(crate) fn on_log(&self) -> Option<String> {
        let mut live = self.live.borrow_mut();
        let live = live.as_mut()?;
        let mut bytes = [0; 4096];
        let count = sys::rustix::io::read(&live.log, &mut bytes).unwrap_or(0);
        live.logged = live.logged.saturating_add(count as u64);
        let text = String::from_utf8_lossy(bytes.get(..count).unwrap_or_default()).trim_end().to_owned();
        (live.logged <= MOST_LOG && !text.is_empty()).then_some(text)
    }

    /// Processes whose ends were told, with their codes.
    pub(crate) fn take_ended(&self, epoll: &Poll) -> Vec<(Pid, u32)> {
        let ended = match self.live.borrow_mut().as_mut() {
            Some(live) => std::mem::take(&mut live.ended),
            None => return Vec::new(),
        };
        let told = ended.into_iter().map(|(wait, code)| {
            wait.unwatch(epoll);
            if !wait.exec_id.is_empty() {
                // Else it would be remembered as long as its container.
                let _ = self.delete(&wait.id, &wait.exec_id);
            }
            (wait.pid, code)
        });
        told.collect()
    }

    /// Whether the connection is at its end.
    pub(crate) fn is_broken(&self) -> bool {
        self.live.borrow().as_ref().is_some_and(|live| live.broken)
    }

    /// Gives up a shim that has ended, or that can be spoken to no more; gives those whose end it did not tell. They
    /// are this shim's children by then, if they are not reaped.
    pub(crate) fn give_up(&self, epoll: &Poll) -> Vec<Wait> {
        let Some(live) = self.live.borrow_mut().take() else { return Vec::new() };
        epoll.remove(&live.socket);
        epoll.remove(&live.log);
        live.waits.iter().for_each(|wait| wait.unwatch(epoll));
        if let Some(process) = &live.process {
            let _ = sys::pidfd::send_signal(process, Signal::KILL);
            let _ = sys::pidfd::ended_within(process, SOON);
        }
        live.waits
    }

    /// Ends the shim, by force if it does not end by itself.
    pub(crate) fn end(&self, epoll: &Poll) {
        let request =
            api::ShutdownRequest { id: self.pod.clone(), now: true, ..api::ShutdownRequest::default() };
        let _ = self.call::<api::Empty>("Shutdown", &request, QUICK);
        if let Some(process) = self.live.borrow().as_ref().and_then(|live| live.process.as_ref()) {
            let _ = sys::pidfd::ended_within(process, SOON);
        }
        self.give_up(epoll);
    }
}

/// A descriptor's name for other processes of this PID namespace.
fn name_of(fd: &OwnedFd) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd())
}

/// Whether a process has this pipe open for reading (proc_pid_fdinfo(5)).
fn reads(pid: u32, pipe: &OwnedFd) -> bool {
    let Ok(own) = fstat(pipe) else { return false };
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| {
        let same = fs::metadata(entry.path()).is_ok_and(|m| m.ino() == own.st_ino && m.dev() == own.st_dev);
        let info = Path::new("/proc").join(pid.to_string()).join("fdinfo").join(entry.file_name());
        same && fs::read_to_string(info).is_ok_and(|text| {
            let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
            let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
            flags.is_some_and(|flags| flags & (OFlags::RWMODE | OFlags::PATH).bits() == OFlags::RDONLY.bits())
        })
    })
}

impl Streams {
    /// Pipes and FIFOs by their names in /proc: whoever opens them there needs no name on disk.
    fn of(stdio: &runner::Stdio) -> Result<Self, Refusal> {
        let runner::Stdio::Files { stdin, stdout, stderr } = stdio else {
            return Err(Refusal::invalid(
                "terminal: the shim of this pod's handler keeps terminals to itself",
            ));
        };
        let is_pipe = |fd: &OwnedFd| {
            let kind = fstat(fd).map(|stat| sys::rustix::fs::FileType::from_raw_mode(stat.st_mode));
            kind == Ok(sys::rustix::fs::FileType::Fifo)
        };
        if !is_pipe(stdin) && !is_pipe(stdout) && !is_pipe(stderr) {
            return Ok(Self::default());
        }
        Ok(Self {
            stdin: if is_pipe(stdin) { name_of(stdin) } else { String::new() },
            stdout: name_of(stdout),
            stderr: name_of(stderr),
        })
    }
}

impl Container {
    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    pub(crate) fn pidfd(&self) -> &OwnedFd {
        &self.pidfd
    }

    pub(crate) fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    fn has_ended(&self) -> bool {
        sys::pidfd::ended_within(&self.pidfd, Duration::ZERO) == Ok(true)
    }

    /// Lets it execute its program.
    pub(crate) fn start(&self) -> Result<(), NotStarted> {
        if self.has_ended() {
            return Err(NotStarted::NotWaiting);
        }
        let request = api::StartRequest { id: self.id.clone(), ..api::StartRequest::default() };
        let started = self.foreign.call::<api::StartResponse>("Start", &request, CALL);
        started.map(drop).map_err(|refusal| NotStarted::Failed(refusal.message))
    }

    /// Starts a further process, in the group of its own that it is given.
    pub(crate) fn exec(
        &self,
        poll: &Poll,
        bundle: &Path,
        further: Further<'_>,
        stdio: &runner::Stdio,
        group: &Cgroup,
    ) -> Result<Started, Refusal> {
        if self.has_ended() {
            return Err(Refusal::state(format!("container {} has ended", self.id)));
        }
        let streams = Streams::of(stdio)?;
        let mut process = further.process(&read_spec(bundle)?)?;
        process.set_terminal(Some(false));
        let value = serde_json::to_vec(&process).map_err(|e| Refusal::internal("write the process", &e))?;
        self.foreign.execs.set(self.foreign.execs.get() + 1);
        let exec_id = format!("e{}", self.foreign.execs.get());
        let request = api::ExecProcessRequest {
            id: self.id.clone(),
            exec_id: exec_id.clone(),
            stdin: streams.stdin.clone(),
            stdout: streams.stdout.clone(),
            stderr: streams.stderr.clone(),
            spec: MessageField::some(Any { type_url: OCI_PROCESS.to_owned(), value, ..Any::default() }),
            ..api::ExecProcessRequest::default()
        };
        self.foreign.call::<api::Empty>("Exec", &request, QUICK)?;
        match self.start_exec(poll, &exec_id) {
            Ok(pid) => {
                gather(&self.cgroup, group, pid);
                self.foreign.let_input_end(&self.id, &exec_id, stdio, &streams);
                Ok((pid, None))
            }
            Err(refusal) => {
                let _ = self.foreign.delete(&self.id, &exec_id);
                if self.has_ended() {
                    return Err(Refusal::state(format!("container {} has ended", self.id)));
                }
                // With other people's programs the command is to blame most often.
                Err(Refusal::invalid(refusal.message))
            }
        }
    }

    fn start_exec(&self, poll: &Poll, exec_id: &str) -> Result<Pid, Refusal> {
        let request = api::StartRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            ..api::StartRequest::default()
        };
        let started: api::StartResponse = self.foreign.call("Start", &request, CALL)?;
        let pid = i32::try_from(started.pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| self.foreign.failed("Start", "it names no process"))?;
        // A short one may have ended, and the shim has reaped it then.
        let pidfd = sys::pidfd::open(pid).ok();
        self.foreign.wait(poll, &self.id, exec_id, pid, pidfd)?;
        Ok(pid)
    }

    /// Has the shim forget it.
    pub(crate) fn removed(&self) -> Vec<String> {
        self.foreign.delete(&self.id, "").err().map(|refusal| refusal.message).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_reads_a_pipe_is_known() {
        let (reader, writer) = io::pipe().expect("pipe");
        let (reader, writer): (OwnedFd, OwnedFd) = (reader.into(), writer.into());
        let own = std::process::id();
        assert!(reads(own, &writer), "by its other end, too");
        drop(reader);
        assert!(!reads(own, &writer));
    }
}
