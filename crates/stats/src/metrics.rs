//! Metrics under the names that cAdvisor gives them inside the kubelet, one line each.
//!
//! Names, meanings and units are those of cadvisor:metrics/prometheus.go for the groups that the
//! kubelet switches on (CPU, memory, disk, disk IO, network, processes, OOM, pressure, huge pages).
//! Numbers are whole: the CRI has no others, so seconds are cut. Left out are
//! `container_health_state` and limits of -1 (not whole), series that only the root group has
//! (`container_fs_io_current` and the like), and those that the kubelet of 1.37 took out
//! (`container_cpu_load_average_10s`, `container_cpu_load_d_average_10s`, `container_tasks_state`).
//!
//! A metric that this machine cannot tell at all has no descriptor; one that cannot be read at the
//! moment has no value, and costs no other its own.

use crate::{FilesystemSpace, Interface, Processes, disk};
use cgroup::{Details, DeviceIo, HugePages, Mounts, Pressure, Stats, Version};
use std::path::Path;
use types::{Timestamp, container::Resources};

/// Labels of every metric, in this order.
pub const BASE_LABELS: [&str; 5] = ["id", "image", "namespace", "pod", "container"];

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// A line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Metric<F: 'static> {
    /// cAdvisor's name.
    pub name: &'static str,
    /// For people.
    pub help: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// Labels after [`BASE_LABELS`].
    pub labels: &'static [&'static str],
    /// Without it the metric is not there at all.
    pub needs: Needs,
    /// Its values.
    pub read: fn(&F) -> Vec<Value>,
}

/// One value, with those of the metric's own labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// One for each of [`Metric::labels`].
    pub labels: Vec<String>,
    /// The number.
    pub number: u64,
}

/// What a metric is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing special.
    Nothing,
    /// cgroup v2.
    V2,
    /// Pressure stall information, which only v2 has for groups.
    Pressure,
    /// The controller of huge pages.
    HugePages,
    /// That of v1, which remembers the peak.
    HugePagesV1,
    /// The controller of block IO.
    Io,
}

/// What a machine can tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Generation of cgroups.
    pub version: Version,
    /// Whether groups have pressure stall information.
    pub pressure: bool,
    /// Whether there is a controller of block IO.
    pub io: bool,
    /// Sizes of huge pages that groups count, as their files are named: `2MB`.
    pub huge_page_sizes: Vec<String>,
}

impl Machine {
    pub(crate) fn detect(mounts: &Mounts) -> Machine {
        let version = mounts.version();
        let has = |v1: &str, v2: &str| match version {
            Version::V1 => mounts.point(v1).is_some(),
            Version::V2 => mounts.point(v2).is_some_and(|point| {
                let text = std::fs::read_to_string(point.join("cgroup.controllers"));
                text.is_ok_and(|text| text.split_whitespace().any(|name| name == v2))
            }),
        };
        // The file is there and cannot be read where PSI is compiled in and switched off.
        let pressure = version == Version::V2 && std::fs::read("/proc/pressure/cpu").is_ok();
        let huge_page_sizes = if has("hugetlb", "hugetlb") {
            page_sizes(Path::new("/sys/kernel/mm/hugepages"))
        } else {
            Vec::new()
        };
        Machine { version, pressure, io: has("blkio", "io"), huge_page_sizes }
    }

    /// Whether it can tell a metric.
    #[must_use]
    pub fn has(&self, needs: Needs) -> bool {
        match needs {
            Needs::Nothing => true,
            Needs::V2 => self.version == Version::V2,
            Needs::Pressure => self.pressure,
            Needs::HugePages => !self.huge_page_sizes.is_empty(),
            Needs::HugePagesV1 => !self.huge_page_sizes.is_empty() && self.version == Version::V1,
            Needs::Io => self.io,
        }
    }

    /// The metrics of containers that it can tell.
    pub fn of_containers(&self) -> impl Iterator<Item = &'static Metric<Figures>> {
        CONTAINER.iter().filter(|metric| self.has(metric.needs))
    }
}

/// `hugepages-2048kB` as `2MB`.
fn page_sizes(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut sizes: Vec<u64> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()
        })
        .collect();
    sizes.sort_unstable();
    sizes.into_iter().map(page_size).collect()
}

/// As the files of the hugetlb controller are named (mm/hugetlb_cgroup.c).
fn page_size(kib: u64) -> String {
    match (kib % (1 << 20), kib % (1 << 10)) {
        (0, _) => format!("{}GB", kib >> 20),
        (_, 0) => format!("{}MB", kib >> 10),
        _ => format!("{kib}KB"),
    }
}

