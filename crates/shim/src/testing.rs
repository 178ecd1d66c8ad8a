//! What this crate's tests share.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// An empty directory, removed at the end.
#[derive(Debug)]
pub(crate) struct Directory(pub(crate) PathBuf);

impl Directory {
    /// A new one.
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("peapod-test-shim-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).expect("create a directory of our own");
        Self(path)
    }
}

impl Drop for Directory {
    #[expect(clippy::disallowed_methods, reason = "a directory of this test alone, with no mount in it")]
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
