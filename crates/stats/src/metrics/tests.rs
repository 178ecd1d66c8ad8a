//! The table: its names, and what it makes of figures.

use super::*;
use std::collections::{BTreeMap, BTreeSet};

/// What the kubelet of 1.37 gives of a container with cAdvisor behind it
/// (cri-tools:pkg/validate/pod.go).
const KUBELET: &str = "
container_blkio_device_usage_total container_cpu_cfs_periods_total container_cpu_cfs_throttled_periods_total
container_cpu_cfs_throttled_seconds_total container_cpu_system_seconds_total container_cpu_usage_seconds_total
container_cpu_user_seconds_total container_file_descriptors container_fs_inodes_free container_fs_inodes_total
container_fs_limit_bytes container_fs_reads_bytes_total container_fs_reads_total container_fs_usage_bytes
container_fs_writes_bytes_total container_fs_writes_total container_hugetlb_max_usage_bytes
container_hugetlb_usage_bytes container_last_seen container_memory_cache container_memory_failcnt
container_memory_failures_total container_memory_kernel_usage container_memory_mapped_file
container_memory_max_usage_bytes container_memory_rss container_memory_swap container_memory_usage_bytes
container_memory_working_set_bytes container_network_receive_bytes_total container_network_receive_errors_total
container_network_receive_packets_dropped_total container_network_receive_packets_total
container_network_transmit_bytes_total container_network_transmit_errors_total
container_network_transmit_packets_dropped_total container_network_transmit_packets_total
container_oom_events_total container_pressure_cpu_stalled_seconds_total
container_pressure_cpu_waiting_seconds_total container_pressure_io_stalled_seconds_total
container_pressure_io_waiting_seconds_total container_pressure_memory_stalled_seconds_total
container_pressure_memory_waiting_seconds_total container_processes container_sockets container_spec_cpu_period
container_spec_cpu_quota container_spec_cpu_shares container_spec_memory_limit_bytes
container_spec_memory_reservation_limit_bytes container_spec_memory_swap_limit_bytes
container_start_time_seconds container_threads container_threads_max container_ulimits_soft
container_memory_events_high_total container_memory_events_max_total
";

fn pressure(some: u64, full: u64) -> Option<Pressure> {
    let line = |total| cgroup::Stall { total, ..Default::default() };
    Some(Pressure { some: line(some), full: line(full) })
}

/// A container that has something of everything.
fn figures() -> Figures {
    let throttling = cgroup::Throttling {
        periods: 120,
        throttled_periods: 30,
        throttled_nanos: 2_500_000_000,
        bursts: Some(2),
        burst_nanos: Some(1_000_000_000),
    };
    let parts = cgroup::MemoryParts {
        cache: Some(1),
        kernel: Some(2),
        mapped_file: Some(3),
        active_file: Some(4),
        inactive_file: Some(5),
        file_dirty: Some(6),
        file_writeback: Some(7),
        pgscan: Some(8),
        pgsteal: Some(9),
        refault_file: Some(10),
        refault_anon: Some(11),
        own_page_faults: Some(12),
        own_major_page_faults: Some(13),
    };
    let device = DeviceIo { major: 0, minor: 77, read_bytes: 1, write_bytes: 2, reads: 3, writes: 4 };
    Figures {
        stats: Stats {
            cpu: cgroup::Cpu {
                usage_nanos: Some(4_999_999_999),
                user_nanos: Some(3_000_000_000),
                system_nanos: Some(1_000_000_000),
                throttling: Some(throttling),
                pressure: pressure(1_999_999, 1_000_000),
            },
            memory: cgroup::Memory {
                usage: Some(100),
                working_set: Some(95),
                rss: Some(50),
                page_faults: Some(14),
                major_page_faults: Some(15),
                limit: Some(1000),
                swap: Some(16),
                swap_limit: None,
                parts,
                pressure: pressure(2_000_000, 3_000_000),
            },
            pids: Some(5),
            pids_limit: None,
            io: Some(cgroup::Io {
                devices: vec![device],
                pressure: pressure(4_000_000, 5_000_000),
                ..Default::default()
            }),
        },
        details: Details {
            memory_peak: Some(200),
            memory_limit_hits: Some(17),
            memory_high_events: Some(18),
            memory_max_events: Some(17),
            oom_kills: Some(19),
            huge_pages: vec![HugePages { size: "2MB".into(), usage: 1, peak: Some(2), limit_hits: Some(3) }],
            ..Details::default()
        },
        processes: Some(Processes {
            count: 3,
            descriptors: Some(20),
            sockets: Some(2),
            open_files_limit: Some(1024),
        }),
        disk: Some(Disk {
            device: "/dev/vda".to_owned(),
            space: FilesystemSpace {
                capacity: 1000,
                available: 400,
                used: 500,
                inodes: 100,
                inodes_used: 30,
            },
            used: Some(21),
        }),
        facts: Facts {
            started_at: Timestamp(1_700_000_000_900_000_000),
            resources: Resources {
                cpu_quota: Some(20_000),
                memory_limit: Some(1000),
                unified: [("memory.min".to_owned(), "22".to_owned())].into(),
                ..Resources::default()
            },
        },
        now: Timestamp(1_700_000_100_000_000_000),
    }
}

