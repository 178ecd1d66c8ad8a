//! A process in a container that a client talks to (Exec of containerd's Task API).
//!
//! ```text
//!            Exec           Start                its process ends
//! (absent) -------> Made ----------> Running ---------------------> Ending
//!     ^               |                                               | its terminal's output is with
//!     |               +--- cannot be executed ---+                    | the client, or DRAIN is over
//!     |        Delete                            v                    |
//!     +---------------------------------------- Ended <---------------+
//!            or the client that it is bound to is gone
//! ```
//!
//! Without a terminal the client's FIFOs are the process's own descriptors: no byte goes through the
//! shim. What the process leaves in the background lives on in the group that the process had.
//!
//! One that is bound to its client hangs up with it, terminal or not: when the connection that asked for
//! it breaks, all of its group get SIGHUP, as that is the end of whatever was to read and type there.

use crate::connection::ReplyTo;
use crate::exec::is_removed;
use crate::fifo::{Address, Ends};
use crate::framing::now_nanos;
use crate::launch::{Further, Handler};
use crate::poll::End;
use crate::reaper::{KILLED, START_FAILED};
use crate::serve::{Shim, bounded};
use crate::task::{LONGEST_ID, timestamp};
use crate::terminal::Terminal;
use crate::wire::{Payload, Refusal, chain};
use cgroup::Cgroup;
use containerd_shim_protos::api;
use std::time::{Duration, Instant};
use sys::rustix::fd::OwnedFd;
use sys::rustix::io::ioctl_fionbio;
use sys::rustix::process::{Pid, Signal, kill_process};
use sys::rustix::termios::Winsize;
use ttrpc::proto::Code;

/// Processes with clients in one pod.
const MOST: usize = 1024;
/// Bytes that the specifications of all processes that are not started yet may have together.
const MOST_WAITING: usize = 16 << 20;
/// How long a terminal's client may take for what is left after the process's end, before that end is
/// told anyway.
const DRAIN: Duration = Duration::from_secs(10);

/// What a process that is not started yet will get.
#[derive(Debug)]
struct Made {
    /// Its specification as JSON, which was understood once.
    process: Vec<u8>,
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    size: Option<Winsize>,
}

/// Where it is in its life; see the head of this file.
#[derive(Debug)]
enum State {
    Made(Box<Made>),
    Running { pid: Pid, cgroup: Cgroup },
    Ending { end: Ended, until: Instant },
    Ended(Ended),
}

#[derive(Debug, Clone, Copy)]
struct Ended {
    pid: u32,
    code: u32,
    at: i64,
}

/// A process with a client.
#[derive(Debug)]
pub(crate) struct Session {
    key: u32,
    /// Its container's key.
    container: u32,
    id: Box<str>,
    /// As in the request, for State: stdin, stdout, stderr.
    addresses: [Box<str>; 3],
    terminal: bool,
    state: State,
    /// Its group, if its process has left something there.
    left: Option<Cgroup>,
    /// The client's ends, where they are held open: stdin, stdout, stderr.
    held: [Option<OwnedFd>; 3],
    /// Its terminal, while it runs or has output left.
    console: Option<Terminal>,
    /// Calls that wait for its end.
    waiting: Vec<ReplyTo>,
    /// The connection of the client that it is bound to.
    client: Option<u32>,
    /// That client is gone.
    orphan: bool,
}

impl Session {
    fn pid(&self) -> u32 {
        match &self.state {
            State::Made(_) => 0,
            State::Running { pid, .. } => pid.as_raw_nonzero().get().unsigned_abs(),
            State::Ending { end, .. } | State::Ended(end) => end.pid,
        }
    }

    fn ended(&self) -> Option<Ended> {
        match &self.state {
            State::Ended(end) => Some(*end),
            State::Made(_) | State::Running { .. } | State::Ending { .. } => None,
        }
    }

