//! Limits on v2.

use super::{Plan, bad, cpu_list, or_max, page_size};
use crate::CgroupError;
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};
use std::collections::BTreeMap;

/// Files of `unified` beginning with `cgroup.` that limit; the others move processes or freeze them.
const CORE_KEYS: [&str; 2] = ["cgroup.max.depth", "cgroup.max.descendants"];

/// The writes for v2, in order; `unified` comes last and so wins.
pub(super) fn plan(resources: &LinuxResources) -> Result<Plan, CgroupError> {
    let mut plan = Plan::default();
    if let Some(cpu) = resources.cpu() {
        cpu_plan(&mut plan, cpu)?;
    }
    if let Some(memory) = resources.memory() {
        memory_plan(&mut plan, memory)?;
    }
    if let Some(limit) = resources.pids().map(|pids| pids.limit()).filter(|limit| *limit != 0) {
        plan.push("linux.resources.pids.limit", "pids", "pids.max", or_max(limit));
    }
    for huge in resources.hugepage_limits().iter().flatten() {
        let size = page_size(huge.page_size())?;
        for kind in ["", "rsvd."] {
            plan.push(
                "linux.resources.hugepageLimits",
                "hugetlb",
                format!("hugetlb.{size}.{kind}max"),
                huge.limit(),
            );
            plan.if_there();
        }
    }
    if let Some(io) = resources.block_io() {
        io_plan(&mut plan, io)?;
    }
    if resources.network().as_ref().is_some_and(|network| {
        network.class_id().is_some_and(|class| class != 0)
            || network.priorities().as_ref().is_some_and(|list| !list.is_empty())
    }) {
        return Err(bad("linux.resources.network", "needs cgroup v1, this machine has v2"));
    }
    rdma_plan(&mut plan, resources);
    let unified: BTreeMap<&String, &String> = resources.unified().iter().flatten().collect();
    for (key, value) in unified {
        unified_plan(&mut plan, key, value)?;
    }
    Ok(plan)
}

/// `cpu.weight` (1 to 10000) for v1's `cpu.shares` (2 to 262144).
///
/// The logarithmic formula that the OCI runtimes took over from Kubernetes: 2 is 1, 1024 is 100 and
/// 262144 is 10000. The older linear one gave a container with the default 1024 shares a weight of
/// 39, less than that of a process outside of any container.
fn weight_of_shares(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    #[allow(clippy::cast_precision_loss, reason = "shares are below 2^18 here")]
    let log = (shares as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the result is between 1 and 10000"
    )]
    let weight = 10f64.powf(exponent).ceil() as u64;
    weight.clamp(1, 10_000)
}

fn cpu_plan(plan: &mut Plan, cpu: &LinuxCpu) -> Result<(), CgroupError> {
    if let Some(idle) = cpu.idle() {
        plan.push("linux.resources.cpu.idle", "cpu", "cpu.idle", idle);
        if idle == 0 {
            plan.if_there();
        }
    }
    // An idle group has no weight to be set.
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0 && cpu.idle() != Some(1)) {
        plan.push("linux.resources.cpu.shares", "cpu", "cpu.weight", weight_of_shares(shares));
    }
    let quota = cpu.quota().filter(|quota| *quota != 0);
    let period = cpu.period().filter(|period| *period != 0);
    if quota.is_some() || period.is_some() {
        // A period alone lifts the quota: the OCI fields are a pair.
        let quota =
            quota.filter(|quota| *quota > 0).map_or_else(|| "max".to_owned(), |quota| quota.to_string());
        let value = period.map_or_else(|| quota.clone(), |period| format!("{quota} {period}"));
        plan.push("linux.resources.cpu.quota", "cpu", "cpu.max", value);
    }
    if let Some(burst) = cpu.burst() {
        plan.push("linux.resources.cpu.burst", "cpu", "cpu.max.burst", burst);
        if burst == 0 {
            plan.if_there();
        }
    }
    let realtime = cpu.realtime_runtime().is_some_and(|value| value != 0)
        || cpu.realtime_period().is_some_and(|value| value != 0);
    if realtime {
        return Err(bad("linux.resources.cpu.realtimeRuntime", "needs cgroup v1, this machine has v2"));
    }
    if let Some(cpus) = cpu.cpus().as_ref().filter(|cpus| !cpus.is_empty()) {
        let field = "linux.resources.cpu.cpus";
        plan.push(field, "cpuset", "cpuset.cpus", cpu_list(field, cpus)?);
    }
    if let Some(mems) = cpu.mems().as_ref().filter(|mems| !mems.is_empty()) {
        let field = "linux.resources.cpu.mems";
        plan.push(field, "cpuset", "cpuset.mems", cpu_list(field, mems)?);
    }
    Ok(())
}

