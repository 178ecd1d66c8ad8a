//! Containers that another OCI runtime makes, by its command line (runc, crun, youki: runc's
//! `create start exec delete`). The shim is a subreaper, so that what such a program leaves behind at its end, the
//! container's first process or an exec's, becomes a child of the shim and is reaped like its own.
//!
//! The loop waits while a program runs, so each call has its time ([`CALL`]) and is killed at its end.

use crate::launch::{Further, NotStarted, read_spec};
use crate::wire::Refusal;
use cgroup::Cgroup;
use serde_json::Value;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio as Std};
use std::rc::Rc;
use std::time::Duration;
use sys::rustix::fd::OwnedFd;
use sys::rustix::fs::Mode;
use sys::rustix::process::{Pid, Signal};
use types::handler::state_root;

/// How long one call may take. The daemon waits for 30 s.
const CALL: Duration = Duration::from_secs(20);
/// How long a call may take that puts away what another one left.
const TIDY: Duration = Duration::from_secs(5);
/// So much of the end of a program's log is looked at, and so much of its own output is kept.
const MOST_LOG: u64 = 64 << 10;
/// So much of its words is told.
const MOST_TOLD: usize = 2048;
/// Digits of a process's number, with some room.
const MOST_PID: u64 = 32;
/// Rounds of [`gather`]: only a fork bomb needs more.
const ROUNDS: usize = 8;
/// Programs look for others (criu, newuidmap) there.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program, and its places in the shim's directory.
#[derive(Debug)]
pub(crate) struct Program {
    path: PathBuf,
    directory: PathBuf,
}

/// A container's first process.
#[derive(Debug)]
pub(crate) struct Container {
    program: Rc<Program>,
    id: String,
    pid: Pid,
    pidfd: OwnedFd,
    cgroup: Cgroup,
}

/// Descriptors of the process that a program starts: as with our own runner.
pub(crate) type Started = (Pid, Option<OwnedFd>);

/// What a program that failed is told of.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Failed(String);

/// The standard descriptors of a call.
enum Streams {
    /// The process gets them: stdin, stdout, stderr.
    Process(OwnedFd, OwnedFd, OwnedFd),
    /// Nobody's: what the program writes is told when it fails.
    None,
}

impl Program {
    pub(crate) fn new(path: PathBuf, directory: PathBuf) -> Self {
        Self { path, directory }
    }

    /// Makes a container's first process, which waits for its start, and gives the other end of its terminal if it
    /// has one. What fails leaves nothing behind.
    pub(crate) fn create(
        self: &Rc<Self>,
        id: &str,
        bundle: &Path,
        stdio: runner::Stdio,
        cgroup: Cgroup,
    ) -> Result<(Container, Option<OwnedFd>), Refusal> {
        let words = [OsStr::new("create"), "--bundle".as_ref(), bundle.as_os_str()];
        let made = self.make(&words, id, &[], stdio).and_then(|(pid, pidfd, terminal)| {
            // Limits, statistics and the end of what the container forks go by this group.
            let there = cgroup.processes().is_ok_and(|all| all.contains(&pid.as_raw_pid()));
            if there || sys::pidfd::ended_within(&pidfd, Duration::ZERO) == Ok(true) {
                return Ok((pid, pidfd, terminal));
            }
            let _ = sys::pidfd::send_signal(&pidfd, Signal::KILL);
            Err(Failed(format!(
                "{} put it into another cgroup than {}",
                self.path.display(),
                cgroup.path().as_str()
            )))
        });
        match made {
            Ok((pid, pidfd, terminal)) => {
                Ok((Container { program: Rc::clone(self), id: id.to_owned(), pid, pidfd, cgroup }, terminal))
            }
            Err(failed) => {
                let _ = self.delete(id);
                let _ = cgroup.kill().and_then(|()| cgroup.remove());
                Err(Refusal::internal("create the container", &failed))
            }
        }
    }

