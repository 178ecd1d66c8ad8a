//! A daemon of one's own for a test: its directories, its network namespace, its images; and the
//! CRI's calls in words short enough that a test reads as a story.
//!
//! The daemon is `peapod` from the build directory in which the test runs (`cargo build --workspace`
//! puts it there), or `$PEAPOD_BIN`. It runs inside a network namespace made for the test, so that
//! its bridge, its addresses and its nft rules never touch the machine's.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "a test waits, and looks at paths that it made itself")]

mod call;
mod daemon;
mod image;
pub mod leaks;
pub mod registry;

pub use call::{Client, container, pod, shell};
pub use daemon::{Daemon, binary};
pub use image::{BUSYBOX, archive_of_traps, archive_with_labels, busybox_archive};

/// Runs a test's story on a small runtime.
///
/// # Panics
/// When the runtime cannot be made, or the story panics.
pub fn story<F: Future<Output = ()>>(story: F) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(story);
}

/// Asks again until the answer is there, for at most ten seconds.
///
/// # Panics
/// With `what` when it never came.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    for _ in 0..1000 {
        if let Some(answer) = ask().await {
            return answer;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("waited ten seconds in vain for: {what}");
}
