//! Plugins of any other type: executed as the CNI specification 1.1 says, sections 2 and 3.
//!
//! The program gets a fixed environment and nothing of the daemon's, its configuration on stdin, and
//! a deadline, at which its whole process group is killed. What it prints is bounded.

use crate::conflist::check_type;
use serde::Deserialize;
use std::{
    ffi::OsString,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use sys::rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
};

/// The largest result, in bytes.
const LARGEST_STDOUT: u64 = 1024 * 1024;
/// What is kept of stderr, for the log.
const LARGEST_STDERR: u64 = 64 * 1024;
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `CNI_COMMAND`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Attach.
    Add,
    /// Detach.
    Del,
    /// Is it still attached?
    Check,
    /// Clean up after all but these.
    Gc,
    /// Ready for ADD?
    Status,
    /// Which versions?
    Version,
}

impl Verb {
    /// As in `CNI_COMMAND`.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }
}

/// Why a plugin gave no result.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// It answered with an error object (SPEC.md section 5).
    #[error("{message} (code {code}){}", behind_colon(.details))]
    Answered {
        /// 1-99 are the specification's, 100 and above the plugin's own.
        code: u64,
        /// `msg`
        message: String,
        /// `details`
        details: String,
    },
    /// No such program in the directory.
    #[error("no program `{name}` in `{}`", .dir.display())]
    NotFound {
        /// `type`
        name: String,
        /// The directory of the plugins.
        dir: PathBuf,
    },
    /// It did not end in time and was killed.
    #[error("not done after {0:?}, killed")]
    Deadline(Duration),
    /// It printed more than 1 MiB and was killed.
    #[error("more than {LARGEST_STDOUT} bytes of output, killed")]
    TooMuchOutput,
    /// It ended otherwise than well, without an error object.
    #[error("ended with {status}, and no error object{}", behind_colon(.stderr))]
    Failed {
        /// How it ended.
        status: std::process::ExitStatus,
        /// The end of what it said on stderr.
        stderr: String,
    },
    /// Its output is not JSON of a result.
    #[error("the output is no result of CNI")]
    NotJson(#[source] serde_json::Error),
    /// It could not be run.
    #[error("cannot run it")]
    Run(#[source] std::io::Error),
}

fn behind_colon(text: &str) -> String {
    let text = text.trim();
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

/// One call of a plugin.
#[derive(Clone, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) verb: Verb,
    /// `type`
    pub(crate) kind: &'a str,
    pub(crate) bin_dir: &'a Path,
    /// `CNI_CONTAINERID`, `CNI_NETNS`, `CNI_IFNAME`, `CNI_ARGS`, as far as the verb has them.
    pub(crate) env: Vec<(&'static str, OsString)>,
    /// Configuration for stdin.
    pub(crate) config: String,
    pub(crate) deadline: Duration,
}

#[derive(Debug, Deserialize)]
struct ErrorObject {
    code: u64,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: String,
}

/// The program of a type: a file that may be executed, in that directory and nowhere else.
pub(crate) fn find(kind: &str, bin_dir: &Path) -> Result<PathBuf, PluginError> {
    let absent = || PluginError::NotFound { name: kind.to_owned(), dir: bin_dir.to_owned() };
    check_type(kind).map_err(|_| absent())?;
    let path = bin_dir.join(kind);
    let is_program = |m: std::fs::Metadata| m.is_file() && m.permissions().mode() & 0o111 != 0;
    if std::fs::metadata(&path).is_ok_and(is_program) { Ok(path) } else { Err(absent()) }
}

/// Kills what is left of a process group when it is dropped.
#[derive(Debug)]
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }

    fn kill(&mut self) {
        if let Some(group) = self.0.take() {
            let _ = kill_process_group(group, Signal::KILL); // nobody left is fine
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Call<'_> {
    /// Runs the plugin; its stdout if it ended well.
    pub(crate) async fn run(&self) -> Result<Vec<u8>, PluginError> {
        let program = find(self.kind, self.bin_dir)?;
        let mut child = Command::new(program)
            .env_clear()
            .env("CNI_COMMAND", self.verb.text())
            .env("CNI_PATH", self.bin_dir)
            .env("PATH", PATH)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(PluginError::Run)?;
        let mut group = Group::of(&child);
        let whole = async {
            let (stdout, stderr) = self.talk(&mut child).await?;
            let status = child.wait().await.map_err(PluginError::Run)?;
            Ok((stdout, stderr, status))
        };
        let outcome = tokio::time::timeout(self.deadline, whole).await;
        let Ok(Ok((stdout, stderr, status))) = outcome else {
            group.kill();
            let _ = child.wait().await; // reaped; how it ended was our doing
            return match outcome {
                Ok(Err(e)) => Err(e),
                Ok(Ok(_)) | Err(_) => Err(PluginError::Deadline(self.deadline)),
            };
        };
        // A program that it left in the background on purpose has let go of its output.
        group.0 = None;
        if !stderr.is_empty() {
            let said = String::from_utf8_lossy(&stderr);
            tracing::debug!(plugin = self.kind, verb = self.verb.text(), %said, "CNI plugin said");
        }
        if status.success() {
            return Ok(stdout);
        }
        match serde_json::from_slice::<ErrorObject>(&stdout) {
            Ok(said) => {
                Err(PluginError::Answered { code: said.code, message: said.msg, details: said.details })
            }
            Err(_) => {
                let end = stderr.len().saturating_sub(1024);
                Err(PluginError::Failed {
                    status,
                    stderr: String::from_utf8_lossy(&stderr[end..]).into_owned(),
                })
            }
        }
    }

    /// Gives it its configuration and takes what it prints, until it has closed its output.
    async fn talk(&self, child: &mut Child) -> Result<(Vec<u8>, Vec<u8>), PluginError> {
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let write = async {
            let Some(mut stdin) = stdin else { return Ok(()) };
            match stdin.write_all(self.config.as_bytes()).await {
                // A plugin need not read.
                Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
                other => other.map_err(PluginError::Run),
            }
        };
        let read = async {
            let bytes = read_up_to(stdout, LARGEST_STDOUT + 1).await.map_err(PluginError::Run)?;
            let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            if length > LARGEST_STDOUT { Err(PluginError::TooMuchOutput) } else { Ok(bytes) }
        };
        let listen = async {
            let Some(mut stderr) = stderr else { return Ok(Vec::new()) };
            let bytes = read_up_to(Some(&mut stderr), LARGEST_STDERR).await.map_err(PluginError::Run)?;
            // The rest goes nowhere, so that it never blocks.
            tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await.map_err(PluginError::Run)?;
            Ok(bytes)
        };
        let ((), stdout, stderr) = tokio::try_join!(write, read, listen)?;
        Ok((stdout, stderr))
    }
}

async fn read_up_to(from: Option<impl AsyncRead + Unpin>, most: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        from.take(most).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}
