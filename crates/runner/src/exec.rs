//! exec: a further process in a running container.

use crate::{
    ExecError, ExecRequest, Execed, RunnerError, channel,
    create::{PidNamespace, above_stdio, filter, in_pid_namespace, into_cgroup, spawn},
    init::{self, Joining},
    plan::{process::ProcessPlan, userns::UserPlan},
};
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use std::time::Duration;
use sys::{
    clone::{Child, Clone},
    rustix::{
        fd::{AsFd, BorrowedFd},
        io::Errno,
        thread::{ThreadNameSpaceType, UnshareFlags},
    },
};

/// All that a container of ours can have apart from its caller; a namespace that is the caller's own is joined
/// without effect.
const NAMESPACES: ThreadNameSpaceType = ThreadNameSpaceType::MOUNT
    .union(ThreadNameSpaceType::NETWORK)
    .union(ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION)
    .union(ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME)
    .union(ThreadNameSpaceType::CONTROL_GROUP);

/// A time namespace only where the container has one: a kernel may know none.
fn namespaces(spec: &Spec) -> ThreadNameSpaceType {
    let wanted = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let time = wanted.is_some_and(|list| list.iter().any(|one| one.typ() == LinuxNamespaceType::Time));
    if time { NAMESPACES | ThreadNameSpaceType::TIME } else { NAMESPACES }
}

/// Starts a process in a container's namespaces and in the given cgroup, confined as its `process` says.
///
/// The caller must have one thread only; it is not dumpable from then on. It becomes the parent of the process.
///
/// # Errors
/// [`ExecError`]; the process was then reaped. [`RunnerError::Gone`] when the container has ended.
pub fn exec(request: ExecRequest<'_>) -> Result<Execed, ExecError> {
    let seccomp = filter(request.spec, request.seccomp_cache)?;
    let user = UserPlan::of(request.spec)?;
    let process = ProcessPlan::new(request.process, request.spec.linux().as_ref(), seccomp, user.as_ref())?;
    let program = process.program.clone();
    let entry = request.cgroup.entry().map_err(RunnerError::from)?;
    let stdio = above_stdio(request.stdio)?;
    let (channel, theirs) = sys::socket::pair().map_err(RunnerError::step("make the channel"))?;
    let into = into_cgroup(&entry)?;
    let joining = Joining {
        process,
        container: request.container,
        join: namespaces(request.spec),
        user: user.is_some(),
        stdio,
        entry,
        channel: theirs,
    };
    let keep = joining.descriptors();
    let wanted = Clone {
        flags: UnshareFlags::empty(),
        cgroup: into.as_ref().map(AsFd::as_fd),
        keep: &keep,
        sibling: false,
    };
    let child = in_pid_namespace(Some(PidNamespace::Of(request.container)), || {
        spawn(&wanted, joining, init::further)
    });
    let child = child.map_err(gone(request.container))?;
    let terminal = channel::await_ready(&channel, &child, None).map_err(gone(request.container))?;
    if let Err(error) = channel::start(&channel, &program, Duration::ZERO) {
        channel::end(&child);
        return Err(error.into());
    }
    let Child { pid, pidfd } = child;
    Ok(Execed { pid, pidfd, terminal })
}

/// A container without living processes takes no new one: ESRCH from setns, ENOMEM from a clone into a PID
/// namespace whose first process has ended (clone(2)); a child that was in it already is killed.
fn gone(container: BorrowedFd<'_>) -> impl Fn(RunnerError) -> RunnerError {
    move |error| {
        let says_so = match &error {
            RunnerError::Step { source, .. } => matches!(*source, Errno::SRCH | Errno::NOMEM),
            RunnerError::Died { .. } => true,
            RunnerError::Unsupported { .. }
            | RunnerError::Invalid { .. }
            | RunnerError::Cgroup(_)
            | RunnerError::Seccomp(_)
            | RunnerError::Hook(_)
            | RunnerError::Gone
            | RunnerError::TooSlow { .. } => false,
        };
        let ended = says_so && sys::pidfd::ended_within(container, Duration::ZERO) == Ok(true);
        if ended { RunnerError::Gone } else { error }
    }
}
