//! Logs of real containers.

use crate::host::{Container, Host, stream_of};
use std::time::{Duration, Instant};
use sys::rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

#[tokio::test]
async fn all_that_a_container_says_is_in_its_log_when_its_end_is_told() {
    let host = Host::new();
    let shim = host.spawn(false).await;
    let script = "seq 1 20000; echo err >&2; echo -n 'no end'";
    host.run(&shim, &Container::new("c", &["/bin/sh", "-c", script])).await;
    shim.wait("c").await.expect("wait");
    let log = host.log("c");
    let mut want: Vec<u8> = (1..=20_000).flat_map(|number| format!("{number}\n").into_bytes()).collect();
    want.extend_from_slice(b"no end");
    assert_eq!(stream_of(&log, "stdout"), want);
    assert_eq!(stream_of(&log, "stderr"), b"err\n");
    host.shutdown(shim).await;
}

#[tokio::test]
async fn a_line_is_cut_where_the_shim_was_told_to() {
    for (piece, want) in [(256, [("P", 256), ("P", 256), ("F", 88)].as_slice()), (1 << 20, &[("F", 600)])] {
        let host = Host::new();
        let shim = host.spawn_with(false, piece).await;
        let script = "yes | head -n 600 | while read x; do echo -n $x; done; echo";
        host.run(&shim, &Container::new("c", &["/bin/sh", "-c", script])).await;
        shim.wait("c").await.expect("wait");
        let log = String::from_utf8(host.log("c")).expect("text");
        let told: Vec<_> = log
            .lines()
            .map(|record| record.splitn(4, ' ').collect::<Vec<_>>())
            .map(|fields| (fields[2], fields[3].len()))
            .collect();
        assert_eq!(told, want, "{piece}");
        host.shutdown(shim).await;
    }
}

#[tokio::test]
async fn a_user_may_open_the_output_again_by_its_name() {
    let host = Host::new();
    let shim = host.spawn(false).await;
    let mut container =
        Container::new("c", &["/bin/sh", "-c", "echo one >/proc/self/fd/1; echo two >/proc/self/fd/2"]);
    container.uid = 1000;
    host.run(&shim, &container).await;
    shim.wait("c").await.expect("wait");
    assert_eq!(stream_of(&host.log("c"), "stdout"), b"one\n");
    assert_eq!(stream_of(&host.log("c"), "stderr"), b"two\n");
    host.shutdown(shim).await;
}

#[tokio::test]
async fn a_rotated_log_loses_no_line() {
    let host = Host::new();
    let shim = host.spawn(false).await;
    let script = "i=0; while [ $i -lt 30000 ]; do echo line $i; i=$((i+1)); done";
    host.run(&shim, &Container::new("c", &["/bin/sh", "-c", script])).await;
    let log = host.directory.join("log/c.log");
    let mut parts = 0;
    let waiter = shim.clone();
    let wait = waiter.wait("c");
    tokio::pin!(wait);
    // Rotated as often as it goes while the container writes.
    loop {
        tokio::select! {
            biased;
            ended = &mut wait => { ended.expect("wait"); break }
            () = std::future::ready(()) => {
                std::fs::rename(&log, host.directory.join(format!("log/c.log.{parts}"))).expect("rename");
                parts += 1;
                shim.reopen_log("c").await.expect("reopen");
            }
        }
    }
    let mut all = Vec::new();
    for part in 0..parts {
        all.extend(std::fs::read(host.directory.join(format!("log/c.log.{part}"))).expect("part"));
    }
    all.extend(host.log("c"));
    let want: Vec<u8> = (0..30_000).flat_map(|number| format!("line {number}\n").into_bytes()).collect();
    assert!(stream_of(&all, "stdout") == want, "{parts} parts");
    assert!(parts > 1, "rotated while it wrote");
    assert!(shim.reopen_log("x").await.expect_err("unknown").is_not_found());
    host.shutdown(shim).await;
}

