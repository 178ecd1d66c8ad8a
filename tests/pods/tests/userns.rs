//! Pods with a user namespace of their own: who is root inside is another user on the host.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]
#![allow(clippy::disallowed_methods, reason = "a test looks at paths that it made itself")]
#![allow(clippy::large_futures, reason = "a story is awaited once")]

use api::cri::{self, NamespaceMode};
use pods::{Client, Daemon, pod, shell, story};
use std::{os::unix::fs::MetadataExt as _, path::Path};
use tonic::Code;

const FIRST: u32 = 200_000;
const LENGTH: u32 = 65_536;

fn userns() -> cri::UserNamespace {
    let line = vec![cri::IdMapping { host_id: FIRST, container_id: 0, length: LENGTH }];
    cri::UserNamespace { mode: NamespaceMode::Pod.into(), uids: line.clone(), gids: line }
}

fn options(pid: NamespaceMode) -> cri::NamespaceOption {
    cri::NamespaceOption { pid: pid.into(), userns_options: Some(userns()), ..Default::default() }
}

fn mapped(name: &str, daemon: &Daemon, options: cri::NamespaceOption) -> cri::PodSandboxConfig {
    let mut config = pod(name, &daemon.cgroup(), &daemon.logs(name));
    security(&mut config).namespace_options = Some(options);
    config
}

fn security(config: &mut cri::PodSandboxConfig) -> &mut cri::LinuxSandboxSecurityContext {
    config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).expect("set")
}

fn of(config: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerSecurityContext {
    config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).expect("set")
}

/// A container that asks for what its pod has.
fn inside(name: &str, script: &str, options: cri::NamespaceOption) -> cri::ContainerConfig {
    let mut config = shell(name, script);
    of(&mut config).namespace_options = Some(options);
    config
}

async fn said(client: &Client, container: &str, script: &str) -> String {
    let (text, code) = client.exec(container, script, 10).await.expect("ran");
    assert_eq!(code, 0, "{script}: {text}");
    text.trim().to_owned()
}

fn namespace(pid: u32, kind: &str) -> String {
    std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("a process").display().to_string()
}

fn owner_of(pid: u32, kind: &str) -> u64 {
    let namespace = std::fs::File::open(format!("/proc/{pid}/ns/{kind}")).expect("a process");
    let owner = sys::namespace::owner(namespace).expect("an owner");
    sys::rustix::fs::fstat(owner).expect("stat").st_ino
}

/// Everything beneath a directory that belongs to an id of the mapping.
fn given_away(dir: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(stat) = entry.path().symlink_metadata() else { continue };
        if stat.uid() >= FIRST && stat.uid() < FIRST + LENGTH {
            found.push(entry.path().display().to_string());
        }
        if stat.is_dir() {
            given_away(&entry.path(), found);
        }
    }
}

#[test]
fn a_killed_daemon_makes_further_containers_in_the_user_namespace_that_was_there() {
    story(async {
        let mut daemon = Daemon::start("userns-killed").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let config = mapped("mapped", &daemon, options(NamespaceMode::Container));
        let id = client.run_pod(&config).await.expect("a pod");
        let sleeps = |name| inside(name, "sleep 1000", options(NamespaceMode::Container));
        let first = client.run(&id, &config, &sleeps("first")).await.expect("runs");
        daemon.kill();
        daemon.up().await;
        let client = daemon.client();
        let told = client.pod_status(&id).await.expect("a status").linux.expect("set").namespaces;
        let told = told.and_then(|n| n.options).and_then(|o| o.userns_options);
        assert_eq!(told, Some(userns()));
        let second = client.run(&id, &config, &sleeps("second")).await.expect("runs");
        let (first, pid) = (client.pid_of(&first).await, client.pid_of(&second).await);
        for kind in ["user", "net", "ipc", "uts"] {
            assert_eq!(namespace(first, kind), namespace(pid, kind), "{kind}");
        }
        let user = std::fs::metadata(format!("/proc/{pid}/ns/user")).expect("a process").ino();
        for kind in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
            assert_eq!(owner_of(pid, kind), user, "{kind}");
        }
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
        assert!(status.contains(&format!("Uid:\t{FIRST}\t{FIRST}")), "{status}");
        assert_eq!(
            said(&client, &second, "id -u; hostname; stat -c %u:%g /etc/passwd").await,
            "0\nmapped\n0:0"
        );
        daemon.end().await;
    });
}

