//! Real files and a real group, as root.

use crate::{ContainerStats, Reader, StatsError, Target, directory, filesystem, metrics, reader::rate};
use cgroup::{Cgroup, CgroupPath, Mounts};
use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};
use types::Timestamp;

/// A directory that is gone at the end of the test.
struct Temporary(PathBuf);

impl Temporary {
    fn new(name: &str) -> Temporary {
        let path = std::env::temp_dir().join(format!("peapod-test-{}-stats-{name}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Temporary(path)
    }

    fn file(&self, name: &str, bytes: usize) -> PathBuf {
        let path = self.0.join(name);
        let mut file = File::create(&path).unwrap();
        file.write_all(&vec![1; bytes]).unwrap();
        file.sync_all().unwrap();
        path
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        sys::tree::remove_path(&self.0).unwrap();
    }
}

#[test]
fn a_tree_is_measured_by_its_blocks_and_each_inode_once() {
    let tree = Temporary::new("tree");
    let empty = directory(&tree.0).unwrap();
    assert_eq!(empty.inodes, 1);
    let file = tree.file("a", 100_000);
    fs::hard_link(&file, tree.0.join("b")).unwrap();
    symlink("/usr", tree.0.join("link")).unwrap();
    fs::create_dir(tree.0.join("sub")).unwrap();
    tree.file("sub/c", 50_000);
    let full = directory(&tree.0).unwrap();
    // a (once), link, sub, c and the root.
    assert_eq!(full.inodes, 5);
    let more = full.bytes - empty.bytes;
    assert!((150_000..200_000).contains(&more), "{more}");
    assert!(!full.truncated);
}

#[test]
fn a_sparse_file_counts_what_it_takes() {
    let tree = Temporary::new("sparse");
    let before = directory(&tree.0).unwrap().bytes;
    File::create(tree.0.join("hole")).unwrap().set_len(1 << 30).unwrap();
    assert!(directory(&tree.0).unwrap().bytes - before < 1 << 20);
}

#[test]
fn a_link_in_place_of_the_tree_is_not_followed() {
    let tree = Temporary::new("link");
    symlink("/usr", tree.0.join("link")).unwrap();
    assert!(matches!(directory(&tree.0.join("link")), Err(StatsError::Disk { .. })));
    let gone = directory(&tree.0.join("gone")).unwrap_err();
    assert!(gone.is_gone(), "{gone}");
}

#[test]
fn a_tree_that_is_too_deep_is_measured_in_part() {
    let tree = Temporary::new("deep");
    let mut path = tree.0.clone();
    for _ in 0..140 {
        path.push("d");
    }
    fs::create_dir_all(&path).unwrap();
    let usage = directory(&tree.0).unwrap();
    assert!(usage.truncated);
    assert_eq!(usage.inodes, 129);
}

#[test]
fn a_file_system_has_space() {
    let space = filesystem(Path::new("/")).unwrap();
    assert!(space.capacity > 0 && space.used <= space.capacity && space.available <= space.capacity);
    assert!(filesystem(Path::new("/no/such/place")).unwrap_err().is_gone());
}

#[test]
fn the_rate_is_what_was_used_in_a_second() {
    assert_eq!(rate(1000, 501_000, Duration::from_millis(1)), Some(500_000_000));
    assert_eq!(rate(0, 2_000_000_000, Duration::from_secs(1)), Some(2_000_000_000));
    assert_eq!(rate(5, 4, Duration::from_secs(1)), None);
    assert_eq!(rate(4, 5, Duration::ZERO), None);
    assert_eq!(rate(0, u64::MAX, Duration::from_nanos(1)), None);
}

#[test]
fn numbers_of_a_group_become_those_of_a_container() {
    let stall = |avg10, total| cgroup::Stall { avg10, avg60: 0, avg300: 0, total };
    let group = cgroup::Stats {
        cpu: cgroup::Cpu {
            usage_nanos: Some(7),
            pressure: Some(cgroup::Pressure { some: stall(1234, 5), full: stall(0, 0) }),
            ..cgroup::Cpu::default()
        },
        memory: cgroup::Memory {
            usage: Some(100),
            working_set: Some(60),
            limit: Some(90),
            swap: Some(5),
            swap_limit: None,
            ..cgroup::Memory::default()
        },
        ..cgroup::Stats::default()
    };
    let stats = ContainerStats::from_group(&group, Timestamp(3));
    assert_eq!(stats.timestamp, Timestamp(3));
    assert_eq!(stats.cpu.usage_core_nanos, Some(7));
    let psi = stats.cpu.psi.unwrap();
    assert!((psi.some.avg10 - 12.34).abs() < 1e-9 && psi.some.total_nanos == 5000);
    assert_eq!(stats.memory.available, Some(30));
    let swap = stats.swap.unwrap();
    assert_eq!((swap.usage, swap.available), (5, None));
    assert_eq!((stats.io, stats.memory.rss, stats.pids), (None, None, None));

    // A group above its limit has nothing left, not a huge number.
    let mut over = group;
    over.memory.working_set = Some(95);
    assert_eq!(ContainerStats::from_group(&over, Timestamp(3)).memory.available, Some(0));
}

#[test]
fn a_container_is_read_by_its_group_and_layer() {
    let mounts = Mounts::detect().unwrap();
    let text = format!("/peapod-test-{}-reader", std::process::id());
    let path = CgroupPath::parse(&text).unwrap();
    let layer = Temporary::new("layer");
    layer.file("data", 4096);
    let reader = Reader::new();
    let target = Target { id: "c", cgroup: &text, writable_layer: Some(&layer.0) };
    assert!(reader.container(&target, Timestamp(1)).unwrap_err().is_gone());

    let group = Cgroup::create(&mounts, &path, None).unwrap();
    let first = reader.container(&target, Timestamp(2));
    layer.file("later", 4096);
    let second = reader.clone().container(&target, Timestamp(3));
    reader.forget("c");
    let third = reader.container(&target, Timestamp(4));
    group.remove().unwrap();

    let (first, second, third) = (first.unwrap(), second.unwrap(), third.unwrap());
    assert!(first.cpu.usage_core_nanos.is_some() && first.cpu.usage_nano_cores.is_none());
    assert!(first.memory.usage.is_some());
    let (when, usage) = first.writable_layer.unwrap();
    assert_eq!((when, usage.inodes), (Timestamp(2), 2));
    // The second look is too soon after the first for another walk; a forgotten one walks again.
    assert_eq!(second.writable_layer, first.writable_layer);
    let (when, usage) = third.writable_layer.unwrap();
    assert_eq!((when, usage.inodes), (Timestamp(4), 3));

    let bad = Target { id: "x", cgroup: "../x", writable_layer: None };
    assert!(matches!(reader.container(&bad, Timestamp(1)), Err(StatsError::Cgroup(_))));
}

#[test]
fn a_pod_is_read_by_its_group_with_all_beneath_it() {
    let mounts = Mounts::detect().unwrap();
    let text = format!("/peapod-test-{}-pod", std::process::id());
    let path = CgroupPath::parse(&text).unwrap();
    let reader = Reader::new();
    assert!(reader.pod("p", &text, Timestamp(1)).unwrap_err().is_gone());
    let pod = Cgroup::create(&mounts, &path, None).unwrap();
    let inner = Cgroup::create(&mounts, &path.join("container").unwrap(), None).unwrap();
    let mut child = enter(&inner);
    let stats = reader.pod("p", &text, Timestamp(2));
    inner.kill().unwrap();
    child.wait().unwrap();
    pod.remove().unwrap();
    let stats = stats.unwrap();
    assert_eq!((stats.timestamp, stats.processes), (Timestamp(2), Some(1)));
    assert!(stats.cpu.usage_core_nanos.is_some() && stats.memory.usage.is_some());
}

/// A process inside, which has entered before it is given back.
fn enter(group: &Cgroup) -> std::process::Child {
    use std::{io::BufRead as _, os::fd::AsRawFd as _};
    let entry = group.entry().unwrap();
    let me = std::process::id();
    let files: Vec<String> = match &entry {
        cgroup::Entry::V1(tasks) => {
            tasks.iter().map(|fd| format!("/proc/{me}/fd/{}", fd.as_raw_fd())).collect()
        }
        cgroup::Entry::V2(dir) => vec![format!("/proc/{me}/fd/{}/cgroup.procs", dir.as_raw_fd())],
    };
    let script: String = files.iter().map(|file| format!("echo 0 > {file} || exit 1; ")).collect();
    let mut child = std::process::Command::new("/bin/sh")
        .args(["-c", &format!("{script} echo in; exec sleep 1000")])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "in\n");
    child
}

#[test]
fn metrics_of_a_real_group_have_values_for_what_the_machine_can_tell() {
    let mounts = Mounts::detect().unwrap();
    let text = format!("/peapod-test-{}-figures", std::process::id());
    let layer = Temporary::new("figures");
    layer.file("data", 4096);
    let group = Cgroup::create(&mounts, &CgroupPath::parse(&text).unwrap(), None).unwrap();
    let mut child = enter(&group);
    let reader = Reader::new();
    let target = Target { id: "c", cgroup: &text, writable_layer: Some(&layer.0) };
    let resources = types::container::Resources { cpu_quota: Some(10_000), ..Default::default() };
    let facts = metrics::Facts { started_at: Timestamp(5_000_000_000), resources };
    let figures = reader.figures(&target, facts, Timestamp(9_000_000_000));
    group.kill().unwrap();
    child.wait().unwrap();
    group.remove().unwrap();
    let figures = figures.unwrap();
    let silent: Vec<&str> = reader
        .machine()
        .unwrap()
        .of_containers()
        .filter(|metric| (metric.read)(&figures).is_empty())
        .map(|metric| metric.name)
        // A group that has done no IO has no devices.
        .filter(|name| !name.starts_with("container_fs_") && !name.starts_with("container_blkio_"))
        .collect();
    assert_eq!(silent, [] as [&str; 0]);
    assert_eq!(figures.processes.unwrap().count, 1);
    assert!(figures.disk.unwrap().used.unwrap() >= 4096);
}
