//! Statistics of containers and pods, their lists and streams, and the metrics by name.

use crate::{
    case::{Case, between, case, holds, is, refused, skip},
    cases::sandbox::now,
    host,
    story::{Container, ContainerWords as _, Test, map, until},
};
use anyhow::{Context as _, Result, bail};
use api::cri::{self, UInt64Value};
use std::collections::BTreeSet;
use tonic::{Code, Status};

const KEP: &str = "KEP-2371; contract A.0: never nil, B.4";
const PSI: &str = "KEP-4205; CRI PsiStats";

/// The cases.
pub fn cases() -> Vec<Case> {
    [of_container(), of_pod(), lists(false), lists(true), metrics()].concat()
}

/// A container that has burnt CPU, holds memory and has written a file.
async fn busy(t: &Test) -> Result<Container> {
    t.container(|c| {
        c.labels = map(&[("app", "busy")]);
        c.annotations = map(&[("note", "x")]);
        (c.res().memory_limit_in_bytes, c.res().cpu_shares) = (128 << 20, 512);
        c.script(
            "dd if=/dev/zero of=/tmp/file bs=1M count=6 2>/dev/null; dd if=/dev/zero of=/dev/shm/held bs=1M count=20 2>/dev/null; \
             n=0; while [ $n -lt 20000 ]; do n=$((n+1)); done; echo ready; sleep 1000; :",
        );
    })
    .await
}

async fn ready(t: &Test) -> Result<Container> {
    let c = busy(t).await?;
    c.logged("ready").await?;
    Ok(c)
}

async fn stats(c: &Container) -> Result<cri::ContainerStats> {
    let request = cri::ContainerStatsRequest { container_id: c.id.clone() };
    let answer = c.pod.test.runtime().container_stats(request).await?.into_inner();
    answer.stats.context("no stats in the answer")
}

async fn pod_stats(c: &Container) -> Result<cri::LinuxPodSandboxStats> {
    let request = cri::PodSandboxStatsRequest { pod_sandbox_id: c.pod.id.clone() };
    let answer = c.pod.test.runtime().pod_sandbox_stats(request).await?.into_inner();
    answer.stats.context("no stats in the answer")?.linux.context("no linux in the stats")
}

fn value(what: &str, value: Option<UInt64Value>) -> Result<u64> {
    Ok(value.with_context(|| format!("no {what}"))?.value)
}

fn recent(timestamp: i64) -> Result<()> {
    between("timestamp", timestamp, now() - 90_000_000_000, now() + 1_000_000_000)
}

