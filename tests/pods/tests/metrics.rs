//! Metrics of pods: what the kubelet shows at /metrics/cadvisor with its statistics from the CRI.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]
#![allow(clippy::disallowed_methods, reason = "a test looks at paths that it made itself")]
#![allow(clippy::large_futures, reason = "a story is awaited once")]

use api::cri;
use pods::{Client, Daemon, pod, shell, story};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{SystemTime, UNIX_EPOCH},
};

async fn descriptors(client: &Client) -> BTreeMap<String, cri::MetricDescriptor> {
    let answer = client.runtime().list_metric_descriptors(cri::ListMetricDescriptorsRequest::default()).await;
    let all = answer.expect("a list").into_inner().descriptors;
    let many = all.len();
    let named: BTreeMap<_, _> = all.into_iter().map(|one| (one.name.clone(), one)).collect();
    assert_eq!(named.len(), many, "a name comes twice");
    named
}

async fn metrics(client: &Client) -> Vec<cri::PodSandboxMetrics> {
    let answer =
        client.runtime().list_pod_sandbox_metrics(cri::ListPodSandboxMetricsRequest::default()).await;
    answer.expect("a list").into_inner().pod_metrics
}

fn unified() -> bool {
    std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// A container that has something of everything.
fn busy(name: &str) -> cri::ContainerConfig {
    let mut config = shell(name, "sleep 1000");
    let resources = config.linux.as_mut().expect("set").resources.as_mut().expect("set");
    resources.cpu_period = 100_000;
    resources.cpu_quota = 20_000;
    resources.cpu_shares = 512;
    resources.memory_limit_in_bytes = 64 << 20;
    config
}

#[test]
fn every_descriptor_has_values_with_its_labels() {
    story(async {
        let daemon = Daemon::start("metrics").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let descriptors = descriptors(&client).await;
        for (name, descriptor) in &descriptors {
            assert!(!descriptor.help.is_empty(), "{name}");
            assert_eq!(
                descriptor.label_keys[..5],
                ["id", "image", "namespace", "pod", "container"],
                "{name}"
            );
        }
        assert_eq!(descriptors.contains_key("container_memory_events_high_total"), unified());
        assert!(descriptors.len() > 45, "{}", descriptors.len());

        let config = pod("metrics", &daemon.cgroup(), &daemon.logs("metrics"));
        let id = client.run_pod(&config).await.expect("a pod");
        let container = client.run(&id, &config, &busy("busy")).await.expect("runs");
        let wrote = client.exec(&container, "dd if=/dev/zero of=/tmp/x bs=4096 count=50 && sync", 30).await;
        assert_eq!(wrote.expect("ran").1, 0);
        let all = metrics(&client).await;
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].pod_sandbox_id, id);
        assert_eq!(all[0].container_metrics.len(), 1);
        assert_eq!(all[0].container_metrics[0].container_id, container);
        let own = &all[0].container_metrics[0].metrics;
        let mut seen = BTreeSet::new();
        for metric in all[0].metrics.iter().chain(own) {
            let descriptor =
                descriptors.get(&metric.name).unwrap_or_else(|| panic!("{} is not described", metric.name));
            assert_eq!(metric.label_values.len(), descriptor.label_keys.len(), "{}", metric.name);
            assert!(metric.value.is_some(), "{}: the kubelet does not look", metric.name);
            assert_eq!(metric.timestamp, 0, "now");
            assert!(
                seen.insert((metric.name.clone(), metric.label_values.clone())),
                "{metric:?} comes twice"
            );
        }
        let told: BTreeSet<&str> = seen.iter().map(|(name, _)| name.as_str()).collect();
        let silent: Vec<&str> = descriptors
            .keys()
            .map(String::as_str)
            .filter(|name| !told.contains(name))
            // Not every disk is accounted to cgroups.
            .filter(|name| !name.starts_with("container_fs_") && !name.starts_with("container_blkio_"))
            .collect();
        assert_eq!(silent, [] as [&str; 0]);
        for metric in own {
            let want = [container.as_str(), pods::BUSYBOX, "default", "metrics", "busy"];
            assert_eq!(metric.label_values[..5], want, "{}", metric.name);
        }
        for metric in &all[0].metrics {
            assert_eq!(
                metric.label_values,
                [id.as_str(), "", "default", "metrics", "POD", "eth0"],
                "{}",
                metric.name
            );
        }

        let value = |name: &str| {
            let found = own.iter().find(|metric| metric.name == name);
            found.unwrap_or_else(|| panic!("{name}")).value.expect("set").value
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        assert!((now - 300..=now).contains(&value("container_start_time_seconds")), "in seconds");
        assert!((now - 300..=now).contains(&value("container_last_seen")));
        assert_eq!(value("container_spec_cpu_quota"), 20_000);
        assert_eq!(value("container_spec_cpu_period"), 100_000);
        assert_eq!(value("container_spec_cpu_shares"), 512);
        assert_eq!(value("container_spec_memory_limit_bytes"), 64 << 20);
        assert_eq!(value("container_spec_memory_swap_limit_bytes"), 64 << 20);
        assert_eq!(value("container_processes"), 1);
        assert!(value("container_file_descriptors") >= 3);
        assert!(value("container_ulimits_soft") > 0);
        assert!(value("container_fs_usage_bytes") >= 200 << 10);
        assert!(value("container_memory_usage_bytes") > 0);
        daemon.end().await;
    });
}

#[test]
fn pods_of_the_node_s_network_and_ended_containers_fail_no_list() {
    story(async {
        let daemon = Daemon::start("some").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let mut on_node = pod("node", &daemon.cgroup(), &daemon.logs("node"));
        let linux = on_node.linux.as_mut().expect("set");
        let options = linux.security_context.as_mut().expect("set").namespace_options.as_mut().expect("set");
        options.network = cri::NamespaceMode::Node.into();
        on_node.hostname = String::new();
        let node = client.run_pod(&on_node).await.expect("a pod");
        let config = pod("some", &daemon.cgroup(), &daemon.logs("some"));
        let id = client.run_pod(&config).await.expect("a pod");
        let ended = client.run(&id, &config, &shell("ended", "true")).await.expect("runs");
        let runs = client.run(&id, &config, &shell("runs", "sleep 1000")).await.expect("runs");
        client.ended(&ended).await;
        let all = metrics(&client).await;
        let of = |id: &str| all.iter().find(|row| row.pod_sandbox_id == id).expect("a row");
        assert_eq!((of(&node).metrics.len(), of(&node).container_metrics.len()), (0, 0));
        assert_eq!(of(&id).metrics.len(), 8);
        let ids: Vec<_> = of(&id).container_metrics.iter().map(|row| row.container_id.as_str()).collect();
        assert_eq!(ids, [runs.as_str()]);
        client.stop_pod(&id).await.expect("stopped");
        assert_eq!(metrics(&client).await.len(), 1);
        daemon.end().await;
    });
}
