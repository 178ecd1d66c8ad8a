//! A shim that lives and does not answer keeps nobody from removing its pod.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]
#![allow(clippy::disallowed_methods, reason = "a test looks at paths that it made itself")]
#![allow(clippy::large_futures, reason = "a story is awaited once")]

use api::cri;
use pods::{Daemon, pod, shell, story, until};
use std::time::{Duration, Instant};
use sys::rustix::process::{Pid, Signal, kill_process};

#[test]
fn a_shim_that_hangs_is_ended_with_its_pod_also_by_a_later_daemon() {
    story(async {
        let mut daemon = Daemon::start("hung").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let poser = poser(&daemon).await;
        let mut pods = Vec::new();
        for name in ["first", "second"] {
            let config = pod(name, &daemon.cgroup(), &daemon.logs(name));
            let id = client.run_pod(&config).await.expect("a pod");
            let container = client.run(&id, &config, &shell("c", "sleep 1000")).await.expect("runs");
            pods.push((id, parent(client.pid_of(&container).await)));
        }
        let names: Vec<_> = pods.iter().map(|(id, _)| directory(&daemon, id)).collect();
        let script = format!("echo {} >/tmp/names", names.join(" "));
        assert_eq!(client.exec(&poser, &script, 10).await.expect("runs").1, 0);
        let posing = client.pid_of(&poser).await;
        until("a false name", || async { is_called(posing, &names[0]).then_some(()) }).await;
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
            let begun = Instant::now();
            client.stop_pod(&id).await.expect("stopped");
            client.remove_pod(&id).await.expect("removed");
            // One deadline of ten seconds, not one for each call.
            assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
            assert!(is_called(posing, &names[0]), "the wrong one was killed");
            assert!(daemon.runs() && daemon.pid() == pid, "the daemon is not taken for the shim");
            let status = std::fs::read_to_string(format!("/proc/{}/status", shim.as_raw_nonzero()));
            // Whoever is its parent may take a moment to see its end.
            let ended = status.as_ref().map_or(true, |status| status.contains("State:\tZ"));
            assert!(ended, "the shim is still there, after a restart: {again}: {status:?}");
        }
        daemon.end().await;
    });
}

/// A container that sees the node's processes, came before the shims, and calls itself what /tmp/names says.
async fn poser(daemon: &Daemon) -> String {
    let client = daemon.client();
    let mut config = pod("poser", &daemon.cgroup(), &daemon.logs("poser"));
    let node = Some(cri::NamespaceOption { pid: cri::NamespaceMode::Node.into(), ..Default::default() });
    let context = config.linux.get_or_insert_default().security_context.get_or_insert_default();
    context.namespace_options.clone_from(&node);
    let id = client.run_pod(&config).await.expect("a pod");
    let script = "until [ -s /tmp/names ]; do sleep 0.1; done
        exec sh -c 'while :; do sleep 1; done' sh $(cat /tmp/names)";
    let mut container = shell("c", script);
    let context = container.linux.get_or_insert_default().security_context.get_or_insert_default();
    context.namespace_options.clone_from(&node);
    client.run(&id, &config, &container).await.expect("runs")
}

/// The directory of a pod's shim, which is in its command line.
fn directory(daemon: &Daemon, id: &str) -> String {
    let pods = daemon.dir().join("s/pods");
    let mut names =
        std::fs::read_dir(&pods).expect("a list").map(|entry| entry.expect("an entry").file_name());
    let name = names.find(|name| name.to_str().is_some_and(|name| id.starts_with(name)));
    pods.join(name.expect("the pod's directory")).display().to_string()
}

fn is_called(pid: u32, name: &str) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).any(|word| word == name.as_bytes())
}

/// A container's first process is the shim's child.
fn parent(pid: u32) -> Pid {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("a parent");
    parent.trim().parse().ok().and_then(Pid::from_raw).expect("a process")
}