/// All that a container's metrics are made of.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Of its group.
    pub stats: Stats,
    /// Of its group.
    pub details: Details,
    /// Of its processes; absent if they could not be listed.
    pub processes: Option<Processes>,
    /// Of what it writes into its root file system; absent if that could not be looked at.
    pub disk: Option<Disk>,
    /// What it was asked to be.
    pub facts: Facts,
    /// When it was read.
    pub now: Timestamp,
}

/// A container's writable layer and the file system that it is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The device.
    pub device: String,
    /// The file system.
    pub space: FilesystemSpace,
    /// Bytes that the container has written.
    pub used: Option<u64>,
}

/// What a container was asked to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// When it was started.
    pub started_at: Timestamp,
    /// Its limits.
    pub resources: Resources,
}

const fn metric<F>(
    kind: Kind,
    needs: Needs,
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    read: fn(&F) -> Vec<Value>,
) -> Metric<F> {
    Metric { name, help, kind, labels, needs, read }
}

/// A value without labels of its own.
fn one(number: Option<u64>) -> Vec<Value> {
    number.map(|number| Value { labels: Vec::new(), number }).into_iter().collect()
}

fn labelled<const N: usize>(labels: [&str; N], number: Option<u64>) -> Option<Value> {
    number.map(|number| Value { labels: labels.map(str::to_owned).into(), number })
}

fn seconds(nanos: Option<u64>) -> Vec<Value> {
    one(nanos.map(|nanos| nanos / 1_000_000_000))
}

/// The period that the kernel has without a limit, microseconds.
const DEFAULT_PERIOD: u64 = 100_000;
/// The weight that a group has when nobody sets one.
const DEFAULT_SHARES: u64 = 1024;

impl Figures {
    /// What the quota did; cAdvisor tells it only where there is one.
    fn quota(&self, read: fn(&cgroup::Throttling) -> Option<u64>) -> Option<u64> {
        self.facts.resources.cpu_quota.filter(|quota| *quota > 0)?;
        self.stats.cpu.throttling.as_ref().or(self.details.throttling.as_ref()).and_then(read)
    }

