//! Requests and limits as the numbers that a cgroup takes, as the kubelet computes them.
//!
//! Source: Kubernetes' documentation "Resource Management for Pods and Containers", "Pod Quality of Service
//! Classes" and "Node-pressure Eviction" (oom_score_adj).

use super::super::manifest::{Container, Kind, Pod, Resources};
use api::cri::LinuxContainerResources;

/// The kernel's smallest and largest cpu.shares.
const SHARES: (i64, i64) = (2, 262_144);
/// Microseconds: the kubelet's CFS period, and the smallest quota that the kernel takes.
const PERIOD: i64 = 100_000;
const LEAST_QUOTA: i64 = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Guaranteed,
    Burstable,
    BestEffort,
}

/// The limits of one container; `memory` is the machine's, in bytes.
pub(crate) fn resources(pod: &Pod, container: &Container, memory: i64) -> LinuxContainerResources {
    let of = container.resources;
    LinuxContainerResources {
        cpu_period: PERIOD,
        cpu_quota: of.cpu_limit.filter(|milli| *milli > 0).map_or(0, quota),
        cpu_shares: of.cpu_request.map_or(SHARES.0, shares),
        memory_limit_in_bytes: of.memory_limit.unwrap_or(0),
        oom_score_adj: oom_score_adj(pod, container, memory),
        ..LinuxContainerResources::default()
    }
}

fn shares(milli: i64) -> i64 {
    (milli.saturating_mul(1024) / 1000).clamp(SHARES.0, SHARES.1)
}

fn quota(milli: i64) -> i64 {
    (milli.saturating_mul(PERIOD) / 1000).max(LEAST_QUOTA)
}

fn class(pod: &Pod) -> Class {
    let nothing =
        |r: &Resources| [r.cpu_request, r.cpu_limit, r.memory_request, r.memory_limit].iter().all(zero);
    let all_limited = |r: &Resources| {
        !zero(&r.cpu_limit)
            && !zero(&r.memory_limit)
            && r.cpu_request == r.cpu_limit
            && r.memory_request == r.memory_limit
    };
    if pod.containers.iter().all(|c| nothing(&c.resources)) {
        Class::BestEffort
    } else if pod.containers.iter().all(|c| all_limited(&c.resources)) {
        Class::Guaranteed
    } else {
        Class::Burstable
    }
}

fn zero(amount: &Option<i64>) -> bool {
    amount.unwrap_or(0) == 0
}

/// Whom the kernel kills first when the machine runs out of memory: who asked for less of it.
fn oom_score_adj(pod: &Pod, container: &Container, memory: i64) -> i64 {
    match class(pod) {
        Class::Guaranteed => -997,
        Class::BestEffort => 1000,
        Class::Burstable => {
            let request = |c: &Container| c.resources.memory_request.unwrap_or(0);
            let mut own = request(container);
            if container.kind == Kind::Sidecar {
                // A sidecar is not killed before the apps that it serves.
                let apps = pod.containers.iter().filter(|c| c.kind == Kind::App);
                own = own.max(apps.map(request).min().unwrap_or(0));
            }
            let share = i128::from(own) * 1000 / i128::from(memory.max(1));
            // Between the two other classes, which have the ends of the scale to themselves.
            i64::try_from(1000 - share).unwrap_or(i64::MIN).clamp(3, 999)
        }
    }
}

/// The machine's memory in bytes, as /proc/meminfo has it.
pub(crate) fn machine_memory(meminfo: &str) -> i64 {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kilobytes = total.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<i64>().ok());
    kilobytes.unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GI: i64 = 1 << 30;

    /// The resources of a container with these `resources`, in a pod with a second container.
    fn of(first: &str, second: &str) -> LinuxContainerResources {
        let text = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {{\
             initContainers: [{{name: s, image: i, restartPolicy: Always, resources: {second}}}],\
             containers: [{{name: a, image: i, resources: {first}}}]}}}}"
        );
        let pod = super::super::super::manifest::parse(&text).expect("a manifest");
        resources(&pod, &pod.containers[1], 10 * GI)
    }

    #[test]
    fn limits_are_the_kernels_numbers() {
        let r = of("{requests: {cpu: 250m}, limits: {cpu: 1500m, memory: 64Mi}}", "{}");
        assert_eq!((r.cpu_period, r.cpu_quota, r.cpu_shares), (100_000, 150_000, 256));
        assert_eq!(r.memory_limit_in_bytes, 64 << 20);
        let r = of("{limits: {cpu: 1m}}", "{}");
        assert_eq!((r.cpu_quota, r.cpu_shares), (1_000, 2));
        let r = of("{}", "{}");
        assert_eq!((r.cpu_quota, r.cpu_shares, r.memory_limit_in_bytes), (0, 2, 0));
        assert_eq!(of("{requests: {cpu: 999}}", "{}").cpu_shares, 262_144);
    }

    #[test]
    fn the_class_of_the_pod_decides_whom_the_kernel_kills_first() {
        let full = "{limits: {cpu: 1, memory: 1Gi}}";
        assert_eq!(of("{}", "{}").oom_score_adj, 1000);
        assert_eq!(of(full, full).oom_score_adj, -997);
        assert_eq!(of(full, "{}").oom_score_adj, 900);
        assert_eq!(of("{requests: {memory: 10Gi}}", "{}").oom_score_adj, 3);
        assert_eq!(of("{requests: {cpu: 1}}", "{}").oom_score_adj, 999);
        assert_eq!(of("{requests: {cpu: 0}}", "{}").oom_score_adj, 1000);
    }

    #[test]
    fn the_machines_memory_is_read() {
        assert_eq!(machine_memory("MemTotal:       16384 kB\nMemFree: 1 kB\n"), 16_384 << 10);
        assert_eq!(machine_memory(""), 0);
    }
}
