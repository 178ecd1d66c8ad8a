//! The daemon is killed after each durable write and each verb of the host, one run per point, while
//! a pod goes through its whole life beside two others. Each call that the crash cut off is made
//! again, as the kubelet does. Afterwards: the same ids, the same exit codes, every log line, the
//! neighbours untouched, and nothing left over.
//!
//! The daemon under test is built with the feature `crash-points`: `PEAPOD_CRASH_AT=N` has it kill
//! itself when it passes its N-th point, `PEAPOD_CRASH_TRACE=FILE` writes the points that it passes.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]
#![allow(clippy::large_futures, reason = "a story is awaited once")]
#![allow(clippy::disallowed_methods, reason = "a test looks at paths that it made itself")]

use api::cri;
use pods::{Client, Daemon, pod, shell, story, until};
use std::{io::BufRead as _, path::Path};
use tonic::{Code, Status};

/// A daemon that may die under a call, and is then started anew without its crash point.
struct Mortal {
    daemon: Daemon,
    deaths: usize,
}

impl Mortal {
    /// Makes the call; if the daemon died of it, starts a new one and makes it again.
    async fn insist<T, F: Future<Output = Result<T, Status>>>(
        &mut self,
        what: &str,
        call: impl Fn(Client) -> F,
    ) -> T {
        match call(self.daemon.client()).await {
            Ok(answer) => answer,
            Err(error) => {
                // An error of a living daemon is a failure of the test.
                assert!(self.died().await, "{what}: {error}");
                self.deaths += 1;
                self.daemon.env.clear();
                self.daemon.up().await;
                call(self.daemon.client()).await.unwrap_or_else(|error| panic!("{what}, made again: {error}"))
            }
        }
    }

