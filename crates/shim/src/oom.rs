//! Whether it was the want of memory that ended a container, and what the kernel says about it.
//!
//! The count of kills in a cgroup alone does not tell: a child may have been killed an hour before somebody
//! kills the first process. So the kernel's log is read, which names each victim (mm/oom_kill.c):
//! ```text
//! oom-kill:constraint=CONSTRAINT_MEMCG,...,oom_memcg=/pods/p,task_memcg=/pods/p/c,task=dd,pid=1234,uid=0
//! Memory cgroup out of memory: Killed process 1234 (dd) total-vm:...
//! ```
//! The first line is left out by the kernel when there are many. Where the log has lost it, or numbers processes
//! otherwise than this shim, kills that came before a SIGKILL of ours do not count.

use cgroup::Cgroup;
use sys::rustix::{
    fs::{Mode, OFlags, open, stat},
    io::{Errno, read},
};

/// Longest record of the kernel's log (CONSOLE_EXT_LOG_MAX).
const LONGEST: usize = 8192;
/// Records that are read; the largest ring has fewer.
const MOST: usize = 1 << 18;
/// Inode of the first PID namespace (linux/proc_ns.h PROC_PID_INIT_INO).
const FIRST_PID_NAMESPACE: u64 = 0xefff_fffc;

/// How the first process of a container ended, and what is known of kills in its group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    /// Its number.
    pub(crate) pid: u32,
    /// By SIGKILL itself; else it passed on the code of a child that was.
    pub(crate) by_signal: bool,
    /// Kills in the group before a SIGKILL of ours; 0 if there was none.
    pub(crate) before: u64,
}

/// Why it was memory; `None` if it was not.
pub(crate) fn cause(group: &Cgroup, end: End) -> Option<String> {
    let kills = group.oom_kills().unwrap_or(0);
    if kills == 0 {
        return None;
    }
    let log = Log::of(group.path().as_str(), kernel_log());
    let certain = numbers_are_the_kernels();
    judge(&log, end, certain, kills > end.before).then(|| told(group, &log, end))
}

