//! The loop: one thread, one epoll instance, no work that waits. Everything of a pod is here.

use crate::connection::{Call, Closed, Connection, ReplyTo};
use crate::container::Container;
use crate::containerd::{Containerd, Origin};
use crate::exec::Exec;
use crate::launch::Handler;
use crate::output::Scratch;
use crate::poll::{End, Interest, Poll, Source, Stream};
use crate::session::Session;
use crate::task::MOST_CONTAINERS;
use crate::wire::{Payload, Refusal};
use cgroup::Cgroup;
use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use sys::libc;
use sys::rustix::fd::{AsRawFd as _, OwnedFd};
use sys::rustix::io::{Errno, fcntl_dupfd_cloexec, ioctl_fionbio};
use sys::rustix::net::{SocketFlags, accept_with, sockopt::socket_acceptconn};
use sys::rustix::process::{Pid, Resource, getpid, getrlimit, set_child_subreaper, setsid};
use sys::signalfd::SignalFd;
use ttrpc::proto::Code;

/// Clients at once, beside those that a containerd has for its containers.
const MOST_CONNECTIONS: usize = 64;
/// Descriptors that stay free for clients and short-lived needs.
const SPARE: u64 = 128;
/// Quiet time after which the heap is given back.
const QUIET: Duration = Duration::from_millis(500);
/// Name of the seccomp programs' directory beneath the shim's.
const SECCOMP_CACHE: &str = "seccomp";

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    /// The pod.
    pub(crate) id: String,
    /// The shim's own directory.
    pub(crate) directory: PathBuf,
    /// Where compiled seccomp programs are kept; beneath `directory` if not given.
    pub(crate) seccomp_cache: Option<PathBuf>,
    /// The pod's containers share one PID namespace.
    pub(crate) pause: bool,
    /// The pod's user namespace, which holds that one.
    pub(crate) userns: Option<PathBuf>,
    /// The longest piece of a line in a log: [`types::shim::LOG_LINE`].
    pub(crate) log_line: usize,
    /// What makes the containers; none: our own runner.
    pub(crate) handler: Option<types::handler::Handler>,
    /// A containerd started it, and not our daemon.
    pub(crate) origin: Option<Origin>,
}

/// The whole shim.
#[derive(Debug)]
pub(crate) struct Shim {
    /// The pod's id.
    pub(crate) id: String,
    /// Where compiled seccomp programs are kept.
    pub(crate) seccomp_cache: PathBuf,
    /// The longest piece of a line in a log, bytes.
    pub(crate) log_line: usize,
    /// What the loop waits for.
    pub(crate) poll: Poll,
    listener: OwnedFd,
    signals: SignalFd,
    connections: Vec<Connection>,
    /// The pod's containers.
    pub(crate) containers: Vec<Container>,
    /// Commands that run in them.
    pub(crate) execs: Vec<Exec>,
    /// Processes in them with clients.
    pub(crate) sessions: Vec<Session>,
    /// Watch calls that wait, with the last exit that each knows.
    pub(crate) watchers: Vec<(ReplyTo, u64)>,
    /// WaitSandbox calls.
    pub(crate) sandbox_waiters: Vec<ReplyTo>,
    /// StopSandbox and Shutdown calls that wait for the end of all containers; true ends the shim.
    pub(crate) stops: Vec<(ReplyTo, bool)>,
    /// cgroups of commands that still have processes.
    pub(crate) leftovers: VecDeque<Cgroup>,
    /// Shared buffers.
    pub(crate) scratch: Scratch,
    /// Bytes that all captures hold.
    pub(crate) spent: usize,
    /// The process that holds the shared PID namespace.
    pub(crate) pause: Option<Pid>,
    /// Exits told so far.
    pub(crate) exits: u64,
    /// What makes the containers.
    pub(crate) handler: Handler,
    /// The host's cgroup hierarchies, looked up once.
    pub(crate) mounts: Option<cgroup::Mounts>,
    /// When the shim started, nanoseconds since the Unix epoch.
    pub(crate) created_at: i64,
    /// The containerd that started it.
    pub(crate) containerd: Option<Box<Containerd>>,
    next_key: u32,
    /// There is memory to give back.
    busy: bool,
    /// Leave the loop.
    pub(crate) done: bool,
}

