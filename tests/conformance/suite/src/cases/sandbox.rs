//! Pods: identity, life, host name, DNS, logs, labels, sysctls, addresses.

use crate::{
    case::{Case, between, case, differs, has, holds, is, refused, skip},
    host,
    story::{PodWords as _, Test, map, words},
};
use anyhow::{Context as _, Result};
use api::cri::{self, PodSandboxState};
use tonic::Code;

/// The cases.
pub fn cases() -> Vec<Case> {
    vec![
        case(
            "sandbox: what was asked for comes back in the status",
            "CRI PodSandboxStatus; critest PodSandbox basic",
            "p.metadata.name p.metadata.uid p.metadata.namespace p.labels p.annotations ps.id ps.metadata.name ps.metadata.uid ps.metadata.namespace ps.metadata.attempt p.metadata.attempt ps.labels ps.annotations ps.state ps.created_at RunPodSandboxResponse.pod_sandbox_id PodSandboxStatusRequest.pod_sandbox_id",
            echo,
        ),
        case(
            "sandbox: the same comes back in the list",
            "CRI PodSandbox",
            "PodSandbox.id PodSandbox.metadata.name PodSandbox.metadata.uid PodSandbox.metadata.namespace PodSandbox.metadata.attempt PodSandbox.labels PodSandbox.annotations PodSandbox.state PodSandbox.created_at PodSandbox.runtime_handler ListPodSandboxRequest.filter.id",
            listed,
        ),
        case(
            "sandbox: stopped is not ready, removed is gone",
            "CRI StopPodSandbox, RemovePodSandbox; critest PodSandbox basic",
            "StopPodSandboxRequest.pod_sandbox_id RemovePodSandboxRequest.pod_sandbox_id ps.state StopPodSandboxResponse RemovePodSandboxResponse",
            life,
        ),
        case(
            "sandbox: unknown ids can be stopped and removed",
            "critest Idempotence",
            "StopPodSandboxRequest.pod_sandbox_id RemovePodSandboxRequest.pod_sandbox_id",
            idempotent,
        ),
        case(
            "sandbox: the status of an unknown id is NotFound",
            "CRI PodSandboxStatus; cri-api errors IsNotFound",
            "PodSandboxStatusRequest.pod_sandbox_id",
            absent,
        ),
        case("sandbox: the host name is the pod's", "CRI PodSandboxConfig.hostname", "p.hostname", hostname),
        case(
            "sandbox: resolv.conf is written from the DNS configuration",
            "CRI DNSConfig; critest Networking",
            "p.dns_config.servers p.dns_config.searches p.dns_config.options",
            dns,
        ),
        case(
            "sandbox: safe sysctls are set in the pod alone",
            "CRI LinuxPodSandboxConfig.sysctls; critest PodSandbox sysctls",
            "p.linux.sysctls",
            sysctls,
        ),
        case(
            "sandbox: it has an address, and the container has it too",
            "CRI PodSandboxNetworkStatus",
            "ps.network.ip",
            address,
        ),
        case(
            "sandbox: it has an address of the other family, too, and is reached by it",
            "CRI PodSandboxNetworkStatus.additional_ips; Kubernetes dual-stack",
            "ps.network.additional_ips.ip",
            both_families,
        ),
        case(
            "sandbox: its cgroups are beneath the parent",
            "CRI LinuxPodSandboxConfig.cgroup_parent",
            "p.linux.cgroup_parent",
            cgroup_parent,
        ),
        case(
            "sandbox: verbose status has information as JSON",
            "CRI PodSandboxStatusRequest.verbose",
            "PodSandboxStatusRequest.verbose PodSandboxStatusResponse.info",
            |t: Test| async move {
                let pod = t.pod().await?;
                is("unless asked", pod.full_status(false).await?.info.len(), 0)?;
                let info = pod.full_status(true).await?.info;
                let info: serde_json::Value =
                    serde_json::from_str(info.get("info").context("no info.info")?)?;
                holds("it is an object", info.is_object())
            },
        ),
        case(
            "sandbox: a port of the host leads to the pod",
            "CRI PortMapping; critest Networking",
            "p.port_mappings.container_port p.port_mappings.host_port",
            |t: Test| async move { ports(&t, 18_181, "", &["127.0.0.1", "gateway"]).await },
        ),
        case(
            "sandbox: a port of one address of the host",
            "CRI PortMapping.host_ip",
            "p.port_mappings.host_ip p.port_mappings.host_port",
            |t: Test| async move { ports(&t, 18_182, "gateway", &["gateway"]).await },
        ),
        case(
            "sandbox: a port of the host is free again",
            "contract A.1 StopPodSandbox",
            "p.port_mappings.host_port",
            |t: Test| async move {
                for _ in 0..2 {
                    ports(&t, 18_183, "", &["gateway"]).await?;
                }
                Ok(())
            },
        ),
        case(
            "sandbox: UDP and SCTP ports are taken",
            "CRI Protocol",
            "p.port_mappings.protocol p.port_mappings.host_port",
            |t: Test| async move {
                let mapping = |protocol: cri::Protocol, port| cri::PortMapping {
                    protocol: protocol.into(),
                    container_port: port,
                    host_port: port,
                    host_ip: String::new(),
                };
                let pod = t
                    .pod_with(|p| {
                        p.port_mappings =
                            vec![mapping(cri::Protocol::Udp, 18_184), mapping(cri::Protocol::Sctp, 18_185)]
                    })
                    .await?;
                pod.ip().await.map(|_| ())
            },
        ),
        case(
            "sandbox: a port without one of the host maps nothing",
            "CRI PortMapping.host_port: 0",
            "p.port_mappings.container_port",
            |t: Test| async move {
                let pod = t
                    .pod_with(|p| {
                        p.port_mappings = vec![cri::PortMapping { container_port: 80, ..Default::default() }]
                    })
                    .await?;
                pod.ip().await.map(|_| ())
            },
        ),
        case(
            "sandbox: the default handler by its name",
            "CRI RunPodSandboxRequest.runtime_handler; KEP-585",
            "RunPodSandboxRequest.runtime_handler ps.runtime_handler",
            |t: Test| async move {
                let handler = t
                    .world
                    .handlers
                    .iter()
                    .find(|name| !name.is_empty())
                    .context("no handler with a name")?
                    .clone();
                let pod = t.run_pod(t.pod_config(), &handler).await?;
                is("in the status", pod.status().await?.runtime_handler, handler)?;
                is("a container of it", pod.run(|_| {}).await?.sh("echo works").await?, "works")
            },
        ),
        case(
            "sandbox: its log directory is made",
            "CRI PodSandboxConfig.log_directory; both peers",
            "p.log_directory",
            |t: Test| async move {
                let dir = t.dir().join("made/for/it");
                let path = dir.to_string_lossy().into_owned();
                let c = t
                    .both(
                        |p| p.log_directory = path,
                        |c| {
                            use crate::story::ContainerWords as _;
                            c.script("echo x; exit 0")
                        },
                    )
                    .await?;
                c.ended_with(0).await?;
                holds("it is there", dir.is_dir())
            },
        ),
        case(
            "sandbox: a pod without a cgroup parent",
            "CRI LinuxPodSandboxConfig.cgroup_parent; critest",
            "",
            |t: Test| async move {
                let c = t.both(|p| p.linux().cgroup_parent = String::new(), |_| {}).await?;
                is("a container of it", c.sh("echo works").await?, "works")
            },
        )
        .alone(),
        case(
            "sandbox: the same request again while the first is under way",
            "contract A.1: the kubelet retries with the same attempt",
            "",
            |t: Test| async move {
                let config = t.pod_config();
                let (a, b) = tokio::join!(t.run_pod(config.clone(), ""), t.run_pod(config, ""));
                // Joined, or refused: but never two pods.
                let ids: std::collections::BTreeSet<_> =
                    [&a, &b].into_iter().flatten().map(|pod| pod.id.clone()).collect();
                is("pods", ids.len(), 1)
            },
        ),
        case(
            "sandbox: twenty pods at once have twenty addresses",
            "CNI host-local",
            "ps.network.ip",
            |t: Test| async move {
                let mut starting = tokio::task::JoinSet::new();
                for _ in 0..20 {
                    let t = t.clone();
                    starting.spawn(async move { t.pod().await?.ip().await });
                }
                // All of them, before the first failure: a call that is broken off may still end in a pod.
                let started = starting.join_all().await;
                let addresses = started.into_iter().collect::<Result<std::collections::BTreeSet<_>>>()?;
                is("addresses", addresses.len(), 20)
            },
        ),
        case(
            "sandbox: pods reach one another",
            "Kubernetes network model",
            "ps.network.ip",
            |t: Test| async move {
                let (a, b) = (t.pod().await?, t.container(|_| {}).await?);
                b.sh(&format!("ping -c 1 -w 5 {}", a.ip().await?)).await.map(|_| ())
            },
        ),
        case(
            "sandbox: its address is free again",
            "contract A.1 StopPodSandbox: release IPs",
            "ps.network.ip",
            |t: Test| async move {
                let pod = t.pod().await?;
                let c = t.container(|_| {}).await?;
                let ip = pod.ip().await?;
                pod.stop().await?;
                c.sh_fails(&format!("ping -c 1 -W 2 {ip}")).await.map(|_| ())
            },
        ),
        case(
            "sandbox: its end ends its containers in order",
            "CRI StopPodSandbox: forcibly terminated",
            "StopPodSandboxRequest.pod_sandbox_id",
            |t: Test| async move {
                let pod = t.pod().await?;
                let mut all = Vec::new();
                for _ in 0..5 {
                    all.push(pod.run(|_| {}).await?);
                }
                pod.stop().await?;
                for c in all {
                    c.ended_with(137).await?;
                }
                Ok(())
            },
        ),
        case(
            "sandbox: its containers can be seen with it",
            "CRI PodSandboxStatusResponse.containers_statuses (1.26)",
            "PodSandboxStatusRequest.pod_sandbox_id",
            |t: Test| async move {
                let c = t.container(|_| {}).await?;
                let statuses = c.pod.full_status(false).await?.containers_statuses;
                // Optional; but what is there is true.
                for status in statuses {
                    is("id", status.id, c.id.clone())?;
                    is("state", status.state, i32::from(cri::ContainerState::ContainerRunning))?;
                }
                Ok(())
            },
        ),
        case(
            "sandbox: logs are beneath its log directory",
            "CRI PodSandboxConfig.log_directory",
            "p.log_directory c.log_path",
            log_directory,
        ),
    ]
}