fn of_container() -> Vec<Case> {
    vec![
        case(
            "stats: a container's attributes",
            KEP,
            "ContainerStatsRequest.container_id ContainerStats.attributes.id ContainerStats.attributes.metadata.name ContainerStats.attributes.metadata.attempt ContainerStats.attributes.labels ContainerStats.attributes.annotations",
            |t: Test| async move {
                let c = ready(&t).await?;
                let (told, status) =
                    (stats(&c).await?.attributes.context("no attributes")?, c.status().await?);
                is("id", told.id, c.id)?;
                is("metadata", told.metadata, status.metadata)?;
                is("labels", told.labels, map(&[("app", "busy")]))?;
                is("annotations", told.annotations, map(&[("note", "x")]))
            },
        ),
        case(
            "stats: a container's CPU",
            KEP,
            "ContainerStats.cpu.timestamp ContainerStats.cpu.usage_core_nano_seconds.value",
            |t: Test| async move {
                let c = ready(&t).await?;
                let cpu = stats(&c).await?.cpu.context("no cpu")?;
                recent(cpu.timestamp)?;
                let used = value("usage_core_nano_seconds", cpu.usage_core_nano_seconds)?;
                let counted = counted_cpu(c.pid().await?)?;
                between("usage_core_nano_seconds beside the cgroup's", used, 1_000_000, counted)
            },
        ),
        case(
            "stats: a container's CPU rate",
            "CRI CpuUsage.usage_nano_cores",
            "ContainerStats.cpu.usage_nano_cores.value",
            |t: Test| async move {
                let c = t.container(|c| c.script("while :; do :; done")).await?;
                // The first two readings make the first rate.
                let mut rate = None;
                for _ in 0..40 {
                    let cpu = stats(&c).await?.cpu.context("no cpu")?;
                    rate = cpu.usage_nano_cores.map(|rate| rate.value);
                    if rate.is_some_and(|rate| rate > 10_000_000) {
                        break;
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(250)).await;
                }
                let rate = rate.context("no usage_nano_cores in 10 s")?;
                between("billionths of a core", rate, 10_000_000, 1_500_000_000)
            },
        ),
        case(
            "stats: a container's memory",
            KEP,
            "ContainerStats.memory.timestamp ContainerStats.memory.working_set_bytes.value ContainerStats.memory.usage_bytes.value ContainerStats.memory.rss_bytes.value ContainerStats.memory.available_bytes.value ContainerStats.memory.page_faults.value ContainerStats.memory.major_page_faults.value",
            |t: Test| async move {
                let c = ready(&t).await?;
                // The runtime may have read before the container was ready.
                until("a reading of 20 MiB", || async {
                    let memory = stats(&c).await?.memory.context("no memory")?;
                    Ok((value("usage_bytes", memory.usage_bytes)? > 20 << 20).then_some(()))
                })
                .await?;
                let memory = stats(&c).await?.memory.context("no memory")?;
                recent(memory.timestamp)?;
                let usage = value("usage_bytes", memory.usage_bytes)?;
                let set = value("working_set_bytes", memory.working_set_bytes)?;
                between("usage_bytes", usage, 20 << 20, 128 << 20)?;
                between("working_set_bytes", set, 20 << 20, usage)?;
                is("available_bytes", value("available_bytes", memory.available_bytes)?, (128 << 20) - set)?;
                between("rss_bytes", value("rss_bytes", memory.rss_bytes)?, 4096, usage)?;
                let faults = value("page_faults", memory.page_faults)?;
                between("page_faults", faults, 100, 1 << 30)?;
                let major = value("major_page_faults", memory.major_page_faults)?;
                between("major_page_faults", major, 0, faults)
            },
        ),
        case(
            "stats: a container's writable layer",
            KEP,
            "ContainerStats.writable_layer.timestamp ContainerStats.writable_layer.fs_id.mountpoint ContainerStats.writable_layer.used_bytes.value ContainerStats.writable_layer.inodes_used.value",
            |t: Test| async move {
                let c = ready(&t).await?;
                let layer = until("a reading of the 6 MiB written", || async {
                    let layer = stats(&c).await?.writable_layer.context("no writable_layer")?;
                    Ok((value("used_bytes", layer.used_bytes)? >= 6 << 20).then_some(layer))
                })
                .await?;
                recent(layer.timestamp)?;
                between("used_bytes", value("used_bytes", layer.used_bytes)?, 6 << 20, 12 << 20)?;
                between("inodes_used", value("inodes_used", layer.inodes_used)?, 1, 100)?;
                let point = layer.fs_id.context("no fs_id")?.mountpoint;
                is(&format!("{point} is a directory"), std::path::Path::new(&point).is_dir(), true)
            },
        ),
        case(
            "stats: a container's swap",
            "KEP-2400; CRI SwapUsage",
            "ContainerStats.swap.timestamp ContainerStats.swap.swap_usage_bytes.value ContainerStats.swap.swap_available_bytes.value",
            |t: Test| async move {
                let c = ready(&t).await?;
                let swap = stats(&c).await?.swap.context("no swap")?;
                recent(swap.timestamp)?;
                is("swap_usage_bytes", value("swap_usage_bytes", swap.swap_usage_bytes)?, 0)?;
                is("swap_available_bytes", value("swap_available_bytes", swap.swap_available_bytes)?, 0)
            },
        ),
        case(
            "stats: a container's pressure",
            PSI,
            &pressures("ContainerStats", "ContainerStats.io.timestamp"),
            |t: Test| async move {
                if !host::cgroup_v2() || !std::path::Path::new("/proc/pressure").try_exists()? {
                    return skip("pressure is of cgroup v2");
                }
                let c = ready(&t).await?;
                let told = stats(&c).await?;
                pressure(&c, "cpu.pressure", told.cpu.context("no cpu")?.psi).await?;
                pressure(&c, "memory.pressure", told.memory.context("no memory")?.psi).await?;
                let io = told.io.context("no io")?;
                recent(io.timestamp)?;
                pressure(&c, "io.pressure", io.psi).await
            },
        ),
        case(
            "stats: of an unknown container are NotFound",
            "contract A.1 ContainerStats",
            "ContainerStatsRequest.container_id",
            |t: Test| async move {
                let request = cri::ContainerStatsRequest { container_id: "0123456789abcdef".repeat(4) };
                refused("the stats", t.runtime().container_stats(request).await, &[Code::NotFound])
                    .map(|_| ())
            },
        ),
    ]
}

/// The CPU time that the kernel has counted in the process's cgroup, in nanoseconds.
fn counted_cpu(pid: u32) -> Result<u64> {
    if host::cgroup_v2() {
        let stat = host::cgroup_file(pid, "cpu", "", "cpu.stat")?;
        let line = stat.lines().find_map(|line| line.strip_prefix("usage_usec "));
        return Ok(line.context("no usage_usec")?.parse::<u64>()? * 1000);
    }
    Ok(host::cgroup_file(pid, "cpuacct", "cpuacct.usage", "")?.parse()?)
}

/// Paths of all fields of the three pressures, and one more.
fn pressures(message: &str, further: &str) -> String {
    let mut fields = vec![further.to_owned()];
    for resource in ["cpu", "memory", "io"] {
        for line in ["Some", "Full"] {
            for field in ["Total", "Avg10", "Avg60", "Avg300"] {
                fields.push(format!("{message}.{resource}.psi.{line}.{field}"));
            }
        }
    }
    fields.join(" ")
}

/// Nobody has waited for longer than an hour, nor more than all the time.
fn pressed(what: &str, psi: Option<cri::PsiStats>) -> Result<()> {
    let psi = psi.with_context(|| format!("no psi of {what}"))?;
    for (word, data) in [("some", psi.some), ("full", psi.full)] {
        let data = data.with_context(|| format!("no {word} of {what}"))?;
        between(&format!("{what} {word} total"), data.total, 0, 3_600_000_000_000)?;
        for (name, part) in [("avg10", data.avg10), ("avg60", data.avg60), ("avg300", data.avg300)] {
            between(&format!("{what} {word} {name}"), part, 0.0, 100.0)?;
        }
    }
    Ok(())
}

