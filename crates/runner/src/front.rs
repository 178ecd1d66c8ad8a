//! The command line of runc, so far as this runtime goes: for people, benchmarks and suites for OCI runtimes.
//!
//! `create start run state kill delete exec list features spec`, with `--root --log --log-format`. What is not
//! done is refused by name.

mod args;
mod commands;
mod console;
mod describe;
mod store;

use args::Arguments;
use std::{
    error::Error,
    ffi::OsString,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// A command that failed, as a text for people.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrontError {
    /// The command line is wrong.
    #[error("{0}")]
    Usage(String),
    /// A container that is not there, is there already, or is in another state.
    #[error("{0}")]
    State(String),
    /// A file could not be read or written.
    #[error("{what}")]
    Io {
        what: String,
        #[source]
        source: std::io::Error,
    },
    /// A file is not the JSON that it should be.
    #[error("{what}")]
    Json {
        what: String,
        #[source]
        source: serde_json::Error,
    },
    #[error(transparent)]
    Runner(#[from] crate::RunnerError),
    #[error(transparent)]
    Start(#[from] crate::StartError),
}

impl FrontError {
    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| FrontError::Io { what: what.into(), source }
    }
    fn errno(what: impl Into<String>) -> impl FnOnce(sys::rustix::io::Errno) -> Self {
        move |source| FrontError::Io { what: what.into(), source: source.into() }
    }
}

impl From<cgroup::CgroupError> for FrontError {
    fn from(error: cgroup::CgroupError) -> Self {
        FrontError::Runner(error.into())
    }
}

impl From<crate::ExecError> for FrontError {
    fn from(error: crate::ExecError) -> Self {
        match error {
            crate::ExecError::Runner(error) => error.into(),
            crate::ExecError::Start(error) => error.into(),
        }
    }
}

/// Where containers are kept when `--root` is not given.
const ROOT: &str = "/run/peapod-runner";

/// Options before the command.
#[derive(Debug)]
struct Global {
    root: PathBuf,
    log: Option<PathBuf>,
    log_json: bool,
}

/// What this runtime can do: features.md of the runtime specification, as JSON.
#[must_use]
pub fn features() -> String {
    describe::capabilities().to_string()
}

/// Runs one command; `args` with the program's name first. The process must have one thread.
#[must_use]
pub fn main(args: Vec<OsString>) -> ExitCode {
    let mut global = Global { root: PathBuf::from(ROOT), log: None, log_json: false };
    let done = crate::seal::seal(args.clone())
        .map_err(FrontError::errno("protect this program from the containers"))
        .and_then(|()| dispatch(args, &mut global));
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            report(&global, &error);
            match error {
                FrontError::Start(start) => ExitCode::from(u8::try_from(start.exit_code()).unwrap_or(1)),
                FrontError::Usage(_)
                | FrontError::State(_)
                | FrontError::Io { .. }
                | FrontError::Json { .. }
                | FrontError::Runner(_) => ExitCode::FAILURE,
            }
        }
    }
}

fn dispatch(args: Vec<OsString>, global: &mut Global) -> Result<u8, FrontError> {
    let mut args = Arguments::new(args)?;
    if args.flag(&["--version", "-v"]) {
        print(&format!(
            "peapod-runner version {}\nspec: {}\n",
            env!("CARGO_PKG_VERSION"),
            crate::SPEC_VERSION
        ))?;
        return Ok(0);
    }
    while let Some(option) = args.next_option() {
        match option.as_str() {
            "--root" => global.root = args.value(&option)?.into(),
            "--log" => global.log = Some(args.value(&option)?.into()),
            "--log-format" => global.log_json = args.value(&option)? == "json",
            "--debug" => {}
            "--rootless" => {
                let value = args.value(&option)?;
                if value == "true" {
                    return Err(FrontError::Usage("--rootless true is not supported".to_owned()));
                }
            }
            other => return Err(FrontError::Usage(format!("the option {other} is not supported"))),
        }
    }
    let command = args.word("a command")?;
    match command.as_str() {
        "create" => commands::create(args, &global.root),
        "start" => commands::start(args, &global.root),
        "run" => commands::run(args, &global.root),
        "exec" => commands::exec(args, &global.root),
        "kill" => commands::kill(args, &global.root),
        "delete" => commands::delete(args, &global.root),
        "state" => describe::state(args, &global.root),
        "list" => describe::list(args, &global.root),
        "features" => describe::features(args),
        "spec" => describe::spec(args),
        other => Err(FrontError::Usage(format!(
            "the command {other} is not supported; there are create, start, run, exec, kill, delete, state, list, features and spec"
        ))),
    }
}

/// Writes to standard output; a reader that is gone is an error like any other.
pub(crate) fn print(text: &str) -> Result<(), FrontError> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(FrontError::io("write to standard output"))
}

/// What did not go well and changes nothing.
pub(crate) fn warn(text: &str) {
    // There is nobody left to tell when this fails.
    let _ = writeln!(std::io::stderr(), "peapod-runner: warning: {text}");
}

/// The whole chain of causes, to stderr and to the log of `--log`, from which containerd and others read it.
fn report(global: &Global, error: &FrontError) {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    // There is nobody left to tell when this fails.
    let _ = writeln!(std::io::stderr(), "peapod-runner: {text}");
    if let Some(log) = &global.log {
        let _ = append(log, &line(&text, global.log_json));
    }
}

fn line(text: &str, json: bool) -> String {
    if json {
        let line = serde_json::json!({ "level": "error", "msg": text, "time": store::now() });
        format!("{line}\n")
    } else {
        format!("time=\"{}\" level=error msg={text:?}\n", store::now())
    }
}

fn append(log: &Path, line: &str) -> std::io::Result<()> {
    std::fs::OpenOptions::new().append(true).create(true).open(log)?.write_all(line.as_bytes())
}