/// Runs the shim on the listening socket that is its standard input, until Shutdown.
///
/// # Errors
/// What keeps it from serving at all.
pub(crate) fn serve(options: Options) -> io::Result<()> {
    // Its own session: no signal of the daemon's terminal comes here. It fails only for a leader.
    let _ = setsid();
    // It was executed by descriptor, whose number would be its name in the process table.
    let _ = sys::rustix::thread::set_name(c"containerd-shim");
    let listener = take_listener()?;
    let pause = if options.pause { Some(crate::pause::start(options.userns.as_deref())?) } else { None };
    set_child_subreaper(Some(getpid()))?;
    // Only Shutdown ends a shim: a signal that is meant for the daemon must not end its pods.
    let signals =
        SignalFd::block(&[libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT])?;
    let seccomp_cache = options.seccomp_cache.unwrap_or_else(|| options.directory.join(SECCOMP_CACHE));
    let mut shim = Shim::new(options.id, seccomp_cache, listener, signals, pause)?;
    shim.log_line = options.log_line;
    shim.handler = Handler::new(options.handler, &shim.id, &options.directory);
    shim.containerd = options.origin.map(Containerd::new).transpose()?.map(Box::new);
    shim.run()?;
    shim.last_words();
    Ok(())
}

/// Takes the listening socket off standard input, which becomes /dev/null.
fn take_listener() -> io::Result<OwnedFd> {
    // Not std's: that has a buffer of 8 KiB.
    let stdin = sys::rustix::stdio::stdin();
    if !socket_acceptconn(stdin).unwrap_or(false) {
        return Err(io::Error::other("standard input is not a listening socket"));
    }
    let listener = fcntl_dupfd_cloexec(stdin, 3)?;
    // Once more, for the kernel's sake: who connects from now on has this process as its peer (SO_PEERCRED, unix(7)),
    // and can find it also when it does not answer. As long a queue as the system lets it be, as before.
    sys::rustix::net::listen(&listener, -1)?;
    sys::rustix::stdio::dup2_stdin(crate::logfile::null()?)?;
    ioctl_fionbio(&listener, true)?;
    Ok(listener)
}

impl Shim {
    /// A shim without containers.
    pub(crate) fn new(
        id: String,
        seccomp_cache: PathBuf,
        listener: OwnedFd,
        signals: SignalFd,
        pause: Option<Pid>,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        poll.add(&listener, Source::Listener, Interest::READ)?;
        poll.add(&signals, Source::Signals, Interest::READ)?;
        Ok(Self {
            id,
            seccomp_cache,
            log_line: types::shim::LOG_LINE_DEFAULT,
            poll,
            listener,
            signals,
            connections: Vec::new(),
            containers: Vec::new(),
            execs: Vec::new(),
            sessions: Vec::new(),
            watchers: Vec::new(),
            sandbox_waiters: Vec::new(),
            stops: Vec::new(),
            leftovers: VecDeque::new(),
            scratch: Scratch::default(),
            spent: 0,
            pause,
            exits: 0,
            handler: Handler::default(),
            mounts: None,
            created_at: crate::framing::now_nanos(),
            containerd: None,
            next_key: 0,
            busy: true,
            done: false,
        })
    }