    fn delete(&self, id: &str) -> Result<(), Failed> {
        let words = [OsStr::new("delete"), "--force".as_ref(), id.as_ref()];
        self.call(&words, Streams::None, TIDY)
    }

    /// Runs a command that starts a process and names it in a file.
    fn make(
        &self,
        words: &[&OsStr],
        id: &str,
        more: &[&OsStr],
        stdio: runner::Stdio,
    ) -> Result<(Pid, OwnedFd, Option<OwnedFd>), Failed> {
        let failed = |what: &str, error: &dyn std::fmt::Display| Failed(format!("{what}: {error}"));
        let pid_file = self.directory.join("oci.pid");
        let socket = self.directory.join("tty.sock");
        remove(&pid_file).and_then(|()| remove(&socket)).map_err(|e| failed("remove a stale file", &e))?;
        let mut all = words.to_vec();
        all.extend([OsStr::new("--pid-file"), pid_file.as_os_str()]);
        let (streams, listener) = match stdio {
            runner::Stdio::Files { stdin, stdout, stderr } => (Streams::Process(stdin, stdout, stderr), None),
            runner::Stdio::Terminal => {
                all.extend([OsStr::new("--console-socket"), socket.as_os_str()]);
                let listener = UnixListener::bind(&socket).and_then(|listener| {
                    listener.set_nonblocking(true)?;
                    Ok(listener)
                });
                (Streams::None, Some(listener.map_err(|e| failed("listen for the terminal", &e))?))
            }
        };
        all.push(id.as_ref());
        all.extend(more);
        let called = self.call(&all, streams, CALL);
        let started = self.started(&pid_file);
        let _ = remove(&pid_file).and_then(|()| remove(&socket));
        let (pid, pidfd) = match (called, started) {
            (Ok(()), started) => started?,
            (Err(error), Ok((_, pidfd))) => {
                let _ = sys::pidfd::send_signal(&pidfd, Signal::KILL);
                return Err(error);
            }
            (Err(error), Err(_)) => return Err(error),
        };
        match listener.map(|listener| terminal(&listener)).transpose() {
            Ok(terminal) => Ok((pid, pidfd, terminal)),
            Err(error) => {
                let _ = sys::pidfd::send_signal(&pidfd, Signal::KILL);
                Err(Failed(format!("{} sent no terminal: {error}", self.path.display())))
            }
        }
    }

    /// The process that the program named. Only a child of this shim is believed: a number of any other process
    /// would be signalled in its place.
    fn started(&self, file: &Path) -> Result<(Pid, OwnedFd), Failed> {
        let none = |why: &dyn std::fmt::Display| {
            Failed(format!("{} names no process of the container: {why}", self.path.display()))
        };
        let mut text = String::new();
        let read = File::open(file).and_then(|file| file.take(MOST_PID).read_to_string(&mut text));
        read.map_err(|e| none(&e))?;
        let pid = text.trim().parse::<i32>().map_err(|e| none(&e))?;
        let pid = Pid::from_raw(pid).filter(|pid| pid.as_raw_pid() > 1).ok_or_else(|| none(&pid))?;
        let pidfd = sys::pidfd::open(pid).map_err(|e| none(&io::Error::from(e)))?;
        match sys::pidfd::is_child(&pidfd) {
            Ok(true) => Ok((pid, pidfd)),
            Ok(false) => Err(none(&format!("{} is no child of the shim", pid.as_raw_pid()))),
            Err(e) => Err(none(&io::Error::from(e))),
        }
    }

