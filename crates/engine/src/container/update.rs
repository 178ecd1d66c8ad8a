//! UpdateContainerResources: all of it or nothing, also across a crash.
//!
//! What is going to be overwritten is read and recorded first. So whoever finds the record, after a
//! write that failed or after a crash between two of them, can set it back; only then is the update
//! recorded as done.

use super::{phase::Phase, plan::ContainerPlan, task::Task};
use crate::{
    error::{EngineError, chain},
    feed::{AGE, EventKind},
    host::{Host, LimitChange},
};
use oci_spec::{
    OciSpecError,
    runtime::{
        LinuxCpuBuilder, LinuxHugepageLimit, LinuxHugepageLimitBuilder, LinuxMemoryBuilder,
        LinuxResourcesBuilder,
    },
};
use std::{collections::HashMap, sync::Arc};
use types::container::Resources;

const DOING: &str = "cannot update the container's limits";

impl<H: Host> Task<H> {
    /// UpdateContainerResources.
    pub(super) async fn update(&mut self, asked: &Resources) -> Result<(), EngineError> {
        match &self.phase {
            Phase::Created { .. } | Phase::Running { .. } => {}
            Phase::Creating | Phase::Exited(_) | Phase::Unknown { .. } => {
                return Err(EngineError::precondition("the container is neither created nor running"));
            }
        }
        let effective = merged(self.plan.resources(), asked);
        let change = change(asked, &effective)?;
        self.take_back().await;
        if self.undo.is_some() {
            return Err(EngineError::precondition("an earlier update is half done and cannot be taken back"));
        }
        let core = Arc::clone(&self.core);
        let before = core.host.limits(&self.plan, &change).await;
        self.undo = Some(before.map_err(|error| EngineError::host(DOING, error))?);
        if let Err(unrecorded) = self.record("container.update_planned").await {
            self.undo = None;
            return Err(unrecorded);
        }
        let set = core.step("container.set_limits", core.host.set_limits(&self.plan, &change)).await;
        if let Err(error) = set {
            self.take_back().await;
            return Err(EngineError::host(DOING, error));
        }
        let old = Arc::clone(&self.plan);
        let before = self.undo.take();
        self.plan = Arc::new(ContainerPlan { updated: Some(effective), ..ContainerPlan::clone(&old) });
        if let Err(unrecorded) = self.record("container.updated").await {
            (self.plan, self.undo) = (old, before);
            self.take_back().await;
            return Err(unrecorded);
        }
        self.show();
        Ok(())
    }

    /// Sets the limits as they were before an update that was not finished. If that fails they stay
    /// on record, and it is tried again before the next update and after the next start.
    pub(super) async fn take_back(&mut self) {
        let Some(before) = self.undo.clone() else { return };
        let core = Arc::clone(&self.core);
        let restored = core.step("container.restore_limits", core.host.restore_limits(&self.plan, &before));
        if let Err(error) = restored.await {
            tracing::error!(container = %self.plan.id, error = chain(&error), "limits are not as they were");
            return;
        }
        self.undo = None;
        if let Err(error) = self.record("container.update_undone").await {
            // Taking it back once more after the next start changes nothing.
            tracing::error!(container = %self.plan.id, error = chain(&error), "a state is not recorded");
        }
    }

    /// After a restart: nobody knows whether an end that is on record was told.
    pub(super) fn tell_again(&self) {
        let Phase::Exited(ended) = &self.phase else { return };
        let age = self.core.now().0.saturating_sub(ended.finished_at.0);
        if u128::try_from(age).is_ok_and(|age| age < AGE.as_nanos()) {
            self.tell(EventKind::Stopped);
        }
    }
}

