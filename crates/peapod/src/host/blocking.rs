//! Work that may wait for the disk or the kernel, away from the two workers of the runtime, and the
//! errors of rooms as the engine's.

use engine::host::{Fault, HostError};
use std::error::Error;

/// Runs `work` on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(
    doing: &'static str,
    work: impl FnOnce() -> Result<T, HostError> + Send + 'static,
) -> Result<T, HostError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(ended) => Err(HostError::because(doing, Fault::Internal, ended)),
    }
}

/// An error without a meaning of its own for the caller: told with its cause, and by errno where the
/// machine is at its bounds.
pub(super) fn failed<E: Error + Send + Sync + 'static>(
    doing: impl Into<String>,
) -> impl FnOnce(E) -> HostError {
    let doing = doing.into();
    move |error| {
        let fault = if is_exhaustion(&error) { Fault::Exhausted } else { Fault::Internal };
        HostError::because(doing, fault, error)
    }
}

/// Whether somewhere in the chain the kernel said that there is no room left.
fn is_exhaustion(error: &(dyn Error + 'static)) -> bool {
    use sys::rustix::io::Errno;
    const BOUNDS: [Errno; 7] =
        [Errno::NOSPC, Errno::DQUOT, Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN, Errno::USERS];
    let mut next = Some(error);
    while let Some(error) = next {
        let errno = error
            .downcast_ref::<Errno>()
            .copied()
            .or_else(|| error.downcast_ref::<std::io::Error>().and_then(Errno::from_io_error));
        if errno.is_some_and(|errno| BOUNDS.contains(&errno)) {
            return true;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_as_a_bound_and_a_missing_file_is_not() {
        let fault = |code| failed("writing")(std::io::Error::from_raw_os_error(code)).fault;
        assert_eq!(fault(28), Fault::Exhausted);
        assert_eq!(fault(2), Fault::Internal);
    }
}
