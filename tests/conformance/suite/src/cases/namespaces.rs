//! Namespaces: every mode of network, PID and IPC, and TARGET.

use crate::{
    case::{Case, case, differs, has, holds, is, lacks, refused},
    host,
    story::{Config as _, Container, Pod, Test},
};
use anyhow::Result;
use api::cri::{self, NamespaceMode};

/// The cases.
pub fn cases() -> Vec<Case> {
    const SOURCE: &str = "CRI NamespaceOption; critest Security Context / NamespaceOption";
    let mut all =
        vec![
            case("namespaces: containers of a pod share its network", SOURCE, "", |t: Test| async move {
                shared(&t, "net", |_| {}).await
            }),
            case(
                "namespaces: network of the node is the node's",
                SOURCE,
                "psc.namespace_options.network sc.namespace_options.network",
                node_network,
            ),
            case(
                "namespaces: in the node's network the host name is the node's",
                "CRI PodSandboxConfig.hostname; contract B.1",
                "psc.namespace_options.network",
                node_hostname,
            ),
            case("namespaces: IPC is the pod's", SOURCE, "", |t: Test| async move {
                shared(&t, "ipc", |_| {}).await
            }),
            case("namespaces: /dev/shm is the pod's", SOURCE, "", shared_memory),
            case(
                "namespaces: IPC of the node is the node's",
                SOURCE,
                "psc.namespace_options.ipc sc.namespace_options.ipc",
                |t: Test| async move { of_the_node(&t, "ipc", |o| o.ipc = NamespaceMode::Node.into()).await },
            ),
            case("namespaces: UTS is the pod's", SOURCE, "", |t: Test| async move {
                shared(&t, "uts", |_| {}).await
            }),
            case(
                "namespaces: PID of the container is its own",
                SOURCE,
                "psc.namespace_options.pid sc.namespace_options.pid",
                own_pid,
            ),
            case("namespaces: PID of the pod is shared by its containers", SOURCE, "", pod_pid),
            case(
                "namespaces: PID of the node is the node's",
                SOURCE,
                "psc.namespace_options.pid sc.namespace_options.pid",
                |t: Test| async move { of_the_node(&t, "pid", |o| o.pid = NamespaceMode::Node.into()).await },
            ),
            case(
                "namespaces: PID of a target is that container's",
                "KEP-277; CRI NamespaceOption.target_id",
                "sc.namespace_options.pid sc.namespace_options.target_id",
                target,
            ),
            case(
                "namespaces: a debug container's end does not end its target",
                "KEP-277",
                "sc.namespace_options.target_id",
                target_end,
            ),
            case(
                "namespaces: an unknown target is refused",
                "CRI NamespaceOption.target_id",
                "sc.namespace_options.target_id",
                |t: Test| async move { bad_target(&t, "0123456789abcdef".repeat(4)).await },
            ),
            case(
                "namespaces: a target of another pod is refused",
                "KEP-277: a target is a container of the same pod",
                "sc.namespace_options.target_id",
                |t: Test| async move {
                    let other = t.container(|_| {}).await?;
                    bad_target(&t, other.id).await
                },
            ),
            case(
                "namespaces: a target for a whole pod is refused",
                "CRI NamespaceMode.TARGET: for containers",
                "psc.namespace_options.pid psc.namespace_options.target_id",
                |t: Test| async move {
                    let other = t.container(|_| {}).await?;
                    let tried = t
                        .try_pod(|p| {
                            let options = p.sc().namespace_options.get_or_insert_default();
                            options.pid = NamespaceMode::Target.into();
                            options.target_id = other.id;
                        })
                        .await;
                    refused("the pod", tried, &[]).map(|_| ())
                },
            ),
            case(
                "namespaces: a target that does not run is refused",
                "KEP-277",
                "sc.namespace_options.target_id",
                dead_target,
            ),
            case(
                "namespaces: mounts are each container's own",
                "CRI ContainerConfig.mounts",
                "",
                |t: Test| async move { apart(&t, "mnt").await },
            ),
            case(
                "namespaces: a container is in the node's user namespace unless asked",
                "KEP-127",
                "",
                |t: Test| async move {
                    let c = t.container(|_| {}).await?;
                    is("user", host::namespace(c.pid().await?, "user")?, host::own_namespace("user")?)
                },
            ),
        ];
    for network in MODES {
        for pid in [NamespaceMode::Pod, NamespaceMode::Container, NamespaceMode::Node] {
            for ipc in MODES {
                all.push(combination(network, pid, ipc));
            }
        }
    }
    all
}