async fn echo(t: Test) -> Result<()> {
    let before = now();
    let pod = t
        .pod_with(|p| {
            p.metadata.get_or_insert_default().attempt = 7;
            p.labels = map(&[("app", "echo"), ("empty", ""), ("io.kubernetes.pod.name", "x")]);
            p.annotations =
                map(&[("note", "two words, a \"quote\" and \u{fc}"), ("a/b", "{\"json\": true}")]);
        })
        .await?;
    let status = pod.status().await?;
    is("id", &status.id, &pod.id)?;
    is("metadata", &status.metadata, &pod.config.metadata)?;
    is("labels", &status.labels, &pod.config.labels)?;
    is("annotations", &status.annotations, &pod.config.annotations)?;
    is("state", status.state(), PodSandboxState::SandboxReady)?;
    between("created_at", status.created_at, before, now())
}

async fn listed(t: Test) -> Result<()> {
    let pod = t
        .pod_with(|p| {
            p.metadata.get_or_insert_default().attempt = 3;
            p.labels = map(&[("app", "listed")]);
            p.annotations = map(&[("note", "x")]);
        })
        .await?;
    let filter = cri::PodSandboxFilter { id: pod.id.clone(), ..Default::default() };
    let request = cri::ListPodSandboxRequest { filter: Some(filter) };
    let items = t.runtime().list_pod_sandbox(request).await?.into_inner().items;
    is("pods of that id", items.len(), 1)?;
    let status = pod.status().await?;
    let item = &items[0];
    is("id", &item.id, &pod.id)?;
    is("metadata", &item.metadata, &pod.config.metadata)?;
    is("labels", &item.labels, &pod.config.labels)?;
    is("annotations", &item.annotations, &pod.config.annotations)?;
    is("state", item.state(), PodSandboxState::SandboxReady)?;
    is("created_at", item.created_at, status.created_at)?;
    is("runtime_handler", &item.runtime_handler, &status.runtime_handler)
}

