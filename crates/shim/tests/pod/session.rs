//! Processes with clients: streams through FIFOs, terminals, clients that vanish.

use crate::host::{Container, Host};
use serde_json::{Value, json};
use shimlink::{Code, ExecProcess, Input, Output, Shim, ShimError};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe::{Receiver, Sender};

pub(crate) const FOREVER: &[&str] = &["/bin/sleep", "100000"];

/// An OCI process as a client makes it.
pub(crate) fn process(args: &[&str]) -> Value {
    let capabilities = json!(["CAP_KILL"]);
    json!({
        "args": args, "env": ["PATH=/bin", "HOME=/"], "cwd": "/", "user": { "uid": 0, "gid": 0 },
        "noNewPrivileges": true,
        "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
    })
}

/// Which streams a client wants.
#[derive(Clone, Copy, Default)]
pub(crate) struct Want {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) terminal: bool,
}

pub(crate) const OUTPUTS: Want = Want { stdin: false, stdout: true, stderr: true, terminal: false };
pub(crate) const ALL: Want = Want { stdin: true, ..OUTPUTS };
pub(crate) const TERMINAL: Want = Want { stdin: true, stdout: true, stderr: false, terminal: true };

/// The client's ends before the shim has its own.
pub(crate) struct Ends {
    stdin: Option<Input>,
    stdout: Option<Output>,
    stderr: Option<Output>,
}

impl Ends {
    pub(crate) fn new(host: &Host, want: Want) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let place = || host.directory.join(format!("fifo-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        Self {
            stdin: want.stdin.then(|| Input::make(&place()).expect("fifo")),
            stdout: want.stdout.then(|| Output::make(&place()).expect("fifo")),
            stderr: want.stderr.then(|| Output::make(&place()).expect("fifo")),
        }
    }

    /// stdin, stdout, stderr.
    pub(crate) fn addresses(&self) -> [String; 3] {
        let output =
            |end: &Option<Output>| end.as_ref().map_or_else(String::new, |end| end.address().to_owned());
        let stdin = self.stdin.as_ref().map_or_else(String::new, |end| end.address().to_owned());
        [stdin, output(&self.stdout), output(&self.stderr)]
    }

    pub(crate) fn opened(self) -> Client {
        Client {
            stdin: self.stdin.map(Input::opened),
            stdout: self.stdout.map(Output::opened),
            stderr: self.stderr.map(Output::opened),
        }
    }
}

/// The client's ends.
pub(crate) struct Client {
    pub(crate) stdin: Option<Sender>,
    pub(crate) stdout: Option<Receiver>,
    pub(crate) stderr: Option<Receiver>,
}

/// All that comes until the end.
pub(crate) async fn all(from: Option<Receiver>) -> Vec<u8> {
    let mut bytes = Vec::new();
    from.expect("wanted").read_to_end(&mut bytes).await.expect("read");
    bytes
}

/// Reads until `text` has come; gives all that came.
pub(crate) async fn until(from: &mut Option<Receiver>, text: &str) -> String {
    let mut got = Vec::new();
    let from = from.as_mut().expect("wanted");
    loop {
        let mut buffer = [0; 4096];
        let read = tokio::time::timeout(Duration::from_secs(60), from.read(&mut buffer)).await;
        let count = read
            .unwrap_or_else(|_| panic!("{:?}, no {text:?}", String::from_utf8_lossy(&got)))
            .expect("read");
        assert!(count > 0, "{:?} and the end, no {text:?}", String::from_utf8_lossy(&got));
        got.extend_from_slice(&buffer[..count]);
        if String::from_utf8_lossy(&got).contains(text) {
            return String::from_utf8_lossy(&got).into_owned();
        }
    }
}

pub(crate) async fn prepare(
    host: &Host,
    shim: &Shim,
    id: &str,
    process: &Value,
    want: Want,
) -> Result<Client, ShimError> {
    let ends = Ends::new(host, want);
    let [stdin, stdout, stderr] = ends.addresses();
    let exec = ExecProcess {
        container_id: "c".to_owned(),
        exec_id: id.to_owned(),
        process: serde_json::to_vec(process).expect("encode"),
        terminal: want.terminal,
        stdin,
        stdout,
        stderr,
    };
    shim.exec(exec).await.map(|()| ends.opened())
}

