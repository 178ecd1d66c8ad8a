//! Hooks: programs of the node's administrator that run at fixed points of a container's life (config.md
//! "POSIX-platform Hooks" of the runtime specification).
//!
//! ```text
//! create: namespaces, mounts made ─> prestart, createRuntime (host) ─> createContainer (container) ─> pivot_root
//! start:  startContainer (container, its own files, rights and filter) ─> the program ─> poststart (host)
//! delete: all is removed ─> poststop (host)
//! ```
//! Each gets the container's state on its standard input. The first one that fails ends the container; one of
//! poststop that fails is told and no more.

use crate::{RunnerError, plan::process::absolute};
use oci_spec::runtime::{Hook as Wanted, Spec};
use std::{
    collections::HashMap,
    ffi::CStr,
    fs::File,
    io::{Read, Seek, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    rc::Rc,
    time::Duration,
};
use sys::{
    pidfd,
    rustix::{
        fs::{MemfdFlags, memfd_create},
        process::{Pid, Signal, kill_process_group},
    },
};

/// For a hook that names no timeout: the kubelet waits no longer for a container either.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(120);
/// So much of what a failed hook wrote is told.
const MOST_OUTPUT: u64 = 512;

/// A hook failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct HookError(pub(crate) String);

/// A container's hooks with what their state says of it; `None` in an `Option` stands for no hooks at all.
#[derive(Debug)]
pub(crate) struct Hooks {
    id: String,
    bundle: PathBuf,
    annotations: HashMap<String, String>,
    prestart: Vec<Hook>,
    create_runtime: Vec<Hook>,
    pub(crate) create_container: Vec<Hook>,
    pub(crate) start_container: Vec<Hook>,
    poststart: Vec<Hook>,
    poststop: Vec<Hook>,
}

/// One hook, checked.
#[derive(Debug)]
pub(crate) struct Hook {
    /// `hooks.prestart[0] /path`
    name: String,
    path: PathBuf,
    args: Vec<String>,
    /// `None`: it names none.
    env: Option<Vec<(String, String)>>,
    timeout: Duration,
}

/// Where a hook's container is in its life: `status` of runtime.md "State".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Creating,
    Created,
    Running,
    Stopped,
}

impl Hooks {
    /// # Errors
    /// [`RunnerError::Invalid`] for the first field that is malformed.
    pub(crate) fn new(spec: &Spec, id: &str, bundle: &Path) -> Result<Option<Rc<Self>>, RunnerError> {
        let Some(hooks) = spec.hooks() else { return Ok(None) };
        let found = Hooks {
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            annotations: spec.annotations().clone().unwrap_or_default(),
            prestart: parse("prestart", hooks.prestart())?,
            create_runtime: parse("createRuntime", hooks.create_runtime())?,
            create_container: parse("createContainer", hooks.create_container())?,
            start_container: with_environment_of(spec, parse("startContainer", hooks.start_container())?),
            poststart: parse("poststart", hooks.poststart())?,
            poststop: parse("poststop", hooks.poststop())?,
        };
        let all = [
            &found.prestart,
            &found.create_runtime,
            &found.create_container,
            &found.start_container,
            &found.poststart,
            &found.poststop,
        ];
        let none = all.iter().all(|list| list.is_empty());
        Ok((!none).then(|| Rc::new(found)))
    }

    /// Whether the host has something to run while the container is made.
    pub(crate) fn any_of_runtime(&self) -> bool {
        !(self.prestart.is_empty() && self.create_runtime.is_empty())
    }

    /// How long those may take that the container's own process runs before it says that it is ready.
    pub(crate) fn time_to_create(&self) -> Duration {
        self.create_container.iter().map(|hook| hook.timeout).sum()
    }

    /// As [`Hooks::time_to_create`], for the start.
    pub(crate) fn time_to_start(&self) -> Duration {
        self.start_container.iter().map(|hook| hook.timeout).sum()
    }

    /// prestart and createRuntime, on the host.
    pub(crate) fn run_of_runtime(&self, pid: Pid) -> Result<(), HookError> {
        let state = self.state(Status::Creating, pid.as_raw_pid());
        self.prestart.iter().chain(&self.create_runtime).try_for_each(|hook| hook.run(&state))
    }

    /// createContainer, by the container's own process: paths are the host's, namespaces the container's.
    pub(crate) fn run_create_container(&self) -> Result<(), HookError> {
        let state = self.state(Status::Creating, own_pid());
        self.create_container.iter().try_for_each(|hook| hook.run(&state))
    }

    /// What the startContainer hooks read and write, made while nothing is forbidden yet: the container's filter
    /// need not know the calls.
    pub(crate) fn before_start(&self) -> Result<Vec<Files>, HookError> {
        let state = self.state(Status::Created, own_pid());
        self.start_container.iter().map(|hook| hook.files(&state)).collect()
    }

    /// startContainer, by the container's own process in its own root.
    pub(crate) fn run_start_container(&self, files: Vec<Files>) -> Result<(), HookError> {
        self.start_container.iter().zip(files).try_for_each(|(hook, files)| hook.run_with(files))
    }

