//! How long a container that ended waits for its next start.
//!
//! The kubelet's rule: the first restart is at once, the next after 10 s, each further one after twice the
//! time, up to 5 min; a container that was not restarted for 10 min begins anew. The time is counted from
//! the container's end.

use std::time::Duration;

pub(crate) const FIRST: Duration = Duration::from_secs(10);
pub(crate) const MOST: Duration = Duration::from_secs(300);

/// One container's history. Times are since any fixed moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Backoff {
    /// What the next restart waits, and when that was decided.
    next: Option<(Duration, Duration)>,
}

impl Backoff {
    /// The moment before which a container that ended at `end` is not started again.
    pub(crate) fn until(&self, end: Duration) -> Duration {
        match self.next {
            Some((delay, since)) if !expired(since, end) => end + delay,
            Some(_) | None => end,
        }
    }

    /// It ended at `end` and is started again at `now`.
    pub(crate) fn restarted(&mut self, end: Duration, now: Duration) {
        let delay = match self.next {
            Some((delay, since)) if !expired(since, end) => (delay * 2).min(MOST),
            Some(_) | None => FIRST,
        };
        self.next = Some((delay, now));
    }
}

fn expired(since: Duration, now: Duration) -> bool {
    now.saturating_sub(since) > MOST * 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_doubles_from_10_s_to_5_min_and_the_first_restart_is_at_once() {
        let mut backoff = Backoff::default();
        let mut now = Duration::from_secs(1000);
        let mut delays = Vec::new();
        for _ in 0..8 {
            let until = backoff.until(now);
            delays.push((until - now).as_secs());
            backoff.restarted(now, until);
            // It fails as soon as it is started.
            now = until;
        }
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn a_container_that_ran_for_more_than_10_min_begins_anew() {
        let mut backoff = Backoff::default();
        let second = Duration::from_secs(1);
        backoff.restarted(second, second);
        backoff.restarted(second, second);
        assert_eq!(backoff.until(second * 602), second * 602);
        assert_eq!(backoff.until(second * 601), second * 621);
        backoff.restarted(second * 602, second * 602);
        assert_eq!(backoff.until(second * 603), second * 613);
    }
}
