//! Bad input: each is refused, and nothing has changed.

use crate::{
    case::{Case, case, has, is, refused},
    story::{Config as _, ContainerWords as _, PodWords as _, Test, map},
};
use api::cri;
use tonic::Code;

/// The cases.
pub fn cases() -> Vec<Case> {
    [pods(), containers(), ids()].concat()
}

fn pods() -> Vec<Case> {
    type Change = fn(&mut cri::PodSandboxConfig);
    let refusals: [(&str, &str, &str, Change); 14] = [
        ("without metadata", "", "CRI PodSandboxMetadata", |p| p.metadata = None),
        ("without a name", "p.metadata.uid", "CRI PodSandboxMetadata", |p| {
            p.metadata.get_or_insert_default().name.clear()
        }),
        ("with a relative log directory", "p.log_directory", "CRI log_directory: absolute", |p| {
            p.log_directory = "relative/logs".to_owned();
        }),
        ("with a host name that is too long", "p.hostname", "hostname(7): 64", |p| {
            p.hostname = "h".repeat(300)
        }),
        ("with a host name that has a line's end", "p.hostname", "safety: injection", |p| {
            p.hostname = "a\nb".to_owned()
        }),
        ("with a sysctl of the host", "p.linux.sysctls", "contract B.1: host ones refused", |p| {
            p.linux().sysctls = map(&[("kernel.panic", "1")]);
        }),
        ("with a sysctl that does not exist", "p.linux.sysctls", "sysctl(8)", |p| {
            p.linux().sysctls = map(&[("net.ipv4.no_such_thing", "1")]);
        }),
        (
            "with a sysctl that leads elsewhere",
            "p.linux.sysctls",
            "safety: sysctl injection (CVE-2022-0811)",
            |p| {
                p.linux().sysctls =
                    map(&[("net.ipv4.ip_forward", "1+kernel.core_pattern=x"), ("net/../kernel/panic", "1")]);
            },
        ),
        (
            "with a sysctl of the network in the node's network",
            "p.linux.sysctls",
            "kubelet sysctl: not with host network",
            |p| {
                p.hostname.clear();
                p.sc().namespace_options.get_or_insert_default().network = cri::NamespaceMode::Node.into();
                p.linux().sysctls = map(&[("net.ipv4.tcp_syncookies", "1")]);
            },
        ),
        (
            "with a DNS server that is no address",
            "p.dns_config.servers",
            "resolv.conf(5); safety: injection",
            |p| {
                p.dns_config = Some(cri::DnsConfig {
                    servers: vec!["1.1.1.1\nnameserver 2.2.2.2".to_owned()],
                    ..Default::default()
                });
            },
        ),
        (
            "with a port that is none",
            "p.port_mappings.host_port p.port_mappings.container_port",
            "CRI PortMapping",
            |p| {
                p.port_mappings =
                    vec![cri::PortMapping { host_port: 70_000, container_port: 80, ..Default::default() }];
            },
        ),
        (
            "with an address of the host that is none",
            "p.port_mappings.host_ip p.port_mappings.host_port",
            "CRI PortMapping",
            |p| {
                p.port_mappings = vec![cri::PortMapping {
                    host_port: 12_222,
                    container_port: 80,
                    host_ip: "not-an-address".to_owned(),
                    ..Default::default()
                }];
            },
        ),
        (
            "with an unknown mode of a namespace",
            "psc.namespace_options.network",
            "contract: unknown numbers are refused",
            |p| {
                p.sc().namespace_options.get_or_insert_default().network = 77;
            },
        ),
        (
            "with a cgroup parent that leads elsewhere",
            "p.linux.cgroup_parent",
            "safety: paths of a request",
            |p| {
                p.linux().cgroup_parent = "/../../escaped".to_owned();
            },
        ),
    ];
    let mut all: Vec<_> = refusals
        .into_iter()
        .map(|(name, fields, source, change)| {
            case(format!("refused: a pod {name}"), source, fields, move |t: Test| async move {
                let mark = t.unique("mark");
                let tried = t
                    .try_pod(|p| {
                        p.labels = map(&[("mark", &mark)]);
                        change(p);
                    })
                    .await;
                refused("the pod", tried, &[])?;
                let filter =
                    cri::PodSandboxFilter { label_selector: map(&[("mark", &mark)]), ..Default::default() };
                let request = cri::ListPodSandboxRequest { filter: Some(filter) };
                is("pods", t.runtime().list_pod_sandbox(request).await?.into_inner().items.len(), 0)
            })
        })
        .collect();
    all.extend([
        case(
            "refused: a pod without a configuration",
            "CRI RunPodSandboxRequest",
            "",
            |t: Test| async move {
                let request = cri::RunPodSandboxRequest::default();
                refused("the pod", t.runtime().run_pod_sandbox(request).await, &[]).map(|_| ())
            },
        ),
        case(
            "refused: a pod for an unknown handler",
            "contract A.1 RunPodSandbox: unknown runtime_handler rejected",
            "RunPodSandboxRequest.runtime_handler",
            |t: Test| async move {
                refused("the pod", t.run_pod(t.pod_config(), "no-such-handler").await, &[]).map(|_| ())
            },
        ),
    ]);
    all
}

