//! Whose namespaces a container is in, seen from inside and from the host.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]
#![allow(clippy::disallowed_methods, reason = "a test looks at paths that it made itself")]
#![allow(clippy::large_futures, reason = "a story is awaited once")]

use api::cri::{self, NamespaceMode};
use pods::{Client, Daemon, pod, shell, story};
use tonic::Code;

fn options(network: NamespaceMode, pid: NamespaceMode, ipc: NamespaceMode) -> cri::NamespaceOption {
    cri::NamespaceOption { network: network.into(), pid: pid.into(), ipc: ipc.into(), ..Default::default() }
}

fn of_pod(config: &mut cri::PodSandboxConfig, options: cri::NamespaceOption) {
    config.linux.as_mut().and_then(|l| l.security_context.as_mut()).expect("set").namespace_options =
        Some(options);
}

fn of_container(config: &mut cri::ContainerConfig, options: cri::NamespaceOption) {
    config.linux.as_mut().and_then(|l| l.security_context.as_mut()).expect("set").namespace_options =
        Some(options);
}

fn debug(name: &str, target: &str) -> cri::ContainerConfig {
    let mut config = shell(name, "sleep 1000");
    let mut wanted = options(NamespaceMode::Pod, NamespaceMode::Target, NamespaceMode::Pod);
    wanted.target_id = target.to_owned();
    of_container(&mut config, wanted);
    config
}

async fn said(client: &Client, container: &str, script: &str) -> String {
    client.exec(container, script, 10).await.expect("ran").0.trim().to_owned()
}

fn of_host(pid: u32, kind: &str) -> String {
    std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("a process").display().to_string()
}

#[test]
fn a_debug_container_is_in_the_pid_namespace_of_its_target() {
    story(async {
        let daemon = Daemon::start("target").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let config = pod("target", &daemon.cgroup(), &daemon.logs("target"));
        let id = client.run_pod(&config).await.expect("a pod");
        let target = client.run(&id, &config, &shell("app", "exec sleep 1234")).await.expect("runs");
        let debug_id = client.run(&id, &config, &debug("debug", &target)).await.expect("runs");
        let pid = client.pid_of(&target).await;
        assert_eq!(said(&client, &debug_id, "readlink /proc/self/ns/pid").await, of_host(pid, "pid"));
        assert_eq!(said(&client, &debug_id, "cat /proc/1/cmdline | head -c 5").await, "sleep");
        assert!(said(&client, &debug_id, "ps").await.contains("sleep 1234"));
        // Its own root, and nothing of the target's but the processes.
        assert_ne!(said(&client, &debug_id, "readlink /proc/self/ns/mnt").await, of_host(pid, "mnt"));
        // The end of the debug container is none of the target's; that of the target is the end of both.
        client.stop(&debug_id, 0).await.expect("stopped");
        assert_eq!(client.pid_of(&target).await, pid, "the target still runs");
        let debug_id = client.run(&id, &config, &debug("again", &target)).await.expect("runs");
        client.stop(&target, 0).await.expect("stopped");
        assert_eq!(client.ended(&debug_id).await.exit_code, 137);
        daemon.end().await;
    });
}

#[test]
fn a_target_that_is_not_there_or_does_not_run_is_an_error() {
    story(async {
        let daemon = Daemon::start("notarget").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let config = pod("here", &daemon.cgroup(), &daemon.logs("here"));
        let other = pod("there", &daemon.cgroup(), &daemon.logs("there"));
        let here = client.run_pod(&config).await.expect("a pod");
        let there = client.run_pod(&other).await.expect("a pod");
        let foreign = client.run(&there, &other, &shell("app", "sleep 1000")).await.expect("runs");
        let waiting = client.create(&here, &config, &shell("waits", "sleep 1000")).await.expect("created");
        let ended = client.run(&here, &config, &shell("ended", "true")).await.expect("runs");
        client.ended(&ended).await;
        for (target, code) in [
            (foreign.as_str(), Code::InvalidArgument),
            ("", Code::InvalidArgument),
            (&"f".repeat(64), Code::InvalidArgument),
            (&waiting, Code::FailedPrecondition),
            (&ended, Code::FailedPrecondition),
        ] {
            let error = client.create(&here, &config, &debug("debug", target)).await.expect_err(target);
            assert_eq!(error.code(), code, "{error}");
            assert!(error.message().contains("namespace_options.target_id"), "{error}");
        }
        let left = client.containers().await.expect("a list").len();
        assert_eq!(left, 3, "a refused container is there");
        daemon.end().await;
    });
}

