//! Clients of a container's own streams.

use crate::host::{Container, Host, stream_of};
use crate::session::{ALL, Client, Ends, FOREVER, OUTPUTS, Want, all, descriptors, refused, until};
use shimlink::{Attach, Attached, Code, Shim, ShimError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const STDIN: Want = Want { stdin: true, stdout: false, stderr: false, terminal: false };
const STDOUT: Want = Want { stdin: false, stdout: true, stderr: false, terminal: false };
const BOTH: Want = Want { stdin: true, stdout: true, stderr: false, terminal: false };

async fn try_attach(host: &Host, shim: &Shim, want: Want) -> Result<(Attached, Client), ShimError> {
    let ends = Ends::new(host, want);
    let [stdin, stdout, stderr] = ends.addresses();
    let attach = Attach { container_id: "c".to_owned(), stdin, stdout, stderr };
    shim.attach(attach).await.map(|attached| (attached, ends.opened()))
}

async fn attach(host: &Host, shim: &Shim, want: Want) -> Client {
    try_attach(host, shim, want).await.expect("attach").1
}

/// How a container's input is made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stdin {
    Null,
    Open,
    Once,
}

async fn running(container: &Container<'_>, stdin: Stdin) -> (Host, Shim) {
    let host = Host::new();
    let shim = host.spawn(false).await;
    create(&host, &shim, container, stdin).await;
    shim.start("c").await.expect("start");
    (host, shim)
}

async fn create(host: &Host, shim: &Shim, container: &Container<'_>, stdin: Stdin) {
    let mut task = host.task(container);
    task.stdin = stdin != Stdin::Null;
    task.stdin_once = stdin == Stdin::Once;
    shim.create(task).await.expect("create");
}

