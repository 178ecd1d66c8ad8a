//! The only place that knows `runner`: a bundle becomes a container's first process, a command becomes
//! a further process in it.

use crate::serve::Shim;
use crate::wire::{Refusal, chain};
use cgroup::Cgroup;
use containerd_shim_protos::api::Mount;
use oci_spec::runtime::Spec;
use runner::{
    CreateRequest, Created, ExecError, ExecRequest, Gate, RootMount, RunnerError, StartError, Stdio,
};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use sys::rustix::io::ioctl_fionbio;
use sys::rustix::process::Pid;

/// The specification's name in a bundle.
const SPEC: &str = "config.json";
/// The largest specification that is read.
const LARGEST_SPEC: u64 = 4 << 20;
/// Mounts that make up a root file system: an overlay, and a few to spare.
const MOST_ROOT_MOUNTS: usize = 16;

/// A container's first process.
#[derive(Debug)]
pub(crate) struct Process(Created);

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
    let rootfs = rootfs.iter().map(|mount| RootMount {
        kind: mount.type_.clone(),
        source: mount.source.clone().into(),
        options: mount.options.clone(),
    });
    let spec = read_spec(bundle)?;
    let (stdio, stdout, stderr, input) =
        descriptors(wanted).map_err(|e| Refusal::internal("make the standard descriptors", &e))?;
    let cgroups = match &shim.mounts {
        Some(mounts) => mounts,
        None => {
            let found =
                cgroup::Mounts::detect().map_err(|e| Refusal::internal("find the cgroup hierarchies", &e))?;
            shim.mounts.insert(found)
        }
    };
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
    let Some(terminal) = created.terminal.take() else {
        return Ok(Made { process: Process(created), stdout, stderr, input, terminal: None });
    };
    let ends = terminal.try_clone().and_then(|reader| {
        ioctl_fionbio(&reader, true)?;
        let input = if wanted.stdin { Some(terminal.try_clone()?) } else { None };
        Ok((reader, input))
    });
    match ends {
        Ok((reader, input)) => Ok(Made {
            process: Process(created),
            stdout: Some(reader),
            stderr,
            input,
            terminal: Some(terminal),
        }),
        Err(e) => {
            // Dropping `created` ends the process; its group is ours to remove.
            let group = created.cgroup.clone();
            drop(created);
            let _ = runner::delete(&group);
            Err(Refusal::internal("read the terminal", &e))
        }
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
fn read_spec(bundle: &Path) -> Result<Spec, Refusal> {
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
        self.0.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Of the process.
    pub(crate) fn pidfd(&self) -> &OwnedFd {
        &self.0.pidfd
    }

    /// The container's group.
    pub(crate) fn cgroup(&self) -> &Cgroup {
        &self.0.cgroup
    }

    /// Lets it execute its program, and waits until it did.
    pub(crate) fn start(&mut self) -> Result<(), StartError> {
        self.0.start()
    }

    /// Runs the hooks that come after its removal; gives what those that failed say.
    pub(crate) fn removed(&self) -> Vec<String> {
        self.0.removed().iter().map(ToString::to_string).collect()
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
        let spec = read_spec(bundle)?;
        let process = match further {
            Further::Process(process) => *process,
            Further::Command(command) => {
                let own = spec.process().clone();
                let mut process = own.ok_or_else(|| Refusal::invalid("bundle: process is missing"))?;
                process.set_args(Some(command.to_vec())).set_terminal(Some(false)).set_command_line(None);
                process
            }
        };
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