#[tokio::test]
async fn a_full_disk_blocks_the_writer_is_told_and_drops_nothing() {
    let host = Host::new();
    let shim = host.spawn(false).await;
    let disk = host.directory.join("log");
    mount("peapod-test", &disk, "tmpfs", MountFlags::empty(), Some(c"size=65536")).expect("mount");
    let script = "i=0; while [ $i -lt 10000 ]; do echo line $i; i=$((i+1)); done";
    host.run(&shim, &Container::new("c", &["/bin/sh", "-c", script])).await;
    let until = Instant::now() + Duration::from_secs(60);
    let trouble = loop {
        let state = shim.pod_state().await.expect("state").containers.remove(0);
        if !state.log_trouble.is_empty() {
            break state.log_trouble;
        }
        assert!(Instant::now() < until, "the disk is never full");
    };
    assert!(trouble.contains("No space left") && trouble.contains("c.log"), "{trouble}");
    // The kubelet's way out: it moves the log away, has it opened anew, and removes the old one.
    let mut all = Vec::new();
    let mut rotate = async || {
        std::fs::rename(disk.join("c.log"), disk.join("old")).expect("rename");
        shim.reopen_log("c").await.expect("reopen");
        all.extend(std::fs::read(disk.join("old")).expect("read"));
        std::fs::remove_file(disk.join("old")).expect("remove");
    };
    let waiter = shim.clone();
    let wait = waiter.wait("c");
    tokio::pin!(wait);
    let mut ended = false;
    while !ended {
        rotate().await;
        ended = tokio::time::timeout(Duration::from_millis(20), &mut wait).await.is_ok();
    }
    while !shim.pod_state().await.expect("state").containers[0].log_trouble.is_empty() {
        rotate().await;
    }
    all.extend(std::fs::read(disk.join("c.log")).expect("read"));
    let want: Vec<u8> = (0..10_000).flat_map(|number| format!("line {number}\n").into_bytes()).collect();
    let got = stream_of(&all, "stdout");
    host.end(&shim).await;
    unmount(&disk, UnmountFlags::DETACH).expect("unmount");
    assert!(got == want, "{} of {} bytes", got.len(), want.len());
}

#[tokio::test]
async fn a_container_that_ends_while_the_disk_is_full_is_told_with_the_reason() {
    let host = Host::new();
    let shim = host.spawn(false).await;
    let disk = host.directory.join("log");
    mount("peapod-test", &disk, "tmpfs", MountFlags::empty(), Some(c"size=4096")).expect("mount");
    host.run(&shim, &Container::new("c", &["/bin/seq", "1", "1000"])).await;
    let exits = shim.watch(0).await.expect("watch").exits;
    assert_eq!(exits[0].code, 0);
    assert!(exits[0].message.contains("No space left"), "{}", exits[0].message);
    assert_eq!(host.exit("c").as_ref(), exits.first());
    let mut all = std::fs::read(disk.join("c.log")).expect("read");
    std::fs::remove_file(disk.join("c.log")).expect("remove");
    shim.reopen_log("c").await.expect("reopen");
    // What waits is more than one such disk holds: it comes in pieces as there is room.
    while !shim.pod_state().await.expect("state").containers[0].log_trouble.is_empty() {
        all.extend(std::fs::read(disk.join("c.log")).expect("read"));
        std::fs::remove_file(disk.join("c.log")).expect("remove");
        shim.reopen_log("c").await.expect("reopen");
    }
    all.extend(std::fs::read(disk.join("c.log")).expect("read"));
    shim.delete("c").await.expect("delete");
    host.end(&shim).await;
    unmount(&disk, UnmountFlags::DETACH).expect("unmount");
    let text = String::from_utf8_lossy(&all).into_owned();
    for number in 1..=1000 {
        assert!(text.contains(&format!(" stdout F {number}\n")), "line {number} is lost");
    }
}