async fn pressure(c: &Container, file: &str, psi: Option<cri::PsiStats>) -> Result<()> {
    pressed(file, psi)?;
    let psi = psi.with_context(|| format!("no psi of {file}"))?;
    let text = std::fs::read_to_string(host::cgroup_dir(c.pid().await?, "cpu")?.join(file))?;
    for (word, data) in [("some", psi.some), ("full", psi.full)] {
        let data = data.with_context(|| format!("no {word} of {file}"))?;
        let line = text
            .lines()
            .find(|line| line.starts_with(word))
            .with_context(|| format!("no {word} in {file}"))?;
        let total: u64 = line.rsplit_once("total=").context("no total")?.1.parse()?;
        // Microseconds there, nanoseconds here; the file was read later.
        between(&format!("{file} {word} total"), data.total, 0, total * 1000)?;
    }
    Ok(())
}

fn of_pod() -> Vec<Case> {
    vec![
        case(
            "stats: a pod's attributes",
            KEP,
            "PodSandboxStatsRequest.pod_sandbox_id PodSandboxStats.attributes.id PodSandboxStats.attributes.metadata.name PodSandboxStats.attributes.metadata.uid PodSandboxStats.attributes.metadata.namespace PodSandboxStats.attributes.metadata.attempt PodSandboxStats.attributes.labels PodSandboxStats.attributes.annotations",
            |t: Test| async move {
                let pod = t
                    .pod_with(|p| {
                        p.labels = map(&[("app", "pod")]);
                        p.annotations = map(&[("note", "y")]);
                    })
                    .await?;
                let request = cri::PodSandboxStatsRequest { pod_sandbox_id: pod.id.clone() };
                let stats =
                    t.runtime().pod_sandbox_stats(request).await?.into_inner().stats.context("no stats")?;
                let told = stats.attributes.context("no attributes")?;
                is("id", told.id, pod.id)?;
                is("metadata", told.metadata, pod.config.metadata)?;
                is("labels", told.labels, map(&[("app", "pod")]))?;
                is("annotations", told.annotations, map(&[("note", "y")]))?;
                holds("linux is set", stats.linux.is_some())
            },
        ),
        case(
            "stats: a pod's CPU",
            KEP,
            "PodSandboxStats.linux.cpu.timestamp PodSandboxStats.linux.cpu.usage_core_nano_seconds.value",
            |t: Test| async move {
                let c = ready(&t).await?;
                let cpu = until("a reading", || async {
                    let cpu = pod_stats(&c).await?.cpu.context("no cpu")?;
                    Ok((value("usage_core_nano_seconds", cpu.usage_core_nano_seconds)? > 1_000_000)
                        .then_some(cpu))
                })
                .await?;
                recent(cpu.timestamp)?;
                between(
                    "usage_core_nano_seconds",
                    value("it", cpu.usage_core_nano_seconds)?,
                    1_000_000,
                    120_000_000_000,
                )
            },
        ),
        case(
            "stats: a pod's CPU rate",
            "CRI CpuUsage.usage_nano_cores",
            "PodSandboxStats.linux.cpu.usage_nano_cores.value",
            |t: Test| async move {
                let c = t.container(|c| c.script("while :; do :; done")).await?;
                let rate = until("a rate", || async {
                    let cpu = pod_stats(&c).await?.cpu.context("no cpu")?;
                    Ok(cpu.usage_nano_cores.map(|rate| rate.value).filter(|rate| *rate > 10_000_000))
                })
                .await?;
                between("billionths of a core", rate, 10_000_000, 1_500_000_000)
            },
        ),
        case(
            "stats: a pod's memory",
            KEP,
            "PodSandboxStats.linux.memory.timestamp PodSandboxStats.linux.memory.working_set_bytes.value PodSandboxStats.linux.memory.usage_bytes.value PodSandboxStats.linux.memory.rss_bytes.value PodSandboxStats.linux.memory.page_faults.value PodSandboxStats.linux.memory.major_page_faults.value",
            |t: Test| async move {
                let c = ready(&t).await?;
                let memory = until("a reading of 20 MiB", || async {
                    let memory = pod_stats(&c).await?.memory.context("no memory")?;
                    Ok((value("usage_bytes", memory.usage_bytes)? > 20 << 20).then_some(memory))
                })
                .await?;
                recent(memory.timestamp)?;
                let usage = value("usage_bytes", memory.usage_bytes)?;
                between("usage_bytes", usage, 20 << 20, 1 << 30)?;
                between(
                    "working_set_bytes",
                    value("working_set_bytes", memory.working_set_bytes)?,
                    20 << 20,
                    usage,
                )?;
                between("rss_bytes", value("rss_bytes", memory.rss_bytes)?, 4096, usage)?;
                let faults = value("page_faults", memory.page_faults)?;
                between("page_faults", faults, 100, 1 << 30)?;
                between("major_page_faults", value("major_page_faults", memory.major_page_faults)?, 0, faults)
            },
        ),
        case(
            "stats: a pod's network is that of eth0",
            "contract A.0, B.4: default_interface",
            "PodSandboxStats.linux.network.timestamp PodSandboxStats.linux.network.default_interface.name PodSandboxStats.linux.network.default_interface.rx_bytes.value PodSandboxStats.linux.network.default_interface.tx_bytes.value PodSandboxStats.linux.network.default_interface.rx_errors.value PodSandboxStats.linux.network.default_interface.tx_errors.value",
            |t: Test| async move {
                let c = t.container(|_| {}).await?;
                c.sh("ping -c 3 -i 0.2 -w 5 10.88.0.1 >/dev/null || ping -c 3 $(ip route | cut -d' ' -f3 | head -1) >/dev/null").await.ok();
                let network = until("bytes of eth0", || async {
                    let network = pod_stats(&c).await?.network.context("no network")?;
                    let bytes =
                        network.default_interface.clone().and_then(|i| i.tx_bytes).unwrap_or_default().value;
                    Ok((bytes > 0).then_some(network))
                })
                .await?;
                recent(network.timestamp)?;
                let eth0 = network.default_interface.context("no default_interface")?;
                is("name", eth0.name, "eth0")?;
                let counted = |name: &str| host::eth0_bytes(name);
                between(
                    "rx_bytes",
                    value("rx_bytes", eth0.rx_bytes)?,
                    1,
                    counted(&c.sh("cat /proc/net/dev").await?)?.0,
                )?;
                between(
                    "tx_bytes",
                    value("tx_bytes", eth0.tx_bytes)?,
                    1,
                    counted(&c.sh("cat /proc/net/dev").await?)?.1,
                )?;
                is("rx_errors", value("rx_errors", eth0.rx_errors)?, 0)?;
                is("tx_errors", value("tx_errors", eth0.tx_errors)?, 0)
            },
        ),
        case(
            "stats: further interfaces leave the default one out",
            "contract B.4: interfaces excludes it",
            "",
            |t: Test| async move {
                let c = t.container(|_| {}).await?;
                let network = pod_stats(&c).await?.network.context("no network")?;
                let names: Vec<_> = network.interfaces.into_iter().map(|i| i.name).collect();
                holds(&format!("no eth0 in {names:?}"), !names.iter().any(|name| name == "eth0"))
            },
        ),
        case(
            "stats: what is left of a pod's memory is that of its cgroup",
            "CRI MemoryUsage.available_bytes; the kubelet limits the pod's cgroup",
            "PodSandboxStats.linux.memory.available_bytes.value",
            |t: Test| async move {
                const LIMIT: u64 = 256 << 20;
                let c = ready(&t).await?;
                let container = host::cgroup_dir(c.pid().await?, "memory")?;
                let pod = container.parent().context("the pod's cgroup")?;
                let file = if host::cgroup_v2() { "memory.max" } else { "memory.limit_in_bytes" };
                crate::story::put(&pod.join(file), &LIMIT.to_string())?;
                let memory = until("the limit in the stats", || async {
                    let memory = pod_stats(&c).await?.memory.context("no memory")?;
                    Ok(memory.available_bytes.is_some().then_some(memory))
                })
                .await?;
                let left = value("available_bytes", memory.available_bytes)?;
                is("both", left + value("working_set_bytes", memory.working_set_bytes)?, LIMIT)
            },
        ),
        case(
            "stats: a pod's further interfaces are counted, each by itself",
            "CRI NetworkUsage.interfaces",
            "PodSandboxStats.linux.network.interfaces.name PodSandboxStats.linux.network.interfaces.rx_bytes.value PodSandboxStats.linux.network.interfaces.rx_errors.value PodSandboxStats.linux.network.interfaces.tx_bytes.value PodSandboxStats.linux.network.interfaces.tx_errors.value",
            |t: Test| async move {
                let c = t.container(|_| {}).await?;
                let pid = c.pid().await?.to_string();
                let pair =
                    "ip link add net1 type veth peer name net2 && ip link set net1 up && ip link set net2 up";
                host::command("nsenter", &["-t", &pid, "-n", "sh", "-c", pair])?;
                for name in ["net1", "net2"] {
                    let found = until(&format!("{name} with something sent"), || async {
                        let network = pod_stats(&c).await?.network.context("no network")?;
                        let found = network.interfaces.into_iter().find(|one| one.name == name);
                        Ok(found.filter(|one| one.tx_bytes.is_some_and(|sent| sent.value > 0)))
                    })
                    .await?;
                    // A neighbour's solicitation or two.
                    between("rx_bytes", value("rx_bytes", found.rx_bytes)?, 1, 100_000)?;
                    between("tx_bytes", value("tx_bytes", found.tx_bytes)?, 1, 100_000)?;
                    is("rx_errors", value("rx_errors", found.rx_errors)?, 0)?;
                    is("tx_errors", value("tx_errors", found.tx_errors)?, 0)?;
                }
                Ok(())
            },
        ),
        case(
            "stats: a pod in the node's network has none",
            "contract A.0: host network: no network at all",
            "psc.namespace_options.network",
            |t: Test| async move {
                let c = t
                    .both(
                        |p| {
                            use crate::story::Config as _;
                            p.hostname = String::new();
                            p.sc().namespace_options.get_or_insert_default().network =
                                cri::NamespaceMode::Node.into();
                        },
                        |_| {},
                    )
                    .await?;
                is("network", pod_stats(&c).await?.network, None)
            },
        ),
        case(
            "stats: a pod's processes",
            KEP,
            "PodSandboxStats.linux.process.timestamp PodSandboxStats.linux.process.process_count.value",
            |t: Test| async move {
                let c = t.container(|c| c.script("sleep 1000 & sleep 1000 & echo ready; wait")).await?;
                c.logged("ready").await?;
                let count = until("three processes", || async {
                    let process = pod_stats(&c).await?.process.context("no process")?;
                    recent(process.timestamp)?;
                    Ok(Some(value("process_count", process.process_count)?).filter(|count| *count >= 3))
                })
                .await?;
                between("process_count", count, 3, 6)
            },
        ),
        case(
            "stats: a pod's containers are in it",
            KEP,
            "ContainerStats.attributes.id",
            |t: Test| async move {
                let c = ready(&t).await?;
                let containers = pod_stats(&c).await?.containers;
                is("containers", containers.len(), 1)?;
                is("its id", containers[0].attributes.clone().context("no attributes")?.id, c.id)?;
                holds("its memory", containers[0].memory.is_some())
            },
        ),
        case(
            "stats: a pod's pressure",
            PSI,
            &pressures("PodSandboxStats.linux", "PodSandboxStats.linux.io.timestamp"),
            |t: Test| async move {
                if !host::cgroup_v2() || !std::path::Path::new("/proc/pressure").try_exists()? {
                    return skip("pressure is of cgroup v2");
                }
                let c = ready(&t).await?;
                let told = pod_stats(&c).await?;
                pressed("cpu", told.cpu.and_then(|cpu| cpu.psi))?;
                pressed("memory", told.memory.and_then(|memory| memory.psi))?;
                let io = told.io.context("no io")?;
                recent(io.timestamp)?;
                pressed("io", io.psi)
            },
        ),
        case(
            "stats: of an unknown pod are NotFound",
            "contract A.1 PodSandboxStats",
            "PodSandboxStatsRequest.pod_sandbox_id",
            |t: Test| async move {
                let request = cri::PodSandboxStatsRequest { pod_sandbox_id: "0123456789abcdef".repeat(4) };
                refused("the stats", t.runtime().pod_sandbox_stats(request).await, &[Code::NotFound])
                    .map(|_| ())
            },
        ),
        case(
            "stats: of no id is not Unimplemented",
            "contract A.0: the kubelet's probe",
            "",
            |t: Test| async move {
                match t.runtime().pod_sandbox_stats(cri::PodSandboxStatsRequest::default()).await {
                    Err(status) if status.code() == Code::Unimplemented => bail!("{}", status.message()),
                    Ok(_) | Err(_) => Ok(()),
                }
            },
        ),
    ]
}

