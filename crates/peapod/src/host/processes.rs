//! Processes of the machine, by their command line.

use std::{
    fs,
    io::Read as _,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

/// The command line of a shim is far shorter.
const LONGEST: u64 = 64 << 10;

/// The process that was started with this argument. Its children before an exec have the same one: it is the process
/// whose parent has not. Never the caller.
pub(super) fn started_with(argument: &Path) -> Option<u32> {
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let found: Vec<u32> = numbers
        .filter(|pid| *pid != std::process::id() && has(*pid, argument.as_os_str().as_bytes()))
        .collect();
    found.iter().copied().find(|pid| !parent(*pid).is_some_and(|parent| found.contains(&parent)))
}

fn has(pid: u32, argument: &[u8]) -> bool {
    read(pid, "cmdline").is_some_and(|line| line.split(|byte| *byte == 0).any(|word| word == argument))
}

fn parent(pid: u32) -> Option<u32> {
    let status = read(pid, "status")?;
    let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"PPid:"))?;
    std::str::from_utf8(line).ok()?.trim().parse().ok()
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
    use std::process::{Command, Stdio};

    #[test]
    fn it_is_the_parent_of_those_with_the_same_command_line_and_never_this_process() {
        let argument = format!("/nowhere/shim-{}", std::process::id());
        assert_eq!(started_with(Path::new(&argument)), None);
        // A subshell has its parent's command line, as what a shim forks has.
        let mut shim = Command::new("/bin/sh")
            .args(["-c", "(read line; exit) & echo forked; read line; wait", "sh", &argument])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("spawn");
        let mut said = [0; 7];
        shim.stdout.as_mut().expect("piped").read_exact(&mut said).expect("forked");
        assert_eq!(started_with(Path::new(&argument)), Some(shim.id()));
        assert_eq!(started_with(Path::new("/nowhere/shim")), None, "a part of an argument is none");
        drop(shim.stdin.take());
        shim.wait().expect("wait");
        let own = std::env::args_os().next().expect("the test program");
        assert_ne!(started_with(Path::new(&own)), Some(std::process::id()));
    }
}
