//! Flaws of other runtimes, tried on ours: docs/safety-tests.md names them.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]
#![allow(clippy::disallowed_methods, reason = "a test looks at paths that it made itself")]
#![allow(clippy::large_futures, reason = "a story is awaited once")]

use api::cri;
use pods::{BUSYBOX, Client, Daemon, binary, container, pod, shell, story, until};
use std::{
    io::{BufRead as _, BufReader},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// All files of this name beneath a directory, but not through links.
fn named(dir: &Path, name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let kind = entry.file_type().expect("a kind");
        if kind.is_dir() {
            found.extend(named(&entry.path(), name));
        } else if entry.file_name() == name {
            found.push(entry.path());
        }
    }
    found
}

/// A program in the namespace in which the daemon plays the host.
fn on_host(daemon: &Daemon, words: &[&str]) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{}", daemon.netns())).args(words).stdin(Stdio::null());
    command
}

/// A session of the command line, from its beginning to its end; its code.
fn session(daemon: &Daemon, words: &[&str]) -> Option<i32> {
    let peapod = binary("peapod").display().to_string();
    let address = format!("unix://{}", daemon.socket().display());
    let all = [&["timeout", "30", &peapod, "--address", &address], words].concat();
    on_host(daemon, &all).stdout(Stdio::null()).status().expect("it runs").code()
}

#[test]
fn labels_of_an_image_start_nothing_and_reach_nothing() {
    story(async {
        let mut daemon = Daemon::prepare("labels");
        let (cdi, trigger) = (daemon.dir().join("cdi"), daemon.dir().join("trigger"));
        let started = daemon.dir().join("started");
        std::fs::create_dir(&cdi).expect("made");
        let text = "cdiVersion: 0.6.0\nkind: example.com/thing\ndevices:\n- name: one\n  containerEdits:\n    \
            env: [\"THING=one\"]\n    deviceNodes: [{path: /dev/thing, hostPath: /dev/zero}]\n";
        std::fs::write(cdi.join("thing.yaml"), text).expect("written");
        std::fs::write(&trigger, format!("#!/bin/sh\ntouch {}\n", started.display())).expect("written");
        std::fs::set_permissions(&trigger, std::fs::Permissions::from_mode(0o755)).expect("executable");
        let file = daemon.dir().join("config.toml");
        std::fs::write(&file, format!("[cdi]\nspec_dirs = [\"{}\"]\n", cdi.display())).expect("written");
        daemon.args.extend(["--config".to_owned(), file.display().to_string()]);
        daemon.up().await;

        // What other runtimes keep for themselves: a restart by a monitor, a logger that is a program, an
        // OCI runtime, properties of a unit, a device.
        let program = trigger.display().to_string();
        let binary = format!("binary://{program}?id=x");
        let labels = [
            ("containerd.io/restart.status", "running"),
            ("containerd.io/restart.policy", "always"),
            ("containerd.io/restart.loguri", binary.as_str()),
            ("containerd.io/restart.logpath", &program),
            ("io.containerd.image.name", &program),
            ("io.containerd.runc.v2.group", &program),
            ("io.cri-containerd.image", "managed"),
            ("io.cri-containerd.kind", "sandbox"),
            ("io.kubernetes.cri.container-type", &program),
            ("io.kubernetes.cri-o.LogPath", &program),
            ("io.kubernetes.cri-o.Volumes", &program),
            ("org.systemd.property.ExecStopPost", &program),
            ("run.oci.handler", &program),
            ("run.oci.hooks.stderr", &program),
            ("cdi.k8s.io/thing", "example.com/thing=one"),
            ("peapod.runtime", &program),
        ];
        let client = daemon.client();
        client.load(pods::archive_with_labels(&labels)).await.expect("loaded");
        let mut config = pod("labels", &daemon.cgroup(), &daemon.logs("labels"));
        let mut app = shell("app", "test -z \"$THING\" && ! test -e /dev/thing");
        // Annotations of a request give no device either (CVE-2026-53492): it has a field for that.
        config.annotations.insert("cdi.k8s.io/thing".to_owned(), "example.com/thing=one".to_owned());
        app.annotations.clone_from(&config.annotations);
        let id = client.run_pod(&config).await.expect("a pod");
        let c = client.run(&id, &config, &app).await.expect("runs");
        let ended = client.ended(&c).await;
        assert_eq!(ended.exit_code, 0, "it has a device");
        assert_eq!((ended.labels.len(), &ended.annotations), (0, &app.annotations));
        let specifications = named(&daemon.dir().join("s/pods"), "config.json");
        assert_eq!(specifications.len(), 1);
        let text = std::fs::read_to_string(&specifications[0]).expect("a specification");
        assert!(!text.contains(&program), "a label's value is in {text}");
        // Some names it gives itself, as containerd does; the annotation of the request is there.
        let own = |name: &str| name.starts_with("io.kubernetes.cri.") || name.starts_with("cdi.");
        for (name, _) in labels.iter().filter(|(name, _)| !own(name)) {
            assert!(!text.contains(name), "{name} is in {text}");
        }
        // The monitor of such labels acts on what a restart finds.
        daemon.kill();
        daemon.up().await;
        let client = daemon.client();
        let again = client.status(&c).await.expect("a status");
        assert_eq!((again.state, again.finished_at), (ended.state, ended.finished_at));
        client.remove_all().await;
        assert!(!started.exists(), "a label has started a program");
        daemon.end().await;
    });
}

