//! Files as they were recorded on machines of both generations.

use super::*;

/// Controller, file and content.
pub(crate) type Recorded = &'static [(&'static str, &'static str, &'static str)];

/// A machine with cgroup v1 and Linux 6.18: its memory controller has no PSI and no reclaim counts.
pub(crate) const V1: Recorded = &[
    ("cpuacct", "cpuacct.usage", "4500000000\n"),
    ("cpuacct", "cpuacct.usage_user", "3000000000\n"),
    ("cpuacct", "cpuacct.usage_sys", "1500000000\n"),
    (
        "cpu",
        "cpu.stat",
        "nr_periods 120\nnr_throttled 30\nthrottled_time 2500000000\nnr_bursts 2\nburst_time 900\n",
    ),
    ("memory", "memory.usage_in_bytes", "8000000\n"),
    ("memory", "memory.max_usage_in_bytes", "9000000\n"),
    ("memory", "memory.kmem.usage_in_bytes", "65536\n"),
    ("memory", "memory.failcnt", "4\n"),
    ("memory", "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"),
    ("memory", "memory.limit_in_bytes", "67108864\n"),
    ("memory", "memory.memsw.limit_in_bytes", "9223372036854771712\n"),
    (
        "memory",
        "memory.stat",
        "cache 10\nrss 20\npgfault 30\npgmajfault 3\ninactive_file 1\ntotal_cache 5000000\ntotal_rss 2000000\n\
         total_rss_huge 0\ntotal_mapped_file 400000\ntotal_dirty 8192\ntotal_writeback 4096\n\
         total_workingset_refault_anon 5\ntotal_workingset_refault_file 6\ntotal_swap 12288\n\
         total_pgfault 3000\ntotal_pgmajfault 33\ntotal_inactive_file 3000000\ntotal_active_file 1500000\n",
    ),
    ("pids", "pids.current", "7\n"),
    ("pids", "pids.max", "max\n"),
    (
        "blkio",
        "blkio.throttle.io_service_bytes_recursive",
        "254:0 Read 4096\n254:0 Write 8192\n254:0 Sync 1\n254:0 Total 12288\n8:16 Read 512\n8:16 Write 0\nTotal 12800\n",
    ),
    ("blkio", "blkio.throttle.io_serviced_recursive", "254:0 Read 1\n254:0 Write 2\n8:16 Read 1\nTotal 4\n"),
    ("hugetlb", "hugetlb.2MB.usage_in_bytes", "4194304\n"),
    ("hugetlb", "hugetlb.2MB.max_usage_in_bytes", "6291456\n"),
    ("hugetlb", "hugetlb.2MB.failcnt", "1\n"),
];

/// A machine with cgroup v2 and Linux 6.12.
pub(crate) const V2: Recorded = &[
    (
        "",
        "cpu.stat",
        "usage_usec 4500000\nuser_usec 3000000\nsystem_usec 1500000\nnice_usec 0\ncore_sched.force_idle_usec 0\n\
         nr_periods 120\nnr_throttled 30\nthrottled_usec 2500000\nnr_bursts 2\nburst_usec 900\n",
    ),
    (
        "",
        "cpu.pressure",
        "some avg10=1.50 avg60=0.20 avg300=0.03 total=123456\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=77\n",
    ),
    (
        "",
        "memory.pressure",
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=5\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=4\n",
    ),
    (
        "",
        "io.pressure",
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=3\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=2\n",
    ),
    ("", "memory.current", "8000000\n"),
    ("", "memory.peak", "9000000\n"),
    ("", "memory.max", "67108864\n"),
    ("", "memory.swap.current", "12288\n"),
    ("", "memory.swap.max", "max\n"),
    ("", "memory.events", "low 0\nhigh 7\nmax 11\noom 3\noom_kill 2\noom_group_kill 0\n"),
    (
        "",
        "memory.stat",
        "anon 2000000\nfile 5000000\nkernel 65536\nkernel_stack 16384\nfile_mapped 400000\nfile_dirty 8192\n\
         file_writeback 4096\ninactive_anon 0\nactive_anon 0\ninactive_file 3000000\nactive_file 1500000\n\
         workingset_refault_anon 5\nworkingset_refault_file 6\npgscan 40\npgsteal 39\npgscan_kswapd 0\n\
         pgfault 3000\npgmajfault 33\n",
    ),
    ("", "pids.current", "7\n"),
    ("", "pids.max", "100\n"),
    (
        "",
        "io.stat",
        "254:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n8:16 rbytes=512 wbytes=0 rios=1 wios=0\n",
    ),
    ("", "hugetlb.2MB.current", "2097152\n"),
    ("", "hugetlb.2MB.events", "max 3\n"),
];

