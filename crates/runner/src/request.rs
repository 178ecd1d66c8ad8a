//! What a caller asks for, and what it gets.

use crate::{HookError, RunnerError, StartError, channel, hooks::Hooks};
use cgroup::Cgroup;
use oci_spec::runtime::{Process, Spec};
use std::{
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};
use sys::{
    pidfd,
    rustix::{
        fd::{BorrowedFd, OwnedFd},
        process::{Pid, Signal},
    },
};

/// One mount of a container's root file system, as containerd's shim API names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootMount {
    /// `overlay`, `bind`, ...
    pub kind: String,
    /// For overlay any word.
    pub source: PathBuf,
    /// `lowerdir=...`, flags of mount(8).
    pub options: Vec<String>,
}

/// Descriptors 0, 1 and 2 of a process.
#[derive(Debug)]
pub enum Stdio {
    /// These.
    Files {
        /// Becomes 0.
        stdin: OwnedFd,
        /// Becomes 1.
        stdout: OwnedFd,
        /// Becomes 2.
        stderr: OwnedFd,
    },
    /// A new terminal of the container; its other end is returned.
    Terminal,
}

/// How the first process is told to start.
#[derive(Debug)]
pub enum Gate {
    /// By [`Created::start`]; the process ends when its creator ends before.
    Creator,
    /// By whoever connects to this listening `SOCK_SEQPACKET` socket first, as [`crate::front`] does: for a creator
    /// that ends before the start.
    Listener(OwnedFd),
}

/// A container to create.
#[derive(Debug)]
pub struct CreateRequest<'a> {
    /// Its name, for the state that its hooks get.
    pub id: &'a str,
    /// The OCI runtime specification. Fields that are not done are refused by name.
    pub spec: &'a Spec,
    /// An existing directory, absolute: relative paths of the specification start here, and the root file
    /// system is mounted over it inside the container's mount namespace only.
    pub bundle: &'a Path,
    /// The root file system; empty = the directory `root.path`.
    pub rootfs: Vec<RootMount>,
    /// Descriptors of the process.
    pub stdio: Stdio,
    /// The machine's hierarchies; `linux.cgroupsPath` is beneath them and is needed.
    pub cgroups: &'a cgroup::Mounts,
    /// Directory for compiled seccomp programs, made if missing; `None` = compile each time.
    pub seccomp_cache: Option<&'a Path>,
    /// How the process is told to start.
    pub gate: Gate,
}

/// A process to start in a running container.
#[derive(Debug)]
pub struct ExecRequest<'a> {
    /// A living process of the container, its first one by custom.
    pub container: BorrowedFd<'a>,
    /// The container's specification: its seccomp profile is used.
    pub spec: &'a Spec,
    /// The process itself. To confine it as the container is, start from the container's own `process` and
    /// change `args`, `env`, `cwd`.
    pub process: &'a Process,
    /// Descriptors of the process.
    pub stdio: Stdio,
    /// The group that it starts in: the container's, or one beneath.
    pub cgroup: &'a Cgroup,
    /// As in [`CreateRequest`].
    pub seccomp_cache: Option<&'a Path>,
}

/// A container whose first process is confined and waits to be started.
///
/// Dropping it with [`Gate::Creator`] before the start ends the process; the cgroup stays until
/// [`crate::delete`].
#[derive(Debug)]
pub struct Created {
    /// Of the first process, in the caller's PID namespace. It is a child of the caller.
    pub pid: Pid,
    /// Of the first process, close-on-exec.
    pub pidfd: OwnedFd,
    /// Limits are set; the process is in it.
    pub cgroup: Cgroup,
    /// The other end of its terminal.
    pub terminal: Option<OwnedFd>,
    pub(crate) program: String,
    pub(crate) channel: Option<OwnedFd>,
    pub(crate) hooks: Option<Rc<Hooks>>,
}

impl Created {
    /// Lets the process execute its program, and waits until it did.
    ///
    /// # Errors
    /// [`StartError`]: the process has then ended, or ends at once, and is to be reaped.
    pub fn start(&mut self) -> Result<(), StartError> {
        let channel = self.channel.take().ok_or(StartError::NotWaiting)?;
        let more = self.hooks.as_ref().map_or(Duration::ZERO, |hooks| hooks.time_to_start());
        channel::start(&channel, &self.program, more)?;
        let done = self.hooks.as_ref().map_or(Ok(()), |hooks| hooks.run_poststart(self.pid));
        done.map_err(|error| {
            // It runs already; the specification wants it stopped. One that has ended by itself is no error.
            let _ = pidfd::send_signal(&self.pidfd, Signal::KILL);
            error.into()
        })
    }

    /// Runs the hooks that come after a container's removal, all of them, and returns those that failed.
    #[must_use]
    pub fn removed(&self) -> Vec<HookError> {
        self.hooks.as_ref().map_or_else(Vec::new, |hooks| hooks.run_poststop())
    }
}

/// A process that was started in a container.
#[derive(Debug)]
pub struct Execed {
    /// In the caller's PID namespace. It is a child of the caller.
    pub pid: Pid,
    /// Close-on-exec.
    pub pidfd: OwnedFd,
    /// The other end of its terminal.
    pub terminal: Option<OwnedFd>,
}

/// A process could not be started in a container.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// It could not be set up.
    #[error(transparent)]
    Runner(#[from] RunnerError),
    /// Its program could not be executed.
    #[error(transparent)]
    Start(#[from] StartError),
}