#[test]
fn what_the_container_writes_has_its_own_ids_on_disk_and_nothing_is_given_away() {
    story(async {
        let daemon = Daemon::start("userns-disk").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let config = mapped("disk", &daemon, options(NamespaceMode::Container));
        let id = client.run_pod(&config).await.expect("a pod");
        let volume = daemon.dir().join("volume");
        std::fs::create_dir(&volume).expect("a directory");
        std::fs::write(volume.join("word"), "secret").expect("a file");
        let mut wanted = inside("c", "sleep 1000", options(NamespaceMode::Container));
        let bind = |at: &str| cri::Mount {
            container_path: at.to_owned(),
            host_path: volume.display().to_string(),
            ..Default::default()
        };
        let (uids, gids) = (userns().uids, userns().gids);
        wanted.mounts = vec![
            cri::Mount { uid_mappings: uids, gid_mappings: gids, ..bind("/mapped") },
            bind("/plain"),
            cri::Mount {
                container_path: "/image".to_owned(),
                readonly: true,
                image: Some(cri::ImageSpec { image: pods::BUSYBOX.to_owned(), ..Default::default() }),
                ..Default::default()
            },
        ];
        let c = client.run(&id, &config, &wanted).await.expect("runs");
        let script = "set -e; echo x >/made; rm /etc/group; touch /mapped/made /dev/shm/made; \
            ! touch /plain/made 2>/dev/null; ! touch /image/made 2>/dev/null; \
            stat -c %u:%g / /mapped/word /plain/word /image/etc/passwd /dev/shm /dev/null /etc/hosts /dev/mqueue; \
            cat /etc/hosts >/dev/null; test -s /etc/resolv.conf || test -e /etc/resolv.conf";
        let told = said(&client, &c, script).await;
        assert_eq!(told, "0:0\n0:0\n65534:65534\n0:0\n0:0\n0:0\n0:0\n0:0");
        assert_eq!(std::fs::metadata(volume.join("made")).expect("made").uid(), 0);
        let mut found = Vec::new();
        given_away(&daemon.dir().join("root"), &mut found);
        assert_eq!(found, [] as [String; 0], "an id of the pod owns files of the daemon's");
        daemon.end().await;
    });
}

#[test]
fn a_shared_pid_namespace_belongs_to_the_user_namespace_and_its_pause_is_nobody() {
    story(async {
        let daemon = Daemon::start("userns-pause").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let config = mapped("shared", &daemon, options(NamespaceMode::Pod));
        let id = client.run_pod(&config).await.expect("a pod");
        let wanted = |name| inside(name, "sleep 1000", options(NamespaceMode::Pod));
        let a = client.run(&id, &config, &wanted("a")).await.expect("runs");
        let b = client.run(&id, &config, &wanted("b")).await.expect("runs");
        let (one, other) = (client.pid_of(&a).await, client.pid_of(&b).await);
        assert_eq!(namespace(one, "pid"), namespace(other, "pid"));
        let user = std::fs::metadata(format!("/proc/{one}/ns/user")).expect("a process").ino();
        assert_eq!(owner_of(one, "pid"), user);
        assert_eq!(
            said(&client, &a, "head -n 1 /proc/1/status; stat -c %u /proc/1/status").await,
            "Name:\tpause\n65534"
        );
        assert!(said(&client, &a, "ps").await.matches("sleep 1000").count() >= 2);
        daemon.end().await;
    });
}

