//! Numbers of a group.

use crate::{Cgroup, CgroupError, Version};
use std::collections::BTreeMap;

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
    /// Those in user mode; v2 only, on v1 in [`crate::Details`].
    pub user_nanos: Option<u64>,
    /// Those in the kernel; v2 only, on v1 in [`crate::Details`].
    pub system_nanos: Option<u64>,
    /// What the quota did; v2 only, on v1 in [`crate::Details`].
    pub throttling: Option<Throttling>,
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
    /// What the other lines of `memory.stat` say.
    pub parts: MemoryParts,
    /// `None` = no limit.
    pub limit: Option<u64>,
    /// Swap in use.
    pub swap: Option<u64>,
    /// Limit of swap alone; `None` = no limit.
    pub swap_limit: Option<u64>,
    /// Stalls.
    pub pressure: Option<Pressure>,
}

/// What the CPU quota did (Documentation/scheduler/sched-bwc.rst), since the group was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttling {
    /// Periods that have passed.
    pub periods: u64,
    /// Those in which the group was held back.
    pub throttled_periods: u64,
    /// For how long in all.
    pub throttled_nanos: u64,
    /// Periods with a burst; since Linux 5.14.
    pub bursts: Option<u64>,
    /// For how long in all; since Linux 5.14.
    pub burst_nanos: Option<u64>,
}

/// Lines of `memory.stat`, those of the groups beneath included: bytes, and events since the group
/// was made. `None` where this generation of cgroups does not have the line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryParts {
    /// Page cache.
    pub cache: Option<u64>,
    /// Of the kernel's own; v2 only, on v1 in [`crate::Details`].
    pub kernel: Option<u64>,
    /// Files that are mapped.
    pub mapped_file: Option<u64>,
    /// Page cache in use.
    pub active_file: Option<u64>,
    /// Page cache that goes first.
    pub inactive_file: Option<u64>,
    /// Page cache to be written.
    pub file_dirty: Option<u64>,
    /// Page cache being written.
    pub file_writeback: Option<u64>,
    /// Pages looked at by reclaim; v2 only.
    pub pgscan: Option<u64>,
    /// Pages taken by reclaim; v2 only.
    pub pgsteal: Option<u64>,
    /// File pages that came back soon after they were taken.
    pub refault_file: Option<u64>,
    /// Anonymous pages that did.
    pub refault_anon: Option<u64>,
    /// Page faults of this very group, without those beneath.
    pub own_page_faults: Option<u64>,
    /// Likewise, those that read from a disk.
    pub own_major_page_faults: Option<u64>,
}

/// Block IO of one device, since the group was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceIo {
    /// Number of the driver.
    pub major: u32,
    /// Number of the device.
    pub minor: u32,
    /// Bytes.
    pub read_bytes: u64,
    /// Bytes.
    pub write_bytes: u64,
    /// Operations.
    pub reads: u64,
    /// Operations.
    pub writes: u64,
}

/// Block IO in sum, bytes and operations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Io {
    /// Bytes.
    pub read_bytes: u64,
    /// Bytes.
    pub write_bytes: u64,
    /// Operations.
    pub reads: u64,
    /// Operations.
    pub writes: u64,
    /// The same for each device, by its number.
    pub devices: Vec<DeviceIo>,
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

pub(crate) type Read<'a> = &'a dyn Fn(&str, &str) -> Result<Option<String>, CgroupError>;

pub(crate) fn v1(read: Read<'_>) -> Result<Stats, CgroupError> {
    let number = |controller, file| Ok::<_, CgroupError>(read(controller, file)?.as_deref().and_then(single));
    let stat = read("memory", "memory.stat")?.unwrap_or_default();
    let usage = number("memory", "memory.usage_in_bytes")?;
    let inactive = keyed(&stat, "total_inactive_file").unwrap_or(0);
    let limit = number("memory", "memory.limit_in_bytes")?.filter(limited);
    let both = number("memory", "memory.memsw.limit_in_bytes")?.filter(limited);
    let bytes = read("blkio", "blkio.throttle.io_service_bytes_recursive")?;
    let count = read("blkio", "blkio.throttle.io_serviced_recursive")?.unwrap_or_default();
    Ok(Stats {
        cpu: Cpu { usage_nanos: number("cpuacct", "cpuacct.usage")?, ..Cpu::default() },
        memory: Memory {
            usage,
            working_set: usage.map(|usage| usage.saturating_sub(inactive)),
            rss: keyed(&stat, "total_rss"),
            page_faults: keyed(&stat, "total_pgfault"),
            major_page_faults: keyed(&stat, "total_pgmajfault"),
            parts: MemoryParts {
                cache: keyed(&stat, "total_cache"),
                mapped_file: keyed(&stat, "total_mapped_file"),
                active_file: keyed(&stat, "total_active_file"),
                inactive_file: keyed(&stat, "total_inactive_file"),
                file_dirty: keyed(&stat, "total_dirty"),
                file_writeback: keyed(&stat, "total_writeback"),
                refault_file: keyed(&stat, "total_workingset_refault_file"),
                refault_anon: keyed(&stat, "total_workingset_refault_anon"),
                own_page_faults: keyed(&stat, "pgfault"),
                own_major_page_faults: keyed(&stat, "pgmajfault"),
                ..MemoryParts::default()
            },
            limit,
            swap: keyed(&stat, "total_swap"),
            swap_limit: both.map(|both| both.saturating_sub(limit.unwrap_or(0))),
            pressure: None,
        },
        pids: number("pids", "pids.current")?,
        pids_limit: number("pids", "pids.max")?,
        io: bytes.map(|bytes| Io::of(devices_v1(&bytes, &count), None)),
    })
}

