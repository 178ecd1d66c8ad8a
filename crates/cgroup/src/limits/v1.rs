//! Limits on v1.

use super::{Plan, bad, cpu_list, or_max, page_size};
use crate::CgroupError;
use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxNetwork, LinuxResources, LinuxThrottleDevice,
};

/// Reads a file of the group's directory for a controller.
type Read<'a> = &'a dyn Fn(&str, &str) -> Result<Option<String>, CgroupError>;

/// The writes for v1, in order.
pub(super) fn plan(resources: &LinuxResources, read: Read<'_>) -> Result<Plan, CgroupError> {
    if resources.unified().as_ref().is_some_and(|keys| !keys.is_empty()) {
        return Err(bad("linux.resources.unified", "needs cgroup v2, this machine has v1"));
    }
    let mut plan = Plan::default();
    if let Some(cpu) = resources.cpu() {
        cpu_plan(&mut plan, cpu)?;
    }
    if let Some(memory) = resources.memory() {
        memory_plan(&mut plan, memory, read)?;
    }
    if let Some(limit) = resources.pids().map(|pids| pids.limit()).filter(|limit| *limit != 0) {
        plan.push("linux.resources.pids.limit", "pids", "pids.max", or_max(limit));
    }
    for huge in resources.hugepage_limits().iter().flatten() {
        let size = page_size(huge.page_size())?;
        for kind in ["", "rsvd."] {
            let file = format!("hugetlb.{size}.{kind}limit_in_bytes");
            plan.push("linux.resources.hugepageLimits", "hugetlb", file, huge.limit());
            plan.if_there();
        }
    }
    if let Some(io) = resources.block_io() {
        io_plan(&mut plan, io, read)?;
    }
    if let Some(network) = resources.network() {
        network_plan(&mut plan, network)?;
    }
    super::v2::rdma_plan(&mut plan, resources);
    Ok(plan)
}

