//! Resources: of containers when they are made and while they run, and of pods.

use crate::{
    case::{Case, between, case, has, holds, is, refused, skip},
    host,
    story::{Container, ContainerWords as _, PodWords as _, Test, map},
};
use anyhow::{Context as _, Result, bail};
use api::cri::{self, HugepageLimit, LinuxContainerResources};
use tonic::Code;

const MIB: i64 = 1 << 20;
const SOURCE: &str = "CRI LinuxContainerResources";
/// What is wrong, the field, how it is set.
type Refusal = (&'static str, &'static str, fn(&mut LinuxContainerResources));
const UPDATE: &str = "CRI UpdateContainerResources; KEP-1287";

/// The cases.
pub fn cases() -> Vec<Case> {
    [limits(), updates(), bad_updates(), oom(), pods()].concat()
}

/// One limit: the field, how it is set, and what must be true then.
#[derive(Clone, Copy)]
struct Limit {
    name: &'static str,
    field: &'static str,
    set: fn(&mut LinuxContainerResources),
    check: fn(u32) -> Result<()>,
    told: fn(&LinuxContainerResources) -> bool,
}

fn known() -> Vec<Limit> {
    vec![
        Limit {
            name: "CPU shares",
            field: "cpu_shares",
            set: |r| r.cpu_shares = 512,
            check: |pid| {
                let value: u64 = host::cgroup_file(pid, "cpu", "cpu.shares", "cpu.weight")?.parse()?;
                if host::cgroup_v2() {
                    return holds(&format!("weight {value}"), host::weights(512).contains(&value));
                }
                is("cpu.shares", value, 512)
            },
            told: |r| r.cpu_shares == 512,
        },
        Limit {
            name: "CPU quota and period",
            field: "cpu_quota cpu_period",
            set: |r| (r.cpu_quota, r.cpu_period) = (40_000, 80_000),
            check: |pid| {
                if host::cgroup_v2() {
                    return is("cpu.max", host::cgroup_file(pid, "cpu", "", "cpu.max")?, "40000 80000");
                }
                is("cpu.cfs_quota_us", host::cgroup_file(pid, "cpu", "cpu.cfs_quota_us", "")?, "40000")?;
                is("cpu.cfs_period_us", host::cgroup_file(pid, "cpu", "cpu.cfs_period_us", "")?, "80000")
            },
            told: |r| (r.cpu_quota, r.cpu_period) == (40_000, 80_000),
        },
        Limit {
            name: "a memory limit",
            field: "memory_limit_in_bytes",
            set: |r| r.memory_limit_in_bytes = 96 * MIB,
            check: |pid| {
                let value = host::cgroup_file(pid, "memory", "memory.limit_in_bytes", "memory.max")?;
                is("memory", value, (96 * MIB).to_string())
            },
            told: |r| r.memory_limit_in_bytes == 96 * MIB,
        },
        Limit {
            name: "memory and swap",
            field: "memory_limit_in_bytes memory_swap_limit_in_bytes",
            set: |r| (r.memory_limit_in_bytes, r.memory_swap_limit_in_bytes) = (96 * MIB, 128 * MIB),
            check: |pid| {
                // v1 counts both together, v2 the swap alone.
                let value =
                    host::cgroup_file(pid, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max")?;
                is("swap", value, if host::cgroup_v2() { 32 * MIB } else { 128 * MIB }.to_string())
            },
            told: |r| (r.memory_limit_in_bytes, r.memory_swap_limit_in_bytes) == (96 * MIB, 128 * MIB),
        },
        Limit {
            name: "CPUs by number",
            field: "cpuset_cpus",
            set: |r| "0".clone_into(&mut r.cpuset_cpus),
            check: |pid| {
                is("cpuset.cpus", host::cgroup_file(pid, "cpuset", "cpuset.cpus", "cpuset.cpus")?, "0")?;
                is("Cpus_allowed_list", host::status_line(pid, "Cpus_allowed_list")?, "0")
            },
            told: |r| r.cpuset_cpus == "0",
        },
        Limit {
            name: "memory nodes by number",
            field: "cpuset_mems",
            set: |r| "0".clone_into(&mut r.cpuset_mems),
            check: |pid| {
                is("cpuset.mems", host::cgroup_file(pid, "cpuset", "cpuset.mems", "cpuset.mems")?, "0")
            },
            told: |r| r.cpuset_mems == "0",
        },
    ]
}

fn paths(start: &str, fields: &str) -> String {
    fields.split(' ').map(|field| format!("{start}{field} cs.resources.linux.{field} ")).collect()
}

fn swap_counts() -> bool {
    host::cgroup_v2() || std::fs::exists("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").unwrap_or(false)
}

async fn resources(c: &Container) -> Result<LinuxContainerResources> {
    let resources = c.status().await?.resources.context("no resources in the status")?;
    resources.linux.context("no resources.linux in the status")
}

async fn in_place(c: &Container, limit: &Limit) -> Result<()> {
    (limit.check)(c.pid().await?)?;
    let told = resources(c).await?;
    holds(&format!("{} in the status: {told:?}", limit.field), (limit.told)(&told))
}

fn limits() -> Vec<Case> {
    let mut all: Vec<_> = known()
        .into_iter()
        .map(|limit| {
            let fields = paths("res.", limit.field);
            case(format!("resources: {}", limit.name), SOURCE, &fields, move |t: Test| async move {
                if limit.field.contains("swap") && !swap_counts() {
                    return skip("the kernel does not count swap");
                }
                in_place(&t.container(|c| (limit.set)(c.res())).await?, &limit).await
            })
        })
        .collect();
    all.extend([
        case("resources: a memory limit alone allows no swap", "contract B.2: unset = the memory limit", "res.memory_limit_in_bytes", |t: Test| async move {
            if !swap_counts() {
                return skip("the kernel does not count swap");
            }
            let c = t.container(|c| c.res().memory_limit_in_bytes = 96 * MIB).await?;
            let value = host::cgroup_file(c.pid().await?, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max")?;
            is("swap", value, if host::cgroup_v2() { 0 } else { 96 * MIB }.to_string())
        }),
        case("resources: nothing asked for is no limit", SOURCE, "", |t: Test| async move {
            let c = t.container(|_| {}).await?;
            let pid = c.pid().await?;
            let memory = host::cgroup_file(pid, "memory", "memory.limit_in_bytes", "memory.max")?;
            holds(&format!("memory {memory}"), memory == "max" || memory.parse::<u64>()? > 1 << 60)?;
            let cpu = host::cgroup_file(pid, "cpu", "cpu.cfs_quota_us", "cpu.max")?;
            holds(&format!("cpu {cpu}"), cpu == "-1" || cpu.starts_with("max"))
        }),
        case("resources: the OOM score", SOURCE, "res.oom_score_adj cs.resources.linux.oom_score_adj", |t: Test| async move {
            let c = t.container(|c| c.res().oom_score_adj = 789).await?;
            is("oom_score_adj", host::proc_file(c.pid().await?, "oom_score_adj")?.trim(), "789")?;
            is("an exec's", c.sh("cat /proc/self/oom_score_adj").await?, "789")?;
            is("in the status", resources(&c).await?.oom_score_adj, 789)
        }),
        case("resources: no huge pages of any size", "contract B.2: the kubelet sends limit 0 for each", "res.hugepage_limits.page_size", |t: Test| async move {
            let c = t.container(|c| c.res().hugepage_limits = pages(0)).await?;
            is("it runs", c.sh("echo works").await?, "works")
        }),
        case(
            "resources: huge pages",
            "CRI HugepageLimit",
            "res.hugepage_limits.page_size res.hugepage_limits.limit cs.resources.linux.hugepage_limits.page_size cs.resources.linux.hugepage_limits.limit",
            |t: Test| async move {
                let c = t.container(|c| c.res().hugepage_limits = pages(4 << 21)).await?;
                if !host::has_controller("hugetlb") {
                    return skip("the machine has no hugetlb controller; the limits did no harm");
                }
                let value = host::cgroup_file(c.pid().await?, "hugetlb", "hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max")?;
                is("2 MB pages", value, (4 << 21).to_string())?;
                is("in the status", resources(&c).await?.hugepage_limits, pages(4 << 21))
            },
        ),
        case("resources: keys of cgroup v2", "KEP-2570; CRI LinuxContainerResources.unified", "res.unified cs.resources.linux.unified", |t: Test| async move {
            let keys = map(&[("memory.min", "0"), ("memory.low", "0"), ("memory.oom.group", "1"), ("memory.high", "max")]);
            let pod = t.pod().await?;
            let tried = pod.try_run(|c| c.res().unified = keys.clone()).await;
            if !host::cgroup_v2() {
                // There is nothing to write them to: either said, or no harm.
                match tried {
                    Ok(c) => is("it runs", c.sh("echo works").await?, "works")?,
                    Err(status) => has("the error names it", &status.message().to_lowercase(), "unified")?,
                }
                return skip("the machine has cgroup v1; the keys did no harm");
            }
            let c = tried?;
            is("memory.oom.group", host::cgroup_file(c.pid().await?, "memory", "", "memory.oom.group")?, "1")?;
            is("in the status", resources(&c).await?.unified, keys)
        }),
        case("resources: a key with a path is refused", "safety: unified keys are names of files", "res.unified", |t: Test| async move {
            let pod = t.pod().await?;
            let tried = pod.try_run(|c| c.res().unified = map(&[("../memory.max", "max")])).await;
            refused("the container", tried, &[]).map(|_| ())
        }),
    ]);
    let refusals: [Refusal; 6] = [
        ("CPUs that are no list", "res.cpuset_cpus", |r| "zero".clone_into(&mut r.cpuset_cpus)),
        ("CPUs that the machine does not have", "res.cpuset_cpus", |r| {
            "0-4095".clone_into(&mut r.cpuset_cpus)
        }),
        ("memory nodes that are no list", "res.cpuset_mems", |r| "x".clone_into(&mut r.cpuset_mems)),
        ("an OOM score beyond 1000", "res.oom_score_adj", |r| r.oom_score_adj = 5000),
        ("an unlikely memory limit", "res.memory_limit_in_bytes", |r| r.memory_limit_in_bytes = 1),
        ("a page size that is none", "res.hugepage_limits.page_size", |r| {
            r.hugepage_limits = vec![HugepageLimit { page_size: "3 elephants".to_owned(), limit: 1 << 21 }];
        }),
    ];
    for (name, field, change) in refusals {
        all.push(case(format!("resources: {name} are refused"), SOURCE, field, move |t: Test| async move {
            let pod = t.pod().await?;
            refused("the container", pod.try_run(|c| change(c.res())).await, &[]).map(|_| ())
        }));
    }
    all
}

fn pages(limit: u64) -> Vec<HugepageLimit> {
    ["2MB", "1GB"].map(|size| HugepageLimit { page_size: size.to_owned(), limit }).to_vec()
}

async fn update(
    c: &Container,
    change: impl FnOnce(&mut LinuxContainerResources),
) -> Result<(), tonic::Status> {
    let mut linux = LinuxContainerResources::default();
    change(&mut linux);
    let request = cri::UpdateContainerResourcesRequest {
        container_id: c.id.clone(),
        linux: Some(linux),
        ..Default::default()
    };
    c.pod.test.runtime().update_container_resources(request).await.map(|_| ())
}

fn updates() -> Vec<Case> {
    let mut all = Vec::new();
    for limit in known() {
        let fields = format!(
            "UpdateContainerResourcesRequest.container_id {}",
            paths("UpdateContainerResourcesRequest.linux.", limit.field)
        );
        all.push(case(
            format!("resources: {} changed while it runs", limit.name),
            UPDATE,
            &fields,
            move |t: Test| async move {
                if limit.field.contains("swap") && !swap_counts() {
                    return skip("the kernel does not count swap");
                }
                let c = t.container(|c| c.res().cpu_shares = 300).await?;
                let pid = c.pid().await?;
                update(&c, |r| (limit.set)(r)).await?;
                in_place(&c, &limit).await?;
                is("the process is the same", c.pid().await?, pid)?;
                // A zero is not a change: what was set before stays.
                update(&c, |r| r.cpu_shares = 700).await?;
                if !limit.field.contains("shares") {
                    in_place(&c, &limit).await?;
                }
                is("a command in it", c.sh("echo works").await?, "works")
            },
        ));
        let fields = paths("UpdateContainerResourcesRequest.linux.", limit.field);
        all.push(case(
            format!("resources: {} changed before it starts", limit.name),
            UPDATE,
            &fields,
            move |t: Test| async move {
                if limit.field.contains("swap") && !swap_counts() {
                    return skip("the kernel does not count swap");
                }
                let c = t.pod().await?.create(|c| c.res().cpu_shares = 300).await?;
                update(&c, |r| (limit.set)(r)).await?;
                c.start().await?;
                in_place(&c, &limit).await
            },
        ));
    }
    all.extend([
        case("resources: several limits changed at once", UPDATE, "UpdateContainerResourcesRequest.linux.cpu_shares", |t: Test| async move {
            let c = t.container(|c| c.res().memory_limit_in_bytes = 64 * MIB).await?;
            let limits: Vec<_> = known().into_iter().filter(|limit| !limit.field.contains("swap")).collect();
            update(&c, |r| limits.iter().for_each(|limit| (limit.set)(r))).await?;
            for limit in &limits {
                in_place(&c, limit).await?;
            }
            Ok(())
        }),
        case("resources: a limit raised and lowered again", UPDATE, "UpdateContainerResourcesRequest.linux.memory_limit_in_bytes", |t: Test| async move {
            let c = t.container(|c| c.res().memory_limit_in_bytes = 64 * MIB).await?;
            for limit in [256 * MIB, 32 * MIB, 64 * MIB] {
                update(&c, |r| r.memory_limit_in_bytes = limit).await?;
                let value = host::cgroup_file(c.pid().await?, "memory", "memory.limit_in_bytes", "memory.max")?;
                is("memory", value, limit.to_string())?;
            }
            Ok(())
        }),
        case("resources: a quota taken away", UPDATE, "UpdateContainerResourcesRequest.linux.cpu_quota", |t: Test| async move {
            let c = t.container(|c| (c.res().cpu_quota, c.res().cpu_period) = (40_000, 100_000)).await?;
            update(&c, |r| (r.cpu_quota, r.cpu_period) = (-1, 100_000)).await?;
            let value = host::cgroup_file(c.pid().await?, "cpu", "cpu.cfs_quota_us", "cpu.max")?;
            holds(&format!("cpu {value}"), value == "-1" || value.starts_with("max"))
        }),
        case(
            "resources: huge pages changed while it runs",
            UPDATE,
            "UpdateContainerResourcesRequest.linux.hugepage_limits.page_size UpdateContainerResourcesRequest.linux.hugepage_limits.limit",
            |t: Test| async move {
                let c = t.container(|_| {}).await?;
                let tried = update(&c, |r| r.hugepage_limits = pages(1 << 30)).await;
                if !host::has_controller("hugetlb") {
                    return skip("the machine has no hugetlb controller");
                }
                tried?;
                let value = host::cgroup_file(c.pid().await?, "hugetlb", "hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max")?;
                is("2 MB pages", value, (1 << 30).to_string())
            },
        ),
        case("resources: keys of cgroup v2 changed while it runs", UPDATE, "UpdateContainerResourcesRequest.linux.unified", |t: Test| async move {
            let c = t.container(|_| {}).await?;
            let tried = update(&c, |r| r.unified = map(&[("memory.oom.group", "1")])).await;
            if !host::cgroup_v2() {
                return match tried {
                    Ok(()) => c.sh("echo works").await.map(|_| ()),
                    Err(status) => has("the error names it", &status.message().to_lowercase(), "unified"),
                };
            }
            tried?;
            is("memory.oom.group", host::cgroup_file(c.pid().await?, "memory", "", "memory.oom.group")?, "1")
        }),
        case(
            "resources: the OOM score changed is the next process's",
            "CRI UpdateContainerResources; contract B.2",
            "UpdateContainerResourcesRequest.linux.oom_score_adj",
            |t: Test| async move {
                let c = t.container(|c| c.res().oom_score_adj = 500).await?;
                match update(&c, |r| r.oom_score_adj = 600).await {
                    // What cannot be done is said.
                    Err(status) => has("the error names it", &status.message().to_lowercase(), "oom"),
                    Ok(()) => is("in the status", resources(&c).await?.oom_score_adj, 600),
                }
            },
        ),
        case("resources: annotations of an update do no harm", UPDATE, "UpdateContainerResourcesRequest.annotations", |t: Test| async move {
            let c = t.container(|_| {}).await?;
            let request = cri::UpdateContainerResourcesRequest {
                container_id: c.id.clone(),
                linux: Some(LinuxContainerResources { cpu_shares: 256, ..Default::default() }),
                annotations: map(&[("note", "x")]),
                ..Default::default()
            };
            t.runtime().update_container_resources(request).await?;
            is("in the status", resources(&c).await?.cpu_shares, 256)
        }),
    ]);
    all
}

fn bad_updates() -> Vec<Case> {
    let refusals: [Refusal; 4] = [
        ("CPUs that are no list", "cpuset_cpus", |r| "zero".clone_into(&mut r.cpuset_cpus)),
        ("CPUs that the machine does not have", "cpuset_cpus", |r| "4095".clone_into(&mut r.cpuset_cpus)),
        ("a period that is too long", "cpu_period", |r| (r.cpu_period, r.cpu_quota) = (1 << 40, 1 << 41)),
        ("memory nodes that the machine does not have", "cpuset_mems", |r| {
            "63".clone_into(&mut r.cpuset_mems)
        }),
    ];
    let mut all: Vec<_> = refusals
        .into_iter()
        .map(|(name, field, change)| {
            let field = format!("UpdateContainerResourcesRequest.linux.{field}");
            case(
                format!("resources: an update with {name} changes nothing"),
                "CRI UpdateContainerResources: transactional",
                &field,
                move |t: Test| async move {
                    let c = t
                        .container(|c| (c.res().cpu_shares, c.res().memory_limit_in_bytes) = (300, 64 * MIB))
                        .await?;
                    let before = (resources(&c).await?, snapshot(&c).await?);
                    let tried = update(&c, |r| {
                        (r.cpu_shares, r.memory_limit_in_bytes) = (900, 128 * MIB);
                        change(r);
                    })
                    .await;
                    refused("the update", tried, &[])?;
                    is("cgroup and status", (resources(&c).await?, snapshot(&c).await?), before)
                },
            )
        })
        .collect();
    all.extend([
        case("resources: a limit below what is used changes nothing when it fails", "CRI UpdateContainerResources: transactional", "UpdateContainerResourcesRequest.linux.memory_limit_in_bytes", |t: Test| async move {
            let c = t
                .container(|c| {
                    c.res().memory_limit_in_bytes = 128 * MIB;
                    c.script("dd if=/dev/zero of=/dev/shm/fill bs=1M count=40 2>/dev/null; echo full; sleep 1000; :");
                })
                .await?;
            c.logged("full").await?;
            match update(&c, |r| r.memory_limit_in_bytes = 8 * MIB).await {
                // v2 takes it and reclaims or kills; then the file says so.
                Ok(()) => is("in the status", resources(&c).await?.memory_limit_in_bytes, 8 * MIB),
                Err(_) => {
                    let value = host::cgroup_file(c.pid().await?, "memory", "memory.limit_in_bytes", "memory.max")?;
                    is("memory", value, (128 * MIB).to_string())?;
                    is("in the status", resources(&c).await?.memory_limit_in_bytes, 128 * MIB)
                }
            }
        }),
        case("resources: an update of an unknown container is NotFound", UPDATE, "UpdateContainerResourcesRequest.container_id", |t: Test| async move {
            let request = cri::UpdateContainerResourcesRequest {
                container_id: "0123456789abcdef".repeat(4),
                linux: Some(LinuxContainerResources { cpu_shares: 256, ..Default::default() }),
                ..Default::default()
            };
            refused("the update", t.runtime().update_container_resources(request).await, &[Code::NotFound]).map(|_| ())
        }),
        case("resources: an update of what has ended is refused", UPDATE, "UpdateContainerResourcesRequest.linux.cpu_shares", |t: Test| async move {
            let c = t.container(|c| c.script("exit 0")).await?;
            c.ended().await?;
            refused("the update", update(&c, |r| r.cpu_shares = 256).await, &[]).map(|_| ())
        }),
    ]);
    all
}

/// The files that updates may change.
async fn snapshot(c: &Container) -> Result<Vec<String>> {
    let pid = c.pid().await?;
    [
        ("cpu", "cpu.shares", "cpu.weight"),
        ("cpu", "cpu.cfs_quota_us", "cpu.max"),
        ("memory", "memory.limit_in_bytes", "memory.max"),
        ("cpuset", "cpuset.cpus", "cpuset.cpus"),
        ("cpuset", "cpuset.mems", "cpuset.mems"),
    ]
    .into_iter()
    .map(|(controller, v1, v2)| host::cgroup_file(pid, controller, v1, v2))
    .collect()
}

fn oom() -> Vec<Case> {
    vec![
        case(
            "resources: what the kernel kills for memory is OOMKilled",
            "CRI ContainerStatus.reason; critest Container OOM",
            "res.memory_limit_in_bytes cs.reason cs.exit_code",
            |t: Test| async move {
                let c = t
                    .container(|c| {
                        (c.res().memory_limit_in_bytes, c.res().memory_swap_limit_in_bytes) =
                            (15 * MIB, 15 * MIB);
                        c.command = crate::story::words(&[
                            "/bin/dd",
                            "if=/dev/zero",
                            "of=/dev/null",
                            "bs=40M",
                            "count=1",
                        ]);
                    })
                    .await?;
                let status = c.ended_with(137).await?;
                is("reason", status.reason, "OOMKilled")
            },
        ),
        case(
            "resources: a child that is killed for memory is not the container's end",
            "contract A.1 ContainerStatus: false positives of a child's OOM",
            "res.memory_limit_in_bytes cs.reason",
            |t: Test| async move {
                let c = t
                    .container(|c| {
                        (c.res().memory_limit_in_bytes, c.res().memory_swap_limit_in_bytes) =
                            (15 * MIB, 15 * MIB);
                        c.script("dd if=/dev/zero of=/dev/null bs=40M count=1; echo the child: $?; exit 5");
                    })
                    .await?;
                let status = c.ended_with(5).await?;
                has("the log", &c.log().await?, "the child: 137")?;
                if host::cgroup_v2() {
                    // memory.oom.group may have been set by the runtime; the first process lives here, so it was not.
                    return is("reason", status.reason, "Error");
                }
                is("reason", status.reason, "Error")
            },
        ),
        case(
            "resources: a child that was killed for memory does not make a later SIGKILL OOMKilled",
            "contract A.1 ContainerStatus: false positives of a child's OOM",
            "res.memory_limit_in_bytes cs.reason",
            |t: Test| async move {
                let c = t
                    .container(|c| {
                        (c.res().memory_limit_in_bytes, c.res().memory_swap_limit_in_bytes) =
                            (15 * MIB, 15 * MIB);
                        c.script("trap : TERM; dd if=/dev/zero of=/dev/null bs=40M count=1; echo the child: $?; while :; do sleep 0.1; done");
                    })
                    .await?;
                c.logged("the child: 137").await?;
                c.stop(0).await?;
                is("reason", c.ended_with(137).await?.reason, "Error")
            },
        ),
        case(
            "resources: SIGKILL is not OOMKilled",
            "CRI ContainerStatus.reason",
            "cs.reason",
            |t: Test| async move {
                let c = t.container(|c| c.res().memory_limit_in_bytes = 64 * MIB).await?;
                host::command("kill", &["-KILL", &c.pid().await?.to_string()])?;
                is("reason", c.ended_with(137).await?.reason, "Error")
            },
        ),
    ]
}

fn pods() -> Vec<Case> {
    const POD: &str = "CRI LinuxPodSandboxConfig.overhead, resources; KEP-688, KEP-5419";
    let all_of = |start: &str| {
        [
            "cpu_period",
            "cpu_quota",
            "cpu_shares",
            "memory_limit_in_bytes",
            "oom_score_adj",
            "cpuset_cpus",
            "cpuset_mems",
            "hugepage_limits.page_size",
            "hugepage_limits.limit",
            "unified",
            "memory_swap_limit_in_bytes",
        ]
        .map(|field| format!("{start}.{field}"))
        .join(" ")
    };
    let full = || LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 50_000,
        cpu_shares: 512,
        memory_limit_in_bytes: 128 * MIB,
        memory_swap_limit_in_bytes: 128 * MIB,
        oom_score_adj: 100,
        cpuset_cpus: "0".to_owned(),
        cpuset_mems: "0".to_owned(),
        hugepage_limits: pages(1 << 21),
        unified: map(&[("memory.low", "0")]),
    };
    vec![
        case(
            "resources: a pod's sums are taken",
            POD,
            &format!("{} {}", all_of("p.linux.overhead"), all_of("p.linux.resources")),
            move |t: Test| async move {
                let c = t
                    .both(
                        |p| {
                            p.linux().overhead = Some(full());
                            p.linux().resources = Some(full());
                        },
                        |_| {},
                    )
                    .await?;
                is("a container of it", c.sh("echo works").await?, "works")
            },
        ),
        case(
            "resources: a pod's resources are changed",
            "KEP-5419; CRI UpdatePodSandboxResources: nothing to do is no error",
            &format!(
                "UpdatePodSandboxResourcesRequest.pod_sandbox_id {} {} UpdatePodSandboxResourcesResponse",
                all_of("UpdatePodSandboxResourcesRequest.overhead"),
                all_of("UpdatePodSandboxResourcesRequest.resources")
            ),
            move |t: Test| async move {
                let pod = t.pod().await?;
                let c = pod.run(|_| {}).await?;
                let request = cri::UpdatePodSandboxResourcesRequest {
                    pod_sandbox_id: pod.id.clone(),
                    overhead: Some(full()),
                    resources: Some(full()),
                };
                t.runtime().update_pod_sandbox_resources(request).await?;
                is("a container of it", c.sh("echo works").await?, "works")
            },
        ),
        case(
            "resources: an unknown pod's resources cannot be changed",
            "KEP-5419",
            "UpdatePodSandboxResourcesRequest.pod_sandbox_id",
            move |t: Test| async move {
                let request = cri::UpdatePodSandboxResourcesRequest {
                    pod_sandbox_id: "0123456789abcdef".repeat(4),
                    overhead: None,
                    resources: Some(full()),
                };
                refused(
                    "the update",
                    t.runtime().update_pod_sandbox_resources(request).await,
                    &[Code::NotFound],
                )
                .map(|_| ())
            },
        ),
        case(
            "resources: what a container burns is kept to its quota",
            SOURCE,
            "res.cpu_quota res.cpu_period",
            |t: Test| async move {
                let c = t
                    .container(|c| {
                        (c.res().cpu_quota, c.res().cpu_period) = (5_000, 50_000);
                        c.script("while :; do :; done");
                    })
                    .await?;
                let pid = c.pid().await?;
                let used = || -> Result<u64> {
                    let stat = host::proc_file(pid, "stat")?;
                    let after = stat.rsplit_once(')').context("no name")?.1;
                    let times: Vec<u64> =
                        after.split_whitespace().skip(11).take(2).filter_map(|n| n.parse().ok()).collect();
                    Ok(times.iter().sum())
                };
                let before = used()?;
                tokio::time::sleep(std::time::Duration::from_secs(2)).await;
                // In ticks of 10 ms: a tenth of two seconds is 20.
                let ticks = used()? - before;
                if ticks > 60 {
                    bail!("it used {ticks} of 200 ticks with a quota of a tenth");
                }
                between("ticks", ticks, 1, 60)
            },
        ),
    ]
}
