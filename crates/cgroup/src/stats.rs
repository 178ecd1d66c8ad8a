//! Numbers of a group.

use crate::{Cgroup, CgroupError, Version};

/// What a group uses. `None`: the kernel does not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// CPU.
    pub cpu: Cpu,
    /// Memory and swap.
    pub memory: Memory,
    /// Number of processes and threads.
    pub pids: Option<u64>,
    /// Largest number of them; `None` = no limit.
    pub pids_limit: Option<u64>,
    /// Bytes read and written by block devices, in sum.
    pub io: Option<Io>,
}

/// CPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// Nanoseconds of all CPUs together since the group was made.
    pub usage_nanos: Option<u64>,
    /// Stalls.
    pub pressure: Option<Pressure>,
}

/// Memory, bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// All that is charged.
    pub usage: Option<u64>,
    /// Usage without inactive file pages: what the kubelet evicts by.
    pub working_set: Option<u64>,
    /// Anonymous memory.
    pub rss: Option<u64>,
    /// Page faults since the group was made.
    pub page_faults: Option<u64>,
    /// Those that read from a disk.
    pub major_page_faults: Option<u64>,
    /// `None` = no limit.
    pub limit: Option<u64>,
    /// Swap in use.
    pub swap: Option<u64>,
    /// Limit of swap alone; `None` = no limit.
    pub swap_limit: Option<u64>,
    /// Stalls.
    pub pressure: Option<Pressure>,
}

/// Block IO in sum, bytes and operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Io {
    /// Bytes.
    pub read_bytes: u64,
    /// Bytes.
    pub write_bytes: u64,
    /// Operations.
    pub reads: u64,
    /// Operations.
    pub writes: u64,
    /// Stalls.
    pub pressure: Option<Pressure>,
}

/// Pressure stall information (Documentation/accounting/psi.rst).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Some tasks were stalled.
    pub some: Stall,
    /// All tasks were stalled.
    pub full: Stall,
}

/// One line of a pressure file. The shares are in hundredths of a percent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stall {
    /// Over the last 10 s.
    pub avg10: u32,
    /// Over the last 60 s.
    pub avg60: u32,
    /// Over the last 300 s.
    pub avg300: u32,
    /// Microseconds since the group was made.
    pub total: u64,
}

impl Cgroup {
    /// Reads all numbers. A controller that is missing leaves `None`.
    ///
    /// # Errors
    /// [`CgroupError::Io`]; with ENOENT if the group does not exist.
    pub fn stats(&self) -> Result<Stats, CgroupError> {
        Cgroup::open(self.mounts(), self.path())?;
        let read = |controller: &str, file: &str| match self.node(controller) {
            Some(node) => node.read(file),
            None => Ok(None),
        };
        match self.mounts().version() {
            Version::V1 => v1(&read),
            Version::V2 => v2(&read),
        }
    }
}

type Read<'a> = &'a dyn Fn(&str, &str) -> Result<Option<String>, CgroupError>;

fn v1(read: Read<'_>) -> Result<Stats, CgroupError> {
    let number = |controller, file| Ok::<_, CgroupError>(read(controller, file)?.as_deref().and_then(single));
    let stat = read("memory", "memory.stat")?.unwrap_or_default();
    let usage = number("memory", "memory.usage_in_bytes")?;
    let inactive = keyed(&stat, "total_inactive_file").unwrap_or(0);
    let limit = number("memory", "memory.limit_in_bytes")?.filter(limited);
    let both = number("memory", "memory.memsw.limit_in_bytes")?.filter(limited);
    let bytes = read("blkio", "blkio.throttle.io_service_bytes_recursive")?;
    let count = read("blkio", "blkio.throttle.io_serviced_recursive")?.unwrap_or_default();
    Ok(Stats {
        cpu: Cpu { usage_nanos: number("cpuacct", "cpuacct.usage")?, pressure: None },
        memory: Memory {
            usage,
            working_set: usage.map(|usage| usage.saturating_sub(inactive)),
            rss: keyed(&stat, "total_rss"),
            page_faults: keyed(&stat, "total_pgfault"),
            major_page_faults: keyed(&stat, "total_pgmajfault"),
            limit,
            swap: keyed(&stat, "total_swap"),
            swap_limit: both.map(|both| both.saturating_sub(limit.unwrap_or(0))),
            pressure: None,
        },
        pids: number("pids", "pids.current")?,
        pids_limit: number("pids", "pids.max")?,
        io: bytes.map(|bytes| Io {
            read_bytes: sum_v1(&bytes, "Read"),
            write_bytes: sum_v1(&bytes, "Write"),
            reads: sum_v1(&count, "Read"),
            writes: sum_v1(&count, "Write"),
            pressure: None,
        }),
    })
}

