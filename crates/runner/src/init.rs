//! The child: from the clone to the exec of the workload.
//!
//! ```text
//! clone ─> own cgroup ─> namespaces ─> sources opened ─> root, mounts, devices by descriptor ─> pivot_root
//!       ─> hidden and read-only paths ─> limits, user ─> READY ... START ─> program found ─> capabilities,
//!       no_new_privs, seccomp ─> startContainer hooks ─> exec
//! ```
//! It runs on a copy of a single-threaded parent, so that it may allocate; it is not dumpable until the exec,
//! so that nothing in the container can look into that copy. Whatever fails is sent to the parent by name.

mod confine;
mod console;
mod devices;
mod hide;
mod home;
mod mounts;
pub(crate) mod outside;
mod root;

use crate::{
    Gate, Stdio,
    failure::{Failure, MOST_BYTES, Message, Step},
    hooks::Hooks,
    plan::{
        Plan,
        namespaces::{Join, Namespaces},
        process::ProcessPlan,
    },
};
use cgroup::Entry;
use std::{convert::Infallible, rc::Rc};
use sys::{
    namespace,
    rustix::{
        self,
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        fs::{self, Mode, OFlags, RawMode},
        io::Errno,
        thread::{LinkNameSpaceType, ThreadNameSpaceType, UnshareFlags},
    },
    socket,
};

/// Ends the child; its parent was told why.
const FAILED: i32 = 1;

/// What the child of a create takes over.
pub(crate) struct Init {
    pub(crate) plan: Plan,
    pub(crate) stdio: Stdio,
    pub(crate) entry: Entry,
    pub(crate) gate: Gate,
    pub(crate) channel: OwnedFd,
    pub(crate) hooks: Option<Rc<Hooks>>,
}

impl Init {
    /// All that the child owns: what it drops must still be open.
    pub(crate) fn descriptors(&self) -> Vec<RawFd> {
        let mut all = of_process(&self.stdio, &self.entry, &self.channel);
        all.extend(self.plan.namespaces.join.iter().map(|join| join.fd.as_raw_fd()));
        all.extend(self.plan.namespaces.join_pid.iter().map(AsRawFd::as_raw_fd));
        all.extend(self.plan.maps().map(|map| map.as_raw_fd()));
        if let Gate::Listener(listener) = &self.gate {
            all.push(listener.as_raw_fd());
        }
        all
    }
}

fn of_streams(stdio: &Stdio, channel: &OwnedFd) -> Vec<RawFd> {
    let mut all = vec![channel.as_raw_fd()];
    if let Stdio::Files { stdin, stdout, stderr } = stdio {
        all.extend([stdin, stdout, stderr].map(AsRawFd::as_raw_fd));
    }
    all
}

fn of_process(stdio: &Stdio, entry: &Entry, channel: &OwnedFd) -> Vec<RawFd> {
    let mut all = of_streams(stdio, channel);
    match entry {
        Entry::V1(files) => all.extend(files.iter().map(AsRawFd::as_raw_fd)),
        Entry::V2(dir) => all.push(dir.as_raw_fd()),
    }
    all
}

/// The first process of a container.
pub(crate) fn first(init: Init) -> Infallible {
    let Init { plan, stdio, entry, gate, channel, hooks } = init;
    let ready = set_up(&plan, stdio, entry, hooks.as_deref(), &channel);
    go_on(&plan, gate, channel, hooks.as_deref(), ready)
}

/// Says that it is ready, waits for the start, and executes the program.
fn go_on(
    plan: &Plan,
    gate: Gate,
    channel: OwnedFd,
    hooks: Option<&Hooks>,
    ready: Result<Option<OwnedFd>, Message>,
) -> Infallible {
    announce(&channel, ready);
    let channel = match gate {
        Gate::Creator => channel,
        Gate::Listener(listener) => {
            drop(channel);
            match rustix::net::accept_with(&listener, rustix::net::SocketFlags::CLOEXEC) {
                Ok(connected) => connected,
                Err(_) => sys::clone::leave(FAILED),
            }
        }
    };
    await_word(&channel, &Message::Start);
    confine::execute(&plan.process, hooks, &channel)
}

/// What the child of an exec takes over.
pub(crate) struct Joining<'a> {
    pub(crate) process: ProcessPlan,
    pub(crate) container: BorrowedFd<'a>,
    pub(crate) join: ThreadNameSpaceType,
    /// Whether it joins a user namespace, too.
    pub(crate) user: bool,
    pub(crate) stdio: Stdio,
    pub(crate) entry: Entry,
    pub(crate) channel: OwnedFd,
}

