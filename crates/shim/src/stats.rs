//! Stats: a container's numbers in containerd's messages (github.com/containerd/cgroups, cgroup1/stats and
//! cgroup2/stats). What the kernel does not tell, and what nobody of containerd's CRI reads, is left out.

use crate::serve::Shim;
use crate::wire::{Payload, Refusal};
use cgroup::{Cgroup, Details, Pressure, Stall, Stats, Version};
use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::{cgroups::metrics as v1, cgroups_v2::metrics as v2};
use protobuf::MessageField;

/// Nanoseconds of a microsecond.
const MICRO: u64 = 1000;

impl Shim {
    /// The numbers of a container, also of one that has ended: containerd asks then whether it was killed
    /// for want of memory.
    pub(crate) fn stats(&mut self, request: &api::StatsRequest) -> Result<Option<Payload>, Refusal> {
        let index = self.find(&request.id)?;
        let any = of(self.containers[index].process.cgroup())?;
        let response = api::StatsResponse { stats: MessageField::some(any), ..api::StatsResponse::default() };
        Payload::of(&response).map(Some)
    }
}

fn of(group: &Cgroup) -> Result<Any, Refusal> {
    let failed = |e: cgroup::CgroupError| Refusal::internal("read the cgroup", &e);
    let (stats, more) = (group.stats().map_err(failed)?, group.details(&[]).map_err(failed)?);
    match group.mounts().version() {
        Version::V1 => any("io.containerd.cgroups.v1.Metrics", &first(&stats, &more)),
        Version::V2 => any("io.containerd.cgroups.v2.Metrics", &second(&stats, &more)),
    }
}

fn any(name: &str, message: &impl protobuf::Message) -> Result<Any, Refusal> {
    let value = message.write_to_bytes().map_err(|e| Refusal::internal("encode the numbers", &e))?;
    Ok(Any { type_url: name.to_owned(), value, ..Any::default() })
}

/// A number that the kernel may not tell.
fn or_0(number: Option<u64>) -> u64 {
    number.unwrap_or(0)
}

/// The numbers of cgroup v1. Sums are over the groups beneath, too; no limit is the largest number.
fn first(stats: &Stats, more: &Details) -> v1::Metrics {
    let (memory, parts) = (&stats.memory, &stats.memory.parts);
    let usage = v1::CPUUsage {
        total: or_0(stats.cpu.usage_nanos),
        user: or_0(more.user_nanos),
        kernel: or_0(more.system_nanos),
        ..v1::CPUUsage::default()
    };
    let throttling = more.throttling.map(|throttling| v1::Throttle {
        periods: throttling.periods,
        throttled_periods: throttling.throttled_periods,
        throttled_time: throttling.throttled_nanos,
        ..v1::Throttle::default()
    });
    let entry = |usage: Option<u64>, limit: Option<u64>| {
        let limit = limit.unwrap_or(u64::MAX);
        usage.map(|usage| v1::MemoryEntry { usage, limit, ..v1::MemoryEntry::default() })
    };
    let charged = entry(memory.usage, memory.limit).map(|mut charged| {
        (charged.max, charged.failcnt) = (or_0(more.memory_peak), or_0(more.memory_limit_hits));
        charged
    });
    // The kernel counts memory and swap in one.
    let both = memory.swap.zip(memory.usage).map(|(swap, usage)| swap.saturating_add(usage));
    let both_limit = memory.swap_limit.map(|swap| swap.saturating_add(memory.limit.unwrap_or(0)));
    let memory = v1::MemoryStat {
        cache: or_0(parts.cache),
        rss: or_0(memory.rss),
        mapped_file: or_0(parts.mapped_file),
        dirty: or_0(parts.file_dirty),
        writeback: or_0(parts.file_writeback),
        pg_fault: or_0(parts.own_page_faults),
        pg_maj_fault: or_0(parts.own_major_page_faults),
        inactive_file: or_0(parts.inactive_file),
        active_file: or_0(parts.active_file),
        hierarchical_memory_limit: memory.limit.unwrap_or(u64::MAX),
        total_cache: or_0(parts.cache),
        total_rss: or_0(memory.rss),
        total_mapped_file: or_0(parts.mapped_file),
        total_dirty: or_0(parts.file_dirty),
        total_writeback: or_0(parts.file_writeback),
        total_pg_fault: or_0(memory.page_faults),
        total_pg_maj_fault: or_0(memory.major_page_faults),
        total_inactive_file: or_0(parts.inactive_file),
        total_active_file: or_0(parts.active_file),
        usage: charged.into(),
        swap: entry(both, both_limit).into(),
        kernel: entry(more.kernel_memory, None).into(),
        ..v1::MemoryStat::default()
    };
    let cpu = v1::CPUStat {
        usage: MessageField::some(usage),
        throttling: throttling.into(),
        ..v1::CPUStat::default()
    };
    let pids = stats.pids.map(|current| v1::PidsStat {
        current,
        limit: or_0(stats.pids_limit),
        ..v1::PidsStat::default()
    });
    let oom =
        more.oom_kills.map(|oom_kill| v1::MemoryOomControl { oom_kill, ..v1::MemoryOomControl::default() });
    v1::Metrics {
        pids: pids.into(),
        cpu: MessageField::some(cpu),
        memory: MessageField::some(memory),
        blkio: stats.io.as_ref().map(block_io).into(),
        memory_oom_control: oom.into(),
        ..v1::Metrics::default()
    }
}