fn all(figures: &Figures) -> BTreeMap<&'static str, Vec<Value>> {
    CONTAINER.iter().map(|metric| (metric.name, (metric.read)(figures))).collect()
}

#[test]
fn every_name_that_the_kubelet_gives_is_there_once() {
    let names: Vec<&str> = CONTAINER.iter().map(|m| m.name).chain(POD.iter().map(|m| m.name)).collect();
    let set: BTreeSet<&str> = names.iter().copied().collect();
    assert_eq!(set.len(), names.len(), "a name comes twice");
    let missing: Vec<&str> = KUBELET.split_whitespace().filter(|name| !set.contains(name)).collect();
    assert_eq!(missing, [] as [&str; 0]);
    for gone in
        ["container_cpu_load_average_10s", "container_cpu_load_d_average_10s", "container_tasks_state"]
    {
        assert!(!set.contains(gone), "{gone} is no more in 1.37");
    }
}

#[test]
fn every_metric_has_a_value_with_as_many_labels_as_it_says() {
    let interface = Interface { name: "eth0".to_owned(), ..Interface::default() };
    let check = |name: &str, labels: usize, values: Vec<Value>| {
        assert!(!values.is_empty(), "{name} has no value");
        for value in values {
            assert_eq!(value.labels.len(), labels, "{name}");
        }
    };
    for metric in CONTAINER {
        assert!(!metric.help.is_empty());
        check(metric.name, metric.labels.len(), (metric.read)(&figures()));
    }
    for metric in POD {
        check(metric.name, metric.labels.len(), (metric.read)(&interface));
    }
    // A counter's name ends so, but for two that are older than the custom; inodes are no events.
    for metric in CONTAINER {
        let name = metric.name;
        let counts =
            (name.ends_with("_total") && !name.ends_with("_inodes_total")) || name.ends_with("failcnt");
        assert_eq!(counts, metric.kind == Kind::Counter, "{}", metric.name);
    }
}