    /// Where its processes are, its own or what that left.
    fn group(&self) -> Option<&Cgroup> {
        match &self.state {
            State::Running { cgroup, .. } => Some(cgroup),
            State::Made(_) | State::Ending { .. } | State::Ended(_) => self.left.as_ref(),
        }
    }

    /// When the loop has to look at it again.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Ending { until, .. } => Some(*until),
            State::Made(_) | State::Running { .. } | State::Ended(_) => None,
        }
    }

    /// Whether nobody can ask for it any more, or waits for what its terminal showed.
    fn is_forgotten(&self) -> bool {
        let over = match &self.state {
            State::Made(_) | State::Ended(_) => true,
            State::Running { .. } | State::Ending { .. } => false,
        };
        self.orphan && over && self.console.is_none()
    }
}

fn wait_response(end: Ended) -> Result<Payload, Refusal> {
    Payload::of(&api::WaitResponse {
        exit_status: end.code,
        exited_at: timestamp(end.at),
        ..api::WaitResponse::default()
    })
}

impl Shim {
    /// The process `id` of a container.
    fn session(&self, container: &str, id: &str) -> Result<usize, Refusal> {
        let key = self.containers[self.find(container)?].key;
        let found = self.sessions.iter().position(|session| session.container == key && *session.id == *id);
        found.ok_or_else(|| {
            let id: String = id.chars().take(LONGEST_ID).collect();
            Refusal::not_found(format!("exec_id: no process {id:?}"))
        })
    }

    /// Exec: opens the streams of a process that Start then starts.
    pub(crate) fn exec(
        &mut self,
        reply_to: ReplyTo,
        request: api::ExecProcessRequest,
    ) -> Result<(), Refusal> {
        if request.exec_id.is_empty() || request.exec_id.len() > LONGEST_ID {
            return Err(Refusal::invalid(format!("exec_id: want 1 to {LONGEST_ID} bytes")));
        }
        let index = self.running(&request.id)?;
        if self.session(&request.id, &request.exec_id).is_ok() {
            let text = format!("exec_id: process {} exists", request.exec_id);
            return Err(Refusal::new(Code::ALREADY_EXISTS, text));
        }
        let process = request.spec.into_option().map(|any| any.value).unwrap_or_default();
        serde_json::from_slice::<oci_spec::runtime::Process>(&process)
            .map_err(|e| Refusal::invalid(format!("spec: not the OCI process as JSON: {e}")))?;
        self.room_for(process.len())?;
        self.spare_descriptors()?;
        let stdin = Address::parse("stdin", &request.stdin)?;
        let stdout = Address::parse("stdout", &request.stdout)?;
        let stderr = match Address::parse("stderr", &request.stderr)? {
            // containerd names one all the same, and nobody opens it.
            Address::Held(_) if request.terminal => Address::Nothing(false),
            Address::Bound(_) | Address::Nothing(true) if request.terminal => {
                return Err(Refusal::invalid("stderr: a terminal has none of its own"));
            }
            address @ (Address::Nothing(_) | Address::Bound(_) | Address::Held(_)) => address,
        };
        let bound = [stdin, stdout, stderr].into_iter().any(Address::is_bound);
        let stdin = Ends::input("stdin", stdin)?;
        let stdout = Ends::output("stdout", stdout)?;
        let stderr = Ends::output("stderr", stderr)?;
        let made = Made { process, stdin: stdin.own, stdout: stdout.own, stderr: stderr.own, size: None };
        let key = self.next_key();
        self.tell_exec_added(&request.id, &request.exec_id);
        self.sessions.push(Session {
            key,
            container: self.containers[index].key,
            id: request.exec_id.into(),
            addresses: [request.stdin.into(), request.stdout.into(), request.stderr.into()],
            terminal: request.terminal,
            state: State::Made(Box::new(made)),
            left: None,
            held: [stdin.other, stdout.other, stderr.other],
            console: None,
            waiting: Vec::new(),
            client: bound.then_some(reply_to.connection),
            orphan: false,
        });
        Ok(())
    }

