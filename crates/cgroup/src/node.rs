//! One directory of one hierarchy: its files, children, making and removing. All by descriptor
//! beneath the hierarchy's root, without symbolic links.

use crate::{CgroupError, mounts::Hierarchy};
use std::{
    io::Read as _,
    os::fd::OwnedFd,
    path::PathBuf,
    time::{Duration, Instant},
};
use sys::rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, mkdirat, openat2, statat, unlinkat},
    io::{Errno, write},
    process::{Pid, PidfdFlags, pidfd_open},
    thread::{NanosleepRelativeResult, nanosleep},
};

/// Bytes of one file that are read: enough for a cgroup.procs of half a million processes.
const MAX_FILE: u64 = 4 << 20;
/// Deepest nesting beneath a group that is walked.
const MAX_WALK: usize = 64;
/// How many processes are waited for at once.
const MAX_WAIT: usize = 64;

/// A directory, named by its path beneath the hierarchy's root (empty: the root itself).
#[derive(Clone, Debug)]
pub(crate) struct Node<'a> {
    pub(crate) hierarchy: &'a Hierarchy,
    pub(crate) path: String,
}

impl<'a> Node<'a> {
    pub(crate) fn new(hierarchy: &'a Hierarchy, path: impl Into<String>) -> Node<'a> {
        Node { hierarchy, path: path.into() }
    }

    /// The directory above; `None` for the root.
    pub(crate) fn parent(&self) -> Option<Node<'a>> {
        if self.path.is_empty() {
            return None;
        }
        let above = self.path.rsplit_once('/').map_or("", |(above, _)| above);
        Some(Node::new(self.hierarchy, above))
    }

