//! Why there are no numbers.

use std::path::PathBuf;
use sys::rustix::io::Errno;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum StatsError {
    /// The container's control group cannot be read; it may be gone.
    #[error("statistics of the control group")]
    Cgroup(#[from] cgroup::CgroupError),
    /// A directory or file system cannot be read.
    #[error("statistics of {path}")]
    Disk {
        /// Which.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
}

impl StatsError {
    /// Whether what was asked about does not exist (any more): a container that has just ended.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        let errno = match self {
            StatsError::Cgroup(error) => error.errno(),
            StatsError::Disk { source, .. } => Some(*source),
        };
        matches!(errno, Some(Errno::NOENT | Errno::NODEV))
    }
}