#[test]
fn it_stays_within_the_pods_cgroup_and_a_privileged_one_has_no_right_to_the_node() {
    story(async {
        let daemon = Daemon::start("userns-rights").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let mut config = mapped("rights", &daemon, options(NamespaceMode::Container));
        security(&mut config).privileged = true;
        let id = client.run_pod(&config).await.expect("a pod");
        let mut wanted = inside("c", "sleep 1000", options(NamespaceMode::Container));
        of(&mut wanted).privileged = true;
        let c = client.run(&id, &config, &wanted).await.expect("runs");
        let pid = client.pid_of(&c).await;
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("a process");
        let parent = daemon.cgroup();
        let mine = groups.lines().filter_map(|line| line.splitn(3, ':').nth(2)).filter(|path| *path != "/");
        assert!(mine.clone().count() > 0 && mine.clone().all(|path| path.contains(&parent)), "{groups}");
        let script = "for f in /proc/sys/kernel/panic /proc/sysrq-trigger /sys/fs/cgroup/*/cgroup.procs; do \
            (echo 1 >$f) 2>/dev/null && echo wrote $f; done; ls -l /dev | grep -c '^b'; true";
        assert_eq!(said(&client, &c, script).await, "0");
        // In its own namespaces it may do as it likes.
        said(&client, &c, "(mount -t tmpfs own /tmp && ip link set lo down && ip link set lo up) 2>&1").await;
        said(&client, &c, "(echo 1 >/proc/sys/net/ipv4/ip_forward) 2>&1").await;
        daemon.end().await;
    });
}

#[test]
fn a_pod_in_the_nodes_network_has_sys_read_only_and_a_terminal_of_its_own() {
    story(async {
        let daemon = Daemon::start("userns-host").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let host =
            cri::NamespaceOption { network: NamespaceMode::Node.into(), ..options(NamespaceMode::Container) };
        let mut config = mapped("host", &daemon, host.clone());
        config.hostname = String::new();
        config.port_mappings.clear();
        let id = client.run_pod(&config).await.expect("a pod");
        let mut wanted = inside("c", "stat -c %u:%g $(tty) /dev/console >/told; exec sleep 1000", host);
        wanted.tty = true;
        let c = client.run(&id, &config, &wanted).await.expect("runs");
        let told = "until test -s /told; do usleep 5000; done; cat /told";
        assert_eq!(said(&client, &c, told).await, "0:5\n0:5", "the terminal is the container's own");
        let pid = client.pid_of(&c).await;
        assert_ne!(namespace(pid, "user"), namespace(daemon.pid(), "user"));
        let sys = said(&client, &c, "grep ' /sys' /proc/mounts | grep -v ' /sys/fs/cgroup'").await;
        assert!(sys.lines().all(|line| line.split(' ').nth(3).is_some_and(|o| o.starts_with("ro"))), "{sys}");
        daemon.end().await;
    });
}

#[test]
fn a_container_that_asks_for_another_user_namespace_is_refused_and_so_are_bad_mappings() {
    story(async {
        let daemon = Daemon::start("userns-refused").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let config = mapped("refused", &daemon, options(NamespaceMode::Container));
        let mut wrong = options(NamespaceMode::Container);
        wrong.userns_options.as_mut().expect("set").uids[0].container_id = 1;
        let refused = client.run_pod(&mapped("wrong", &daemon, wrong)).await.expect_err("refused");
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains("userns_options.uids[0].container_id"), "{refused}");
        let id = client.run_pod(&config).await.expect("a pod");
        let mut other = options(NamespaceMode::Container);
        other.userns_options.as_mut().expect("set").uids[0].host_id += 1;
        for (options, field) in [
            (other, "userns_options"),
            (
                cri::NamespaceOption {
                    userns_options: Some(cri::UserNamespace { mode: 2, ..Default::default() }),
                    ..options(NamespaceMode::Container)
                },
                "userns_options",
            ),
        ] {
            let refused = client.create(&id, &config, &inside("c", "true", options)).await;
            let refused = refused.expect_err("refused");
            assert_eq!(refused.code(), Code::InvalidArgument);
            assert!(refused.message().contains(field), "{refused}");
        }
        let mut nobody = inside("c", "true", options(NamespaceMode::Container));
        of(&mut nobody).run_as_user = Some(cri::Int64Value { value: i64::from(LENGTH) });
        let refused = client.create(&id, &config, &nobody).await.expect_err("refused");
        assert!(refused.message().contains("run_as_user"), "{refused}");
        daemon.end().await;
    });
}
