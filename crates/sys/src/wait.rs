//! Waiting for what the kernel tells nobody of: looking again, within a bound.

use std::time::{Duration, Instant};

/// Asks until the answer is yes, with growing pauses up to 20 ms. `false` when `within` has passed.
///
/// # Errors
/// The first error of `ask`.
pub fn until<E>(within: Duration, mut ask: impl FnMut() -> Result<bool, E>) -> Result<bool, E> {
    let deadline = Instant::now() + within;
    let mut pause = Duration::from_micros(200);
    loop {
        if ask()? {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        let timespec = rustix::time::Timespec {
            tv_sec: 0,
            tv_nsec: i64::try_from(pause.as_nanos()).unwrap_or(1_000_000),
        };
        // Interrupted early is fine: it asks again.
        let _ = rustix::thread::nanosleep(&timespec);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_with_yes_with_an_error_or_with_the_bound() {
        let mut asked = 0;
        let third = until::<()>(Duration::from_secs(5), || {
            asked += 1;
            Ok(asked == 3)
        });
        assert_eq!((third, asked), (Ok(true), 3));
        assert_eq!(until(Duration::from_secs(5), || Err("no")), Err("no"));
        assert_eq!(until::<()>(Duration::ZERO, || Ok(false)), Ok(false));
    }
}
