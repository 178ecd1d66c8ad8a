//! Directories that paths of strangers are resolved in, openat2(2).

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};
use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Component, Path, PathBuf},
};

/// The most symbolic links in one path, as in path_resolution(7).
const MOST_LINKS: u32 = 40;
/// How often a look-up that raced with a rename is tried again (EAGAIN of openat2).
const MOST_RACES: u32 = 32;

/// A directory that acts as `/` for every path resolved in it: neither `..` nor a symbolic link leads
/// out, and magic links of procfs are refused. One way to defuse a path from an image or a request.
#[derive(Debug)]
pub struct RootFd(OwnedFd);

impl AsFd for RootFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for RootFd {
    fn from(dir: OwnedFd) -> Self {
        Self(dir)
    }
}

/// What [`RootFd::make_dir`] and [`RootFd::make_file`] create last.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Dir,
    File,
}

impl RootFd {
    /// Opens a directory of our own by its (trusted) path.
    ///
    /// # Errors
    /// Of open(2).
    pub fn open(path: impl rustix::path::Arg) -> Result<Self, Errno> {
        fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map(Self)
    }

    /// Opens `path` in this root: symbolic links are followed inside it.
    ///
    /// # Errors
    /// Of openat2(2).
    pub fn resolve(&self, path: impl AsRef<Path>, flags: OFlags) -> Result<OwnedFd, Errno> {
        self.look_up(path.as_ref(), flags, ResolveFlags::empty())
    }

    /// Opens `path` in this root; a symbolic link anywhere in it is ELOOP.
    ///
    /// # Errors
    /// Of openat2(2).
    pub fn resolve_plain(&self, path: impl AsRef<Path>, flags: OFlags) -> Result<OwnedFd, Errno> {
        self.look_up(path.as_ref(), flags, ResolveFlags::NO_SYMLINKS)
    }

    /// The directory at `path` (`O_PATH`), made with every missing parent. Links are followed inside the
    /// root, and where one dangles its target is made.
    ///
    /// `mode` is cut by the umask.
    ///
    /// # Errors
    /// Of openat2(2) and mkdir(2); NOTDIR when something else stands there.
    pub fn make_dir(&self, path: impl AsRef<Path>, mode: Mode) -> Result<OwnedFd, Errno> {
        self.make(path.as_ref(), Wanted::Dir, mode)
    }

    /// What is at `path` (`O_PATH`), of any type; when missing an empty file is made, with every missing
    /// parent (mode 0755). Links as in [`RootFd::make_dir`].
    ///
    /// # Errors
    /// Of openat2(2) and mkdir(2).
    pub fn make_file(&self, path: impl AsRef<Path>, mode: Mode) -> Result<OwnedFd, Errno> {
        self.make(path.as_ref(), Wanted::File, mode)
    }

