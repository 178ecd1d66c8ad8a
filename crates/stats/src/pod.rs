//! A pod's numbers: those of its group as a whole.

use crate::{ContainerStats, CpuUsage, IoUsage, MemoryUsage};
use types::Timestamp;

/// What a pod uses (CRI `LinuxPodSandboxStats` without its network and containers).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodStats {
    /// When the group was read.
    pub timestamp: Timestamp,
    /// CPU time.
    pub cpu: CpuUsage,
    /// Memory.
    pub memory: MemoryUsage,
    /// Block IO; absent without its controller.
    pub io: Option<IoUsage>,
    /// Processes, without their threads.
    pub processes: Option<u64>,
}

impl PodStats {
    pub(crate) fn of(group: ContainerStats, processes: Option<u64>) -> PodStats {
        let ContainerStats { timestamp, cpu, memory, io, .. } = group;
        PodStats { timestamp, cpu, memory, io, processes }
    }
}
