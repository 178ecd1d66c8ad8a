//! `peapod run`, `stop` and `rm` against a daemon that only keeps books.

mod daemon;

use super::*;
use crate::cli::{client::Address, stop};
use clap::Parser as _;
use daemon::{Behaviour, Daemon};

/// A fake daemon with directories of its own.
struct Node {
    dir: PathBuf,
    daemon: Daemon,
    client: Client,
}

#[derive(clap::Parser)]
struct Words {
    #[command(flatten)]
    run: Run,
}

#[derive(clap::Parser)]
struct RmWords {
    #[command(flatten)]
    rm: stop::Rm,
}

impl Node {
    async fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("peapod-test-{}-run-{name}", std::process::id()));
        std::fs::create_dir(&dir).expect("mkdir");
        let daemon = Daemon::serve(&dir.join("s.sock"));
        let address = Address::choose(Some(format!("unix://{}/s.sock", dir.display()))).expect("an address");
        let client = Client::connect(&address).await.expect("it listens");
        Self { dir, daemon, client }
    }

    fn words(&self, words: &[&str]) -> Vec<String> {
        let dirs = [
            format!("--run-dir={}/run", self.dir.display()),
            format!("--pod-logs-dir={}/log", self.dir.display()),
        ];
        let words = words.iter().map(|word| (*word).to_owned());
        std::iter::once("test".to_owned()).chain(dirs).chain(words).collect()
    }

    /// `peapod run FLAGS MANIFEST`.
    async fn run(&self, flags: &[&str], manifest: &str) -> anyhow::Result<u8> {
        let file = self.dir.join("pod.yaml");
        sys::file::replace_path(&file, manifest.as_bytes(), sys::rustix::fs::Mode::from_raw_mode(0o600))?;
        let file = file.display().to_string();
        let words = self.words(&[flags, &[file.as_str()]].concat());
        Box::pin(run(Words::try_parse_from(words)?.run, self.client.clone())).await
    }

    async fn rm(&self, words: &[&str]) -> anyhow::Result<u8> {
        stop::rm(&RmWords::try_parse_from(self.words(words))?.rm, &mut self.client.clone()).await
    }

    /// Pods that have directories.
    fn homes(&self) -> usize {
        let Ok(entries) = std::fs::read_dir(self.dir.join("run")) else { return 0 };
        entries.filter(|entry| entry.as_ref().expect("entry").file_name() != "lock").count()
    }

    fn pod_logs(&self) -> usize {
        std::fs::read_dir(self.dir.join("log")).map_or(0, Iterator::count)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        sys::tree::remove_path(&self.dir).expect("remove");
    }
}

/// A pod named `p` with this spec.
fn pod(spec: &str) -> String {
    format!("{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {{{spec}}}}}")
}

const ONE: &str = "containers: [{name: a, image: i}], volumes: [{name: v}]";

#[tokio::test]
async fn a_pod_runs_to_its_end_and_its_successor_replaces_it() {
    let node = Node::new("end").await;
    let spec = "restartPolicy: Never, initContainers: [{name: i, image: i}, {name: s, image: i, restartPolicy: Always}], \
                containers: [{name: a, image: i}, {name: b, image: i}]";
    node.daemon.behave("s", &[Behaviour::Runs]);
    assert_eq!(node.run(&[], &pod(spec)).await.expect("ran"), 0);
    assert_eq!(
        node.daemon.take_calls(),
        [
            "run p",
            "create i 0",
            "start i 0",
            "create s 0",
            "start s 0",
            "create a 0",
            "start a 0",
            "create b 0",
            "start b 0",
            "stop s 0",
            "stop pod p"
        ]
    );
    // Logs and volumes stay for whoever looks, until the next run.
    assert_eq!((node.homes(), node.pod_logs()), (1, 1));
    node.daemon.behave("b", &[Behaviour::Exits(3)]);
    node.daemon.behave("s", &[Behaviour::Runs]);
    assert_eq!(node.run(&[], &pod(spec)).await.expect("ran"), 3);
    assert_eq!(node.daemon.take_calls()[..3], ["stop pod p", "remove pod p", "run p"]);
    assert_eq!((node.homes(), node.pod_logs(), node.daemon.pods()), (1, 1, 1));
    assert_eq!(node.rm(&["p"]).await.expect("removed"), 0);
    assert_eq!((node.homes(), node.pod_logs(), node.daemon.pods()), (0, 0, 0));
    assert!(std::fs::metadata(node.dir.join("run")).is_err(), "an empty directory is left");
}

#[tokio::test]
async fn a_container_that_fails_is_restarted_and_its_last_end_counts() {
    let node = Node::new("restart").await;
    node.daemon.behave("a", &[Behaviour::Exits(1), Behaviour::Exits(0)]);
    let spec = "restartPolicy: OnFailure, containers: [{name: a, image: i}]";
    assert_eq!(node.run(&[], &pod(spec)).await.expect("ran"), 0);
    assert_eq!(
        node.daemon.take_calls(),
        ["run p", "create a 0", "start a 0", "create a 1", "start a 1", "stop pod p"]
    );
    // The last ended attempt is kept beside the newest.
    assert_eq!(node.daemon.containers(), ["a 0", "a 1"]);
}

#[tokio::test]
async fn a_container_that_cannot_be_started_has_failed() {
    let node = Node::new("start").await;
    node.daemon.behave("a", &[Behaviour::CannotStart, Behaviour::Exits(0)]);
    let spec = "restartPolicy: OnFailure, containers: [{name: a, image: i}]";
    assert_eq!(node.run(&[], &pod(spec)).await.expect("ran"), 0);
    node.daemon.behave("a", &[Behaviour::CannotStart]);
    let spec = "restartPolicy: Never, containers: [{name: a, image: i}]";
    assert_eq!(node.run(&[], &pod(spec)).await.expect("ran"), 128);
}