    /// Room for one more. Ends that no client of ours asked for yet are forgotten for it, oldest first.
    fn room_for(&mut self, bytes: usize) -> Result<(), Refusal> {
        if self.sessions.len() >= MOST {
            let ended = self.sessions.iter().enumerate().filter(|(_, session)| session.client.is_some());
            let ended = ended.filter_map(|(index, session)| Some((session.ended()?.at, index)));
            if let Some((_, index)) = ended.min() {
                self.forget_session(index);
            }
        }
        if self.sessions.len() >= MOST {
            return Err(Refusal::new(
                Code::RESOURCE_EXHAUSTED,
                format!("{MOST} processes with clients run in this pod"),
            ));
        }
        let waiting = self.sessions.iter().map(|session| match &session.state {
            State::Made(made) => made.process.len(),
            State::Running { .. } | State::Ending { .. } | State::Ended(_) => 0,
        });
        if waiting.sum::<usize>() + bytes > MOST_WAITING {
            let text = format!("spec: more than {MOST_WAITING} bytes wait to be started");
            return Err(Refusal::new(Code::RESOURCE_EXHAUSTED, text));
        }
        Ok(())
    }

    /// Start of a process; gives its number.
    pub(crate) fn start_session(&mut self, container: &str, id: &str) -> Result<u32, Refusal> {
        let index = self.session(container, id)?;
        let State::Made(_) = &self.sessions[index].state else {
            return Err(Refusal::state(format!("exec_id: process {id} was started")));
        };
        let of = self.running(container)?;
        let unknown = State::Ended(Ended { pid: 0, code: START_FAILED, at: now_nanos() });
        let session = &mut self.sessions[index];
        let State::Made(made) = std::mem::replace(&mut session.state, unknown) else { return Ok(0) };
        let (key, terminal) = (session.key, session.terminal);
        match self.launch(of, key, terminal, *made) {
            Ok((pid, cgroup, console)) => {
                let session = &mut self.sessions[index];
                session.state = State::Running { pid, cgroup };
                session.console = console;
                let pid = session.pid();
                self.tell_exec_started(container, id, pid);
                Ok(pid)
            }
            Err(refusal) => {
                self.tell_session(index);
                Err(refusal)
            }
        }
    }

    fn launch(
        &mut self,
        container: usize,
        key: u32,
        terminal: bool,
        made: Made,
    ) -> Result<(Pid, Cgroup, Option<Terminal>), Refusal> {
        let Made { process, stdin, stdout, stderr, size } = made;
        let mut process: oci_spec::runtime::Process = serde_json::from_slice(&process)
            .map_err(|e| Refusal::invalid(format!("spec: not the OCI process as JSON: {e}")))?;
        process.set_terminal(Some(terminal));
        let internal = |what: &'static str| move |e: std::io::Error| Refusal::internal(what, &e);
        let (stdio, client) = if terminal {
            (runner::Stdio::Terminal, (stdin, stdout))
        } else {
            // The process's own from now on: it may wait in its reads and writes.
            let own = |fd: Option<OwnedFd>| match fd {
                Some(fd) => ioctl_fionbio(&fd, false).map(|()| fd).map_err(std::io::Error::from),
                None => crate::logfile::null(),
            };
            let files = own(stdin).and_then(|stdin| Ok((stdin, own(stdout)?, own(stderr)?)));
            let (stdin, stdout, stderr) = files.map_err(internal("prepare the streams"))?;
            (runner::Stdio::Files { stdin, stdout, stderr }, (None, None))
        };
        let of = &self.containers[container];
        let cgroup = of.process.cgroup().sub(&format!("exec-{key}"));
        let cgroup = cgroup.map_err(|e| Refusal::internal("make a cgroup", &e))?;
        let started = of.process.exec(self, &of.bundle, Further::Process(Box::new(process)), stdio, &cgroup);
        let (pid, master) = match started {
            Ok(started) => started,
            Err(refusal) => {
                self.forget_cgroup(cgroup);
                return Err(refusal);
            }
        };
        let console = master.map(|master| self.connect_terminal(key, master, client, size));
        match console.transpose() {
            Ok(console) => Ok((pid, cgroup, console)),
            Err(e) => {
                // Its terminal is closed with this; what does not mind that is ended.
                let _ = cgroup.kill();
                self.forget_cgroup(cgroup);
                Err(Refusal::internal("watch the terminal", &e))
            }
        }
    }