async fn life(t: Test) -> Result<()> {
    let pod = t.pod().await?;
    let c = pod.run(|_| {}).await?;
    let pid = c.pid().await?;
    pod.stop().await?;
    is("state", pod.status().await?.state(), PodSandboxState::SandboxNotready)?;
    is("its container", c.status().await?.state(), cri::ContainerState::ContainerExited)?;
    holds("its process is gone", host::proc_file(pid, "stat").is_err())?;
    pod.stop().await.context("stop again")?;
    pod.remove().await?;
    refused("its status", pod.full_status(false).await, &[Code::NotFound])?;
    c.gone().await?;
    pod.remove().await.context("remove again")?;
    pod.stop().await.context("stop what is removed")
}

async fn idempotent(t: Test) -> Result<()> {
    let id = "0123456789abcdef".repeat(4);
    let request = cri::StopPodSandboxRequest { pod_sandbox_id: id.clone() };
    t.runtime().stop_pod_sandbox(request).await.context("stop")?;
    t.runtime()
        .remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: id })
        .await
        .context("remove")?;
    Ok(())
}

async fn absent(t: Test) -> Result<()> {
    let request =
        cri::PodSandboxStatusRequest { pod_sandbox_id: "0123456789abcdef".repeat(4), verbose: false };
    refused("the status", t.runtime().pod_sandbox_status(request).await, &[Code::NotFound]).map(|_| ())
}