/// The limits after an update: what is not asked for stays.
///
/// Memory and swap are one number in the CRI. Where only the memory changes, the swap above it stays
/// what it was: none stays none.
fn merged(now: &Resources, asked: &Resources) -> Resources {
    let mut all = now.clone();
    all.cpu_period = asked.cpu_period.or(now.cpu_period);
    all.cpu_quota = asked.cpu_quota.or(now.cpu_quota);
    all.cpu_shares = asked.cpu_shares.or(now.cpu_shares);
    all.memory_limit = asked.memory_limit.or(now.memory_limit);
    all.memory_swap_limit = match (asked.memory_swap_limit, asked.memory_limit) {
        (Some(swap), _) => Some(swap),
        (None, Some(limit)) => moved_swap(now, limit),
        (None, None) => now.memory_swap_limit,
    };
    if asked.oom_score_adj != 0 {
        all.oom_score_adj = asked.oom_score_adj;
    }
    if !asked.cpuset_cpus.is_empty() {
        all.cpuset_cpus.clone_from(&asked.cpuset_cpus);
    }
    if !asked.cpuset_mems.is_empty() {
        all.cpuset_mems.clone_from(&asked.cpuset_mems);
    }
    for (size, limit) in &asked.hugepage_limits {
        all.hugepage_limits.retain(|(known, _)| known != size);
        all.hugepage_limits.push((size.clone(), *limit));
    }
    all.hugepage_limits.sort();
    all.unified.extend(asked.unified.clone());
    all
}

/// Memory and swap together under a new memory limit.
fn moved_swap(now: &Resources, limit: i64) -> Option<i64> {
    match (now.memory_limit, now.memory_swap_limit) {
        // Not set means that swap adds nothing, before and after.
        (_, None) => None,
        (_, Some(-1)) => Some(-1),
        // Without a memory limit there is no swap limit either.
        _ if limit < 0 => Some(-1),
        (Some(old), Some(both)) if old >= 0 => Some(limit.saturating_add(both.saturating_sub(old).max(0))),
        (Some(_) | None, Some(both)) => Some(both.max(limit)),
    }
}

/// What has to be written for it: the fields that are asked for, with those that belong to them.
fn change(asked: &Resources, effective: &Resources) -> Result<LimitChange, EngineError> {
    let mut cpu = LinuxCpuBuilder::default();
    if let Some(shares) = asked.cpu_shares {
        cpu = cpu.shares(shares);
    }
    // One file on v2, and a pair in the kernel: they are written together.
    if asked.cpu_quota.is_some() || asked.cpu_period.is_some() {
        if let Some(quota) = effective.cpu_quota {
            cpu = cpu.quota(quota);
        }
        if let Some(period) = effective.cpu_period {
            cpu = cpu.period(period);
        }
    }
    if !asked.cpuset_cpus.is_empty() {
        cpu = cpu.cpus(asked.cpuset_cpus.clone());
    }
    if !asked.cpuset_mems.is_empty() {
        cpu = cpu.mems(asked.cpuset_mems.clone());
    }
    let mut memory = LinuxMemoryBuilder::default();
    if asked.memory_limit.is_some() || asked.memory_swap_limit.is_some() {
        if let Some(limit) = effective.memory_limit {
            memory = memory.limit(limit);
        }
        // Not set means that swap adds nothing (CRI comment, KEP-2400).
        if let Some(swap) = effective.memory_swap_limit.or(effective.memory_limit) {
            memory = memory.swap(swap);
        }
    }
    let made = || -> Result<_, OciSpecError> {
        let mut all = LinuxResourcesBuilder::default()
            .cpu(cpu.build()?)
            .memory(memory.build()?)
            .hugepage_limits(hugepages(&asked.hugepage_limits)?);
        if !asked.unified.is_empty() {
            all = all.unified(asked.unified.clone().into_iter().collect::<HashMap<_, _>>());
        }
        all.build()
    };
    // The builders fail only for a required part that was not given.
    let resources = made().map_err(|error| EngineError::internal(DOING, error))?;
    let oom_score_adj = (asked.oom_score_adj != 0).then_some(asked.oom_score_adj);
    Ok(LimitChange { resources, oom_score_adj })
}

