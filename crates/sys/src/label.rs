//! SELinux labels of files: set by descriptor, never through a symbolic link and never beyond a mount.

use rustix::{
    fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    fs::{self, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, XattrFlags},
    io::Errno,
};
use std::path::{Path, PathBuf};

/// The attribute that SELinux reads.
const ATTRIBUTE: &str = "security.selinux";
/// Directories in one another: each holds a descriptor.
const DEEPEST: usize = 512;

/// A file or a directory with all that is beneath it on the same mount.
#[derive(Debug)]
pub struct Tree {
    top: OwnedFd,
    path: PathBuf,
}

impl Tree {
    /// Opens what a path of the host's administrator leads to; links are followed.
    ///
    /// # Errors
    /// Of open(2) and readlink(2).
    pub fn open(path: &Path) -> Result<Tree, Errno> {
        let top = fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let path = std::fs::read_link(of_descriptor(top.as_fd()))
            .map_err(|error| error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))?;
        Ok(Tree { top, path })
    }

    /// Where it is, without links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Does something to each file, directory and link, the top first. What vanishes meanwhile is left out.
    ///
    /// # Errors
    /// The first one; [`Errno::NAMETOOLONG`] beyond 512 directories in one another.
    pub fn each(&self, action: &mut dyn FnMut(BorrowedFd<'_>) -> Result<(), Errno>) -> Result<(), Errno> {
        action(self.top.as_fd())?;
        if is_directory(&self.top)? { beneath(self.top.as_fd(), action, DEEPEST) } else { Ok(()) }
    }
}

/// Sets the label of what the descriptor (also an `O_PATH` one) stands for. A file system that has no labels
/// needs none: its mount has one for all.
///
/// # Errors
/// Of setxattr(2), such as INVAL for a label that the policy does not have.
pub fn set(file: BorrowedFd<'_>, label: &str) -> Result<(), Errno> {
    let mut value = label.as_bytes().to_vec();
    value.push(0);
    // A magic link leads to the very file, be that a link itself.
    match fs::setxattr(of_descriptor(file), ATTRIBUTE, &value, XattrFlags::empty()) {
        Err(Errno::OPNOTSUPP) => Ok(()),
        done => done,
    }
}

fn of_descriptor(file: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn is_directory(file: &OwnedFd) -> Result<bool, Errno> {
    Ok(FileType::from_raw_mode(fs::fstat(file)?.st_mode) == FileType::Directory)
}

fn beneath(
    directory: BorrowedFd<'_>,
    action: &mut dyn FnMut(BorrowedFd<'_>) -> Result<(), Errno>,
    deeper: usize,
) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let deeper = deeper.checked_sub(1).ok_or(Errno::NAMETOOLONG)?;
    for entry in Dir::new(fs::openat(directory, c".", flags, Mode::empty())?)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
        let file = match fs::openat2(directory, name, flags, Mode::empty(), how) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::XDEV) => continue,
            Err(error) => return Err(error),
        };
        action(file.as_fd())?;
        if is_directory(&file)? {
            beneath(file.as_fd(), action, deeper)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_a_tree_is_met_and_no_link_is_followed() {
        let root = std::env::temp_dir().join(format!("peapod-test-label-{}", std::process::id()));
        let outside = root.join("outside");
        let tree = root.join("tree");
        std::fs::create_dir_all(tree.join("a/b")).expect("made");
        std::fs::create_dir_all(&outside).expect("made");
        std::fs::File::create(outside.join("secret")).expect("made");
        std::fs::File::create(tree.join("a/f")).expect("made");
        std::os::unix::fs::symlink(&outside, tree.join("to-dir")).expect("made");
        std::os::unix::fs::symlink(outside.join("secret"), tree.join("a/to-file")).expect("made");
        std::os::unix::fs::symlink(&tree, root.join("source")).expect("made");
        let found = Tree::open(&root.join("source")).expect("there");
        assert_eq!(found.path(), tree, "the source itself may be a link");
        let mut met = Vec::new();
        let met_all = found.each(&mut |file| {
            met.push(std::fs::read_link(of_descriptor(file)).expect("a path"));
            Ok(())
        });
        met_all.expect("walked");
        met.sort();
        let expected = ["", "a", "a/b", "a/f", "a/to-file", "to-dir"];
        let expected: Vec<_> = expected
            .map(|name| tree.join(name))
            .iter()
            .map(|p| p.components().collect::<PathBuf>())
            .collect();
        assert_eq!(met, expected);
        crate::tree::remove_path(&root).expect("removed");
    }
}