/// Prepares and starts.
pub(crate) async fn start(host: &Host, shim: &Shim, id: &str, args: &[&str], want: Want) -> Client {
    let client = prepare(host, shim, id, &process(args), want).await.expect("exec");
    shim.exec_start("c", id).await.expect("start");
    client
}

pub(crate) async fn end(shim: &Shim, id: &str) -> u32 {
    let ended = shim.exec_wait("c", id).await.expect("wait");
    assert!(ended.exited_at > 0);
    assert_eq!(shim.exec_delete("c", id).await.expect("delete"), ended);
    ended.code
}

pub(crate) async fn running() -> (Host, Shim) {
    let host = Host::new();
    let shim = host.spawn(false).await;
    host.run(&shim, &Container::new("c", FOREVER)).await;
    (host, shim)
}

pub(crate) fn refused(error: &ShimError, want: Code, text: &str) {
    assert!(matches!(error, ShimError::Refused { code, .. } if *code == want), "{error:?}");
    assert!(error.to_string().contains(text), "{error}, no {text:?}");
}

/// Descriptors of the shim.
pub(crate) async fn descriptors(shim: &Shim) -> Vec<String> {
    let pid = shim.pod_state().await.expect("state").shim_pid;
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("fd");
    let mut all: Vec<String> = entries
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .map(|link| link.to_string_lossy().into_owned())
        .collect();
    all.sort();
    all
}

