//! Limits.

use crate::{HostFacts, SpecError};
use oci_spec::runtime::{
    LinuxCpuBuilder, LinuxDeviceCgroup, LinuxHugepageLimitBuilder, LinuxMemoryBuilder, LinuxResources,
    LinuxResourcesBuilder,
};
use types::container::Resources;

/// Maps the request's limits. Zero means "not limited" and leaves the field out.
pub(crate) fn of(
    asked: &Resources,
    devices: Vec<LinuxDeviceCgroup>,
    host: &HostFacts,
) -> Result<LinuxResources, SpecError> {
    if !host.cgroup_v2 && !asked.unified.is_empty() {
        return Err(SpecError::bad("linux.resources.unified", "needs cgroup v2, this machine has v1"));
    }
    let mut resources = limits(asked)?;
    resources.set_devices(Some(devices));
    Ok(resources)
}

/// Limits without device rules: also what `UpdateContainerResources` sets.
///
/// # Errors
/// [`SpecError::BadField`] for a memory and swap limit below the memory limit.
pub fn limits(asked: &Resources) -> Result<LinuxResources, SpecError> {
    let mut resources = LinuxResourcesBuilder::default();

    let mut cpu = LinuxCpuBuilder::default();
    let mut any = false;
    if let Some(shares) = asked.cpu_shares.filter(|shares| *shares != 0) {
        (cpu, any) = (cpu.shares(shares), true);
    }
    if let Some(quota) = asked.cpu_quota.filter(|quota| *quota != 0) {
        (cpu, any) = (cpu.quota(quota), true);
    }
    if let Some(period) = asked.cpu_period.filter(|period| *period != 0) {
        (cpu, any) = (cpu.period(period), true);
    }
    if !asked.cpuset_cpus.is_empty() {
        (cpu, any) = (cpu.cpus(asked.cpuset_cpus.clone()), true);
    }
    if !asked.cpuset_mems.is_empty() {
        (cpu, any) = (cpu.mems(asked.cpuset_mems.clone()), true);
    }
    if any {
        resources = resources.cpu(cpu.build().expect("every field has a default"));
    }

    let limit = asked.memory_limit.filter(|limit| *limit != 0);
    let both = asked.memory_swap_limit.filter(|both| *both != 0);
    if let (Some(limit), Some(both)) = (limit, both)
        && both != -1
        && both < limit
    {
        let why = format!("{both} is below the memory limit {limit}");
        return Err(SpecError::bad("linux.resources.memory_swap_limit_in_bytes", why));
    }
    let mut memory = LinuxMemoryBuilder::default();
    if let Some(limit) = limit {
        // Without a limit of both the container gets no swap beyond its memory (KEP-2400).
        memory = memory.limit(limit).swap(both.unwrap_or(limit));
    } else if let Some(both) = both {
        memory = memory.swap(both);
    }
    if limit.is_some() || both.is_some() {
        resources = resources.memory(memory.build().expect("every field has a default"));
    }

    let mut pages = Vec::new();
    for (size, limit) in asked.hugepage_limits.iter().filter(|(_, limit)| *limit != 0) {
        let limit = i64::try_from(*limit).map_err(|_| {
            SpecError::bad("linux.resources.hugepage_limits", format!("{limit} is too large"))
        })?;
        let page = LinuxHugepageLimitBuilder::default().page_size(size.clone()).limit(limit).build();
        pages.push(page.expect("size and limit are set"));
    }
    if !pages.is_empty() {
        resources = resources.hugepage_limits(pages);
    }
    if !asked.unified.is_empty() {
        let unified: std::collections::HashMap<_, _> = asked.unified.clone().into_iter().collect();
        resources = resources.unified(unified);
    }
    Ok(resources.build().expect("every field has a default"))
}
