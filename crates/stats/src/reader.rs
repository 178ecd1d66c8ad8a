//! The daemon's reader: remembers the last look at each container, for rates and for what is dear.

use crate::{ContainerStats, DirectoryUsage, StatsError, disk};
use cgroup::{Cgroup, CgroupPath, Mounts};
use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};
use types::Timestamp;

/// How long a look at a writable layer is good enough: the kubelet asks every 10 s, and a walk over a
/// million files takes seconds.
const LAYER_AGE: Duration = Duration::from_secs(10);
/// Two looks at the CPU time that are closer give no rate.
const RATE_OVER: Duration = Duration::from_millis(100);
/// Containers that were not looked at for so long are forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(600);
/// At this number those are looked for.
const MANY: usize = 1024;

/// Which container.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its group, absolute from the hierarchies' roots.
    pub cgroup: &'a str,
    /// The directory that takes what it writes into its root file system.
    pub writable_layer: Option<&'a Path>,
}

/// Reads the numbers of containers. Cheap to clone; all clones share what was seen before. It blocks.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    mounts: OnceLock<Mounts>,
    seen: Mutex<HashMap<String, Seen>>,
}

/// The last look at a container.
#[derive(Clone, Debug)]
struct Seen {
    at: Instant,
    /// CPU nanoseconds and when they were read, and the rate then.
    cpu: Option<(Instant, u64)>,
    rate: Option<u64>,
    layer: Option<(Instant, Timestamp, DirectoryUsage)>,
}

impl Reader {
    /// A reader that has seen nothing yet.
    #[must_use]
    pub fn new() -> Reader {
        Reader::default()
    }

    /// The numbers of a container; `now` is what the answer is dated with.
    ///
    /// # Errors
    /// [`StatsError`]; [`StatsError::is_gone`] tells whether the group is not there any more. A
    /// writable layer that cannot be read is left out.
    pub fn container(&self, target: &Target<'_>, now: Timestamp) -> Result<ContainerStats, StatsError> {
        let path = CgroupPath::parse(target.cgroup)?;
        let group = Cgroup::at(self.mounts()?, &path).stats()?;
        let mut stats = ContainerStats::from_group(&group, now);
        let at = Instant::now();

        // Not held during the walk: one large container must not keep the others waiting.
        let mut seen = self.seen(target.id, at);
        seen.at = at;
        if let Some(used) = stats.cpu.usage_core_nanos {
            match seen.cpu {
                Some((before, _)) if at.saturating_duration_since(before) < RATE_OVER => {}
                Some((before, old)) => {
                    seen.rate = rate(old, used, at.saturating_duration_since(before));
                    seen.cpu = Some((at, used));
                }
                None => seen.cpu = Some((at, used)),
            }
        }
        stats.cpu.usage_nano_cores = seen.rate;
        if let Some(layer) = target.writable_layer {
            let fresh = |(when, ..): &(Instant, Timestamp, DirectoryUsage)| {
                at.saturating_duration_since(*when) < LAYER_AGE
            };
            if !seen.layer.as_ref().is_some_and(fresh) {
                seen.layer = disk::directory(layer).ok().map(|usage| (at, now, usage));
            }
            stats.writable_layer = seen.layer.map(|(_, when, usage)| (when, usage));
        }
        self.remember(target.id, seen, at);
        Ok(stats)
    }

    /// Forgets a container that was removed.
    pub fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    fn mounts(&self) -> Result<&Mounts, StatsError> {
        if let Some(mounts) = self.shared.mounts.get() {
            return Ok(mounts);
        }
        let mounts = Mounts::detect()?;
        Ok(self.shared.mounts.get_or_init(|| mounts))
    }

    fn seen(&self, id: &str, at: Instant) -> Seen {
        let never = Seen { at, cpu: None, rate: None, layer: None };
        self.lock().get(id).cloned().unwrap_or(never)
    }

    fn remember(&self, id: &str, seen: Seen, at: Instant) {
        let mut all = self.lock();
        if all.len() >= MANY {
            all.retain(|_, seen| at.saturating_duration_since(seen.at) < FORGET_AFTER);
        }
        all.insert(id.to_owned(), seen);
    }

    /// What was seen is replaced whole, so that a panic elsewhere has not left it half-written.
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Seen>> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nanoseconds in each second, from two looks.
pub(crate) fn rate(before: u64, after: u64, time: Duration) -> Option<u64> {
    let used = u128::from(after.checked_sub(before)?);
    let per_second = used.checked_mul(1_000_000_000)?.checked_div(time.as_nanos())?;
    u64::try_from(per_second).ok()
}
