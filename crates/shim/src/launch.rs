//! A bundle becomes a container's first process, a command becomes a further process in it: by our own runner, which
//! only this place knows, or by what the pod's RuntimeClass handler names ([`Handler`]). Whoever makes them, logs,
//! exits, signals and cgroups are the shim's.

use crate::foreign::{self, Foreign};
use crate::oci;
use crate::serve::Shim;
use crate::wire::{Refusal, chain};
use cgroup::{Cgroup, CgroupPath};
use containerd_shim_protos::api::Mount;
use oci_spec::runtime::Spec;
use runner::{
    CreateRequest, Created, ExecError, ExecRequest, Gate, RootMount, RunnerError, StartError, Stdio,
};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use sys::rustix::io::ioctl_fionbio;
use sys::rustix::process::Pid;

/// The specification's name in a bundle.
const SPEC: &str = "config.json";
/// The largest specification that is read.
const LARGEST_SPEC: u64 = 4 << 20;
/// Mounts that make up a root file system: an overlay, and a few to spare.
const MOST_ROOT_MOUNTS: usize = 16;

/// What makes the pod's containers.
#[derive(Debug, Default)]
pub(crate) enum Handler {
    /// Our own runner.
    #[default]
    Own,
    /// The command line of another OCI runtime.
    Oci(Rc<oci::Program>),
    /// A shim of containerd's runtime v2.
    Shim(Rc<Foreign>),
}

impl Handler {
    /// As the command line names it.
    pub(crate) fn new(handler: Option<types::handler::Handler>, pod: &str, directory: &Path) -> Self {
        match handler {
            None => Self::Own,
            Some(types::handler::Handler::Oci { path }) => {
                Self::Oci(Rc::new(oci::Program::new(path, directory.to_owned())))
            }
            Some(types::handler::Handler::Shim { path, runtime }) => {
                Self::Shim(Rc::new(Foreign::new(path, runtime, pod.to_owned(), directory.to_owned())))
            }
        }
    }
}

/// A container's first process.
#[derive(Debug)]
pub(crate) enum Process {
    /// Made by our own runner.
    Own(Created),
    /// Made by another OCI runtime.
    Oci(oci::Container),
    /// Made by a foreign shim.
    Shim(foreign::Container),
}

/// Why a container was not started.
#[derive(Debug)]
pub(crate) enum NotStarted {
    /// Its process does not wait any more: it was killed.
    NotWaiting,
    /// Why its program could not be executed.
    Failed(String),
}

/// What creating a container gives.
#[derive(Debug)]
pub(crate) struct Made {
    /// The first process, waiting.
    pub(crate) process: Process,
    /// Reading end of its output, or its terminal.
    pub(crate) stdout: Option<OwnedFd>,
    /// Reading end of its error output.
    pub(crate) stderr: Option<OwnedFd>,
    /// Where its input is written to, if that was asked for; it does not block.
    pub(crate) input: Option<OwnedFd>,
    /// Another descriptor of its terminal.
    pub(crate) terminal: Option<OwnedFd>,
}

/// What the request says of a container's standard descriptors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// A terminal for all three.
    pub(crate) terminal: bool,
    /// An input that stays open; else it is /dev/null.
    pub(crate) stdin: bool,
    /// Outputs that somebody reads; else they are /dev/null.
    pub(crate) output: bool,
}

/// A pipe for output: the reading end, which does not block, and the writing end, which does.
pub(crate) fn output_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    ioctl_fionbio(&reader, true)?;
    Ok((reader.into(), writer.into()))
}

/// Makes a container's first process, which then waits for its start.
pub(crate) fn create(
    shim: &mut Shim,
    id: &str,
    bundle: &Path,
    rootfs: &[Mount],
    wanted: Wanted,
) -> Result<Made, Refusal> {
    if rootfs.len() > MOST_ROOT_MOUNTS {
        return Err(Refusal::invalid(format!(
            "rootfs: {} mounts, at most {MOST_ROOT_MOUNTS} are taken",
            rootfs.len()
        )));
    }
    if !matches!(shim.handler, Handler::Own) {
        return by_other(shim, id, bundle, rootfs, wanted);
    }
    let rootfs = rootfs.iter().map(|mount| RootMount {
        kind: mount.type_.clone(),
        source: mount.source.clone().into(),
        options: mount.options.clone(),
    });
    let spec = read_spec(bundle)?;
    let (stdio, stdout, stderr, input) =
        descriptors(wanted).map_err(|e| Refusal::internal("make the standard descriptors", &e))?;
    let cgroups = hierarchies(&mut shim.mounts)?;
    let request = CreateRequest {
        id,
        spec: &spec,
        bundle,
        rootfs: rootfs.collect(),
        stdio,
        cgroups,
        seccomp_cache: Some(&shim.seccomp_cache),
        gate: Gate::Creator,
    };
    let mut created = runner::create(request).map_err(|e| refuse(&e))?;
    let terminal = created.terminal.take();
    let pipes = (stdout, stderr, input);
    made(Process::Own(created), terminal, pipes, wanted).map_err(|(process, e)| {
        // Dropping it ends the process; its group is ours to remove.
        let group = process.cgroup().clone();
        drop(process);
        let _ = runner::delete(&group);
        Refusal::internal("read the terminal", &e)
    })
}