    /// poststart, on the host.
    pub(crate) fn run_poststart(&self, pid: Pid) -> Result<(), HookError> {
        let state = self.state(Status::Running, pid.as_raw_pid());
        self.poststart.iter().try_for_each(|hook| hook.run(&state))
    }

    /// poststop, on the host: all of them; those that failed are returned.
    pub(crate) fn run_poststop(&self) -> Vec<HookError> {
        let state = self.state(Status::Stopped, 0);
        self.poststop.iter().filter_map(|hook| hook.run(&state).err()).collect()
    }

    fn state(&self, status: Status, pid: i32) -> Vec<u8> {
        let mut state = serde_json::json!({
            "ociVersion": crate::SPEC_VERSION,
            "id": self.id,
            "status": match status {
                Status::Creating => "creating",
                Status::Created => "created",
                Status::Running => "running",
                Status::Stopped => "stopped",
            },
            "bundle": self.bundle,
            "annotations": self.annotations,
        });
        if status != Status::Stopped {
            state["pid"] = pid.into();
        }
        state.to_string().into_bytes()
    }
}

/// In the PID namespace that the caller is in, as the specification wants it for hooks of the container.
fn own_pid() -> i32 {
    sys::rustix::process::getpid().as_raw_pid()
}

fn parse(kind: &str, wanted: &Option<Vec<Wanted>>) -> Result<Vec<Hook>, RunnerError> {
    wanted.iter().flatten().enumerate().map(|(at, hook)| one(&format!("hooks.{kind}[{at}]"), hook)).collect()
}

/// A hook of the container that names no environment has that of the container's process, as with runc.
fn with_environment_of(spec: &Spec, mut hooks: Vec<Hook>) -> Vec<Hook> {
    let process = spec.process().as_ref().and_then(|process| process.env().as_ref());
    let pair = |text: &String| text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    let env: Vec<_> =
        process.into_iter().flatten().filter_map(pair).filter(|(name, _)| !name.is_empty()).collect();
    for hook in hooks.iter_mut().filter(|hook| hook.env.is_none()) {
        hook.env = Some(env.clone());
    }
    hooks
}

fn one(field: &str, wanted: &Wanted) -> Result<Hook, RunnerError> {
    let path = wanted.path();
    absolute(&format!("{field}.path"), path)?;
    let no_nul = |name: &str, text: &String| {
        if text.contains('\0') {
            return Err(RunnerError::invalid(format!("{field}.{name}"), "it holds a NUL byte"));
        }
        Ok(text.clone())
    };
    let args = wanted.args().iter().flatten().map(|arg| no_nul("args", arg)).collect::<Result<_, _>>()?;
    let variable = |text: &String| {
        let text = no_nul("env", text)?;
        let found = text.split_once('=').filter(|(name, _)| !name.is_empty());
        let found = found.map(|(name, value)| (name.to_owned(), value.to_owned()));
        found
            .ok_or_else(|| RunnerError::invalid(format!("{field}.env"), format!("`{text}` is no NAME=value")))
    };
    let env =
        wanted.env().as_ref().map(|env| env.iter().map(variable).collect::<Result<_, _>>()).transpose()?;
    let timeout = match wanted.timeout().map(u64::try_from) {
        None => DEFAULT_TIMEOUT,
        Some(Ok(seconds @ 1..)) => Duration::from_secs(seconds),
        Some(Ok(_) | Err(_)) => {
            return Err(RunnerError::invalid(format!("{field}.timeout"), "it is not greater than zero"));
        }
    };
    Ok(Hook { name: format!("{field} {}", path.display()), path: path.clone(), args, env, timeout })
}

/// A hook's input and output. Files of memory, and not pipes: neither a hook that reads nothing nor one that writes
/// much can block us.
#[derive(Debug)]
pub(crate) struct Files {
    input: File,
    output: File,
}

impl Hook {
    fn failed(&self, why: impl std::fmt::Display) -> HookError {
        HookError(format!("{}: {why}", self.name))
    }

    fn told(&self, step: &'static str) -> impl Fn(std::io::Error) -> HookError {
        move |error| self.failed(format!("{step}: {error}"))
    }

    fn files(&self, state: &[u8]) -> Result<Files, HookError> {
        let mut input = memory(c"hook-state").map_err(self.told("make its input"))?;
        input.write_all(state).and_then(|()| input.rewind()).map_err(self.told("write its input"))?;
        let output = memory(c"hook-output").map_err(self.told("make its output"))?;
        Ok(Files { input, output })
    }

    fn run(&self, state: &[u8]) -> Result<(), HookError> {
        self.run_with(self.files(state)?)
    }

