//! Many commands: what one leaves, however little, shows after thousands.

use crate::exec::exec;
use crate::host::{Container, Host};
use crate::session::{FOREVER, OUTPUTS, TERMINAL, all, descriptors, end, processes, start};
use shimlink::Shim;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Private memory of the shim in bytes, once it has given back what it can.
async fn memory(shim: &Shim) -> u64 {
    let pid = shim.pod_state().await.expect("state").shim_pid;
    let dirty = || {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("smaps_rollup");
        let line = text.lines().find_map(|line| line.strip_prefix("Private_Dirty:")).expect("a line");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    };
    // It is given back after half a second of quiet: when it does not fall any more it is.
    let (mut least, mut since) = (dirty(), Instant::now());
    while since.elapsed() < Duration::from_secs(2) {
        tokio::task::yield_now().await;
        let now = dirty();
        if now < least {
            (least, since) = (now, Instant::now());
        }
    }
    least
}

/// Children of the shim that ended and were not reaped, and those that live.
async fn children(shim: &Shim) -> String {
    let pid = shim.pod_state().await.expect("state").shim_pid;
    std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("children")
}

/// cgroups beneath the container's, in all hierarchies.
fn groups(host: &Host) -> usize {
    let pattern = host.directory.file_name().expect("name").to_os_string();
    let mut found = 0;
    let mut places = vec![std::path::PathBuf::from("/sys/fs/cgroup")];
    while let Some(place) = places.pop() {
        let Ok(entries) = std::fs::read_dir(&place) else { continue };
        for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            let path = entry.path();
            if path.components().any(|part| part.as_os_str() == pattern) {
                found += 1;
            }
            places.push(path);
        }
    }
    found
}

/// Runs `count` of them, 16 at a time.
async fn many<F: Future<Output = ()> + Send + 'static>(count: usize, run: impl Fn(usize) -> F) {
    let next = AtomicUsize::new(0);
    let one = async || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return;
            }
            tokio::spawn(run(number)).await.expect("run");
        }
    };
    tokio::join!(
        one(),
        one(),
        one(),
        one(),
        one(),
        one(),
        one(),
        one(),
        one(),
        one(),
        one(),
        one(),
        one(),
        one(),
        one(),
        one(),
    );
}

async fn probe(shim: Shim, number: usize) {
    let (script, code, said) = match number % 8 {
        // One that fails, one that says much, one that leaves a child behind, one that does not end.
        1 => ("exit 1", 1, 0),
        2 => ("head -c 100000 /dev/zero", 0, 100_000),
        3 => ("sleep 0.05 & sleep 0.05 </dev/null >/dev/null 2>&1 & exit 3", 3, 0),
        4 if number % 64 == 4 => ("sleep 100000 & sleep 100000", 137, 0),
        _ => ("exit 0", 0, 0),
    };
    let mut request = exec("c", &["/bin/sh", "-c", script]);
    if code == 137 {
        request.timeout = Some(Duration::from_millis(100));
    }
    request.drain = Duration::from_secs(5);
    let response = shim.exec_sync(request).await.expect("exec");
    assert_eq!((response.exit_code, response.stdout.len()), (code, said), "{script}");
    assert_eq!(response.timed_out, code == 137);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_probes_leave_nothing() {
    let host = Host::new();
    let shim = host.spawn(false).await;
    host.run(&shim, &Container::new("c", FOREVER)).await;
    let run = async |count| {
        many(count, |number| probe(shim.clone(), number)).await;
        processes(&host, 1).await;
        // The last look at what has ended since.
        probe(shim.clone(), 0).await;
    };
    run(500).await;
    let (files, before, born) = (descriptors(&shim).await, memory(&shim).await, groups(&host));
    run(4500).await;
    let after = memory(&shim).await;
    assert!(after <= before + (64 << 10), "{before} bytes before, {after} after");
    assert_eq!(descriptors(&shim).await, files);
    assert_eq!(children(&shim).await.split_whitespace().count(), 1, "the container's own and no zombie");
    assert_eq!(groups(&host), born);
    host.shutdown(shim).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_sessions_leave_nothing_and_an_idle_one_costs_little() {
    let host = Arc::new(Host::new());
    let shim = host.spawn(false).await;
    host.run(&shim, &Container::new("c", FOREVER)).await;
    let session = |number: usize| {
        let (host, shim) = (Arc::clone(&host), shim.clone());
        async move {
            let (id, want) =
                (format!("e{number}"), if number.is_multiple_of(2) { TERMINAL } else { OUTPUTS });
            let client = start(&host, &shim, &id, &["/bin/echo", &id], want).await;
            assert!(String::from_utf8_lossy(&all(client.stdout).await).starts_with(&id));
            assert_eq!(end(&shim, &id).await, 0);
        }
    };
    many(100, session).await;
    let (files, before) = (descriptors(&shim).await, memory(&shim).await);
    many(600, session).await;
    let after = memory(&shim).await;
    assert!(after <= before + (32 << 10), "{before} bytes before, {after} after");
    assert_eq!(descriptors(&shim).await, files);
    assert_eq!(children(&shim).await.split_whitespace().count(), 1, "the container's own and no zombie");
    let mut idle = Vec::new();
    for number in 0..100 {
        let want = if number % 2 == 0 { TERMINAL } else { OUTPUTS };
        idle.push(start(&host, &shim, &format!("i{number}"), FOREVER, want).await);
    }
    let busy = memory(&shim).await;
    assert!(busy <= after + 100 * 2048, "{after} bytes without sessions, {busy} with 100");
    drop(idle);
    let host = Arc::into_inner(host).expect("nobody else has it");
    host.shutdown(shim).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_asks_for_ends_does_not_fill_the_shim() {
    let host = Host::new();
    let shim = host.spawn(false).await;
    host.run(&shim, &Container::new("c", FOREVER)).await;
    let kept = start(&host, &shim, "kept", FOREVER, OUTPUTS).await;
    for number in 0..1100 {
        let client = start(&host, &shim, &format!("e{number}"), &["/bin/true"], OUTPUTS).await;
        all(client.stdout).await;
    }
    // The newest is remembered, the oldest is not, and what runs stays.
    assert_eq!(end(&shim, "e1099").await, 0);
    assert!(shim.exec_wait("c", "e0").await.expect_err("forgotten").is_not_found());
    shim.exec_kill("c", "kept", 9, false).await.expect("runs");
    assert_eq!(end(&shim, "kept").await, 137);
    drop(kept);
    host.shutdown(shim).await;
}