async fn containers(
    t: &Test,
    stream: bool,
    filter: cri::ContainerStatsFilter,
) -> Result<Vec<cri::ContainerStats>, Status> {
    let filter = Some(filter);
    if !stream {
        return Ok(t
            .runtime()
            .list_container_stats(cri::ListContainerStatsRequest { filter })
            .await?
            .into_inner()
            .stats);
    }
    let mut answers =
        t.runtime().stream_container_stats(cri::StreamContainerStatsRequest { filter }).await?.into_inner();
    let mut all = Vec::new();
    while let Some(answer) = answers.message().await? {
        all.extend(answer.container_stats);
    }
    Ok(all)
}

async fn pods(
    t: &Test,
    stream: bool,
    filter: cri::PodSandboxStatsFilter,
) -> Result<Vec<cri::PodSandboxStats>, Status> {
    let filter = Some(filter);
    if !stream {
        return Ok(t
            .runtime()
            .list_pod_sandbox_stats(cri::ListPodSandboxStatsRequest { filter })
            .await?
            .into_inner()
            .stats);
    }
    let mut answers = t
        .runtime()
        .stream_pod_sandbox_stats(cri::StreamPodSandboxStatsRequest { filter })
        .await?
        .into_inner();
    let mut all = Vec::new();
    while let Some(answer) = answers.message().await? {
        all.extend(answer.pod_sandbox_stats);
    }
    Ok(all)
}