    /// Runs it to its end, or to its timeout, with just the variables that it has.
    fn run_with(&self, Files { input, mut output }: Files) -> Result<(), HookError> {
        let copy = || output.try_clone().map_err(self.told("make its output"));
        let (first, rest) = self.args.split_first().map_or((None, &[][..]), |(f, r)| (Some(f), r));
        let mut command = Command::new(&self.path);
        if let Some(name) = first {
            command.arg0(name);
        }
        command.args(rest).env_clear();
        command.envs(self.env.iter().flatten().map(|(name, value)| (name, value)));
        // A group of its own, so that a hook that takes too long ends with all that it started.
        command.stdin(input).stdout(copy()?).stderr(copy()?).process_group(0);
        let status = wait(command, self.timeout).map_err(self.told("run it"))?;
        match status {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(self.failed(format!("{status}{}", shown(&mut output)))),
            None => {
                Err(self.failed(format!("it took longer than {} s and was killed", self.timeout.as_secs())))
            }
        }
    }
}

fn memory(name: &CStr) -> std::io::Result<File> {
    Ok(File::from(memfd_create(name, MemfdFlags::CLOEXEC)?))
}

/// `None` when it was killed at the end of its time.
fn wait(mut command: Command, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    let mut child = command.spawn()?;
    let pid = Pid::from_child(&child);
    let ended = match pidfd::open(pid) {
        Ok(process) => pidfd::ended_within(&process, limit).map_err(std::io::Error::from),
        // A container's filter may not know the call.
        Err(_) => sys::wait::until(limit, || child.try_wait().map(|status| status.is_some())),
    };
    if matches!(ended, Ok(true)) {
        return child.wait().map(Some);
    }
    // Not reaped yet, so that the number is still its own.
    let _ = kill_process_group(pid, Signal::KILL);
    child.wait()?;
    ended?;
    Ok(None)
}

fn shown(output: &mut File) -> String {
    let mut bytes = Vec::new();
    let read = output.rewind().and_then(|()| output.take(MOST_OUTPUT).read_to_end(&mut bytes));
    let text = String::from_utf8_lossy(&bytes);
    match read {
        Ok(_) if !text.trim().is_empty() => format!(": {}", text.trim()),
        Ok(_) | Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(json: &str) -> Result<Hook, String> {
        one("hooks.prestart[0]", &serde_json::from_str(json).expect("hook"))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn each_bad_field_is_named() {
        for (json, field) in [
            (r#"{"path":"bin/true"}"#, "hooks.prestart[0].path is invalid"),
            (r#"{"path":"/bin/true","timeout":0}"#, "hooks.prestart[0].timeout is invalid"),
            (r#"{"path":"/bin/true","timeout":-1}"#, "hooks.prestart[0].timeout is invalid"),
            (r#"{"path":"/bin/true","env":["A"]}"#, "hooks.prestart[0].env is invalid"),
            (r#"{"path":"/bin/true","args":["a\u0000b"]}"#, "hooks.prestart[0].args is invalid"),
        ] {
            let error = hook(json).expect_err(json);
            assert!(error.starts_with(field), "{error}");
        }
    }

    #[test]
    fn a_hook_has_its_own_environment_and_name_and_the_state_on_its_input() {
        let dir = tempfile();
        let script = format!("{{ env; cat /proc/$$/cmdline; echo; cat; }} > {}", dir.display());
        let json =
            serde_json::json!({ "path": "/bin/sh", "args": ["named", "-c", script], "env": ["A=b=c"] });
        hook(&json.to_string()).expect("fine").run(b"{\"id\":1}").expect("it succeeds");
        let seen = std::fs::read_to_string(&dir).expect("read");
        std::fs::remove_file(&dir).expect("remove");
        assert!(seen.contains("A=b=c\n") && !seen.contains("CARGO"), "{seen}");
        assert!(seen.contains("named\0-c\0") && seen.ends_with("{\"id\":1}"), "{seen}");
    }

    #[test]
    fn a_hook_that_fails_tells_its_status_and_what_it_wrote() {
        let failing = hook(r#"{"path":"/bin/sh","args":["sh","-c","echo why; exit 3"]}"#).expect("fine");
        let error = failing.run(b"").expect_err("it fails").to_string();
        assert_eq!(error, "hooks.prestart[0] /bin/sh: exit status: 3: why");
        let missing =
            hook(r#"{"path":"/bin/not-there"}"#).expect("fine").run(b"").expect_err("fails").to_string();
        assert!(missing.starts_with("hooks.prestart[0] /bin/not-there: run it: No such file"), "{missing}");
    }

    #[test]
    fn a_hook_that_takes_too_long_is_killed_with_what_it_started() {
        let path = tempfile();
        let script = format!("sleep 1000 & echo $! > {}; wait", path.display());
        let json = serde_json::json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "timeout": 1 });
        let error = hook(&json.to_string()).expect("fine").run(b"").expect_err("too long").to_string();
        assert!(error.ends_with("took longer than 1 s and was killed"), "{error}");
        let pid = std::fs::read_to_string(&path).expect("it had started").trim().parse().expect("pid");
        std::fs::remove_file(&path).expect("remove");
        if let Ok(process) = pidfd::open(Pid::from_raw(pid).expect("pid")) {
            assert_eq!(pidfd::ended_within(&process, Duration::from_secs(60)), Ok(true));
        }
    }

    fn tempfile() -> PathBuf {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let at = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        std::env::temp_dir().join(format!("peapod-test-hook-{}-{at}", std::process::id()))
    }
}
