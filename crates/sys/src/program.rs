//! Programs of others, run within a bound.

use crate::pidfd;
use rustix::process::{Pid, Signal, kill_process_group};
use std::{
    io,
    os::unix::process::CommandExt as _,
    process::{Command, ExitStatus},
    time::Duration,
};

/// Runs a program to its end; `None` when it was killed at the end of its time, with all that it started and that
/// made no process group of its own. What it writes goes where `command` says: to files of memory and not to pipes,
/// or nobody reads while this waits.
///
/// # Errors
/// Of the start (ENOENT first of all), or of waiting.
pub fn run_within(mut command: Command, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let mut child = command.process_group(0).spawn()?;
    let pid = Pid::from_child(&child);
    let ended = pidfd::open(pid).and_then(|process| pidfd::ended_within(&process, limit));
    if ended == Ok(true) {
        return child.wait().map(Some);
    }
    // Not reaped yet, so that the number is still its own.
    let _ = kill_process_group(pid, Signal::KILL);
    child.wait()?;
    ended?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_program_tells_its_status_or_why_it_could_not_start() {
        let ended = run_within(shell("exit 3"), Duration::from_secs(20)).expect("it starts");
        assert_eq!(ended.and_then(|status| status.code()), Some(3));
        let missing = run_within(Command::new("/nonexistent"), Duration::from_secs(20));
        assert_eq!(missing.expect_err("no such program").kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn one_that_hangs_is_killed_with_what_it_started() {
        let (reader, writer) = io::pipe().expect("pipe");
        let mut command = shell("sleep 1000 & sleep 1000");
        command.stdout(writer);
        let begun = Instant::now();
        assert_eq!(run_within(command, Duration::from_millis(200)).expect("it starts"), None);
        // At its end only when nobody holds the other end any more.
        let mut reader = reader;
        assert_eq!(io::Read::read(&mut reader, &mut [0; 1]).expect("read"), 0);
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
}
