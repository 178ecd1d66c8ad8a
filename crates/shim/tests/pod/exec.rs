//! ExecSync: captured output, timeouts, children that hold the pipe.

use crate::host::{Container, Host};
use shimlink::{Code, ExecSync, Shim, ShimError};
use std::time::{Duration, Instant};
use types::shim::ExecSyncResponse;

const FOREVER: &[&str] = &["/bin/sleep", "100000"];

pub(crate) fn exec(id: &str, command: &[&str]) -> ExecSync {
    ExecSync {
        container_id: id.to_owned(),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        timeout: Some(Duration::from_secs(60)),
        output_cap: 16 << 20,
        drain: Duration::from_millis(200),
    }
}

async fn sh(shim: &Shim, script: &str) -> ExecSyncResponse {
    shim.exec_sync(exec("c", &["/bin/sh", "-c", script])).await.expect("exec")
}

/// Standard output of a command that must succeed.
pub(crate) async fn output(shim: &Shim, id: &str, command: &[&str]) -> String {
    let response = shim.exec_sync(exec(id, command)).await.expect("exec");
    assert_eq!(response.exit_code, 0, "{response:?}");
    String::from_utf8(response.stdout).expect("utf-8")
}

async fn running() -> (Host, Shim) {
    let host = Host::new();
    let shim = host.spawn(false).await;
    host.run(&shim, &Container::new("c", FOREVER)).await;
    (host, shim)
}