impl Joining<'_> {
    /// All that the child needs.
    pub(crate) fn descriptors(&self) -> Vec<RawFd> {
        let mut all = of_process(&self.stdio, &self.entry, &self.channel);
        all.push(self.container.as_raw_fd());
        all
    }
}

/// A further process of a container.
pub(crate) fn further(joining: Joining<'_>) -> Infallible {
    let Joining { process, container, join, user, stdio, entry, channel } = joining;
    let ready = (|| -> Result<_, Message> {
        if let Some(cpus) = &process.affinity.first {
            confine::set_affinity(cpus).step("set process.execCPUAffinity.initial")?;
        }
        enter_cgroup(entry)?;
        match &process.affinity.then {
            Some(cpus) => confine::set_affinity(cpus).step("set process.execCPUAffinity.final")?,
            None if process.affinity.first.is_some() => {}
            None => confine::reset_affinity(),
        }
        confine::set_oom_score_adj(&process)?;
        console::give_pipes(&stdio, &process)?;
        if user {
            confine::raise_limits(&process)?;
            let join = join | ThreadNameSpaceType::USER;
            namespace::join_process(container, join).step("join the container's namespaces")?;
            sys::userns::become_root().step("become root of the user namespace")?;
        } else {
            namespace::join_process(container, join).step("join the container's namespaces")?;
        }
        rustix::process::setsid().step("setsid")?;
        let root = root_of_container()?;
        let terminal = match stdio {
            Stdio::Terminal => Some(console::open(&root, &process)?),
            Stdio::Files { stdin, stdout, stderr } => {
                console::take_files([&stdin, &stdout, &stderr])?;
                None
            }
        };
        confine::label(&process)?;
        confine::become_user(&process, &root)?;
        Ok(terminal)
    })();
    announce(&channel, ready);
    await_word(&channel, &Message::Start);
    confine::execute(&process, None, &channel)
}

fn root_of_container() -> Result<sys::root::RootFd, Failure> {
    sys::root::RootFd::open("/").step("open the container's root")
}

fn set_up(
    plan: &Plan,
    stdio: Stdio,
    entry: Entry,
    hooks: Option<&Hooks>,
    channel: &OwnedFd,
) -> Result<Option<OwnedFd>, Message> {
    rustix::process::umask(Mode::empty());
    enter_cgroup(entry)?;
    confine::reset_affinity();
    // While /proc is still the host's.
    confine::set_oom_score_adj(&plan.process)?;
    console::give_pipes(&stdio, &plan.process)?;
    join_namespaces(&plan.namespaces)?;
    make_cgroup_namespace(&plan.namespaces)?;
    rustix::process::setsid().step("setsid")?;
    set_names(plan)?;
    let sources = mounts::open_sources(&plan.mounts)?;
    let root = root::mount(&plan.root)?;
    let made = Mounted { root, sources, nodes: devices::Source::Made };
    furnish(plan, &stdio, made, hooks, channel)
}

/// The root with what shall be in it.
struct Mounted {
    root: sys::root::RootFd,
    sources: Vec<mounts::Sources>,
    nodes: devices::Source,
}

/// All that is done in the new root, and up to the user.
fn furnish(
    plan: &Plan,
    stdio: &Stdio,
    made: Mounted,
    hooks: Option<&Hooks>,
    channel: &OwnedFd,
) -> Result<Option<OwnedFd>, Message> {
    let Mounted { root, sources, nodes } = made;
    let root = &root;
    let sources = mounts::open_in_root(root, &plan.mounts, sources)?;
    mounts::mount_all(root, &plan.mounts, sources)?;
    devices::make_all(root, &plan.devices, &nodes)?;
    let terminal = match stdio {
        Stdio::Terminal => {
            let terminal = console::open(root, &plan.process)?;
            console::mount_console(root)?;
            Some(terminal)
        }
        Stdio::Files { stdin, stdout, stderr } => {
            console::take_files([stdin, stdout, stderr])?;
            None
        }
    };
    write_sysctls(plan)?;
    confine::make_cwd(&plan.process, root)?;
    if let Some(hooks) = hooks {
        run_hooks(hooks, channel)?;
    }
    root::pivot(root)?;
    hide::read_only(root, &plan.readonly)?;
    hide::mask(root, &plan.masked)?;
    root::finish(root, &plan.root)?;
    confine::label(&plan.process)?;
    confine::become_user(&plan.process, root)?;
    Ok(terminal)
}