    fn look_up(&self, path: &Path, flags: OFlags, more: ResolveFlags) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | more;
        for _ in 0..MOST_RACES {
            match fs::openat2(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), how) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                done => return done,
            }
        }
        Err(Errno::AGAIN)
    }

    fn make(&self, path: &Path, wanted: Wanted, mode: Mode) -> Result<OwnedFd, Errno> {
        let last = if wanted == Wanted::Dir { OFlags::PATH | OFlags::DIRECTORY } else { OFlags::PATH };
        match self.resolve(path, last) {
            Err(Errno::NOENT) => {}
            done => return done,
        }
        let mut walk = Walk { todo: names(path), ..Walk::default() };
        let mut at = self.resolve(".", OFlags::PATH | OFlags::DIRECTORY)?;
        while let Some(name) = walk.todo.pop_front() {
            let is_last = walk.todo.is_empty();
            let next = walk.done.join(&name);
            match self.resolve(&next, if is_last { last } else { OFlags::PATH | OFlags::DIRECTORY }) {
                Ok(found) => (at, walk.done) = (found, next),
                Err(Errno::NOENT) => {
                    let kind = if is_last { wanted } else { Wanted::Dir };
                    match make_one(&at, &name, kind, mode) {
                        Ok(made) => (at, walk.done) = (made, next),
                        Err(Errno::EXIST) => at = self.step_aside(&mut walk, at, name)?,
                        Err(error) => return Err(error),
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(at)
    }

    /// `name` was missing and then could not be made: it is a link that dangles (its target comes next), or
    /// somebody else just made it (it is looked up again).
    fn step_aside(&self, walk: &mut Walk, at: OwnedFd, name: OsString) -> Result<OwnedFd, Errno> {
        walk.links += 1;
        if walk.links > MOST_LINKS {
            return Err(Errno::LOOP);
        }
        match fs::readlinkat(&at, &name, Vec::new()) {
            Ok(target) => {
                let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                for part in names(&target).into_iter().rev() {
                    walk.todo.push_front(part);
                }
                if target.is_absolute() {
                    walk.done = PathBuf::new();
                    return self.resolve(".", OFlags::PATH | OFlags::DIRECTORY);
                }
                Ok(at)
            }
            Err(Errno::INVAL | Errno::NOENT) => {
                walk.todo.push_front(name);
                Ok(at)
            }
            Err(error) => Err(error),
        }
    }
}

/// How far a path was made.
#[derive(Default)]
struct Walk {
    todo: VecDeque<OsString>,
    done: PathBuf,
    links: u32,
}

/// The parts of a path that name something; `..` is left to the kernel, which keeps it in the root.
fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

fn make_one(dir: &OwnedFd, name: &OsStr, wanted: Wanted, mode: Mode) -> Result<OwnedFd, Errno> {
    let found = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match wanted {
        Wanted::Dir => {
            fs::mkdirat(dir, name, mode)?;
            fs::openat(dir, name, found | OFlags::DIRECTORY, Mode::empty())
        }
        Wanted::File => {
            fs::mknodat(dir, name, FileType::RegularFile, mode, 0)?;
            fs::openat(dir, name, found, Mode::empty())
        }
    }
}

/// Whether `path` names something in `dir` itself: one part, not `.` or `..`.
#[must_use]
pub fn is_plain_name(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    !matches!(bytes, b"" | b"." | b"..") && !bytes.contains(&b'/') && !bytes.contains(&0)
}

/// Removes a name in a directory; one that is not there is no error.
///
/// # Errors
/// Of unlinkat(2).
pub fn unlink(dir: impl AsFd, name: &OsStr, flags: AtFlags) -> Result<(), Errno> {
    match fs::unlinkat(dir, name, flags) {
        Err(Errno::NOENT) => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::tests::Scratch;
    use std::os::unix::fs::symlink;

    #[test]
    fn parents_and_the_target_of_a_dangling_link_are_made_inside_the_root() {
        let scratch = Scratch::new("root-make");
        let inside = scratch.path().join("root");
        std::fs::create_dir_all(inside.join("var")).expect("mkdir");
        symlink("/run", inside.join("var/run")).expect("link");
        symlink("../../../../etc/deep", inside.join("up")).expect("link");
        let root = RootFd::open(&inside).expect("open");
        root.make_dir("/var/run/secrets/x", Mode::from_raw_mode(0o755)).expect("dir");
        root.make_file("up/hosts", Mode::from_raw_mode(0o644)).expect("file");
        assert!(inside.join("run/secrets/x").is_dir());
        assert!(inside.join("etc/deep/hosts").is_file());
        assert_eq!(std::fs::read_dir(scratch.path()).expect("list").count(), 1, "something left the root");
    }

    #[test]
    fn a_link_that_leads_to_itself_ends() {
        let scratch = Scratch::new("root-loop");
        symlink("b", scratch.path().join("a")).expect("link");
        symlink("a/c", scratch.path().join("b")).expect("link");
        let root = RootFd::open(scratch.path()).expect("open");
        assert_eq!(root.make_dir("a/x", Mode::from_raw_mode(0o755)).expect_err("loop"), Errno::LOOP);
    }

    #[test]
    fn a_magic_link_of_procfs_is_refused() {
        let root = RootFd::open("/").expect("open");
        assert_eq!(root.resolve("proc/self/fd/0", OFlags::PATH).expect_err("magic"), Errno::LOOP);
        assert_eq!(root.resolve("proc/self/cwd/x", OFlags::PATH).expect_err("magic"), Errno::LOOP);
    }

    #[test]
    fn a_file_in_the_way_is_not_a_directory() {
        let scratch = Scratch::new("root-file");
        std::fs::File::create(scratch.path().join("f")).expect("file");
        let root = RootFd::open(scratch.path()).expect("open");
        assert_eq!(root.make_dir("f", Mode::from_raw_mode(0o755)).expect_err("file"), Errno::NOTDIR);
        assert_eq!(root.make_dir("f/x", Mode::from_raw_mode(0o755)).expect_err("file"), Errno::NOTDIR);
    }

    #[test]
    fn only_one_plain_part_is_a_name() {
        for bad in ["", ".", "..", "a/b", "/", "a\0"] {
            assert!(!is_plain_name(OsStr::new(bad)), "{bad:?}");
        }
        assert!(is_plain_name(OsStr::new("...")));
    }
}
