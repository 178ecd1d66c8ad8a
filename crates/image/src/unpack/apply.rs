//! The second half of the child: members of the archive become files of an overlayfs layer.
//!
//! Every name is cleaned, `..` is refused, and parents are looked up by openat2 inside the layer's own
//! root; what is created last is created by a plain name in its parent, without following anything.
//! OCI image-spec layer.md; whiteouts become what overlayfs wants (kernel, overlayfs.rst "whiteouts and
//! opaque directories"): a character device 0/0, or a mark on the directory that the daemon sets
//! later, because `trusted.` attributes need CAP_SYS_ADMIN.

use super::{
    metadata::{self, Owner},
    report::{Unpacked, path_to_text},
};
use crate::tarball::{Entry, Kind, Reader, TarError};
use std::{
    collections::{BTreeSet, HashMap},
    ffi::OsStr,
    io::BufRead,
    os::unix::ffi::OsStrExt as _,
    path::Path,
};
use sys::{
    root::RootFd,
    rustix::{
        fd::{AsFd, OwnedFd},
        fs::{self, AtFlags, FileType, Mode, OFlags},
        io::Errno,
    },
};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Other names of aufs: hard link directories and the like, which mean nothing here.
const AUFS: &[u8] = b".wh..wh.";
/// PATH_MAX with its NUL, and so the depth too.
const MAX_PATH: usize = 4095;
const MAX_ENTRIES: u64 = 10_000_000;
/// Opaque marks: each needs a place in the report.
const MAX_OPAQUE: usize = 200_000;
/// Directories whose time is set at the end.
const MAX_DIRECTORIES: usize = 2_000_000;
/// Bytes of implied directories' names in the report. Those beyond keep mode 0755 and root as owner.
const MAX_IMPLIED: usize = 8 << 20;
const DISK_BLOCK: u64 = 4096;

/// Why a layer was not applied.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApplyError {
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error("member `{}` {why}", shown(.name))]
    Refused { name: Vec<u8>, why: &'static str },
    #[error("member `{}` cannot be made: {source}", shown(.name))]
    System { name: Vec<u8>, source: Errno },
    #[error("the archive has more than {0}")]
    TooMany(&'static str),
}

fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().take(200).flat_map(char::escape_default).collect()
}

/// Writes members beneath one directory.
#[derive(Debug)]
pub(super) struct Applier {
    root: RootFd,
    /// The directory of the last member: most members follow their neighbours.
    parent: Option<(Vec<u8>, OwnedFd)>,
    times: HashMap<Vec<u8>, (i64, u32)>,
    opaque: BTreeSet<Vec<u8>>,
    /// Parents that are no members themselves (yet).
    implied: BTreeSet<Vec<u8>>,
    /// A directory has a default ACL, so that modes are not taken over as given.
    acls: bool,
    facts: Unpacked,
}

/// A cleaned name: parts joined by `/`, without a leading one. Empty = the root itself.
struct Place {
    path: Vec<u8>,
    /// Where the last part starts.
    last: usize,
}

impl Place {
    fn of(name: &[u8]) -> Result<Self, &'static str> {
        let mut place = Place { path: Vec::with_capacity(name.len()), last: 0 };
        if name.is_empty() {
            return Err("has an empty name");
        }
        for part in name.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => return Err("leads out of the layer by `..`"),
                _ if part.contains(&0) => return Err("has a NUL in its name"),
                _ => {
                    if !place.path.is_empty() {
                        place.path.push(b'/');
                    }
                    place.last = place.path.len();
                    place.path.extend_from_slice(part);
                }
            }
        }
        if place.path.len() > MAX_PATH { Err("has a name longer than 4095 bytes") } else { Ok(place) }
    }

    fn parent(&self) -> &[u8] {
        &self.path[..self.last.saturating_sub(1)]
    }

    fn name(&self) -> &[u8] {
        &self.path[self.last..]
    }

    /// The neighbour of that name.
    fn sibling(&self, name: &[u8]) -> Vec<u8> {
        [&self.path[..self.last], name].concat()
    }
}

fn os(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}

impl Applier {
    pub(super) fn new(root: RootFd) -> Self {
        Self {
            root,
            parent: None,
            times: HashMap::new(),
            opaque: BTreeSet::new(),
            implied: BTreeSet::new(),
            acls: false,
            facts: Unpacked::default(),
        }
    }