    /// One call, to its end.
    fn call(&self, words: &[&OsStr], streams: Streams, limit: Duration) -> Result<(), Failed> {
        let name = words.first().map(|word| word.to_string_lossy()).unwrap_or_default();
        let failed = |why: &dyn std::fmt::Display| Failed(format!("{} {name}: {why}", self.path.display()));
        let log = self.directory.join("oci.log");
        remove(&log).map_err(|e| failed(&e))?;
        let mut command = Command::new(&self.path);
        command.arg("--root").arg(state_root(&self.directory));
        command.arg("--log").arg(&log).args(["--log-format", "json"]).args(words);
        command.env_clear().env("PATH", PATH).current_dir(&self.directory);
        let said = match streams {
            Streams::Process(stdin, stdout, stderr) => {
                command.stdin(stdin).stdout(stdout).stderr(stderr);
                None
            }
            Streams::None => {
                let said = sys::program::memory(MOST_LOG).map_err(|e| failed(&e))?;
                let copy = || said.try_clone().map_err(|e| failed(&e));
                command.stdin(Std::null()).stdout(copy()?).stderr(copy()?);
                Some(said)
            }
        };
        let status = sys::program::run_within(command, limit).map_err(|e| failed(&e))?;
        let words = match status {
            Some(status) if status.success() => return Ok(()),
            Some(status) => {
                let words = || sys::program::written(&mut said?).ok();
                let told = last_error(&log)
                    .or_else(|| words().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()));
                let told = told.map(|text| cut(text.trim())).filter(|text| !text.is_empty());
                told.unwrap_or_else(|| status.to_string())
            }
            None => format!("it took longer than {} s and was killed", limit.as_secs()),
        };
        Err(failed(&words))
    }
}

impl Container {
    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    pub(crate) fn pidfd(&self) -> &OwnedFd {
        &self.pidfd
    }

    pub(crate) fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    fn has_ended(&self) -> bool {
        sys::pidfd::ended_within(&self.pidfd, Duration::ZERO) == Ok(true)
    }

    /// Lets it execute its program.
    pub(crate) fn start(&self) -> Result<(), NotStarted> {
        if self.has_ended() {
            return Err(NotStarted::NotWaiting);
        }
        let words = [OsStr::new("start"), self.id.as_ref()];
        self.program
            .call(&words, Streams::None, CALL)
            .map_err(|failed| NotStarted::Failed(failed.to_string()))
    }

    /// Starts a further process, in the group of its own that it is given.
    pub(crate) fn exec(
        &self,
        bundle: &Path,
        further: Further<'_>,
        stdio: runner::Stdio,
        group: &Cgroup,
    ) -> Result<Started, Refusal> {
        if self.has_ended() {
            return Err(Refusal::state(format!("container {} has ended", self.id)));
        }
        let mut process = further.process(&read_spec(bundle)?)?;
        process.set_terminal(Some(matches!(stdio, runner::Stdio::Terminal)));
        let file = self.program.directory.join("exec.json");
        let text = serde_json::to_vec(&process).map_err(|e| Refusal::internal("write the process", &e))?;
        sys::file::replace_path(&file, &text, Mode::from_raw_mode(0o600))
            .map_err(|e| Refusal::internal("write the process", &e))?;
        let words = [OsStr::new("exec"), "--detach".as_ref(), "--process".as_ref(), file.as_os_str()];
        let made = self.program.make(&words, &self.id, &[], stdio);
        let _ = remove(&file);
        match made {
            Ok((pid, _, terminal)) => {
                gather(&self.cgroup, group, pid);
                Ok((pid, terminal))
            }
            Err(_) if self.has_ended() => Err(Refusal::state(format!("container {} has ended", self.id))),
            // With other people's programs the command is to blame most often.
            Err(failed) => Err(Refusal::invalid(failed.to_string())),
        }
    }

    /// Has the program forget it, which also runs the hooks that come after.
    pub(crate) fn removed(&self) -> Vec<String> {
        self.program.delete(&self.id).err().map(|failed| failed.to_string()).into_iter().collect()
    }
}

/// Brings a process that runs already into a group of its own, with what it forked meanwhile. What ends on the way
/// needs no place; neither does a stranger that got its number: only what is in the container's group is moved.
pub(crate) fn gather(container: &Cgroup, group: &Cgroup, pid: Pid) {
    if !container.processes().is_ok_and(|all| all.contains(&pid.as_raw_pid())) {
        return;
    }
    let mut there = BTreeSet::new();
    let mut new = vec![pid.as_raw_pid()];
    for _ in 0..ROUNDS {
        for pid in &new {
            let _ = group.take(pid.unsigned_abs());
            there.insert(*pid);
        }
        // Those in the group fork into it: only children of before are looked for.
        let children: Vec<i32> = there.iter().flat_map(|pid| children(*pid)).collect();
        new = children.into_iter().filter(|pid| !there.contains(pid)).collect();
        if new.is_empty() {
            return;
        }
    }
}

