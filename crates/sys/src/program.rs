//! Programs of others, run within a bound.

use crate::pidfd;
use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create},
    process::{Pid, Signal, kill_process_group},
};
use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::process::CommandExt as _,
    process::{Command, ExitStatus},
    time::Duration,
};

/// Runs a program to its end; `None` when it was killed at the end of its time, with all that it started and that
/// made no process group of its own. What it writes goes where `command` says: to [`memory`] and not to pipes, or
/// nobody reads while this waits.
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

/// A file of memory for what a program reads or writes, with room for `most` bytes: what it writes beyond that fails
/// with EPERM (memfd_create(2), F_SEAL_GROW).
///
/// # Errors
/// Of the calls that make it.
pub fn memory(most: u64) -> io::Result<File> {
    let file = memfd_create(c"program", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&file, most)?;
    fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(file.into())
}

/// What was written to a [`memory`], by whoever shares its offset.
///
/// # Errors
/// Of reading.
pub fn written(file: &mut File) -> io::Result<Vec<u8>> {
    let length = file.stream_position()?;
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
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

    #[test]
    fn what_it_writes_is_there_and_no_more_than_there_is_room_for() {
        let mut file = memory(6000).expect("memory");
        let mut command = shell("echo first; echo second >&2; head -c 1000000 /dev/zero; echo $? >&2");
        command.stdout(file.try_clone().expect("clone")).stderr(file.try_clone().expect("clone"));
        assert!(run_within(command, Duration::from_secs(20)).expect("it starts").is_some());
        let bytes = written(&mut file).expect("read");
        assert!(bytes.starts_with(b"first\nsecond\n\0"), "{:?}", bytes.get(..20));
        assert!(bytes.len() <= 6000, "{}", bytes.len());
    }
}
