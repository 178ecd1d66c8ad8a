//! The group itself: create, open, enter, freeze, kill, remove.

use crate::{
    CgroupError, CgroupPath, Mounts, Setting, Version, devices, limits,
    mounts::Hierarchy,
    node::{Node, rest},
};
use oci_spec::runtime::LinuxResources;
use std::{
    collections::BTreeSet,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};
use sys::rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    fs::OFlags,
    io::Errno,
    process::{Pid, Signal, kill_process},
};

/// How long [`Cgroup::remove`] waits for processes that are on their way out.
const REMOVE_WITHIN: Duration = Duration::from_secs(2);
/// How long [`Cgroup::freeze`] waits for the last process to stop.
const FREEZE_WITHIN: Duration = Duration::from_secs(2);
/// Rounds of [`Cgroup::kill`] on v1 before the group is frozen: only a fork bomb needs more.
const KILL_ROUNDS: usize = 4;
/// Rounds of [`Cgroup::signal`]: what forks faster than it is listed for so long is left to itself.
const SIGNAL_ROUNDS: usize = 16;

/// A control group, in all hierarchies of the machine. Holds no descriptor of its own and no state
/// but its name: any process may open the same group again.
#[derive(Clone, Debug)]
pub struct Cgroup {
    mounts: Mounts,
    path: CgroupPath,
    /// A group beneath, for one exec: on v1 it is in one hierarchy only, since it holds processes
    /// together and limits nothing.
    sub: Option<String>,
}

/// What a new process needs to be in the group.
#[derive(Debug)]
pub enum Entry {
    /// v1: the child itself writes `0` to each of these `tasks` files while it has one thread. A
    /// write by the parent, or to `cgroup.procs`, would wait 10 to 20 ms for an RCU grace period.
    V1(Vec<OwnedFd>),
    /// v2: the directory for `CLONE_INTO_CGROUP` (clone(2)).
    V2(OwnedFd),
}

impl Cgroup {
    /// Makes the group and those above it where missing, and sets the limits. Doing it again with
    /// the same limits changes nothing.
    ///
    /// `resources.devices`: `None` leaves the device rules alone (a pod's group); a list, also an
    /// empty one, denies all devices but those that it allows and the default devices of the OCI
    /// specification (config-linux.md).
    ///
    /// # Errors
    /// [`CgroupError`]; what was made is left for [`Cgroup::remove`].
    pub fn create(
        mounts: &Mounts,
        path: &CgroupPath,
        resources: Option<&LinuxResources>,
    ) -> Result<Cgroup, CgroupError> {
        let group = Cgroup { mounts: mounts.clone(), path: path.clone(), sub: None };
        match mounts.version() {
            Version::V1 => {
                for node in group.nodes() {
                    node.make()?;
                    if node.hierarchy.has("cpuset") {
                        inherit_cpuset(&node)?;
                    }
                }
            }
            Version::V2 => {
                for node in group.nodes() {
                    make_v2(&node)?;
                }
            }
        }
        if let Some(resources) = resources {
            limits::apply(&group, resources)?;
            if let Some(rules) = resources.devices() {
                devices::apply(&group, rules)?;
            }
        }
        Ok(group)
    }

    /// A group that must exist.
    ///
    /// # Errors
    /// [`CgroupError::Io`] with ENOENT if it does not.
    pub fn open(mounts: &Mounts, path: &CgroupPath) -> Result<Cgroup, CgroupError> {
        let group = Cgroup::at(mounts, path);
        let node = group.holder()?;
        if node.is_there()? { Ok(group) } else { Err(node.error("", "open", Errno::NOENT)) }
    }

    /// A group by its name, whether it exists or not: for [`Cgroup::kill`] and [`Cgroup::remove`]
    /// in a tear-down.
    #[must_use]
    pub fn at(mounts: &Mounts, path: &CgroupPath) -> Cgroup {
        Cgroup { mounts: mounts.clone(), path: path.clone(), sub: None }
    }

