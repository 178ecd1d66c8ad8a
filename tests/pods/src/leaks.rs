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
