//! Limits that change while a container is there: all of what was asked, or nothing.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]
#![allow(clippy::disallowed_methods, reason = "a test looks at paths that it made itself")]
#![allow(clippy::large_futures, reason = "a story is awaited once")]

use api::cri::{self, LinuxContainerResources as Resources};
use pods::{Client, Daemon, pod, shell, story};
use tonic::{Code, Status};

fn unified() -> bool {
    std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// A file of a container's cgroup.
fn file(daemon: &Daemon, container: &str, controller: &str, name: &str) -> String {
    let root = if unified() { String::new() } else { format!("{controller}/") };
    let path = format!("/sys/fs/cgroup/{root}{}/{container}/{name}", daemon.cgroup().trim_start_matches('/'));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}")).trim().to_owned()
}

/// Period, quota, weight, memory and CPUs as the kernel has them.
fn limits(daemon: &Daemon, container: &str) -> [String; 5] {
    let read = |controller, name| file(daemon, container, controller, name);
    if unified() {
        let max = read("cpu", "cpu.max");
        let (quota, period) = max.split_once(' ').expect("two numbers");
        let (quota, period) = (quota.to_owned(), period.to_owned());
        [
            period,
            quota,
            read("cpu", "cpu.weight"),
            read("memory", "memory.max"),
            read("cpuset", "cpuset.cpus.effective"),
        ]
    } else {
        [
            read("cpu", "cpu.cfs_period_us"),
            read("cpu", "cpu.cfs_quota_us"),
            read("cpu", "cpu.shares"),
            read("memory", "memory.limit_in_bytes"),
            read("cpuset", "cpuset.cpus"),
        ]
    }
}

async fn update(client: &Client, container: &str, linux: Resources) -> Result<(), Status> {
    let request = cri::UpdateContainerResourcesRequest {
        container_id: container.to_owned(),
        linux: Some(linux),
        ..Default::default()
    };
    client.runtime().update_container_resources(request).await.map(|_| ())
}

async fn shown(client: &Client, container: &str) -> Resources {
    let status = client.status(container).await.expect("a status");
    status.resources.expect("resources").linux.expect("linux")
}

fn asked() -> Resources {
    Resources {
        cpu_period: 50_000,
        cpu_quota: 10_000,
        cpu_shares: 512,
        memory_limit_in_bytes: 128 << 20,
        oom_score_adj: 777,
        cpuset_cpus: "0".to_owned(),
        ..Default::default()
    }
}

/// What the kernel makes of [`asked`].
fn set() -> [String; 5] {
    let weight = if unified() { "59" } else { "512" };
    ["50000", "10000", weight, "134217728", "0"].map(str::to_owned)
}

fn limited(name: &str) -> cri::ContainerConfig {
    let mut config = shell(name, "sleep 1000");
    let resources = config.linux.as_mut().expect("set").resources.as_mut().expect("set");
    resources.cpu_shares = 1024;
    resources.memory_limit_in_bytes = 64 << 20;
    resources.oom_score_adj = 500;
    config
}

fn oom_score_adj(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("it runs").trim().to_owned()
}

#[test]
fn created_and_running_containers_are_updated_and_keep_it() {
    story(async {
        let mut daemon = Daemon::start("update").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let config = pod("update", &daemon.cgroup(), &daemon.logs("update"));
        let id = client.run_pod(&config).await.expect("a pod");
        let created = client.create(&id, &config, &limited("created")).await.expect("created");
        let running = client.run(&id, &config, &limited("running")).await.expect("runs");
        for container in [&created, &running] {
            assert_eq!(shown(&client, container).await.memory_limit_in_bytes, 64 << 20);
            update(&client, container, asked()).await.expect("updated");
            assert_eq!(limits(&daemon, container), set());
            assert_eq!(oom_score_adj(client.pid_of(container).await), "777");
        }
        client.start(&created).await.expect("started");
        assert_eq!(limits(&daemon, &created), set());
        assert_eq!(oom_score_adj(client.pid_of(&created).await), "777");
        // Memory and swap together follow the memory: no swap stays no swap.
        let effective = Resources { memory_swap_limit_in_bytes: 128 << 20, ..asked() };
        assert_eq!(shown(&client, &running).await, effective);

        daemon.kill();
        daemon.up().await;
        let client = daemon.client();
        assert_eq!(shown(&client, &running).await, effective);
        assert_eq!(limits(&daemon, &running), set());
        // What is not asked for stays, and a limit can be lifted.
        update(&client, &running, Resources { cpu_quota: -1, ..Default::default() }).await.expect("updated");
        assert_eq!(shown(&client, &running).await, Resources { cpu_quota: -1, ..effective });
        let [period, quota, ..] = limits(&daemon, &running);
        assert_eq!((period.as_str(), quota.as_str()), ("50000", if unified() { "max" } else { "-1" }));
        daemon.end().await;
    });
}