#[tokio::test]
async fn detached_it_returns_when_all_run_and_the_living_pod_is_not_replaced() {
    let node = Node::new("detach").await;
    node.daemon.behave("a", &[Behaviour::Runs]);
    assert_eq!(node.run(&["-d"], &pod(ONE)).await.expect("runs"), 0);
    assert_eq!(node.daemon.take_calls(), ["run p", "create a 0", "start a 0"]);
    let error = node.run(&["-d"], &pod(ONE)).await.expect_err("it lives").to_string();
    assert_eq!(error, "pod default/p runs already; `peapod rm default/p` removes it");
    assert_eq!((node.homes(), node.daemon.pods()), (1, 1));
    // Its container ended by itself; nobody restarts it, and so it may be replaced.
    node.daemon.end("a", 1);
    node.daemon.behave("a", &[Behaviour::Runs]);
    assert_eq!(node.run(&["-d"], &pod(ONE)).await.expect("runs"), 0);
    assert_eq!((node.homes(), node.daemon.pods()), (1, 1));
    assert_eq!(node.rm(&["--all", "--timeout=0"]).await.expect("removed"), 0);
    assert_eq!((node.homes(), node.pod_logs()), (0, 0));
}

#[tokio::test]
async fn detached_it_leaves_nothing_of_a_pod_that_cannot_start() {
    let node = Node::new("cannot").await;
    node.daemon.behave("a", &[Behaviour::CannotStart]);
    let error = node.run(&["-d"], &pod(ONE)).await.expect_err("it cannot");
    assert_eq!(format!("{error:#}"), "cannot start container a: no such program");
    assert_eq!((node.homes(), node.pod_logs(), node.daemon.pods()), (0, 0, 0));
}

#[tokio::test]
async fn a_container_that_cannot_be_as_the_manifest_says_ends_the_run_and_leaves_nothing() {
    let node = Node::new("plan").await;
    let spec =
        "containers: [{name: a, image: i, securityContext: {runAsNonRoot: true}}], volumes: [{name: v}]";
    let error = node.run(&[], &pod(spec)).await.expect_err("it would be root");
    assert_eq!(error.to_string(), "container a has runAsNonRoot, and would run as root");
    assert_eq!((node.homes(), node.pod_logs(), node.daemon.pods()), (0, 0, 0));
    // Refused before anything is made.
    let error =
        node.run(&[], &pod("hostPID: true, containers: [{name: a, image: i}]")).await.expect_err("refused");
    assert!(format!("{error:#}").ends_with("spec.hostPID is not supported by peapod run"), "{error:#}");
    let error = node.run(&[], &pod("containers: [{name: a, image: none, imagePullPolicy: Never}]")).await;
    let error = error.expect_err("there is no such image").to_string();
    assert_eq!(error, "image none of container a is not there, and its imagePullPolicy is Never");
    assert_eq!(node.daemon.take_calls(), ["run p", "stop pod p", "remove pod p"]);
}

#[tokio::test]
async fn a_missing_image_is_pulled_and_a_present_one_only_with_always() {
    let node = Node::new("pull").await;
    let spec = "restartPolicy: Never, containers: [{name: a, image: new}, {name: b, image: i}, \
                {name: c, image: i, imagePullPolicy: Always}]";
    assert_eq!(node.run(&[], &pod(spec)).await.expect("ran"), 0);
    assert_eq!(node.daemon.take_calls()[..3], ["pull new", "pull i", "run p"]);
}

#[tokio::test]
async fn a_pod_that_somebody_else_stops_is_not_restarted() {
    let node = Node::new("stopped").await;
    node.daemon.behave("a", &[Behaviour::StopsThePod]);
    assert_eq!(node.run(&[], &pod(ONE)).await.expect("ended"), 137);
    assert_eq!(node.daemon.take_calls(), ["run p", "create a 0", "start a 0", "stop pod p"]);
}

#[tokio::test]
async fn a_pod_of_somebody_else_is_left_alone_and_an_unknown_pod_is_an_error() {
    let node = Node::new("theirs").await;
    node.daemon.behave("a", &[Behaviour::Runs]);
    node.run(&["-d"], &pod(ONE)).await.expect("runs");
    node.daemon.end("a", 0);
    node.daemon.forget_who_made_it();
    let error = node.run(&[], &pod(ONE)).await.expect_err("not ours").to_string();
    assert_eq!(error, "there is a pod default/p that peapod run did not make; it is left alone");
    let error = node.rm(&["q"]).await.expect_err("unknown").to_string();
    assert_eq!(error, "there is no pod `q`");
    assert_eq!(node.daemon.pods(), 1);
}

#[tokio::test]
async fn orphans_of_a_killed_run_are_swept_by_the_next() {
    let node = Node::new("orphan").await;
    node.daemon.behave("a", &[Behaviour::Runs]);
    node.run(&["-d"], &pod(ONE)).await.expect("runs");
    // The daemon lost everything, as after a reboot with a new root.
    node.daemon.lose_all();
    node.daemon.behave("a", &[Behaviour::Runs]);
    node.run(&["-d"], &pod(ONE)).await.expect("runs");
    assert_eq!((node.homes(), node.pod_logs()), (1, 1));
    node.daemon.lose_all();
    node.rm(&["--all"]).await.expect("swept");
    assert_eq!((node.homes(), node.pod_logs()), (0, 0));
}
