//! The exit record of a container, on disk before anybody is told: whoever reads the file sees a
//! whole record or none.

use prost::Message as _;
use std::io;
use std::path::Path;
use sys::rustix::fs::Mode;
use types::shim::{EXIT_FILE, ExitRecord};

/// Writes `record` into the directory `bundle`: a new file, synced, renamed into place, the directory
/// synced.
///
/// # Errors
/// What the file system says; an older record then stands.
pub(crate) fn write(bundle: &Path, record: &ExitRecord) -> io::Result<()> {
    sys::file::replace_path(&bundle.join(EXIT_FILE), &record.encode_to_vec(), Mode::from_raw_mode(0o600))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Directory;

    #[test]
    fn a_record_is_read_back_and_leaves_no_other_file() {
        let directory = Directory::new();
        let record =
            ExitRecord { container_id: "c".to_owned(), code: 137, sequence: 2, ..ExitRecord::default() };
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