    fn faults(&self) -> Vec<Value> {
        let (memory, parts) = (&self.stats.memory, &self.stats.memory.parts);
        [
            labelled(["pgfault", "container"], parts.own_page_faults),
            labelled(["pgmajfault", "container"], parts.own_major_page_faults),
            labelled(["pgfault", "hierarchy"], memory.page_faults),
            labelled(["pgmajfault", "hierarchy"], memory.major_page_faults),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn pages(&self, read: fn(&HugePages) -> Option<u64>) -> Vec<Value> {
        self.details.huge_pages.iter().filter_map(|pages| labelled([&pages.size], read(pages))).collect()
    }

    fn on_disk(&self, read: fn(&Disk) -> Option<u64>) -> Vec<Value> {
        self.disk.iter().filter_map(|disk| labelled([&disk.device], read(disk))).collect()
    }

    fn devices(&self) -> impl Iterator<Item = (&DeviceIo, String)> {
        let devices = self.stats.io.iter().flat_map(|io| &io.devices);
        devices.map(|device| (device, disk::device_name(device.major, device.minor)))
    }

    fn each_device(&self, read: fn(&DeviceIo) -> u64) -> Vec<Value> {
        self.devices().filter_map(|(device, name)| labelled([&name], Some(read(device)))).collect()
    }

    fn device_bytes(&self) -> Vec<Value> {
        let mut values = Vec::new();
        for (device, name) in self.devices() {
            let (major, minor) = (device.major.to_string(), device.minor.to_string());
            for (operation, bytes) in [("Read", device.read_bytes), ("Write", device.write_bytes)] {
                values.extend(labelled([&name, &major, &minor, operation], Some(bytes)));
            }
        }
        values
    }

    fn process(&self, read: fn(&Processes) -> Option<u64>) -> Vec<Value> {
        one(self.processes.as_ref().and_then(read))
    }

    /// `memory.min`, which the kubelet sets for what must not be reclaimed; 0 without.
    fn reservation(&self) -> u64 {
        self.facts.resources.unified.get("memory.min").and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }
}

/// 0 stands for no limit, as in cAdvisor.
fn limit(bytes: Option<i64>) -> Vec<Value> {
    one(Some(bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0)))
}

/// Some tasks wait, or all are stalled; microseconds in the file.
fn waited(pressure: Option<&Pressure>, full: bool) -> Vec<Value> {
    let micros = pressure.map(|pressure| if full { pressure.full.total } else { pressure.some.total });
    one(micros.map(|micros| micros / 1_000_000))
}

fn seconds_of(at: Timestamp) -> Option<u64> {
    u64::try_from(at.0 / 1_000_000_000).ok().filter(|seconds| *seconds > 0)
}

use Kind::{Counter, Gauge};
use Needs::{HugePages as Huge, HugePagesV1, Io, Nothing, Pressure as Psi, V2};

/// Metrics of a container.
#[rustfmt::skip]
pub const CONTAINER: &[Metric<Figures>] = &[
    metric(Gauge, Nothing, "container_last_seen", "Last time a container was seen by the exporter", &[], |f| one(seconds_of(f.now))),
    metric(Gauge, Nothing, "container_start_time_seconds", "Start time of the container since unix epoch in seconds.", &[], |f| one(seconds_of(f.facts.started_at))),

    metric(Counter, Nothing, "container_cpu_user_seconds_total", "Cumulative user cpu time consumed in seconds.", &[], |f| seconds(f.stats.cpu.user_nanos.or(f.details.user_nanos))),
    metric(Counter, Nothing, "container_cpu_system_seconds_total", "Cumulative system cpu time consumed in seconds.", &[], |f| seconds(f.stats.cpu.system_nanos.or(f.details.system_nanos))),
    metric(Counter, Nothing, "container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", &["cpu"], |f| labelled(["total"], f.stats.cpu.usage_nanos.map(|nanos| nanos / 1_000_000_000)).into_iter().collect()),
    metric(Counter, Nothing, "container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals.", &[], |f| one(f.quota(|t| Some(t.periods)))),
    metric(Counter, Nothing, "container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals.", &[], |f| one(f.quota(|t| Some(t.throttled_periods)))),
    metric(Counter, Nothing, "container_cpu_cfs_throttled_seconds_total", "Total time duration the container has been throttled.", &[], |f| seconds(f.quota(|t| Some(t.throttled_nanos)))),
    metric(Counter, Nothing, "container_cpu_cfs_burst_periods_total", "Number of periods when burst occurs.", &[], |f| one(f.quota(|t| t.bursts))),
    metric(Counter, Nothing, "container_cpu_cfs_burst_seconds_total", "Total time duration the container has been bursted.", &[], |f| seconds(f.quota(|t| t.burst_nanos))),

    metric(Counter, Huge, "container_hugetlb_failcnt", "Number of hugepage usage hits limits", &["pagesize"], |f| f.pages(|p| p.limit_hits)),
    metric(Gauge, Huge, "container_hugetlb_usage_bytes", "Current hugepage usage in bytes", &["pagesize"], |f| f.pages(|p| Some(p.usage))),
    metric(Gauge, HugePagesV1, "container_hugetlb_max_usage_bytes", "Maximum hugepage usage recorded in bytes", &["pagesize"], |f| f.pages(|p| p.peak)),

    metric(Gauge, Nothing, "container_memory_cache", "Number of bytes of page cache memory.", &[], |f| one(f.stats.memory.parts.cache)),
    metric(Gauge, Nothing, "container_memory_rss", "Size of RSS in bytes.", &[], |f| one(f.stats.memory.rss)),
    metric(Gauge, Nothing, "container_memory_kernel_usage", "Size of kernel memory allocated in bytes.", &[], |f| one(f.stats.memory.parts.kernel.or(f.details.kernel_memory))),
    metric(Gauge, Nothing, "container_memory_mapped_file", "Size of memory mapped files in bytes.", &[], |f| one(f.stats.memory.parts.mapped_file)),
    metric(Gauge, Nothing, "container_memory_swap", "Container swap usage in bytes.", &[], |f| one(f.stats.memory.swap)),
    metric(Counter, Nothing, "container_memory_failcnt", "Number of memory usage hits limits", &[], |f| one(f.details.memory_limit_hits)),
    metric(Gauge, Nothing, "container_memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it was accessed", &[], |f| one(f.stats.memory.usage)),
    metric(Gauge, Nothing, "container_memory_max_usage_bytes", "Maximum memory usage recorded in bytes", &[], |f| one(f.details.memory_peak)),
    metric(Gauge, Nothing, "container_memory_working_set_bytes", "Current working set in bytes.", &[], |f| one(f.stats.memory.working_set)),
    metric(Gauge, Nothing, "container_memory_total_active_file_bytes", "Current total active file in bytes.", &[], |f| one(f.stats.memory.parts.active_file)),
    metric(Gauge, Nothing, "container_memory_total_inactive_file_bytes", "Current total inactive file in bytes.", &[], |f| one(f.stats.memory.parts.inactive_file)),
    metric(Counter, Nothing, "container_memory_failures_total", "Cumulative count of memory allocation failures.", &["failure_type", "scope"], Figures::faults),
    metric(Counter, V2, "container_memory_events_high_total", "Cumulative count of memory.high throttle events for the container", &[], |f| one(f.details.memory_high_events)),
    metric(Counter, V2, "container_memory_events_max_total", "Cumulative count of memory.max limit hit events for the container", &[], |f| one(f.details.memory_max_events)),
    metric(Gauge, Nothing, "container_memory_file_dirty_bytes", "Number of bytes of file cache that has been modified but not yet written back to disk.", &[], |f| one(f.stats.memory.parts.file_dirty)),
    metric(Gauge, Nothing, "container_memory_file_writeback_bytes", "Number of bytes of file cache that is currently being written back to disk.", &[], |f| one(f.stats.memory.parts.file_writeback)),
    metric(Counter, V2, "container_memory_pgscan_total", "Cumulative number of pages scanned by the page reclaim algorithm.", &[], |f| one(f.stats.memory.parts.pgscan)),
    metric(Counter, V2, "container_memory_pgsteal_total", "Cumulative number of pages reclaimed by the page reclaim algorithm.", &[], |f| one(f.stats.memory.parts.pgsteal)),
    metric(Counter, Nothing, "container_memory_workingset_refault_file_total", "Cumulative number of refaults of previously evicted file pages.", &[], |f| one(f.stats.memory.parts.refault_file)),
    metric(Counter, Nothing, "container_memory_workingset_refault_anon_total", "Cumulative number of refaults of previously evicted anonymous pages.", &[], |f| one(f.stats.memory.parts.refault_anon)),
    metric(Counter, Nothing, "container_oom_events_total", "Count of out of memory events observed for the container", &[], |f| one(f.details.oom_kills)),

    metric(Gauge, Nothing, "container_fs_inodes_free", "Number of available Inodes", &["device"], |f| f.on_disk(|d| Some(d.space.inodes.saturating_sub(d.space.inodes_used)))),
    metric(Gauge, Nothing, "container_fs_inodes_total", "Number of Inodes", &["device"], |f| f.on_disk(|d| Some(d.space.inodes))),
    metric(Gauge, Nothing, "container_fs_limit_bytes", "Number of bytes that can be consumed by the container on this filesystem.", &["device"], |f| f.on_disk(|d| Some(d.space.capacity))),
    metric(Gauge, Nothing, "container_fs_usage_bytes", "Number of bytes that are consumed by the container on this filesystem.", &["device"], |f| f.on_disk(|d| d.used)),
    metric(Counter, Io, "container_fs_reads_bytes_total", "Cumulative count of bytes read", &["device"], |f| f.each_device(|d| d.read_bytes)),
    metric(Counter, Io, "container_fs_reads_total", "Cumulative count of reads completed", &["device"], |f| f.each_device(|d| d.reads)),
    metric(Counter, Io, "container_fs_writes_bytes_total", "Cumulative count of bytes written", &["device"], |f| f.each_device(|d| d.write_bytes)),
    metric(Counter, Io, "container_fs_writes_total", "Cumulative count of writes completed", &["device"], |f| f.each_device(|d| d.writes)),
    metric(Counter, Io, "container_blkio_device_usage_total", "Blkio Device bytes usage", &["device", "major", "minor", "operation"], Figures::device_bytes),

    metric(Gauge, Nothing, "container_processes", "Number of processes running inside the container.", &[], |f| f.process(|p| Some(p.count))),
    metric(Gauge, Nothing, "container_file_descriptors", "Number of open file descriptors for the container.", &[], |f| f.process(|p| p.descriptors)),
    metric(Gauge, Nothing, "container_sockets", "Number of open sockets for the container.", &[], |f| f.process(|p| p.sockets)),
    metric(Gauge, Nothing, "container_threads_max", "Maximum number of threads allowed inside the container, infinity if value is zero", &[], |f| one(f.stats.pids.map(|_| f.stats.pids_limit.unwrap_or(0)))),
    metric(Gauge, Nothing, "container_threads", "Number of threads running inside the container", &[], |f| one(f.stats.pids)),
    metric(Gauge, Nothing, "container_ulimits_soft", "Soft ulimit values for the container root process. Unlimited if -1, except priority and nice", &["ulimit"], |f| f.processes.as_ref().and_then(|p| labelled(["max_open_files"], p.open_files_limit)).into_iter().collect()),

    metric(Counter, Psi, "container_pressure_cpu_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to CPU congestion.", &[], |f| waited(f.stats.cpu.pressure.as_ref(), true)),
    metric(Counter, Psi, "container_pressure_cpu_waiting_seconds_total", "Total time duration tasks in the container have waited due to CPU congestion.", &[], |f| waited(f.stats.cpu.pressure.as_ref(), false)),
    metric(Counter, Psi, "container_pressure_memory_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to memory congestion.", &[], |f| waited(f.stats.memory.pressure.as_ref(), true)),
    metric(Counter, Psi, "container_pressure_memory_waiting_seconds_total", "Total time duration tasks in the container have waited due to memory congestion.", &[], |f| waited(f.stats.memory.pressure.as_ref(), false)),
    metric(Counter, Psi, "container_pressure_io_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to IO congestion.", &[], |f| waited(f.stats.io.as_ref().and_then(|io| io.pressure.as_ref()), true)),
    metric(Counter, Psi, "container_pressure_io_waiting_seconds_total", "Total time duration tasks in the container have waited due to IO congestion.", &[], |f| waited(f.stats.io.as_ref().and_then(|io| io.pressure.as_ref()), false)),

    metric(Gauge, Nothing, "container_spec_cpu_period", "CPU period of the container.", &[], |f| one(Some(f.facts.resources.cpu_period.unwrap_or(DEFAULT_PERIOD)))),
    metric(Gauge, Nothing, "container_spec_cpu_quota", "CPU quota of the container.", &[], |f| one(f.facts.resources.cpu_quota.and_then(|quota| u64::try_from(quota).ok()).filter(|quota| *quota > 0))),
    metric(Gauge, Nothing, "container_spec_cpu_shares", "CPU share of the container.", &[], |f| one(Some(f.facts.resources.cpu_shares.unwrap_or(DEFAULT_SHARES)))),
    metric(Gauge, Nothing, "container_spec_memory_limit_bytes", "Memory limit for the container.", &[], |f| limit(f.facts.resources.memory_limit)),
    metric(Gauge, Nothing, "container_spec_memory_swap_limit_bytes", "Memory swap limit for the container.", &[], |f| limit(f.facts.resources.memory_swap_limit.or(f.facts.resources.memory_limit))),
    metric(Gauge, Nothing, "container_spec_memory_reservation_limit_bytes", "Memory reservation limit for the container.", &[], |f| one(Some(f.reservation()))),
];

fn of_interface(interface: &Interface, number: u64) -> Vec<Value> {
    labelled([&interface.name], Some(number)).into_iter().collect()
}

/// Metrics of a pod: of each interface.
#[rustfmt::skip]
pub const POD: &[Metric<Interface>] = &[
    metric(Counter, Nothing, "container_network_receive_bytes_total", "Cumulative count of bytes received", &["interface"], |i| of_interface(i, i.rx_bytes)),
    metric(Counter, Nothing, "container_network_receive_packets_total", "Cumulative count of packets received", &["interface"], |i| of_interface(i, i.rx_packets)),
    metric(Counter, Nothing, "container_network_receive_packets_dropped_total", "Cumulative count of packets dropped while receiving", &["interface"], |i| of_interface(i, i.rx_dropped)),
    metric(Counter, Nothing, "container_network_receive_errors_total", "Cumulative count of errors encountered while receiving", &["interface"], |i| of_interface(i, i.rx_errors)),
    metric(Counter, Nothing, "container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", &["interface"], |i| of_interface(i, i.tx_bytes)),
    metric(Counter, Nothing, "container_network_transmit_packets_total", "Cumulative count of packets transmitted", &["interface"], |i| of_interface(i, i.tx_packets)),
    metric(Counter, Nothing, "container_network_transmit_packets_dropped_total", "Cumulative count of packets dropped while transmitting", &["interface"], |i| of_interface(i, i.tx_dropped)),
    metric(Counter, Nothing, "container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting", &["interface"], |i| of_interface(i, i.tx_errors)),
];

#[cfg(test)]
mod tests;
