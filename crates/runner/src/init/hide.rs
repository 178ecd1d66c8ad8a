//! `linux.maskedPaths` and `linux.readonlyPaths`, each by a descriptor that is looked up once.

use super::{
    devices,
    mounts::{attach, copy, detached},
};
use crate::failure::{Failure, Step};
use std::path::{Path, PathBuf};
use sys::{
    mount,
    root::RootFd,
    rustix::{
        fd::{AsFd, OwnedFd},
        fs::{self, FileType, OFlags},
        io::Errno,
    },
};

/// Makes what is at each path, with all mounts beneath, read-only. A path that does not exist is skipped.
pub(super) fn read_only(root: &RootFd, paths: &[PathBuf]) -> Result<(), Failure> {
    for path in paths {
        let hide = || -> Result<(), Errno> {
            let Some(target) = open(root, path)? else { return Ok(()) };
            let again = copy(target.as_fd(), c"", true)?;
            let wanted = mount::Attributes { set: mount::RDONLY, ..Default::default() };
            mount::set_attributes(&again, true, &wanted)?;
            attach(&again, &target)
        };
        hide().step_with(|| format!("make {} read-only", path.display()))?;
    }
    Ok(())
}

/// Puts an empty read-only directory, or /dev/null, over what is at each path. A path that does not exist is
/// skipped.
pub(super) fn mask(root: &RootFd, paths: &[PathBuf]) -> Result<(), Failure> {
    let mut mask = Mask { null: None, empty: None };
    for path in paths {
        mask.one(root, path).step_with(|| format!("mask {}", path.display()))?;
    }
    Ok(())
}

struct Mask {
    null: Option<OwnedFd>,
    /// The first empty directory that was mounted; the others are further mounts of the same.
    empty: Option<OwnedFd>,
}

impl Mask {
    fn one(&mut self, root: &RootFd, path: &Path) -> Result<(), Errno> {
        let Some(target) = open(root, path)? else { return Ok(()) };
        if FileType::from_raw_mode(fs::fstat(&target)?.st_mode) != FileType::Directory {
            let null = match self.null.take() {
                Some(null) => null,
                None => devices::null(root)?,
            };
            let copied = copy(null.as_fd(), c"", false);
            self.null = Some(null);
            return attach(copied?, &target);
        }
        if let Some(empty) = &self.empty {
            return attach(copy(empty.as_fd(), c"", false)?, &target);
        }
        let data = [(c"nr_inodes".into(), Some(c"1".into())), (c"size".into(), Some(c"0".into()))];
        let flags = mount::RDONLY | mount::NOSUID | mount::NODEV | mount::NOEXEC;
        let empty = detached(c"tmpfs", c"tmpfs", &data, flags)?;
        attach(&empty, &target)?;
        self.empty = Some(empty);
        Ok(())
    }
}

fn open(root: &RootFd, path: &Path) -> Result<Option<OwnedFd>, Errno> {
    match root.resolve(path.strip_prefix("/").unwrap_or(path), OFlags::PATH) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error),
    }
}