async fn hostname(t: Test) -> Result<()> {
    let c = t.both(|p| p.hostname = "a-name-of-its-own".to_owned(), |_| {}).await?;
    is("hostname", c.sh("hostname").await?, "a-name-of-its-own")?;
    is("/etc/hostname", c.sh("cat /etc/hostname").await?, "a-name-of-its-own")?;
    differs("the UTS namespace", host::namespace(c.pid().await?, "uts")?, host::own_namespace("uts")?)
}

async fn dns(t: Test) -> Result<()> {
    let dns = cri::DnsConfig {
        servers: words(&["10.9.8.7", "fd00::7"]),
        searches: words(&["one.example", "two.example"]),
        options: words(&["ndots:5", "edns0"]),
    };
    let c = t.both(|p| p.dns_config = Some(dns), |_| {}).await?;
    let text = c.sh("cat /etc/resolv.conf").await?;
    for line in [
        "nameserver 10.9.8.7",
        "nameserver fd00::7",
        "search one.example two.example",
        "options ndots:5 edns0",
    ] {
        holds(&format!("{line:?} in {text:?}"), text.lines().any(|other| other.trim() == line))?;
    }
    Ok(())
}

async fn sysctls(t: Test) -> Result<()> {
    let set = [
        ("kernel.shm_rmid_forced", "1"),
        ("net.ipv4.ip_local_port_range", "2000\t3000"),
        ("net.ipv4.tcp_syncookies", "0"),
        ("net.ipv4.ping_group_range", "0\t7"),
        ("net.ipv4.ip_unprivileged_port_start", "81"),
        ("net.ipv4.tcp_keepalive_time", "333"),
        ("fs.mqueue.msg_max", "17"),
    ];
    let path = |name: &str| format!("/proc/sys/{}", name.replace('.', "/"));
    let read = |name: &str| std::fs::read_to_string(path(name)).unwrap_or_default();
    let before: Vec<_> = set.iter().map(|(name, _)| read(name)).collect();
    let c = t
        .both(
            |p| {
                p.linux().sysctls = set.iter().map(|(k, v)| ((*k).to_owned(), v.replace('\t', " "))).collect()
            },
            |_| {},
        )
        .await?;
    for (name, value) in set {
        is(
            name,
            c.sh(&format!("cat {}", path(name))).await?.split_whitespace().collect::<Vec<_>>().join("\t"),
            value,
        )?;
    }
    let after: Vec<_> = set.iter().map(|(name, _)| read(name)).collect();
    is("the host's", after, before)
}