#[test]
fn units_are_those_of_cadvisor() {
    let all = all(&figures());
    let number = |name: &str| all[name].iter().map(|value| value.number).collect::<Vec<_>>();
    for (name, want) in [
        ("container_start_time_seconds", 1_700_000_000),
        ("container_last_seen", 1_700_000_100),
        ("container_cpu_usage_seconds_total", 4),
        ("container_cpu_user_seconds_total", 3),
        ("container_cpu_cfs_throttled_seconds_total", 2),
        ("container_cpu_cfs_burst_seconds_total", 1),
        ("container_pressure_cpu_waiting_seconds_total", 1),
        ("container_pressure_cpu_stalled_seconds_total", 1),
        ("container_pressure_memory_waiting_seconds_total", 2),
        ("container_pressure_memory_stalled_seconds_total", 3),
        ("container_pressure_io_waiting_seconds_total", 4),
        ("container_pressure_io_stalled_seconds_total", 5),
        ("container_memory_working_set_bytes", 95),
        ("container_memory_max_usage_bytes", 200),
        ("container_threads", 5),
        ("container_threads_max", 0),
        ("container_fs_inodes_free", 70),
        ("container_fs_limit_bytes", 1000),
        ("container_spec_cpu_period", 100_000),
        ("container_spec_cpu_shares", 1024),
        ("container_spec_cpu_quota", 20_000),
        ("container_spec_memory_limit_bytes", 1000),
        ("container_spec_memory_swap_limit_bytes", 1000),
        ("container_spec_memory_reservation_limit_bytes", 22),
    ] {
        assert_eq!(number(name), [want], "{name}");
    }
    let labels = |name: &str| all[name].iter().map(|value| value.labels.join("/")).collect::<Vec<_>>();
    assert_eq!(labels("container_cpu_usage_seconds_total"), ["total"]);
    assert_eq!(labels("container_blkio_device_usage_total"), ["0:77/0/77/Read", "0:77/0/77/Write"]);
    assert_eq!(labels("container_fs_usage_bytes"), ["/dev/vda"]);
    assert_eq!(labels("container_ulimits_soft"), ["max_open_files"]);
    let failures = ["pgfault/container", "pgmajfault/container", "pgfault/hierarchy", "pgmajfault/hierarchy"];
    assert_eq!(labels("container_memory_failures_total"), failures);
}

#[test]
fn what_cannot_be_read_costs_no_other_its_value() {
    let mut without = figures();
    without.processes = None;
    without.disk = None;
    without.stats.memory.parts.cache = None;
    without.stats.io = None;
    let (full, less) = (all(&figures()), all(&without));
    let lost: BTreeSet<&str> = full.keys().filter(|name| less[*name].is_empty()).copied().collect();
    let want: BTreeSet<&str> = full
        .keys()
        .filter(|name| {
            ["_fs_", "_blkio_", "_processes", "_descriptors", "_sockets", "_ulimits", "_memory_cache", "_io_"]
                .iter()
                .any(|part| name.contains(part))
        })
        .copied()
        .collect();
    assert_eq!(lost, want);
}

#[test]
fn without_a_quota_nothing_is_told_of_it() {
    let mut without = figures();
    without.facts.resources.cpu_quota = Some(-1);
    let all = all(&without);
    for (name, values) in all {
        if name.contains("_cfs_") || name.ends_with("_cpu_quota") {
            assert!(values.is_empty(), "{name}");
        }
    }
}

#[test]
fn a_machine_has_descriptors_for_what_it_can_tell() {
    let machine = |version, pressure, io, sizes: &[&str]| Machine {
        version,
        pressure,
        io,
        huge_page_sizes: sizes.iter().map(|size| (*size).to_owned()).collect(),
    };
    let has = |machine: &Machine, name: &str| machine.of_containers().any(|metric| metric.name == name);
    let old = machine(Version::V1, false, true, &["2MB"]);
    assert!(has(&old, "container_hugetlb_max_usage_bytes") && has(&old, "container_fs_reads_total"));
    assert!(!has(&old, "container_memory_events_high_total"));
    assert!(!has(&old, "container_pressure_io_waiting_seconds_total"));
    let new = machine(Version::V2, true, false, &[]);
    assert!(has(&new, "container_memory_events_high_total"));
    assert!(has(&new, "container_pressure_io_waiting_seconds_total"));
    assert!(!has(&new, "container_hugetlb_usage_bytes") && !has(&new, "container_fs_reads_total"));
    // All of it, on a machine that has everything; the peak of huge pages is v1's alone.
    let full = machine(Version::V2, true, true, &["2MB"]);
    assert_eq!(full.of_containers().count(), CONTAINER.len() - 1);
}

#[test]
fn huge_pages_are_named_as_their_files_are() {
    assert_eq!([64, 2048, 1 << 20, 16 << 20].map(page_size), ["64KB", "2MB", "1GB", "16GB"]);
}