    fn connect_terminal(
        &self,
        key: u32,
        master: OwnedFd,
        (input, output): (Option<OwnedFd>, Option<OwnedFd>),
        size: Option<Winsize>,
    ) -> std::io::Result<Terminal> {
        ioctl_fionbio(&master, true)?;
        let mut terminal = Terminal::new(key, master, input, output);
        if let Some(size) = size {
            terminal.resize(size)?;
        }
        terminal.watch(&self.poll)?;
        Ok(terminal)
    }

    /// Something happened at a terminal's end.
    pub(crate) fn on_session(&mut self, key: u32, end: End) {
        let Some(index) = self.sessions.iter().position(|session| session.key == key) else { return };
        let session = &mut self.sessions[index];
        let Some(console) = &mut session.console else { return };
        if !console.on(end, &self.poll, &mut self.scratch) {
            self.hang_up(index);
        }
        self.settle_session(index, Instant::now());
    }

    fn hang_up(&mut self, index: usize) {
        if let Some(console) = self.sessions[index].console.take() {
            console.close(&self.poll);
        }
    }

    /// Its process has ended; false: it is none of them.
    pub(crate) fn session_ended(&mut self, pid: Pid, code: u32) -> bool {
        let runs =
            |session: &Session| matches!(&session.state, State::Running { pid: own, .. } if *own == pid);
        let Some(index) = self.sessions.iter().position(runs) else { return false };
        let session = &mut self.sessions[index];
        let end = Ended { pid: session.pid(), code, at: now_nanos() };
        let until = Instant::now() + DRAIN;
        let before = std::mem::replace(&mut session.state, State::Ending { end, until });
        if let State::Running { cgroup, .. } = before {
            session.left = (!is_removed(&cgroup)).then_some(cgroup);
        }
        self.settle_session(index, Instant::now());
        true
    }

    /// Tells the end of a process if what its terminal showed is with the client, or its time is over.
    fn settle_session(&mut self, index: usize, now: Instant) {
        let session = &mut self.sessions[index];
        let (end, over, told) = match &session.state {
            State::Made(_) | State::Running { .. } => return,
            State::Ending { end, until } => (*end, *until <= now, false),
            State::Ended(end) => (*end, true, true),
        };
        let drained = match &mut session.console {
            Some(console) => console.drain(&self.poll, &mut self.scratch),
            None => true,
        };
        if drained {
            self.hang_up(index);
        }
        if drained || over {
            let session = &mut self.sessions[index];
            session.state = State::Ended(end);
            if !told {
                self.tell_session_exit(index, end);
            }
            self.tell_session(index);
        }
    }

    /// Publishes an end, if there is a containerd.
    fn tell_session_exit(&mut self, index: usize, end: Ended) {
        let session = &self.sessions[index];
        let container = self.containers.iter().find(|container| container.key == session.container);
        if let Some(container) = container.filter(|_| self.is_containerds()) {
            let (container, id) = (container.id.clone(), session.id.clone());
            self.tell_end(&container, &id, end.pid, end.code, end.at);
        }
    }

    /// Answers who waits for an end that has come, and closes what is held.
    fn tell_session(&mut self, index: usize) {
        let session = &mut self.sessions[index];
        let Some(end) = session.ended() else { return };
        session.held = [None, None, None];
        for reply_to in std::mem::take(&mut session.waiting) {
            self.reply(reply_to, wait_response(end));
        }
    }

