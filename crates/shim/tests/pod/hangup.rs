//! Clients that are lost take along what they started, but for what says that it is to live on.

use crate::session::{ALL, FOREVER, OUTPUTS, TERMINAL, all, end, process, processes, running, start, until};
use shimlink::{ExecProcess, Shim};

const CHILDREN: &[&str] = &["/bin/sh", "-c", "sleep 100000 & sh -c 'sleep 100000; true'; true"];

#[tokio::test]
async fn a_connection_that_breaks_hangs_up_all_that_was_asked_for_by_it() {
    let (host, shim) = running().await;
    let server = Shim::connect(&host.directory).await.expect("connect");
    let plain = start(&host, &server, "plain", FOREVER, OUTPUTS).await;
    let children = start(&host, &server, "children", CHILDREN, ALL).await;
    let shell = start(&host, &server, "shell", CHILDREN, TERMINAL).await;
    let left = start(&host, &server, "left", &["/bin/sh", "-c", "sleep 100000 & true"], ALL).await;
    server.exec_wait("c", "left").await.expect("wait");
    // Itself, sleep; sh, sleep, sh, sleep, twice; sleep.
    processes(&host, 11).await;
    // The streams stay: nothing but the connection tells it.
    drop(server);
    processes(&host, 1).await;
    assert_eq!(all(plain.stdout).await, b"");
    assert_eq!(all(children.stdout).await, b"");
    assert_eq!(all(left.stdout).await, b"");
    all(shell.stdout).await;
    host.shutdown(shim).await;
}

#[tokio::test]
async fn what_ignores_the_hangup_or_is_not_bound_lives_on() {
    let (host, shim) = running().await;
    let server = Shim::connect(&host.directory).await.expect("connect");
    let script = "trap '' HUP; echo begun; read word; echo $word";
    let mut client = start(&host, &server, "e", &["/bin/sh", "-c", script], ALL).await;
    until(&mut client.stdout, "begun").await;
    // As containerd asks for one: it may come back.
    let held = ExecProcess {
        container_id: "c".to_owned(),
        exec_id: "held".to_owned(),
        process: serde_json::to_vec(&process(FOREVER)).expect("encode"),
        terminal: false,
        stdin: String::new(),
        stdout: String::new(),
        stderr: String::new(),
    };
    server.exec(held).await.expect("exec");
    server.exec_start("c", "held").await.expect("start");
    drop(server);
    tokio::io::AsyncWriteExt::write_all(client.stdin.as_mut().expect("wanted"), b"typed\n")
        .await
        .expect("write");
    assert_eq!(all(client.stdout).await, b"typed\n");
    processes(&host, 2).await;
    shim.exec_kill("c", "held", 9, false).await.expect("runs");
    assert_eq!(end(&shim, "held").await, 137);
    host.shutdown(shim).await;
}

#[tokio::test]
async fn a_signal_for_all_also_reaches_those_whose_parent_has_ended() {
    let (host, shim) = running().await;
    let client = start(&host, &shim, "e", &["/bin/sh", "-c", "sleep 100000 & true"], OUTPUTS).await;
    assert_eq!(shim.exec_wait("c", "e").await.expect("wait").code, 0);
    processes(&host, 2).await;
    assert!(shim.exec_kill("c", "e", 1, false).await.expect_err("ended").is_not_found());
    shim.exec_kill("c", "e", 1, true).await.expect("signal");
    processes(&host, 1).await;
    assert_eq!(all(client.stdout).await, b"");
    assert_eq!(end(&shim, "e").await, 0);
    host.shutdown(shim).await;
}