/// Children of a process, proc_pid_task_tid_children(5); none where the kernel does not tell.
pub(crate) fn children(pid: i32) -> Vec<i32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// The terminal's other end, which the program has sent before its end.
fn terminal(listener: &UnixListener) -> io::Result<OwnedFd> {
    let (connection, _) = listener.accept()?;
    connection.set_nonblocking(true)?;
    // With it comes a name for people.
    let mut name = [0; 4096];
    let (_, descriptors) = sys::socket::receive(&connection, &mut name)?;
    descriptors.into_iter().next().ok_or_else(|| io::Error::other("no descriptor came"))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The last error in a program's log of lines of JSON.
fn last_error(log: &Path) -> Option<String> {
    let text = tail(&mut File::open(log).ok()?).ok()?;
    let error = |line: &str| {
        let line: Value = serde_json::from_str(line).ok()?;
        let level = line.get("level").and_then(Value::as_str).unwrap_or_default().to_ascii_lowercase();
        let text = line.get("msg").or_else(|| line.get("message")).and_then(Value::as_str)?;
        matches!(level.as_str(), "error" | "fatal" | "panic").then(|| text.to_owned())
    };
    text.lines().rev().find_map(error)
}

/// The end of a file, as text.
fn tail(file: &mut File) -> io::Result<String> {
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(length.saturating_sub(MOST_LOG)))?;
    let mut bytes = Vec::new();
    file.take(MOST_LOG).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn cut(text: &str) -> String {
    text.chars().take(MOST_TOLD).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Directory;

    fn program(directory: &Directory, script: &str) -> Rc<Program> {
        let path = directory.0.join("program");
        let text = format!("#!/bin/sh\n{script}\n");
        sys::file::replace_path(&path, text.as_bytes(), Mode::from_raw_mode(0o755)).expect("a script");
        Rc::new(Program::new(path, directory.0.clone()))
    }

    fn refused(script: &str) -> String {
        let directory = Directory::new();
        let program = program(&directory, script);
        program
            .make(&["create".as_ref()], "c", &[], runner::Stdio::Terminal)
            .expect_err("it fails")
            .to_string()
    }

    #[test]
    fn a_program_that_fails_is_told_of_in_its_own_words() {
        let json = r#"echo '{"level":"warning","msg":"w"}' >$4; echo '{"level":"error","msg":"no such file"}' >>$4; exit 1"#;
        assert!(refused(json).ends_with("program create: no such file"), "{}", refused(json));
        assert!(refused("echo out of luck >&2; exit 3").ends_with("program create: out of luck"));
        assert!(refused("exit 3").ends_with("program create: exit status: 3"));
        assert!(refused("echo '{]' >$4; kill -9 $$").contains("signal: 9"));
    }

    #[test]
    fn only_a_child_of_the_shim_is_taken_for_the_process() {
        assert!(refused("exit 0").contains("names no process of the container"));
        // --root R --log L --log-format json create --pid-file FILE ...
        for (pid, why) in
            [("1", "names no process"), ("x", "names no process"), ("$PPID", "is no child of the shim")]
        {
            let said = refused(&format!("echo {pid} >$9"));
            assert!(said.contains(why), "{pid}: {said}");
        }
    }

    #[test]
    fn the_children_of_a_process_are_known() {
        let mut child = Command::new("/bin/sleep").arg("1000").spawn().expect("spawn");
        let own = sys::rustix::process::getpid().as_raw_pid();
        assert!(children(own).contains(&child.id().cast_signed()));
        child.kill().expect("kill");
        child.wait().expect("wait");
    }
}