    fn child(&self, name: &str) -> Node<'a> {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}/{name}", self.path) };
        Node::new(self.hierarchy, path)
    }

    /// The error of an operation on `file` (empty: the directory).
    pub(crate) fn error(&self, file: &str, doing: impl Into<String>, source: Errno) -> CgroupError {
        let mut path: PathBuf = self.hierarchy.point.join(&self.path);
        if !file.is_empty() {
            path.push(file);
        }
        CgroupError::Io { path, doing: doing.into(), source }
    }

    /// Opens a file of the group, or with an empty name the directory itself.
    pub(crate) fn open(&self, file: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = match (self.path.is_empty(), file.is_empty()) {
            (true, true) => ".".to_owned(),
            (true, false) => file.to_owned(),
            (false, true) => self.path.clone(),
            (false, false) => format!("{}/{file}", self.path),
        };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.hierarchy.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
    }

    /// Whether the directory is there.
    pub(crate) fn is_there(&self) -> Result<bool, CgroupError> {
        match self.open("", OFlags::PATH | OFlags::DIRECTORY) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(self.error("", "open", errno)),
        }
    }

    /// Contents of a file; `None` if it is not there.
    pub(crate) fn read(&self, file: &str) -> Result<Option<String>, CgroupError> {
        match self.try_read(file) {
            Ok(text) => Ok(Some(text)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.error(file, "read", errno)),
        }
    }

    /// Contents of a file with the bare answer of the kernel.
    pub(crate) fn try_read(&self, file: &str) -> Result<String, Errno> {
        let fd = self.open(file, OFlags::RDONLY)?;
        let mut text = String::new();
        match std::fs::File::from(fd).take(MAX_FILE).read_to_string(&mut text) {
            Ok(_) => Ok(text),
            Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
        }
    }

    /// Writes a value in one go, with the bare answer of the kernel.
    pub(crate) fn try_write(&self, file: &str, value: &str) -> Result<(), Errno> {
        let fd = self.open(file, OFlags::WRONLY)?;
        loop {
            match write(&fd, value.as_bytes()) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Writes a value in one go.
    pub(crate) fn write(&self, file: &str, value: &str) -> Result<(), CgroupError> {
        self.try_write(file, value)
            .map_err(|errno| self.error(file, format!("write {:?}", value.trim_end()), errno))
    }

    /// Makes the directory and those above it, where missing.
    pub(crate) fn make(&self) -> Result<(), CgroupError> {
        let mode = Mode::from_raw_mode(0o755);
        match mkdirat(&self.hierarchy.root, self.path.as_str(), mode) {
            Ok(()) | Err(Errno::EXIST) => return Ok(()),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(self.error("", "make", errno)),
        }
        if let Some(parent) = self.parent() {
            parent.make()?;
        }
        match mkdirat(&self.hierarchy.root, self.path.as_str(), mode) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(self.error("", "make", errno)),
        }
    }

    /// The groups right beneath; none if this one is not there.
    pub(crate) fn children(&self) -> Result<Vec<Node<'a>>, CgroupError> {
        let fd = match self.open("", OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(Vec::new()),
            Err(errno) => return Err(self.error("", "open", errno)),
        };
        // kernfs counts the directories beneath: two links are one without any, and reading the
        // names of its hundred files is spared.
        let failed = |errno| self.error("", "list", errno);
        if statat(&fd, "", AtFlags::EMPTY_PATH).map_err(failed)?.st_nlink == 2 {
            return Ok(Vec::new());
        }
        let mut children = Vec::new();
        for entry in Dir::new(fd).map_err(failed)? {
            let entry = match entry {
                Ok(entry) => entry,
                Err(Errno::NOENT) => break, // removed meanwhile
                Err(errno) => return Err(failed(errno)),
            };
            let name = entry.file_name().to_string_lossy();
            if entry.file_type() == FileType::Directory && name != "." && name != ".." {
                children.push(self.child(&name));
            }
        }
        Ok(children)
    }

    /// This directory and all beneath it, each after those above it.
    pub(crate) fn tree(&self) -> Result<Vec<Node<'a>>, CgroupError> {
        let mut all = vec![self.clone()];
        let mut level = vec![self.clone()];
        for _ in 0..MAX_WALK {
            let mut next = Vec::new();
            for node in &level {
                next.extend(node.children()?);
            }
            if next.is_empty() {
                return Ok(all);
            }
            all.extend(next.iter().cloned());
            level = next;
        }
        Err(self.error("", "walk more than 64 levels", Errno::LOOP))
    }

    /// Processes of this very directory; none if it is not there.
    fn own_processes(&self) -> Result<Vec<i32>, CgroupError> {
        let text = match self.try_read("cgroup.procs") {
            Ok(text) => text,
            // A threaded group of v2 lists only threads.
            Err(Errno::OPNOTSUPP) => self.try_read("cgroup.threads").unwrap_or_default(),
            Err(Errno::NOENT | Errno::NODEV) => return Ok(Vec::new()),
            Err(errno) => return Err(self.error("cgroup.procs", "read", errno)),
        };
        // 0 is a process of another PID namespace, which nothing here can name.
        Ok(text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect())
    }

    /// Processes of this directory and of all beneath it.
    pub(crate) fn processes(&self) -> Result<Vec<i32>, CgroupError> {
        let mut pids = Vec::new();
        for node in self.tree()? {
            pids.extend(node.own_processes()?);
        }
        Ok(pids)
    }

    /// Removes the directory and those beneath it. While processes are leaving it is tried again
    /// until `deadline`. Absent is removed.
    pub(crate) fn remove(&self, deadline: Instant) -> Result<(), CgroupError> {
        let mut pause = Duration::from_micros(50);
        loop {
            match self.try_remove() {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                // EBUSY: processes, or a child was made meanwhile.
                Err(Errno::BUSY) => {}
                Err(errno) => return Err(self.error("", "remove", errno)),
            }
            for child in self.children()? {
                child.remove(deadline)?;
            }
            match self.try_remove() {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                Err(Errno::BUSY) => {}
                Err(errno) => return Err(self.error("", "remove", errno)),
            }
            let pids = self.own_processes()?;
            if Instant::now() >= deadline {
                return Err(CgroupError::Busy {
                    path: format!("/{}", self.path),
                    pids: pids.into_iter().take(8).collect(),
                });
            }
            if pids.is_empty() {
                // The last process has left the list but not yet the kernel's count.
                rest(pause);
                pause = (pause * 2).min(Duration::from_millis(5));
            } else {
                wait_for_end(&pids, deadline);
            }
        }
    }

    fn try_remove(&self) -> Result<(), Errno> {
        unlinkat(&self.hierarchy.root, self.path.as_str(), AtFlags::REMOVEDIR)
    }
}

/// Waits until one of the processes has ended, at most 20 ms (its place in the group may be taken by
/// a zombie that only its parent can end, or it may just move away).
fn wait_for_end(pids: &[i32], deadline: Instant) {
    let fds: Vec<OwnedFd> = pids
        .iter()
        .take(MAX_WAIT)
        .filter_map(|pid| Pid::from_raw(*pid))
        .filter_map(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
        .collect();
    let left = deadline.saturating_duration_since(Instant::now()).min(Duration::from_millis(20));
    let mut polled: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    let woken = poll(&mut polled, Some(&timespec(left)));
    if fds.is_empty() || woken.is_ok_and(|ready| ready > 0) {
        // Ended is not yet gone: the group forgets a process a moment after its pidfd told.
        rest(Duration::from_micros(50));
    }
}

/// A short bounded pause, for states of the kernel that have no event.
pub(crate) fn rest(time: Duration) {
    let mut left = timespec(time);
    while let NanosleepRelativeResult::Interrupted(remaining) = nanosleep(&left) {
        left = remaining;
    }
}

fn timespec(time: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(time.subsec_nanos()),
    }
}