pub(crate) fn v2(read: Read<'_>) -> Result<Stats, CgroupError> {
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
            usage_nanos: micros(&cpu, "usage_usec"),
            user_nanos: micros(&cpu, "user_usec"),
            system_nanos: micros(&cpu, "system_usec"),
            throttling: keyed(&cpu, "nr_periods").map(|periods| Throttling {
                periods,
                throttled_periods: keyed(&cpu, "nr_throttled").unwrap_or(0),
                throttled_nanos: micros(&cpu, "throttled_usec").unwrap_or(0),
                bursts: keyed(&cpu, "nr_bursts"),
                burst_nanos: micros(&cpu, "burst_usec"),
            }),
            pressure: pressure("cpu.pressure")?,
        },
        memory: Memory {
            usage,
            working_set: usage.map(|usage| usage.saturating_sub(inactive)),
            rss: keyed(&stat, "anon"),
            page_faults: keyed(&stat, "pgfault"),
            major_page_faults: keyed(&stat, "pgmajfault"),
            parts: MemoryParts {
                cache: keyed(&stat, "file"),
                kernel: keyed(&stat, "kernel"),
                mapped_file: keyed(&stat, "file_mapped"),
                active_file: keyed(&stat, "active_file"),
                inactive_file: keyed(&stat, "inactive_file"),
                file_dirty: keyed(&stat, "file_dirty"),
                file_writeback: keyed(&stat, "file_writeback"),
                pgscan: keyed(&stat, "pgscan"),
                pgsteal: keyed(&stat, "pgsteal"),
                refault_file: keyed(&stat, "workingset_refault_file"),
                refault_anon: keyed(&stat, "workingset_refault_anon"),
                own_page_faults: keyed(&stat, "pgfault"),
                own_major_page_faults: keyed(&stat, "pgmajfault"),
            },
            limit: number("memory.max")?,
            swap: number("memory.swap.current")?,
            swap_limit: number("memory.swap.max")?,
            pressure: pressure("memory.pressure")?,
        },
        pids: number("pids.current")?,
        pids_limit: number("pids.max")?,
        io: text("io.stat")?.map(|stat| Io::of(devices_v2(&stat), io_pressure)),
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
pub(crate) fn single(text: &str) -> Option<u64> {
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

/// The value of `key` in microseconds, as nanoseconds.
fn micros(text: &str, key: &str) -> Option<u64> {
    keyed(text, key).map(|micros| micros.saturating_mul(1000))
}

impl Io {
    fn of(devices: Vec<DeviceIo>, pressure: Option<Pressure>) -> Io {
        let sum = |of: fn(&DeviceIo) -> u64| devices.iter().map(of).fold(0, u64::saturating_add);
        Io {
            read_bytes: sum(|device| device.read_bytes),
            write_bytes: sum(|device| device.write_bytes),
            reads: sum(|device| device.reads),
            writes: sum(|device| device.writes),
            devices,
            pressure,
        }
    }
}

/// `MAJ:MIN`
fn device_number(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// From `MAJ:MIN operation value` lines of two files, for bytes and for operations.
fn devices_v1(bytes: &str, count: &str) -> Vec<DeviceIo> {
    let mut devices: BTreeMap<(u32, u32), DeviceIo> = BTreeMap::new();
    for (text, is_bytes) in [(bytes, true), (count, false)] {
        for line in text.lines() {
            let mut parts = line.split(' ');
            let (Some(number), Some(operation), Some(value)) =
                (parts.next().and_then(device_number), parts.next(), parts.next())
            else {
                continue;
            };
            let device = devices.entry(number).or_default();
            let place = match (operation, is_bytes) {
                ("Read", true) => &mut device.read_bytes,
                ("Write", true) => &mut device.write_bytes,
                ("Read", false) => &mut device.reads,
                ("Write", false) => &mut device.writes,
                _ => continue,
            };
            *place = value.parse().unwrap_or(0);
        }
    }
    numbered(devices)
}

/// From `MAJ:MIN key=value ...` lines.
fn devices_v2(text: &str) -> Vec<DeviceIo> {
    let mut devices: BTreeMap<(u32, u32), DeviceIo> = BTreeMap::new();
    for line in text.lines() {
        let mut parts = line.split_whitespace();
        let Some(number) = parts.next().and_then(device_number) else { continue };
        let device = devices.entry(number).or_default();
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            let place = match key {
                "rbytes" => &mut device.read_bytes,
                "wbytes" => &mut device.write_bytes,
                "rios" => &mut device.reads,
                "wios" => &mut device.writes,
                _ => continue,
            };
            *place = value.parse().unwrap_or(0);
        }
    }
    numbered(devices)
}

fn numbered(devices: BTreeMap<(u32, u32), DeviceIo>) -> Vec<DeviceIo> {
    devices.into_iter().map(|((major, minor), device)| DeviceIo { major, minor, ..device }).collect()
}

#[cfg(test)]
pub(crate) mod tests;