fn containers() -> Vec<Case> {
    type Change = fn(&mut cri::ContainerConfig);
    let refusals: [(&str, &str, &str, Change); 13] = [
        ("without metadata", "", "CRI ContainerMetadata", |c| c.metadata = None),
        ("without a name", "", "CRI ContainerMetadata", |c| c.metadata.get_or_insert_default().name.clear()),
        ("without an image", "", "CRI ImageSpec", |c| c.image = None),
        ("with a command that is not there", "c.command", "execve(2)", |c| {
            c.command = vec!["/no/such/program".to_owned()]
        }),
        ("with a command that is a directory", "c.command", "execve(2)", |c| {
            c.command = vec!["/etc".to_owned()]
        }),
        ("with a mount at no path", "c.mounts.host_path", "CRI Mount.container_path", |c| {
            _ = c.bind("/tmp", "")
        }),
        (
            "with a mount over /proc",
            "c.mounts.container_path",
            "safety: CVE-2019-19921, CVE-2023-27561",
            |c| {
                c.bind("/tmp", "/proc");
            },
        ),
        (
            "with an unknown propagation",
            "c.mounts.propagation",
            "contract: unknown numbers are refused",
            |c| {
                c.bind("/tmp", "/volume").propagation = 77;
            },
        ),
        ("with a variable without a name", "c.envs.value", "environ(7)", |c| {
            c.envs = vec![cri::KeyValue { key: String::new(), value: b"x".to_vec() }];
        }),
        ("with a variable whose name has an equals sign", "c.envs.key", "environ(7)", |c| {
            c.envs = vec![cri::KeyValue { key: "A=B".to_owned(), value: b"x".to_vec() }];
        }),
        ("with a zero in a variable", "c.envs.value", "environ(7)", |c| {
            c.envs = vec![cri::KeyValue { key: "A".to_owned(), value: b"x\0y".to_vec() }];
        }),
        ("with an unknown stop signal", "c.stop_signal", "contract: unknown numbers are refused", |c| {
            c.stop_signal = 7777
        }),
        (
            "with an unknown kind of seccomp profile",
            "sc.seccomp.profile_type",
            "contract: unknown numbers are refused",
            |c| {
                c.sc().seccomp =
                    Some(cri::SecurityProfile { profile_type: 77, localhost_ref: String::new() });
            },
        ),
    ];
    refusals
        .into_iter()
        .map(|(name, fields, source, change)| {
            case(format!("refused: a container {name}"), source, fields, move |t: Test| async move {
                let pod = t.pod().await?;
                refused("the container", pod.try_run(change).await, &[])?;
                is("another one", pod.run(|_| {}).await?.sh("echo works").await?, "works")
            })
        })
        .collect()
}