fn container_ids(stats: &[cri::ContainerStats]) -> BTreeSet<String> {
    stats.iter().filter_map(|stats| stats.attributes.as_ref().map(|a| a.id.clone())).collect()
}

fn pod_ids(stats: &[cri::PodSandboxStats]) -> BTreeSet<String> {
    stats.iter().filter_map(|stats| stats.attributes.as_ref().map(|a| a.id.clone())).collect()
}

fn lists(stream: bool) -> Vec<Case> {
    let (way, prefix) = if stream { ("stream", "Stream") } else { ("list", "List") };
    let of_containers = ["id", "pod_sandbox_id", "label_selector"]
        .map(|field| format!("{prefix}ContainerStatsRequest.filter.{field}"))
        .join(" ");
    let of_pods = ["id", "label_selector"]
        .map(|field| format!("{prefix}PodSandboxStatsRequest.filter.{field}"))
        .join(" ");
    vec![
        case(
            format!("stats: containers by id, pod and label ({way})"),
            KEP,
            &of_containers,
            move |t: Test| async move {
                let mark = t.unique("mark");
                let pod = t.pod().await?;
                let a = pod.run(|c| c.labels = map(&[("mark", &mark), ("n", "a")])).await?;
                let b = pod.run(|c| c.labels = map(&[("mark", &mark), ("n", "b")])).await?;
                let gone = pod.run(|c| c.labels = map(&[("mark", &mark), ("n", "c")])).await?;
                gone.stop(0).await?;
                let other = t.container(|c| c.labels = map(&[("mark", &mark)])).await?;
                let ids = |ids: &[&Container]| ids.iter().map(|c| c.id.clone()).collect::<BTreeSet<_>>();
                let by = |id: &str, pod: &str, labels: &[(&str, &str)]| cri::ContainerStatsFilter {
                    id: id.to_owned(),
                    pod_sandbox_id: pod.to_owned(),
                    label_selector: map(labels),
                };
                is("by id", container_ids(&containers(&t, stream, by(&a.id, "", &[])).await?), ids(&[&a]))?;
                // What does not run has no statistics.
                is(
                    "by pod",
                    container_ids(&containers(&t, stream, by("", &pod.id, &[])).await?),
                    ids(&[&a, &b]),
                )?;
                is(
                    "by label",
                    container_ids(&containers(&t, stream, by("", "", &[("mark", &mark)])).await?),
                    ids(&[&a, &b, &other]),
                )?;
                is(
                    "by all",
                    container_ids(&containers(&t, stream, by(&b.id, &pod.id, &[("n", "b")])).await?),
                    ids(&[&b]),
                )?;
                is(
                    "by what does not fit",
                    container_ids(&containers(&t, stream, by(&b.id, &pod.id, &[("n", "a")])).await?),
                    ids(&[]),
                )
            },
        ),
        case(format!("stats: pods by id and label ({way})"), KEP, &of_pods, move |t: Test| async move {
            let mark = t.unique("mark");
            let a = t.pod_with(|p| p.labels = map(&[("mark", &mark), ("n", "a")])).await?;
            let b = t.pod_with(|p| p.labels = map(&[("mark", &mark), ("n", "b")])).await?;
            let by = |id: &str, labels: &[(&str, &str)]| cri::PodSandboxStatsFilter {
                id: id.to_owned(),
                label_selector: map(labels),
            };
            let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<BTreeSet<_>>();
            is("by id", pod_ids(&pods(&t, stream, by(&a.id, &[])).await?), ids(&[&a.id]))?;
            is(
                "by label",
                pod_ids(&pods(&t, stream, by("", &[("mark", &mark)])).await?),
                ids(&[&a.id, &b.id]),
            )?;
            is("by both", pod_ids(&pods(&t, stream, by(&b.id, &[("n", "b")])).await?), ids(&[&b.id]))?;
            is("by what does not fit", pod_ids(&pods(&t, stream, by(&b.id, &[("n", "a")])).await?), ids(&[]))
        }),
        case(
            format!("stats: pods that come and go do not fail a list ({way})"),
            "contract A.1: one bad pod must not fail the list",
            "PodSandboxStats.attributes.id",
            move |t: Test| async move {
                let stays = t.pod().await?;
                let churn = async {
                    for _ in 0..3 {
                        let pod = t.pod().await?;
                        pod.run(|_| {}).await?;
                        pod.stop().await?;
                        pod.remove().await?;
                    }
                    anyhow::Ok(())
                };
                let watch = async {
                    for _ in 0..60 {
                        let ids = pod_ids(&pods(&t, stream, cri::PodSandboxStatsFilter::default()).await?);
                        holds("the pod that stays is in it", ids.contains(&stays.id))?;
                        containers(&t, stream, cri::ContainerStatsFilter::default()).await?;
                        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                    }
                    anyhow::Ok(())
                };
                let (churn, watch) = tokio::join!(churn, watch);
                churn.and(watch)
            },
        ),
        case(
            format!("stats: a pod without a cgroup parent does not fail a list ({way})"),
            "contract A.1: containerd fails the whole list",
            "PodSandboxStats.attributes.id",
            move |t: Test| async move {
                let pod = t
                    .pod_with(|p| {
                        use crate::story::PodWords as _;
                        p.linux().cgroup_parent = String::new();
                    })
                    .await?;
                let other = t.pod().await?;
                let ids = pod_ids(&pods(&t, stream, cri::PodSandboxStatsFilter::default()).await?);
                holds("the other pod is in it", ids.contains(&other.id))?;
                holds("it is in it", ids.contains(&pod.id))
            },
        )
        .alone(),
    ]
}