/// Bytes and operations of each device.
fn block_io(io: &cgroup::Io) -> v1::BlkIOStat {
    let entries = |of: fn(&cgroup::DeviceIo) -> [(&'static str, u64); 2]| {
        let each = io.devices.iter().flat_map(|device| {
            of(device).map(|(op, value)| v1::BlkIOEntry {
                op: op.to_owned(),
                major: device.major.into(),
                minor: device.minor.into(),
                value,
                ..v1::BlkIOEntry::default()
            })
        });
        each.collect()
    };
    v1::BlkIOStat {
        io_service_bytes_recursive: entries(|d| [("Read", d.read_bytes), ("Write", d.write_bytes)]),
        io_serviced_recursive: entries(|d| [("Read", d.reads), ("Write", d.writes)]),
        ..v1::BlkIOStat::default()
    }
}

/// The numbers of cgroup v2. No limit is the largest number.
fn second(stats: &Stats, more: &Details) -> v2::Metrics {
    let (memory, parts) = (&stats.memory, &stats.memory.parts);
    let throttling = stats.cpu.throttling.unwrap_or_default();
    let cpu = v2::CPUStat {
        usage_usec: or_0(stats.cpu.usage_nanos) / MICRO,
        user_usec: or_0(stats.cpu.user_nanos) / MICRO,
        system_usec: or_0(stats.cpu.system_nanos) / MICRO,
        nr_periods: throttling.periods,
        nr_throttled: throttling.throttled_periods,
        throttled_usec: throttling.throttled_nanos / MICRO,
        psi: psi(stats.cpu.pressure),
        nr_bursts: or_0(throttling.bursts),
        burst_usec: or_0(throttling.burst_nanos) / MICRO,
        ..v2::CPUStat::default()
    };
    let memory = v2::MemoryStat {
        anon: or_0(memory.rss),
        file: or_0(parts.cache),
        file_mapped: or_0(parts.mapped_file),
        file_dirty: or_0(parts.file_dirty),
        file_writeback: or_0(parts.file_writeback),
        inactive_file: or_0(parts.inactive_file),
        active_file: or_0(parts.active_file),
        pgfault: or_0(memory.page_faults),
        pgmajfault: or_0(memory.major_page_faults),
        pgscan: or_0(parts.pgscan),
        pgsteal: or_0(parts.pgsteal),
        usage: or_0(memory.usage),
        usage_limit: memory.limit.unwrap_or(u64::MAX),
        swap_usage: or_0(memory.swap),
        swap_limit: memory.swap_limit.unwrap_or(u64::MAX),
        max_usage: or_0(more.memory_peak),
        psi: psi(memory.pressure),
        ..v2::MemoryStat::default()
    };
    let events = v2::MemoryEvents {
        high: or_0(more.memory_high_events),
        max: or_0(more.memory_max_events),
        oom_kill: or_0(more.oom_kills),
        ..v2::MemoryEvents::default()
    };
    let pids = stats.pids.map(|current| v2::PidsStat {
        current,
        limit: stats.pids_limit.unwrap_or(u64::MAX),
        ..v2::PidsStat::default()
    });
    let io = stats.io.as_ref().map(|io| v2::IOStat {
        usage: io.devices.iter().map(device).collect(),
        psi: psi(io.pressure),
        ..v2::IOStat::default()
    });
    v2::Metrics {
        pids: pids.into(),
        cpu: MessageField::some(cpu),
        memory: MessageField::some(memory),
        io: io.into(),
        memory_events: MessageField::some(events),
        ..v2::Metrics::default()
    }
}

fn device(device: &cgroup::DeviceIo) -> v2::IOEntry {
    v2::IOEntry {
        major: device.major.into(),
        minor: device.minor.into(),
        rbytes: device.read_bytes,
        wbytes: device.write_bytes,
        rios: device.reads,
        wios: device.writes,
        ..v2::IOEntry::default()
    }
}

fn psi(pressure: Option<Pressure>) -> MessageField<v2::PSIStats> {
    let stall = |stall: Stall| {
        let percent = |hundredths: u32| f64::from(hundredths) / 100.0;
        MessageField::some(v2::PSIData {
            avg10: percent(stall.avg10),
            avg60: percent(stall.avg60),
            avg300: percent(stall.avg300),
            total: stall.total,
            ..v2::PSIData::default()
        })
    };
    let of = |pressure: Pressure| v2::PSIStats {
        some: stall(pressure.some),
        full: stall(pressure.full),
        ..v2::PSIStats::default()
    };
    pressure.map(of).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cgroup::{DeviceIo, Io, Memory, MemoryParts};

    fn numbers() -> Stats {
        let device = DeviceIo { major: 8, minor: 1, read_bytes: 10, write_bytes: 20, reads: 1, writes: 2 };
        Stats {
            cpu: cgroup::Cpu { usage_nanos: Some(5_000), ..cgroup::Cpu::default() },
            memory: Memory {
                usage: Some(100),
                swap: Some(7),
                page_faults: Some(3),
                parts: MemoryParts { inactive_file: Some(30), ..MemoryParts::default() },
                ..Memory::default()
            },
            pids: Some(2),
            io: Some(Io { devices: vec![device], ..Io::default() }),
            ..Stats::default()
        }
    }

    #[test]
    fn what_containerd_reads_of_v1_is_there() {
        let more = Details { oom_kills: Some(1), memory_peak: Some(120), ..Details::default() };
        let told = first(&numbers(), &more);
        assert_eq!(told.cpu.usage.total, 5_000);
        let memory = told.memory.get_or_default();
        assert_eq!((memory.usage.usage, memory.usage.limit, memory.usage.max), (100, u64::MAX, 120));
        assert_eq!((memory.swap.usage, memory.total_inactive_file, memory.total_pg_fault), (107, 30, 3));
        assert_eq!((told.pids.current, told.pids.limit, told.memory_oom_control.oom_kill), (2, 0, 1));
        let bytes: Vec<_> =
            told.blkio.io_service_bytes_recursive.iter().map(|e| (e.op.as_str(), e.value)).collect();
        assert_eq!(bytes, [("Read", 10), ("Write", 20)]);
    }

    #[test]
    fn what_containerd_reads_of_v2_is_there() {
        let mut numbers = numbers();
        numbers.memory.limit = Some(1 << 20);
        let some = Stall { avg10: 150, total: 9, ..Stall::default() };
        numbers.memory.pressure = Some(Pressure { some, full: Stall::default() });
        let told = second(&numbers, &Details { oom_kills: Some(4), ..Details::default() });
        assert_eq!(told.cpu.usage_usec, 5);
        let memory = told.memory.get_or_default();
        assert_eq!((memory.usage, memory.usage_limit, memory.inactive_file), (100, 1 << 20, 30));
        assert_eq!((memory.psi.some.avg10, memory.psi.some.total), (1.5, 9));
        assert!(told.cpu.psi.is_none());
        assert_eq!((told.pids.limit, told.memory_events.oom_kill), (u64::MAX, 4));
        assert_eq!((told.io.usage[0].rbytes, told.io.usage[0].wios), (10, 2));
    }
}
