//! Removing a directory tree by descriptors, never across a mount point.

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{self, AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags},
    io::Errno,
};
use std::{
    ffi::{CStr, CString, OsStr},
    mem::MaybeUninit,
    path::Path,
};

/// Directories nested deeper are first moved up, so that a hostile tree costs neither stack nor descriptors.
const MOST_DEPTH: u32 = 48;

/// Removes `name` in `dir` and all beneath it. What is not there, or vanishes meanwhile, is no error.
///
/// It follows no symbolic link, and enters no other mount: a mount point inside is EXDEV or EBUSY, with
/// what lies on it untouched (the siblings that came first are gone).
///
/// # Errors
/// Of openat2(2), getdents64(2) and unlinkat(2); EINVAL when `name` is not one plain name.
pub fn remove(dir: impl AsFd, name: &OsStr) -> Result<(), Errno> {
    if !crate::root::is_plain_name(name) {
        return Err(Errno::INVAL);
    }
    let name = CString::new(name.as_encoded_bytes()).map_err(|_| Errno::INVAL)?;
    match fs::unlinkat(&dir, &name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error),
    }
    let Some(top) = enter(dir.as_fd(), &name)? else { return Ok(()) };
    let mut removal = Removal { top: top.as_fd(), moved: 0 };
    // A second round finds the directories that were moved up; each round takes MOST_DEPTH levels off.
    while removal.empty(top.as_fd(), 0)? {
        fs::seek(&top, fs::SeekFrom::Start(0))?;
    }
    gone(fs::unlinkat(&dir, &name, AtFlags::REMOVEDIR))
}

/// [`remove`] by the (trusted) path of a tree.
///
/// # Errors
/// As [`remove`]; EINVAL for a path without a last name.
pub fn remove_path(path: &Path) -> Result<(), Errno> {
    let name = path.file_name().ok_or(Errno::INVAL)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match fs::open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(dir) => remove(dir, name),
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

struct Removal<'a> {
    top: BorrowedFd<'a>,
    moved: u64,
}

impl Removal<'_> {
    /// Empties a directory; true when another round is needed.
    fn empty(&mut self, dir: BorrowedFd<'_>, depth: u32) -> Result<bool, Errno> {
        let mut again = false;
        let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
        let mut entries = RawDir::new(dir, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let (name, kind) = (entry.file_name(), entry.file_type());
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            if kind != FileType::Directory {
                match fs::unlinkat(dir, name, AtFlags::empty()) {
                    // A file system that tells no types.
                    Err(Errno::ISDIR | Errno::PERM) if kind == FileType::Unknown => {}
                    done => {
                        gone(done)?;
                        continue;
                    }
                }
            }
            again |= self.directory(dir, name, depth)?;
        }
        Ok(again)
    }

    fn directory(&mut self, dir: BorrowedFd<'_>, name: &CStr, depth: u32) -> Result<bool, Errno> {
        if depth >= MOST_DEPTH {
            self.moved += 1;
            let up = format!(".removed.{}", self.moved);
            match fs::renameat(dir, name, self.top, &up) {
                // The name may be taken by the tree's own content, or by an earlier round cut short.
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {
                    return self.directory(dir, name, depth);
                }
                Err(Errno::NOENT) => return Ok(false),
                done => done?,
            }
            return Ok(true);
        }
        let Some(child) = enter(dir, name)? else { return Ok(false) };
        let again = self.empty(child.as_fd(), depth + 1)?;
        gone(fs::unlinkat(dir, name, AtFlags::REMOVEDIR))?;
        Ok(again)
    }
}

/// Opens a directory unless it is a mount point or a link; `None` when it is gone.
fn enter(dir: BorrowedFd<'_>, name: &CStr) -> Result<Option<OwnedFd>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    match fs::openat2(dir, name, flags, Mode::empty(), how) {
        Ok(opened) => Ok(Some(opened)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn gone(done: Result<(), Errno>) -> Result<(), Errno> {
    if done == Err(Errno::NOENT) { Ok(()) } else { done }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::path::PathBuf;

    /// A directory of a test, removed with what is in it.
    pub(crate) struct Scratch(PathBuf);

    impl Scratch {
        pub(crate) fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("peapod-test-{}-{name}", std::process::id()));
            std::fs::create_dir(&path).expect("mkdir");
            Self(path)
        }
        pub(crate) fn path(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            remove_path(&self.0).expect("remove");
        }
    }

    #[test]
    fn links_are_removed_and_not_followed_and_twice_is_fine() {
        let scratch = Scratch::new("tree-links");
        let keep = scratch.path().join("keep");
        std::fs::create_dir(&keep).expect("mkdir");
        std::fs::File::create(keep.join("file")).expect("file");
        let tree = scratch.path().join("tree");
        std::fs::create_dir_all(tree.join("a/b")).expect("mkdir");
        std::os::unix::fs::symlink(&keep, tree.join("a/link")).expect("link");
        std::os::unix::fs::symlink("/", tree.join("root")).expect("link");
        remove_path(&tree).expect("first");
        remove_path(&tree).expect("second");
        assert!(!tree.is_dir());
        assert!(keep.join("file").is_file());
    }

    #[test]
    fn a_tree_deeper_than_any_path_is_removed() {
        let scratch = Scratch::new("tree-deep");
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let mut at = fs::open(scratch.path(), flags, Mode::empty()).expect("open");
        for _ in 0..600 {
            fs::mkdirat(&at, "directory", Mode::from_raw_mode(0o755)).expect("mkdir");
            fs::mkdirat(&at, ".removed.1", Mode::from_raw_mode(0o755)).expect("mkdir");
            at = fs::openat(&at, "directory", flags, Mode::empty()).expect("open");
        }
        drop(at);
        remove_path(&scratch.path().join("directory")).expect("remove");
    }

    #[test]
    fn a_mount_point_inside_is_left_alone() {
        let scratch = Scratch::new("tree-mount");
        let (outside, point) = (scratch.path().join("outside"), scratch.path().join("tree/point"));
        std::fs::create_dir(&outside).expect("mkdir");
        std::fs::create_dir_all(&point).expect("mkdir");
        std::fs::File::create(outside.join("precious")).expect("file");
        rustix::mount::mount_bind(&outside, &point).expect("bind");
        let refused = remove_path(&scratch.path().join("tree"));
        rustix::mount::unmount(&point, rustix::mount::UnmountFlags::DETACH).expect("unmount");
        assert_eq!(refused, Err(Errno::XDEV));
        assert!(outside.join("precious").is_file());
    }

    #[test]
    fn a_name_with_a_way_out_is_refused() {
        for bad in ["..", ".", "", "a/../../b"] {
            let dir = fs::open("/tmp", OFlags::PATH, Mode::empty()).expect("open");
            assert_eq!(remove(&dir, OsStr::new(bad)), Err(Errno::INVAL), "{bad:?}");
        }
    }
}
