//! The host's tables before and after a test: whatever is more afterwards was left behind.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// What there was.
#[derive(Debug)]
pub struct Tables {
    tag: String,
    dir: PathBuf,
    found: BTreeSet<String>,
}

impl Tables {
    /// Looks at mounts, cgroups and processes that name this test's directory or tag.
    ///
    /// # Panics
    /// Without /proc.
    #[must_use]
    pub fn now(dir: &Path, tag: &str) -> Tables {
        Tables { tag: tag.to_owned(), dir: dir.to_owned(), found: look(dir, tag) }
    }

    /// The tables are as before, within two seconds (the kernel takes its time over veths).
    ///
    /// # Panics
    /// With the list of what is more.
    pub async fn same_again(&self) {
        let mut more = BTreeSet::new();
        for _ in 0..100 {
            more = look(&self.dir, &self.tag).difference(&self.found).cloned().collect();
            if more.is_empty() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("left behind:\n{}", more.into_iter().collect::<Vec<_>>().join("\n"));
    }
}

fn look(dir: &Path, tag: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let dir = dir.display().to_string();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("/proc");
    for line in mounts.lines() {
        // Where it is mounted is the fifth word.
        let place = line.split(' ').nth(4).unwrap_or_default();
        if place.starts_with(&dir) {
            found.insert(format!("mount {place}"));
        }
    }
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let path = entry.path().join("cmdline");
        let words = std::fs::read(path).unwrap_or_default();
        let line = String::from_utf8_lossy(&words).replace('\0', " ");
        let pid = entry.file_name().display().to_string();
        if line.contains(&dir) && pid != std::process::id().to_string() {
            found.insert(format!("process {pid}: {line}"));
        }
    }
    let mut left = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(group) = left.pop() {
        for entry in std::fs::read_dir(&group).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let path = entry.path();
                if path.display().to_string().contains(tag) {
                    found.insert(format!("cgroup {}", path.display()));
                }
                left.push(path);
            }
        }
    }
    found
}

/// Ends all that a failed test left: shims and containers, mounts, cgroups.
pub(crate) fn kill_all(dir: &Path, cgroup: &str) {
    let groups = || -> Vec<PathBuf> {
        std::fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten()
            .map(|hierarchy| hierarchy.path().join(cgroup.trim_start_matches('/')))
            .chain([PathBuf::from(format!("/sys/fs/cgroup{cgroup}"))])
            .filter(|group| group.is_dir())
            .collect()
    };
    let kill = |pid: &str| {
        let _ = std::process::Command::new("kill").args(["-9", pid]).status();
    };
    let dir_text = dir.display().to_string();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&words).contains(&format!("--dir\0{dir_text}")) {
            kill(&entry.file_name().display().to_string());
        }
    }
    for group in groups() {
        let beneath = std::fs::read_dir(&group).into_iter().flatten().flatten().map(|entry| entry.path());
        for group in beneath.filter(|path| path.is_dir()).chain([group.clone()]) {
            for pid in std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines() {
                kill(pid);
            }
        }
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let places =
        mounts.lines().filter_map(|line| line.split(' ').nth(4)).filter(|at| at.starts_with(&dir_text));
    for place in places.collect::<Vec<_>>().into_iter().rev() {
        let _ = std::process::Command::new("umount").args(["-l", place]).status();
    }
    // Killed processes are in their groups for a moment more.
    for _ in 0..50 {
        for group in groups() {
            for entry in std::fs::read_dir(&group).into_iter().flatten().flatten() {
                for exec in std::fs::read_dir(entry.path()).into_iter().flatten().flatten() {
                    let _ = std::fs::remove_dir(exec.path());
                }
                let _ = std::fs::remove_dir(entry.path());
            }
            let _ = std::fs::remove_dir(&group);
        }
        if groups().is_empty() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
