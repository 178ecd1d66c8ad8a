//! A container's life, and the shim's.

use crate::host::{Container, Host};
use shimlink::{Code, Shim, ShimError};
use std::time::Duration;
use types::shim::Phase;

const FOREVER: &[&str] = &["/bin/sleep", "100000"];

fn code_of(error: &ShimError) -> Option<Code> {
    if let ShimError::Refused { code, .. } = error { Some(*code) } else { None }
}

#[tokio::test]
async fn a_killed_container_has_137_on_disk_before_it_is_told() {
    let host = Host::new();
    let shim = host.spawn(false).await;
    let pid = shim.create(host.task(&Container::new("c", FOREVER))).await.expect("create");
    let state = shim.pod_state().await.expect("state");
    assert_eq!(
        (state.containers[0].phase(), state.containers[0].pid, state.last_exit),
        (Phase::Created, pid, 0)
    );
    assert_eq!(shim.start("c").await.expect("start"), pid);
    let running = shim.pod_state().await.expect("state").containers.remove(0);
    assert_eq!(running.phase(), Phase::Running);
    assert!(running.started_at > 0);
    assert_eq!(code_of(&shim.delete("c").await.expect_err("runs")), Some(Code::FailedPrecondition));
    assert_eq!(code_of(&shim.start("c").await.expect_err("runs")), Some(Code::FailedPrecondition));
    let watch = shim.watch(0);
    let wait = shim.wait("c");
    let kill = async {
        shim.kill("c", 9, false).await.expect("kill");
    };
    let (exits, ended, ()) = tokio::join!(biased; watch, wait, kill);
    let exits = exits.expect("watch").exits;
    assert_eq!(exits.len(), 1);
    assert_eq!((exits[0].code, exits[0].sequence, exits[0].oom_killed), (137, 1, false));
    assert_eq!(host.exit("c").as_ref(), exits.first());
    assert_eq!(ended.expect("wait").code, 137);
    assert!(shim.kill("c", 15, false).await.expect_err("ended").is_not_found());
    assert_eq!(shim.watch(0).await.expect("again").exits, exits);
    let exited = shim.pod_state().await.expect("state").containers.remove(0);
    assert_eq!((exited.phase(), exited.pid, exited.exit.as_ref()), (Phase::Exited, 0, exits.first()));
    assert_eq!(shim.delete("c").await.expect("delete").code, 137);
    assert!(shim.delete("c").await.expect_err("deleted").is_not_found());
    assert!(host.exit("c").is_some(), "the record stays for the daemon");
    host.shutdown(shim).await;
}

#[tokio::test]
async fn exits_come_in_order_and_a_watch_waits_for_the_next_one() {
    let host = Host::new();
    let shim = host.spawn(false).await;
    for (id, code) in [("a", "3"), ("b", "0"), ("c", "255")] {
        let script = format!("exit {code}");
        host.run(&shim, &Container::new(id, &["/bin/sh", "-c", &script])).await;
        shim.wait(id).await.expect("wait");
    }
    let exits = shim.watch(1).await.expect("watch").exits;
    let seen: Vec<(&str, u32, u64)> =
        exits.iter().map(|e| (e.container_id.as_str(), e.code, e.sequence)).collect();
    assert_eq!(seen, [("b", 0, 2), ("c", 255, 3)]);
    host.run(&shim, &Container::new("d", &["/bin/sh", "-c", "kill -TERM $$"])).await;
    let exits = shim.watch(3).await.expect("watch").exits;
    // The first process of a PID namespace ignores what it does not handle, and ends by itself.
    assert_eq!((exits[0].container_id.as_str(), exits[0].code), ("d", 0));
    host.shutdown(shim).await;
}

#[tokio::test]
async fn a_program_that_is_not_there_is_told_and_recorded() {
    let host = Host::new();
    let shim = host.spawn(false).await;
    shim.create(host.task(&Container::new("c", &["/bin/missing"]))).await.expect("create");
    let error = shim.start("c").await.expect_err("no such program");
    assert_eq!(code_of(&error), Some(Code::InvalidArgument));
    assert!(error.to_string().contains("/bin/missing"), "{error}");
    let exits = shim.watch(0).await.expect("watch").exits;
    assert_eq!(exits[0].code, 128);
    assert!(exits[0].message.contains("/bin/missing"), "{}", exits[0].message);
    assert_eq!(host.exit("c").as_ref(), exits.first());
    shim.delete("c").await.expect("delete");
    host.shutdown(shim).await;
}

#[tokio::test]
async fn a_container_that_was_never_started_ends_by_its_stop_signal() {
    let host = Host::new();
    let shim = host.spawn(false).await;
    shim.create(host.task(&Container::new("c", FOREVER))).await.expect("create");
    shim.kill("c", 28, false).await.expect("SIGWINCH");
    shim.kill("c", 15, false).await.expect("SIGTERM");
    assert_eq!(shim.wait("c").await.expect("wait").code, 137);
    let state = shim.pod_state().await.expect("state").containers.remove(0);
    assert_eq!(state.started_at, 0);
    shim.delete("c").await.expect("delete");
    host.shutdown(shim).await;
}

