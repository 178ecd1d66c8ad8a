//! A shim that lives and does not answer keeps nobody from removing its pod.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]
#![allow(clippy::disallowed_methods, reason = "a test looks at paths that it made itself")]
#![allow(clippy::large_futures, reason = "a story is awaited once")]

use pods::{Daemon, pod, shell, story, until};
use sys::rustix::process::{Pid, Signal, kill_process};

#[test]
fn a_shim_that_hangs_is_ended_with_its_pod_also_by_a_later_daemon() {
    story(async {
        let mut daemon = Daemon::start("hung").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let mut pods = Vec::new();
        for name in ["first", "second"] {
            let config = pod(name, &daemon.cgroup(), &daemon.logs(name));
            let id = client.run_pod(&config).await.expect("a pod");
            let container = client.run(&id, &config, &shell("c", "sleep 1000")).await.expect("runs");
            pods.push((id, parent(client.pid_of(&container).await)));
        }
        for (_, shim) in &pods {
            kill_process(*shim, Signal::STOP).expect("stopped");
        }
        // One with the daemon that started it, one with the next: each listens, or listened, on the shim's socket.
        for again in [false, true] {
            if again {
                daemon.kill();
                daemon.up().await;
            }
            let client = daemon.client();
            let (id, shim) = pods.remove(0);
            let pid = daemon.pid();
            until("the pod is gone", || async {
                client.stop_pod(&id).await.ok()?;
                client.remove_pod(&id).await.ok()
            })
            .await;
            assert!(daemon.runs() && daemon.pid() == pid, "the daemon is not taken for the shim");
            let status = std::fs::read_to_string(format!("/proc/{}/status", shim.as_raw_nonzero()));
            // Whoever is its parent may take a moment to see its end.
            let ended = status.as_ref().map_or(true, |status| status.contains("State:\tZ"));
            assert!(ended, "the shim is still there, after a restart: {again}: {status:?}");
        }
        daemon.end().await;
    });
}

/// A container's first process is the shim's child.
fn parent(pid: u32) -> Pid {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("a parent");
    parent.trim().parse().ok().and_then(Pid::from_raw).expect("a process")
}