    /// A group beneath this one without limits of its own, for the processes of one exec; made where
    /// missing. On v1 it is a group of its own only in the hierarchy that freezes and kills; entering
    /// it enters this group in the others.
    ///
    /// # Errors
    /// [`CgroupError`]; a sub-group has no sub-groups.
    pub fn sub(&self, name: &str) -> Result<Cgroup, CgroupError> {
        self.path.join(name)?;
        if self.sub.is_some() {
            return Err(CgroupError::BadPath { path: name.to_owned(), why: "is beneath a sub-group" });
        }
        let sub = Cgroup { sub: Some(name.to_owned()), ..self.clone() };
        sub.holder()?.make()?;
        Ok(sub)
    }

    /// Its path; for a sub-group that of the group above.
    #[must_use]
    pub fn path(&self) -> &CgroupPath {
        &self.path
    }

    /// The hierarchies that it is in.
    #[must_use]
    pub fn mounts(&self) -> &Mounts {
        &self.mounts
    }

    /// Changes limits; those that are not named stay.
    ///
    /// # Errors
    /// [`CgroupError`]; the device list of a living group cannot be changed.
    pub fn update(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        if resources.devices().as_ref().is_some_and(|rules| !rules.is_empty()) {
            return Err(CgroupError::BadValue {
                field: "linux.resources.devices".to_owned(),
                why: "the device rules of a living group cannot be changed".to_owned(),
            });
        }
        limits::settings::make_room(self, resources)?;
        limits::apply(self, resources)
    }

    /// What [`Cgroup::update`] with these limits would overwrite, as it is now. Changes nothing.
    ///
    /// # Errors
    /// [`CgroupError`] for limits that cannot be.
    pub fn settings(&self, resources: &LinuxResources) -> Result<Vec<Setting>, CgroupError> {
        limits::settings::read(self, resources)
    }

    /// Sets limits to what they were. A group that is gone has none.
    ///
    /// # Errors
    /// [`CgroupError::Io`] if one is not as it was.
    pub fn restore(&self, settings: &[Setting]) -> Result<(), CgroupError> {
        limits::settings::restore(self, settings)
    }