fn hugepages(limits: &[(String, u64)]) -> Result<Vec<LinuxHugepageLimit>, OciSpecError> {
    let one = |(size, limit): &(String, u64)| {
        let limit = i64::try_from(*limit).unwrap_or(i64::MAX);
        LinuxHugepageLimitBuilder::default().page_size(size.clone()).limit(limit).build()
    };
    limits.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(limit: Option<i64>, swap: Option<i64>) -> Resources {
        Resources { memory_limit: limit, memory_swap_limit: swap, ..Resources::default() }
    }

    #[test]
    fn what_is_not_asked_for_stays() {
        let now = Resources {
            cpu_period: Some(100_000),
            cpu_quota: Some(50_000),
            cpu_shares: Some(512),
            oom_score_adj: 5,
            cpuset_cpus: "0".to_owned(),
            hugepage_limits: vec![("1GB".to_owned(), 1), ("2MB".to_owned(), 2)],
            unified: [("memory.high".to_owned(), "7".to_owned())].into(),
            ..memory(Some(1000), None)
        };
        assert_eq!(merged(&now, &Resources::default()), now);
        let asked = Resources {
            cpu_quota: Some(-1),
            hugepage_limits: vec![("2MB".to_owned(), 9)],
            unified: [("memory.low".to_owned(), "3".to_owned())].into(),
            ..Resources::default()
        };
        let after = merged(&now, &asked);
        assert_eq!(
            (after.cpu_quota, after.cpu_period, after.cpu_shares),
            (Some(-1), Some(100_000), Some(512))
        );
        assert_eq!(
            (after.memory_limit, after.oom_score_adj, after.cpuset_cpus.as_str()),
            (Some(1000), 5, "0")
        );
        assert_eq!(after.hugepage_limits, [("1GB".to_owned(), 1), ("2MB".to_owned(), 9)]);
        assert_eq!(after.unified.len(), 2);
    }

    #[test]
    fn the_swap_above_the_memory_stays_what_it_was() {
        let swap = |now: Resources, limit| merged(&now, &memory(Some(limit), None)).memory_swap_limit;
        assert_eq!(swap(memory(Some(1000), None), 2000), None);
        assert_eq!(swap(memory(Some(1000), Some(1000)), 2000), Some(2000));
        assert_eq!(swap(memory(Some(1000), Some(1500)), 800), Some(1300));
        assert_eq!(swap(memory(Some(1000), Some(-1)), 800), Some(-1));
        assert_eq!(swap(memory(Some(1000), Some(1500)), -1), Some(-1));
        assert_eq!(swap(memory(None, None), 800), None);
        assert_eq!(merged(&memory(Some(5), Some(5)), &memory(None, Some(9))).memory_swap_limit, Some(9));
    }

    #[test]
    fn only_what_is_asked_for_is_written_and_pairs_stay_together() {
        let now = Resources { cpu_period: Some(100_000), cpu_shares: Some(512), ..memory(Some(1000), None) };
        let asked = Resources { cpu_quota: Some(20_000), oom_score_adj: 7, ..Resources::default() };
        let written = change(&asked, &merged(&now, &asked)).expect("a change");
        let cpu = written.resources.cpu().clone().expect("cpu");
        assert_eq!((cpu.quota(), cpu.period(), cpu.shares()), (Some(20_000), Some(100_000), None));
        let memory_part = written.resources.memory().expect("memory");
        assert_eq!((memory_part.limit(), memory_part.swap()), (None, None));
        assert_eq!(written.oom_score_adj, Some(7));

        let asked = memory(Some(2000), None);
        let written = change(&asked, &merged(&now, &asked)).expect("a change");
        let memory_part = written.resources.memory().expect("memory");
        assert_eq!((memory_part.limit(), memory_part.swap()), (Some(2000), Some(2000)));
        assert_eq!(written.oom_score_adj, None);
    }
}
