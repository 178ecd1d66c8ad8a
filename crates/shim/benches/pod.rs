//! What a shim costs: `cargo bench -p shim`, as root. `PEAPOD_SHIM` names the program to be measured
//! (the static build of the profile `shim`); by default it is the one that cargo built.

#[path = "../tests/pod/host.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod host;

#[path = "../tests/pod/session.rs"]
#[allow(dead_code, unused_imports, reason = "the tests use the rest")]
mod session;

use host::{Container, Host};
use shimlink::{ExecSync, Program, Shim, SpawnRequest};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const ROUNDS: usize = 100;

/// Median and 95th percentile.
fn tell(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |part: usize| times[times.len() * part / 100].as_secs_f64() * 1e3;
    let _ = writeln!(std::io::stdout(), "{what}: {:.2} ms, p95 {:.2} ms", at(50), at(95));
}

fn rollup(pid: u32) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("smaps_rollup");
    let wanted = ["Pss:", "Pss_Anon:", "Pss_File:", "Private_Dirty:", "Rss:"];
    let lines = text.lines().filter(|line| wanted.iter().any(|name| line.starts_with(name)));
    lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join(", ")
}

async fn exec(shim: &Shim) {
    let request = ExecSync {
        container_id: "c".to_owned(),
        command: vec!["/bin/true".to_owned()],
        timeout: Some(Duration::from_secs(10)),
        output_cap: 1 << 20,
        drain: Duration::from_secs(1),
    };
    assert_eq!(shim.exec_sync(request).await.expect("exec").exit_code, 0);
}

/// As on a node: one for all pods, so that a profile is compiled once.
fn seccomp_cache() -> PathBuf {
    std::env::temp_dir().join(format!("peapod-test-bench-{}", std::process::id()))
}

async fn spawn(host: &Host, program: &Arc<Program>) -> Shim {
    let request = SpawnRequest {
        program: Arc::clone(program),
        pod: host.pod(),
        directory: host.directory.clone(),
        seccomp_cache: Some(seccomp_cache()),
        pause: false,
        userns: None,
        log_line: types::shim::LOG_LINE_DEFAULT,
        handler: None,
    };
    Shim::spawn(request).await.expect("spawn")
}

async fn measure(program: Arc<Program>) {
    let mut first_call = Vec::new();
    for _ in 0..ROUNDS {
        let host = Host::new();
        let begun = Instant::now();
        let shim = spawn(&host, &program).await;
        shim.pod_state().await.expect("state");
        first_call.push(begun.elapsed());
        host.end(&shim).await;
    }
    tell("spawn to the first answer", first_call);

    let (mut create, mut start, mut end, mut delete) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let host = Host::new();
    let shim = spawn(&host, &program).await;
    for number in 0..ROUNDS {
        let id = format!("c{number}");
        let container = Container { seccomp: true, ..Container::new(&id, &["/bin/sleep", "100000"]) };
        let task = host.task(&container);
        let begun = Instant::now();
        shim.create(task).await.expect("create");
        create.push(begun.elapsed());
        let begun = Instant::now();
        shim.start(&id).await.expect("start");
        start.push(begun.elapsed());
        let begun = Instant::now();
        let (ended, killed) = tokio::join!(biased; shim.wait(&id), shim.kill(&id, 9, true));
        killed.expect("kill");
        ended.expect("wait");
        end.push(begun.elapsed());
        let begun = Instant::now();
        shim.delete(&id).await.expect("delete");
        delete.push(begun.elapsed());
    }
    tell("create, with the default seccomp profile", create);
    tell("start", start);
    tell("kill to the told end", end);
    tell("delete", delete);
    host.end(&shim).await;
    commands(program).await;
}

async fn commands(program: Arc<Program>) {
    let mut pods = Vec::new();
    for _ in 0..20 {
        let host = Host::new();
        let shim = spawn(&host, &program).await;
        let container = Container { seccomp: true, ..Container::new("c", &["/bin/sleep", "100000"]) };
        host.run(&shim, &container).await;
        let pid = shim.pod_state().await.expect("state").shim_pid;
        pods.push((host, shim, pid));
    }
    // The heap is given back after half a second of quiet.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let _ = writeln!(std::io::stdout(), "idle, one of 20 with a container each: {}", rollup(pods[10].2));
    let (_, shim, pid) = &pods[0];
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        exec(shim).await;
        times.push(begun.elapsed());
    }
    tell("ExecSync of true", times);
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        shim.pod_state().await.expect("state");
        times.push(begun.elapsed());
    }
    tell("State", times);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let _ = writeln!(std::io::stdout(), "idle after {ROUNDS} commands: {}", rollup(*pid));
    let (host, shim, pid) = &pods[1];
    sessions(host, shim, *pid).await;
    for (host, shim, _) in pods {
        host.end(&shim).await;
    }
}

/// Bytes that go through a session to measure its speed.
const BULK: usize = 256 << 20;

async fn sessions(host: &Host, shim: &Shim, pid: u32) {
    for (what, want) in [("without", session::OUTPUTS), ("with", session::TERMINAL)] {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            let client = session::start(host, shim, "e", &["/bin/true"], want).await;
            session::all(client.stdout).await;
            session::end(shim, "e").await;
            times.push(begun.elapsed());
        }
        tell(&format!("session of true {what} a terminal"), times);
    }
    let script = format!("head -c {BULK} /dev/zero");
    for (what, script, want) in [
        ("without a terminal", script.clone(), session::OUTPUTS),
        ("with a terminal", format!("stty raw; {script}"), session::TERMINAL),
    ] {
        let begun = Instant::now();
        let client = session::start(host, shim, "e", &["/bin/sh", "-c", &script], want).await;
        let mut stdout = client.stdout.expect("wanted");
        let (mut buffer, mut got) = (vec![0; 64 << 10], 0);
        loop {
            let count = tokio::io::AsyncReadExt::read(&mut stdout, &mut buffer).await.expect("read");
            if count == 0 {
                break;
            }
            got += count;
        }
        assert!(got >= BULK, "{got} bytes");
        let speed = got as f64 / begun.elapsed().as_secs_f64() / f64::from(1 << 20);
        let _ = writeln!(std::io::stdout(), "output {what}: {speed:.0} MiB/s");
        session::end(shim, "e").await;
    }
    let mut idle = Vec::new();
    for number in 0..ROUNDS {
        let want = if number % 2 == 0 { session::TERMINAL } else { session::ALL };
        idle.push(session::start(host, shim, &format!("i{number}"), &["/bin/sleep", "100000"], want).await);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let _ = writeln!(std::io::stdout(), "idle with {ROUNDS} sessions: {}", rollup(pid));
}

fn main() {
    let path = std::env::var_os("PEAPOD_SHIM");
    let path = path.unwrap_or_else(|| env!("CARGO_BIN_EXE_containerd-shim-peapod-v1").into());
    let program = Arc::new(Program::open(Path::new(&path)).expect("the shim's program"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("runtime").block_on(measure(program));
    sys::tree::remove_path(&seccomp_cache()).expect("remove the cache");
}