/// Reads what was recorded; anything else is not there.
pub(crate) fn recorded(files: Recorded) -> impl Fn(&str, &str) -> Result<Option<String>, CgroupError> {
    move |controller, file| {
        let found = files.iter().find(|(of, name, _)| *of == controller && *name == file);
        Ok(found.map(|(_, _, content)| (*content).to_owned()))
    }
}

/// Both generations tell the same of the same.
fn assert_common(stats: &Stats) {
    assert_eq!(stats.cpu.usage_nanos, Some(4_500_000_000));
    let memory = &stats.memory;
    assert_eq!((memory.usage, memory.working_set), (Some(8_000_000), Some(5_000_000)));
    assert_eq!((memory.rss, memory.limit), (Some(2_000_000), Some(67_108_864)));
    assert_eq!((memory.page_faults, memory.major_page_faults), (Some(3000), Some(33)));
    assert_eq!((memory.swap, memory.swap_limit), (Some(12_288), None));
    let parts = &memory.parts;
    assert_eq!((parts.cache, parts.mapped_file), (Some(5_000_000), Some(400_000)));
    assert_eq!((parts.active_file, parts.inactive_file), (Some(1_500_000), Some(3_000_000)));
    assert_eq!((parts.file_dirty, parts.file_writeback), (Some(8192), Some(4096)));
    assert_eq!((parts.refault_file, parts.refault_anon), (Some(6), Some(5)));
    assert_eq!(stats.pids, Some(7));
    let io = stats.io.as_ref().unwrap();
    assert_eq!((io.read_bytes, io.write_bytes, io.reads, io.writes), (4608, 8192, 2, 2));
    let first = DeviceIo { major: 8, minor: 16, read_bytes: 512, write_bytes: 0, reads: 1, writes: 0 };
    let second = DeviceIo { major: 254, minor: 0, read_bytes: 4096, write_bytes: 8192, reads: 1, writes: 2 };
    assert_eq!(io.devices, [first, second]);
}

#[test]
fn recorded_files_of_v1_are_read() {
    let stats = v1(&recorded(V1)).unwrap();
    assert_common(&stats);
    assert_eq!((stats.cpu.user_nanos, stats.cpu.throttling, stats.pids_limit), (None, None, None));
    assert_eq!((stats.cpu.pressure, stats.memory.pressure, stats.io.unwrap().pressure), (None, None, None));
    let parts = stats.memory.parts;
    assert_eq!((parts.kernel, parts.pgscan, parts.own_page_faults), (None, None, Some(30)));
}

#[test]
fn recorded_files_of_v2_are_read() {
    let stats = v2(&recorded(V2)).unwrap();
    assert_common(&stats);
    assert_eq!((stats.cpu.user_nanos, stats.cpu.system_nanos), (Some(3_000_000_000), Some(1_500_000_000)));
    let throttling = stats.cpu.throttling.unwrap();
    assert_eq!((throttling.throttled_nanos, throttling.burst_nanos), (2_500_000_000, Some(900_000)));
    assert_eq!(stats.pids_limit, Some(100));
    let pressure = stats.cpu.pressure.unwrap();
    assert_eq!((pressure.some.avg10, pressure.some.total, pressure.full.total), (150, 123_456, 77));
    assert_eq!(stats.io.unwrap().pressure.unwrap().full.total, 2);
    let parts = stats.memory.parts;
    assert_eq!((parts.kernel, parts.pgscan, parts.pgsteal), (Some(65_536), Some(40), Some(39)));
}

#[test]
fn a_group_without_controllers_tells_nothing() {
    for read in [v1, v2] {
        assert_eq!(read(&recorded(&[])).unwrap(), Stats::default());
    }
}
