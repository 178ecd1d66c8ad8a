//! What a container can and cannot do, seen from inside.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]
#![allow(clippy::disallowed_methods, reason = "a test looks at paths that it made itself")]
#![allow(clippy::large_futures, reason = "a story is awaited once")]

use api::cri;
use pods::{Client, Daemon, pod, shell, story};

/// A pod and a container whose security context was changed; returns its id.
async fn contained(
    daemon: &Daemon,
    client: &Client,
    name: &str,
    change: impl FnOnce(&mut cri::LinuxContainerSecurityContext, &mut cri::PodSandboxConfig),
) -> String {
    let mut config = pod(name, &daemon.cgroup(), &daemon.logs(name));
    let mut container = shell("c", "sleep 1000");
    let context = container.linux.as_mut().and_then(|l| l.security_context.as_mut()).expect("set");
    change(context, &mut config);
    let id = client.run_pod(&config).await.expect("a pod");
    client.run(&id, &config, &container).await.expect("runs")
}

async fn said(client: &Client, container: &str, script: &str) -> String {
    client.exec(container, script, 10).await.expect("ran").0
}

#[test]
fn an_ordinary_container_has_the_default_capabilities_and_a_filter() {
    story(async {
        let daemon = Daemon::start("ordinary").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let c = contained(&daemon, &client, "ordinary", |context, _| {
            context.masked_paths =
                vec!["/proc/kcore".to_owned(), "/proc/acpi".to_owned(), "/no/such".to_owned()];
            context.readonly_paths = vec!["/proc/sys".to_owned()];
            context.no_new_privs = true;
        })
        .await;
        let status = said(&client, &c, "cat /proc/1/status").await;
        for line in
            ["CapInh:\t0000000000000000", "CapAmb:\t0000000000000000", "Seccomp:\t2", "NoNewPrivs:\t1"]
        {
            assert!(status.contains(line), "no {line} in:\n{status}");
        }
        assert!(status.contains("CapEff:\t00000000a80425fb"), "{status}");
        // An exec is confined like the container itself.
        let exec = said(&client, &c, "grep -E '^(Cap|Seccomp:|NoNewPrivs)' /proc/self/status").await;
        for line in exec.lines() {
            assert!(status.contains(line), "exec has {line}, the container:\n{status}");
        }
        assert_eq!(said(&client, &c, "head -c 1 /proc/kcore | wc -c").await.trim(), "0");
        let (_, code) = client.exec(&c, "echo 1 >/proc/sys/kernel/shm_rmid_forced", 10).await.expect("ran");
        assert_ne!(code, 0, "/proc/sys is writable");
        // Only stdin, stdout and stderr.
        assert_eq!(said(&client, &c, "ls /proc/1/fd").await, "0\n1\n2\n");
        // Its own cgroup is all that it sees of cgroups.
        let groups = said(&client, &c, "cat /proc/1/cgroup").await;
        assert!(!groups.contains("peapod-test"), "the host's path shows:\n{groups}");
        daemon.end().await;
    });
}

#[test]
fn capabilities_are_dropped_and_added_as_asked() {
    story(async {
        let daemon = Daemon::start("caps").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let c = contained(&daemon, &client, "caps", |context, _| {
            context.capabilities = Some(cri::Capability {
                add_capabilities: vec!["NET_ADMIN".to_owned()],
                drop_capabilities: vec!["ALL".to_owned()],
                add_ambient_capabilities: vec![],
            });
        })
        .await;
        let status = said(&client, &c, "cat /proc/1/status").await;
        assert!(status.contains("CapEff:\t0000000000001000"), "{status}");
        assert!(status.contains("CapBnd:\t0000000000001000"), "{status}");
        daemon.end().await;
    });
}

#[test]
fn users_and_groups_are_those_of_request_and_image() {
    story(async {
        let daemon = Daemon::start("users").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let c = contained(&daemon, &client, "name", |context, _| {
            context.run_as_username = "alice".to_owned();
            context.supplemental_groups = vec![3000];
        })
        .await;
        assert_eq!(said(&client, &c, "id -u; id -g; id -G").await, "1000\n1000\n1000 2000 3000\n");
        let status = said(&client, &c, "grep CapEff /proc/self/status").await;
        assert!(status.contains("0000000000000000"), "a plain user has capabilities: {status}");
        let c = contained(&daemon, &client, "strict", |context, _| {
            context.run_as_user = Some(cri::Int64Value { value: 1000 });
            context.run_as_group = Some(cri::Int64Value { value: 5 });
            context.supplemental_groups = vec![3000];
            context.supplemental_groups_policy = cri::SupplementalGroupsPolicy::Strict.into();
        })
        .await;
        assert_eq!(said(&client, &c, "id -u; id -g; id -G").await, "1000\n5\n5 3000\n");
        let user = client.status(&c).await.expect("a status").user.and_then(|u| u.linux).expect("told");
        assert_eq!((user.uid, user.gid), (1000, 5));
        daemon.end().await;
    });
}