/// What cAdvisor gives and the kubelet passes on, of all kinds (contract A.1).
const NAMES: &[&str] = &[
    "container_cpu_usage_seconds_total",
    "container_cpu_user_seconds_total",
    "container_cpu_system_seconds_total",
    "container_memory_usage_bytes",
    "container_memory_working_set_bytes",
    "container_memory_rss",
    "container_memory_cache",
    "container_memory_swap",
    "container_memory_failcnt",
    "container_memory_max_usage_bytes",
    "container_memory_failures_total",
    "container_network_receive_bytes_total",
    "container_network_transmit_bytes_total",
    "container_network_receive_errors_total",
    "container_network_transmit_errors_total",
    "container_network_receive_packets_total",
    "container_network_receive_packets_dropped_total",
    "container_network_transmit_packets_total",
    "container_network_transmit_packets_dropped_total",
    "container_processes",
    "container_threads",
    "container_start_time_seconds",
    "container_last_seen",
    "container_fs_usage_bytes",
    "container_fs_limit_bytes",
    "container_fs_inodes_total",
    "container_fs_inodes_free",
    "container_fs_reads_total",
    "container_fs_writes_total",
    "container_fs_reads_bytes_total",
    "container_fs_writes_bytes_total",
    "container_spec_cpu_period",
    "container_spec_cpu_shares",
    "container_spec_memory_limit_bytes",
    "container_spec_memory_swap_limit_bytes",
    "container_oom_events_total",
    "container_sockets",
    "container_file_descriptors",
    "container_ulimits_soft",
];
/// Those that at least one of the peers lacks.
const FURTHER: &[&str] = &["container_spec_cpu_quota"];
/// Likewise, where there is a controller of huge pages.
const HUGE_PAGES: &[&str] = &["container_hugetlb_usage_bytes"];
/// Likewise, with cgroup v2: v1 has neither pressure of groups nor these events.
const V2: &[&str] = &[
    "container_pressure_cpu_stalled_seconds_total",
    "container_pressure_cpu_waiting_seconds_total",
    "container_pressure_io_stalled_seconds_total",
    "container_pressure_io_waiting_seconds_total",
    "container_pressure_memory_stalled_seconds_total",
    "container_pressure_memory_waiting_seconds_total",
    "container_memory_events_high_total",
    "container_memory_events_max_total",
];

