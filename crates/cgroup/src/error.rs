//! What can go wrong with a control group.

use std::path::PathBuf;
use sys::rustix::io::Errno;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The path is not one of a control group beneath the root.
    #[error("cgroup path {path:?}: {why}")]
    BadPath {
        /// As given.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// No cgroup file system is mounted, or its mount table cannot be read.
    #[error("no usable cgroup hierarchy: {why}")]
    NoHierarchy {
        /// What was looked for.
        why: String,
    },
    /// A limit needs a controller that this machine does not have, or has not enabled here.
    #[error("{field}: the cgroup controller {controller:?} is not available")]
    NoController {
        /// Field of the OCI `linux.resources`.
        field: &'static str,
        /// Name of the controller.
        controller: String,
    },
    /// The value cannot be set as asked.
    #[error("{field}: {why}")]
    BadValue {
        /// Field of the OCI `linux.resources`.
        field: String,
        /// What is wrong with it.
        why: String,
    },
    /// A file or directory of the group could not be used.
    #[error("cgroup {path}: {doing}")]
    Io {
        /// Absolute path of the file or directory.
        path: PathBuf,
        /// What was tried, with the value for writes.
        doing: String,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// The group still has processes after the bound of attempts.
    #[error("cgroup {path} is still in use by processes {pids:?}")]
    Busy {
        /// The group.
        path: String,
        /// Some of its processes.
        pids: Vec<i32>,
    },
    /// The device program of a cgroup v2 could not be set.
    #[error("device rules of cgroup {path}: {doing}")]
    Bpf {
        /// The group.
        path: String,
        /// Which step.
        doing: &'static str,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
}

impl CgroupError {
    /// The kernel's answer, if it was one.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            CgroupError::Io { source, .. } | CgroupError::Bpf { source, .. } => Some(*source),
            CgroupError::BadPath { .. }
            | CgroupError::NoHierarchy { .. }
            | CgroupError::NoController { .. }
            | CgroupError::BadValue { .. }
            | CgroupError::Busy { .. } => None,
        }
    }
}
