//! A pod's life: containers that share what a pod shares, end as they end, and leave nothing.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]
#![allow(clippy::disallowed_methods, reason = "a test looks at paths that it made itself")]
#![allow(clippy::large_futures, reason = "a story is awaited once")]

use api::cri;
use pods::{Daemon, pod, shell, story, until};
use tonic::Code;

#[test]
fn two_containers_share_an_address_and_a_volume() {
    story(async {
        let daemon = Daemon::start("share").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let config = pod("share", &daemon.cgroup(), &daemon.logs("share"));
        let id = client.run_pod(&config).await.expect("a pod");
        let volume = daemon.dir().join("volume");
        std::fs::create_dir(&volume).expect("a directory");
        let mount = cri::Mount {
            container_path: "/data".to_owned(),
            host_path: volume.display().to_string(),
            ..Default::default()
        };
        let mut server =
            shell("server", "mkdir /www; echo hello >/www/index.html; exec httpd -f -p 8080 -h /www");
        server.mounts.push(mount.clone());
        let mut asker = shell(
            "asker",
            "until wget -q -O /data/answer http://127.0.0.1:8080/; do usleep 10000; done; sleep 1000",
        );
        asker.mounts.push(mount);
        let server = client.run(&id, &config, &server).await.expect("runs");
        let asker = client.run(&id, &config, &asker).await.expect("runs");
        let answer = until("the answer in the volume", || async {
            std::fs::read_to_string(volume.join("answer")).ok().filter(|text| !text.is_empty())
        })
        .await;
        assert_eq!(answer, "hello\n");
        assert_eq!(client.exec(&server, "cat /data/answer", 10).await.expect("ran").0, "hello\n");

        // One address, the pod's; and one host name.
        let ip = client.pod_status(&id).await.expect("a status").network.expect("a network").ip;
        for container in [&server, &asker] {
            let (inside, _) =
                client.exec(container, "ip -4 addr show eth0; hostname", 10).await.expect("ran");
            assert!(inside.contains(&format!("inet {ip}/")), "{ip} is not in:\n{inside}");
            assert!(inside.ends_with("share\n"), "{inside}");
        }
        // One IPC namespace, but PID and mount namespaces of their own.
        let links = "for n in ipc net uts; do readlink /proc/self/ns/$n || exit 1; done";
        let shared = client.exec(&server, links, 10).await.expect("ran");
        assert_eq!((shared.1, shared.0.lines().count()), (0, 3), "{shared:?}");
        assert_eq!(shared, client.exec(&asker, links, 10).await.expect("ran"));
        let own = "for n in pid mnt; do readlink /proc/self/ns/$n || exit 1; done";
        assert_ne!(
            client.exec(&server, own, 10).await.expect("ran"),
            client.exec(&asker, own, 10).await.expect("ran")
        );
        // One /dev/shm.
        client.exec(&server, "echo shared >/dev/shm/note", 10).await.expect("ran");
        assert_eq!(client.exec(&asker, "cat /dev/shm/note", 10).await.expect("ran").0, "shared\n");
        daemon.end().await;
    });
}

#[test]
fn exit_codes_signals_and_want_of_memory_are_told_apart() {
    story(async {
        let daemon = Daemon::start("exits").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let config = pod("exits", &daemon.cgroup(), &daemon.logs("exits"));
        let id = client.run_pod(&config).await.expect("a pod");
        for (name, script, code, reason) in [
            ("fine", "true", 0, "Completed"),
            ("seven", "exit 7", 7, "Error"),
            ("killed", "kill -9 $$; sleep 10", 137, "Error"),
        ] {
            // PID 1 is deaf to its own SIGKILL, so a shell beneath it dies and hands the code on.
            let script =
                if name == "killed" { format!("sh -c '{script}'; exit $?") } else { script.to_owned() };
            let container = client.run(&id, &config, &shell(name, &script)).await.expect("runs");
            let status = client.ended(&container).await;
            assert_eq!((status.exit_code, status.reason.as_str()), (code, reason), "{name}");
            assert!(
                status.created_at <= status.started_at && status.started_at <= status.finished_at,
                "{name}"
            );
        }
        let mut hungry = shell("hungry", "dd if=/dev/zero of=/dev/null bs=64M count=1; sleep 10");
        // The shell itself must die for the container to be told OOMKilled: exec the eater.
        hungry.command = ["/bin/dd", "if=/dev/zero", "of=/dev/null", "bs=64M"].map(str::to_owned).to_vec();
        if let Some(resources) = hungry.linux.as_mut().and_then(|l| l.resources.as_mut()) {
            resources.memory_limit_in_bytes = 16 << 20;
            resources.memory_swap_limit_in_bytes = 16 << 20;
        }
        let container = client.run(&id, &config, &hungry).await.expect("runs");
        let status = client.ended(&container).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
        daemon.end().await;
    });
}

