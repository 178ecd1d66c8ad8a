//! Device nodes and links of /dev.

use super::mounts::{attach, copy};
use crate::{
    failure::{Failure, Step},
    plan::devices::{LINKS, Node},
};
use std::{ffi::CString, path::Path};
use sys::{
    root::RootFd,
    rustix::{
        fd::{AsFd, OwnedFd},
        fs::{self, AtFlags, FileType, Mode, OFlags},
        io::Errno,
    },
};

/// Where the nodes come from.
pub(super) enum Source {
    /// They are made.
    Made,
    /// In a user namespace nobody may: each is a mount of one that was made outside of it.
    Bound(Vec<OwnedFd>),
}

/// Makes all nodes and, with them, the links. Without nodes /dev is the host's and stays as it is.
pub(super) fn make_all(root: &RootFd, nodes: &[Node], source: &Source) -> Result<(), Failure> {
    for (at, node) in nodes.iter().enumerate() {
        let made = match source {
            Source::Made => make(root, node),
            Source::Bound(copies) => {
                copies.get(at).ok_or(Errno::INVAL).and_then(|copy| bind(root, node, copy))
            }
        };
        made.step_with(|| format!("make {}", node.path.display()))?;
    }
    if nodes.is_empty() {
        return Ok(());
    }
    for (path, target) in LINKS {
        link(root, path, target, false).step_with(|| format!("make {path}"))?;
    }
    // A ptmx of the host's devpts would reach the host's terminals.
    link(root, "/dev/ptmx", "pts/ptmx", true).step("make /dev/ptmx")
}

/// Makes the nodes in a directory of the host's, and gives a mount of each that is attached nowhere.
pub(super) fn make_outside(dir: &OwnedFd, nodes: &[Node]) -> Result<Vec<OwnedFd>, Failure> {
    let one = |(at, node): (usize, &Node)| -> Result<OwnedFd, Errno> {
        let name = CString::new(format!("node{at}")).map_err(|_| Errno::INVAL)?;
        fs::mknodat(dir, &name, node.kind, node.mode, node.device)?;
        let (uid, gid) = node.owner;
        fs::chownat(dir, &name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        copy(dir.as_fd(), &name, false)
    };
    let made =
        |(at, node): (usize, &Node)| one((at, node)).step_with(|| format!("make {}", node.path.display()));
    nodes.iter().enumerate().map(made).collect()
}

/// Mounts a node over a file that is made for it.
fn bind(root: &RootFd, node: &Node, copy: &OwnedFd) -> Result<(), Errno> {
    let (dir, name) = parent(root, &node.path)?;
    match fs::mknodat(&dir, name, FileType::RegularFile, Mode::from_raw_mode(0o600), 0) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    let target = fs::openat(&dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(fs::fstat(&target)?.st_mode) == FileType::Symlink {
        // It leads to where the image wants.
        return Err(Errno::LOOP);
    }
    attach(copy, target)
}

fn make(root: &RootFd, node: &Node) -> Result<(), Errno> {
    let (dir, name) = parent(root, &node.path)?;
    match fs::mknodat(&dir, name, node.kind, node.mode, node.device) {
        Ok(()) => {}
        // The image, or a volume, may have it already: then it must be just this one.
        Err(Errno::EXIST) => return check(&dir, name, node),
        Err(error) => return Err(error),
    }
    let (uid, gid) = node.owner;
    if !(uid.is_root() && gid.is_root()) {
        fs::chownat(&dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

fn check(dir: &OwnedFd, name: &Path, node: &Node) -> Result<(), Errno> {
    let found = fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let same = FileType::from_raw_mode(found.st_mode) == node.kind
        && (node.kind == FileType::Fifo || found.st_rdev == node.device);
    if same { Ok(()) } else { Err(Errno::EXIST) }
}

fn link(root: &RootFd, path: &str, target: &str, replace: bool) -> Result<(), Errno> {
    let (dir, name) = parent(root, Path::new(path))?;
    match fs::symlinkat(target, &dir, name) {
        Err(Errno::EXIST) if replace => {
            fs::unlinkat(&dir, name, AtFlags::empty())?;
            fs::symlinkat(target, &dir, name)
        }
        Err(Errno::EXIST) => Ok(()),
        done => done,
    }
}

/// The directory of a path beneath the root, made if missing, and the last name.
fn parent<'a>(root: &RootFd, path: &'a Path) -> Result<(OwnedFd, &'a Path), Errno> {
    let name = path.file_name().map(Path::new).ok_or(Errno::INVAL)?;
    let dir = path.parent().unwrap_or(Path::new("/"));
    let dir = dir.strip_prefix("/").unwrap_or(dir);
    Ok((root.make_dir(dir, Mode::from_raw_mode(0o755))?, name))
}

/// A descriptor of the container's /dev/null, proven to be that device (CVE-2025-31133).
pub(super) fn null(root: &RootFd) -> Result<OwnedFd, Errno> {
    let null = root.resolve_plain("dev/null", OFlags::PATH | OFlags::NOFOLLOW)?;
    let stat = fs::fstat(&null)?;
    let proven = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == fs::makedev(1, 3);
    if proven { Ok(null) } else { Err(Errno::NODEV) }
}
