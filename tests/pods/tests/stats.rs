//! Statistics of containers and pods, against what the pods really do.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]
#![allow(clippy::disallowed_methods, reason = "a test looks at paths that it made itself")]
#![allow(clippy::large_futures, reason = "a story is awaited once")]

use api::cri;
use pods::{Client, Daemon, pod, shell, story, until};
use tonic::Code;

fn number(value: Option<cri::UInt64Value>) -> u64 {
    value.expect("a number").value
}

async fn of_pod(client: &Client, id: &str) -> Result<cri::PodSandboxStats, tonic::Status> {
    let request = cri::PodSandboxStatsRequest { pod_sandbox_id: id.to_owned() };
    Ok(client.runtime().pod_sandbox_stats(request).await?.into_inner().stats.expect("figures"))
}

async fn of_pods(client: &Client, filter: Option<cri::PodSandboxStatsFilter>) -> Vec<cri::PodSandboxStats> {
    let request = cri::ListPodSandboxStatsRequest { filter };
    client.runtime().list_pod_sandbox_stats(request).await.expect("a list").into_inner().stats
}

fn id_of(stats: &cri::PodSandboxStats) -> String {
    stats.attributes.as_ref().expect("attributes").id.clone()
}

/// What the kubelet dereferences without a look.
fn assert_never_nil(stats: &cri::PodSandboxStats) {
    let attributes = stats.attributes.as_ref().expect("attributes");
    assert!(attributes.metadata.is_some());
    let linux = stats.linux.as_ref().expect("linux");
    if let Some(network) = &linux.network {
        assert!(network.default_interface.is_some());
    }
    for container in &linux.containers {
        assert!(container.attributes.as_ref().expect("attributes").metadata.is_some());
    }
}

