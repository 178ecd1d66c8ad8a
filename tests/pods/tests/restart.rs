//! `kill -9`, of the daemon and of a shim.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]
#![allow(clippy::disallowed_methods, reason = "a test looks at paths that it made itself")]
#![allow(clippy::large_futures, reason = "a story is awaited once")]

use api::cri;
use pods::{Daemon, pod, shell, story, until};

#[test]
fn a_daemon_that_was_killed_finds_its_pods_and_what_ended_meanwhile() {
    story(async {
        let mut daemon = Daemon::start("killed").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let logs = daemon.logs("killed");
        let config = pod("killed", &daemon.cgroup(), &logs);
        let id = client.run_pod(&config).await.expect("a pod");
        let ip = client.pod_status(&id).await.expect("a status").network.expect("set").ip;
        let steady = shell("steady", "n=0; while :; do n=$((n+1)); echo line $n; usleep 1000; done");
        let steady = client.run(&id, &config, &steady).await.expect("runs");
        let flag = daemon.dir().join("flag");
        let mut brief = shell("brief", "until test -e /flag/now; do usleep 5000; done; exit 9");
        std::fs::create_dir(&flag).expect("a directory");
        brief.mounts.push(cri::Mount {
            container_path: "/flag".to_owned(),
            host_path: flag.display().to_string(),
            ..Default::default()
        });
        let brief = client.run(&id, &config, &brief).await.expect("runs");
        let pid = client.pid_of(&steady).await;
        let brief_pid = client.pid_of(&brief).await;

        daemon.kill();
        std::fs::write(flag.join("now"), "").expect("written");
        let gone = format!("/proc/{brief_pid}");
        until("the end of the brief one", || async { (!std::path::Path::new(&gone).exists()).then_some(()) })
            .await;
        daemon.up().await;

        let client = daemon.client();
        assert_eq!(client.pods().await.expect("a list").len(), 1);
        assert_eq!(client.pod_status(&id).await.expect("a status").network.expect("set").ip, ip);
        assert_eq!(client.ended(&brief).await.exit_code, 9);
        assert_eq!(client.pid_of(&steady).await, pid, "the container was not started anew");
        assert_eq!(client.run_pod(&config).await.expect("the same pod"), id);
        client.stop(&steady, 0).await.expect("stopped");
        let text = std::fs::read_to_string(std::path::Path::new(&logs).join("steady.log")).expect("a log");
        let numbers: Vec<u32> = text
            .lines()
            .filter_map(|line| line.rsplit_once("line ").and_then(|(_, n)| n.parse().ok()))
            .collect();
        assert!(numbers.len() > 10);
        assert!(
            numbers.iter().copied().eq(1..=u32::try_from(numbers.len()).expect("few")),
            "the log has a gap"
        );
        daemon.end().await;
    });
}

#[test]
fn a_shim_that_was_killed_is_told_and_its_pod_can_be_removed() {
    story(async {
        let daemon = Daemon::start("shim").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let config = pod("shim", &daemon.cgroup(), &daemon.logs("shim"));
        let id = client.run_pod(&config).await.expect("a pod");
        let container = client.run(&id, &config, &shell("c", "sleep 1000")).await.expect("runs");
        let pid = client.pid_of(&container).await;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let shim = status.lines().find_map(|l| l.strip_prefix("PPid:")).expect("a parent").trim().to_owned();
        let killed = std::process::Command::new("kill").args(["-9", &shim]).status().expect("kill runs");
        assert!(killed.success());
        let status = client.ended(&container).await;
        assert_eq!(status.exit_code, 137);
        until("the end of the orphan", || async {
            (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(())
        })
        .await;
        until("a pod that is not ready", || async {
            let state = client.pod_status(&id).await.ok()?.state;
            (state == i32::from(cri::PodSandboxState::SandboxNotready)).then_some(())
        })
        .await;
        daemon.end().await;
    });
}

#[test]
fn two_daemons_side_by_side_do_not_touch_each_other() {
    story(async {
        let one = Daemon::start("one").await;
        let two = Daemon::start("two").await;
        for daemon in [&one, &two] {
            let client = daemon.client();
            client.load(pods::busybox_archive()).await.expect("loaded");
            let config = pod("same-name", &daemon.cgroup(), &daemon.logs("same-name"));
            let id = client.run_pod(&config).await.expect("a pod");
            client.run(&id, &config, &shell("c", "sleep 1000")).await.expect("runs");
        }
        one.end().await;
        assert_eq!(two.client().containers().await.expect("a list").len(), 1);
        let id = two.client().containers().await.expect("a list")[0].id.clone();
        assert_eq!(two.client().exec(&id, "echo alive", 10).await.expect("ran").0, "alive\n");
        two.end().await;
    });
}