/// What the kernel's log says of a group, newest last.
#[derive(Debug, Default, PartialEq, Eq)]
struct Log {
    /// Victims of the group.
    victims: Vec<Victim>,
    /// Number and name of all victims, of whatever group.
    killed: Vec<(u32, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Victim {
    pid: u32,
    name: String,
    /// The group whose limit was met.
    limit_of: String,
}

/// A victim that is the first process, or a child whose end it passed on. Where the log does not tell (its
/// numbers are others, or it has lost the group's), a kill that came after a SIGKILL of ours, if there was one.
fn judge(log: &Log, end: End, numbers_agree: bool, since: bool) -> bool {
    if !end.by_signal {
        return true;
    }
    let is_first = |pid: u32| pid == end.pid;
    let was_first =
        log.victims.iter().any(|v| is_first(v.pid)) || log.killed.iter().any(|(pid, _)| is_first(*pid));
    match numbers_agree {
        true => was_first || (log.victims.is_empty() && since),
        false => since,
    }
}

/// Who was killed, and for which limit.
fn told(group: &Cgroup, log: &Log, end: End) -> String {
    let limit = || group.stats().ok().and_then(|stats| stats.memory.limit);
    let own = || match limit() {
        Some(bytes) => format!("the container's memory limit of {bytes} bytes was met"),
        None => "the container's memory limit was met".to_owned(),
    };
    let first = log.victims.iter().rev().find(|victim| victim.pid == end.pid);
    match first.or(log.victims.last()) {
        Some(Victim { pid, name, limit_of }) => {
            let limit = match limit_of.as_str() {
                "" => "the machine was out of memory".to_owned(),
                path if path.ends_with(group.path().as_str()) => own(),
                path => format!("the memory limit of {path} was met"),
            };
            format!("{name} (process {pid}) was killed: {limit}")
        }
        None => match log.killed.iter().rev().find(|(pid, _)| *pid == end.pid) {
            Some((pid, name)) => format!("{name} (process {pid}) was killed: {}", own()),
            None => format!("a process was killed: {}", own()),
        },
    }
}

impl Log {
    fn of(group: &str, records: impl Iterator<Item = String>) -> Log {
        let mut log = Log::default();
        for record in records {
            // `level,number,time,flags;text`, with properties on further lines.
            let text =
                record.lines().next().and_then(|line| line.split_once(';')).map_or("", |(_, text)| text);
            if let Some(rest) = text.strip_prefix("oom-kill:") {
                log.victims.extend(victim(group, rest));
            } else if let Some((_, rest)) = text.split_once(": Killed process ") {
                log.killed.extend(killed(rest));
            }
        }
        log
    }
}

/// A name may hold commas, so it ends where the number begins, which is last but one.
fn victim(group: &str, text: &str) -> Option<Victim> {
    let (groups, task) = text.split_once(",task=")?;
    let (name, rest) = task.rsplit_once(",pid=")?;
    let pid = rest.split(',').next()?.parse().ok()?;
    let (before, of) = groups.split_once(",task_memcg=")?;
    // The log names groups from the root of all: this shim may see only a part of them.
    let ours = of == group || of.starts_with(&format!("{group}/"));
    let ours = ours || of.ends_with(group) || of.contains(&format!("{group}/"));
    let limit_of = before.split_once(",oom_memcg=").map_or("", |(_, group)| group);
    ours.then(|| Victim { pid, name: shown(name), limit_of: limit_of.to_owned() })
}

/// `1234 (dd) total-vm:...`
fn killed(text: &str) -> Option<(u32, String)> {
    let (pid, rest) = text.split_once(" (")?;
    let (name, _) = rest.split_once(')')?;
    Some((pid.parse().ok()?, shown(name)))
}

fn shown(name: &str) -> String {
    name.chars().take(64).flat_map(char::escape_default).collect()
}

/// What is in the kernel's log now; nothing if it may not be read.
fn kernel_log() -> impl Iterator<Item = String> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let log = open("/dev/kmsg", flags, Mode::empty()).ok();
    let mut buffer = vec![0; LONGEST];
    let mut left = MOST;
    std::iter::from_fn(move || {
        let log = log.as_ref()?;
        loop {
            left = left.checked_sub(1)?;
            match read(log, buffer.as_mut_slice()) {
                Ok(0) => return None,
                Ok(count) => return Some(String::from_utf8_lossy(&buffer[..count]).into_owned()),
                // The record was overwritten before it could be read: the next one.
                Err(Errno::PIPE | Errno::INTR) => {}
                Err(_) => return None,
            }
        }
    })
}

/// Whether the log's numbers are those that this shim knows.
fn numbers_are_the_kernels() -> bool {
    stat("/proc/self/ns/pid").is_ok_and(|found| found.st_ino == FIRST_PID_NAMESPACE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: &str = "/pods/p/c";

    fn log(texts: &[&str]) -> Log {
        Log::of(GROUP, texts.iter().map(|text| format!("6,1,2,-;{text}\n SUBSYSTEM=x\n")))
    }

    fn oom(of: &str, limit: &str, pid: u32) -> String {
        format!(
            "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=c,mems_allowed=0,oom_memcg={limit},task_memcg={of},task=a,pid=1,b,pid={pid},uid=0"
        )
    }

    fn end(pid: u32, by_signal: bool) -> End {
        End { pid, by_signal, before: 0 }
    }

    #[test]
    fn the_log_names_the_victim_and_the_limit() {
        let found = log(&[
            "veth0: entered promiscuous mode",
            &oom("/node/pods/p/c", "/node/pods/p", 7),
            &oom("/pods/p/other", "/pods/p/other", 8),
            "Memory cgroup out of memory: Killed process 7 (a) total-vm:1kB",
            "oom-kill:nonsense",
            "x: Killed process many (a)",
        ]);
        let victim = Victim { pid: 7, name: "a,pid=1,b".to_owned(), limit_of: "/node/pods/p".to_owned() };
        assert_eq!(found, Log { victims: vec![victim], killed: vec![(7, "a".to_owned())] });
    }

    #[test]
    fn a_childs_kill_is_not_the_end_of_a_container_that_somebody_else_kills() {
        let child = log(&[&oom(GROUP, GROUP, 9)]);
        assert!(!judge(&child, end(7, true), true, true), "another one was the victim");
        assert!(judge(&child, end(7, false), true, false), "it passed its child's end on");
        assert!(judge(&child, end(7, true), false, true), "numbers that cannot be compared say nothing");
        assert!(!judge(&child, end(7, true), false, false), "it was before our SIGKILL");
        let first = log(&[&oom(GROUP, GROUP, 9), &oom(GROUP, GROUP, 7)]);
        assert!(judge(&first, end(7, true), true, false), "our SIGKILL came after its end");
        let short = log(&["Memory cgroup out of memory: Killed process 7 (a) total-vm:1kB"]);
        assert!(judge(&short, end(7, true), true, false), "the kernel says no more when there are many");
        assert!(judge(&Log::default(), end(7, true), true, true), "the log has lost it, the count has not");
    }
}
