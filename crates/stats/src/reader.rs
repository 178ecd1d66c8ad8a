//! The daemon's reader: remembers the last look at each container, for rates and for what is dear.

use crate::{
    ContainerStats, DirectoryUsage, PodStats, StatsError, disk,
    metrics::{Disk, Facts, Figures, Machine},
    process,
};
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
/// The longest that a look is good, however long it took.
const LONGEST_AGE: Duration = Duration::from_secs(300);
/// Part of the time that walks over one layer may take.
const ONE_IN: u32 = 100;
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
    machine: OnceLock<Machine>,
    seen: Mutex<HashMap<String, Seen>>,
}

/// The last look at a container.
#[derive(Clone, Debug)]
struct Seen {
    at: Instant,
    /// CPU nanoseconds and when they were read, and the rate then.
    cpu: Option<(Instant, u64)>,
    rate: Option<u64>,
    layer: Option<Look>,
}

/// A look at a writable layer.
#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    took: Duration,
    when: Timestamp,
    usage: DirectoryUsage,
}

impl Look {
    /// A walk that took long is not done again soon: all walks over a layer together take one part in
    /// [`ONE_IN`] of the time.
    fn is_good(&self, at: Instant) -> bool {
        let age = (self.took * ONE_IN).clamp(LAYER_AGE, LONGEST_AGE);
        at.saturating_duration_since(self.at) < age
    }
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
        let group = self.group(target.cgroup)?;
        let mut stats = ContainerStats::from_group(&group.stats()?, now);
        stats.cpu.usage_nano_cores = self.rate(target.id, stats.cpu.usage_core_nanos);
        stats.writable_layer = target.writable_layer.and_then(|layer| self.layer(target.id, layer, now));
        Ok(stats)
    }

    /// The numbers of a pod, by its id and its group.
    ///
    /// # Errors
    /// [`StatsError`]; [`StatsError::is_gone`] tells whether the group is not there any more.
    pub fn pod(&self, id: &str, cgroup: &str, now: Timestamp) -> Result<PodStats, StatsError> {
        let group = self.group(cgroup)?;
        let mut stats = ContainerStats::from_group(&group.stats()?, now);
        stats.cpu.usage_nano_cores = self.rate(id, stats.cpu.usage_core_nanos);
        let processes = group.processes().ok().and_then(|pids| u64::try_from(pids.len()).ok());
        Ok(PodStats::of(stats, processes))
    }

    /// All that metrics of a container are made of. What cannot be read is left out.
    ///
    /// # Errors
    /// [`StatsError`] if its group cannot be read.
    pub fn figures(&self, target: &Target<'_>, facts: Facts, now: Timestamp) -> Result<Figures, StatsError> {
        let group = self.group(target.cgroup)?;
        let stats = group.stats()?;
        let machine = self.machine()?;
        let disk = target.writable_layer.and_then(|layer| {
            let space = disk::filesystem(layer).ok()?;
            let device = disk::device_of(layer)?;
            let used = self.layer(target.id, layer, now).map(|(_, usage)| usage.bytes);
            Some(Disk { device, space, used })
        });
        Ok(Figures {
            details: group.details(&machine.huge_page_sizes).unwrap_or_default(),
            processes: group.processes().map(|pids| process::processes(&pids)).ok(),
            stats,
            disk,
            facts,
            now,
        })
    }

    /// What this machine can tell at all.
    ///
    /// # Errors
    /// [`StatsError`] without control groups.
    pub fn machine(&self) -> Result<&Machine, StatsError> {
        if let Some(machine) = self.shared.machine.get() {
            return Ok(machine);
        }
        let machine = Machine::detect(self.mounts()?);
        Ok(self.shared.machine.get_or_init(|| machine))
    }

    fn group(&self, cgroup: &str) -> Result<Cgroup, StatsError> {
        Ok(Cgroup::at(self.mounts()?, &CgroupPath::parse(cgroup)?))
    }

    /// CPU nanoseconds in each second since the last look.
    fn rate(&self, id: &str, used: Option<u64>) -> Option<u64> {
        let at = Instant::now();
        self.with(id, at, |seen| {
            if let Some(used) = used {
                match seen.cpu {
                    Some((before, _)) if at.saturating_duration_since(before) < RATE_OVER => {}
                    Some((before, old)) => {
                        seen.rate = rate(old, used, at.saturating_duration_since(before));
                        seen.cpu = Some((at, used));
                    }
                    None => seen.cpu = Some((at, used)),
                }
            }
            seen.rate
        })
    }

    /// A look at a writable layer that is good enough, or a new one.
    fn layer(&self, id: &str, layer: &Path, now: Timestamp) -> Option<(Timestamp, DirectoryUsage)> {
        let at = Instant::now();
        let last = self.with(id, at, |seen| seen.layer);
        let look = match last.filter(|look| look.is_good(at)) {
            Some(look) => Some(look),
            // Nothing is held during the walk: one large container must not keep the others waiting.
            None => {
                let usage = disk::directory(layer).ok();
                usage.map(|usage| Look { at, took: at.elapsed(), when: now, usage })
            }
        };
        self.with(id, at, |seen| seen.layer = look);
        look.map(|look| (look.when, look.usage))
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

    fn with<T>(&self, id: &str, at: Instant, work: impl FnOnce(&mut Seen) -> T) -> T {
        let mut all = self.lock();
        if all.len() >= MANY && !all.contains_key(id) {
            all.retain(|_, seen| at.saturating_duration_since(seen.at) < FORGET_AFTER);
        }
        let seen =
            all.entry(id.to_owned()).or_insert_with(|| Seen { at, cpu: None, rate: None, layer: None });
        seen.at = at;
        work(seen)
    }

    /// What was seen is whole after each statement, so that a panic elsewhere has left nothing half-done.
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