    /// Applies all members; then sets the times of directories, which each new name in them changes.
    pub(super) fn run<R: BufRead>(mut self, tar: &mut Reader<R>) -> Result<Unpacked, ApplyError> {
        while let Some(entry) = tar.next()? {
            self.facts.entries += 1;
            if self.facts.entries > MAX_ENTRIES {
                return Err(ApplyError::TooMany("10 million members"));
            }
            self.member(&entry, tar)?;
        }
        self.finish()
    }

    fn finish(mut self) -> Result<Unpacked, ApplyError> {
        for (path, time) in &self.times {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            match self.root.resolve(os(path), flags) {
                Ok(dir) => metadata::set_time(&dir, *time).map_err(|e| system(path, e))?,
                // Replaced by a later member.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(system(path, error)),
            }
        }
        for path in &self.opaque {
            if self.root.resolve(os(path), OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW).is_ok() {
                self.facts.opaque.push(path_to_text(path));
            }
        }
        let mut left = MAX_IMPLIED;
        for path in &self.implied {
            let text = path_to_text(path);
            left = left.saturating_sub(text.len());
            if left > 0 && self.root.resolve_plain(os(path), OFlags::PATH | OFlags::DIRECTORY).is_ok() {
                self.facts.implied.push(text);
            }
        }
        Ok(self.facts)
    }

    fn member<R: BufRead>(&mut self, entry: &Entry, tar: &mut Reader<R>) -> Result<(), ApplyError> {
        let refused = |why| ApplyError::Refused { name: entry.name.clone(), why };
        let place = Place::of(&entry.name).map_err(refused)?;
        let owner = Owner::of(entry).map_err(refused)?;
        if place.name().starts_with(WHITEOUT) {
            return self.whiteout(&place).map_err(|why| why.named(&entry.name));
        }
        let made = match entry.kind {
            Kind::Directory => self.directory(&place, entry, owner),
            _ if place.path.is_empty() => return Err(refused("takes the place of the layer's root")),
            Kind::File => return self.file(&place, entry, owner, tar),
            Kind::HardLink => self.hard_link(&place, entry),
            Kind::Symlink => self.symlink(&place, entry, owner),
            Kind::Character | Kind::Block | Kind::Fifo => self.node(&place, entry, owner),
        };
        made.map_err(|why| why.named(&entry.name))
    }