/// Those of the host by the parent, then those of the container by this process.
fn run_hooks(hooks: &Hooks, channel: &OwnedFd) -> Result<(), Message> {
    if hooks.any_of_runtime() {
        socket::send(channel, &Message::Made.to_bytes(), &[]).step("ask for the hooks")?;
        await_word(channel, &Message::GoOn);
    }
    // The process' own is set with its user.
    rustix::process::umask(Mode::from_raw_mode(0o022));
    hooks.run_create_container()?;
    rustix::process::umask(Mode::empty());
    Ok(())
}

fn enter_cgroup(entry: Entry) -> Result<(), Failure> {
    let Entry::V1(files) = entry else { return Ok(()) };
    for file in files {
        rustix::io::write(&file, b"0").step("enter the cgroup")?;
    }
    Ok(())
}

fn join_namespaces(namespaces: &Namespaces) -> Result<(), Failure> {
    for Join { kind, name, fd } in &namespaces.join {
        namespace::join(fd, *kind).step_with(|| format!("join the {name} namespace"))?;
    }
    match &namespaces.new_time {
        Some(offsets) => enter_new_time(offsets),
        None => Ok(()),
    }
}

fn make_cgroup_namespace(namespaces: &Namespaces) -> Result<(), Failure> {
    if namespaces.new_cgroup {
        // Only now: the root of a cgroup namespace is the group in which it was made.
        namespace::unshare(UnshareFlags::NEWCGROUP).step("make the cgroup namespace")?;
    }
    Ok(())
}

/// A new time namespace holds for children; its maker enters it by its descriptor, and then its offsets are fixed
/// (time_namespaces(7)). Through the host's /proc.
fn enter_new_time(offsets: &str) -> Result<(), Failure> {
    namespace::unshare(UnshareFlags::NEWTIME).step("make the time namespace")?;
    if !offsets.is_empty() {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file =
            fs::open(c"/proc/self/timens_offsets", flags, Mode::empty()).step("open timens_offsets")?;
        rustix::io::write(&file, offsets.as_bytes()).step("set linux.timeOffsets")?;
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let own =
        fs::open(c"/proc/self/ns/time_for_children", flags, Mode::empty()).step("open the time namespace")?;
    namespace::join(&own, LinkNameSpaceType::Time).step("enter the time namespace")
}

fn set_names(plan: &Plan) -> Result<(), Failure> {
    if let Some(name) = &plan.hostname {
        rustix::system::sethostname(name.as_bytes()).step("set hostname")?;
    }
    if let Some(name) = &plan.domainname {
        rustix::system::setdomainname(name.as_bytes()).step("set domainname")?;
    }
    Ok(())
}

/// Through a procfs of this child's own that is mounted nowhere: what a volume put over /proc/sys does not
/// matter (CVE-2019-16884).
fn write_sysctls(plan: &Plan) -> Result<(), Failure> {
    if plan.sysctls.is_empty() {
        return Ok(());
    }
    let proc = mounts::detached(c"proc", c"proc", &[], 0).step("make a procfs for the sysctls")?;
    for (path, value) in &plan.sysctls {
        let write = || -> Result<(), Errno> {
            let how = fs::ResolveFlags::BENEATH | fs::ResolveFlags::NO_SYMLINKS | fs::ResolveFlags::NO_XDEV;
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            let file = fs::openat2(&proc, path, flags, Mode::from_raw_mode(0 as RawMode), how)?;
            rustix::io::write(&file, value).map(drop)
        };
        write().step_with(|| format!("write sysctl {}", path.display()))?;
    }
    Ok(())
}

/// Says how the set-up went. After a failure, or without a parent, the child ends.
fn announce(channel: &OwnedFd, ready: Result<Option<OwnedFd>, Message>) {
    let (message, terminal, fine) = match ready {
        Ok(terminal) => (Message::Ready, terminal, true),
        Err(message) => (message, None, false),
    };
    let fds: Vec<_> = terminal.iter().map(AsFd::as_fd).collect();
    let sent = socket::send(channel, &message.to_bytes(), &fds);
    if !fine || sent.is_err() {
        sys::clone::leave(FAILED);
    }
}

/// Waits for the word to start, or to go on; a parent that is gone never says it.
fn await_word(channel: &OwnedFd, word: &Message) {
    let mut bytes = [0; MOST_BYTES];
    let said = socket::receive(channel, &mut bytes).ok().and_then(|(got, _)| Message::parse(&bytes[..got]));
    if said.as_ref() != Some(word) {
        sys::clone::leave(FAILED);
    }
}