#[test]
fn environments_of_containers_that_are_made_together_are_their_own() {
    story(async {
        let daemon = Daemon::start("mixed").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let logs = daemon.logs("mixed");
        let config = pod("mixed", &daemon.cgroup(), &logs);
        let id = client.run_pod(&config).await.expect("a pod");
        for round in 0..2 {
            let mut making = tokio::task::JoinSet::new();
            for number in 0..64 {
                let (client, id, config) = (client.clone(), id.clone(), config.clone());
                making.spawn(async move {
                    let mut app = shell(&format!("c{round}-{number}"), "env | grep '^OWN' | sort");
                    let variable = |key: String| cri::KeyValue { key, value: number.to_string().into() };
                    app.envs = vec![variable("OWN".to_owned()), variable(format!("OWN_{number}"))];
                    (number, client.run(&id, &config, &app).await.expect("runs"))
                });
            }
            for (number, c) in making.join_all().await {
                assert_eq!(client.ended(&c).await.exit_code, 0);
                let log = std::fs::read_to_string(format!("{logs}/c{round}-{number}.log")).expect("a log");
                let said: Vec<_> = log.lines().filter_map(|line| line.split(" F ").nth(1)).collect();
                assert_eq!(said, [format!("OWN={number}"), format!("OWN_{number}={number}")]);
                client.remove(&c).await.expect("removed");
            }
        }
        daemon.end().await;
    });
}

/// A listener at an abstract address, to see that it would be seen.
fn control(daemon: &Daemon, name: &str) -> Child {
    let script = "import socket, sys, time; s = socket.socket(socket.AF_UNIX); \
        s.bind('\\0' + sys.argv[1]); s.listen(); print('there', flush=True); time.sleep(1000)";
    let mut command = on_host(daemon, &["python3", "-c", script, name]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("python3 runs");
    let mut said = String::new();
    BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut said).expect("it listens");
    child
}

#[test]
fn no_socket_of_the_runtime_can_be_reached_from_the_nodes_network() {
    story(async {
        let daemon = Daemon::start("sockets").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let mut config = pod("sockets", &daemon.cgroup(), &daemon.logs("sockets"));
        let context = config.linux.get_or_insert_default().security_context.get_or_insert_default();
        let options = context.namespace_options.get_or_insert_default();
        options.network = cri::NamespaceMode::Node.into();
        let mut app = shell("app", "sleep 1000");
        let security = app.linux.get_or_insert_default().security_context.get_or_insert_default();
        security.namespace_options = Some(options.clone());
        let id = client.run_pod(&config).await.expect("a pod");
        let c = client.run(&id, &config, &app).await.expect("runs");
        // Shim, daemon and stream server are all there now.
        assert_eq!(session(&daemon, &["exec", "sockets", "--", "true"]), Some(0));
        let name = format!("control-{}", daemon.netns());
        let mut control = control(&daemon, &name);
        let seen = client.exec(&c, "cat /proc/net/unix", 10).await.expect("ran").0;
        control.kill().and_then(|()| control.wait()).expect("ended");
        let names: Vec<_> = seen.lines().filter_map(|line| line.split_whitespace().nth(7)).collect();
        let abstracts: Vec<_> = names.iter().filter(|name| name.starts_with('@')).collect();
        assert_eq!(abstracts, [&format!("@{name}")], "in:\n{seen}");
        // The others are files, in a directory that is not for everybody.
        let state = daemon.dir().join("s");
        let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode();
        assert_eq!((mode(&state) & 0o7, std::fs::metadata(&state).expect("there").uid()), (0, 0));
        // One that was bound beside its place and then renamed shows its first name.
        let files = names.iter().filter(|name| name.starts_with('/'));
        let files: Vec<_> = files.map(|name| Path::new(name.trim_end_matches('~'))).collect();
        assert!(files.iter().any(|path| path.ends_with("peapod.sock")), "{seen}");
        assert!(files.iter().any(|path| path.ends_with("shim.sock")), "{seen}");
        for path in files {
            assert!(path.starts_with(&state), "{} is elsewhere", path.display());
            let is_socket = std::fs::metadata(path).expect("there").file_type().is_socket();
            assert!(is_socket && mode(path) & 0o7 == 0, "{} is for everybody", path.display());
        }
        daemon.end().await;
    });
}

