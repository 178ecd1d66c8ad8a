//! Sessions through the command line: exec, attach and port-forward, with the daemon killed beneath
//! them.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]
#![allow(clippy::disallowed_methods, reason = "a test looks at paths that it made itself")]
#![allow(clippy::large_futures, reason = "a story is awaited once")]

use pods::{Client, Daemon, binary, pod, shell, story, until};
use std::{
    process::{Output, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

/// A program in the namespace in which the daemon plays the host.
fn on_host(daemon: &Daemon, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net=/run/netns/{}", daemon.netns()))
        .arg(program)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

fn peapod(daemon: &Daemon, words: &[&str]) -> Command {
    let mut command = on_host(daemon, binary("peapod"));
    command.arg("--address").arg(format!("unix://{}", daemon.socket().display())).args(words);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

async fn said(mut command: Command) -> Output {
    let output = tokio::time::timeout(Duration::from_secs(60), command.output()).await;
    output.expect("it ends").expect("it runs")
}

/// A session that a test writes to and reads from.
struct Talk {
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Talk {
    fn begin(mut command: Command) -> Talk {
        let mut child = command.stdin(Stdio::piped()).spawn().expect("it runs");
        let stdin = child.stdin.take().expect("piped");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Talk { child, stdin, lines }
    }

    async fn say(&mut self, text: &str) {
        self.stdin.write_all(text.as_bytes()).await.expect("written");
        self.stdin.flush().await.expect("written");
    }

    async fn hear(&mut self) -> Option<String> {
        let line = tokio::time::timeout(Duration::from_secs(30), self.lines.next_line()).await;
        line.expect("an answer").expect("readable")
    }

    async fn code(mut self) -> Option<i32> {
        drop(self.stdin);
        self.child.wait().await.expect("it ends").code()
    }
}

/// A pod with one container of this script.
async fn one(daemon: &Daemon, client: &Client, container: api::cri::ContainerConfig) -> (String, String) {
    client.load(pods::busybox_archive()).await.expect("loaded");
    let config = pod("talk", &daemon.cgroup(), &daemon.logs("talk"));
    let id = client.run_pod(&config).await.expect("a pod");
    let container = client.run(&id, &config, &container).await.expect("runs");
    (id, container)
}

/// How many processes of the container have this word in their command line, by its own `ps`.
async fn running(client: &Client, container: &str, word: &str) -> usize {
    let (list, _) = client.exec(container, "ps -o args", 10).await.expect("a list");
    list.lines().filter(|line| line.starts_with(word)).count()
}

#[test]
fn a_command_gives_its_output_its_errors_and_its_code() {
    story(async {
        let daemon = Daemon::start("exec").await;
        let client = daemon.client();
        one(&daemon, &client, shell("c", "sleep 1000")).await;
        let output =
            said(peapod(&daemon, &["exec", "talk", "--", "sh", "-c", "echo a; echo b >&2; exit 42"])).await;
        assert_eq!((text(&output.stdout), text(&output.stderr)), ("a\n".to_owned(), "b\n".to_owned()));
        assert_eq!(output.status.code(), Some(42));
        let output = said(peapod(&daemon, &["exec", "talk", "--", "sh", "-c", "kill -9 $$"])).await;
        assert_eq!(output.status.code(), Some(137));
        let output = said(peapod(&daemon, &["exec", "talk", "--", "/nothing"])).await;
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("no such file"), "{}", text(&output.stderr));
        let mut talk = Talk::begin(peapod(&daemon, &["exec", "-i", "talk", "--", "wc", "-c"]));
        for _ in 0..64 {
            talk.stdin.write_all(&[7; 65_536]).await.expect("written");
        }
        talk.stdin.shutdown().await.expect("ended");
        let Talk { child, stdin, mut lines } = talk;
        drop(stdin);
        let count = lines.next_line().await.expect("readable").expect("a line");
        assert_eq!(count.trim(), "4194304");
        drop(child);
        daemon.end().await;
    });
}

#[test]
fn sessions_outlive_the_daemon() {
    story(async {
        let mut daemon = Daemon::start("outlive").await;
        let client = daemon.client();
        let mut echo = shell("c", "while read line; do echo got $line; done");
        echo.stdin = true;
        one(&daemon, &client, echo).await;
        let mut exec = Talk::begin(peapod(&daemon, &["exec", "-i", "talk", "--", "sh"]));
        exec.say("echo one\n").await;
        assert_eq!(exec.hear().await.as_deref(), Some("one"));
        let mut attach = Talk::begin(peapod(&daemon, &["attach", "-i", "talk"]));
        attach.say("first\n").await;
        assert_eq!(attach.hear().await.as_deref(), Some("got first"));

        daemon.kill();
        exec.say("echo two\n").await;
        assert_eq!(exec.hear().await.as_deref(), Some("two"));
        daemon.up().await;
        exec.say("echo three; exit 7\n").await;
        assert_eq!(exec.hear().await.as_deref(), Some("three"));
        assert_eq!(exec.code().await, Some(7));
        attach.say("second\n").await;
        assert_eq!(attach.hear().await.as_deref(), Some("got second"));
        attach.child.kill().await.expect("killed");
        // And the next daemon finds the server of the last one.
        let output = said(peapod(&daemon, &["exec", "talk", "--", "echo", "four"])).await;
        assert_eq!(text(&output.stdout), "four\n");
        let log = std::fs::read_to_string(daemon.dir().join("daemon.log")).expect("a log");
        assert_eq!(log.matches("the stream server is started").count(), 1);
        daemon.end().await;
    });
}

#[test]
fn a_client_that_goes_takes_its_process_along() {
    story(async {
        let daemon = Daemon::start("gone").await;
        let client = daemon.client();
        let (_, container) = one(&daemon, &client, shell("c", "sleep 1000")).await;
        for words in [&["exec", "-i", "talk", "--", "cat"][..], &["exec", "talk", "--", "yes"]] {
            let mut session = Talk::begin(peapod(&daemon, words));
            let name = words.last().copied().expect("a command");
            until("the process", || async { (running(&client, &container, name).await == 1).then_some(()) })
                .await;
            session.child.kill().await.expect("killed");
            until("its end", || async { (running(&client, &container, name).await == 0).then_some(()) })
                .await;
        }
        daemon.end().await;
    });
}

#[test]
fn ports_of_a_pod_are_reached_and_refused_by_name() {
    story(async {
        let daemon = Daemon::start("ports").await;
        let client = daemon.client();
        one(&daemon, &client, shell("c", "mkdir -p /w; echo page >/w/index.html; httpd -f -p 8080 -h /w"))
            .await;
        let mut forward = Talk::begin(peapod(&daemon, &["port-forward", "talk", ":8080", ":9"]));
        let mut ports = Vec::new();
        for _ in 0..2 {
            let line = forward.hear().await.expect("an address");
            ports.push(line.split_once(" leads to").expect("an address").0.to_owned());
        }
        let mut get = on_host(&daemon, "curl");
        get.args(["-s", "--noproxy", "*", &format!("http://{}/", ports[0])]);
        assert_eq!(text(&said(get).await.stdout), "page\n");
        let mut get = on_host(&daemon, "curl");
        get.args(["-s", "--noproxy", "*", &format!("http://{}/", ports[1])]);
        assert!(!said(get).await.status.success());
        let mut errors = BufReader::new(forward.child.stderr.take().expect("piped")).lines();
        let why = errors.next_line().await.expect("readable").expect("a line");
        assert!(why.contains("port 9") && why.contains("refused"), "{why}");
        forward.child.kill().await.expect("killed");
        daemon.end().await;
    });
}