    /// What a new process needs to be in the group.
    ///
    /// # Errors
    /// [`CgroupError::Io`].
    pub fn entry(&self) -> Result<Entry, CgroupError> {
        match self.mounts.version() {
            Version::V1 => {
                let open = |node: Node<'_>| {
                    node.open("tasks", OFlags::WRONLY).map_err(|errno| node.error("tasks", "open", errno))
                };
                self.nodes().map(open).collect::<Result<_, _>>().map(Entry::V1)
            }
            Version::V2 => {
                let node = self.holder()?;
                let fd = node.open("", OFlags::PATH | OFlags::DIRECTORY);
                fd.map(Entry::V2).map_err(|errno| node.error("", "open", errno))
            }
        }
    }

    /// Makes a group beneath this one, in the hierarchy that holds processes together, and moves a process
    /// there. On v2 this group can then give its controllers to those beneath, which it could not with a
    /// process of its own (cgroup-v2.rst, "No Internal Process Constraint").
    ///
    /// # Errors
    /// [`CgroupError`]; with ESRCH if the process has ended.
    pub fn adopt(&self, name: &str, pid: u32) -> Result<(), CgroupError> {
        self.sub(name)?.take(pid)
    }

    /// Moves a process here, in the hierarchy that holds processes together.
    ///
    /// # Errors
    /// [`CgroupError`]; with ESRCH if the process has ended.
    pub fn take(&self, pid: u32) -> Result<(), CgroupError> {
        self.holder()?.write("cgroup.procs", &pid.to_string())
    }

    /// All processes in the group and beneath it, by their ids in the caller's PID namespace. None
    /// if the group does not exist.
    ///
    /// # Errors
    /// [`CgroupError::Io`].
    pub fn processes(&self) -> Result<Vec<i32>, CgroupError> {
        self.holder()?.processes()
    }

    /// Sends SIGKILL to all processes in the group and beneath it, also to those that they fork
    /// meanwhile. Does not wait for their end. Does nothing if the group does not exist.
    ///
    /// # Errors
    /// [`CgroupError::Io`].
    pub fn kill(&self) -> Result<(), CgroupError> {
        let node = self.holder()?;
        match self.mounts.version() {
            Version::V2 => match node.try_write("cgroup.kill", "1") {
                Ok(()) | Err(Errno::NOENT | Errno::NODEV) => Ok(()),
                Err(errno) => Err(node.error("cgroup.kill", "write \"1\"", errno)),
            },
            Version::V1 => kill_v1(&node),
        }
    }

    /// Sends a signal to all processes in the group and beneath it, also to those that they fork
    /// meanwhile: a process that was signalled handles that before its next fork (fork(2) begins anew
    /// with a signal pending), so a list of none but signalled ones is the last. Does nothing if the
    /// group does not exist.
    ///
    /// # Errors
    /// [`CgroupError::Io`].
    pub fn signal(&self, signal: Signal) -> Result<(), CgroupError> {
        if signal == Signal::KILL {
            return self.kill();
        }
        let node = self.holder()?;
        let mut signalled = BTreeSet::new();
        for _ in 0..SIGNAL_ROUNDS {
            if !signal_listed(&node, signal, &mut signalled)? {
                break;
            }
        }
        Ok(())
    }

    /// Stops all processes, and returns when they are stopped.
    ///
    /// # Errors
    /// [`CgroupError`]; also if they did not stop in 2 s: the group is thawed again then.
    pub fn freeze(&self) -> Result<(), CgroupError> {
        let node = self.freezer()?;
        let deadline = Instant::now() + FREEZE_WITHIN;
        let frozen = match self.mounts.version() {
            Version::V1 => freeze_v1(&node, deadline)?,
            Version::V2 => freeze_v2(&node, deadline)?,
        };
        if frozen {
            return Ok(());
        }
        self.thaw()?;
        Err(node.error("", "freeze within 2 s", Errno::TIMEDOUT))
    }

    /// Whether what is in the group stands still, or is about to: by [`Cgroup::freeze`], or by that of a group above.
    /// False for a group that does not exist, and where nothing can freeze it.
    ///
    /// # Errors
    /// [`CgroupError::Io`].
    pub fn is_frozen(&self) -> Result<bool, CgroupError> {
        let Ok(node) = self.freezer() else { return Ok(false) };
        match self.mounts.version() {
            Version::V1 => {
                let state = node.read("freezer.state")?.unwrap_or_default();
                Ok(matches!(state.trim(), "FROZEN" | "FREEZING"))
            }
            Version::V2 => {
                let asked = node.read("cgroup.freeze")?.unwrap_or_default();
                let events = node.read("cgroup.events")?.unwrap_or_default();
                Ok(asked.trim() == "1" || crate::stats::keyed(&events, "frozen") == Some(1))
            }
        }
    }

    /// Lets the processes go on.
    ///
    /// # Errors
    /// [`CgroupError::Io`].
    pub fn thaw(&self) -> Result<(), CgroupError> {
        let node = self.freezer()?;
        match self.mounts.version() {
            Version::V1 => node.write("freezer.state", "THAWED"),
            Version::V2 => node.write("cgroup.freeze", "0"),
        }
    }

    /// How many processes of the group the kernel has killed for want of memory. 0 where the kernel
    /// does not count, or the group is gone.
    ///
    /// # Errors
    /// [`CgroupError::Io`].
    pub fn oom_kills(&self) -> Result<u64, CgroupError> {
        let (file, key) = match self.mounts.version() {
            Version::V1 => ("memory.oom_control", "oom_kill"),
            Version::V2 => ("memory.events", "oom_kill"),
        };
        let Some(node) = self.node("memory") else { return Ok(0) };
        let text = node.read(file)?.unwrap_or_default();
        Ok(crate::stats::keyed(&text, key).unwrap_or(0))
    }

    /// A descriptor that becomes ready when the group runs out of memory: to be polled for
    /// `POLLPRI | POLLIN`. On v1 it is an eventfd (read it to clear it), on v2 `memory.events` (read
    /// it from the start to clear it). Always ask [`Cgroup::oom_kills`] what happened.
    ///
    /// # Errors
    /// [`CgroupError`]; [`CgroupError::NoController`] without a memory controller.
    pub fn oom_event(&self) -> Result<OwnedFd, CgroupError> {
        use std::os::fd::AsRawFd as _;
        let missing = || CgroupError::NoController { field: "oom event", controller: "memory".to_owned() };
        let node = self.node("memory").ok_or_else(missing)?;
        match self.mounts.version() {
            Version::V2 => node
                .open("memory.events", OFlags::RDONLY)
                .map_err(|errno| node.error("memory.events", "open", errno)),
            Version::V1 => {
                let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                    .map_err(|errno| node.error("cgroup.event_control", "make an eventfd", errno))?;
                let control = node
                    .open("memory.oom_control", OFlags::RDONLY)
                    .map_err(|errno| node.error("memory.oom_control", "open", errno))?;
                node.write(
                    "cgroup.event_control",
                    &format!("{} {}", event.as_raw_fd(), control.as_raw_fd()),
                )?;
                Ok(event)
            }
        }
    }

    /// Removes the group with all beneath it. Processes that are ending are waited for, at most 2 s
    /// for each hierarchy; none is killed. Removing what does not exist succeeds.
    ///
    /// # Errors
    /// [`CgroupError::Busy`] if processes stay.
    pub fn remove(&self) -> Result<(), CgroupError> {
        self.remove_within(REMOVE_WITHIN)
    }

    pub(crate) fn remove_within(&self, time: Duration) -> Result<(), CgroupError> {
        if self.sub.is_some() {
            return self.holder()?.remove(Instant::now() + time);
        }
        for node in self.nodes() {
            node.remove(Instant::now() + time)?;
        }
        Ok(())
    }

    /// The directory in each hierarchy.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = Node<'_>> {
        self.mounts.hierarchies().iter().map(|hierarchy| self.node_in(hierarchy))
    }

    /// The directory in the hierarchy of a controller; on v2 always the one.
    pub(crate) fn node(&self, controller: &str) -> Option<Node<'_>> {
        self.mounts.hierarchy(controller).map(|hierarchy| self.node_in(hierarchy))
    }

    fn node_in<'a>(&'a self, hierarchy: &'a Hierarchy) -> Node<'a> {
        let holds = self.mounts.holder().is_some_and(|holder| std::ptr::eq(holder, hierarchy));
        match &self.sub {
            Some(name) if holds => Node::new(hierarchy, format!("{}/{name}", self.path.relative())),
            Some(_) | None => Node::new(hierarchy, self.path.relative()),
        }
    }

    /// The directory that holds all processes of this group and no others.
    fn holder(&self) -> Result<Node<'_>, CgroupError> {
        let hierarchy = self.mounts.holder();
        let none = || CgroupError::NoHierarchy { why: "no hierarchy is mounted".to_owned() };
        hierarchy.map(|hierarchy| self.node_in(hierarchy)).ok_or_else(none)
    }

    fn freezer(&self) -> Result<Node<'_>, CgroupError> {
        let missing = || CgroupError::NoController { field: "freeze", controller: "freezer".to_owned() };
        self.node("freezer").ok_or_else(missing)
    }
}