    /// Looks at each process whose time may be over, and forgets those that nobody can ask for.
    pub(crate) fn sessions_on_time(&mut self, now: Instant) {
        for index in 0..self.sessions.len() {
            if self.sessions[index].deadline().is_some_and(|at| at <= now) {
                self.settle_session(index, now);
            }
        }
        self.forget_sessions(Session::is_forgotten);
    }

    fn forget_sessions(&mut self, which: impl Fn(&Session) -> bool) {
        let mut index = 0;
        while index < self.sessions.len() {
            if which(&self.sessions[index]) {
                self.forget_session(index);
            } else {
                index += 1;
            }
        }
    }

    /// Who still waits for it would wait for ever.
    fn forget_session(&mut self, index: usize) {
        self.hang_up(index);
        let session = self.sessions.swap_remove(index);
        if let Some(left) = session.left {
            self.forget_cgroup(left);
        }
        for reply_to in session.waiting {
            let text = format!("exec_id: process {} is forgotten", session.id);
            self.reply(reply_to, Err(Refusal::not_found(text)));
        }
    }

    /// A connection is closed: what was bound to it is hung up, and forgotten when it is over. It is only
    /// marked here: this is reached from the middle of answers.
    pub(crate) fn orphan_sessions(&mut self, connection: u32) {
        let mut failed = Vec::new();
        for session in &mut self.sessions {
            session.waiting.retain(|reply_to| reply_to.connection != connection);
            if session.client == Some(connection) {
                session.orphan = true;
                if let Some(Err(e)) = session.group().map(|group| group.signal(Signal::HUP)) {
                    failed.push(format!("hang up process {}: {}", session.id, chain(&e)));
                }
                // Nothing else would tell a terminal that only listened.
                if let Some(console) = session.console.take_if(|console| !console.has_output()) {
                    console.close(&self.poll);
                }
            }
        }
        failed.iter().for_each(|text| self.log(text));
    }

    /// The container is deleted: all of its processes were killed before.
    pub(crate) fn end_sessions_of(&mut self, container: u32) {
        for index in 0..self.sessions.len() {
            let session = &mut self.sessions[index];
            if session.container == container && session.ended().is_none() {
                let end = match &session.state {
                    State::Ending { end, .. } | State::Ended(end) => *end,
                    State::Made(_) | State::Running { .. } => {
                        Ended { pid: session.pid(), code: KILLED, at: now_nanos() }
                    }
                };
                session.state = State::Ended(end);
                self.tell_session(index);
            }
        }
        self.forget_sessions(|session| session.container == container);
    }

    /// Wait for a process; no end: it is told later.
    pub(crate) fn wait_session(
        &mut self,
        reply_to: ReplyTo,
        request: &api::WaitRequest,
    ) -> Result<Option<Payload>, Refusal> {
        let index = self.session(&request.id, &request.exec_id)?;
        let session = &mut self.sessions[index];
        if let Some(end) = session.ended() {
            return wait_response(end).map(Some);
        }
        bounded(session.waiting.len(), "Wait")?;
        session.waiting.push(reply_to);
        Ok(None)
    }

    /// Kill of a process, or of all that it forked too, also if only those are left.
    pub(crate) fn kill_session(&mut self, request: &api::KillRequest, signal: Signal) -> Result<(), Refusal> {
        let session = &self.sessions[self.session(&request.id, &request.exec_id)?];
        if let Some(group) = session.group().filter(|_| request.all) {
            return crate::task::kill_group(group, signal);
        }
        match &session.state {
            State::Made(_) => Err(Refusal::state(format!("exec_id: process {} is not started", session.id))),
            // A foreign shim may have reaped it, and its number may be another's.
            State::Running { pid, cgroup }
                if matches!(self.handler, Handler::Shim(_))
                    && !cgroup.processes().is_ok_and(|all| all.contains(&pid.as_raw_pid())) =>
            {
                Err(Refusal::not_found(format!("exec_id: process {} has ended", session.id)))
            }
            // Not reaped, so the number is its own.
            State::Running { pid, .. } => {
                kill_process(*pid, signal).map_err(|e| Refusal::internal("signal the process", &e))
            }
            State::Ending { .. } | State::Ended(_) => {
                Err(Refusal::not_found(format!("exec_id: process {} has ended", session.id)))
            }
        }
    }

