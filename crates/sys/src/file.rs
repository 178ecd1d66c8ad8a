//! Files that are there whole or not at all, whenever the power goes.

use rustix::{
    fd::AsFd,
    fs::{self, AtFlags, Mode, OFlags},
    io::Errno,
};
use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Write},
    path::Path,
};

/// Puts `bytes` into `name` in `dir`: written beside it, synced, renamed over it, the directory synced.
///
/// A reader sees the old content or the new one, after a crash too. One writer for each name at a time:
/// the file beside it is `.<name>.new`, which a later call overwrites.
///
/// # Errors
/// Of the file system, ENOSPC first of all; the old content then stands. EINVAL when `name` is not one
/// plain name. An error of the sync is final: the kernel may have dropped the data.
pub fn replace(dir: impl AsFd, name: &OsStr, bytes: &[u8], mode: Mode) -> io::Result<()> {
    if !crate::root::is_plain_name(name) {
        return Err(Errno::INVAL.into());
    }
    let mut beside = OsString::from(".");
    beside.push(name);
    beside.push(".new");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let written = write_synced(File::from(fs::openat(&dir, &beside, flags, mode)?), bytes, mode);
    if let Err(error) = written.and_then(|()| Ok(fs::renameat(&dir, &beside, &dir, name)?)) {
        // The error is told; what could not be written goes if it can.
        let _ = fs::unlinkat(&dir, &beside, AtFlags::empty());
        return Err(error);
    }
    sync_dir(dir)
}

/// [`replace`] by the (trusted) path of the file.
///
/// # Errors
/// As [`replace`].
pub fn replace_path(path: &Path, bytes: &[u8], mode: Mode) -> io::Result<()> {
    let name = path.file_name().ok_or(Errno::INVAL)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let dir = fs::open(parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    replace(dir, name, bytes, mode)
}

/// Makes the names in a directory durable, also when `dir` was opened with `O_PATH`.
///
/// # Errors
/// Of open(2) and fsync(2).
pub fn sync_dir(dir: impl AsFd) -> io::Result<()> {
    match fs::fsync(&dir) {
        Err(Errno::BADF) => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            Ok(fs::fsync(fs::openat(dir, ".", flags, Mode::empty())?)?)
        }
        done => Ok(done?),
    }
}

fn write_synced(mut file: File, bytes: &[u8], mode: Mode) -> io::Result<()> {
    file.write_all(bytes)?;
    // The umask, or a file left by an earlier call, may have given it another mode.
    fs::fchmod(&file, mode)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::tests::Scratch;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_new_content_and_mode_replace_the_old_and_nothing_stays_beside() {
        let scratch = Scratch::new("file-replace");
        let path = scratch.path().join("exit");
        std::fs::File::create(scratch.path().join(".exit.new")).expect("left by a crash");
        replace_path(&path, b"one and more", Mode::from_raw_mode(0o600)).expect("first");
        replace_path(&path, b"two", Mode::from_raw_mode(0o644)).expect("second");
        assert_eq!(std::fs::read(&path).expect("read"), b"two");
        assert_eq!(std::fs::metadata(&path).expect("stat").permissions().mode() & 0o777, 0o644);
        assert_eq!(std::fs::read_dir(scratch.path()).expect("list").count(), 1);
    }

    #[test]
    fn a_link_in_the_place_of_the_file_beside_is_not_followed() {
        let scratch = Scratch::new("file-link");
        let victim = scratch.path().join("victim");
        File::create(&victim).expect("file").write_all(b"safe").expect("write");
        std::os::unix::fs::symlink(&victim, scratch.path().join(".f.new")).expect("link");
        let refused = replace_path(&scratch.path().join("f"), b"x", Mode::from_raw_mode(0o600));
        assert!(refused.is_err());
        assert_eq!(std::fs::read(&victim).expect("read"), b"safe");
    }
}