    fn directory(&mut self, place: &Place, entry: &Entry, owner: Owner) -> Result<(), Why> {
        if !place.path.is_empty() {
            let parent = self.parent_of(place)?;
            let name = os(place.name());
            match fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700)) {
                Ok(()) => self.count(DISK_BLOCK),
                Err(Errno::EXIST) => {
                    let stat = fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
                    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                        if is_whiteout(&stat) {
                            self.mark_opaque(place.path.clone())?;
                        }
                        self.clear(&parent, name)?;
                        fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700))?;
                        self.count(DISK_BLOCK);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let dir = self.root.resolve(os(&place.path), flags)?;
        metadata::chown(&dir, owner)?;
        fs::fchmod(&dir, Mode::from_raw_mode(entry.mode))?;
        self.attributes(&dir, entry)?;
        self.acls |= entry.xattrs.iter().any(|(name, _)| name == b"system.posix_acl_default");
        self.times.insert(place.path.clone(), entry.mtime);
        self.implied.remove(&place.path);
        if self.times.len() > MAX_DIRECTORIES { Err(Why::TooMany("2 million directories")) } else { Ok(()) }
    }

    fn file<R: BufRead>(
        &mut self,
        place: &Place,
        entry: &Entry,
        owner: Owner,
        tar: &mut Reader<R>,
    ) -> Result<(), ApplyError> {
        let named = |why: Why| why.named(&entry.name);
        let made = |this: &mut Self| -> Result<OwnedFd, Why> {
            let parent = this.parent_of(place)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mode = Mode::from_raw_mode(entry.mode);
            let name = os(place.name());
            this.over(&parent, name, || fs::openat(&parent, name, flags, mode))
        };
        let file = made(self).map_err(named)?;
        tar.content(|piece| write_all(&file, piece))?;
        let finished = || -> Result<(), Why> {
            metadata::chown(&file, owner)?;
            // chown took the set-id bits away; a default ACL may have taken others.
            if entry.mode & 0o6000 != 0 || self.acls {
                fs::fchmod(&file, Mode::from_raw_mode(entry.mode))?;
            }
            Ok(())
        };
        finished().map_err(named)?;
        self.attributes(&file, entry).map_err(named)?;
        metadata::set_time(&file, entry.mtime).map_err(|e| system(&entry.name, e))?;
        self.facts.bytes += entry.size;
        self.count(entry.size.div_ceil(DISK_BLOCK) * DISK_BLOCK);
        Ok(())
    }

    fn hard_link(&mut self, place: &Place, entry: &Entry) -> Result<(), Why> {
        let target = Place::of(&entry.link).map_err(|_| Why::Refused("links to a name outside the layer"))?;
        if target.path.is_empty() || target.path == place.path {
            return Err(Why::Refused("links to the root or to itself"));
        }
        let target_parent = self
            .root
            .resolve(os(target.parent()), OFlags::PATH | OFlags::DIRECTORY)
            .map_err(|_| Why::Refused("links to a name that this layer does not have"))?;
        let stat = fs::statat(&target_parent, os(target.name()), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|_| Why::Refused("links to a name that this layer does not have"))?;
        if is_whiteout(&stat) || FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(Why::Refused("links to a directory or to a removed name"));
        }
        let parent = self.parent_of(place)?;
        let name = os(place.name());
        self.over(&parent, name, || {
            fs::linkat(&target_parent, os(target.name()), &parent, name, AtFlags::empty())
        })
    }

    fn symlink(&mut self, place: &Place, entry: &Entry, owner: Owner) -> Result<(), Why> {
        if entry.link.is_empty() || entry.link.contains(&0) || entry.link.len() > MAX_PATH {
            return Err(Why::Refused("is a symbolic link with an unusable target"));
        }
        let parent = self.parent_of(place)?;
        let name = os(place.name());
        self.over(&parent, name, || fs::symlinkat(os(&entry.link), &parent, name))?;
        metadata::name_metadata(&parent, name, owner, entry.mtime)?;
        self.facts.dropped += entry.xattrs.len() as u64;
        self.count(0);
        Ok(())
    }

    fn node(&mut self, place: &Place, entry: &Entry, owner: Owner) -> Result<(), Why> {
        let (kind, device) = match entry.kind {
            Kind::Fifo => (FileType::Fifo, 0),
            Kind::Block => (FileType::BlockDevice, metadata::device(entry.device)?),
            Kind::Character | Kind::File | Kind::HardLink | Kind::Symlink | Kind::Directory => {
                (FileType::CharacterDevice, metadata::device(entry.device)?)
            }
        };
        if entry.kind == Kind::Character && device == 0 {
            // overlayfs would take it for a whiteout; only `.wh.` names make those.
            self.facts.dropped += 1;
            return Ok(());
        }
        let parent = self.parent_of(place)?;
        let name = os(place.name());
        let mode = Mode::from_raw_mode(entry.mode);
        self.over(&parent, name, || fs::mknodat(&parent, name, kind, mode, device))?;
        metadata::name_metadata(&parent, name, owner, entry.mtime)?;
        self.facts.dropped += entry.xattrs.len() as u64;
        self.count(0);
        Ok(())
    }

    /// A `.wh.` name: what it hides is in lower layers, so what this layer has of that name stays.
    fn whiteout(&mut self, place: &Place) -> Result<(), Why> {
        if place.name() == OPAQUE {
            if place.parent().is_empty() {
                self.facts.opaque_root = true;
                return Ok(());
            }
            drop(self.parent_of(place)?);
            return self.mark_opaque(place.parent().to_vec());
        }
        if place.name().starts_with(AUFS) {
            self.facts.dropped += 1;
            return Ok(());
        }
        let hidden = &place.name()[WHITEOUT.len()..];
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Why::Refused("removes no name, or the layer's root"));
        }
        let parent = self.parent_of(place)?;
        match fs::mknodat(&parent, os(hidden), FileType::CharacterDevice, Mode::empty(), 0) {
            Ok(()) => self.count(0),
            Err(Errno::EXIST) => {
                let stat = fs::statat(&parent, os(hidden), AtFlags::SYMLINK_NOFOLLOW)?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    self.mark_opaque(place.sibling(hidden))?;
                }
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn mark_opaque(&mut self, path: Vec<u8>) -> Result<(), Why> {
        self.opaque.insert(path);
        if self.opaque.len() > MAX_OPAQUE { Err(Why::TooMany("200 000 opaque directories")) } else { Ok(()) }
    }

    /// Makes a name by `make`; what this layer had there before is removed first.
    fn over<T>(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        make: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, Why> {
        match make() {
            Err(Errno::EXIST) => {
                self.clear(parent, name)?;
                Ok(make()?)
            }
            done => Ok(done?),
        }
    }

    fn clear(&mut self, parent: &OwnedFd, name: &OsStr) -> Result<(), Why> {
        self.parent = None;
        Ok(sys::tree::remove(parent, name)?)
    }

    /// The directory that a member goes into, made with mode 0755 where it is missing.
    fn parent_of(&mut self, place: &Place) -> Result<OwnedFd, Why> {
        if let Some((_, dir)) = self.parent.as_ref().filter(|(path, _)| path == place.parent()) {
            return Ok(dir.try_clone().map_err(|_| Errno::MFILE)?);
        }
        let dir = self.make_dirs(place.parent())?;
        let copy = dir.try_clone().map_err(|_| Errno::MFILE)?;
        self.parent = Some((place.parent().to_vec(), dir));
        Ok(copy)
    }

    fn make_dirs(&mut self, path: &[u8]) -> Result<OwnedFd, Why> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match self.root.resolve(os(path), flags) {
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            done => return Ok(done?),
        }
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        let mut above = self.root.resolve(".", flags)?;
        for end in ends.chain([path.len()]) {
            let upto = &path[..end];
            above = match self.root.resolve(os(upto), flags) {
                Ok(dir) => dir,
                Err(Errno::NOENT) => {
                    self.count(DISK_BLOCK);
                    self.implied.insert(upto.to_vec());
                    self.root.make_dir(Path::new(os(upto)), Mode::from_raw_mode(0o755))?
                }
                Err(Errno::NOTDIR) => self.uncover(&above, upto)?,
                Err(error) => return Err(error.into()),
            };
        }
        Ok(above)
    }

    /// A parent was removed by a whiteout of this layer and comes back as a directory: a new, opaque one.
    fn uncover(&mut self, above: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Why> {
        let name = os(path.rsplit(|byte| *byte == b'/').next().unwrap_or_default());
        let stat = fs::statat(above, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if !is_whiteout(&stat) {
            return Err(Why::Refused("has a parent that is not a directory"));
        }
        fs::unlinkat(above, name, AtFlags::empty())?;
        fs::mkdirat(above, name, Mode::from_raw_mode(0o755))?;
        self.mark_opaque(path.to_vec())?;
        Ok(self.root.resolve(os(path), OFlags::PATH | OFlags::DIRECTORY)?)
    }

    fn attributes(&mut self, file: impl AsFd, entry: &Entry) -> Result<(), Why> {
        for (name, value) in &entry.xattrs {
            if !metadata::set_attribute(file.as_fd(), name, value)? {
                self.facts.dropped += 1;
            }
        }
        Ok(())
    }

    fn count(&mut self, disk: u64) {
        self.facts.inodes += 1;
        self.facts.disk += disk;
    }
}

/// overlayfs takes a character device 0/0 for "not there".
fn is_whiteout(stat: &fs::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn write_all(file: &OwnedFd, mut piece: &[u8]) -> std::io::Result<()> {
    while !piece.is_empty() {
        let written = sys::rustix::io::retry_on_intr(|| sys::rustix::io::write(file, piece))?;
        piece = &piece[written..];
    }
    Ok(())
}

fn system(name: &[u8], source: Errno) -> ApplyError {
    ApplyError::System { name: name.to_vec(), source }
}

/// An [`ApplyError`] whose member is not named yet.
#[derive(Debug)]
pub(super) enum Why {
    Refused(&'static str),
    System(Errno),
    TooMany(&'static str),
}

impl Why {
    fn named(self, name: &[u8]) -> ApplyError {
        match self {
            Why::Refused(why) => ApplyError::Refused { name: name.to_vec(), why },
            Why::System(source) => system(name, source),
            Why::TooMany(what) => ApplyError::TooMany(what),
        }
    }
}

impl From<Errno> for Why {
    fn from(error: Errno) -> Self {
        Why::System(error)
    }
}

#[cfg(test)]
mod tests;
