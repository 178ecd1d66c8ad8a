//! How much a directory tree or a file system holds.

use crate::StatsError;
use std::{collections::HashSet, ffi::CString, os::fd::OwnedFd, path::Path};
use sys::rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2, statat, statvfs},
    io::Errno,
};

/// Most entries that are looked at.
const MAX_ENTRIES: u64 = 10_000_000;
/// Most nested directories: each costs a descriptor while what is in it is looked at.
const MAX_DEPTH: usize = 128;
/// Most files with several names that are remembered, so that each counts once.
const MAX_LINKED: usize = 1_000_000;

/// What a directory tree takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectoryUsage {
    /// Bytes of allocated blocks; a file with several names counts once.
    pub bytes: u64,
    /// Files, directories and others, the tree's own root included.
    pub inodes: u64,
    /// The tree was deeper or larger than is looked at: the numbers are too low.
    pub truncated: bool,
}

/// Space of a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilesystemSpace {
    /// Bytes.
    pub capacity: u64,
    /// Bytes that an unprivileged process may still take.
    pub available: u64,
    /// Bytes in use.
    pub used: u64,
    /// Inodes in all; 0 where they are not limited.
    pub inodes: u64,
    /// Inodes in use.
    pub inodes_used: u64,
}

/// Measures a tree, by descriptor, without following links and without entering other file systems.
/// What vanishes meanwhile is not counted.
///
/// # Errors
/// [`StatsError::Disk`] if the tree itself cannot be opened.
pub fn directory(path: &Path) -> Result<DirectoryUsage, StatsError> {
    let failed = |source: Errno| StatsError::Disk { path: path.to_owned(), source };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = openat(CWD, path, flags, Mode::empty()).map_err(failed)?;
    let stat = fstat(&root).map_err(failed)?;
    let mut walk = Walk { device: stat.st_dev, usage: DirectoryUsage::default(), linked: HashSet::new() };
    walk.add(&stat);
    walk.run(root).map_err(failed)?;
    Ok(walk.usage)
}

struct Walk {
    device: u64,
    usage: DirectoryUsage,
    linked: HashSet<u64>,
}

impl Walk {
    /// Depth first: a stack of directories that are being read.
    fn run(&mut self, root: OwnedFd) -> Result<(), Errno> {
        let mut stack = vec![Dir::new(root)?];
        while let Some(dir) = stack.last_mut() {
            let Some(entry) = dir.next() else {
                stack.pop();
                continue;
            };
            let Ok(entry) = entry else {
                // The directory was removed.
                stack.pop();
                continue;
            };
            let name: CString = entry.file_name().to_owned();
            if name.as_bytes() == b"." || name.as_bytes() == b".." {
                continue;
            }
            if self.usage.inodes >= MAX_ENTRIES {
                self.usage.truncated = true;
                return Ok(());
            }
            let fd = dir.fd()?;
            let Ok(stat) = statat(fd, &name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT) else {
                continue;
            };
            if stat.st_dev != self.device {
                continue;
            }
            let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if !self.add(&stat) || !is_directory {
                continue;
            }
            if stack.len() >= MAX_DEPTH {
                self.usage.truncated = true;
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
            let Some(dir) = stack.last() else { return Ok(()) };
            if let Ok(child) = openat2(dir.fd()?, &name, flags, Mode::empty(), resolve) {
                stack.push(Dir::new(child)?);
            }
        }
        Ok(())
    }

    /// Counts an inode; false if it was counted before under another name.
    fn add(&mut self, stat: &sys::rustix::fs::Stat) -> bool {
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if stat.st_nlink > 1 && !is_directory {
            if self.linked.len() >= MAX_LINKED {
                self.usage.truncated = true;
            } else if !self.linked.insert(stat.st_ino) {
                return false;
            }
        }
        // st_blocks counts 512 bytes whatever the block size is (stat(2)).
        let bytes = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
        self.usage.bytes = self.usage.bytes.saturating_add(bytes);
        self.usage.inodes += 1;
        true
    }
}

/// The space of the file system that `path` is on.
///
/// # Errors
/// [`StatsError::Disk`].
pub fn filesystem(path: &Path) -> Result<FilesystemSpace, StatsError> {
    let stat = statvfs(path).map_err(|source| StatsError::Disk { path: path.to_owned(), source })?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok(FilesystemSpace {
        capacity: bytes(stat.f_blocks),
        available: bytes(stat.f_bavail),
        used: bytes(stat.f_blocks.saturating_sub(stat.f_bfree)),
        inodes: stat.f_files,
        inodes_used: stat.f_files.saturating_sub(stat.f_ffree),
    })
}

/// Name of the device that a path lies on: `/dev/vda`, else its number, `0:45`.
#[must_use]
pub(crate) fn device_of(path: &Path) -> Option<String> {
    let stat = sys::rustix::fs::stat(path).ok()?;
    let number = stat.st_dev;
    Some(device_name(sys::rustix::fs::major(number), sys::rustix::fs::minor(number)))
}

/// Name of a block device: `/dev/vda`, else its number.
#[must_use]
pub(crate) fn device_name(major: u32, minor: u32) -> String {
    let text = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/uevent"));
    let name = text.ok().and_then(|text| {
        text.lines().find_map(|line| line.strip_prefix("DEVNAME=")).map(|name| format!("/dev/{name}"))
    });
    name.unwrap_or_else(|| format!("{major}:{minor}"))
}