/// Numbers of processes in the container once it is quiet: killed ones vanish soon, not at once.
async fn processes(host: &Host, want: usize) -> usize {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let count = host.cgroup("c").processes().expect("list").len();
        if count == want || Instant::now() > until {
            return count;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn both_outputs_and_the_code_are_captured() {
    let (host, shim) = running().await;
    let response = sh(&shim, "echo out; echo err >&2; exit 3").await;
    let want = ExecSyncResponse {
        stdout: b"out\n".to_vec(),
        stderr: b"err\n".to_vec(),
        exit_code: 3,
        timed_out: false,
    };
    assert_eq!(response, want);
    assert_eq!(sh(&shim, "kill -9 $$").await.exit_code, 137);
    let status = output(&shim, "c", &["/bin/grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]).await;
    for line in status.lines() {
        let set = line.split_whitespace().nth(1).map(|set| u64::from_str_radix(set, 16));
        // 32 and 33 are the C library's own: its posix_spawn leaves them ignored, and nobody can tell.
        assert_eq!(set.expect("a set").expect("hex") & !(3 << 31), 0, "{status}");
    }
    let files = output(&shim, "c", &["/bin/ls", "/proc/self/fd"]).await;
    assert_eq!(files, "0\n1\n2\n3\n", "3 is the directory itself");
    let cgroup = output(&shim, "c", &["/bin/cat", "/proc/self/cgroup"]).await;
    assert!(!cgroup.contains("peapod-test"), "the host's path is not seen: {cgroup}");
    host.shutdown(shim).await;
}

#[tokio::test]
async fn a_command_that_cannot_be_executed_is_a_typed_error() {
    let (host, shim) = running().await;
    for (container, command, want) in [
        ("c", &["/bin/missing"][..], Code::InvalidArgument),
        ("c", &["missing"], Code::InvalidArgument),
        ("c", &["/proc/self/status"], Code::InvalidArgument),
        ("c", &[], Code::InvalidArgument),
        ("x", &["/bin/sh"], Code::NotFound),
    ] {
        let error = shim.exec_sync(exec(container, command)).await.expect_err("refused");
        assert!(matches!(error, ShimError::Refused { code, .. } if code == want), "{command:?}: {error:?}");
    }
    shim.kill("c", 9, false).await.expect("kill");
    shim.wait("c").await.expect("wait");
    let error = shim.exec_sync(exec("c", &["/bin/sh"])).await.expect_err("ended");
    assert!(matches!(error, ShimError::Refused { code: Code::FailedPrecondition, .. }), "{error:?}");
    host.shutdown(shim).await;
}

#[tokio::test]
async fn the_timeout_kills_the_whole_process_tree() {
    let (host, shim) = running().await;
    let script = "echo begun; sleep 100000 & (sleep 100000 & sleep 100000 >/dev/null 2>&1 </dev/null &) ; sleep 100000";
    let mut request = exec("c", &["/bin/sh", "-c", script]);
    request.timeout = Some(Duration::from_millis(300));
    let begun = Instant::now();
    let response = shim.exec_sync(request).await.expect("exec");
    assert!(response.timed_out);
    assert_eq!((response.exit_code, response.stdout.as_slice()), (137, &b"begun\n"[..]));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!(processes(&host, 1).await, 1, "only the container's own is left");
    host.shutdown(shim).await;
}

#[tokio::test]
async fn a_background_child_that_holds_the_pipe_delays_the_answer_by_the_drain_alone() {
    let (host, shim) = running().await;
    for timeout in [Some(Duration::from_secs(60)), None] {
        let mut request = exec("c", &["/bin/sh", "-c", "sleep 100000 & echo said"]);
        request.timeout = timeout;
        let begun = Instant::now();
        let response = shim.exec_sync(request).await.expect("exec");
        assert_eq!(
            (response.exit_code, response.timed_out, response.stdout.as_slice()),
            (0, false, &b"said\n"[..])
        );
        assert!(begun.elapsed() >= Duration::from_millis(200), "{:?}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        assert_eq!(processes(&host, 1).await, 1, "it would write into nothing, and is ended");
    }
    host.shutdown(shim).await;
}

#[tokio::test]
async fn a_background_child_that_closed_the_pipe_lives_on() {
    let (host, shim) = running().await;
    let response = sh(&shim, "sleep 100000 </dev/null >/dev/null 2>&1 & echo said").await;
    assert_eq!(response.stdout, b"said\n");
    assert_eq!(processes(&host, 2).await, 2);
    host.shutdown(shim).await;
}

#[tokio::test]
async fn output_beyond_the_cap_is_dropped_and_the_code_is_kept() {
    let (host, shim) = running().await;
    let mut request =
        exec("c", &["/bin/sh", "-c", "yes | head -c 1000000; yes | head -c 1000000 >&2; exit 4"]);
    request.output_cap = 1000;
    let response = shim.exec_sync(request).await.expect("exec");
    assert_eq!((response.stdout.len(), response.stderr.len(), response.exit_code), (1000, 1000, 4));
    // More than the cap that a shim has of its own, on both outputs: the largest answer there is.
    let mut request = exec("c", &["/bin/sh", "-c", "yes | head -c 20000000; yes | head -c 20000000 >&2"]);
    request.output_cap = u64::MAX;
    let response = shim.exec_sync(request).await.expect("exec");
    assert_eq!((response.stdout.len(), response.stderr.len(), response.exit_code), (16 << 20, 16 << 20, 0));
    assert!(response.stdout.chunks(2).all(|line| line == b"y\n"));
    host.shutdown(shim).await;
}

#[tokio::test]
async fn commands_run_side_by_side_and_their_number_is_bounded() {
    let (host, shim) = running().await;
    let many: Vec<_> = (0..20)
        .map(|number| {
            let shim = shim.clone();
            let script = format!("sleep 0.1; echo {number}; exit {number}");
            tokio::spawn(async move { sh(&shim, &script).await })
        })
        .collect();
    for (number, task) in many.into_iter().enumerate() {
        let response = task.await.expect("task");
        assert_eq!(response.exit_code, i32::try_from(number).expect("small"));
        assert_eq!(response.stdout, format!("{number}\n").into_bytes());
    }
    let state = shim.pod_state().await.expect("state").shim_pid;
    let files = || std::fs::read_dir(format!("/proc/{state}/fd")).expect("fd").count();
    let before = files();
    for _ in 0..20 {
        let mut request = exec("c", &["/bin/sh", "-c", "sleep 100000 &"]);
        request.drain = Duration::from_millis(1);
        shim.exec_sync(request).await.expect("exec");
        let _ = shim.exec_sync(exec("c", &["/bin/missing"])).await;
    }
    assert_eq!(files(), before, "no descriptor is left");
    assert_eq!(processes(&host, 1).await, 1, "no child is left");
    host.shutdown(shim).await;
}

#[tokio::test]
async fn a_caller_that_leaves_does_not_stop_its_command() {
    let (host, shim) = running().await;
    let leaver = Shim::connect(&host.directory).await.expect("connect");
    let script = "sleep 0.3; echo done >/tmp/done; sleep 100000 & echo held";
    let mut request = exec("c", &["/bin/sh", "-c", script]);
    request.timeout = None;
    let call = tokio::time::timeout(Duration::from_millis(50), leaver.exec_sync(request)).await;
    assert!(call.is_err(), "still running");
    drop(leaver);
    let until = Instant::now() + Duration::from_secs(20);
    while sh(&shim, "cat /tmp/done 2>/dev/null").await.stdout != b"done\n" {
        assert!(Instant::now() < until, "the command was stopped");
    }
    assert_eq!(processes(&host, 1).await, 1, "and what it left is ended after the drain");
    host.shutdown(shim).await;
}
