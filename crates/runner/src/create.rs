//! create, delete and signals: the parent's side.

use crate::{
    CreateRequest, Created, Gate, RunnerError, StartError, Stdio, channel,
    hooks::Hooks,
    init::{self, Init},
    plan::{
        self, Places, Plan,
        process::{Filter, seccomp_flags},
    },
};
use cgroup::{Cgroup, CgroupPath, Entry};
use oci_spec::runtime::{LinuxResources, Spec};
use std::{borrow::Cow, path::Path, rc::Rc, time::Duration};
use sys::{
    clone::{self, Child, Clone},
    rustix::{
        self,
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        fs::{self, Mode, OFlags},
        io::Errno,
        net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
        process::DumpableBehavior,
        thread::{LinkNameSpaceType, ThreadNameSpaceType, UnshareFlags},
    },
};

/// Makes a container: its cgroup with limits, and its first process, confined and waiting for the start.
///
/// The caller must have one thread only; it is not dumpable from then on. It becomes the parent of the first
/// process and has to reap it. A failure leaves nothing behind.
///
/// # Errors
/// [`RunnerError`]: a field that is refused is found before anything is made.
pub fn create(request: CreateRequest<'_>) -> Result<Created, RunnerError> {
    let group = cgroup_path(request.spec)?;
    let labelled = plan::label::apply(request.spec, &request.rootfs)?;
    let (spec, rootfs) = match &labelled {
        Some((spec, rootfs)) => (spec, rootfs.as_slice()),
        None => (request.spec, request.rootfs.as_slice()),
    };
    let places = Places { bundle: request.bundle, rootfs, cgroups: request.cgroups, group: &group };
    if !request.bundle.is_absolute() {
        return Err(RunnerError::invalid("bundle", "it is not an absolute path"));
    }
    let filter = filter(request.spec, request.seccomp_cache)?;
    let hooks = Hooks::new(request.spec, request.id, request.bundle)?;
    let mut plan = Plan::new(spec, &places, filter)?;
    must_be_free(&Cgroup::at(request.cgroups, &group))?;
    plan.make_user_namespaces()?;
    let resources = request.spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let (limits, late) = match resources {
        Some(all) if plan.user.is_some() => {
            let (limits, late) = without_pids(all);
            (Some(Cow::Owned(limits)), Some(late))
        }
        all => (all.map(Cow::Borrowed), None),
    };
    let cgroup = Cgroup::create(request.cgroups, &group, limits.as_deref());
    let made = cgroup
        .map_err(RunnerError::from)
        .and_then(|cgroup| launch(plan, request.stdio, request.gate, Group { cgroup, late }, hooks.clone()));
    if made.is_err() {
        // The first error is what the caller is told; `remove` of a group that is not there is none.
        let _ = Cgroup::at(request.cgroups, &group).remove();
    }
    if let (Err(RunnerError::Hook(_)), Some(hooks)) = (&made, &hooks) {
        // "Continue the lifecycle at step 12", runtime.md: what fails here is less than the failure that is told.
        hooks.run_poststop();
    }
    made
}

/// A group with what is in it already is another's: what delete kills would not be the container's alone. In one that
/// stands still the first process would, too. As runc has it (libcontainer/factory_linux.go); on v1 the hierarchy that
/// holds processes together speaks for all.
fn must_be_free(group: &Cgroup) -> Result<(), RunnerError> {
    let refused = |why: String| {
        Err(RunnerError::invalid("linux.cgroupsPath", format!("the group {} {why}", group.path().as_str())))
    };
    let there = group.processes()?.len();
    if there > 0 {
        return refused(format!("is not empty: {there} process(es) are in it or beneath it"));
    }
    if group.is_frozen()? {
        return refused("is frozen".to_owned());
    }
    Ok(())
}

/// The limits without that of the number of processes, and that one alone. It would count the child that only makes
/// the first process of a container in a user namespace: with a limit of one there could be none.
fn without_pids(all: &LinuxResources) -> (LinuxResources, LinuxResources) {
    const FILE: &str = "pids.max";
    let (mut limits, mut late) = (all.clone(), LinuxResources::default());
    late.set_pids(limits.pids_mut().take());
    if let Some(most) = limits.unified_mut().as_mut().and_then(|unified| unified.remove(FILE)) {
        late.set_unified(Some([(FILE.to_owned(), most)].into()));
    }
    (limits, late)
}