#[test]
fn a_pod_has_exactly_those_namespaces_of_the_node_that_it_asks_for() {
    use NamespaceMode::{Container, Node, Pod};
    story(async {
        let daemon = Daemon::start("combine").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        for network in [Pod, Node] {
            for pid in [Pod, Container, Node] {
                for ipc in [Pod, Node] {
                    let name = format!("{network:?}-{pid:?}-{ipc:?}").to_lowercase();
                    let mut config = pod(&name, &daemon.cgroup(), &daemon.logs(&name));
                    of_pod(&mut config, options(network, pid, ipc));
                    let id = client.run_pod(&config).await.expect(&name);
                    let mut ids = Vec::new();
                    for container in ["a", "b"] {
                        let mut container = shell(container, "sleep 1000");
                        of_container(&mut container, options(network, pid, ipc));
                        ids.push(client.run(&id, &config, &container).await.expect(&name));
                    }
                    for (kind, mode) in [("net", network), ("pid", pid), ("ipc", ipc)] {
                        let script = format!("readlink /proc/self/ns/{kind}");
                        let a = said(&client, &ids[0], &script).await;
                        let b = said(&client, &ids[1], &script).await;
                        let node = of_host(daemon.pid(), kind);
                        assert_eq!(a == node, mode == Node, "{name}: {kind} of the node");
                        assert_eq!(a == b, mode != Container, "{name}: {kind} is shared");
                    }
                    let status = client.pod_status(&id).await.expect("a status");
                    let told = status.linux.and_then(|l| l.namespaces).and_then(|n| n.options).expect("told");
                    assert_eq!((told.network(), told.pid(), told.ipc()), (network, pid, ipc), "{name}");
                    client.stop_pod(&id).await.expect("stopped");
                    client.remove_pod(&id).await.expect("removed");
                }
            }
        }
        daemon.end().await;
    });
}

#[test]
fn a_container_gets_nothing_of_the_node_that_its_pod_has_not() {
    use NamespaceMode::{Container, Node, Pod};
    story(async {
        let daemon = Daemon::start("more").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let config = pod("more", &daemon.cgroup(), &daemon.logs("more"));
        let id = client.run_pod(&config).await.expect("a pod");
        for (wanted, field) in [
            (options(Node, Container, Pod), "namespace_options.network"),
            (options(Pod, Node, Pod), "namespace_options.pid"),
            (options(Pod, Pod, Pod), "namespace_options.pid"),
            (options(Pod, Container, Node), "namespace_options.ipc"),
            (options(Container, Container, Pod), "namespace_options.network"),
            (options(Pod, Container, Container), "namespace_options.ipc"),
        ] {
            let mut container = shell("c", "sleep 1000");
            of_container(&mut container, wanted);
            let error = client.create(&id, &config, &container).await.expect_err(field);
            assert_eq!(error.code(), Code::InvalidArgument, "{error}");
            assert!(error.message().contains(field), "{error}");
        }
        daemon.end().await;
    });
}

#[test]
fn in_the_nodes_network_a_container_is_told_the_nodes_name() {
    story(async {
        let daemon = Daemon::start("hostname").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let mut config = pod("hostname", &daemon.cgroup(), &daemon.logs("hostname"));
        let node = options(NamespaceMode::Node, NamespaceMode::Container, NamespaceMode::Pod);
        of_pod(&mut config, node.clone());
        config.hostname = String::new();
        let id = client.run_pod(&config).await.expect("a pod");
        let mut container = shell("c", "sleep 1000");
        of_container(&mut container, node.clone());
        let c = client.run(&id, &config, &container).await.expect("runs");
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("read").trim().to_owned();
        let told = said(&client, &c, "echo $HOSTNAME; hostname; cat /etc/hostname").await;
        assert_eq!(told, format!("{name}\n{name}\n{name}"));
        let mut container = shell("own", "sleep 1000");
        of_container(&mut container, node);
        container.envs = vec![cri::KeyValue { key: "HOSTNAME".to_owned(), value: b"other".to_vec() }];
        let c = client.run(&id, &config, &container).await.expect("runs");
        assert_eq!(said(&client, &c, "echo $HOSTNAME").await, "other");
        daemon.end().await;
    });
}
