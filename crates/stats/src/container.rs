//! A container's numbers, from those of its group: a pure function.

use crate::DirectoryUsage;
use types::Timestamp;

/// What a container uses (CRI `ContainerStats` without its attributes).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerStats {
    /// When the group was read.
    pub timestamp: Timestamp,
    /// CPU time.
    pub cpu: CpuUsage,
    /// Memory.
    pub memory: MemoryUsage,
    /// Swap; absent where the kernel does not count it.
    pub swap: Option<SwapUsage>,
    /// Block IO; absent without its controller.
    pub io: Option<IoUsage>,
    /// Number of processes and threads.
    pub pids: Option<u64>,
    /// What the container has written into its root file system, with the moment of the look: taking
    /// it costs a walk over the files, so it may be older than the rest.
    pub writable_layer: Option<(Timestamp, DirectoryUsage)>,
}

/// CPU time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CpuUsage {
    /// Nanoseconds on all CPUs together, so far.
    pub usage_core_nanos: Option<u64>,
    /// Nanoseconds in each second since the last look; absent at the first one.
    pub usage_nano_cores: Option<u64>,
    /// Pressure; cgroup v2 only.
    pub psi: Option<Psi>,
}

/// Memory, bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemoryUsage {
    /// Usage without the inactive file cache: what the kubelet evicts by.
    pub working_set: Option<u64>,
    /// The limit without the working set; absent without a limit.
    pub available: Option<u64>,
    /// All memory, caches included.
    pub usage: Option<u64>,
    /// Anonymous memory.
    pub rss: Option<u64>,
    /// Faults, so far.
    pub page_faults: Option<u64>,
    /// Those that read from a disk, so far.
    pub major_page_faults: Option<u64>,
    /// Pressure; cgroup v2 only.
    pub psi: Option<Psi>,
}

/// Swap, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SwapUsage {
    /// In use.
    pub usage: u64,
    /// The limit without the usage; absent without a limit.
    pub available: Option<u64>,
}

/// Block IO in sum.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct IoUsage {
    /// Bytes, so far.
    pub read_bytes: u64,
    /// Bytes, so far.
    pub write_bytes: u64,
    /// Pressure; cgroup v2 only.
    pub psi: Option<Psi>,
}

/// Pressure (KEP-4205).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Psi {
    /// At least one task waited.
    pub some: PsiLine,
    /// All tasks waited at once.
    pub full: PsiLine,
}

/// One line of a pressure file.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PsiLine {
    /// Nanoseconds waited, so far (the file has microseconds).
    pub total_nanos: u64,
    /// Per cent of the last 10 seconds.
    pub avg10: f64,
    /// Per cent of the last minute.
    pub avg60: f64,
    /// Per cent of the last five minutes.
    pub avg300: f64,
}

impl ContainerStats {
    /// The numbers of a group that was read at `timestamp`.
    #[must_use]
    pub fn from_group(group: &cgroup::Stats, timestamp: Timestamp) -> ContainerStats {
        let memory = &group.memory;
        ContainerStats {
            timestamp,
            cpu: CpuUsage {
                usage_core_nanos: group.cpu.usage_nanos,
                usage_nano_cores: None,
                psi: group.cpu.pressure.as_ref().map(psi),
            },
            memory: MemoryUsage {
                working_set: memory.working_set,
                available: memory
                    .limit
                    .zip(memory.working_set)
                    .map(|(limit, used)| limit.saturating_sub(used)),
                usage: memory.usage,
                rss: memory.rss,
                page_faults: memory.page_faults,
                major_page_faults: memory.major_page_faults,
                psi: memory.pressure.as_ref().map(psi),
            },
            swap: memory.swap.map(|usage| SwapUsage {
                usage,
                available: memory.swap_limit.map(|limit| limit.saturating_sub(usage)),
            }),
            io: group.io.as_ref().map(|io| IoUsage {
                read_bytes: io.read_bytes,
                write_bytes: io.write_bytes,
                psi: io.pressure.as_ref().map(psi),
            }),
            pids: group.pids,
            writable_layer: None,
        }
    }
}

fn psi(pressure: &cgroup::Pressure) -> Psi {
    let line = |stall: &cgroup::Stall| PsiLine {
        total_nanos: stall.total.saturating_mul(1000),
        avg10: f64::from(stall.avg10) / 100.0,
        avg60: f64::from(stall.avg60) / 100.0,
        avg300: f64::from(stall.avg300) / 100.0,
    };
    Psi { some: line(&pressure.some), full: line(&pressure.full) }
}
