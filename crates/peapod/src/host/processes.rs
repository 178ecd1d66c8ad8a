//! A shim's process, when it does not answer.
//!
//! It is the one that the kernel names as the peer of its socket ([`shimlink::Shim::server`]). Where that socket was
//! never taken over, the kernel names the daemon that made it, or whatever has the number of one that has ended: so it
//! is looked at. What is in a container can neither be named by that socket nor, in a PID namespace of its own, pass
//! here, whatever its command line says.

use std::{
    fs,
    io::Read as _,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};
use sys::{
    pidfd,
    rustix::{fd::OwnedFd, process::Pid},
};

/// The command line of a shim is far shorter.
const LONGEST: u64 = 64 << 10;

/// The process with this number, if it was started with this argument, is in the caller's PID namespace, and not the
/// caller. The descriptor stands for what was looked at.
pub(super) fn shim(pid: u32, argument: &Path) -> Option<OwnedFd> {
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
    let process = pidfd::open(number).ok()?;
    let own = pid == std::process::id();
    let fits = !own && is_near(pid) && has(pid, argument.as_os_str().as_bytes());
    // What was read was of this process if it has not ended since.
    let lives = pidfd::ended_within(&process, std::time::Duration::ZERO) == Ok(false);
    (fits && lives).then_some(process)
}

/// Processes whose working directory is this one, of those that are in the caller's PID namespace.
pub(super) fn working_in(directory: &Path) -> Vec<i32> {
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let works = |pid: &i32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == directory);
    numbers.filter(|pid| works(pid) && is_near(pid.unsigned_abs())).collect()
}

/// Whether it sees the numbers of processes that the caller sees.
fn is_near(pid: u32) -> bool {
    let namespace = |of: &str| {
        fs::metadata(format!("/proc/{of}/ns/pid")).ok().map(|namespace| (namespace.dev(), namespace.ino()))
    };
    namespace(&pid.to_string()).is_some_and(|its| Some(its) == namespace("self"))
}

fn has(pid: u32, argument: &[u8]) -> bool {
    read(pid, "cmdline").is_some_and(|line| line.split(|byte| *byte == 0).any(|word| word == argument))
}

fn read(pid: u32, name: &str) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    let file = fs::File::open(PathBuf::from(format!("/proc/{pid}/{name}"))).ok()?;
    file.take(LONGEST).read_to_end(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::BufRead as _,
        process::{Child, Command, Stdio},
    };

    /// A process that ends with its input, and its number here; `through` is put before it.
    fn with(argument: &str, through: &[&str]) -> (Child, u32) {
        // Also in another PID namespace the number is that of the /proc that is mounted.
        let script = "read pid rest </proc/self/stat; echo $pid; read line";
        let words = [through, &["/bin/sh", "-c", script, "sh", argument]].concat();
        let mut command = Command::new(words[0]);
        let mut child =
            command.args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("spawn");
        let mut said = String::new();
        let out = child.stdout.as_mut().expect("piped");
        std::io::BufReader::new(out).read_line(&mut said).expect("it runs");
        (child, said.trim().parse().expect("a number"))
    }

    fn end(mut child: Child) {
        drop(child.stdin.take());
        child.wait().expect("wait");
    }

    #[test]
    fn who_works_in_a_directory_is_found() {
        let place = std::env::temp_dir().join(format!("peapod-test-works-{}", std::process::id()));
        fs::create_dir(&place).expect("mkdir");
        assert_eq!(working_in(&place), [] as [i32; 0]);
        let mut child = Command::new("/bin/sleep").arg("1000").current_dir(&place).spawn().expect("spawn");
        assert_eq!(working_in(&place), [child.id().cast_signed()]);
        child.kill().expect("kill");
        child.wait().expect("wait");
        fs::remove_dir(&place).expect("rmdir");
    }

    #[test]
    fn only_a_process_of_this_namespace_with_that_argument_is_taken_and_never_this_one() {
        let argument = format!("/nowhere/shim-{}", std::process::id());
        let (child, near) = with(&argument, &[]);
        assert!(shim(near, Path::new(&argument)).is_some());
        assert!(shim(near, Path::new("/nowhere/shim")).is_none(), "a part of an argument is none");
        end(child);
        assert!(shim(near, Path::new(&argument)).is_none(), "it has ended");
        let (child, far) = with(&argument, &["unshare", "--pid", "--fork", "--kill-child"]);
        assert!(far != child.id() && has(far, argument.as_bytes()));
        assert!(shim(far, Path::new(&argument)).is_none(), "it is in another PID namespace");
        end(child);
        let own = std::env::args_os().next().expect("the test program");
        assert!(shim(std::process::id(), Path::new(&own)).is_none());
    }
}