const MODES: [NamespaceMode; 2] = [NamespaceMode::Pod, NamespaceMode::Node];

fn combination(network: NamespaceMode, pid: NamespaceMode, ipc: NamespaceMode) -> Case {
    let word = |mode: NamespaceMode| mode.as_str_name().to_lowercase();
    case(
        format!("namespaces: network {}, pid {}, ipc {} together", word(network), word(pid), word(ipc)),
        "CRI NamespaceOption, LinuxPodSandboxStatus",
        "ps.linux.namespaces.options.network ps.linux.namespaces.options.pid ps.linux.namespaces.options.ipc ps.linux.namespaces.options.target_id",
        move |t: Test| async move {
            let options = cri::NamespaceOption {
                network: network.into(),
                pid: pid.into(),
                ipc: ipc.into(),
                ..Default::default()
            };
            let pod = pod_of(&t, options.clone()).await?;
            let (a, b) = (pod.run(|_| {}).await?.pid().await?, pod.run(|_| {}).await?.pid().await?);
            for (kind, mode) in [("net", network), ("pid", pid), ("ipc", ipc)] {
                let (a, b, node) =
                    (host::namespace(a, kind)?, host::namespace(b, kind)?, host::own_namespace(kind)?);
                is(&format!("{kind}: the node's"), a == node, mode == NamespaceMode::Node)?;
                is(&format!("{kind}: shared"), a == b, mode != NamespaceMode::Container)?;
            }
            let told = pod.status().await?.linux.and_then(|linux| linux.namespaces).and_then(|n| n.options);
            let told = told.unwrap_or_default();
            is("network in the status", told.network(), network)?;
            is("pid in the status", told.pid(), pid)?;
            is("ipc in the status", told.ipc(), ipc)?;
            is("target_id in the status", told.target_id, "")
        },
    )
}

async fn pod_of(t: &Test, options: cri::NamespaceOption) -> Result<Pod> {
    t.pod_with(|p| {
        if options.network() == NamespaceMode::Node {
            p.hostname = String::new();
        }
        p.sc().namespace_options = Some(options);
    })
    .await
}

async fn pod_changed(t: &Test, change: impl FnOnce(&mut cri::NamespaceOption)) -> Result<Pod> {
    let mut options = crate::story::own_pid();
    change(&mut options);
    pod_of(t, options).await
}

async fn shared(t: &Test, kind: &str, change: impl FnOnce(&mut cri::NamespaceOption)) -> Result<()> {
    let pod = pod_changed(t, change).await?;
    let other = t.container(|_| {}).await?.pid().await?;
    let (a, b) = (pod.run(|_| {}).await?.pid().await?, pod.run(|_| {}).await?.pid().await?);
    let a = host::namespace(a, kind)?;
    is("both containers", &a, &host::namespace(b, kind)?)?;
    differs("the node's", &a, &host::own_namespace(kind)?)?;
    differs("another pod's", &a, &host::namespace(other, kind)?)
}

async fn apart(t: &Test, kind: &str) -> Result<()> {
    let pod = t.pod().await?;
    let (a, b) = (pod.run(|_| {}).await?.pid().await?, pod.run(|_| {}).await?.pid().await?);
    differs("both containers", host::namespace(a, kind)?, host::namespace(b, kind)?)?;
    differs("the node's", host::namespace(a, kind)?, host::own_namespace(kind)?)
}

async fn of_the_node(t: &Test, kind: &str, change: impl FnOnce(&mut cri::NamespaceOption)) -> Result<()> {
    let c = pod_changed(t, change).await?.run(|_| {}).await?;
    is(kind, host::namespace(c.pid().await?, kind)?, host::own_namespace(kind)?)
}

async fn node_network(t: Test) -> Result<()> {
    let pod = pod_changed(&t, |o| o.network = NamespaceMode::Node.into()).await?;
    let c = pod.run(|_| {}).await?;
    is("net", host::namespace(c.pid().await?, "net")?, host::own_namespace("net")?)?;
    let network = pod.status().await?.network.unwrap_or_default();
    is("ip of a pod in the node's network", network.ip, "")?;
    is("its further addresses", network.additional_ips.len(), 0)
}

