//! Looking up files of an image without mounting it: overlayfs' rules over the layers' directories.
//!
//! Everything goes by descriptors, one name at a time; symbolic links are followed inside the image
//! (at most 40, as path_resolution(7)), so that no path of an image leads to the host.

use std::{
    collections::VecDeque,
    ffi::OsStr,
    fs::File,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    rc::Rc,
};
use sys::rustix::{
    fd::OwnedFd,
    fs::{self, AtFlags, FileType, Mode, OFlags},
    io::Errno,
};

const MAX_LINKS: u32 = 40;
const MAX_PARTS: usize = 4096;

/// Why a file of an image cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// A look-up failed.
    #[error("cannot look up `{path}` in the image")]
    LookUp {
        /// Inside the image.
        path: &'static str,
        /// Why.
        #[source]
        source: Errno,
    },
    /// It is there, but nothing to be read.
    #[error("`{path}` in the image is not a regular file")]
    NotAFile {
        /// Inside the image.
        path: &'static str,
    },
}

/// A directory as overlayfs would show it: the same name in several layers, topmost first.
pub(crate) type Merged = Rc<Vec<OwnedFd>>;

/// The layers of one image.
#[derive(Debug)]
pub(crate) struct Stacked {
    root: Merged,
}

enum Found {
    Nothing,
    Directory(Merged),
    Link(Vec<u8>),
    File(File),
    Other,
}

impl Stacked {
    /// Opens the layers' directories, lowest first as in [`crate::Resolved`].
    pub(crate) fn open(layers: &[PathBuf]) -> Result<Self, StackError> {
        let open = |path: &Path| fs::open(path, directory(), Mode::empty());
        let root: Result<Vec<_>, _> = layers.iter().rev().map(|path| open(path)).collect();
        Ok(Self { root: Rc::new(root.map_err(|source| StackError::LookUp { path: "/", source })?) })
    }

    /// Opens a regular file; `None` when there is no such name.
    pub(crate) fn file(&self, path: &'static str) -> Result<Option<File>, StackError> {
        match self.walk(path.as_bytes()) {
            Ok(Found::Nothing) => Ok(None),
            Ok(Found::File(file)) => Ok(Some(file)),
            Ok(Found::Directory(_) | Found::Link(_) | Found::Other) => Err(StackError::NotAFile { path }),
            Err(source) => Err(StackError::LookUp { path, source }),
        }
    }

    /// The topmost directory of that name; `None` when it is none, or nothing.
    pub(crate) fn directory(&self, path: &[u8]) -> Result<Option<Merged>, Errno> {
        match self.walk(path)? {
            Found::Directory(merged) => Ok(Some(merged)),
            Found::Nothing | Found::Link(_) | Found::File(_) | Found::Other => Ok(None),
        }
    }

    fn walk(&self, path: &[u8]) -> Result<Found, Errno> {
        let mut todo: VecDeque<Vec<u8>> = parts(path).collect();
        let mut way: Vec<Merged> = Vec::new();
        let mut links = 0;
        while let Some(part) = todo.pop_front() {
            if part == b".." {
                way.pop();
                continue;
            }
            let here = way.last().unwrap_or(&self.root);
            match step(here, OsStr::from_bytes(&part))? {
                Found::Directory(next) => way.push(next),
                Found::Link(target) => {
                    links += 1;
                    if links > MAX_LINKS || todo.len() > MAX_PARTS {
                        return Err(Errno::LOOP);
                    }
                    if target.starts_with(b"/") {
                        way.clear();
                    }
                    for part in parts(&target).collect::<Vec<_>>().into_iter().rev() {
                        todo.push_front(part);
                    }
                }
                // A file in the middle of a path: no such name.
                Found::File(_) | Found::Other if !todo.is_empty() => return Ok(Found::Nothing),
                last @ (Found::Nothing | Found::File(_) | Found::Other) => return Ok(last),
            }
        }
        Ok(Found::Directory(way.pop().unwrap_or_else(|| Rc::clone(&self.root))))
    }
}

fn parts(path: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).map(<[u8]>::to_vec)
}

fn directory() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