async fn address(t: Test) -> Result<()> {
    let pod = t.pod().await?;
    let c = pod.run(|_| {}).await?;
    let ip = pod.ip().await?;
    has("ip addr", &c.sh("ip addr show eth0").await?, &format!("inet {ip}/"))?;
    has("ip link", &c.sh("ip link show lo").await?, "UP")
}

async fn both_families(t: Test) -> Result<()> {
    if !std::path::Path::new("/proc/net/if_inet6").exists() {
        return skip("the kernel has no IPv6");
    }
    let (pod, other) = (t.pod().await?, t.container(|_| {}).await?);
    let network = pod.status().await?.network.context("no network")?;
    is("further addresses", network.additional_ips.len(), 1)?;
    let first: std::net::IpAddr = network.ip.parse().context("ip")?;
    let further: std::net::IpAddr = network.additional_ips[0].ip.parse().context("additional_ips")?;
    is("IPv4 comes first, as the node's network has it", (first.is_ipv4(), further.is_ipv6()), (true, true))?;
    let c = pod.run(|_| {}).await?;
    has("ip addr", &c.sh("ip -6 addr show eth0 scope global").await?, &format!("inet6 {further}/"))?;
    differs(
        "the other pod's",
        other.pod.status().await?.network.unwrap_or_default().additional_ips,
        network.additional_ips,
    )?;
    other.sh(&format!("ping -6 -c 1 -w 5 {further}")).await.map(|_| ())
}

async fn cgroup_parent(t: Test) -> Result<()> {
    let c = t.container(|_| {}).await?;
    let pid = c.pid().await?;
    let parent = t.cgroup();
    // A slice's path repeats its parents, and ends in the same name.
    let last = parent.rsplit('/').next().unwrap_or_default();
    for controller in ["memory", "cpu", "pids"] {
        if host::has_controller(controller) {
            let dir = host::cgroup_dir(pid, controller)?.to_string_lossy().into_owned();
            has(controller, &dir, &format!("/{last}/"))?;
        }
    }
    Ok(())
}

/// A pod whose port 80 is that port of the host, asked at those addresses; `gateway` is the bridge's.
async fn ports(t: &Test, port: u16, address: &str, ask: &[&str]) -> Result<()> {
    use crate::story::ContainerWords as _;
    use tokio::io::AsyncReadExt as _;
    let gateway =
        t.container(|_| {}).await?.sh("ip route | sed -n 's/^default via \\([^ ]*\\).*/\\1/p'").await?;
    let named = |name: &str| if name == "gateway" { gateway.clone() } else { name.to_owned() };
    let mapping = cri::PortMapping {
        container_port: 80,
        host_port: port.into(),
        host_ip: named(address),
        ..Default::default()
    };
    let pod = t.pod_with(|p| p.port_mappings = vec![mapping]).await?;
    pod.run(|c| c.script("while :; do echo of the pod | nc -l -p 80; done")).await?;
    for name in ask {
        let host = named(name);
        crate::story::until(&format!("an answer of {host}:{port}"), || async {
            let Ok(mut stream) = tokio::net::TcpStream::connect((host.as_str(), port)).await else {
                return Ok(None);
            };
            let mut text = [0; 10];
            let read = tokio::time::timeout(crate::story::patience(5), stream.read_exact(&mut text)).await;
            Ok((read.is_ok_and(|read| read.is_ok()) && &text == b"of the pod").then_some(()))
        })
        .await?;
    }
    pod.stop().await?;
    pod.remove().await?;
    Ok(())
}

async fn log_directory(t: Test) -> Result<()> {
    use crate::story::ContainerWords as _;
    let dir = t.host_dir("elsewhere", &[])?;
    let c = t
        .both(
            |p| p.log_directory.clone_from(&dir),
            |c| {
                c.script("echo here; sleep 1000");
                c.log_path = "sub-0.log".to_owned();
            },
        )
        .await?;
    is("log_path", c.status().await?.log_path, format!("{dir}/sub-0.log"))?;
    c.logged("here").await.map(|_| ())
}

/// Nanoseconds since 1970.
#[must_use]
pub fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
