//! Errors of the runner.

use crate::HookError;
use sys::rustix::io::Errno;

/// A container or a process in one could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// A field of the specification asks for what this runtime does not do.
    #[error("{field} is not supported{}{detail}", if detail.is_empty() { "" } else { ": " })]
    Unsupported {
        /// As in the OCI runtime specification: `linux.intelRdt`.
        field: String,
        /// What about it; may be empty.
        detail: String,
    },
    /// A field of the specification is malformed or contradicts another.
    #[error("{field} is invalid: {why}")]
    Invalid {
        /// As in the OCI runtime specification: `mounts[3].destination`.
        field: String,
        /// What is wrong with it.
        why: String,
    },
    /// The cgroup could not be made, entered or removed.
    #[error("cgroup")]
    Cgroup(#[from] cgroup::CgroupError),
    /// The seccomp profile could not be compiled.
    #[error("compile linux.seccomp")]
    Seccomp(#[from] seccomp::SeccompError),
    /// A step of the parent or of the child failed.
    #[error("{step}")]
    Step {
        /// With its object: `mount /proc: open the target`.
        step: String,
        /// Why.
        #[source]
        source: Errno,
    },
    /// A hook failed; the child was ended.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// The process to join has ended.
    #[error("the container has ended")]
    Gone,
    /// The child was killed, or ended, before it was set up.
    #[error(
        "the child ended during its set-up ({exit:?}) after it entered its cgroup: a memory limit that is too small is the usual reason"
    )]
    Died {
        /// How it ended.
        exit: sys::pidfd::Exit,
    },
    /// The child did not finish its set-up within the limit; it was killed.
    #[error("the child's set-up took longer than {seconds} s")]
    TooSlow {
        /// The limit.
        seconds: u64,
    },
}

impl RunnerError {
    pub(crate) fn invalid(field: impl Into<String>, why: impl Into<String>) -> Self {
        RunnerError::Invalid { field: field.into(), why: why.into() }
    }
    pub(crate) fn unsupported(field: impl Into<String>, detail: impl Into<String>) -> Self {
        RunnerError::Unsupported { field: field.into(), detail: detail.into() }
    }
    pub(crate) fn step(step: impl Into<String>) -> impl FnOnce(Errno) -> Self {
        move |source| RunnerError::Step { step: step.into(), source }
    }
}

/// A program that was set up could not be executed. The texts are those that users of other runtimes
/// know, and that tests of Kubernetes look for.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Nothing of that name in `PATH`, or no file at the path.
    #[error("exec: \"{program}\": {why}")]
    NotFound {
        /// As in `process.args[0]`.
        program: String,
        /// `executable file not found in $PATH`, `stat /x: no such file or directory`
        why: String,
    },
    /// The file may not be executed (EACCES), or is a directory.
    #[error("exec: \"{program}\": permission denied")]
    NotPermitted {
        /// As in `process.args[0]`.
        program: String,
    },
    /// The kernel cannot execute it: a wrong architecture, a missing interpreter, arguments too long.
    #[error("exec: \"{program}\"")]
    NotExecuted {
        /// As in `process.args[0]`.
        program: String,
        /// Why.
        #[source]
        source: Errno,
    },
    /// A step between start and exec failed.
    #[error("{step}")]
    Step {
        /// The step.
        step: String,
        /// Why.
        #[source]
        source: Errno,
    },
    /// A hook failed; the process ends.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// The process ended before it was started (it was killed), or was started before.
    #[error("the container is not waiting to be started")]
    NotWaiting,
}

impl StartError {
    /// Whether the program is to blame and not the runtime: exit code 127 (not found) or 126 by the shell's custom.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self {
            StartError::NotFound { .. } => 127,
            StartError::NotPermitted { .. } | StartError::NotExecuted { .. } => 126,
            StartError::Step { .. } | StartError::Hook(_) | StartError::NotWaiting => 128,
        }
    }
}