fn v2(read: Read<'_>) -> Result<Stats, CgroupError> {
    let text = |file| read("", file);
    let number = |file| Ok::<_, CgroupError>(read("", file)?.as_deref().and_then(single));
    let cpu = text("cpu.stat")?.unwrap_or_default();
    let stat = text("memory.stat")?.unwrap_or_default();
    let usage = number("memory.current")?;
    let inactive = keyed(&stat, "inactive_file").unwrap_or(0);
    let pressure = |file| Ok::<_, CgroupError>(read_pressure(read, file));
    let io_pressure = pressure("io.pressure")?;
    Ok(Stats {
        cpu: Cpu {
            usage_nanos: keyed(&cpu, "usage_usec").map(|micros| micros.saturating_mul(1000)),
            pressure: pressure("cpu.pressure")?,
        },
        memory: Memory {
            usage,
            working_set: usage.map(|usage| usage.saturating_sub(inactive)),
            rss: keyed(&stat, "anon"),
            page_faults: keyed(&stat, "pgfault"),
            major_page_faults: keyed(&stat, "pgmajfault"),
            limit: number("memory.max")?,
            swap: number("memory.swap.current")?,
            swap_limit: number("memory.swap.max")?,
            pressure: pressure("memory.pressure")?,
        },
        pids: number("pids.current")?,
        pids_limit: number("pids.max")?,
        io: text("io.stat")?.map(|stat| Io {
            read_bytes: sum_v2(&stat, "rbytes"),
            write_bytes: sum_v2(&stat, "wbytes"),
            reads: sum_v2(&stat, "rios"),
            writes: sum_v2(&stat, "wios"),
            pressure: io_pressure,
        }),
    })
}

/// A pressure file; `None` where PSI is switched off (reading then fails).
fn read_pressure(read: Read<'_>, file: &str) -> Option<Pressure> {
    read("", file).ok().flatten().as_deref().and_then(pressure)
}

fn pressure(text: &str) -> Option<Pressure> {
    let line = |name: &str| {
        let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        let field = |key: &str| rest.split(' ').find_map(|part| part.strip_prefix(key)?.strip_prefix('='));
        let share = |key| hundredths(field(key)?);
        Some(Stall {
            avg10: share("avg10")?,
            avg60: share("avg60")?,
            avg300: share("avg300")?,
            total: field("total")?.parse().ok()?,
        })
    };
    // Kernels before 5.13 have no `full` for the CPU.
    Some(Pressure { some: line("some")?, full: line("full").unwrap_or_default() })
}

/// `12.34` as 1234.
fn hundredths(text: &str) -> Option<u32> {
    let (whole, part) = text.split_once('.')?;
    if part.len() != 2 {
        return None;
    }
    whole.parse::<u32>().ok()?.checked_mul(100)?.checked_add(part.parse().ok()?)
}

/// A file with one number; `max` is none.
fn single(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// v1 says "no limit" with the largest number of whole pages.
fn limited(bytes: &u64) -> bool {
    *bytes < 1 << 62
}

/// The value of `key` in lines of `key value`.
pub(crate) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Sums `MAJ:MIN operation value` lines over the devices.
fn sum_v1(text: &str, operation: &str) -> u64 {
    text.lines()
        .filter_map(|line| {
            let mut parts = line.split(' ');
            let (_, name, value) = (parts.next()?, parts.next()?, parts.next()?);
            (name == operation).then(|| value.parse::<u64>().ok())?
        })
        .fold(0, u64::saturating_add)
}

/// Sums `MAJ:MIN key=value ...` lines over the devices.
fn sum_v2(text: &str, key: &str) -> u64 {
    text.split_whitespace()
        .filter_map(|part| part.strip_prefix(key)?.strip_prefix('=')?.parse::<u64>().ok())
        .fold(0, u64::saturating_add)
}