#[test]
fn a_container_that_ignores_sigterm_is_killed_after_its_grace() {
    story(async {
        let daemon = Daemon::start("grace").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let config = pod("grace", &daemon.cgroup(), &daemon.logs("grace"));
        let id = client.run_pod(&config).await.expect("a pod");
        let logs = daemon.logs("grace");
        let mut ids = Vec::new();
        for (name, script) in [
            ("deaf", "trap '' TERM; echo ready; while :; do sleep 1; done"),
            ("polite", "trap 'exit 3' TERM; echo ready; while :; do usleep 10000; done"),
        ] {
            ids.push(client.run(&id, &config, &shell(name, script)).await.expect("runs"));
            // Before its trap is set, the first process of a namespace is deaf to SIGTERM.
            let log = std::path::Path::new(&logs).join(format!("{name}.log"));
            until("the trap", || async {
                std::fs::read_to_string(&log).is_ok_and(|text| text.contains("ready")).then_some(())
            })
            .await;
        }
        let (deaf, polite) = (ids[0].clone(), ids[1].clone());
        // Both at once: the deaf one's grace must not hold up the polite one.
        let (first, second) = tokio::join!(client.stop(&deaf, 1), async {
            client.stop(&polite, 30).await.expect("stopped");
            client.status(&polite).await.expect("a status").exit_code
        });
        first.expect("stopped");
        assert_eq!(second, 3);
        assert_eq!(client.status(&deaf).await.expect("a status").exit_code, 137);
        client.stop(&deaf, 1).await.expect("stopping twice is fine");
        daemon.end().await;
    });
}

#[test]
fn logs_have_every_line_in_order_and_survive_rotation() {
    story(async {
        let daemon = Daemon::start("logs").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let logs = daemon.logs("logs");
        let config = pod("logs", &daemon.cgroup(), &logs);
        let id = client.run_pod(&config).await.expect("a pod");
        let script = "seq 1 20000; echo to stderr >&2; printf 'no end'";
        let container = client.run(&id, &config, &shell("counter", script)).await.expect("runs");
        let path = std::path::Path::new(&logs).join("counter.log");
        let renamed = path.with_extension("1");
        // In the middle, as the kubelet does it; the container may already have ended.
        std::fs::rename(&path, &renamed).expect("the log is there once the container has started");
        let request = cri::ReopenContainerLogRequest { container_id: container.clone() };
        if client.runtime().reopen_container_log(request).await.is_ok() {
            assert!(path.exists(), "a new file is there at once");
        }
        client.ended(&container).await;
        let read = |p: &std::path::Path| std::fs::read_to_string(p).unwrap_or_default();
        let all = read(&renamed) + &read(&path);
        let mut numbers = Vec::new();
        for line in all.lines() {
            let mut words = line.splitn(4, ' ');
            let (time, stream, tag, text) =
                (words.next().unwrap_or(""), words.next(), words.next(), words.next().unwrap_or(""));
            assert!(time.len() >= 20 && time.contains('T'), "{line}");
            match (stream, tag, text) {
                (Some("stdout"), Some("F"), number) if number.parse::<u32>().is_ok() => {
                    numbers.push(number.parse::<u32>().expect("parsed"));
                }
                (Some("stderr"), Some("F"), "to stderr") => {}
                (Some("stdout"), Some("P" | "F"), "no end") => {}
                other => panic!("unexpected line {other:?}"),
            }
        }
        assert_eq!(numbers, (1..=20_000).collect::<Vec<_>>());
        assert!(all.contains(" stderr F to stderr\n") && all.contains(" no end\n"));
        daemon.end().await;
    });
}