    /// Whether the process is gone; a call may fail a moment before the process can be reaped.
    async fn died(&mut self) -> bool {
        for _ in 0..200 {
            if !self.daemon.runs() {
                return true;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        false
    }
}

/// What must be as before, whatever happens to the third pod.
struct Neighbours {
    containers: Vec<(String, u32)>,
    logs: Vec<std::path::PathBuf>,
    addresses: Vec<(String, String)>,
}

async fn neighbours(daemon: &Daemon, client: &Client) -> Neighbours {
    let mut all = Neighbours { containers: Vec::new(), logs: Vec::new(), addresses: Vec::new() };
    for name in ["near", "far"] {
        let config = pod(name, &daemon.cgroup(), &daemon.logs(name));
        all.logs.push(Path::new(&daemon.logs(name)).join("steady.log"));
        let id = client.run_pod(&config).await.expect("a pod");
        // One writes line by line, the other some 10 MB of log a second.
        let script = match name {
            "near" => "n=0; while :; do n=$((n+1)); echo line $n; usleep 2000; done",
            _ => "n=0; while :; do seq $((n+1)) $((n+20000)); n=$((n+20000)); usleep 100000; done",
        };
        let container = client.run(&id, &config, &shell("steady", script)).await.expect("runs");
        all.containers.push((container.clone(), client.pid_of(&container).await));
        let ip = client.pod_status(&id).await.expect("a status").network.expect("set").ip;
        all.addresses.push((id, ip));
    }
    all
}

impl Neighbours {
    /// Every line that was ever written is in the log, once and in order.
    fn logs_without_a_gap(&self) {
        for path in &self.logs {
            let mut log = std::io::BufReader::new(std::fs::File::open(path).expect("a log"));
            let (mut line, mut last) = (String::new(), 0_usize);
            // The last line may still be on its way.
            while log.read_line(&mut line).expect("read") > 0 && line.ends_with('\n') {
                let number = line.trim_end().rsplit(' ').next().and_then(|n| n.parse::<usize>().ok());
                assert_eq!(number, Some(last + 1), "{} has a gap", path.display());
                last += 1;
                line.clear();
            }
            assert!(last > 1000, "{} has {last} lines", path.display());
        }
    }

    async fn untouched(&self, client: &Client) {
        for (id, pid) in &self.containers {
            assert_eq!(client.pid_of(id).await, *pid, "a neighbour was started anew");
            let state = client.status(id).await.expect("a status").state;
            assert_eq!(state, i32::from(cri::ContainerState::ContainerRunning), "a neighbour ended");
        }
        for (id, ip) in &self.addresses {
            assert_eq!(&client.pod_status(id).await.expect("a status").network.expect("set").ip, ip);
        }
    }
}

/// A pod's whole life by a caller that insists.
async fn life(mortal: &mut Mortal) {
    let logs = mortal.daemon.logs("mortal");
    let config = pod("mortal", &mortal.daemon.cgroup(), &logs);
    let id = mortal
        .insist("RunPodSandbox", |c| {
            let config = config.clone();
            async move { c.run_pod(&config).await }
        })
        .await;
    let brief = shell("brief", "seq 1 3000; exit 9");
    let steady = shell("steady", "while :; do sleep 1; done");
    let mut made = Vec::new();
    for container in [brief, steady] {
        let (pod_id, config) = (id.clone(), config.clone());
        let make = |c: Client| {
            let (pod_id, config, container) = (pod_id.clone(), config.clone(), container.clone());
            async move { c.create(&pod_id, &config, &container).await }
        };
        let container_id = mortal.insist("CreateContainer", &make).await;
        // A retry gets the same object.
        assert_eq!(mortal.insist("CreateContainer again", &make).await, container_id);
        let start = |c: Client| {
            let id = container_id.clone();
            async move {
                match c.start(&id).await {
                    // It was started before the crash: the kubelet sees it in the list.
                    Err(error) if error.code() == Code::FailedPrecondition => {
                        let state = c.status(&id).await?.state;
                        if state == i32::from(cri::ContainerState::ContainerCreated) {
                            Err(error)
                        } else {
                            Ok(())
                        }
                    }
                    other => other,
                }
            }
        };
        mortal.insist("StartContainer", start).await;
        made.push(container_id);
    }
    let again = |c: Client| {
        let config = config.clone();
        async move { c.run_pod(&config).await }
    };
    assert_eq!(mortal.insist("RunPodSandbox again", again).await, id);

    // The brief one ends; its code is not lost.
    let ended = made[0].clone();
    let status = mortal
        .insist("the brief one's end", |c| {
            let id = ended.clone();
            async move { exited(&c, &id).await }
        })
        .await;
    assert_eq!((status.exit_code, status.reason.as_str()), (9, "Error"));
    let text = std::fs::read_to_string(Path::new(&logs).join("brief.log")).expect("a log");
    let numbers: Vec<u32> =
        text.lines().filter_map(|line| line.rsplit_once(" F ").and_then(|(_, n)| n.parse().ok())).collect();
    assert!(numbers.iter().copied().eq(1..=3000), "the log has {} of 3000 lines", numbers.len());

    let stopped = made[1].clone();
    mortal
        .insist("StopContainer", |c| {
            let id = stopped.clone();
            async move { c.stop(&id, 0).await }
        })
        .await;
    let status = mortal
        .insist("ContainerStatus", |c| {
            let id = stopped.clone();
            async move { c.status(&id).await }
        })
        .await;
    assert_eq!(status.exit_code, 137);
    mortal
        .insist("RemoveContainer", |c| {
            let id = ended.clone();
            async move { c.remove(&id).await }
        })
        .await;
    mortal
        .insist("StopPodSandbox", |c| {
            let id = id.clone();
            async move { c.stop_pod(&id).await }
        })
        .await;
    mortal
        .insist("RemovePodSandbox", |c| {
            let id = id.clone();
            async move { c.remove_pod(&id).await }
        })
        .await;
    std::fs::remove_dir_all(logs).expect("removed");
}

async fn exited(client: &Client, id: &str) -> Result<cri::ContainerStatus, Status> {
    for _ in 0..1000 {
        let status = client.status(id).await?;
        if status.state == i32::from(cri::ContainerState::ContainerExited) {
            return Ok(status);
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    Err(Status::deadline_exceeded("it does not end"))
}

/// Beneath the state directory only the neighbours' things.
async fn nothing_over(daemon: &Daemon) {
    for dir in ["s/pods", "s/ns", "r/pods"] {
        let path = daemon.dir().join(dir);
        until("the third pod's things to go", || async {
            let left = std::fs::read_dir(&path).map_or(0, Iterator::count);
            (left == 2).then_some(())
        })
        .await;
    }
}

#[test]
fn a_crash_after_any_write_or_step_loses_nothing_and_leaves_nothing() {
    story(async {
        let trace = std::env::temp_dir().join(format!("peapod-crash-points-{}", std::process::id()));
        let mut daemon = Daemon::start("sweep").await;
        daemon.client().load(pods::busybox_archive()).await.expect("loaded");
        let near = neighbours(&daemon, &daemon.client()).await;

        // Which points there are.
        daemon.kill();
        daemon.env = vec![("PEAPOD_CRASH_TRACE".to_owned(), trace.display().to_string())];
        daemon.up().await;
        let mut mortal = Mortal { daemon, deaths: 0 };
        life(&mut mortal).await;
        mortal.daemon.kill();
        let points = std::fs::read_to_string(&trace).expect("built with the feature crash-points");
        let points: Vec<&str> = points.lines().collect();
        assert!(points.len() > 20, "only {} points: {points:?}", points.len());
        for (number, name) in points.iter().enumerate() {
            println!("crash {} of {} after {name}", number + 1, points.len());
            mortal.daemon.env = vec![("PEAPOD_CRASH_AT".to_owned(), (number + 1).to_string())];
            // The point may lie in recovery itself: then the daemon dies before it answers.
            mortal.daemon.spawn();
            mortal.deaths = 0;
            let client = mortal.daemon.client();
            let mut answered = false;
            while mortal.daemon.runs() && !answered {
                answered = client.version().await.is_ok();
            }
            if !answered {
                mortal.deaths = 1;
                mortal.daemon.env.clear();
                mortal.daemon.up().await;
            }
            life(&mut mortal).await;
            // Points of the last moments may come after the last answer.
            if mortal.deaths == 0 && mortal.died().await {
                mortal.deaths = 1;
                mortal.daemon.env.clear();
                mortal.daemon.up().await;
            }
            assert_eq!(mortal.deaths, 1, "the daemon did not die at {name}");
            near.untouched(&mortal.daemon.client()).await;
            nothing_over(&mortal.daemon).await;
            mortal.daemon.kill();
        }
        std::fs::remove_file(trace).expect("removed");
        mortal.daemon.env.clear();
        mortal.daemon.up().await;
        near.untouched(&mortal.daemon.client()).await;
        near.logs_without_a_gap();
        mortal.daemon.end().await;
    });
}

#[test]
fn a_crash_in_a_pull_or_a_removal_leaves_a_whole_image_or_none() {
    story(async {
        let trace = std::env::temp_dir().join(format!("peapod-pull-points-{}", std::process::id()));
        let mut daemon = Daemon::prepare("pull");
        pods::registry::serve(&daemon);
        daemon.env = vec![("PEAPOD_CRASH_TRACE".to_owned(), trace.display().to_string())];
        daemon.up().await;
        let mut mortal = Mortal { daemon, deaths: 0 };
        pull_and_remove(&mut mortal).await;
        mortal.daemon.kill();
        let points = std::fs::read_to_string(&trace).expect("built with the feature crash-points");
        let points: Vec<&str> = points.lines().collect();
        for name in ["layer.unpacked", "layer.recorded", "image.recorded", "image.removed"] {
            assert!(points.contains(&name), "{name} is not among {points:?}");
        }
        for (number, name) in points.iter().enumerate() {
            println!("crash {} of {} after {name}", number + 1, points.len());
            mortal.daemon.env = vec![("PEAPOD_CRASH_AT".to_owned(), (number + 1).to_string())];
            mortal.daemon.up().await;
            mortal.deaths = 0;
            pull_and_remove(&mut mortal).await;
            assert_eq!(mortal.deaths, 1, "the daemon did not die at {name}");
            mortal.daemon.kill();
        }
        std::fs::remove_file(trace).expect("removed");
        mortal.daemon.env.clear();
        mortal.daemon.up().await;
        mortal.daemon.end().await;
    });
}

/// Pulls an image, runs a container of it, removes it; afterwards no layer is left.
async fn pull_and_remove(mortal: &mut Mortal) {
    let id = mortal.insist("PullImage", |c| async move { c.pull(pods::registry::PULLED).await }).await;
    assert_eq!(mortal.daemon.client().image_ids().await.expect("a list"), vec![id]);
    let binary = mortal.daemon.dir().join("r/layers");
    let layers = || std::fs::read_dir(&binary).map_or(0, Iterator::count);
    assert!(layers() >= 1, "no layer is there");
    let busybox = std::fs::read("/bin/busybox").expect("busybox-static is installed");
    let unpacked = std::fs::read_dir(&binary)
        .expect("layers")
        .filter_map(|entry| std::fs::read(entry.expect("an entry").path().join("bin/busybox")).ok())
        .any(|bytes| bytes == busybox);
    assert!(unpacked, "the layer is not whole");
    mortal.insist("RemoveImage", |c| async move { c.remove_image(pods::registry::PULLED).await }).await;
    assert_eq!(mortal.daemon.client().image_ids().await.expect("a list"), Vec::<String>::new());
    until("the layers to go", || async { (layers() == 0).then_some(()) }).await;
}

#[test]
fn ten_megabytes_a_second_of_log_have_no_gap_while_the_daemon_is_killed() {
    story(async {
        let mut daemon = Daemon::start("flood").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let logs = daemon.logs("flood");
        let config = pod("flood", &daemon.cgroup(), &logs);
        let id = client.run_pod(&config).await.expect("a pod");
        // 600 000 lines, some 10 MB each second on a slow machine and more on others.
        let flood = client.run(&id, &config, &shell("flood", "seq -w 1 600000")).await.expect("runs");
        for _ in 0..3 {
            daemon.kill();
            daemon.up().await;
        }
        let client = daemon.client();
        let status = exited(&client, &flood).await.expect("it ends");
        assert_eq!(status.exit_code, 0);
        let text = std::fs::read_to_string(Path::new(&logs).join("flood.log")).expect("a log");
        let mut expected = 1_u32;
        for line in text.lines() {
            let number: u32 = line.rsplit(' ').next().and_then(|n| n.parse().ok()).expect("a number");
            assert_eq!(number, expected, "a gap or a repeated line");
            expected += 1;
        }
        assert_eq!(expected, 600_001);
        daemon.end().await;
    });
}