async fn descriptors(t: &Test) -> Result<Vec<cri::MetricDescriptor>> {
    Ok(t.runtime()
        .list_metric_descriptors(cri::ListMetricDescriptorsRequest {})
        .await?
        .into_inner()
        .descriptors)
}

async fn pod_metrics(t: &Test, stream: bool, pod: &str) -> Result<cri::PodSandboxMetrics> {
    let all = if stream {
        let request = cri::StreamPodSandboxMetricsRequest {};
        let mut answers = t.runtime().stream_pod_sandbox_metrics(request).await?.into_inner();
        let mut all = Vec::new();
        while let Some(answer) = answers.message().await? {
            all.extend(answer.pod_sandbox_metrics);
        }
        all
    } else {
        let request = cri::ListPodSandboxMetricsRequest {};
        t.runtime().list_pod_sandbox_metrics(request).await?.into_inner().pod_metrics
    };
    is("entries of the pod", all.iter().filter(|p| p.pod_sandbox_id == pod).count(), 1)?;
    all.into_iter().find(|p| p.pod_sandbox_id == pod).context("no metrics of the pod")
}

fn metrics() -> Vec<Case> {
    const SOURCE: &str = "CRI MetricDescriptor, Metric; critest main; contract A.1 ListPodSandboxMetrics";
    let mut all = vec![
        case(
            "stats: each metric has a name, a help text and labels",
            SOURCE,
            "ListMetricDescriptorsRequest MetricDescriptor.name MetricDescriptor.label_keys",
            |t: Test| async move {
                let all = descriptors(&t).await?;
                holds(&format!("{} descriptors", all.len()), all.len() >= 40)?;
                let names: BTreeSet<_> = all.iter().map(|d| &d.name).collect();
                is("names that are of one metric", names.len(), all.len())?;
                for descriptor in &all {
                    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
                    holds(&format!("{} is a name", descriptor.name), descriptor.name.chars().all(plain))?;
                    holds(
                        &format!("{} begins so", descriptor.name),
                        descriptor.name.starts_with("container_") || descriptor.name.starts_with("machine_"),
                    )?;
                    holds(&format!("{} has a help text", descriptor.name), descriptor.help.len() > 5)?;
                    // By their names the kubelet finds pod and container.
                    for key in ["id", "image", "namespace", "pod", "container"] {
                        let found = descriptor.label_keys.iter().any(|label| label == key);
                        holds(
                            &format!("{} has the label {key}: {:?}", descriptor.name, descriptor.label_keys),
                            found,
                        )?;
                    }
                    holds(
                        &format!("{} has no label name", descriptor.name),
                        !descriptor.label_keys.iter().any(|label| label == "name"),
                    )?;
                }
                Ok(())
            },
        ),
        case(
            "stats: the metrics are those of cAdvisor",
            "contract A.1 ListMetricDescriptors",
            "MetricDescriptor.name",
            |t: Test| async move {
                let all: BTreeSet<_> = descriptors(&t).await?.into_iter().map(|d| d.name).collect();
                let missing: Vec<_> = NAMES.iter().filter(|name| !all.contains(**name)).collect();
                is("missing", missing, Vec::<&&str>::new())
            },
        ),
        case(
            "stats: the metrics are all that either peer has",
            "contract A.1: 9 and 11 names that a peer lacks",
            "MetricDescriptor.name",
            |t: Test| async move {
                let all: BTreeSet<_> = descriptors(&t).await?.into_iter().map(|d| d.name).collect();
                // Descriptors are of what "will be returned" (CRI ListMetricDescriptors), so a machine that
                // cannot tell a figure needs none of it.
                let huge_pages = if host::has_controller("hugetlb") { HUGE_PAGES } else { &[] };
                let v2 = if host::cgroup_v2() { V2 } else { &[] };
                let wanted = FURTHER.iter().chain(huge_pages).chain(v2);
                let missing: Vec<_> = wanted.filter(|name| !all.contains(**name)).collect();
                is("missing", missing, Vec::<&&str>::new())
            },
        ),
    ];
    for stream in [false, true] {
        let (way, fields) = if stream {
            (
                "stream",
                "StreamPodSandboxMetricsRequest PodSandboxMetrics.pod_sandbox_id Metric.name Metric.timestamp Metric.metric_type Metric.label_values PodSandboxMetrics.container_metrics.container_id",
            )
        } else {
            (
                "list",
                "ListPodSandboxMetricsRequest PodSandboxMetrics.pod_sandbox_id Metric.name Metric.timestamp Metric.metric_type Metric.label_values PodSandboxMetrics.container_metrics.container_id",
            )
        };
        all.push(case(
            format!("stats: metrics fit their descriptors ({way})"),
            SOURCE,
            fields,
            move |t: Test| async move {
                let c = ready(&t).await?;
                let descriptors = descriptors(&t).await?;
                let told = until("a container's metrics", || async {
                    let told = pod_metrics(&t, stream, &c.pod.id).await?;
                    Ok((!told.container_metrics.is_empty()).then_some(told))
                })
                .await?;
                is("its container", &told.container_metrics[0].container_id, &c.id)?;
                let of_container = &told.container_metrics[0].metrics;
                holds("metrics of the pod", !told.metrics.is_empty())?;
                for metric in told.metrics.iter().chain(of_container) {
                    let descriptor = descriptors
                        .iter()
                        .find(|d| d.name == metric.name)
                        .with_context(|| format!("no descriptor of {}", metric.name))?;
                    is(
                        &format!("labels of {}", metric.name),
                        metric.label_values.len(),
                        descriptor.label_keys.len(),
                    )?;
                    holds(&format!("{} has a value", metric.name), metric.value.is_some())?;
                    if metric.timestamp != 0 {
                        recent(metric.timestamp)?;
                    }
                    // The number of inodes is a level that is called a total.
                    let total = metric.name.ends_with("_total") && metric.name != "container_fs_inodes_total";
                    if total {
                        is(
                            &format!("{} counts", metric.name),
                            metric.metric_type(),
                            cri::MetricType::Counter,
                        )?;
                    }
                }
                let metadata = c.pod.config.metadata.clone().unwrap_or_default();
                let memory = of_container
                    .iter()
                    .find(|m| m.name == "container_memory_usage_bytes")
                    .context("no container_memory_usage_bytes")?;
                is("container_memory_usage_bytes is a level", memory.metric_type(), cri::MetricType::Gauge)?;
                let keys =
                    &descriptors.iter().find(|d| d.name == memory.name).context("no descriptor")?.label_keys;
                let label = |key: &str| {
                    keys.iter()
                        .position(|k| k == key)
                        .and_then(|at| memory.label_values.get(at))
                        .cloned()
                        .unwrap_or_default()
                };
                is("its pod", label("pod"), metadata.name)?;
                is("its namespace", label("namespace"), metadata.namespace)?;
                is("its container", label("container"), c.status().await?.metadata.unwrap_or_default().name)
            },
        ));
    }
    for (name, low, high) in [
        ("container_memory_usage_bytes", 20 << 20, 128 << 20),
        ("container_memory_working_set_bytes", 20 << 20, 128 << 20),
        ("container_processes", 1, 5),
        ("container_threads", 1, 5),
        ("container_spec_memory_limit_bytes", 128 << 20, 128 << 20),
        ("container_spec_cpu_shares", 512, 512),
        ("container_oom_events_total", 0, 0),
        ("container_cpu_usage_seconds_total", 0, 3600),
    ] {
        all.push(case(
            format!("stats: the metric {name} is what the cgroup says"),
            "contract A.1: in cAdvisor's units",
            "Metric.value.value",
            move |t: Test| async move {
                let c = ready(&t).await?;
                let value = until(&format!("{name} in its range"), || async {
                    let told = pod_metrics(&t, false, &c.pod.id).await?;
                    let metric = told
                        .container_metrics
                        .iter()
                        .flat_map(|m| &m.metrics)
                        .find(|m| m.name == name)
                        .cloned();
                    let value =
                        metric.with_context(|| format!("no {name}"))?.value.context("no value")?.value;
                    // A reading may be older than what the container did.
                    Ok((value >= low).then_some(value))
                })
                .await?;
                between(name, value, low, high)
            },
        ));
    }
    all.push(case(
        "stats: the metric container_start_time_seconds is in seconds",
        "contract A.1: containerd 2.3.4 gave nanoseconds",
        "Metric.value.value",
        |t: Test| async move {
            let c = ready(&t).await?;
            let told = until("a container's metrics", || async {
                let told = pod_metrics(&t, false, &c.pod.id).await?;
                Ok((!told.container_metrics.is_empty()).then_some(told))
            })
            .await?;
            let metric = told.container_metrics[0]
                .metrics
                .iter()
                .find(|m| m.name == "container_start_time_seconds")
                .cloned();
            let value = metric.context("no container_start_time_seconds")?.value.context("no value")?.value;
            let now = u64::try_from(now() / 1_000_000_000)?;
            between("seconds since 1970", value, now - 300, now)
        },
    ));
    all
}