/// The hierarchies, looked up once.
fn hierarchies(known: &mut Option<cgroup::Mounts>) -> Result<&cgroup::Mounts, Refusal> {
    match known {
        Some(mounts) => Ok(mounts),
        None => {
            let found =
                cgroup::Mounts::detect().map_err(|e| Refusal::internal("find the cgroup hierarchies", &e))?;
            Ok(known.insert(found))
        }
    }
}

/// As [`create`], by another OCI runtime or a foreign shim.
fn by_other(
    shim: &mut Shim,
    id: &str,
    bundle: &Path,
    rootfs: &[Mount],
    wanted: Wanted,
) -> Result<Made, Refusal> {
    if !rootfs.is_empty() {
        return Err(Refusal::invalid("rootfs: this pod's handler wants it mounted in the bundle"));
    }
    let spec = read_spec(bundle)?;
    let cgroup = group_of(&spec, hierarchies(&mut shim.mounts)?)?;
    let (stdio, stdout, stderr, input) =
        descriptors(wanted).map_err(|e| Refusal::internal("make the standard descriptors", &e))?;
    let (process, terminal) = match &shim.handler {
        Handler::Oci(program) => {
            let (container, terminal) = program.create(id, bundle, stdio, cgroup)?;
            (Process::Oci(container), terminal)
        }
        Handler::Shim(foreign) => {
            (Process::Shim(foreign.create(&shim.poll, id, bundle, &stdio, cgroup)?), None)
        }
        Handler::Own => return Err(Refusal::state("this pod has no other handler")),
    };
    made(process, terminal, (stdout, stderr, input), wanted).map_err(|(process, e)| {
        let _ = process.cgroup().kill();
        let _ = process.removed();
        let _ = process.cgroup().remove();
        Refusal::internal("read the terminal", &e)
    })
}

/// The group that a specification names.
fn group_of(spec: &Spec, mounts: &cgroup::Mounts) -> Result<Cgroup, Refusal> {
    let path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref()).and_then(Path::to_str);
    let path = path.ok_or_else(|| Refusal::invalid("bundle: linux.cgroupsPath is missing"))?;
    let path = CgroupPath::parse(path)
        .map_err(|e| Refusal::invalid(format!("bundle: linux.cgroupsPath: {}", chain(&e))))?;
    Ok(Cgroup::at(mounts, &path))
}

type Pipes = (Option<OwnedFd>, Option<OwnedFd>, Option<OwnedFd>);

/// What a process has is with its own pipes, or with its terminal. An error gives the process back.
fn made(
    process: Process,
    terminal: Option<OwnedFd>,
    (stdout, stderr, input): Pipes,
    wanted: Wanted,
) -> Result<Made, (Box<Process>, io::Error)> {
    let Some(terminal) = terminal else {
        return Ok(Made { process, stdout, stderr, input, terminal: None });
    };
    let ends = terminal.try_clone().and_then(|reader| {
        ioctl_fionbio(&reader, true)?;
        let input = if wanted.stdin { Some(terminal.try_clone()?) } else { None };
        Ok((reader, input))
    });
    match ends {
        Ok((reader, input)) => {
            Ok(Made { process, stdout: Some(reader), stderr, input, terminal: Some(terminal) })
        }
        Err(e) => Err((Box::new(process), e)),
    }
}

type Descriptors = (Stdio, Option<OwnedFd>, Option<OwnedFd>, Option<OwnedFd>);

fn descriptors(wanted: Wanted) -> io::Result<Descriptors> {
    if wanted.terminal {
        return Ok((Stdio::Terminal, None, None, None));
    }
    let (stdin, held) = if wanted.stdin {
        let (reader, writer) = io::pipe()?;
        ioctl_fionbio(&writer, true)?;
        (reader.into(), Some(writer.into()))
    } else {
        (crate::logfile::null()?, None)
    };
    if !wanted.output {
        let (stdout, stderr) = (crate::logfile::null()?, crate::logfile::null()?);
        return Ok((Stdio::Files { stdin, stdout, stderr }, None, None, held));
    }
    let (out_reader, stdout) = output_pipe()?;
    let (err_reader, stderr) = output_pipe()?;
    Ok((Stdio::Files { stdin, stdout, stderr }, Some(out_reader), Some(err_reader), held))
}

