//! A machine that is only remembered: a [`Host`](crate::Host) for tests.
//!
//! It owns what a real one would (directories, namespaces, addresses, groups, processes, records) as
//! a set of names, outlives the engine as the machine outlives the daemon, and fails where it is
//! told to, *after acting*: a step that failed may have been done.
//!
//! What a container does follows from the first word of its command: `forever` runs until it is
//! signalled, `stubborn` ends by SIGKILL alone, `exit` ends at once with the code in its second word,
//! `missing` cannot be executed.

mod verbs;

use crate::host::{Exit, Fault, HostError, Life};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;
use types::{ContainerId, PodId, Timestamp};

/// The one image that it has.
pub const IMAGE: &str = "registry.test/app:1";

/// The machine. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct FakeHost(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    world: Mutex<World>,
    /// Something happened to a shim.
    news: Notify,
}

#[derive(Debug, Default)]
struct World {
    owned: BTreeSet<String>,
    shims: BTreeMap<PodId, Shim>,
    /// Containers with a living process, and the pod they are in.
    alive: BTreeMap<ContainerId, PodId>,
    /// Exit files in bundles.
    recorded: BTreeMap<ContainerId, Exit>,
    steps: usize,
    fail_at: Option<usize>,
    stuck: BTreeSet<&'static str>,
    panics: BTreeSet<&'static str>,
    done: Vec<&'static str>,
    /// What is written in files of containers' groups.
    limits: BTreeMap<ContainerId, BTreeMap<String, String>>,
    next_pid: u32,
    now: i64,
}

#[derive(Debug, Default)]
struct Shim {
    pid: u32,
    pause_pid: Option<u32>,
    frozen: bool,
    containers: BTreeMap<ContainerId, Known>,
    exits: Vec<Exit>,
}

#[derive(Clone, Debug)]
struct Known {
    life: Life,
    command: Vec<String>,
}

impl FakeHost {
    /// A machine with nothing on it.
    #[must_use]
    pub fn new() -> Self {
        FakeHost::default()
    }

    /// All that is owned now, and each living process, sorted.
    #[must_use]
    pub fn owned(&self) -> Vec<String> {
        let world = self.world();
        let processes = world.alive.keys().map(|id| format!("process {}", id.short()));
        world.owned.iter().cloned().chain(processes).collect()
    }

    /// The verbs that were done so far, failed ones too.
    #[must_use]
    pub fn done(&self) -> Vec<&'static str> {
        self.world().done.clone()
    }

    /// The `n`-th changing verb from now, counted from 1, acts and then fails.
    pub fn fail_at(&self, n: usize) {
        let mut world = self.world();
        world.fail_at = Some(world.steps + n);
    }

    /// That verb fails without acting, until [`FakeHost::release`].
    pub fn stick(&self, verb: &'static str) {
        self.world().stuck.insert(verb);
    }

    /// That verb panics, until [`FakeHost::release`].
    pub fn panic_in(&self, verb: &'static str) {
        self.world().panics.insert(verb);
    }

    /// All verbs do their work again.
    pub fn release(&self) {
        let mut world = self.world();
        world.stuck.clear();
        world.panics.clear();
    }

    /// A container's process ends by itself; its shim records it, if it lives.
    pub fn exit(&self, container: &ContainerId, code: i32, oom_killed: bool) {
        self.world().end(container, code, oom_killed);
        self.0.news.notify_waiters();
    }

    /// What was last written into a file of the container's group.
    #[must_use]
    pub fn limit(&self, container: &ContainerId, file: &str) -> Option<String> {
        self.world().limits.get(container)?.get(file).cloned()
    }

    /// The pod's shim dies; its containers live on.
    pub fn kill_shim(&self, pod: &PodId) {
        let mut world = self.world();
        world.shims.remove(pod);
        world.owned.remove(&format!("shim {}", pod.short()));
        drop(world);
        self.0.news.notify_waiters();
    }

    /// The pod's shim does not answer any more, and reaps nothing.
    pub fn freeze_shim(&self, pod: &PodId) {
        if let Some(shim) = self.world().shims.get_mut(pod) {
            shim.frozen = true;
        }
    }

    /// A reboot: what is not on disk is gone.
    pub fn reboot(&self) {
        let mut world = self.world();
        world.shims.clear();
        world.alive.clear();
        world.recorded.clear();
        world.owned.retain(|name| ["rootfs ", "hold "].iter().any(|kept| name.starts_with(kept)));
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl World {
    fn time(&mut self) -> Timestamp {
        self.now += 1;
        Timestamp(self.now)
    }

    fn pid(&mut self) -> u32 {
        self.next_pid += 1;
        1000 + self.next_pid
    }

    /// A process ends; a shim that can records it, on disk and for who asks.
    fn end(&mut self, container: &ContainerId, code: i32, oom_killed: bool) {
        let Some(pod) = self.alive.remove(container) else { return };
        let at = self.time();
        let Some(shim) = self.shims.get_mut(&pod).filter(|shim| !shim.frozen) else { return };
        let Some(known) = shim.containers.get_mut(container) else { return };
        let started_at = match &known.life {
            Life::Running { at, .. } => *at,
            Life::Created { .. } | Life::Exited { .. } => Timestamp::NEVER,
        };
        let sequence = shim.exits.len() as u64 + 1;
        let exit =
            Exit { container: container.clone(), code, at, oom_killed, message: String::new(), sequence };
        known.life = Life::Exited { started_at, exit: exit.clone() };
        shim.exits.push(exit.clone());
        self.recorded.insert(container.clone(), exit);
    }

    /// Counts a changing verb that was done, and says whether it fails.
    fn step(&mut self, verb: &'static str) -> Result<(), HostError> {
        self.done.push(verb);
        self.steps += 1;
        match self.fail_at {
            Some(n) if n == self.steps => Err(HostError::new(format!("{verb} failed"), Fault::Internal)),
            Some(_) | None => Ok(()),
        }
    }

    fn check_stuck(&mut self, verb: &'static str) -> Result<(), HostError> {
        assert!(!self.panics.contains(verb), "{verb} was told to panic");
        match self.stuck.contains(verb) {
            false => Ok(()),
            true => {
                self.done.push(verb);
                Err(HostError::new(format!("{verb} is stuck"), Fault::Internal))
            }
        }
    }
}