/// A container's group.
struct Group {
    cgroup: Cgroup,
    /// Limits that are set when the first process is the only one.
    late: Option<LinuxResources>,
}

fn launch(
    plan: Plan,
    stdio: Stdio,
    gate: Gate,
    group: Group,
    hooks: Option<Rc<Hooks>>,
) -> Result<Created, RunnerError> {
    let Group { cgroup, late } = group;
    let program = plan.process.program.clone();
    let entry = cgroup.entry()?;
    let (channel, theirs) = sys::socket::pair().map_err(RunnerError::step("make the channel"))?;
    let stdio = above_stdio(stdio)?;
    let listening = matches!(gate, Gate::Listener(_));
    let mut plan = plan;
    // In a user namespace of its own the first process is a child of a child: the one between has the host's
    // rights, and prepares what wants them.
    let outside = plan.user.is_some();
    let flags = if outside { UnshareFlags::NEWNS } else { plan.namespaces.new };
    let join_pid = if outside { None } else { plan.namespaces.join_pid.take() };
    let into = into_cgroup(&entry)?;
    let init = Init { plan, stdio, entry, gate, channel: theirs, hooks: hooks.clone() };
    let keep = init.descriptors();
    let wanted = Clone { flags, cgroup: into.as_ref().map(AsFd::as_fd), keep: &keep, sibling: false };
    let namespace = join_pid.as_ref().map(|fd| PidNamespace::Itself(fd.as_fd()));
    let run = if outside { init::outside::prepare } else { init::first };
    let child = in_pid_namespace(namespace, || spawn(&wanted, init, run))?;
    let (child, terminal) = if outside {
        channel::await_inner(&channel, &child, hooks.as_deref())?
    } else {
        let terminal = channel::await_ready(&channel, &child, hooks.as_deref())?;
        (child, terminal)
    };
    if let Some(Err(error)) = late.map(|late| cgroup.update(&late)) {
        channel::end(&child);
        return Err(error.into());
    }
    let Child { pid, pidfd } = child;
    Ok(Created { pid, pidfd, cgroup, terminal, program, channel: (!listening).then_some(channel), hooks })
}

/// Clones; the parent's copy of what the child takes over is dropped, so that its end of the channel closes
/// with the child.
pub(crate) fn spawn<T>(
    wanted: &Clone<'_>,
    state: T,
    run: fn(T) -> std::convert::Infallible,
) -> Result<Child, RunnerError> {
    // Inherited by the child: nothing in the container may look into the copy of this process.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(RunnerError::step("set this process not dumpable"))?;
    let mut state = Some(state);
    let child = clone::clone(wanted, || match state.take() {
        Some(state) => run(state),
        None => clone::leave(1),
    });
    child.map_err(|errno| match errno {
        Errno::BUSY if clone::threads() != Ok(1) => {
            RunnerError::invalid("the caller", "it has more than one thread")
        }
        errno => RunnerError::step("clone")(errno),
    })
}

/// The directory for CLONE_INTO_CGROUP, as a descriptor of its own.
pub(crate) fn into_cgroup(entry: &Entry) -> Result<Option<OwnedFd>, RunnerError> {
    match entry {
        Entry::V1(_) => Ok(None),
        Entry::V2(dir) => {
            let copy = rustix::io::fcntl_dupfd_cloexec(dir, 0);
            copy.map(Some).map_err(RunnerError::step("copy a descriptor"))
        }
    }
}

