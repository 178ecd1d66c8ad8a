//! A container's log file: opened beneath its directory, appended to, opened anew when the kubelet
//! renamed it. When it cannot be written (a full disk, a dying one) its bytes wait here, the
//! container's pipes are not read meanwhile, and the write is tried again: nothing is dropped.

use std::io;
use std::path::{Path, PathBuf};
use sys::rustix::fd::{AsFd as _, OwnedFd};
use sys::rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, ftruncate, open, openat2};
use sys::rustix::io::Errno;

/// Why a log file cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// The directory is not there or is none.
    #[error("open the log directory {}", .path.display())]
    Directory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The file cannot be opened beneath it without following a symlink.
    #[error("open the log file {} beneath {}", .path.display(), .directory.display())]
    File {
        directory: PathBuf,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A FIFO, a device, a directory, ...
    #[error("the log file {} beneath {} is not a regular file", .path.display(), .directory.display())]
    NotRegular { directory: PathBuf, path: PathBuf },
}

/// Bytes that wait to be written.
#[derive(Debug)]
struct Waiting {
    /// Whole records.
    bytes: Vec<u8>,
    /// So many of them are in the file.
    written: usize,
    /// Why they wait.
    reason: Errno,
}

/// An open log.
#[derive(Debug)]
pub(crate) struct LogFile {
    directory: PathBuf,
    path: PathBuf,
    file: OwnedFd,
    waiting: Option<Waiting>,
}

impl LogFile {
    /// Opens or creates the file (mode 0640) at its end.
    pub(crate) fn open(directory: &Path, path: &Path) -> Result<Self, LogError> {
        let file = open_file(directory, path)?;
        Ok(Self { directory: directory.to_owned(), path: path.to_owned(), file, waiting: None })
    }

    /// Opens the file anew at its path. What waits goes to the new file, from the start of its first
    /// record that the old one does not have whole.
    pub(crate) fn reopen(&mut self) -> Result<(), LogError> {
        let file = open_file(&self.directory, &self.path)?;
        if let Some(waiting) = &mut self.waiting {
            let whole =
                waiting.bytes[..waiting.written].iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
            // The old file should not end inside a record; that it may is all that an error means.
            let torn = u64::try_from(waiting.written - whole).unwrap_or(0);
            if let Ok(size) = fstat(&self.file).map(|stat| stat.st_size.unsigned_abs()) {
                let _ = ftruncate(&self.file, size.saturating_sub(torn));
            }
            waiting.written = whole;
        }
        self.file = file;
        self.retry();
        Ok(())
    }

    /// Writes whole records. Those that the file does not take wait, and no more may be brought
    /// before [`Self::retry`] got rid of them.
    pub(crate) fn append(&mut self, records: &[u8]) {
        debug_assert!(self.waiting.is_none(), "the caller stops at the first failure");
        let (written, failure) = write_all(&self.file, records);
        if let Some(reason) = failure {
            self.waiting = Some(Waiting { bytes: records.to_vec(), written, reason });
        }
    }

    /// Tries to write what waits; true when nothing waits any longer.
    pub(crate) fn retry(&mut self) -> bool {
        if let Some(waiting) = &mut self.waiting {
            let (written, failure) = write_all(&self.file, &waiting.bytes[waiting.written..]);
            waiting.written += written;
            match failure {
                Some(reason) => waiting.reason = reason,
                None => self.waiting = None,
            }
        }
        self.waiting.is_none()
    }

    /// A log whose disk is full until it is reopened.
    #[cfg(test)]
    pub(crate) fn onto_full_disk(directory: &Path, path: &Path) -> Self {
        let file = open("/dev/full", OFlags::WRONLY, Mode::empty()).expect("/dev/full");
        Self { directory: directory.to_owned(), path: path.to_owned(), file, waiting: None }
    }

    /// Whether records wait.
    pub(crate) fn is_stuck(&self) -> bool {
        self.waiting.is_some()
    }

    /// Why records wait, for people; empty when none does.
    pub(crate) fn trouble(&self) -> String {
        let Some(waiting) = &self.waiting else { return String::new() };
        let reason = io::Error::from(waiting.reason);
        format!(
            "output waits: write the log file {} beneath {}: {reason}",
            self.path.display(),
            self.directory.display()
        )
    }
}

/// Writes until all is written or an error comes; gives the count and the error.
fn write_all(file: &OwnedFd, bytes: &[u8]) -> (usize, Option<Errno>) {
    let mut written = 0;
    while written < bytes.len() {
        match sys::rustix::io::write(file, &bytes[written..]) {
            Ok(0) => return (written, Some(Errno::IO)),
            Ok(count) => written += count,
            Err(Errno::INTR) => {}
            Err(e) => return (written, Some(e)),
        }
    }
    (written, None)
}

/// How often a name look-up that raced with a rename (EAGAIN, openat2(2)) is tried again.
const RACES: u32 = 8;

fn open_file(directory: &Path, path: &Path) -> Result<OwnedFd, LogError> {
    let root = open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| LogError::Directory { path: directory.to_owned(), source: e.into() })?;
    // NONBLOCK and NOCTTY: a FIFO or a terminal planted there must neither hang nor capture us.
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC;
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let mut tries = 0;
    let file = loop {
        match openat2(root.as_fd(), path, flags, Mode::from_raw_mode(0o640), resolve) {
            Err(Errno::AGAIN) if tries < RACES => tries += 1,
            other => break other,
        }
    };
    let names = || (directory.to_owned(), path.to_owned());
    let file = file.map_err(|e| {
        let (directory, path) = names();
        LogError::File { directory, path, source: e.into() }
    })?;
    match fstat(&file) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => Ok(file),
        Ok(_) => {
            let (directory, path) = names();
            Err(LogError::NotRegular { directory, path })
        }
        Err(e) => {
            let (directory, path) = names();
            Err(LogError::File { directory, path, source: e.into() })
        }
    }
}

