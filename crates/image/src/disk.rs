//! `layers/`: one directory a layer, named by a number that is never used twice. Without a record a
//! directory is garbage, whoever left it.

use crate::error::ImageError;
use std::{
    collections::HashSet,
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use sys::rustix::{
    fd::OwnedFd,
    fs::{self, AtFlags, Dir, FileType, FlockOperation, Mode, OFlags},
    io::{Errno, retry_on_intr},
};
use tokio::sync::watch;

/// The place of all layers.
#[derive(Debug)]
pub(crate) struct LayersDir {
    path: PathBuf,
    fd: OwnedFd,
    next: AtomicU64,
    /// How many [`Busy`] there are.
    busy: watch::Sender<usize>,
}

impl LayersDir {
    /// Opens or makes `root/layers`, closed to other users: set-id files of images are nobody's to run.
    pub(crate) fn open(root: &Path) -> Result<Self, ImageError> {
        let path = root.join("layers");
        match fs::mkdir(&path, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(ImageError::disk("make the directory of layers")(error)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = fs::open(&path, flags, Mode::empty())
            .map_err(ImageError::disk("open the directory of layers"))?;
        fs::fchmod(&fd, Mode::from_raw_mode(0o700))
            .map_err(ImageError::disk("close the directory of layers to others"))?;
        Ok(Self { path, fd, next: AtomicU64::new(1), busy: watch::channel(0).0 })
    }

    /// Where a layer's files are.
    pub(crate) fn path(&self, number: u64) -> PathBuf {
        self.path.join(number.to_string())
    }

    pub(crate) fn root(&self) -> &Path {
        &self.path
    }

    pub(crate) fn has(&self, number: u64) -> Result<bool, ImageError> {
        match fs::statat(&self.fd, number.to_string(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(ImageError::disk("look for a layer")(error)),
        }
    }

    /// All names but those of recorded layers; numbers go on above the highest.
    pub(crate) fn garbage(&self, recorded: &HashSet<u64>) -> Result<Vec<OsString>, ImageError> {
        let list = ImageError::disk;
        let mut highest = recorded.iter().copied().max().unwrap_or(0);
        let mut garbage = Vec::new();
        for entry in Dir::read_from(&self.fd).map_err(list("list the layers"))? {
            let entry = entry.map_err(list("list the layers"))?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let number = std::str::from_utf8(name).ok().and_then(|text| text.parse::<u64>().ok());
            highest = highest.max(number.unwrap_or(0));
            if !number.is_some_and(|number| recorded.contains(&number)) {
                garbage.push(OsStr::from_bytes(name).to_owned());
            }
        }
        self.next.fetch_max(highest.saturating_add(1), Ordering::Relaxed);
        Ok(garbage)
    }

    /// A file without a name, on the disk of the layers.
    pub(crate) fn spool_file(&self) -> std::io::Result<std::fs::File> {
        let (flags, mode) = (OFlags::RDWR | OFlags::CLOEXEC, Mode::from_raw_mode(0o600));
        match fs::openat(&self.fd, ".", flags | OFlags::TMPFILE, mode) {
            Err(Errno::OPNOTSUPP | Errno::ISDIR) => {}
            done => return Ok(done?.into()),
        }
        // A file system without O_TMPFILE. A crash in between leaves a name that the next start sweeps.
        let name = format!("spool-{}", self.next.fetch_add(1, Ordering::Relaxed));
        let file =
            fs::openat(&self.fd, &name, flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW, mode)?;
        fs::unlinkat(&self.fd, &name, AtFlags::empty())?;
        Ok(file.into())
    }

    /// Makes an empty directory for a layer; it is removed again unless it is kept.
    pub(crate) fn make(self: &Arc<Self>) -> Result<(NewDir, OwnedFd), ImageError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let name = number.to_string();
        fs::mkdirat(&self.fd, &name, Mode::from_raw_mode(0o755))
            .map_err(ImageError::disk("make a layer's directory"))?;
        let new = NewDir { busy: self.busy(), number, kept: false };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = fs::openat(&self.fd, &name, flags, Mode::empty())
            .map_err(ImageError::disk("open a layer's directory"))?;
        Ok((new, fd))
    }

    /// Removes in the background what [`LayersDir::garbage`] found, when whoever is still at work there
    /// (the child of a daemon that was killed) has ended.
    pub(crate) fn sweep(self: &Arc<Self>, garbage: Vec<OsString>) {
        let (layers, names) = (Arc::clone(self), garbage.clone());
        self.remove(garbage, move || {
            for name in names {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                // What is no directory has nobody in it.
                let Ok(dir) = fs::openat(&layers.fd, &name, flags, Mode::empty()) else { continue };
                let locked = retry_on_intr(|| fs::flock(&dir, FlockOperation::LockExclusive));
                if let Err(error) = locked {
                    tracing::warn!(layer = ?name, %error, "cannot wait for a half-done layer's child");
                }
            }
        });
    }

    /// Removes directories in the background, after `before` has run.
    pub(crate) fn remove(self: &Arc<Self>, names: Vec<OsString>, before: impl FnOnce() + Send + 'static) {
        if names.is_empty() {
            return;
        }
        let busy = self.busy();
        let work = move || {
            before();
            for name in names {
                if let Err(error) = sys::tree::remove(&busy.0.fd, &name) {
                    // The next start sweeps it.
                    tracing::warn!(layer = ?name, %error, "a layer's directory cannot be removed");
                }
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(work)),
            Err(_) => work(),
        }
    }

    /// Says that directories come and go, until it is dropped.
    pub(crate) fn busy(self: &Arc<Self>) -> Busy {
        self.busy.send_modify(|count| *count += 1);
        Busy(Arc::clone(self))
    }

    /// Waits until nobody is busy.
    pub(crate) async fn settled(&self) {
        let mut busy = self.busy.subscribe();
        // The sender is a field of `self`: it cannot be gone.
        let _ = busy.wait_for(|count| *count == 0).await;
    }
}

/// Somebody makes or removes directories of layers.
#[derive(Debug)]
pub(crate) struct Busy(Arc<LayersDir>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.send_modify(|count| *count -= 1);
    }
}

/// A directory that has no record yet.
#[derive(Debug)]
pub(crate) struct NewDir {
    busy: Busy,
    pub(crate) number: u64,
    kept: bool,
}

impl NewDir {
    /// Its record is written: it stays.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }

    /// Removes it after `before` has run.
    pub(crate) fn remove_after(mut self, before: impl FnOnce() + Send + 'static) {
        self.kept = true;
        self.busy.0.remove(vec![self.number.to_string().into()], before);
    }
}

impl Drop for NewDir {
    fn drop(&mut self) {
        if !self.kept {
            self.busy.0.remove(vec![self.number.to_string().into()], || ());
        }
    }
}
