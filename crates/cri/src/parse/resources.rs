//! `LinuxContainerResources`: zero means "not set" in the CRI.

use super::{Bad, text};
use api::cri;
use types::container::Resources;

/// Checks the limits; `field` is the path of the message.
pub(crate) fn resources(field: &str, asked: &cri::LinuxContainerResources) -> Result<Resources, Bad> {
    let at = |name: &str| format!("{field}.{name}");
    let oom_score_adj = i32::try_from(asked.oom_score_adj)
        .ok()
        .filter(|n| (-1000..=1000).contains(n))
        .ok_or_else(|| Bad::field(at("oom_score_adj"), "wants -1000 to 1000"))?;
    if asked.cpu_quota < -1 {
        return Err(Bad::field(at("cpu_quota"), "is below -1"));
    }
    let mut hugepage_limits = Vec::new();
    for (index, limit) in asked.hugepage_limits.iter().enumerate() {
        let digits = limit.page_size.trim_end_matches(['K', 'M', 'G', 'B']);
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) || limit.page_size.len() > 16 {
            return Err(Bad::field(
                at(&format!("hugepage_limits[{index}].page_size")),
                format!("`{}` is not a page size such as 2MB", text::short(&limit.page_size)),
            ));
        }
        // The kubelet sends one entry per page size of the host, limit 0 when the pod asks for none.
        if limit.limit != 0 {
            hugepage_limits.push((limit.page_size.clone(), limit.limit));
        }
    }
    for (key, value) in &asked.unified {
        let fine =
            key.contains('.') && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_'));
        if !fine || key.starts_with('.') || value.contains(['\0', '\n']) || value.len() > 4096 {
            return Err(Bad::field(
                at("unified"),
                format!("`{}` is not a cgroup v2 file with one line", text::short(key)),
            ));
        }
    }
    Ok(Resources {
        cpu_period: positive(&at("cpu_period"), asked.cpu_period)?,
        cpu_quota: (asked.cpu_quota != 0).then_some(asked.cpu_quota),
        cpu_shares: positive(&at("cpu_shares"), asked.cpu_shares)?,
        memory_limit: limit(&at("memory_limit_in_bytes"), asked.memory_limit_in_bytes)?,
        memory_swap_limit: limit(&at("memory_swap_limit_in_bytes"), asked.memory_swap_limit_in_bytes)?,
        oom_score_adj,
        cpuset_cpus: cpuset(&at("cpuset_cpus"), &asked.cpuset_cpus)?,
        cpuset_mems: cpuset(&at("cpuset_mems"), &asked.cpuset_mems)?,
        hugepage_limits,
        unified: asked.unified.clone(),
    })
}

fn positive(field: &str, value: i64) -> Result<Option<u64>, Bad> {
    match u64::try_from(value) {
        Ok(0) => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(_) => Err(Bad::field(field, "is negative")),
    }
}

/// 0 = not set, -1 = unlimited.
fn limit(field: &str, value: i64) -> Result<Option<i64>, Bad> {
    match value {
        0 => Ok(None),
        -1.. => Ok(Some(value)),
        i64::MIN..-1 => Err(Bad::field(field, "is below -1")),
    }
}

/// List format of cpuset(7): numbers and ranges with commas.
fn cpuset(field: &str, list: &str) -> Result<String, Bad> {
    let fine = list.is_empty()
        || list.split(',').all(|range| {
            let (from, to) = range.split_once('-').unwrap_or((range, range));
            match (from.parse::<u16>(), to.parse::<u16>()) {
                (Ok(from), Ok(to)) => from <= to,
                _ => false,
            }
        });
    if fine {
        Ok(list.to_owned())
    } else {
        Err(Bad::field(field, format!("`{}` is not a list such as 0-3,5", text::short(list))))
    }
}
