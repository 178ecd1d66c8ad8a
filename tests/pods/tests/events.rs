//! GetContainerEvents: what happens is told, also what happened while the daemon was away.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]
#![allow(clippy::disallowed_methods, reason = "a test looks at paths that it made itself")]
#![allow(clippy::large_futures, reason = "a story is awaited once")]

use api::cri::{self, ContainerEventType as Kind};
use pods::{Client, Daemon, pod, shell, story, until};
use tonic::{Code, Streaming};

type Events = Streaming<cri::ContainerEventResponse>;

async fn subscribe(client: &Client) -> Events {
    let asked = client.runtime().get_container_events(cri::GetEventsRequest::default()).await;
    asked.expect("a stream").into_inner()
}

async fn next(events: &mut Events) -> cri::ContainerEventResponse {
    let next = tokio::time::timeout(std::time::Duration::from_secs(30), events.message());
    next.await.expect("an event in time").expect("no error").expect("not the end")
}

/// Kind and id of the next events; each names the pod by its uid.
async fn told(events: &mut Events, uid: &str, many: usize) -> Vec<(Kind, String)> {
    let (mut all, mut last) = (Vec::new(), 0);
    for _ in 0..many {
        let event = next(events).await;
        let status = event.pod_sandbox_status.as_ref().expect("the sandbox's status");
        assert_eq!(status.metadata.as_ref().expect("its metadata").uid, uid);
        assert!(event.created_at > 1_000_000_000_000_000_000, "nanoseconds");
        assert!(event.created_at >= last, "in order");
        last = event.created_at;
        all.push((event.container_event_type(), event.container_id));
    }
    all
}

#[test]
fn a_life_is_told_with_statuses_of_the_sandbox_and_its_containers() {
    story(async {
        use Kind::{
            ContainerCreatedEvent as Created, ContainerDeletedEvent as Deleted,
            ContainerStartedEvent as Started, ContainerStoppedEvent as Stopped,
        };
        let daemon = Daemon::start("events").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let mut events = subscribe(&client).await;
        let mut other = subscribe(&client).await;
        let config = pod("events", &daemon.cgroup(), &daemon.logs("events"));
        let id = client.run_pod(&config).await.expect("a pod");
        let brief = client.create(&id, &config, &shell("brief", "exit 7")).await.expect("created");
        let steady = client.run(&id, &config, &shell("steady", "sleep 1000")).await.expect("runs");
        client.start(&brief).await.expect("started");
        let want =
            [(Created, &id), (Started, &id), (Created, &brief), (Created, &steady), (Started, &steady)];
        assert_eq!(told(&mut events, "uid-events", 5).await, want.map(|(kind, id)| (kind, id.clone())));
        assert_eq!(told(&mut events, "uid-events", 1).await, [(Started, brief.clone())]);
        let event = next(&mut events).await;
        assert_eq!((event.container_event_type(), &event.container_id), (Stopped, &brief));
        let status = event.pod_sandbox_status.expect("set");
        assert_eq!(status.state(), cri::PodSandboxState::SandboxReady);
        assert!(!status.network.expect("a network").ip.is_empty());
        let mut seen: Vec<_> =
            event.containers_statuses.iter().map(|c| (c.id.clone(), c.state(), c.exit_code)).collect();
        seen.sort();
        let mut want = vec![
            (brief.clone(), cri::ContainerState::ContainerExited, 7),
            (steady.clone(), cri::ContainerState::ContainerRunning, 0),
        ];
        want.sort();
        assert_eq!(seen, want);
        client.remove(&brief).await.expect("removed");
        client.stop_pod(&id).await.expect("stopped");
        client.remove_pod(&id).await.expect("removed");
        let want =
            [(Deleted, &brief), (Stopped, &steady), (Stopped, &id), (Deleted, &steady), (Deleted, &id)];
        assert_eq!(told(&mut events, "uid-events", 5).await, want.map(|(kind, id)| (kind, id.clone())));
        // Another caller has got the same.
        assert_eq!(told(&mut other, "uid-events", 12).await.last(), Some(&(Deleted, id)));
        drop((events, other));
        daemon.end().await;
    });
}