/// Reads a bundle's specification. It is read again for each command: kept in memory it would be most
/// of what an idle pod costs.
pub(crate) fn read_spec(bundle: &Path) -> Result<Spec, Refusal> {
    let path = bundle.join(SPEC);
    let file =
        File::open(&path).map_err(|e| Refusal::invalid(format!("bundle: open {}: {e}", path.display())))?;
    let mut bytes = Vec::new();
    let read = file.take(LARGEST_SPEC + 1).read_to_end(&mut bytes);
    read.map_err(|e| Refusal::internal("read config.json", &e))?;
    if bytes.len() as u64 > LARGEST_SPEC {
        return Err(Refusal::invalid(format!("bundle: {SPEC} has more than {LARGEST_SPEC} bytes")));
    }
    serde_json::from_slice(&bytes).map_err(|e| Refusal::invalid(format!("bundle: {SPEC}: {e}")))
}

/// What the caller of a failed Create or ExecSync is told.
fn refuse(error: &RunnerError) -> Refusal {
    let text = chain(error);
    match error {
        RunnerError::Unsupported { .. } => Refusal::new(ttrpc::proto::Code::UNIMPLEMENTED, text),
        RunnerError::Invalid { .. } | RunnerError::Seccomp { .. } => Refusal::invalid(text),
        RunnerError::Gone => Refusal::state(text),
        RunnerError::Cgroup(_)
        | RunnerError::Step { .. }
        | RunnerError::Hook(_)
        | RunnerError::Died { .. }
        | RunnerError::TooSlow { .. } => Refusal::new(ttrpc::proto::Code::INTERNAL, text),
    }
}

impl Process {
    /// Its number; that of a process which has ended stays its own until it is reaped.
    pub(crate) fn pid(&self) -> u32 {
        match self {
            Self::Own(created) => created.pid.as_raw_nonzero().get().unsigned_abs(),
            Self::Oci(container) => container.pid(),
            Self::Shim(container) => container.pid(),
        }
    }

    /// Of the process.
    pub(crate) fn pidfd(&self) -> &OwnedFd {
        match self {
            Self::Own(created) => &created.pidfd,
            Self::Oci(container) => container.pidfd(),
            Self::Shim(container) => container.pidfd(),
        }
    }

    /// The container's group.
    pub(crate) fn cgroup(&self) -> &Cgroup {
        match self {
            Self::Own(created) => &created.cgroup,
            Self::Oci(container) => container.cgroup(),
            Self::Shim(container) => container.cgroup(),
        }
    }

    /// Lets it execute its program, and waits until it did.
    pub(crate) fn start(&mut self) -> Result<(), NotStarted> {
        match self {
            Self::Own(created) => created.start().map_err(|error| {
                if matches!(error, StartError::NotWaiting) {
                    NotStarted::NotWaiting
                } else {
                    NotStarted::Failed(chain(&error))
                }
            }),
            Self::Oci(container) => container.start(),
            Self::Shim(container) => container.start(),
        }
    }

    /// Runs the hooks that come after its removal; gives what those that failed say.
    pub(crate) fn removed(&self) -> Vec<String> {
        match self {
            Self::Own(created) => created.removed().iter().map(ToString::to_string).collect(),
            Self::Oci(container) => container.removed(),
            Self::Shim(container) => container.removed(),
        }
    }

    /// Starts a further process in the container; gives its number, and the other end of its terminal if
    /// `stdio` asks for one. Its confinement is its own, but for the container's seccomp profile.
    pub(crate) fn exec(
        &self,
        shim: &Shim,
        bundle: &Path,
        further: Further<'_>,
        stdio: Stdio,
        cgroup: &Cgroup,
    ) -> Result<(Pid, Option<OwnedFd>), Refusal> {
        match self {
            Self::Own(_) => {}
            Self::Oci(container) => return container.exec(bundle, further, stdio, cgroup),
            Self::Shim(container) => return container.exec(&shim.poll, bundle, further, &stdio, cgroup),
        }
        let spec = read_spec(bundle)?;
        let process = further.process(&spec)?;
        let request = ExecRequest {
            container: std::os::fd::AsFd::as_fd(self.pidfd()),
            spec: &spec,
            process: &process,
            stdio,
            cgroup,
            seccomp_cache: Some(&shim.seccomp_cache),
        };
        match runner::exec(request) {
            Ok(execed) => Ok((execed.pid, execed.terminal)),
            Err(ExecError::Runner(e)) => Err(refuse(&e)),
            // The command is to blame: that is a bad argument of the call.
            Err(ExecError::Start(e)) => Err(Refusal::invalid(chain(&e))),
        }
    }
}

/// What is to be started in a container.
#[derive(Debug)]
pub(crate) enum Further<'a> {
    /// A command, confined as the container's first process is.
    Command(&'a [String]),
    /// A process with all that it has.
    Process(Box<oci_spec::runtime::Process>),
}

impl Further<'_> {
    /// All that it has: a command has what the container's own process has.
    pub(crate) fn process(self, spec: &Spec) -> Result<oci_spec::runtime::Process, Refusal> {
        match self {
            Further::Process(process) => Ok(*process),
            Further::Command(command) => {
                let own = spec.process().clone();
                let mut process = own.ok_or_else(|| Refusal::invalid("bundle: process is missing"))?;
                process.set_args(Some(command.to_vec())).set_terminal(Some(false)).set_command_line(None);
                Ok(process)
            }
        }
    }
}