#[test]
fn a_command_that_outlives_its_time_is_killed_with_all_its_children() {
    story(async {
        let daemon = Daemon::start("exec").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let config = pod("exec", &daemon.cgroup(), &daemon.logs("exec"));
        let id = client.run_pod(&config).await.expect("a pod");
        let container = client.run(&id, &config, &shell("c", "sleep 1000")).await.expect("runs");
        assert_eq!(
            client.exec(&container, "echo out; exit 5", 10).await.expect("ran"),
            ("out\n".to_owned(), 5)
        );
        let error = client.exec(&container, "setsid sleep 4321 & sleep 4321", 1).await.expect_err("too long");
        assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
        let (left, _) = client.exec(&container, "ps | grep -c '[s]leep 4321'", 10).await.expect("ran");
        assert_eq!(left, "0\n", "processes of the command live on");
        // A child in the background that holds the pipe must not hold the answer.
        let (out, code) = client.exec(&container, "sleep 4322 & echo done", 60).await.expect("ran");
        assert_eq!((out.as_str(), code), ("done\n", 0));
        let request = cri::ExecSyncRequest {
            container_id: container.clone(),
            cmd: vec!["/no/such/command".to_owned()],
            timeout: 10,
        };
        let error = client.runtime().exec_sync(request).await.expect_err("not there");
        assert!(error.message().contains("/no/such/command"), "{error}");
        daemon.end().await;
    });
}

#[test]
fn a_command_that_is_not_there_is_an_error_of_start_that_names_it() {
    story(async {
        let daemon = Daemon::start("nocommand").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let config = pod("nocommand", &daemon.cgroup(), &daemon.logs("nocommand"));
        let id = client.run_pod(&config).await.expect("a pod");
        let container = pods::container("c", pods::BUSYBOX, &["no-such-program"]);
        let error = match client.create(&id, &config, &container).await {
            Ok(container) => client.start(&container).await.expect_err("it cannot start"),
            Err(error) => error,
        };
        assert!(error.message().contains("no-such-program"), "{error}");
        daemon.end().await;
    });
}

#[test]
fn stop_and_remove_may_be_repeated_and_unknown_ids_are_fine() {
    story(async {
        let daemon = Daemon::start("repeat").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let config = pod("repeat", &daemon.cgroup(), &daemon.logs("repeat"));
        let id = client.run_pod(&config).await.expect("a pod");
        let container = client.run(&id, &config, &shell("c", "sleep 1000")).await.expect("runs");
        for _ in 0..2 {
            client.stop_pod(&id).await.expect("stopped");
        }
        let state = client.pod_status(&id).await.expect("a status").state;
        assert_eq!(state, i32::from(cri::PodSandboxState::SandboxNotready));
        assert_eq!(client.ended(&container).await.exit_code, 137);
        for _ in 0..2 {
            client.remove(&container).await.expect("removed");
            client.remove_pod(&id).await.expect("removed");
        }
        let unknown = "f".repeat(64);
        client.stop(&unknown, 0).await.expect("fine");
        client.stop_pod(&unknown).await.expect("fine");
        assert_eq!(client.pod_status(&id).await.expect_err("gone").code(), Code::NotFound);
        assert_eq!(client.status(&container).await.expect_err("gone").code(), Code::NotFound);
        assert_eq!(client.start(&container).await.expect_err("gone").code(), Code::NotFound);
        daemon.end().await;
    });
}

#[test]
fn an_identical_retry_gets_the_same_id_and_a_different_one_is_refused() {
    story(async {
        let daemon = Daemon::start("retry").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let config = pod("retry", &daemon.cgroup(), &daemon.logs("retry"));
        let (first, second) = tokio::join!(client.run_pod(&config), client.run_pod(&config));
        let id = first.expect("a pod");
        assert_eq!(second.expect("the same pod"), id);
        let other = cri::PodSandboxConfig { hostname: "other".to_owned(), ..config.clone() };
        assert_eq!(client.run_pod(&other).await.expect_err("taken").code(), Code::AlreadyExists);
        let container = shell("c", "sleep 1000");
        let (first, second) =
            tokio::join!(client.create(&id, &config, &container), client.create(&id, &config, &container));
        let made = first.expect("a container");
        assert_eq!(second.expect("the same container"), made);
        let error = client.create(&id, &config, &shell("c", "sleep 2000")).await.expect_err("taken");
        assert_eq!(error.code(), Code::AlreadyExists, "{error}");
        client.start(&made).await.expect("started");
        assert_eq!(client.start(&made).await.expect_err("it runs").code(), Code::FailedPrecondition);
        daemon.end().await;
    });
}