async fn write(client: &mut Client, text: &str) {
    client.stdin.as_mut().expect("wanted").write_all(text.as_bytes()).await.expect("write");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn all_clients_and_the_log_get_the_same_bytes() {
    let script = "read go; seq 1 200000; echo err >&2; echo -n 'no end'";
    let (host, shim) = running(&Container::new("c", &["/bin/sh", "-c", script]), Stdin::Open).await;
    let before = descriptors(&shim).await;
    let (attached, mut one) = try_attach(&host, &shim, ALL).await.expect("attach");
    let attachment = attached.attachment;
    assert!(attachment.is_some());
    assert_eq!(attached, Attached { terminal: false, stdin_once: false, stdin_closed: false, attachment });
    let two = attach(&host, &shim, OUTPUTS).await;
    write(&mut one, "go\n").await;
    let (one_out, one_err, two_out, two_err) =
        tokio::join!(all(one.stdout), all(one.stderr), all(two.stdout), all(two.stderr));
    let mut want: Vec<u8> = (1..=200_000).flat_map(|number| format!("{number}\n").into_bytes()).collect();
    want.extend_from_slice(b"no end");
    assert!(one_out == want && two_out == want, "{} and {} of {}", one_out.len(), two_out.len(), want.len());
    assert_eq!((text(&one_err), text(&two_err)), ("err\n".to_owned(), "err\n".to_owned()));
    shim.wait("c").await.expect("wait");
    let log = host.log("c");
    assert!(stream_of(&log, "stdout") == want && stream_of(&log, "stderr") == b"err\n");
    // The container's own pipes and its input are closed too.
    assert!(descriptors(&shim).await.len() < before.len());
    refused(
        &try_attach(&host, &shim, OUTPUTS).await.err().expect("ended"),
        Code::FailedPrecondition,
        "has ended",
    );
    host.shutdown(shim).await;
}

#[tokio::test]
async fn a_container_that_ends_at_once_loses_no_output() {
    for _ in 0..20 {
        let script = "read go; seq 1 3000";
        let (host, shim) = running(&Container::new("c", &["/bin/sh", "-c", script]), Stdin::Open).await;
        let mut client = attach(&host, &shim, BOTH).await;
        write(&mut client, "go\n").await;
        // Its end may be told before anybody reads.
        shim.wait("c").await.expect("wait");
        let want: String = (1..=3000).map(|number| format!("{number}\n")).collect();
        assert!(all(client.stdout).await == want.as_bytes());
        host.shutdown(shim).await;
    }
}

#[tokio::test]
async fn what_cannot_be_attached_to_is_refused_by_its_name() {
    let host = Host::new();
    let shim = host.spawn(false).await;
    create(&host, &shim, &Container::new("c", FOREVER), Stdin::Null).await;
    let error = async |want| try_attach(&host, &shim, want).await.err().expect("refused");
    refused(&error(OUTPUTS).await, Code::FailedPrecondition, "not started");
    shim.start("c").await.expect("start");
    let before = descriptors(&shim).await;
    refused(&error(ALL).await, Code::FailedPrecondition, "stdin: ");
    let request = |stdout: &str| Attach {
        container_id: "c".to_owned(),
        stdout: stdout.to_owned(),
        ..Attach::default()
    };
    for (wrong, want, why) in [
        (Attach { container_id: "x".to_owned(), ..request("") }, Code::NotFound, "no container"),
        (request("/tmp/x"), Code::InvalidArgument, "stdout: want cri-fifo"),
        (request("cri-fifo:/tmp"), Code::InvalidArgument, "stdout: "),
    ] {
        refused(&shim.attach(wrong).await.expect_err("refused"), want, why);
    }
    let mut clients = Vec::new();
    for _ in 0..64 {
        clients.push(attach(&host, &shim, STDOUT).await);
    }
    refused(&error(STDOUT).await, Code::ResourceExhausted, "64 clients");
    drop(clients);
    // Clients that are gone are noticed although the container says nothing.
    let until = Instant::now() + Duration::from_secs(60);
    while descriptors(&shim).await != before {
        assert!(Instant::now() < until, "a client is remembered");
    }
    host.shutdown(shim).await;
}

#[tokio::test]
async fn clients_come_and_go_and_the_input_stays_open() {
    let script = "while read line; do echo got $line; done; echo at the end";
    let (host, shim) = running(&Container::new("c", &["/bin/sh", "-c", script]), Stdin::Open).await;
    let mut watcher = attach(&host, &shim, STDOUT).await;
    let before = descriptors(&shim).await;
    for round in 0..100 {
        let mut client = attach(&host, &shim, BOTH).await;
        write(&mut client, &format!("{round}\n")).await;
        until(&mut client.stdout, &format!("got {round}\n")).await;
        until(&mut watcher.stdout, &format!("got {round}\n")).await;
    }
    let mut last = attach(&host, &shim, STDIN).await;
    write(&mut last, "last\n").await;
    until(&mut watcher.stdout, "got last\n").await;
    drop(last);
    let now = Instant::now();
    while descriptors(&shim).await != before {
        assert!(now.elapsed() < Duration::from_secs(60), "{:?}", descriptors(&shim).await);
    }
    shim.close_input("c", None).await.expect("close");
    assert_eq!(text(&all(watcher.stdout).await), "at the end\n");
    host.shutdown(shim).await;
}

#[tokio::test]
async fn an_input_for_one_client_ends_with_it() {
    let script = "sha256sum; sleep 100000";
    let (host, shim) = running(&Container::new("c", &["/bin/sh", "-c", script]), Stdin::Once).await;
    let mut watcher = attach(&host, &shim, STDOUT).await;
    let (attached, mut client) = try_attach(&host, &shim, STDIN).await.expect("attach");
    assert!(attached.stdin_once && !attached.stdin_closed);
    // More than all pipes on the way hold.
    let bytes = vec![0; 3 << 20];
    client.stdin.as_mut().expect("wanted").write_all(&bytes).await.expect("write");
    drop(client);
    let sum = until(&mut watcher.stdout, "-\n").await;
    assert_eq!(sum, "bbd05cf6097ac9b1f89ea29d2542c1b7b67ee46848393895f5a9e43fa1f621e5  -\n");
    let (attached, mut late) = try_attach(&host, &shim, BOTH).await.expect("attach");
    assert!(attached.stdin_closed);
    let error = late.stdin.as_mut().expect("wanted").write_all(b"x").await.expect_err("closed");
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    host.shutdown(shim).await;
}

#[tokio::test]
async fn a_container_that_closes_its_input_breaks_its_clients() {
    let script = "exec <&-; echo closed; sleep 100000";
    let (host, shim) = running(&Container::new("c", &["/bin/sh", "-c", script]), Stdin::Open).await;
    let mut client = attach(&host, &shim, ALL).await;
    let stdin = client.stdin.as_mut().expect("wanted");
    while stdin.write_all(b"x").await.is_ok() {}
    host.shutdown(shim).await;
}

#[tokio::test]
async fn a_terminal_is_shared_by_its_clients() {
    let mut container = Container::new("c", &["/bin/sh"]);
    container.terminal = true;
    let (host, shim) = running(&container, Stdin::Once).await;
    let error = try_attach(&host, &shim, ALL).await.err().expect("refused");
    refused(&error, Code::InvalidArgument, "stderr");
    let (attached, mut one) = try_attach(&host, &shim, BOTH).await.expect("attach");
    let attachment = attached.attachment;
    assert_eq!(attached, Attached { terminal: true, stdin_once: false, stdin_closed: false, attachment });
    let mut two = attach(&host, &shim, BOTH).await;
    shim.resize("c", None, 77, 33).await.expect("resize");
    write(&mut one, "stty size\n").await;
    until(&mut two.stdout, "33 77").await;
    // The end of one client's input is no end of the terminal.
    drop(one);
    write(&mut two, "echo st''ill\n").await;
    until(&mut two.stdout, "still\r\n").await;
    write(&mut two, "exit 4\n").await;
    let (_, ended) = tokio::join!(all(two.stdout), shim.wait("c"));
    assert_eq!(ended.expect("wait").code, 4);
    assert!(text(&stream_of(&host.log("c"), "stdout")).contains("still"));
    host.shutdown(shim).await;
}

#[tokio::test]
async fn several_writers_take_turns_and_lose_nothing() {
    let (host, shim) = running(&Container::new("c", &["/bin/cat"]), Stdin::Open).await;
    let reader = attach(&host, &shim, STDOUT).await;
    let mut writers = Vec::new();
    for number in 0..8u8 {
        let mut client = attach(&host, &shim, STDIN).await;
        writers.push(tokio::spawn(async move {
            let stdin = client.stdin.as_mut().expect("wanted");
            for _ in 0..64 {
                stdin.write_all(&[b'a' + number; 4096]).await.expect("write");
            }
        }));
    }
    let reading = tokio::spawn(all(reader.stdout));
    for writer in writers {
        writer.await.expect("written");
    }
    // What they wrote is on its way still: an end of the input comes after it.
    let mut last = attach(&host, &shim, STDIN).await;
    write(&mut last, "z").await;
    drop(last);
    let until = Instant::now() + Duration::from_secs(60);
    while stream_of(&host.log("c"), "stdout").len() < 8 * 64 * 4096 {
        assert!(Instant::now() < until, "bytes are lost");
        tokio::task::yield_now().await;
    }
    shim.close_input("c", None).await.expect("close");
    let got = reading.await.expect("read");
    for number in 0..8u8 {
        assert_eq!(got.iter().filter(|byte| **byte == b'a' + number).count(), 64 * 4096);
    }
    host.shutdown(shim).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_let_go_and_the_log_is_whole() {
    let script = "read go; seq 1 100000; sleep 100000";
    let (host, shim) = running(&Container::new("c", &["/bin/sh", "-c", script]), Stdin::Open).await;
    let begun = Instant::now();
    let (attached, slow) = try_attach(&host, &shim, BOTH).await.expect("attach");
    let (other, mut fast) = try_attach(&host, &shim, BOTH).await.expect("attach");
    let waits = |attached: Attached| {
        let (shim, attachment) = (shim.clone(), attached.attachment.expect("a number"));
        tokio::spawn(async move { shim.let_go("c", attachment).await })
    };
    let (let_go, stays) = (waits(attached), waits(other));
    write(&mut fast, "go\n").await;
    let want: Vec<u8> = (1..=100_000).flat_map(|number| format!("{number}\n").into_bytes()).collect();
    let mut got = vec![0; want.len()];
    let read = tokio::time::timeout(
        Duration::from_secs(100),
        fast.stdout.as_mut().expect("wanted").read_exact(&mut got),
    );
    read.await.expect("the slow one holds it for ever").expect("read");
    assert!(got == want);
    assert!(begun.elapsed() >= Duration::from_secs(9), "the slow one was waited for");
    // Seen from outside, a record may be half written for a moment.
    let is_short = |log: Vec<u8>| !log.ends_with(b"\n") || stream_of(&log, "stdout").len() < want.len();
    while is_short(host.log("c")) {
        assert!(begun.elapsed() < Duration::from_secs(100), "the log waits");
        tokio::task::yield_now().await;
    }
    assert!(stream_of(&host.log("c"), "stdout") == want);
    // What it did not read is there still, up to where it was let go; then its streams are at their end.
    let rest = all(slow.stdout).await;
    assert!(want.starts_with(&rest) && !rest.is_empty() && rest.len() < want.len());
    assert!(slow.stdin.expect("wanted").try_write(b"x").is_err());
    let_go.await.expect("task").expect("told");
    write(&mut fast, "x\n").await;
    assert!(!stays.is_finished());
    shim.kill("c", 9, false).await.expect("kill");
    shim.wait("c").await.expect("wait");
    shim.delete("c").await.expect("delete");
    assert!(stays.await.expect("task").expect_err("deleted").is_not_found());
    host.end(&shim).await;
    let said = std::fs::read_to_string(host.directory.join("shim.log")).expect("shim.log");
    assert!(said.contains("container c: 1 attached clients") && said.lines().count() == 1, "{said}");
}
