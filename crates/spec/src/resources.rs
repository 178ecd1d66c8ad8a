//! Limits: CRI `LinuxContainerResources` to OCI `linux.resources`.

use crate::{Input, SpecError};
use oci_spec::runtime::{
    LinuxCpuBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxHugepageLimit,
    LinuxHugepageLimitBuilder, LinuxMemoryBuilder, LinuxResources, LinuxResourcesBuilder,
};

pub(crate) fn resources(input: &Input<'_>) -> Result<LinuxResources, SpecError> {
    let asked = &input.container.resources;
    let mut cpu = LinuxCpuBuilder::default();
    if let Some(shares) = asked.cpu_shares {
        cpu = cpu.shares(shares);
    }
    if let Some(quota) = asked.cpu_quota {
        cpu = cpu.quota(quota);
    }
    if let Some(period) = asked.cpu_period {
        cpu = cpu.period(period);
    }
    if !asked.cpuset_cpus.is_empty() {
        cpu = cpu.cpus(asked.cpuset_cpus.clone());
    }
    if !asked.cpuset_mems.is_empty() {
        cpu = cpu.mems(asked.cpuset_mems.clone());
    }
    let mut memory = LinuxMemoryBuilder::default();
    if let Some(limit) = asked.memory_limit {
        memory = memory.limit(limit);
        // Memory and swap together; not set means that swap adds nothing (CRI comment, KEP-2400).
        memory = memory.swap(asked.memory_swap_limit.unwrap_or(limit));
    } else if let Some(swap) = asked.memory_swap_limit {
        memory = memory.swap(swap);
    }
    let mut builder = LinuxResourcesBuilder::default()
        .devices(devices(input)?)
        .cpu(cpu.build().map_err(SpecError::builder)?)
        .memory(memory.build().map_err(SpecError::builder)?)
        .hugepage_limits(hugepages(&asked.hugepage_limits)?);
    if !asked.unified.is_empty() {
        builder =
            builder.unified(asked.unified.clone().into_iter().collect::<std::collections::HashMap<_, _>>());
    }
    builder.build().map_err(SpecError::builder)
}

/// None but the default ones, or all for a privileged container. Devices that were asked for are
/// added by who looks at their nodes.
fn devices(input: &Input<'_>) -> Result<Vec<LinuxDeviceCgroup>, SpecError> {
    let rule = LinuxDeviceCgroupBuilder::default().allow(input.container.security.privileged).access("rwm");
    Ok(vec![rule.build().map_err(SpecError::builder)?])
}

fn hugepages(limits: &[(String, u64)]) -> Result<Vec<LinuxHugepageLimit>, SpecError> {
    limits
        .iter()
        .map(|(size, limit)| {
            let limit = i64::try_from(*limit).unwrap_or(i64::MAX);
            LinuxHugepageLimitBuilder::default()
                .page_size(size.clone())
                .limit(limit)
                .build()
                .map_err(SpecError::builder)
        })
        .collect()
}