#[test]
fn a_read_only_root_and_a_privileged_container_are_what_they_say() {
    story(async {
        let daemon = Daemon::start("root").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let c = contained(&daemon, &client, "readonly", |context, _| context.readonly_rootfs = true).await;
        let (_, code) = client.exec(&c, "touch /x", 10).await.expect("ran");
        assert_ne!(code, 0, "the root is writable");
        let c = contained(&daemon, &client, "privileged", |context, pod| {
            context.privileged = true;
            let sandbox = pod.linux.as_mut().and_then(|l| l.security_context.as_mut()).expect("set");
            sandbox.privileged = true;
        })
        .await;
        let status = said(&client, &c, "cat /proc/1/status").await;
        assert!(status.contains("Seccomp:\t0"), "{status}");
        assert!(said(&client, &c, "touch /x && echo writable").await.contains("writable"));
        assert!(!said(&client, &c, "ls /dev").await.is_empty());
        daemon.end().await;
    });
}

#[test]
fn sysctls_dns_and_names_are_the_pods_own() {
    story(async {
        let daemon = Daemon::start("own").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let before = std::fs::read_to_string("/proc/sys/kernel/shm_rmid_forced").expect("read");
        let c = contained(&daemon, &client, "own", |_, pod| {
            pod.linux.as_mut().expect("set").sysctls =
                [("kernel.shm_rmid_forced", "1"), ("net.ipv4.ip_local_port_range", "1024 65000")]
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into();
            pod.dns_config = Some(cri::DnsConfig {
                servers: vec!["10.10.10.10".to_owned()],
                searches: vec!["svc.local".to_owned()],
                options: vec!["ndots:5".to_owned()],
            });
        })
        .await;
        assert_eq!(said(&client, &c, "cat /proc/sys/kernel/shm_rmid_forced").await, "1\n");
        assert_eq!(said(&client, &c, "cat /proc/sys/net/ipv4/ip_local_port_range").await, "1024\t65000\n");
        let resolv = said(&client, &c, "cat /etc/resolv.conf").await;
        assert_eq!(resolv, "search svc.local\nnameserver 10.10.10.10\noptions ndots:5\n");
        assert_eq!(said(&client, &c, "cat /etc/hostname; hostname").await, "own\nown\n");
        assert!(said(&client, &c, "cat /etc/hosts").await.contains("\town\n"));
        let after = std::fs::read_to_string("/proc/sys/kernel/shm_rmid_forced").expect("read");
        assert_eq!(before, after, "the host's sysctl was changed");
        daemon.end().await;
    });
}

#[test]
fn a_pod_in_the_nodes_network_sees_the_nodes_links() {
    story(async {
        let daemon = Daemon::start("hostnet").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let mut config = pod("hostnet", &daemon.cgroup(), &daemon.logs("hostnet"));
        let node = cri::NamespaceOption {
            network: cri::NamespaceMode::Node.into(),
            pid: cri::NamespaceMode::Container.into(),
            ..Default::default()
        };
        let context = config.linux.as_mut().and_then(|l| l.security_context.as_mut()).expect("set");
        context.namespace_options = Some(node.clone());
        config.hostname = String::new();
        let id = client.run_pod(&config).await.expect("a pod");
        assert_eq!(client.pod_status(&id).await.expect("a status").network.unwrap_or_default().ip, "");
        let mut container = shell("c", "sleep 1000");
        container.linux.as_mut().and_then(|l| l.security_context.as_mut()).expect("set").namespace_options =
            Some(node);
        let c = client.run(&id, &config, &container).await.expect("runs");
        let inside = said(&client, &c, "readlink /proc/self/ns/net").await;
        let node = std::fs::read_link(format!("/proc/{}/ns/net", daemon.pid())).expect("read");
        assert_eq!(inside.trim(), node.display().to_string());
        daemon.end().await;
    });
}