fn ids() -> Vec<Case> {
    const SOURCE: &str = "CRI; contract A.0: NotFound must be the gRPC code";
    let unknown = || "0123456789abcdef".repeat(4);
    vec![
        case(
            "refused: a start of an unknown container",
            SOURCE,
            "StartContainerRequest.container_id",
            move |t: Test| async move {
                let request = cri::StartContainerRequest { container_id: unknown() };
                refused("it", t.runtime().start_container(request).await, &[Code::NotFound]).map(|_| ())
            },
        ),
        case(
            "refused: an ExecSync in an unknown container",
            SOURCE,
            "ExecSyncRequest.container_id",
            move |t: Test| async move {
                let request = cri::ExecSyncRequest {
                    container_id: unknown(),
                    cmd: vec!["/bin/true".to_owned()],
                    timeout: 1,
                };
                refused("it", t.runtime().exec_sync(request).await, &[Code::NotFound]).map(|_| ())
            },
        ),
        case(
            "refused: a container in an unknown pod",
            SOURCE,
            "CreateContainerRequest.pod_sandbox_id",
            move |t: Test| async move {
                let mut pod = t.pod().await?;
                pod.id = unknown();
                refused("it", pod.create(|_| {}).await, &[]).map(|_| ())
            },
        ),
        case(
            "refused: a container in a stopped pod",
            "contract A.1 CreateContainer",
            "CreateContainerRequest.pod_sandbox_id",
            |t: Test| async move {
                let pod = t.pod().await?;
                pod.stop().await?;
                refused("it", pod.create(|_| {}).await, &[]).map(|_| ())
            },
        ),
        case(
            "refused: two containers of one name and attempt",
            "contract B.2: (name, attempt) unique in the sandbox",
            "c.metadata.name",
            |t: Test| async move {
                let pod = t.pod().await?;
                let first = pod.container_config();
                pod.create_from(first.clone()).await?;
                let mut second = first;
                second.args = vec!["another".to_owned()];
                refused("the second", pod.create_from(second.clone()).await, &[])?;
                // Another attempt is another container.
                second.metadata.get_or_insert_default().attempt = 1;
                second.args.clear();
                pod.create_from(second).await?;
                Ok(())
            },
        ),
        case(
            "refused: two pods of one name, namespace, uid and attempt",
            "contract A.1 RunPodSandbox",
            "p.metadata.uid",
            |t: Test| async move {
                let first = t.pod().await?;
                let mut config = first.config.clone();
                config.labels = map(&[("another", "one")]);
                match t.run_pod(config.clone(), "").await {
                    // The same pod again is its own answer in some runtimes; another configuration is not the same.
                    Ok(second) => anyhow::bail!("the second is {}, the first {}", second.id, first.id),
                    Err(status) => has("the error", &status.message().to_lowercase(), "re")?,
                }
                config.metadata.get_or_insert_default().attempt = 1;
                t.run_pod(config, "").await?;
                Ok(())
            },
        ),
        case(
            "refused: a second start",
            "contract A.1 StartContainer: start once",
            "StartContainerRequest.container_id",
            |t: Test| async move {
                let c = t.container(|_| {}).await?;
                refused("it", c.start().await, &[])?;
                is("the container", c.sh("echo lives").await?, "lives")
            },
        ),
        case(
            "refused: a negative grace",
            "CRI StopContainerRequest.timeout",
            "StopContainerRequest.timeout",
            |t: Test| async move {
                let c = t.container(|_| {}).await?;
                // Refused, or taken as none: but the call must not hang.
                let call = c.stop(-5);
                let _ = tokio::time::timeout(crate::story::patience(20), call).await?;
                Ok(())
            },
        ),
    ]
}