/// Waits until the container's group has so many processes.
pub(crate) async fn processes(host: &Host, want: usize) {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let found = host.cgroup("c").processes().expect("list");
        if found.len() == want {
            return;
        }
        assert!(Instant::now() < until, "{} processes, want {want}", found.len());
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn input_output_and_the_code_go_through_without_the_shim() {
    let (host, shim) = running().await;
    let script = "cat; echo err >&2; exit 7";
    let mut client = start(&host, &shim, "e", &["/bin/sh", "-c", script], ALL).await;
    client.stdin.take().expect("wanted").write_all(b"typed").await.expect("write");
    assert_eq!(all(client.stdout).await, b"typed");
    assert_eq!(all(client.stderr).await, b"err\n");
    assert_eq!(end(&shim, "e").await, 7);
    let none = shim.exec_wait("c", "e").await.expect_err("forgotten");
    assert!(none.is_not_found(), "{none}");
    host.shutdown(shim).await;
}

#[tokio::test]
async fn a_process_is_what_its_specification_says() {
    let (host, shim) = running().await;
    let mut wanted =
        process(&["/bin/sh", "-c", "pwd; echo $HOME; ls -l /proc/self/fd >&2; echo x >/proc/self/fd/1"]);
    wanted["cwd"] = json!("/tmp");
    wanted["user"] = json!({ "uid": 1000, "gid": 1000 });
    let client = prepare(&host, &shim, "e", &wanted, OUTPUTS).await.expect("exec");
    let pid = shim.exec_start("c", "e").await.expect("start");
    assert!(pid > 1);
    // A user who is not root may open its output by its name.
    assert_eq!(all(client.stdout).await, b"/tmp\n/\nx\n");
    let files = String::from_utf8(all(client.stderr).await).expect("utf-8");
    assert!(files.contains("0 -> /dev/null") && files.lines().count() >= 4, "{files}");
    assert_eq!(end(&shim, "e").await, 0);
    let client = start(&host, &shim, "e", &["/bin/sh", "-c", "kill -TERM $$"], OUTPUTS).await;
    assert_eq!(end(&shim, "e").await, 128 + 15);
    assert_eq!(all(client.stdout).await, b"");
    host.shutdown(shim).await;
}

#[tokio::test]
async fn what_cannot_be_is_refused_by_its_name_and_leaves_nothing() {
    let (host, shim) = running().await;
    let before = descriptors(&shim).await;
    for (args, text) in [
        (&["/bin/missing"][..], "no such file or directory"),
        (&["missing"], "executable file not found"),
        (&["/proc/self/status"], "permission denied"),
    ] {
        for want in [OUTPUTS, TERMINAL] {
            let client = prepare(&host, &shim, "e", &process(args), want).await.expect("exec");
            let error = shim.exec_start("c", "e").await.expect_err("refused");
            refused(&error, Code::InvalidArgument, text);
            assert_eq!(all(client.stdout).await, b"", "its streams are at their end");
            assert_eq!(end(&shim, "e").await, 128);
        }
    }
    let fine = serde_json::to_vec(&process(&["/bin/true"])).expect("encode");
    let request = |process: &[u8]| ExecProcess {
        container_id: "c".to_owned(),
        exec_id: "e".to_owned(),
        process: process.to_vec(),
        terminal: false,
        stdin: String::new(),
        stdout: String::new(),
        stderr: String::new(),
    };
    let log = host.directory.join("log").display().to_string();
    for (wrong, want, text) in [
        (ExecProcess { container_id: "x".to_owned(), ..request(&fine) }, Code::NotFound, "no container"),
        (ExecProcess { exec_id: String::new(), ..request(&fine) }, Code::InvalidArgument, "exec_id"),
        (ExecProcess { exec_id: "e".repeat(129), ..request(&fine) }, Code::InvalidArgument, "exec_id"),
        (request(b"{"), Code::InvalidArgument, "spec"),
        (ExecProcess { stdin: "relative".to_owned(), ..request(&fine) }, Code::InvalidArgument, "stdin"),
        (ExecProcess { stdout: "binary:///x".to_owned(), ..request(&fine) }, Code::InvalidArgument, "stdout"),
        (
            ExecProcess { stderr: format!("cri-fifo:{log}"), ..request(&fine) },
            Code::InvalidArgument,
            "stderr",
        ),
        (
            ExecProcess { stderr: format!("cri-fifo:{log}/x"), ..request(&fine) },
            Code::InvalidArgument,
            "No such",
        ),
        (
            ExecProcess { stderr: format!("cri-fifo:{log}"), terminal: true, ..request(&fine) },
            Code::InvalidArgument,
            "stderr: a terminal",
        ),
    ] {
        refused(&shim.exec(wrong).await.expect_err("refused"), want, text);
    }
    shim.exec(request(&fine)).await.expect("exec");
    refused(&shim.exec(request(&fine)).await.expect_err("twice"), Code::AlreadyExists, "exec_id");
    refused(
        &shim.exec_kill("c", "e", 9, false).await.expect_err("made"),
        Code::FailedPrecondition,
        "not started",
    );
    shim.exec_start("c", "e").await.expect("start");
    refused(&shim.exec_start("c", "e").await.expect_err("again"), Code::FailedPrecondition, "was started");
    assert_eq!(end(&shim, "e").await, 0);
    let client = start(&host, &shim, "e", FOREVER, OUTPUTS).await;
    refused(&shim.exec_delete("c", "e").await.expect_err("runs"), Code::FailedPrecondition, "not ended");
    refused(
        &shim.resize("c", Some("e"), 1, 1).await.expect_err("none"),
        Code::FailedPrecondition,
        "terminal",
    );
    refused(&shim.exec_kill("c", "e", 99, false).await.expect_err("none"), Code::InvalidArgument, "signal");
    shim.exec_kill("c", "e", 9, false).await.expect("kill");
    shim.exec_wait("c", "e").await.expect("wait");
    refused(&shim.exec_kill("c", "e", 9, false).await.expect_err("ended"), Code::NotFound, "ended");
    assert_eq!(end(&shim, "e").await, 137);
    drop(client);
    assert_eq!(descriptors(&shim).await, before);
    host.shutdown(shim).await;
}

#[tokio::test]
async fn one_that_was_only_prepared_can_be_deleted() {
    let (host, shim) = running().await;
    let before = descriptors(&shim).await;
    let client = prepare(&host, &shim, "e", &process(&["/bin/true"]), ALL).await.expect("exec");
    shim.exec_delete("c", "e").await.expect("delete");
    assert_eq!(all(client.stdout).await, b"");
    assert_eq!(descriptors(&shim).await, before);
    host.shutdown(shim).await;
}

#[tokio::test]
async fn a_terminal_shows_types_and_changes_its_size() {
    let (host, shim) = running().await;
    let client = prepare(&host, &shim, "e", &process(&["/bin/sh"]), TERMINAL).await;
    let mut client = client.expect("exec");
    shim.resize("c", Some("e"), 120, 40).await.expect("resize before the start");
    shim.exec_start("c", "e").await.expect("start");
    let stdin = client.stdin.as_mut().expect("wanted");
    stdin.write_all(b"stty size; tty; ls -l /proc/self/fd/2\n").await.expect("type");
    let shown = until(&mut client.stdout, "/proc/self/fd/2 -> /dev/pts").await;
    assert!(shown.contains("40 120") && shown.contains("/dev/pts/0"), "{shown}");
    shim.resize("c", Some("e"), 90, 30).await.expect("resize");
    stdin.write_all(b"stty size\n").await.expect("type");
    until(&mut client.stdout, "30 90").await;
    // Ctrl-C reaches what is in the foreground, and the shell goes on.
    stdin.write_all(b"(echo u''p; sleep 100000)\n").await.expect("type");
    until(&mut client.stdout, "up\r\n").await;
    stdin.write_all(b"\x03echo again $?\n").await.expect("type");
    until(&mut client.stdout, "again 130").await;
    stdin.write_all(b"exit 5\n").await.expect("type");
    assert_eq!(end(&shim, "e").await, 5);
    all(client.stdout).await;
    host.shutdown(shim).await;
}

#[tokio::test]
async fn all_that_a_terminal_showed_is_there_before_its_end_is_told() {
    let (host, shim) = running().await;
    for round in 0..50 {
        let id = format!("e{round}");
        let client = start(&host, &shim, &id, &["/bin/seq", "1", "5000"], TERMINAL).await;
        // The end is told while nobody reads, or after: no byte is lost in between.
        let (shown, code) = tokio::join!(all(client.stdout), end(&shim, &id));
        assert_eq!(code, 0);
        let want: String = (1..=5000).map(|number| format!("{number}\r\n")).collect();
        assert!(shown == want.as_bytes(), "{} of {} bytes", shown.len(), want.len());
    }
    host.shutdown(shim).await;
}

#[tokio::test]
async fn pasted_megabytes_come_through_a_terminal() {
    let (host, shim) = running().await;
    let script = "stty raw -echo; echo ready; head -c 3000000 | cat; echo; echo done";
    let mut client = start(&host, &shim, "e", &["/bin/sh", "-c", script], TERMINAL).await;
    until(&mut client.stdout, "ready").await;
    let bytes: Vec<u8> = (0..3_000_000u32).map(|at| b'a' + u8::try_from(at % 26).expect("small")).collect();
    let mut stdin = client.stdin.take().expect("wanted");
    let typing = {
        let bytes = bytes.clone();
        tokio::spawn(async move {
            stdin.write_all(&bytes).await.expect("type");
            stdin
        })
    };
    let mut shown = all(client.stdout).await;
    typing.await.expect("typed");
    let at = shown.iter().position(|byte| *byte == b'a').expect("the first");
    let shown = shown.split_off(at);
    assert!(shown.starts_with(&bytes), "{} bytes", shown.len());
    assert_eq!(end(&shim, "e").await, 0);
    host.shutdown(shim).await;
}

#[tokio::test]
async fn the_end_of_the_input_is_no_end_of_a_terminal() {
    let (host, shim) = running().await;
    let mut client = start(&host, &shim, "e", &["/bin/sh"], TERMINAL).await;
    let mut stdin = client.stdin.take().expect("wanted");
    stdin.write_all(b"echo one\n").await.expect("type");
    drop(stdin);
    until(&mut client.stdout, "one\r\n").await;
    shim.close_input("c", Some("e")).await.expect("nothing to do");
    shim.exec_kill("c", "e", 1, true).await.expect("kill");
    assert_eq!(end(&shim, "e").await, 129);
    host.shutdown(shim).await;
}

#[tokio::test]
async fn a_client_that_vanishes_ends_what_talks_to_it() {
    let (host, shim) = running().await;
    let before = descriptors(&shim).await;
    // A writer gets SIGPIPE, a reader the end of its input, a shell at a terminal SIGHUP.
    let writer = start(&host, &shim, "w", &["/bin/yes"], OUTPUTS).await;
    let reader = start(&host, &shim, "r", &["/bin/sh", "-c", "cat; exit 9"], ALL).await;
    let mut shell = start(&host, &shim, "t", &["/bin/sh"], TERMINAL).await;
    until(&mut shell.stdout, "#").await;
    drop((writer, reader, shell));
    assert_eq!(end(&shim, "w").await, 128 + 13);
    assert_eq!(end(&shim, "r").await, 9);
    assert_eq!(end(&shim, "t").await, 128 + 1);
    processes(&host, 1).await;
    assert_eq!(descriptors(&shim).await, before);
    host.shutdown(shim).await;
}

#[tokio::test]
async fn what_was_bound_to_a_lost_client_is_forgotten_when_it_ends() {
    let (host, shim) = running().await;
    let before = descriptors(&shim).await;
    for round in 0..20 {
        let server = Shim::connect(&host.directory).await.expect("connect");
        let id = |what: &str| format!("{what}{round}");
        let streams = [
            prepare(&host, &server, &id("made"), &process(FOREVER), ALL).await.expect("exec"),
            start(&host, &server, &id("ended"), &["/bin/true"], TERMINAL).await,
            start(&host, &server, &id("shell"), &["/bin/sh"], TERMINAL).await,
            start(&host, &server, &id("cat"), &["/bin/cat"], ALL).await,
        ];
        let waiter = server.clone();
        let long = tokio::spawn(async move { waiter.exec_wait("c", &format!("shell{round}")).await });
        server.exec_wait("c", &id("ended")).await.expect("wait");
        // Its process is killed: all of its descriptors are closed at once.
        long.abort();
        drop((long.await, server, streams));
        for what in ["made", "ended", "shell", "cat"] {
            let until = Instant::now() + Duration::from_secs(60);
            // Whoever asks before its end is told how it ended, and nobody can after that.
            while shim.exec_wait("c", &id(what)).await.is_ok() {
                assert!(Instant::now() < until, "{what} is remembered");
            }
        }
    }
    processes(&host, 1).await;
    assert_eq!(descriptors(&shim).await, before);
    host.shutdown(shim).await;
}

#[tokio::test]
async fn a_terminal_without_output_is_hung_up_when_its_client_is_lost() {
    let (host, shim) = running().await;
    let server = Shim::connect(&host.directory).await.expect("connect");
    let want = Want { stdin: true, terminal: true, ..Want::default() };
    let client = start(&host, &server, "e", FOREVER, want).await;
    drop((server, client));
    processes(&host, 1).await;
    host.shutdown(shim).await;
}

#[tokio::test]
async fn what_a_process_leaves_in_the_background_lives_on_in_its_own_group() {
    let (host, shim) = running().await;
    let script = "sleep 100000 </dev/null >/dev/null 2>&1 & echo said";
    let client = start(&host, &shim, "e", &["/bin/sh", "-c", script], OUTPUTS).await;
    assert_eq!(all(client.stdout).await, b"said\n");
    assert_eq!(end(&shim, "e").await, 0);
    processes(&host, 2).await;
    // One that holds the output keeps the stream open, not the end.
    let client = start(&host, &shim, "e", &["/bin/sh", "-c", "sleep 100000 & echo said"], OUTPUTS).await;
    assert_eq!(end(&shim, "e").await, 0);
    processes(&host, 3).await;
    drop(client);
    let client = start(&host, &shim, "e", &["/bin/sh", "-c", "sleep 100000 & sleep 100000"], OUTPUTS).await;
    processes(&host, 5).await;
    shim.exec_kill("c", "e", 9, true).await.expect("kill all");
    assert_eq!(end(&shim, "e").await, 137);
    processes(&host, 3).await;
    assert_eq!(all(client.stdout).await, b"");
    host.shutdown(shim).await;
}

#[tokio::test]
async fn a_container_that_ends_ends_its_processes_and_their_streams() {
    let (host, shim) = running().await;
    let client = start(&host, &shim, "e", &["/bin/cat"], ALL).await;
    let mut shell = start(&host, &shim, "t", &["/bin/sh"], TERMINAL).await;
    until(&mut shell.stdout, "#").await;
    let made = prepare(&host, &shim, "m", &process(FOREVER), ALL).await.expect("exec");
    let waiter = shim.clone();
    let waiting = tokio::spawn(async move { waiter.exec_wait("c", "m").await });
    shim.kill("c", 9, false).await.expect("kill");
    assert_eq!(shim.exec_wait("c", "e").await.expect("wait").code, 137);
    assert_eq!(shim.exec_wait("c", "t").await.expect("wait").code, 137);
    shim.wait("c").await.expect("wait");
    refused(&shim.exec_start("c", "m").await.expect_err("ended"), Code::FailedPrecondition, "has ended");
    shim.delete("c").await.expect("delete");
    assert_eq!(waiting.await.expect("task").expect("told").code, 137);
    assert!(shim.exec_wait("c", "e").await.expect_err("gone").is_not_found());
    for client in [client, shell, made] {
        all(client.stdout).await;
    }
    host.shutdown(shim).await;
}

#[tokio::test]
async fn containerds_paths_are_held_open_on_both_sides() {
    let (host, shim) = running().await;
    let ends = Ends::new(&host, ALL);
    let [stdin, stdout, stderr] =
        ends.addresses().map(|address| address.strip_prefix("cri-fifo:").expect("address").to_owned());
    let script = "while read line; do echo got $line; done; echo the end >&2";
    let process = serde_json::to_vec(&process(&["/bin/sh", "-c", script])).expect("encode");
    let again = stdout.clone();
    let exec = ExecProcess {
        container_id: "c".to_owned(),
        exec_id: "e".to_owned(),
        process,
        terminal: false,
        stdin,
        stdout,
        stderr,
    };
    // The path stays, for whoever comes after a restart.
    let kept = host.directory.join("kept");
    shim.exec(exec).await.expect("exec");
    std::fs::hard_link(&again, &kept).expect("link");
    let mut client = ends.opened();
    shim.exec_start("c", "e").await.expect("start");
    let mut input = client.stdin.take().expect("wanted");
    input.write_all(b"one\n").await.expect("write");
    until(&mut client.stdout, "got one\n").await;
    drop(client.stdout.take());
    // Nobody reads now, and the process does not notice; nor that its input's writer is gone.
    input.write_all(b"two\n").await.expect("write");
    drop(input);
    let mut reader = tokio::net::unix::pipe::OpenOptions::new().open_receiver(&kept).map(Some).expect("open");
    until(&mut reader, "got two\n").await;
    shim.close_input("c", Some("e")).await.expect("close");
    assert_eq!(all(client.stderr).await, b"the end\n");
    assert_eq!(all(reader).await, b"");
    assert_eq!(end(&shim, "e").await, 0);
    std::fs::remove_file(&kept).expect("remove");
    host.shutdown(shim).await;
}

#[tokio::test]
async fn hundreds_of_processes_talk_at_once_and_leave_nothing() {
    let (host, shim) = running().await;
    let before = descriptors(&shim).await;
    let mut clients = Vec::new();
    for number in 0..150 {
        let want = if number % 3 == 0 { TERMINAL } else { ALL };
        let script = format!("read line; echo {number} $line; exit {}", number % 100);
        let client = start(&host, &shim, &format!("e{number}"), &["/bin/sh", "-c", &script], want).await;
        let shim = shim.clone();
        let waiting = tokio::spawn(async move { end(&shim, &format!("e{number}")).await });
        clients.push((client, waiting));
    }
    for (client, _) in &mut clients {
        client.stdin.as_mut().expect("wanted").write_all(b"word\n").await.expect("write");
    }
    for (number, (client, waiting)) in clients.into_iter().enumerate() {
        let said = String::from_utf8(all(client.stdout).await).expect("utf-8");
        assert!(said.contains(&format!("{number} word")), "{said}");
        assert_eq!(waiting.await.expect("task"), u32::try_from(number % 100).expect("small"));
    }
    processes(&host, 1).await;
    assert_eq!(descriptors(&shim).await, before);
    host.shutdown(shim).await;
}

#[tokio::test]
async fn a_terminal_that_nobody_reads_holds_its_process_and_not_the_word_of_its_end() {
    let (host, shim) = running().await;
    let client = start(&host, &shim, "e", &["/bin/yes"], TERMINAL).await;
    let begun = Instant::now();
    let full = || sys::rustix::io::ioctl_fionread(client.stdout.as_ref().expect("wanted")).expect("fionread");
    while full() < 40_000 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{} bytes", full());
        tokio::task::yield_now().await;
    }
    shim.exec_kill("c", "e", 9, false).await.expect("kill");
    assert_eq!(shim.exec_wait("c", "e").await.expect("wait").code, 137);
    assert!(begun.elapsed() < Duration::from_secs(60));
    // What was shown is still to be had, and the name is free again.
    shim.exec_delete("c", "e").await.expect("delete");
    assert!(shim.exec_wait("c", "e").await.expect_err("gone").is_not_found());
    let again = start(&host, &shim, "e", &["/bin/true"], OUTPUTS).await;
    assert_eq!(end(&shim, "e").await, 0);
    let shown = all(client.stdout).await;
    assert!(shown.len() > 40_000, "{}", shown.len());
    assert!(shown.chunks_exact(3).all(|line| line == b"y\r\n"));
    drop(again);
    host.shutdown(shim).await;
}