    /// Serves until it is done.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        while !self.done {
            let now = Instant::now();
            let quiet = self.busy.then(|| now + QUIET);
            let deadline = [self.deadline(), quiet].into_iter().flatten().min();
            let ready = self.poll.wait(deadline.map(|at| at.saturating_duration_since(now)))?;
            if ready.is_empty() && self.busy && quiet.is_some_and(|at| at <= Instant::now()) {
                self.give_back();
            }
            for source in ready {
                self.busy = true;
                self.on(source);
            }
            self.on_time(Instant::now());
        }
        Ok(())
    }

    fn on(&mut self, source: Source) {
        match source {
            Source::Listener => self.accept(),
            Source::Signals => {
                while let Ok(Some(_)) = self.signals.take() {}
                self.reap();
                self.sweep_cgroups();
            }
            Source::Connection(id) => self.on_connection(id),
            Source::Output(key, stream) => self.on_output(key, stream),
            Source::Exec(key, stream) => self.exec_readable(key, stream),
            Source::Session(key, end) => self.on_session(key, end),
            Source::Attached(key, end) => self.on_attached(key, end),
            Source::Input(key) => self.on_input(key),
            Source::Events => self.on_events(),
            Source::Handler => {
                if let Handler::Shim(foreign) = &self.handler {
                    foreign.on_readable();
                }
            }
            Source::HandlerProcess(stream) => {
                if let Handler::Shim(foreign) = &self.handler {
                    foreign.on_process(&self.poll, stream);
                }
            }
            Source::HandlerLog => {
                if let Handler::Shim(foreign) = &self.handler
                    && let Some(text) = foreign.on_log()
                {
                    self.log(&text);
                }
            }
        }
    }

    /// Refuses what takes descriptors when few are left, so that clients are always heard.
    pub(crate) fn spare_descriptors(&self) -> Result<(), Refusal> {
        let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        // The lowest free number says how many are in use.
        let free = fcntl_dupfd_cloexec(&self.listener, 0).map(|fd| u64::from(fd.as_raw_fd().unsigned_abs()));
        if free.is_ok_and(|free| free.saturating_add(SPARE) < most) {
            return Ok(());
        }
        let text = format!("the shim may have {most} descriptors, and {SPARE} are kept for its clients");
        Err(Refusal::new(Code::RESOURCE_EXHAUSTED, text))
    }

    /// The next moment at which something is due without an event.
    fn deadline(&self) -> Option<Instant> {
        let containers = self.containers.iter().filter_map(Container::deadline);
        let execs = self.execs.iter().filter_map(Exec::deadline);
        let handler = match &self.handler {
            Handler::Shim(foreign) => foreign.deadline(),
            Handler::Own | Handler::Oci(_) => None,
        };
        let sessions = self.sessions.iter().filter_map(Session::deadline);
        containers.chain(execs).chain(sessions).chain(handler).chain(self.events_deadline()).min()
    }

    fn on_time(&mut self, now: Instant) {
        self.handler_news(now);
        for index in 0..self.containers.len() {
            self.let_slow_clients_go(index, now);
            self.containers[index].let_fifos_go(now);
            let container = &self.containers[index];
            if container.retry_at.is_some_and(|at| at <= now) {
                self.retry(index, now);
            } else if container.deadline().is_some_and(|at| at <= now) {
                self.settle(index, now);
            }
        }
        self.execs_on_time(now);
        self.sessions_on_time(now);
        self.events_on_time(now);
    }

    fn on_output(&mut self, key: u32, stream: Stream) {
        let Some(index) = self.containers.iter().position(|container| container.key == key) else { return };
        self.containers[index].output.read(stream, &self.poll, &mut self.scratch);
        self.after_output(index);
        self.settle(index, Instant::now());
    }

    /// A client of a container's own streams wrote, takes more, or is gone.
    fn on_attached(&mut self, key: u32, end: End) {
        let Some(index) = self.containers.iter().position(|c| c.output.attached.has(key)) else { return };
        let Container { input, output, .. } = &mut self.containers[index];
        if end == End::Stdin {
            input.on_client(key, &mut output.attached, &self.poll, &mut self.scratch);
            return;
        }
        output.attached.on_output(key, end, &self.poll);
        self.after_output(index);
        self.settle(index, Instant::now());
    }

    /// A container takes more input.
    fn on_input(&mut self, key: u32) {
        let Some(container) = self.containers.iter_mut().find(|container| container.key == key) else {
            return;
        };
        container.input.on_target(&mut container.output.attached, &self.poll);
    }

    /// A name that was not used before.
    pub(crate) fn next_key(&mut self) -> u32 {
        self.next_key = self.next_key.wrapping_add(1);
        self.next_key
    }

    /// A line to the shim's own log. It never fails: nothing may depend on it.
    pub(crate) fn log(&self, text: &str) {
        let _ = writeln!(io::stderr(), "{text}");
    }

    fn give_back(&mut self) {
        self.busy = false;
        // Processes in a PID namespace end without this one being told.
        self.sweep_cgroups();
        self.scratch.release();
        for container in &mut self.containers {
            container.output.shrink();
        }
        sys::heap::trim();
        sys::heap::trim_stack();
    }

    fn accept(&mut self) {
        let socket = match accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(socket) => socket,
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return,
            Err(e) => {
                self.log(&format!("accept: {}", io::Error::from(e)));
                return;
            }
        };
        // containerd has one for each container.
        let containers = if self.is_containerds() { MOST_CONTAINERS } else { 0 };
        if self.connections.len() >= MOST_CONNECTIONS + containers {
            self.log("a client more than there may be was turned away");
            return;
        }
        let id = self.next_key();
        match self.poll.add(&socket, Source::Connection(id), Interest::READ) {
            Ok(()) => self.connections.push(Connection::new(id, socket)),
            Err(e) => self.log(&format!("watch a client: {e}")),
        }
    }

    fn on_connection(&mut self, id: u32) {
        let Some(connection) = self.connections.iter_mut().find(|c| c.id == id) else { return };
        let mut calls = Vec::new();
        let mut result = connection.transmit();
        if result.is_ok() && connection.wants_read() {
            result = connection.receive(self.scratch.read()).map(|received| calls = received);
        }
        // What came whole before a client's end still counts: it may have asked for a kill and left.
        for call in calls {
            self.call(call);
        }
        match result {
            Ok(()) => self.flush(id),
            Err(closed) => self.disconnect(id, &closed),
        }
    }

    fn call(&mut self, call: Call) {
        let Call { reply_to, request } = call;
        let answer = match request.service.as_str() {
            // The messages of both versions are the same.
            "containerd.task.v2.Task" | "containerd.task.v3.Task" => {
                self.task_call(reply_to, &request.method, &request.payload)
            }
            // containerd's own controller makes the pod; with that of a shim there would be no network.
            "containerd.runtime.sandbox.v1.Sandbox" if !self.is_containerds() => {
                self.sandbox_call(reply_to, &request.method, &request.payload)
            }
            types::shim::SERVICE => self.pod_call(reply_to, &request.method, &request.payload),
            _ => Err(Refusal::unimplemented(&format!("service {}", request.service))),
        };
        match answer {
            Ok(None) => {}
            Ok(Some(payload)) => self.reply(reply_to, Ok(payload)),
            Err(refusal) => self.reply(reply_to, Err(refusal)),
        }
    }

    /// Answers a call; a client that has gone does not hear it.
    pub(crate) fn reply(&mut self, reply_to: ReplyTo, answer: Result<Payload, Refusal>) {
        if let Some(connection) = self.connections.iter_mut().find(|c| c.id == reply_to.connection) {
            connection.answer(reply_to.stream, answer);
            self.flush(reply_to.connection);
        }
    }

    /// Writes what a client takes and asks for the events that it then needs.
    fn flush(&mut self, id: u32) {
        let Some(connection) = self.connections.iter_mut().find(|c| c.id == id) else { return };
        let result = connection.transmit().and_then(|()| {
            let interest = Interest { read: connection.wants_read(), write: connection.wants_write() };
            self.poll
                .change(&connection.socket, Source::Connection(id), interest)
                .map_err(|e| Closed(e.to_string()))
        });
        if let Err(closed) = result {
            self.disconnect(id, &closed);
        }
    }

    /// Forgets a client with all its calls that wait. Commands whose output is captured go on to their
    /// end.
    fn disconnect(&mut self, id: u32, closed: &Closed) {
        if !closed.0.is_empty() {
            self.log(&format!("a client was closed: {}", closed.0));
        }
        if let Some(at) = self.connections.iter().position(|c| c.id == id) {
            let connection = self.connections.swap_remove(at);
            self.poll.remove(&connection.socket);
        }
        let other = |reply_to: &ReplyTo| reply_to.connection != id;
        self.orphan_sessions(id);
        self.watchers.retain(|(reply_to, _)| other(reply_to));
        self.sandbox_waiters.retain(other);
        for container in &mut self.containers {
            container.waiting.retain(other);
            container.let_go.retain(|(reply_to, _)| other(reply_to));
        }
    }
}

/// Bounds how many calls of one kind wait.
pub(crate) fn bounded(waiting: usize, what: &str) -> Result<(), Refusal> {
    const MOST: usize = 256;
    if waiting < MOST {
        return Ok(());
    }
    Err(Refusal::new(Code::RESOURCE_EXHAUSTED, format!("{MOST} calls of {what} wait")))
}