fn unified() -> bool {
    std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

#[test]
fn a_pod_tells_what_it_uses() {
    story(async {
        let daemon = Daemon::start("uses").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let config = pod("uses", &daemon.cgroup(), &daemon.logs("uses"));
        let id = client.run_pod(&config).await.expect("a pod");
        // Of nothing but a pod, all is there already, with no container in it.
        let empty = of_pod(&client, &id).await.expect("figures");
        assert_never_nil(&empty);
        assert_eq!(empty.linux.expect("linux").containers.len(), 0);

        let busy = client.run(&id, &config, &shell("busy", "while :; do :; done")).await.expect("runs");
        let quiet =
            client.run(&id, &config, &shell("quiet", "sleep 1000 & sleep 1000; true")).await.expect("runs");
        client.exec(&quiet, "dd if=/dev/zero of=/tmp/data bs=1024 count=200; sync", 30).await.expect("ran");
        // busy's shell; quiet's shell and two sleeps.
        let first = until("four processes", || async {
            let stats = of_pod(&client, &id).await.ok()?;
            let count = number(stats.linux.as_ref()?.process.as_ref()?.process_count);
            assert!(count <= 4, "{count}");
            (count == 4).then_some(stats)
        })
        .await;
        assert_never_nil(&first);
        let linux = first.linux.expect("linux");
        assert_eq!(linux.containers.len(), 2);
        let mut names: Vec<_> = linux
            .containers
            .iter()
            .map(|c| c.attributes.as_ref().expect("set").metadata.as_ref().expect("set").name.clone())
            .collect();
        names.sort();
        assert_eq!(names, ["busy", "quiet"]);
        let memory = linux.memory.expect("memory");
        assert!(
            number(memory.usage_bytes) > 0 && number(memory.working_set_bytes) <= number(memory.usage_bytes)
        );
        assert!(
            memory.rss_bytes.is_some() && memory.page_faults.is_some() && memory.major_page_faults.is_some()
        );
        let used = number(linux.cpu.expect("cpu").usage_core_nano_seconds);

        // A rate comes of two looks, and the pod's is at least that of its busy container.
        let rate = until("a rate", || async {
            let linux = of_pod(&client, &id).await.ok()?.linux?;
            let cpu = linux.cpu?;
            assert!(number(cpu.usage_core_nano_seconds) >= used);
            let rates: Vec<u64> =
                linux.containers.iter().filter_map(|c| Some(c.cpu?.usage_nano_cores?.value)).collect();
            (rates.len() == 2).then_some((cpu.usage_nano_cores?.value, rates))
        })
        .await;
        assert!(rate.0 > 1_000_000, "{rate:?}");
        let one = client
            .runtime()
            .container_stats(cri::ContainerStatsRequest { container_id: quiet.clone() })
            .await
            .expect("figures")
            .into_inner()
            .stats
            .expect("figures");
        let layer = one.writable_layer.expect("a layer");
        assert!(number(layer.inodes_used) >= 2);
        assert!(layer.fs_id.expect("a file system").mountpoint.ends_with("/r/pods"));
        assert!(one.swap.is_some() || !std::path::Path::new("/proc/swaps").exists() || !unified());
        let _ = busy;
        daemon.end().await;
    });
}

#[test]
fn pressure_is_told_where_the_kernel_has_it() {
    story(async {
        let daemon = Daemon::start("psi").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let config = pod("psi", &daemon.cgroup(), &daemon.logs("psi"));
        let id = client.run_pod(&config).await.expect("a pod");
        client.run(&id, &config, &shell("c", "sleep 1000")).await.expect("runs");
        let linux = of_pod(&client, &id).await.expect("figures").linux.expect("linux");
        let has = unified() && std::fs::read("/proc/pressure/cpu").is_ok();
        let container = linux.containers[0].clone();
        let all = [
            linux.cpu.and_then(|cpu| cpu.psi),
            linux.memory.and_then(|memory| memory.psi),
            container.cpu.and_then(|cpu| cpu.psi),
            container.memory.and_then(|memory| memory.psi),
        ];
        for psi in all {
            assert_eq!(psi.is_some(), has);
            assert!(psi.is_none_or(|psi| psi.some.is_some() && psi.full.is_some()));
        }
        if has {
            assert!(linux.io.and_then(|io| io.psi).is_some() && container.io.and_then(|io| io.psi).is_some());
        }
        daemon.end().await;
    });
}

#[test]
fn the_network_is_the_pods_own_and_the_nodes_is_nobodys() {
    story(async {
        let daemon = Daemon::start("net").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let config = pod("net", &daemon.cgroup(), &daemon.logs("net"));
        let id = client.run_pod(&config).await.expect("a pod");
        let container = client.run(&id, &config, &shell("c", "sleep 1000")).await.expect("runs");
        let network = |stats: cri::PodSandboxStats| stats.linux.expect("linux").network;
        let before = network(of_pod(&client, &id).await.expect("figures")).expect("a network");
        assert_eq!(before.interfaces, [], "the default one comes apart, and the loopback not at all");
        let before = before.default_interface.expect("never nil");
        assert_eq!(before.name, "eth0");
        let script = "gateway=$(ip route | head -1); set -- $gateway; ping -c 3 -i 0.1 -s 1000 -w 5 $3 >/dev/null; echo $?";
        assert_eq!(client.exec(&container, script, 20).await.expect("ran").0, "0\n");
        let after = network(of_pod(&client, &id).await.expect("figures")).expect("a network");
        let after = after.default_interface.expect("never nil");
        assert!(number(after.tx_bytes) >= number(before.tx_bytes) + 3000, "{before:?} {after:?}");
        assert!(number(after.rx_bytes) >= number(before.rx_bytes) + 3000, "{before:?} {after:?}");
        assert_eq!((number(after.rx_errors), number(after.tx_errors)), (0, 0));

        let mut on_node = pod("node", &daemon.cgroup(), &daemon.logs("node"));
        let linux = on_node.linux.as_mut().expect("set");
        let options = linux.security_context.as_mut().expect("set").namespace_options.as_mut().expect("set");
        options.network = cri::NamespaceMode::Node.into();
        on_node.hostname = String::new();
        let id = client.run_pod(&on_node).await.expect("a pod");
        let stats = of_pod(&client, &id).await.expect("figures");
        assert_never_nil(&stats);
        assert_eq!(network(stats), None);
        daemon.end().await;
    });
}

#[test]
fn one_pod_without_figures_fails_no_list() {
    story(async {
        let daemon = Daemon::start("lists").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let mut ids = Vec::new();
        for name in ["well", "shimless", "stopped", "own"] {
            // `own` names no cgroup parent.
            let parent = if name == "own" { String::new() } else { format!("{}/{name}", daemon.cgroup()) };
            let mut config = pod(name, &parent, &daemon.logs(name));
            config.labels = [("name".to_owned(), name.to_owned())].into();
            let id = client.run_pod(&config).await.expect("a pod");
            client.run(&id, &config, &shell("c", "sleep 1000")).await.expect("runs");
            ids.push(id);
        }
        let [well, shimless, stopped, own] = ids.try_into().expect("four");
        assert_eq!(of_pods(&client, None).await.len(), 4);
        client.stop_pod(&stopped).await.expect("stopped");
        let containers = client.containers().await.expect("a list");
        let victim = containers.iter().find(|c| c.pod_sandbox_id == shimless).expect("its container");
        let pid = client.pid_of(&victim.id).await;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let shim = status.lines().find_map(|l| l.strip_prefix("PPid:")).expect("a parent").trim().to_owned();
        let killed = std::process::Command::new("kill").args(["-9", &shim]).status().expect("kill runs");
        assert!(killed.success());
        client.ended(&victim.id).await;
        let seen = until("a list without it", || async {
            let seen = of_pods(&client, None).await;
            (seen.len() == 2).then_some(seen)
        })
        .await;
        seen.iter().for_each(assert_never_nil);
        let mut seen: Vec<_> = seen.iter().map(id_of).collect();
        seen.sort();
        let mut want = vec![well.clone(), own.clone()];
        want.sort();
        assert_eq!(seen, want);

        let by_label = cri::PodSandboxStatsFilter {
            label_selector: [("name".to_owned(), "own".to_owned())].into(),
            ..Default::default()
        };
        assert_eq!(of_pods(&client, Some(by_label)).await.iter().map(id_of).collect::<Vec<_>>(), [own]);
        let by_id = cri::PodSandboxStatsFilter { id: well[..13].to_owned(), ..Default::default() };
        assert_eq!(of_pods(&client, Some(by_id)).await.iter().map(id_of).collect::<Vec<_>>(), [well]);
        let code =
            |result: Result<cri::PodSandboxStats, tonic::Status>| result.expect_err("no figures").code();
        assert_eq!(code(of_pod(&client, &stopped).await), Code::FailedPrecondition);
        // What the kubelet asks at its start.
        assert_eq!(code(of_pod(&client, "").await), Code::NotFound);
        daemon.end().await;
    });
}