/// /dev/null, read and write.
pub(crate) fn null() -> io::Result<OwnedFd> {
    Ok(sys::rustix::fs::openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Directory;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use sys::rustix::fs::mkfifoat;
    use sys::rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

    fn read(directory: &Path, name: &str) -> String {
        std::fs::read_to_string(directory.join(name)).expect("log")
    }

    #[test]
    fn a_log_is_appended_to_and_reopened_after_a_rename() {
        let directory = Directory::new();
        let mut log = LogFile::open(&directory.0, Path::new("0.log")).expect("open");
        log.append(b"one\n");
        std::fs::rename(directory.0.join("0.log"), directory.0.join("0.log.1")).expect("rename");
        log.append(b"two\n");
        log.reopen().expect("reopen");
        log.append(b"three\n");
        assert_eq!(read(&directory.0, "0.log.1"), "one\ntwo\n");
        assert_eq!(read(&directory.0, "0.log"), "three\n");
        let mode = std::fs::metadata(directory.0.join("0.log")).expect("stat").permissions().mode();
        assert_eq!(mode & 0o777 & !0o640, 0);
        drop(LogFile::open(&directory.0, Path::new("0.log")).expect("again"));
        assert_eq!(read(&directory.0, "0.log"), "three\n", "an existing log is kept");
    }

    #[test]
    fn nothing_outside_the_directory_and_nothing_but_a_file_is_opened() {
        let directory = Directory::new();
        let canary = Directory::new();
        let root = directory.0.as_path();
        symlink(canary.0.join("x"), root.join("link")).expect("symlink");
        symlink(&canary.0, root.join("linked")).expect("symlink");
        std::fs::create_dir(root.join("directory")).expect("mkdir");
        mkfifoat(CWD, root.join("fifo"), Mode::from_raw_mode(0o600)).expect("mkfifo");
        let outside = format!("../{}/x", canary.0.file_name().expect("name").display());
        let absolute = canary.0.join("x");
        let bad = [
            &outside,
            "/x",
            absolute.to_str().expect("utf-8"),
            "link",
            "linked/x",
            "directory",
            "fifo",
            "",
            "missing/x",
            "..",
            "a\0b",
        ];
        for path in bad {
            assert!(LogFile::open(root, Path::new(path)).is_err(), "{path:?} was opened");
        }
        // With a reader the FIFO opens, and is still not a log.
        let reader =
            open(root.join("fifo"), OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).expect("reader");
        assert!(matches!(LogFile::open(root, Path::new("fifo")), Err(LogError::NotRegular { .. })));
        drop(reader);
        assert_eq!(std::fs::read_dir(&canary.0).expect("list").count(), 0);
        let gone = root.join("gone");
        assert!(matches!(LogFile::open(&gone, Path::new("x")), Err(LogError::Directory { .. })));
    }

    /// A tmpfs of 16 KiB, unmounted at the end.
    struct Small(Directory);

    impl Small {
        fn new() -> Self {
            let directory = Directory::new();
            mount("peapod-test", &directory.0, "tmpfs", MountFlags::empty(), Some(c"size=16384"))
                .expect("mount tmpfs");
            Self(directory)
        }
    }

    impl Drop for Small {
        fn drop(&mut self) {
            unmount(&self.0.0, UnmountFlags::DETACH).expect("unmount");
        }
    }

    #[test]
    fn a_full_disk_delays_records_and_drops_none() {
        let disk = Small::new();
        let root = disk.0.0.as_path();
        let mut log = LogFile::open(root, Path::new("0.log")).expect("open");
        let ballast = root.join("ballast");
        std::fs::File::create(&ballast).and_then(|f| f.set_len(0)).expect("create");
        let filler = std::fs::OpenOptions::new().append(true).open(&ballast).expect("open");
        let full = write_all(&filler.into(), &[0; 12 << 10]);
        assert_eq!(full, (12 << 10, None));
        let records = [vec![b'a'; 3000], b"\n".to_vec(), vec![b'b'; 3000], b"\n".to_vec()].concat();
        log.append(&records);
        assert!(log.is_stuck() && log.trouble().contains("No space left"), "{}", log.trouble());
        assert!(!log.retry());
        std::fs::remove_file(&ballast).expect("remove");
        assert!(log.retry() && log.trouble().is_empty());
        assert_eq!(read(root, "0.log").as_bytes(), records);
    }

    #[test]
    fn a_log_that_is_rotated_on_a_full_disk_has_no_torn_record() {
        let disk = Small::new();
        let root = disk.0.0.as_path();
        let mut log = LogFile::open(root, Path::new("0.log")).expect("open");
        let line = |byte: u8| [vec![byte; 5999], b"\n".to_vec()].concat();
        let records = [line(b'a'), line(b'b'), line(b'c')].concat();
        log.append(&records);
        assert!(log.is_stuck());
        // Elsewhere there is room: the directory is on the same disk, so room is made by a rename out.
        let saved = std::fs::read(root.join("0.log")).expect("read");
        assert_eq!(saved.len(), 16 << 10, "the third record is torn");
        std::fs::rename(root.join("0.log"), root.join("0.log.1")).expect("rename");
        log.reopen().expect("reopen");
        assert_eq!(read(root, "0.log.1").as_bytes(), [line(b'a'), line(b'b')].concat());
        std::fs::remove_file(root.join("0.log.1")).expect("remove");
        assert!(log.retry());
        assert_eq!(read(root, "0.log").as_bytes(), line(b'c'));
    }
}
