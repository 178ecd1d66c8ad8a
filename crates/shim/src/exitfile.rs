//! The exit record of a container, on disk before anybody is told: a new file beside it, synced, and
//! renamed into place, then the directory synced. Whoever reads it sees a whole record or none.

use prost::Message as _;
use std::io;
use std::path::Path;
use sys::rustix::fs::{AtFlags, Mode, OFlags, fsync, open, openat, renameat, unlinkat};
use types::shim::{EXIT_FILE, ExitRecord};

/// Name of the file that is renamed.
const FRESH: &str = "exit.new";

/// Writes `record` into the directory `bundle`.
///
/// # Errors
/// What the file system says; the record may then be missing, but is never torn.
pub(crate) fn write(bundle: &Path, record: &ExitRecord) -> io::Result<()> {
    let directory = open(bundle, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let result = openat(&directory, FRESH, flags, Mode::from_raw_mode(0o600)).and_then(|file| {
        let bytes = record.encode_to_vec();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let count = sys::rustix::io::write(&file, rest)?;
            rest = &rest[count..];
        }
        fsync(&file)?;
        renameat(&directory, FRESH, &directory, EXIT_FILE)?;
        fsync(&directory)
    });
    if result.is_err() {
        // What is left is of no use; that it may stay is no second failure.
        let _ = unlinkat(&directory, FRESH, AtFlags::empty());
    }
    Ok(result?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Directory;

    #[test]
    fn a_record_is_read_back_and_leaves_no_other_file() {
        let directory = Directory::new();
        let record = ExitRecord { container_id: "c".to_owned(), code: 137, sequence: 2, ..ExitRecord::default() };
        write(&directory.0, &ExitRecord::default()).expect("write");
        write(&directory.0, &record).expect("replace");
        let bytes = std::fs::read(directory.0.join(EXIT_FILE)).expect("read");
        assert_eq!(ExitRecord::decode(bytes.as_slice()).expect("decode"), record);
        assert_eq!(std::fs::read_dir(&directory.0).expect("list").count(), 1);
    }

    #[test]
    fn a_missing_bundle_is_an_error() {
        let directory = Directory::new();
        assert!(write(&directory.0.join("gone"), &ExitRecord::default()).is_err());
    }
}