#[tokio::test]
async fn the_descriptors_of_a_shim_never_run_out() {
    use sys::rustix::process::{Pid, Resource, Rlimit, prlimit};
    let (host, shim) = running().await;
    let pid = shim.pod_state().await.expect("state").shim_pid;
    let pid = Pid::from_raw(i32::try_from(pid).expect("pid"));
    let limit = Rlimit { current: Some(256), maximum: Some(256) };
    prlimit(pid, Resource::Nofile, limit).expect("prlimit");
    let mut clients = Vec::new();
    let error = loop {
        let id = format!("e{}", clients.len());
        match prepare(&host, &shim, &id, &process(&["/bin/sh"]), TERMINAL).await {
            Ok(client) => clients.push(client),
            Err(error) => break error,
        }
        shim.exec_start("c", &id).await.expect("start");
    };
    refused(&error, Code::ResourceExhausted, "descriptors");
    assert!(clients.len() > 20, "{}", clients.len());
    for _ in 0..60 {
        Shim::connect(&host.directory).await.expect("connect").pod_state().await.expect("heard");
    }
    drop(clients);
    processes(&host, 1).await;
    // Held: a client that goes hangs its terminal up, and would race with the end.
    let _client = start(&host, &shim, "again", &["/bin/true"], TERMINAL).await;
    assert_eq!(end(&shim, "again").await, 0);
    host.shutdown(shim).await;
}