fn memory_plan(plan: &mut Plan, memory: &LinuxMemory) -> Result<(), CgroupError> {
    let limit = memory.limit().filter(|limit| *limit != 0).map(|limit| limit.max(-1));
    let both = memory.swap().filter(|swap| *swap != 0).map(|swap| swap.max(-1));
    let field = "linux.resources.memory.swap";
    // The OCI value counts memory and swap together, v2's file swap alone.
    let swap = match (both, limit) {
        (None, Some(-1)) | (Some(-1), _) => Some(-1),
        (None, Some(_) | None) => None,
        (Some(_), None | Some(-1)) => return Err(bad(field, "needs a memory limit")),
        (Some(both), Some(limit)) if both < limit => {
            return Err(bad(field, format!("{both} is below the memory limit {limit}")));
        }
        (Some(both), Some(limit)) => Some(both - limit),
    };
    if let Some(swap) = swap {
        plan.push(field, "memory", "memory.swap.max", or_max(swap));
        if swap <= 0 {
            plan.if_there();
        }
    }
    if let Some(limit) = limit {
        plan.push("linux.resources.memory.limit", "memory", "memory.max", or_max(limit));
    }
    if let Some(reservation) = memory.reservation().filter(|value| *value != 0) {
        plan.push("linux.resources.memory.reservation", "memory", "memory.low", or_max(reservation));
    }
    if memory.kernel_tcp().is_some_and(|value| value != 0) {
        return Err(bad("linux.resources.memory.kernelTCP", "needs cgroup v1, this machine has v2"));
    }
    if memory.disable_oom_killer() == Some(true) {
        return Err(bad("linux.resources.memory.disableOOMKiller", "needs cgroup v1, this machine has v2"));
    }
    // Swappiness has no file on v2; the OCI specification has the runtime ignore it there.
    Ok(())
}

/// blkio's 10 to 1000 as io.weight's 1 to 10000.
fn io_weight(weight: u16) -> u64 {
    1 + u64::from(weight.clamp(10, 1000) - 10) * 9999 / 990
}

fn io_plan(plan: &mut Plan, io: &LinuxBlockIo) -> Result<(), CgroupError> {
    if let Some(weight) = io.weight().filter(|weight| *weight != 0) {
        plan.push(
            "linux.resources.blockIO.weight",
            "io",
            "io.weight",
            format!("default {}", io_weight(weight)),
        );
    }
    for device in io.weight_device().iter().flatten() {
        if let Some(weight) = device.weight() {
            let value = format!("{}:{} {}", device.major(), device.minor(), io_weight(weight));
            plan.push("linux.resources.blockIO.weightDevice", "io", "io.weight", value);
        }
    }
    if io.leaf_weight().is_some_and(|weight| weight != 0) {
        return Err(bad("linux.resources.blockIO.leafWeight", "no current kernel has it"));
    }
    let mut throttle = |key: &str, devices: &Option<Vec<LinuxThrottleDevice>>| {
        for device in devices.iter().flatten() {
            let value = format!("{}:{} {key}={}", device.major(), device.minor(), device.rate());
            plan.push("linux.resources.blockIO.throttle", "io", "io.max", value);
        }
    };
    throttle("rbps", io.throttle_read_bps_device());
    throttle("wbps", io.throttle_write_bps_device());
    throttle("riops", io.throttle_read_iops_device());
    throttle("wiops", io.throttle_write_iops_device());
    Ok(())
}

/// rdma.max is the same file in both generations.
pub(super) fn rdma_plan(plan: &mut Plan, resources: &LinuxResources) {
    let devices: BTreeMap<_, _> = resources.rdma().iter().flatten().collect();
    for (device, limits) in devices {
        let part =
            |key: &str, value: Option<u32>| value.map(|value| format!(" {key}={value}")).unwrap_or_default();
        let handles = part("hca_handle", limits.hca_handles());
        let objects = part("hca_object", limits.hca_objects());
        plan.push("linux.resources.rdma", "rdma", "rdma.max", format!("{device}{handles}{objects}"));
    }
}