/// ExecSync without a shell.
async fn sync(client: &Client, id: &str, words: &[&str]) -> String {
    let cmd = words.iter().map(|word| (*word).to_owned()).collect();
    let request = cri::ExecSyncRequest { container_id: id.to_owned(), cmd, timeout: 10 };
    let answer = client.runtime().exec_sync(request).await.expect("it ran").into_inner();
    String::from_utf8(answer.stdout).expect("text").trim().to_owned()
}

/// Everything that a client may ask of a running container and its pod, but for its end. How many commands it ran.
async fn ask_all(daemon: &Daemon, client: &Client, pod: &str, c: &str) -> u32 {
    let mut runtime = client.runtime();
    let id = || c.to_owned();
    let status = cri::ContainerStatusRequest { container_id: id(), verbose: true };
    runtime.container_status(status).await.expect("a status");
    let status = cri::PodSandboxStatusRequest { pod_sandbox_id: pod.to_owned(), verbose: true };
    runtime.pod_sandbox_status(status).await.expect("a status");
    let stats = cri::ContainerStatsRequest { container_id: id() };
    runtime.container_stats(stats).await.expect("statistics");
    let stats = cri::PodSandboxStatsRequest { pod_sandbox_id: pod.to_owned() };
    runtime.pod_sandbox_stats(stats).await.expect("statistics");
    let stats = cri::ListContainerStatsRequest::default();
    runtime.list_container_stats(stats).await.expect("statistics");
    let metrics = cri::ListPodSandboxMetricsRequest::default();
    runtime.list_pod_sandbox_metrics(metrics).await.expect("metrics");
    let resources = cri::LinuxContainerResources { cpu_shares: 512, ..Default::default() };
    let update = cri::UpdateContainerResourcesRequest {
        container_id: id(),
        linux: Some(resources),
        ..Default::default()
    };
    runtime.update_container_resources(update).await.expect("updated");
    let reopen = cri::ReopenContainerLogRequest { container_id: id() };
    runtime.reopen_container_log(reopen).await.expect("reopened");
    sync(client, c, &["/bin/busybox", "true"]).await;
    assert_eq!(session(daemon, &["exec", "traps", "--", "/bin/busybox", "true"]), Some(0));
    assert_eq!(session(daemon, &["exec", "-t", "traps", "--", "/bin/busybox", "true"]), Some(0));
    let mut attach = {
        let peapod = binary("peapod").display().to_string();
        let address = format!("unix://{}", daemon.socket().display());
        let words = [peapod.as_str(), "--address", &address, "attach", "traps"];
        on_host(daemon, &words).stdout(Stdio::null()).spawn().expect("it runs")
    };
    // It is attached when the stream server has a session more; its end says nothing of that.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    attach.kill().and_then(|()| attach.wait()).expect("ended");
    3
}

#[test]
fn nothing_of_a_containers_files_is_executed_but_what_was_asked_for() {
    story(async {
        let daemon = Daemon::start("traps").await;
        let client = daemon.client();
        client.load(pods::archive_of_traps()).await.expect("loaded");
        let config = pod("traps", &daemon.cgroup(), &daemon.logs("traps"));
        let id = client.run_pod(&config).await.expect("a pod");
        let mut app = container("app", BUSYBOX, &["/bin/busybox", "sleep", "1000"]);
        // Programs of the host that loaded or found something by these would say so, too.
        for (key, value) in [("PATH", "/bin"), ("LD_PRELOAD", "/bin/ps"), ("SHELL", "/bin/bash")] {
            app.envs.push(cri::KeyValue { key: key.to_owned(), value: value.to_owned().into() });
        }
        let c = client.run(&id, &config, &app).await.expect("runs");
        let marks = || {
            let files = named(&daemon.dir().join("r/pods"), "marks");
            files.iter().map(|file| std::fs::read_to_string(file).expect("readable")).collect::<String>()
        };
        // The numbers of the container's own PID namespace count its processes.
        let own = &["/bin/busybox", "readlink", "/proc/self"];
        let before: u32 = sync(&client, &c, own).await.parse().expect("a number");
        let commands = ask_all(&daemon, &client, &id, &c).await;
        let after: u32 = sync(&client, &c, own).await.parse().expect("a number");
        assert_eq!(after - before - 1, commands, "somebody made a process in the container");
        assert_eq!(marks(), "");
        // The trap works.
        sync(&client, &c, &["/bin/ps", "x"]).await;
        until("the mark", || async { (marks() == "/bin/ps x\n").then_some(()) }).await;
        client.stop(&c, 1).await.expect("stopped");
        client.stop_pod(&id).await.expect("stopped");
        assert_eq!(marks(), "/bin/ps x\n", "the end has started something");
        daemon.end().await;
    });
}