/// Time on the processor that the shim has had, in clock ticks.
async fn ticks(shim: &Shim) -> u64 {
    let pid = shim.pod_state().await.expect("state").shim_pid;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
    let number = |at: usize| fields[at].parse::<u64>().expect("a number");
    number(11) + number(12)
}

#[tokio::test]
async fn a_session_with_nothing_to_do_costs_no_time() {
    let (host, shim) = running().await;
    let mut kept = Vec::new();
    for (id, script) in [
        ("ended input", "sleep 100000"),
        ("closed terminal", "trap '' HUP; exec </dev/null >/dev/null 2>&1; sleep 100000"),
        ("unread output", "yes"),
        ("unread input", "stty raw -echo; echo ready; sleep 100000"),
    ] {
        let mut client = start(&host, &shim, id, &["/bin/sh", "-c", script], TERMINAL).await;
        match id {
            "ended input" => drop(client.stdin.take()),
            "unread input" => {
                until(&mut client.stdout, "ready").await;
                let stdin = client.stdin.as_mut().expect("wanted");
                // Until neither the terminal nor what is before it takes more.
                while tokio::time::timeout(Duration::from_millis(300), stdin.write_all(&[b'x'; 4096]))
                    .await
                    .is_ok()
                {}
            }
            _ => {}
        }
        kept.push(client);
    }
    let lost = Shim::connect(&host.directory).await.expect("connect");
    kept.push(start(&host, &lost, "lost", &["/bin/sh", "-c", "trap '' HUP; sleep 100000"], TERMINAL).await);
    drop(lost);
    let mut before = ticks(&shim).await;
    for round in 0.. {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = ticks(&shim).await;
        // A loop that spins takes all of each second.
        if now - before < 20 {
            break;
        }
        assert!(round < 20, "{} ticks in a second", now - before);
        before = now;
    }
    drop(kept);
    host.shutdown(shim).await;
}