fn cpu_plan(plan: &mut Plan, cpu: &LinuxCpu) -> Result<(), CgroupError> {
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        plan.push("linux.resources.cpu.shares", "cpu", "cpu.shares", shares.clamp(2, 262_144));
    }
    if let Some(period) = cpu.period().filter(|period| *period != 0) {
        plan.push("linux.resources.cpu.period", "cpu", "cpu.cfs_period_us", period);
    }
    if let Some(quota) = cpu.quota().filter(|quota| *quota != 0) {
        plan.push("linux.resources.cpu.quota", "cpu", "cpu.cfs_quota_us", quota.max(-1));
    }
    if let Some(burst) = cpu.burst() {
        plan.push("linux.resources.cpu.burst", "cpu", "cpu.cfs_burst_us", burst);
        if burst == 0 {
            plan.if_there();
        }
    }
    if let Some(period) = cpu.realtime_period().filter(|period| *period != 0) {
        plan.push("linux.resources.cpu.realtimePeriod", "cpu", "cpu.rt_period_us", period);
    }
    if let Some(runtime) = cpu.realtime_runtime().filter(|runtime| *runtime != 0) {
        plan.push("linux.resources.cpu.realtimeRuntime", "cpu", "cpu.rt_runtime_us", runtime);
    }
    if let Some(idle) = cpu.idle() {
        plan.push("linux.resources.cpu.idle", "cpu", "cpu.idle", idle);
        if idle == 0 {
            plan.if_there();
        }
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

/// The kernel keeps `limit <= memory and swap` at every moment, so the order of the two writes
/// depends on which way they move.
fn memory_plan(plan: &mut Plan, memory: &LinuxMemory, read: Read<'_>) -> Result<(), CgroupError> {
    const LIMIT: &str = "memory.limit_in_bytes";
    const BOTH: &str = "memory.memsw.limit_in_bytes";
    let limit = memory.limit().filter(|limit| *limit != 0).map(|limit| limit.max(-1));
    let mut swap = memory.swap().filter(|swap| *swap != 0).map(|swap| swap.max(-1));
    let field = "linux.resources.memory.swap";
    let now = read("memory", BOTH)?;
    if limit == Some(-1) && swap.is_none() && now.is_some() {
        swap = Some(-1);
    }
    if let (Some(limit), Some(both)) = (limit, swap)
        && both != -1
        && (limit == -1 || both < limit)
    {
        return Err(bad(field, format!("{both} is below the memory limit {limit}")));
    }
    if now.is_none() && swap.is_some_and(|both| both != -1 && Some(both) != limit) {
        return Err(bad(field, "the kernel does not count swap"));
    }
    let now: Option<i64> = now.map(|text| text.trim().parse().unwrap_or(i64::MAX));
    let raises = match (swap, now) {
        (Some(-1), Some(_)) => true,
        (Some(both), Some(now)) => both > now,
        (Some(_) | None, _) => false,
    };
    let swap = swap.filter(|_| now.is_some());
    if let Some(both) = swap.filter(|_| raises) {
        plan.push(field, "memory", BOTH, both);
    }
    if let Some(limit) = limit {
        plan.push("linux.resources.memory.limit", "memory", LIMIT, limit);
    }
    if let Some(both) = swap.filter(|_| !raises) {
        plan.push(field, "memory", BOTH, both);
    }
    if let Some(reservation) = memory.reservation().filter(|value| *value != 0) {
        let field = "linux.resources.memory.reservation";
        plan.push(field, "memory", "memory.soft_limit_in_bytes", reservation.max(-1));
    }
    if let Some(tcp) = memory.kernel_tcp().filter(|value| *value != 0) {
        plan.push(
            "linux.resources.memory.kernelTCP",
            "memory",
            "memory.kmem.tcp.limit_in_bytes",
            tcp.max(-1),
        );
    }
    if let Some(swappiness) = memory.swappiness() {
        if swappiness > 100 {
            return Err(bad("linux.resources.memory.swappiness", "must be 0 to 100"));
        }
        plan.push("linux.resources.memory.swappiness", "memory", "memory.swappiness", swappiness);
    }
    if memory.disable_oom_killer() == Some(true) {
        plan.push("linux.resources.memory.disableOOMKiller", "memory", "memory.oom_control", 1);
    }
    Ok(())
}

fn io_plan(plan: &mut Plan, io: &LinuxBlockIo, read: Read<'_>) -> Result<(), CgroupError> {
    if let Some(weight) = io.weight().filter(|weight| *weight != 0) {
        let bfq = read("blkio", "blkio.weight")?.is_none();
        let file = if bfq { "blkio.bfq.weight" } else { "blkio.weight" };
        plan.push("linux.resources.blockIO.weight", "blkio", file, weight);
    }
    if io.leaf_weight().is_some_and(|weight| weight != 0) {
        return Err(bad("linux.resources.blockIO.leafWeight", "no current kernel has it"));
    }
    for device in io.weight_device().iter().flatten() {
        if let Some(weight) = device.weight() {
            let value = format!("{}:{} {weight}", device.major(), device.minor());
            plan.push("linux.resources.blockIO.weightDevice", "blkio", "blkio.bfq.weight_device", value);
        }
    }
    let mut throttle = |file: &str, devices: &Option<Vec<LinuxThrottleDevice>>| {
        for device in devices.iter().flatten() {
            let value = format!("{}:{} {}", device.major(), device.minor(), device.rate());
            plan.push(
                "linux.resources.blockIO.throttle",
                "blkio",
                format!("blkio.throttle.{file}_device"),
                value,
            );
        }
    };
    throttle("read_bps", io.throttle_read_bps_device());
    throttle("write_bps", io.throttle_write_bps_device());
    throttle("read_iops", io.throttle_read_iops_device());
    throttle("write_iops", io.throttle_write_iops_device());
    Ok(())
}

fn network_plan(plan: &mut Plan, network: &LinuxNetwork) -> Result<(), CgroupError> {
    if let Some(class) = network.class_id().filter(|class| *class != 0) {
        plan.push("linux.resources.network.classID", "net_cls", "net_cls.classid", class);
    }
    for priority in network.priorities().iter().flatten() {
        let field = "linux.resources.network.priorities";
        if priority.name().contains(|c: char| c.is_whitespace() || c == '\0') {
            return Err(bad(field, "the name of an interface has no blanks"));
        }
        let value = format!("{} {}", priority.name(), priority.priority());
        plan.push(field, "net_prio", "net_prio.ifpriomap", value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(json: &str, memsw: Option<&str>) -> Result<Vec<String>, String> {
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        let read =
            |_: &str, file: &str| Ok(if file.contains("memsw") { memsw.map(str::to_owned) } else { None });
        let plan = plan(&resources, &read).map_err(|error| error.to_string())?;
        Ok(plan
            .0
            .into_iter()
            .map(|write| format!("{}/{}={}", write.controller, write.file, write.value))
            .collect())
    }

    #[test]
    fn a_limit_that_falls_is_written_before_memory_and_swap() {
        let json = r#"{"memory":{"limit":1000,"swap":2000}}"#;
        let expected = ["memory/memory.limit_in_bytes=1000", "memory/memory.memsw.limit_in_bytes=2000"];
        assert_eq!(lines(json, Some("9223372036854771712\n")).unwrap(), expected);
    }

    #[test]
    fn a_limit_that_rises_is_written_after_memory_and_swap() {
        let json = r#"{"memory":{"limit":1000,"swap":2000}}"#;
        let expected = ["memory/memory.memsw.limit_in_bytes=2000", "memory/memory.limit_in_bytes=1000"];
        assert_eq!(lines(json, Some("500\n")).unwrap(), expected);
    }

    #[test]
    fn an_unlimited_memory_lifts_the_swap_limit_first() {
        let expected = ["memory/memory.memsw.limit_in_bytes=-1", "memory/memory.limit_in_bytes=-1"];
        assert_eq!(lines(r#"{"memory":{"limit":-1}}"#, Some("500")).unwrap(), expected);
    }

    #[test]
    fn without_swap_accounting_only_a_limit_that_asks_for_no_swap_passes() {
        let expected = ["memory/memory.limit_in_bytes=1000"];
        assert_eq!(lines(r#"{"memory":{"limit":1000,"swap":1000}}"#, None).unwrap(), expected);
        let error = lines(r#"{"memory":{"limit":1000,"swap":2000}}"#, None).unwrap_err();
        assert_eq!(error, "linux.resources.memory.swap: the kernel does not count swap");
    }

    #[test]
    fn swap_below_the_limit_is_refused() {
        let error = lines(r#"{"memory":{"limit":1000,"swap":999}}"#, Some("5")).unwrap_err();
        assert_eq!(error, "linux.resources.memory.swap: 999 is below the memory limit 1000");
    }

    #[test]
    fn every_cpu_field_has_its_file() {
        let json = r#"{"cpu":{"shares":1,"period":100000,"quota":50000,"burst":0,"cpus":"0-1","mems":"0"},
            "pids":{"limit":-1}, "hugepageLimits":[{"pageSize":"2MB","limit":0}]}"#;
        let expected = [
            "cpu/cpu.shares=2",
            "cpu/cpu.cfs_period_us=100000",
            "cpu/cpu.cfs_quota_us=50000",
            "cpu/cpu.cfs_burst_us=0",
            "cpuset/cpuset.cpus=0-1",
            "cpuset/cpuset.mems=0",
            "pids/pids.max=max",
            "hugetlb/hugetlb.2MB.limit_in_bytes=0",
            "hugetlb/hugetlb.2MB.rsvd.limit_in_bytes=0",
        ];
        assert_eq!(lines(json, None).unwrap(), expected);
    }

    #[test]
    fn block_io_has_a_line_for_each_device() {
        let json = r#"{"blockIO":{"weight":100,"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":5},{"major":8,"minor":16,"rate":6}]}}"#;
        let expected = [
            "blkio/blkio.bfq.weight=100",
            "blkio/blkio.throttle.read_bps_device=8:0 5",
            "blkio/blkio.throttle.read_bps_device=8:16 6",
        ];
        assert_eq!(lines(json, None).unwrap(), expected);
    }

    #[test]
    fn zero_is_no_limit() {
        let json = r#"{"cpu":{"shares":0,"period":0,"quota":0,"cpus":""},"memory":{"limit":0,"swap":0},"pids":{"limit":0}}"#;
        assert_eq!(lines(json, Some("5")).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn unified_keys_need_v2() {
        assert!(lines(r#"{"unified":{"memory.min":"0"}}"#, None).is_err());
        assert!(lines(r#"{"unified":{}}"#, None).unwrap().is_empty());
    }

    #[test]
    fn lists_and_page_sizes_with_other_characters_are_refused() {
        for json in [
            r#"{"cpu":{"cpus":"0\n1"}}"#,
            r#"{"cpu":{"mems":"a"}}"#,
            r#"{"hugepageLimits":[{"pageSize":"../x","limit":1}]}"#,
            r#"{"hugepageLimits":[{"pageSize":"MB","limit":1}]}"#,
        ] {
            assert!(lines(json, None).is_err(), "{json}");
        }
    }
}
