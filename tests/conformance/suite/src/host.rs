//! The host's side of a container: its process in /proc, its cgroups of either version.

use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};

/// A file of a process's /proc directory.
///
/// # Errors
/// When it cannot be read.
pub fn proc_file(pid: u32, name: &str) -> Result<String> {
    let path = format!("/proc/{pid}/{name}");
    let bytes = std::fs::read(&path).with_context(|| path.clone())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The namespace of a process, such as `net:[4026531840]`.
///
/// # Errors
/// When it cannot be read.
pub fn namespace(pid: u32, kind: &str) -> Result<String> {
    link(&format!("/proc/{pid}/ns/{kind}"))
}

/// The namespace in which the suite, and so the runtime, is.
///
/// # Errors
/// When it cannot be read.
pub fn own_namespace(kind: &str) -> Result<String> {
    link(&format!("/proc/self/ns/{kind}"))
}

fn link(path: &str) -> Result<String> {
    Ok(std::fs::read_link(path).with_context(|| path.to_owned())?.to_string_lossy().into_owned())
}

/// A line of /proc/PID/status, such as `CapEff`, without its name.
///
/// # Errors
/// When there is none.
pub fn status_line(pid: u32, name: &str) -> Result<String> {
    field(&proc_file(pid, "status")?, name)
}

/// The line of such a text, without its name.
///
/// # Errors
/// When there is none.
pub fn field(text: &str, name: &str) -> Result<String> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(line.with_context(|| format!("no {name} in {text:?}"))?.trim().to_owned())
}

/// Whether controllers are those of cgroup v2.
#[must_use]
pub fn cgroup_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").try_exists().unwrap_or(false)
}

/// The directory of a process's cgroup with this controller.
///
/// # Errors
/// When it is in none.
pub fn cgroup_dir(pid: u32, controller: &str) -> Result<PathBuf> {
    let groups = proc_file(pid, "cgroup")?;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(id), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        if cgroup_v2() && id == "0" {
            return Ok(PathBuf::from(format!("/sys/fs/cgroup{path}")));
        }
        if !cgroup_v2() && controllers.split(',').any(|one| one == controller) {
            return Ok(PathBuf::from(format!("{}{path}", hierarchy(controller)?)));
        }
    }
    bail!("process {pid} is in no cgroup with {controller}: {groups}")
}

/// Where a controller of cgroup v1 is mounted.
fn hierarchy(controller: &str) -> Result<String> {
    let mounts = proc_file(std::process::id(), "mountinfo")?;
    for line in mounts.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut kind = right.split(' ');
        if kind.next() == Some("cgroup")
            && kind.nth(1).is_some_and(|options| options.split(',').any(|one| one == controller))
        {
            return Ok(left.split(' ').nth(4).context("a mount point")?.to_owned());
        }
    }
    bail!("{controller} is not mounted")
}

/// Whether the machine has a controller.
#[must_use]
pub fn has_controller(controller: &str) -> bool {
    if cgroup_v2() {
        let all = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
        return all.split_whitespace().any(|one| one == controller);
    }
    hierarchy(controller).is_ok()
}

/// A file of a process's cgroup: the name of v1, the name of v2.
///
/// # Errors
/// When it cannot be read.
pub fn cgroup_file(pid: u32, controller: &str, v1: &str, v2: &str) -> Result<String> {
    let path = cgroup_dir(pid, controller)?.join(if cgroup_v2() { v2 } else { v1 });
    Ok(std::fs::read_to_string(&path).with_context(|| path.display().to_string())?.trim().to_owned())
}

/// cpu.weight of v2 for shares of v1: the formula of the OCI runtimes since 2025, and the one before it.
#[must_use]
pub fn weights(shares: u64) -> [u64; 2] {
    let log = (shares.max(2) as f64).log2();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and 10000")]
    let new = 10_f64.powf((log * log + 125.0 * log) / 612.0 - 7.0 / 34.0).ceil() as u64;
    [new, 1 + (shares.saturating_sub(2)) * 9999 / 262_142]
}

/// Runs a program of the host.
///
/// # Errors
/// When it fails.
pub fn command(program: &str, arguments: &[&str]) -> Result<String> {
    let output = std::process::Command::new(program).args(arguments).output().context("cannot start it")?;
    if !output.status.success() {
        bail!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Removes the cgroups beneath a name of ours, deepest first, as far as they are empty.
pub fn remove_cgroups(parent: &str) {
    let Ok(mounts) = proc_file(std::process::id(), "mountinfo") else { return };
    for line in mounts.lines().filter(|line| line.contains(" - cgroup")) {
        let Some(point) = line.split(' ').nth(4) else { continue };
        remove_tree(&PathBuf::from(format!("{point}{parent}")));
    }
}

fn remove_tree(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    // What still has processes stays, and the comparison of the host's tables says so.
    let _ = std::fs::remove_dir(dir);
}

/// Received and sent bytes of eth0 in the text of /proc/net/dev.
///
/// # Errors
/// When it is not there.
pub fn eth0_bytes(text: &str) -> Result<(u64, u64)> {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix("eth0:")).context("no eth0")?;
    let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    match numbers[..] {
        [received, _, _, _, _, _, _, _, sent, ..] => Ok((received, sent)),
        _ => bail!("eth0: {line}"),
    }
}

/// A process with that command line, of that cgroup or of one beneath it: a runtime may give a command a group of its
/// own there.
#[must_use]
pub fn process_with(command: &str, group: &Path) -> Option<u32> {
    let members = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let mut pids = members.lines().filter_map(|line| line.parse().ok());
    pids.find(|pid| proc_file(*pid, "cmdline").is_ok_and(|line| line == command)).or_else(|| {
        let mut beneath = std::fs::read_dir(group).ok()?.flatten();
        beneath
            .find_map(|entry| entry.path().is_dir().then(|| process_with(command, &entry.path())).flatten())
    })
}

/// The minor number of a miscellaneous device (major 10) that anybody may open, if the cgroup lets him, and that is not
/// among those which every container has.
///
/// # Errors
/// When the machine has none.
pub fn odd_device() -> Result<u32> {
    let known = std::fs::read_to_string("/proc/misc")?;
    let number = |name: &str| {
        known.lines().find_map(|line| line.trim().strip_suffix(name)?.strip_suffix(' ')?.trim().parse().ok())
    };
    let found = ["userfaultfd", "fuse", "loop-control", "cpu_dma_latency"].into_iter().find_map(number);
    found.map_or_else(|| crate::case::skip("the machine has no device to try it with"), Ok)
}