#[test]
fn a_limit_that_cannot_be_changes_none() {
    story(async {
        let daemon = Daemon::start("none").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let config = pod("none", &daemon.cgroup(), &daemon.logs("none"));
        let id = client.run_pod(&config).await.expect("a pod");
        let container = client.run(&id, &config, &limited("c")).await.expect("runs");
        let script = "x=$(dd if=/dev/zero bs=1024 count=16384 2>/dev/null | tr '\\0' x); echo ${#x} >/tmp/ready; sleep 1000; true";
        let mut large = limited("large");
        large.command = ["/bin/sh", "-c", script].map(str::to_owned).into();
        let large = client.run(&id, &config, &large).await.expect("runs");
        pods::until("16 MiB in use", || async {
            let said = client.exec(&large, "cat /tmp/ready", 10).await.ok()?;
            (said.0 == "16777216\n").then_some(())
        })
        .await;
        let before = [limits(&daemon, &container), limits(&daemon, &large)];
        let shown_before = shown(&client, &container).await;
        for (what, bad) in [
            // The last of all to be written: the others are set by then.
            ("no such CPU", Resources { cpuset_cpus: "0,4095".to_owned(), ..asked() }),
            (
                "no such page size",
                Resources {
                    hugepage_limits: vec![cri::HugepageLimit { page_size: "3XB".to_owned(), limit: 1 }],
                    ..asked()
                },
            ),
            ("a quota below the kernel's least", Resources { cpu_quota: 1, ..asked() }),
            ("swap below memory", Resources { memory_swap_limit_in_bytes: 1 << 20, ..asked() }),
            (
                "no such file",
                Resources { unified: [("memory.nothing".to_owned(), "1".to_owned())].into(), ..asked() },
            ),
            (
                "a file that moves processes",
                Resources { unified: [("cgroup.procs".to_owned(), "1".to_owned())].into(), ..asked() },
            ),
            ("out of range", Resources { oom_score_adj: 1001, ..asked() }),
        ] {
            let error = update(&client, &container, bad).await.expect_err(what);
            assert_eq!(error.code(), Code::InvalidArgument, "{what}: {error}");
            assert!(error.message().starts_with("linux"), "{what}: {error}");
            assert_eq!(limits(&daemon, &container), before[0], "{what}");
            assert_eq!(oom_score_adj(client.pid_of(&container).await), "500", "{what}");
            assert_eq!(shown(&client, &container).await, shown_before, "{what}");
        }
        // Less memory than is in use: refused, and nobody is killed for it.
        let below = Resources { memory_limit_in_bytes: 4 << 20, ..asked() };
        let error = update(&client, &large, below).await.expect_err("it is in use");
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        assert_eq!(limits(&daemon, &large), before[1]);
        assert_eq!(client.exec(&large, "cat /tmp/ready", 10).await.expect("it lives").0, "16777216\n");
        update(&client, &large, Resources { memory_limit_in_bytes: 48 << 20, ..Default::default() })
            .await
            .expect("above what is in use");
        daemon.end().await;
    });
}

#[test]
fn files_of_cgroup_v2_are_set_there_and_refused_elsewhere() {
    story(async {
        let daemon = Daemon::start("files").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let config = pod("files", &daemon.cgroup(), &daemon.logs("files"));
        let id = client.run_pod(&config).await.expect("a pod");
        let container = client.run(&id, &config, &limited("c")).await.expect("runs");
        let high = |value: &str| Resources {
            unified: [("memory.high".to_owned(), value.to_owned())].into(),
            ..Default::default()
        };
        let answer = update(&client, &container, high("33554432")).await;
        if unified() {
            answer.expect("updated");
            assert_eq!(file(&daemon, &container, "memory", "memory.high"), "33554432");
            assert_eq!(shown(&client, &container).await.unified["memory.high"], "33554432");
            let error = update(&client, &container, high("many")).await.expect_err("not a number");
            assert_eq!(error.code(), Code::InvalidArgument, "{error}");
            assert_eq!(file(&daemon, &container, "memory", "memory.high"), "33554432");
        } else {
            let error = answer.expect_err("v1 has no such file");
            assert_eq!(error.code(), Code::InvalidArgument, "{error}");
            assert!(error.message().contains("needs cgroup v2"), "{error}");
        }
        daemon.end().await;
    });
}

#[test]
fn what_has_ended_or_never_was_is_refused_and_a_pods_size_is_kept() {
    story(async {
        let mut daemon = Daemon::start("refused").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let config = pod("refused", &daemon.cgroup(), &daemon.logs("refused"));
        let id = client.run_pod(&config).await.expect("a pod");
        let ended = client.run(&id, &config, &shell("ended", "true")).await.expect("runs");
        client.ended(&ended).await;
        let code = |result: Result<(), Status>| result.expect_err("refused").code();
        assert_eq!(code(update(&client, &ended, asked()).await), Code::FailedPrecondition);
        assert_eq!(code(update(&client, "nobody", asked()).await), Code::NotFound);

        let resize = |id: &str, resources: Resources| {
            let request = cri::UpdatePodSandboxResourcesRequest {
                pod_sandbox_id: id.to_owned(),
                overhead: None,
                resources: Some(resources),
            };
            let mut runtime = client.runtime();
            async move { runtime.update_pod_sandbox_resources(request).await.map(|_| ()) }
        };
        resize(&id, asked()).await.expect("nothing to do is fine");
        assert_eq!(code(resize("nobody", asked()).await), Code::NotFound);
        let bad = Resources { cpu_quota: -2, ..Default::default() };
        let error = resize(&id, bad).await.expect_err("below -1");
        assert!(error.message().starts_with("resources.cpu_quota"), "{error}");
        daemon.kill();
        daemon.up().await;
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: true };
        let answer =
            daemon.client().runtime().pod_sandbox_status(request).await.expect("a status").into_inner();
        let info: serde_json::Value = serde_json::from_str(&answer.info["info"]).expect("JSON");
        assert_eq!(info["resources"]["cpu_shares"], 512);
        assert_eq!(answer.timestamp, 0);
        daemon.end().await;
    });
}