async fn node_hostname(t: Test) -> Result<()> {
    let c = pod_changed(&t, |o| o.network = NamespaceMode::Node.into()).await?.run(|_| {}).await?;
    let node = host::command("hostname", &[])?;
    is("hostname", c.sh("hostname").await?, node.trim())
}

async fn shared_memory(t: Test) -> Result<()> {
    let pod = t.pod().await?;
    let (a, b) = (pod.run(|_| {}).await?, pod.run(|_| {}).await?);
    a.sh("echo shared >/dev/shm/word").await?;
    is("the other's", b.sh("cat /dev/shm/word").await?, "shared")?;
    lacks("the node's", &host::command("ls", &["/dev/shm"])?, "word")?;
    has("its file system", &b.sh("grep ' /dev/shm ' /proc/mounts").await?, "tmpfs")
}

async fn own_pid(t: Test) -> Result<()> {
    apart(&t, "pid").await?;
    let c = t.container(|_| {}).await?;
    has("process 1", &c.sh("tr '\\0' ' ' </proc/1/cmdline").await?, "sleep 100000")
}

async fn pod_pid(t: Test) -> Result<()> {
    let pod = pod_changed(&t, |o| o.pid = NamespaceMode::Pod.into()).await?;
    let (a, b) = (pod.run(|_| {}).await?, pod.run(|_| {}).await?);
    is("pid", host::namespace(a.pid().await?, "pid")?, host::namespace(b.pid().await?, "pid")?)?;
    differs("the node's", host::namespace(a.pid().await?, "pid")?, host::own_namespace("pid")?)?;
    let seen = a.sh("ps -o args | grep -c '[s]leep 100000'").await?;
    is("containers that one sees", seen, "2")?;
    lacks("process 1 is neither", &a.sh("tr '\\0' ' ' </proc/1/cmdline").await?, "sleep 100000")?;
    // Process 1 of the pod outlives its containers.
    b.stop(0).await?;
    is("the other", a.status().await?.state(), cri::ContainerState::ContainerRunning)
}

async fn debug(pod: &Pod, target: &str) -> Result<Container, tonic::Status> {
    pod.try_run(|c| {
        let options = c.sc().namespace_options.get_or_insert_default();
        options.pid = NamespaceMode::Target.into();
        options.target_id = target.to_owned();
    })
    .await
}

async fn target(t: Test) -> Result<()> {
    let pod = t.pod().await?;
    let (app, other) = (pod.run(|_| {}).await?, pod.run(|_| {}).await?);
    let debugger = debug(&pod, &app.id).await?;
    let joined = host::namespace(debugger.pid().await?, "pid")?;
    is("pid", &joined, &host::namespace(app.pid().await?, "pid")?)?;
    differs("another container's", &joined, &host::namespace(other.pid().await?, "pid")?)?;
    has("process 1", &debugger.sh("tr '\\0' ' ' </proc/1/cmdline").await?, "sleep 100000")?;
    // Its processes can be looked at: that is what it is for.
    is(
        "the target's environment",
        debugger.sh("tr '\\0' '\\n' </proc/1/environ | grep -c ^PATH=").await?,
        "1",
    )
}

async fn target_end(t: Test) -> Result<()> {
    let pod = t.pod().await?;
    let app = pod.run(|_| {}).await?;
    let debugger = debug(&pod, &app.id).await?;
    debugger.stop(0).await?;
    debugger.remove().await?;
    is("the target", app.status().await?.state(), cri::ContainerState::ContainerRunning)?;
    is("a command in it", app.sh("echo lives").await?, "lives")
}

async fn bad_target(t: &Test, id: String) -> Result<()> {
    let pod = t.pod().await?;
    refused("the container", debug(&pod, &id).await, &[]).map(|_| ())
}

async fn dead_target(t: Test) -> Result<()> {
    let pod = t.pod().await?;
    let app = pod.run(|_| {}).await?;
    app.stop(0).await?;
    holds("it has ended", app.status().await?.finished_at > 0)?;
    refused("the container", debug(&pod, &app.id).await, &[]).map(|_| ())
}