    /// Delete of a process that does not run.
    pub(crate) fn delete_session(
        &mut self,
        request: &api::DeleteRequest,
    ) -> Result<api::DeleteResponse, Refusal> {
        let index = self.session(&request.id, &request.exec_id)?;
        let session = &self.sessions[index];
        let end = match &session.state {
            State::Made(_) => Ended { pid: 0, code: 0, at: 0 },
            State::Ended(end) => *end,
            State::Running { .. } | State::Ending { .. } => {
                return Err(Refusal::state(format!("exec_id: process {} has not ended", session.id)));
            }
        };
        if self.sessions[index].console.is_some() {
            // Its client still reads what its terminal showed: it stays so long, without a name.
            let session = &mut self.sessions[index];
            (session.id, session.orphan) = (Box::default(), true);
        } else {
            self.forget_session(index);
        }
        Ok(api::DeleteResponse {
            pid: end.pid,
            exit_status: end.code,
            exited_at: timestamp(end.at),
            ..api::DeleteResponse::default()
        })
    }

    /// State of a process.
    pub(crate) fn session_state(&self, request: &api::StateRequest) -> Result<api::StateResponse, Refusal> {
        let session = &self.sessions[self.session(&request.id, &request.exec_id)?];
        let container = &self.containers[self.find(&request.id)?];
        let (status, end) = match &session.state {
            State::Made(_) => (api::Status::CREATED, None),
            State::Running { .. } | State::Ending { .. } => (api::Status::RUNNING, None),
            State::Ended(end) => (api::Status::STOPPED, Some(*end)),
        };
        let [stdin, stdout, stderr] = session.addresses.clone().map(String::from);
        Ok(api::StateResponse {
            id: request.id.clone(),
            exec_id: request.exec_id.clone(),
            bundle: container.bundle.to_string_lossy().into_owned(),
            pid: session.pid(),
            status: status.into(),
            stdin,
            stdout,
            stderr,
            terminal: session.terminal,
            exit_status: end.map_or(0, |end| end.code),
            exited_at: timestamp(end.map_or(0, |end| end.at)),
            ..api::StateResponse::default()
        })
    }

    /// ResizePty of a process; one that is not started gets the size with its start.
    pub(crate) fn resize_session(
        &mut self,
        request: &api::ResizePtyRequest,
        size: Winsize,
    ) -> Result<(), Refusal> {
        let index = self.session(&request.id, &request.exec_id)?;
        let session = &mut self.sessions[index];
        if !session.terminal {
            return Err(Refusal::state(format!("exec_id: process {} has no terminal", session.id)));
        }
        if let State::Made(made) = &mut session.state {
            made.size = Some(size);
        }
        match &session.console {
            Some(console) => console.resize(size).map_err(|e| Refusal::internal("resize the terminal", &e)),
            // Not made yet, or gone with its process.
            None => Ok(()),
        }
    }

    /// CloseIO of a process: no more input comes.
    pub(crate) fn close_session_input(&mut self, container: &str, id: &str) -> Result<(), Refusal> {
        let index = self.session(container, id)?;
        let session = &mut self.sessions[index];
        let [stdin, ..] = &mut session.held;
        *stdin = None;
        if let Some(console) = &mut session.console {
            console.end_input(&self.poll);
        }
        Ok(())
    }
}
