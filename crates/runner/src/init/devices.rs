//! Device nodes and links of /dev.

use crate::{
    failure::{Failure, Step},
    plan::devices::{LINKS, Node},
};
use std::path::Path;
use sys::{
    root::RootFd,
    rustix::{
        fd::OwnedFd,
        fs::{self, AtFlags, FileType, Mode, OFlags},
        io::Errno,
    },
};

/// Makes all nodes and, with them, the links. Without nodes /dev is the host's and stays as it is.
pub(super) fn make_all(root: &RootFd, nodes: &[Node]) -> Result<(), Failure> {
    for node in nodes {
        make(root, node).step_with(|| format!("make {}", node.path.display()))?;
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