#[test]
fn a_pod_with_one_pid_namespace_sees_all_its_processes() {
    story(async {
        let daemon = Daemon::start("pid").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let mut config = pod("pid", &daemon.cgroup(), &daemon.logs("pid"));
        let shared = cri::NamespaceOption { pid: cri::NamespaceMode::Pod.into(), ..Default::default() };
        let context = config.linux.as_mut().and_then(|l| l.security_context.as_mut()).expect("set");
        context.namespace_options = Some(shared.clone());
        let id = client.run_pod(&config).await.expect("a pod");
        let with_shared = |mut container: cri::ContainerConfig| {
            let context = container.linux.as_mut().and_then(|l| l.security_context.as_mut()).expect("set");
            context.namespace_options = Some(shared.clone());
            container
        };
        let one = with_shared(shell("one", "exec sleep 7771"));
        let two = with_shared(shell("two", "exec sleep 7772"));
        let one = client.run(&id, &config, &one).await.expect("runs");
        let two = client.run(&id, &config, &two).await.expect("runs");
        let (seen, _) = client.exec(&one, "ps", 10).await.expect("ran");
        assert!(seen.contains("sleep 7771") && seen.contains("sleep 7772"), "{seen}");
        client.stop(&two, 0).await.expect("stopped");
        let (seen, _) = client.exec(&one, "ps", 10).await.expect("ran");
        assert!(seen.contains("sleep 7771") && !seen.contains("sleep 7772"), "{seen}");
        daemon.end().await;
    });
}

#[test]
fn a_port_of_the_host_leads_to_the_pod() {
    story(async {
        let daemon = Daemon::start("port").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let mut config = pod("port", &daemon.cgroup(), &daemon.logs("port"));
        config.port_mappings = vec![cri::PortMapping {
            protocol: cri::Protocol::Tcp.into(),
            container_port: 80,
            host_port: 12_080,
            host_ip: String::new(),
        }];
        let id = client.run_pod(&config).await.expect("a pod");
        let server =
            shell("server", "mkdir /www; echo through >/www/index.html; exec httpd -f -p 80 -h /www");
        client.run(&id, &config, &server).await.expect("runs");
        let answer = until("an answer through the host's port", || async {
            // Debian's static busybox cannot look up names outside of a container, so bash asks.
            let ask =
                "exec 3<>/dev/tcp/127.0.0.1/12080; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; tail -n 1 <&3";
            let output = std::process::Command::new("nsenter")
                .arg(format!("--net=/run/netns/{}", daemon.netns()))
                .args(["timeout", "2", "bash", "-c", ask])
                .output()
                .expect("nsenter runs");
            output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
        })
        .await;
        assert_eq!(answer, "through\n");
        daemon.end().await;
    });
}

#[test]
fn stats_tell_of_a_running_container() {
    story(async {
        let daemon = Daemon::start("stats").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let config = pod("stats", &daemon.cgroup(), &daemon.logs("stats"));
        let id = client.run_pod(&config).await.expect("a pod");
        let busy = shell("busy", "dd if=/dev/zero of=/tmp/x bs=1M count=8; while :; do :; done");
        let busy = client.run(&id, &config, &busy).await.expect("runs");
        until("the container's file", || async {
            let (_, code) = client.exec(&busy, "[ $(wc -c </tmp/x) -ge 8388608 ]", 10).await.ok()?;
            (code == 0).then_some(())
        })
        .await;
        let request = cri::ContainerStatsRequest { container_id: busy.clone() };
        let stats =
            client.runtime().container_stats(request).await.expect("stats").into_inner().stats.expect("set");
        assert_eq!(stats.attributes.expect("never nil").id, busy);
        let cpu = stats.cpu.expect("cpu");
        assert!(cpu.timestamp > 0 && cpu.usage_core_nano_seconds.expect("set").value > 0);
        let memory = stats.memory.expect("memory");
        assert!(memory.timestamp > 0 && memory.working_set_bytes.expect("set").value > 0);
        let layer = stats.writable_layer.expect("a writable layer");
        assert!(layer.used_bytes.expect("set").value >= 8 << 20);
        let all = client.runtime().list_container_stats(cri::ListContainerStatsRequest::default()).await;
        assert_eq!(all.expect("a list").into_inner().stats.len(), 1);
        let unknown = cri::ContainerStatsRequest { container_id: "0".repeat(64) };
        assert_eq!(
            client.runtime().container_stats(unknown).await.expect_err("unknown").code(),
            Code::NotFound
        );
        daemon.end().await;
    });
}