#[test]
fn an_end_while_the_daemon_was_killed_is_told_after_its_start() {
    story(async {
        let mut daemon = Daemon::start("away").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let config = pod("away", &daemon.cgroup(), &daemon.logs("away"));
        let id = client.run_pod(&config).await.expect("a pod");
        let flag = daemon.dir().join("flag");
        std::fs::create_dir(&flag).expect("a directory");
        let mut brief = shell("brief", "until test -e /flag/now; do usleep 5000; done; exit 9");
        brief.mounts.push(cri::Mount {
            container_path: "/flag".to_owned(),
            host_path: flag.display().to_string(),
            ..Default::default()
        });
        let brief = client.run(&id, &config, &brief).await.expect("runs");
        let mut events = subscribe(&client).await;
        told(&mut events, "uid-away", 4).await;
        let pid = client.pid_of(&brief).await;

        daemon.kill();
        assert!(events.message().await.is_err(), "the stream breaks with its daemon");
        std::fs::write(flag.join("now"), "").expect("written");
        let gone = format!("/proc/{pid}");
        until("its end", || async { (!std::path::Path::new(&gone).exists()).then_some(()) }).await;
        daemon.up().await;

        let client = daemon.client();
        let event = next(&mut subscribe(&client).await).await;
        assert_eq!(event.container_event_type(), Kind::ContainerStoppedEvent);
        assert_eq!(event.container_id, brief);
        assert_eq!(event.containers_statuses.len(), 1);
        assert_eq!(event.containers_statuses[0].exit_code, 9);
        assert_eq!(event.pod_sandbox_status.expect("set").id, id);
        daemon.end().await;
    });
}

#[test]
fn what_happens_while_nobody_listens_is_kept_for_who_comes() {
    story(async {
        let daemon = Daemon::start("kept").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let config = pod("kept", &daemon.cgroup(), &daemon.logs("kept"));
        let id = client.run_pod(&config).await.expect("a pod");
        let container = client.run(&id, &config, &shell("c", "exit 3")).await.expect("runs");
        client.ended(&container).await;
        let mut events = subscribe(&client).await;
        let last = told(&mut events, "uid-kept", 5).await.pop();
        assert_eq!(last, Some((Kind::ContainerStoppedEvent, container)));
        drop(events);
        daemon.end().await;
    });
}

#[test]
fn an_open_stream_does_not_keep_the_daemon_from_stopping() {
    story(async {
        let mut daemon = Daemon::start("open").await;
        let mut events = subscribe(&daemon.client()).await;
        let asked = std::process::Command::new("kill").args(["-TERM", &daemon.pid().to_string()]).status();
        assert!(asked.expect("kill runs").success());
        let status = events.message().await.expect_err("the end of the stream");
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert!(daemon.crashed().await.success());
        let log = std::fs::read_to_string(daemon.dir().join("daemon.log")).expect("a log");
        assert!(!log.contains("not finished in time"), "{log}");
        daemon.up().await;
        daemon.end().await;
    });
}

#[test]
fn a_pods_status_tells_its_containers_only_if_it_is_switched_on() {
    story(async {
        for on in [false, true] {
            let mut daemon = Daemon::prepare("status");
            let file = daemon.dir().join("config.toml");
            std::fs::write(&file, format!("[events]\nin_pod_status = {on}\n")).expect("written");
            daemon.args = vec!["--config".to_owned(), file.display().to_string()];
            daemon.up().await;
            let client = daemon.client();
            client.load(pods::busybox_archive()).await.expect("loaded");
            let config = pod("status", &daemon.cgroup(), &daemon.logs("status"));
            let id = client.run_pod(&config).await.expect("a pod");
            let container = client.run(&id, &config, &shell("c", "sleep 1000")).await.expect("runs");
            let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id, verbose: false };
            let answer = client.runtime().pod_sandbox_status(request).await.expect("a status").into_inner();
            let told: Vec<_> = answer.containers_statuses.iter().map(|status| status.id.clone()).collect();
            assert_eq!(told, if on { vec![container] } else { Vec::new() });
            assert_eq!(answer.timestamp != 0, on);
            daemon.end().await;
        }
    });
}
