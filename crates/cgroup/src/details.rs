//! Further numbers of a group, from files that [`Cgroup::stats`] leaves alone: for metrics.

use crate::{
    Cgroup, CgroupError, Throttling, Version,
    stats::{Read, keyed, single},
};

/// What a group used and met since it was made. `None`: the kernel does not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// CPU nanoseconds in user mode; v1 only, on v2 in [`crate::Stats`].
    pub user_nanos: Option<u64>,
    /// CPU nanoseconds in the kernel; v1 only, on v2 in [`crate::Stats`].
    pub system_nanos: Option<u64>,
    /// What the quota did; v1 only, on v2 in [`crate::Stats`].
    pub throttling: Option<Throttling>,
    /// Bytes of the kernel's own memory; v1 only, on v2 in [`crate::Stats`].
    pub kernel_memory: Option<u64>,
    /// Most bytes of memory that were ever in use.
    pub memory_peak: Option<u64>,
    /// How often memory met the limit.
    pub memory_limit_hits: Option<u64>,
    /// How often it was throttled for `memory.high`; v2 only.
    pub memory_high_events: Option<u64>,
    /// How often it met `memory.max`; v2 only.
    pub memory_max_events: Option<u64>,
    /// Processes killed for want of memory.
    pub oom_kills: Option<u64>,
    /// Huge pages, for each of the sizes asked for that the group counts.
    pub huge_pages: Vec<HugePages>,
}

/// Huge pages of one size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HugePages {
    /// As the files of the group are named: `2MB`.
    pub size: String,
    /// Bytes in use.
    pub usage: u64,
    /// Most bytes ever in use; v1 only.
    pub peak: Option<u64>,
    /// How often the limit was met.
    pub limit_hits: Option<u64>,
}

impl Cgroup {
    /// Reads the further numbers. A controller or file that is missing leaves `None`.
    ///
    /// # Errors
    /// [`CgroupError::Io`].
    pub fn details(&self, page_sizes: &[String]) -> Result<Details, CgroupError> {
        let read = |controller: &str, file: &str| match self.node(controller) {
            Some(node) => node.read(file),
            None => Ok(None),
        };
        match self.mounts().version() {
            Version::V1 => v1(&read, page_sizes),
            Version::V2 => v2(&read, page_sizes),
        }
    }
}

fn v1(read: Read<'_>, page_sizes: &[String]) -> Result<Details, CgroupError> {
    let number =
        |controller, file: &str| Ok::<_, CgroupError>(read(controller, file)?.as_deref().and_then(single));
    let cpu = read("cpu", "cpu.stat")?.unwrap_or_default();
    let oom = read("memory", "memory.oom_control")?.unwrap_or_default();
    let mut huge_pages = Vec::new();
    for size in page_sizes {
        let of = |file: &str| number("hugetlb", &format!("hugetlb.{size}.{file}"));
        if let Some(usage) = of("usage_in_bytes")? {
            let (peak, limit_hits) = (of("max_usage_in_bytes")?, of("failcnt")?);
            huge_pages.push(HugePages { size: size.clone(), usage, peak, limit_hits });
        }
    }
    Ok(Details {
        user_nanos: number("cpuacct", "cpuacct.usage_user")?,
        system_nanos: number("cpuacct", "cpuacct.usage_sys")?,
        throttling: keyed(&cpu, "nr_periods").map(|periods| Throttling {
            periods,
            throttled_periods: keyed(&cpu, "nr_throttled").unwrap_or(0),
            throttled_nanos: keyed(&cpu, "throttled_time").unwrap_or(0),
            bursts: keyed(&cpu, "nr_bursts"),
            burst_nanos: keyed(&cpu, "burst_time"),
        }),
        kernel_memory: number("memory", "memory.kmem.usage_in_bytes")?,
        memory_peak: number("memory", "memory.max_usage_in_bytes")?,
        memory_limit_hits: number("memory", "memory.failcnt")?,
        memory_high_events: None,
        memory_max_events: None,
        oom_kills: keyed(&oom, "oom_kill"),
        huge_pages,
    })
}

fn v2(read: Read<'_>, page_sizes: &[String]) -> Result<Details, CgroupError> {
    let text = |file: &str| Ok::<_, CgroupError>(read("", file)?.unwrap_or_default());
    let events = text("memory.events")?;
    let mut huge_pages = Vec::new();
    for size in page_sizes {
        if let Some(usage) = single(&text(&format!("hugetlb.{size}.current"))?) {
            let limit_hits = keyed(&text(&format!("hugetlb.{size}.events"))?, "max");
            huge_pages.push(HugePages { size: size.clone(), usage, peak: None, limit_hits });
        }
    }
    let max = keyed(&events, "max");
    Ok(Details {
        memory_peak: single(&text("memory.peak")?),
        memory_limit_hits: max,
        memory_high_events: keyed(&events, "high"),
        memory_max_events: max,
        oom_kills: keyed(&events, "oom_kill"),
        huge_pages,
        ..Details::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::tests::{V1, V2, recorded};

    #[test]
    fn recorded_files_of_v1_are_read() {
        let details = v1(&recorded(V1), &["2MB".to_owned(), "1GB".to_owned()]).unwrap();
        assert_eq!((details.user_nanos, details.system_nanos), (Some(3_000_000_000), Some(1_500_000_000)));
        let throttling = details.throttling.unwrap();
        assert_eq!((throttling.periods, throttling.throttled_periods), (120, 30));
        assert_eq!((throttling.throttled_nanos, throttling.bursts), (2_500_000_000, Some(2)));
        assert_eq!((details.kernel_memory, details.memory_peak), (Some(65_536), Some(9_000_000)));
        assert_eq!((details.memory_limit_hits, details.oom_kills), (Some(4), Some(1)));
        assert_eq!((details.memory_high_events, details.memory_max_events), (None, None));
        let pages =
            HugePages { size: "2MB".into(), usage: 4_194_304, peak: Some(6_291_456), limit_hits: Some(1) };
        assert_eq!(details.huge_pages, [pages], "a size that is not counted is left out");
    }

    #[test]
    fn recorded_files_of_v2_are_read() {
        let details = v2(&recorded(V2), &["2MB".to_owned()]).unwrap();
        assert_eq!((details.memory_peak, details.memory_limit_hits), (Some(9_000_000), Some(11)));
        assert_eq!((details.memory_high_events, details.memory_max_events), (Some(7), Some(11)));
        assert_eq!((details.oom_kills, details.user_nanos), (Some(2), None));
        let pages = HugePages { size: "2MB".into(), usage: 2_097_152, peak: None, limit_hits: Some(3) };
        assert_eq!(details.huge_pages, [pages]);
    }

    #[test]
    fn a_group_without_controllers_tells_nothing() {
        for read in [v1, v2] {
            assert_eq!(read(&recorded(&[]), &["2MB".to_owned()]).unwrap(), Details::default());
        }
    }
}
