//! Time as the CRI tells it, and the seam through which tests give their own.

use serde::{Deserialize, Serialize};

/// Nanoseconds since the Unix epoch, as in every CRI timestamp. Zero means "not yet".
///
/// It is for showing only: nothing orders or times out by the wall clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The moment that has not come.
    pub const NEVER: Timestamp = Timestamp(0);
}

/// Where the wall-clock time comes from.
pub trait Clock: Send + Sync {
    /// The present moment.
    fn now(&self) -> Timestamp;
}

/// The machine's own clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        // A machine whose clock stands before 1970 still runs pods (it is shown as "never").
        Timestamp(since.ok().and_then(|d| i64::try_from(d.as_nanos()).ok()).unwrap_or(0))
    }
}