/// A new cpuset group of v1 has no CPUs and memory nodes, and takes no process: it gets those of the
/// group above.
fn inherit_cpuset(node: &Node<'_>) -> Result<(), CgroupError> {
    let Some(parent) = node.parent() else { return Ok(()) };
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if node.read(file)?.is_none_or(|own| !own.trim().is_empty()) {
            continue;
        }
        let mut above = parent.read(file)?.unwrap_or_default();
        if above.trim().is_empty() {
            inherit_cpuset(&parent)?;
            above = parent.read(file)?.unwrap_or_default();
        }
        node.write(file, above.trim())?;
    }
    Ok(())
}

/// Makes a v2 group; every level above hands down all controllers that it has.
fn make_v2(node: &Node<'_>) -> Result<(), CgroupError> {
    let mut above: Vec<Node<'_>> = std::iter::successors(node.parent(), Node::parent).collect();
    above.reverse();
    for level in above {
        if !level.path.is_empty() {
            level.make()?;
        }
        hand_down(&level)?;
    }
    node.make()
}

/// Enables all controllers of a level for those beneath. One that cannot be (a cpuset with
/// processes, say) is left out: a limit that needs it says so.
fn hand_down(level: &Node<'_>) -> Result<(), CgroupError> {
    let has = level.read("cgroup.controllers")?.unwrap_or_default();
    let given = level.read("cgroup.subtree_control")?.unwrap_or_default();
    let given: BTreeSet<&str> = given.split_whitespace().collect();
    let missing: Vec<&str> = has.split_whitespace().filter(|name| !given.contains(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let all: Vec<String> = missing.iter().map(|name| format!("+{name}")).collect();
    if level.try_write("cgroup.subtree_control", &all.join(" ")).is_err() {
        for one in &all {
            // Left out on failure, see above.
            let _ = level.try_write("cgroup.subtree_control", one);
        }
    }
    Ok(())
}

/// Kills by lists until a list has only processes that were already signalled: none of those can
/// fork any more. A group that forks faster than it is listed is frozen first.
fn kill_v1(node: &Node<'_>) -> Result<(), CgroupError> {
    let mut signalled = BTreeSet::new();
    for _ in 0..KILL_ROUNDS {
        if !signal_listed(node, Signal::KILL, &mut signalled)? {
            return Ok(());
        }
    }
    let has_freezer = node.hierarchy.has("freezer");
    let frozen = has_freezer && freeze_v1(node, Instant::now() + FREEZE_WITHIN)?;
    let mut rounds = if frozen { 2 } else { 1000 };
    let mut result = Ok(true);
    while rounds > 0 && matches!(result, Ok(true)) {
        result = signal_listed(node, Signal::KILL, &mut signalled);
        rounds -= 1;
    }
    if has_freezer {
        node.write("freezer.state", "THAWED")?;
    }
    result.map(drop)
}

/// Signals the processes that were not signalled before; whether there were any.
fn signal_listed(
    node: &Node<'_>,
    signal: Signal,
    signalled: &mut BTreeSet<i32>,
) -> Result<bool, CgroupError> {
    let mut any = false;
    for pid in node.processes()? {
        if !signalled.insert(pid) {
            continue;
        }
        any = true;
        let Some(target) = Pid::from_raw(pid) else { continue };
        match kill_process(target, signal) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(node.error("cgroup.procs", format!("signal process {pid}"), errno)),
        }
    }
    Ok(any)
}

/// Whether the group was frozen before the deadline. Written anew each time: processes that were
/// forked meanwhile hold the state at FREEZING until then.
fn freeze_v1(node: &Node<'_>, deadline: Instant) -> Result<bool, CgroupError> {
    let mut pause = Duration::from_micros(20);
    loop {
        node.write("freezer.state", "FROZEN")?;
        let state = node.read("freezer.state")?.unwrap_or_default();
        if state.trim() == "FROZEN" {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        rest(pause);
        pause = (pause * 2).min(Duration::from_millis(5));
    }
}

/// Whether the group was frozen before the deadline: `cgroup.events` tells.
fn freeze_v2(node: &Node<'_>, deadline: Instant) -> Result<bool, CgroupError> {
    let events = node
        .open("cgroup.events", OFlags::RDONLY)
        .map_err(|errno| node.error("cgroup.events", "open", errno))?;
    node.write("cgroup.freeze", "1")?;
    loop {
        // Reading through a descriptor of its own: the open one keeps the event pending, which
        // costs one more round and loses none.
        let text = node.read("cgroup.events")?.unwrap_or_default();
        if crate::stats::keyed(&text, "frozen") == Some(1) {
            return Ok(true);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let wait = left.min(Duration::from_millis(10));
        let wait = Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) };
        let mut polled = [PollFd::new(&events, PollFlags::PRI)];
        match poll(&mut polled, Some(&wait)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(node.error("cgroup.events", "poll", errno)),
        }
    }
}