/// One name in a merged directory: the topmost layer that has it decides; directories merge down to the
/// first opaque one.
fn step(dirs: &[OwnedFd], name: &OsStr) -> Result<Found, Errno> {
    let mut merged = Vec::new();
    for dir in dirs {
        let stat = match fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => continue,
            Err(error) => return Err(error),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            let found = fs::openat(dir, name, directory(), Mode::empty())?;
            let opaque = is_opaque(&found);
            merged.push(found);
            if opaque {
                break;
            }
            continue;
        }
        // Anything else ends the merging, a whiteout too.
        if !merged.is_empty() {
            break;
        }
        return match kind {
            FileType::RegularFile => {
                // Layers do not change: it is still the file that was looked at.
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                fs::openat(dir, name, flags, Mode::empty()).map(|file| Found::File(file.into()))
            }
            FileType::Symlink => {
                fs::readlinkat(dir, name, Vec::new()).map(|target| Found::Link(target.into_bytes()))
            }
            FileType::CharacterDevice if stat.st_rdev == 0 => Ok(Found::Nothing),
            FileType::Directory
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => Ok(Found::Other),
        };
    }
    if merged.is_empty() { Ok(Found::Nothing) } else { Ok(Found::Directory(Rc::new(merged))) }
}

fn is_opaque(dir: &OwnedFd) -> bool {
    let mut value = [0_u8; 1];
    matches!(fs::fgetxattr(dir, "trusted.overlay.opaque", &mut value), Ok(1)) && value == *b"y"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use std::{io::Read as _, os::unix::fs::symlink};
    use sys::rustix::fs::{XattrFlags, mknodat, setxattr};

    fn layers(scratch: &Scratch, count: usize) -> Vec<PathBuf> {
        let paths: Vec<PathBuf> = (0..count).map(|n| scratch.path().join(n.to_string())).collect();
        for path in &paths {
            std::fs::create_dir(path).expect("mkdir");
        }
        paths
    }

    fn put(layer: &Path, path: &str, text: &str) {
        let path = layer.join(path);
        std::fs::create_dir_all(path.parent().expect("beneath the layer")).expect("mkdir");
        std::io::Write::write_all(&mut File::create(path).expect("create"), text.as_bytes()).expect("write");
    }

    fn text(stack: &Stacked, path: &'static str) -> Option<String> {
        stack.file(path).expect(path).map(|mut file| {
            let mut text = String::new();
            file.read_to_string(&mut text).expect("text");
            text
        })
    }

    #[test]
    fn the_topmost_layer_decides_and_whiteouts_and_opaque_directories_hide() {
        let scratch = Scratch::new("stacked");
        let all = layers(&scratch, 2);
        for file in ["etc/both", "etc/gone", "hidden/below", "only/below", "replaced/x"] {
            put(&all[0], file, "low");
        }
        put(&all[1], "etc/both", "high");
        put(&all[1], "hidden/above", "high");
        put(&all[1], "replaced", "file");
        let top = std::fs::File::open(&all[1]).expect("open");
        mknodat(&top, "etc/gone", FileType::CharacterDevice, Mode::empty(), 0).expect("whiteout");
        setxattr(all[1].join("hidden"), "trusted.overlay.opaque", b"y", XattrFlags::empty()).expect("opaque");
        let stack = Stacked::open(&all).expect("open");
        assert_eq!(text(&stack, "/etc/both").as_deref(), Some("high"));
        assert_eq!(text(&stack, "/only/below").as_deref(), Some("low"));
        assert_eq!(text(&stack, "/hidden/above").as_deref(), Some("high"));
        for none in ["/etc/gone", "/hidden/below", "/replaced/x", "/nothing/at/all"] {
            assert_eq!(text(&stack, none), None, "{none}");
        }
    }

    #[test]
    fn links_stay_inside_the_image_and_end() {
        let scratch = Scratch::new("stacked-links");
        let all = layers(&scratch, 2);
        put(&all[0], "usr/etc/passwd", "inside");
        symlink("/usr/etc", all[1].join("etc")).expect("link");
        symlink("../../../../../../../etc/passwd", all[1].join("up")).expect("link");
        symlink("loop", all[1].join("loop")).expect("link");
        let stack = Stacked::open(&all).expect("open");
        assert_eq!(text(&stack, "/etc/passwd").as_deref(), Some("inside"));
        assert_eq!(text(&stack, "/up").as_deref(), Some("inside"));
        assert!(matches!(stack.file("/loop"), Err(StackError::LookUp { source: Errno::LOOP, .. })));
    }

    #[test]
    fn what_is_not_a_regular_file_is_never_opened() {
        let scratch = Scratch::new("stacked-kinds");
        let all = layers(&scratch, 1);
        let dir = std::fs::File::open(&all[0]).expect("open");
        mknodat(&dir, "fifo", FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("fifo");
        mknodat(&dir, "zero", FileType::CharacterDevice, Mode::from_raw_mode(0o600), fs::makedev(1, 5))
            .expect("node");
        std::fs::create_dir(all[0].join("dir")).expect("mkdir");
        let stack = Stacked::open(&all).expect("open");
        for path in ["/fifo", "/zero", "/dir"] {
            assert!(matches!(stack.file(path), Err(StackError::NotAFile { .. })), "{path}");
        }
    }
}