#[tokio::test]
async fn a_refused_container_leaves_nothing_and_can_be_tried_again() {
    let host = Host::new();
    let shim = host.spawn(false).await;
    let mut task = host.task(&Container::new("c", FOREVER));
    task.rootfs[0].options[0] = "lowerdir=/nonexistent".to_owned();
    shim.create(task).await.expect_err("no such layer");
    assert!(shim.pod_state().await.expect("state").containers.is_empty());
    let mut task = host.task(&Container::new("c", FOREVER));
    task.stdout = "cri-log:///nonexistent//c.log".to_owned();
    let error = shim.create(task).await.expect_err("no log directory");
    assert_eq!(code_of(&error), Some(Code::InvalidArgument));
    host.run(&shim, &Container::new("c", FOREVER)).await;
    let again = shim.create(host.task(&Container::new("c", FOREVER))).await.expect_err("exists");
    assert_eq!(code_of(&again), Some(Code::AlreadyExists));
    assert_eq!(code_of(&shim.shutdown(false).await.expect_err("runs")), Some(Code::FailedPrecondition));
    host.shutdown(shim).await;
}

#[tokio::test]
async fn a_daemon_that_comes_back_finds_what_happened_meanwhile() {
    let host = Host::new();
    let shim = host.spawn(false).await;
    host.run(&shim, &Container::new("long", FOREVER)).await;
    host.run(&shim, &Container::new("short", &["/bin/sh", "-c", "exit 7"])).await;
    shim.wait("short").await.expect("wait");
    let before = shim.pod_state().await.expect("state");
    drop(shim);
    let shim = Shim::connect(&host.directory).await.expect("connect");
    let after = shim.pod_state().await.expect("state");
    assert_eq!(before, after);
    assert_eq!((after.last_exit, after.containers.len()), (1, 2));
    // A second spawn meets the living shim instead of starting another one.
    let same = host.spawn(false).await;
    assert_eq!(same.pod_state().await.expect("state").shim_pid, after.shim_pid);
    drop(same);
    host.shutdown(shim).await;
}

#[tokio::test]
async fn a_shim_that_is_killed_is_gone_for_all_who_wait_and_its_containers_live() {
    let host = Host::new();
    let shim = host.spawn(false).await;
    host.run(&shim, &Container::new("c", FOREVER)).await;
    let (watch, ()) = tokio::join!(biased; shim.watch(0), async { host.kill_shim() });
    assert!(matches!(watch, Err(ShimError::Gone { .. })));
    shim.gone().await;
    assert!(shim.kill("c", 9, true).await.expect_err("gone").is_gone());
    // Its listening socket may be the last that the kernel closes: then the first call finds out.
    let error = match Shim::connect(&host.directory).await {
        Ok(shim) => shim.pod_state().await.expect_err("nobody is there"),
        Err(e) => e,
    };
    assert!(error.is_gone(), "{error:?}");
    assert_eq!(host.cgroup("c").processes().expect("list").len(), 1, "the daemon decides what becomes of it");
    host.cgroup("c").kill().expect("kill");
}

#[tokio::test]
async fn what_a_container_leaves_behind_ends_with_it() {
    let host = Host::new();
    let shim = host.spawn(true).await;
    let pause = shim.pod_state().await.expect("state").pause_pid;
    // In a shared PID namespace the kernel does not end the others with the first process.
    let script = "sleep 100000 & sleep 100000 </dev/null >/dev/null 2>&1 & exit 5";
    let args = ["/bin/sh", "-c", script];
    let mut container = Container::new("c", &args);
    container.pid_namespace = Some(format!("/proc/{pause}/ns/pid"));
    host.run(&shim, &container).await;
    let ended = shim.wait("c").await.expect("wait");
    assert_eq!(ended.code, 5);
    shim.delete("c").await.expect("delete, so nothing is left in its cgroup");
    host.shutdown(shim).await;
}