/// One key of `unified`: a file name of the group; each line of the value is one write.
fn unified_plan(plan: &mut Plan, key: &str, value: &str) -> Result<(), CgroupError> {
    let field = || format!("linux.resources.unified[{:?}]", key.chars().take(64).collect::<String>());
    let word = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
    };
    if key.len() > 128 || !word(key) || !key.contains('.') || key.starts_with('.') || key.contains("..") {
        return Err(bad(&field(), "is not the name of a cgroup file like memory.high"));
    }
    if key.starts_with("cgroup.") && !CORE_KEYS.contains(&key) {
        return Err(bad(&field(), "is not a limit"));
    }
    if value.len() > 4096 || value.contains('\0') {
        return Err(bad(&field(), "has a value longer than 4096 bytes or with a NUL"));
    }
    for line in value.split('\n').map(str::trim).filter(|line| !line.is_empty()) {
        plan.push("linux.resources.unified", "unified", key, line);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(json: &str) -> Result<Vec<String>, String> {
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        let plan = plan(&resources).map_err(|error| error.to_string())?;
        Ok(plan.0.into_iter().map(|write| format!("{}={}", write.file, write.value)).collect())
    }

    #[test]
    fn shares_become_weights_by_the_newer_formula() {
        let pairs = [
            (0, 1),
            (2, 1),
            (3, 2),
            (100, 17),
            (256, 35),
            (512, 59),
            (1024, 100),
            (2048, 174),
            (262_143, 10_000),
            (262_144, 10_000),
            (u64::MAX, 10_000),
        ];
        for (shares, weight) in pairs {
            assert_eq!(weight_of_shares(shares), weight, "{shares} shares");
        }
    }

    #[test]
    fn quota_and_period_share_one_file() {
        assert_eq!(lines(r#"{"cpu":{"quota":50000,"period":100000}}"#).unwrap(), ["cpu.max=50000 100000"]);
        assert_eq!(lines(r#"{"cpu":{"quota":-1,"period":100000}}"#).unwrap(), ["cpu.max=max 100000"]);
        assert_eq!(lines(r#"{"cpu":{"quota":50000}}"#).unwrap(), ["cpu.max=50000"]);
        assert_eq!(lines(r#"{"cpu":{"quota":0,"period":0}}"#).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn swap_is_what_is_above_the_memory_limit() {
        let both = |json| lines(json).unwrap();
        assert_eq!(
            both(r#"{"memory":{"limit":1000,"swap":1000}}"#),
            ["memory.swap.max=0", "memory.max=1000"]
        );
        assert_eq!(
            both(r#"{"memory":{"limit":1000,"swap":3000}}"#),
            ["memory.swap.max=2000", "memory.max=1000"]
        );
        assert_eq!(
            both(r#"{"memory":{"limit":1000,"swap":-1}}"#),
            ["memory.swap.max=max", "memory.max=1000"]
        );
        assert_eq!(both(r#"{"memory":{"limit":-1}}"#), ["memory.swap.max=max", "memory.max=max"]);
        assert!(lines(r#"{"memory":{"limit":1000,"swap":999}}"#).is_err());
        assert!(lines(r#"{"memory":{"swap":999}}"#).is_err());
    }

    #[test]
    fn what_a_default_kubelet_sends_comes_last_and_sorted() {
        let json = r#"{"memory":{"limit":5},"unified":{"memory.oom.group":"1","memory.low":"0","memory.min":"0"},
            "hugepageLimits":[{"pageSize":"1GB","limit":0}]}"#;
        let expected = [
            "memory.max=5",
            "hugetlb.1GB.max=0",
            "hugetlb.1GB.rsvd.max=0",
            "memory.low=0",
            "memory.min=0",
            "memory.oom.group=1",
        ];
        assert_eq!(lines(json).unwrap(), expected);
    }

    #[test]
    fn each_line_of_a_unified_value_is_a_write() {
        let json = r#"{"unified":{"io.max":"8:0 rbps=1\n8:16 rbps=2\n"}}"#;
        assert_eq!(lines(json).unwrap(), ["io.max=8:0 rbps=1", "io.max=8:16 rbps=2"]);
    }

    #[test]
    fn unified_keys_that_are_no_limits_are_refused() {
        for key in [
            "cgroup.procs",
            "cgroup.subtree_control",
            "cgroup.freeze",
            "../memory.max",
            "a/b",
            "memory",
            "",
            ".x",
            "a..b",
            "a b.c",
            "a\\u0000.b",
        ] {
            assert!(lines(&format!(r#"{{"unified":{{"{key}":"1"}}}}"#)).is_err(), "{key:?}");
        }
    }

    #[test]
    fn io_weights_and_throttles_are_translated() {
        let json =
            r#"{"blockIO":{"weight":1000,"throttleWriteIOPSDevice":[{"major":8,"minor":0,"rate":5}]}}"#;
        assert_eq!(lines(json).unwrap(), ["io.weight=default 10000", "io.max=8:0 wiops=5"]);
    }

    #[test]
    fn fields_that_only_v1_has_are_refused_by_name() {
        for json in [
            r#"{"memory":{"disableOOMKiller":true}}"#,
            r#"{"memory":{"kernelTCP":5}}"#,
            r#"{"network":{"classID":5}}"#,
            r#"{"cpu":{"realtimeRuntime":5}}"#,
        ] {
            let error = lines(json).unwrap_err();
            assert!(error.starts_with("linux.resources.") && error.contains("needs cgroup v1"), "{error}");
        }
        assert!(lines(r#"{"network":{"classID":0},"cpu":{"realtimeRuntime":0}}"#).is_ok());
    }
}