/// A PID namespace to make a child in.
pub(crate) enum PidNamespace<'a> {
    /// By its own descriptor.
    Itself(BorrowedFd<'a>),
    /// That of a process, by its pidfd.
    Of(BorrowedFd<'a>),
}

/// Runs `make` with its children in a PID namespace: one that is joined holds for children only, so that no
/// process between is needed.
pub(crate) fn in_pid_namespace<T>(
    namespace: Option<PidNamespace<'_>>,
    make: impl FnOnce() -> Result<T, RunnerError>,
) -> Result<T, RunnerError> {
    let Some(namespace) = namespace else { return make() };
    let own = fs::open(c"/proc/self/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(RunnerError::step("open the own pid namespace"))?;
    match namespace {
        PidNamespace::Itself(fd) => sys::namespace::join(fd, LinkNameSpaceType::ProcessID),
        PidNamespace::Of(pidfd) => sys::namespace::join_process(pidfd, ThreadNameSpaceType::PROCESS_ID),
    }
    .map_err(RunnerError::step("join the pid namespace"))?;
    let made = make();
    sys::namespace::join(&own, LinkNameSpaceType::ProcessID)
        .map_err(RunnerError::step("return to the own pid namespace"))?;
    made
}

/// Descriptors above 2, so that none is overwritten by the one before when the child takes them.
pub(crate) fn above_stdio(stdio: Stdio) -> Result<Stdio, RunnerError> {
    let above = |fd: OwnedFd| {
        if fd.as_raw_fd() > 2 {
            return Ok(fd);
        }
        rustix::io::fcntl_dupfd_cloexec(&fd, 3).map_err(RunnerError::step("copy a descriptor"))
    };
    Ok(match stdio {
        Stdio::Files { stdin, stdout, stderr } => {
            Stdio::Files { stdin: above(stdin)?, stdout: above(stdout)?, stderr: above(stderr)? }
        }
        Stdio::Terminal => Stdio::Terminal,
    })
}

fn cgroup_path(spec: &Spec) -> Result<CgroupPath, RunnerError> {
    let path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
    let path = path.and_then(Path::to_str).filter(|path| !path.is_empty());
    let path =
        path.ok_or_else(|| RunnerError::invalid("linux.cgroupsPath", "it is missing, or not UTF-8"))?;
    Ok(CgroupPath::parse(path)?)
}

fn make_cache(dir: &Path) -> Result<(), RunnerError> {
    match fs::mkdir(dir, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(RunnerError::step(format!("make {}", dir.display()))(errno)),
    }
}

/// The program of `linux.seccomp`, from the cache where there is one.
pub(crate) fn filter(spec: &Spec, cache: Option<&Path>) -> Result<Option<Filter>, RunnerError> {
    let Some(profile) = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()) else {
        return Ok(None);
    };
    if profile.listener_path().as_ref().is_some_and(|path| !path.as_os_str().is_empty()) {
        return Err(RunnerError::unsupported("linux.seccomp.listenerPath", ""));
    }
    let flags = seccomp_flags(profile)?;
    let program = match cache {
        Some(dir) => {
            make_cache(dir)?;
            seccomp::cached(dir, profile)?
        }
        None => seccomp::compile(profile)?,
    };
    Ok(Some(Filter { program: program.bytes().to_vec(), flags }))
}

/// Starts a container that waits with [`Gate::Listener`], by the path of its socket (at most 107 bytes).
///
/// # Errors
/// [`StartError`]; `NotWaiting` when nobody listens.
pub(crate) fn start_through(socket: &Path, more: Duration) -> Result<(), StartError> {
    let step = |step: &str, source| StartError::Step { step: step.to_owned(), source };
    let address = SocketAddrUnix::new(socket).map_err(|errno| step("name the start socket", errno))?;
    let channel =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|errno| step("make a socket", errno))?;
    match rustix::net::connect(&channel, &address) {
        Ok(()) => channel::start(&channel, "", more),
        Err(Errno::CONNREFUSED | Errno::NOENT) => Err(StartError::NotWaiting),
        Err(errno) => Err(step("connect to the start socket", errno)),
    }
}

/// Ends all that is left in a container's cgroup and removes it. Doing it again changes nothing. The first
/// process is still to be reaped by its parent.
///
/// # Errors
/// [`RunnerError::Cgroup`].
pub fn delete(cgroup: &Cgroup) -> Result<(), RunnerError> {
    cgroup.kill()?;
    Ok(cgroup.remove()?)
}