#[tokio::test]
async fn containers_share_a_pid_namespace_whose_first_process_sees_nothing() {
    let host = Host::new();
    let shim = host.spawn(true).await;
    let pause = shim.pod_state().await.expect("state").pause_pid;
    let root = std::fs::read_dir(format!("/proc/{pause}/root")).expect("root");
    assert_eq!(root.count(), 0, "an empty root");
    let status = std::fs::read_to_string(format!("/proc/{pause}/status")).expect("status");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("field");
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        (field("Name:"), field("Uid:"), field("CapPrm:")),
        ("pause".to_owned(), "65535 65535 65535 65535".to_owned(), "0000000000000000".to_owned(),)
    );
    let files = std::fs::read_dir(format!("/proc/{pause}/fd")).expect("fd").count();
    assert_eq!(files, 4, "0, 1, 2 and its signalfd");
    for id in ["a", "b"] {
        let mut container = Container::new(id, FOREVER);
        container.pid_namespace = Some(format!("/proc/{pause}/ns/pid"));
        host.run(&shim, &container).await;
    }
    let seen = crate::exec::output(&shim, "a", &["/bin/ps"]).await;
    assert_eq!(seen.matches("sleep 100000").count(), 2, "{seen}");
    assert_eq!(crate::exec::output(&shim, "a", &["/bin/sh", "-c", "(sleep 0.01 &)"]).await, "");
    shim.kill("a", 9, true).await.expect("kill");
    shim.wait("a").await.expect("wait");
    assert_eq!(shim.pod_state().await.expect("state").containers[1].phase(), Phase::Running);
    host.shutdown(shim).await;
    assert!(!std::path::Path::new(&format!("/proc/{pause}/root")).try_exists().unwrap_or(false));
}

#[tokio::test]
async fn an_oom_kill_is_told_as_one() {
    let host = Host::new();
    let shim = host.spawn(false).await;
    host.run(&shim, &Container::new("c", FOREVER)).await;
    shim.kill("c", 9, false).await.expect("kill");
    let exits = shim.watch(0).await.expect("watch").exits;
    assert_eq!((exits[0].code, exits[0].oom_killed), (137, false), "a kill alone is no OOM kill");
    shim.delete("c").await.expect("delete");
    let grow = "x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done";
    let args = ["/bin/sh", "-c", grow];
    let mut container = Container::new("d", &args);
    container.memory = Some(16 << 20);
    host.run(&shim, &container).await;
    let exits = shim.watch(1).await.expect("watch").exits;
    assert_eq!((exits[0].code, exits[0].oom_killed), (137, true));
    host.shutdown(shim).await;
}

#[tokio::test]
async fn a_terminal_is_read_resized_and_closed() {
    let host = Host::new();
    let shim = host.spawn(false).await;
    let mut container = Container::new("c", &["/bin/sh", "-c", "[ -t 0 ] && [ -t 1 ] && echo terminal"]);
    container.terminal = true;
    host.run(&shim, &container).await;
    assert_eq!(shim.wait("c").await.expect("wait").code, 0);
    assert_eq!(crate::host::stream_of(&host.log("c"), "stdout"), b"terminal\r\n");
    host.shutdown(shim).await;
}

#[tokio::test]
async fn limits_of_a_running_container_are_changed_and_nonsense_is_refused() {
    let host = Host::new();
    let shim = host.spawn(false).await;
    host.run(&shim, &Container::new("c", FOREVER)).await;
    shim.update("c", br#"{"pids":{"limit":17}}"#.to_vec()).await.expect("update");
    assert_eq!(
        code_of(&shim.update("c", b"{".to_vec()).await.expect_err("no JSON")),
        Some(Code::InvalidArgument)
    );
    assert!(shim.update("x", b"{}".to_vec()).await.expect_err("unknown").is_not_found());
    for (signal, id, want) in
        [(0, "c", Code::InvalidArgument), (65, "c", Code::InvalidArgument), (9, "", Code::NotFound)]
    {
        assert_eq!(code_of(&shim.kill(id, signal, false).await.expect_err("refused")), Some(want));
    }
    host.shutdown(shim).await;
}

#[tokio::test]
async fn the_kernel_names_the_shim_as_who_serves_its_socket_also_when_it_hangs() {
    use sys::rustix::process::{Pid, Signal, kill_process};
    let host = Host::new();
    let shim = host.spawn(false).await;
    let pid = shim.pod_state().await.expect("state").shim_pid;
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a number");
    for signal in [Signal::STOP, Signal::CONT] {
        kill_process(number, signal).expect("signalled");
        assert_eq!(Shim::server(&host.directory).await.expect("it listens"), Some(pid));
    }
    host.shutdown(shim).await;
}

#[tokio::test]
async fn a_shim_that_cannot_serve_says_why_and_is_told_as_gone() {
    let host = Host::new();
    let request = shimlink::SpawnRequest {
        program: std::sync::Arc::new(
            shimlink::Program::open(std::path::Path::new("/bin/busybox")).expect("busybox"),
        ),
        pod: host.pod(),
        directory: host.directory.clone(),
        seccomp_cache: None,
        pause: false,
        userns: None,
        log_line: types::shim::LOG_LINE_DEFAULT,
        handler: None,
    };
    let shim = Shim::spawn(request).await.expect("it starts");
    tokio::time::timeout(Duration::from_secs(60), shim.gone()).await.expect("and ends");
    assert!(shim.pod_state().await.expect_err("gone").is_gone());
    let log = std::fs::read_to_string(host.directory.join("shim.log")).expect("log");
    assert!(log.contains("applet not found"), "{log}");
}
