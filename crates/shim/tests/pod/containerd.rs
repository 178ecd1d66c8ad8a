//! The shim as a stock containerd starts and drives it: `start`, FIFOs, events, `delete`.

use crate::host::{Container, Host};
use containerd_shim_protos::api::{
    CloseIORequest, ConnectRequest, CreateTaskRequest, DeleteRequest, DeleteResponse, ExecProcessRequest,
    ForwardRequest, KillRequest, Mount, PauseRequest, PidsRequest, ResumeRequest, ShutdownRequest,
    StartRequest, StateRequest, StatsRequest, Status, UpdateTaskRequest, WaitRequest,
};
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::events::task::{TaskCreate, TaskExit};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::sandbox_api::PingRequest;
use containerd_shim_protos::sandbox_sync::SandboxClient;
use containerd_shim_protos::shim_sync::TaskClient;
use containerd_shim_protos::{cgroups, cgroups_v2};
use protobuf::Message as _;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use sys::rustix::fs::{CWD, Mode, OFlags, mkfifoat, open};
use sys::rustix::process::{Pid, Signal, kill_process};
use ttrpc::context::{Context, with_timeout};

const NAMESPACE: &str = "test";
const FOREVER: &[&str] = &["/bin/sleep", "100000"];

/// 30 s, as the crate counts.
fn soon() -> Context {
    with_timeout(30_000_000_000)
}

/// One containerd, so far as a shim sees it.
struct Containerd {
    host: Host,
    /// Each event: its topic and itself.
    events: Receiver<(String, Any)>,
}

impl Containerd {
    fn new() -> Self {
        let host = Host::new();
        let listener = UnixListener::bind(host.directory.join("ttrpc")).expect("bind");
        let (sender, events) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                while let Some(event) = forwarded(&mut stream) {
                    if sender.send(event).is_err() {
                        return;
                    }
                }
            }
        });
        Self { host, events }
    }

    fn sockets(&self) -> PathBuf {
        self.host.directory.join("s")
    }

    /// Writes a container's bundle, with the annotation of its pod.
    fn bundle(&self, container: &Container<'_>, pod: Option<&str>) -> CreateTaskRequest {
        let task = self.host.task(container);
        let path = task.bundle.join("config.json");
        let mut spec: Value = serde_json::from_slice(&std::fs::read(&path).expect("read")).expect("JSON");
        spec["linux"]["resources"]["devices"] = json!([{ "allow": false, "access": "rwm" }]);
        if let Some(pod) = pod {
            spec["annotations"] = json!({ "io.kubernetes.cri.sandbox-id": pod });
        }
        let mut file = File::create(&path).expect("create");
        file.write_all(spec.to_string().as_bytes()).expect("write");
        let mount = |mount: shimlink::RootMount| Mount {
            type_: mount.kind,
            source: mount.source,
            options: mount.options,
            ..Mount::default()
        };
        CreateTaskRequest {
            id: container.id.to_owned(),
            bundle: task.bundle.to_str().expect("utf-8").to_owned(),
            rootfs: task.rootfs.into_iter().map(mount).collect(),
            ..CreateTaskRequest::default()
        }
    }

    /// Executes the shim as containerd does, in the bundle.
    fn execute(&self, id: &str, action: &str, input: &[u8]) -> Output {
        let bundle = self.host.bundle(id);
        let mut command = Command::new(env!("CARGO_BIN_EXE_containerd-shim-peapod-v1"));
        command.args(["-namespace", NAMESPACE, "-address", "/run/none.sock", "-publish-binary", "/bin/true"]);
        command.args(["-id", id]);
        if action == "delete" {
            command.arg("-bundle").arg(&bundle);
        }
        command.arg(action).current_dir(&bundle);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("execute the shim");
        child.stdin.take().expect("a pipe").write_all(input).expect("write");
        // To the end of both outputs: nobody may keep them.
        child.wait_with_output().expect("wait")
    }

    /// `start`; gives the address.
    fn start(&self, id: &str) -> String {
        let params = BootstrapParams {
            instance_id: id.to_owned(),
            namespace: NAMESPACE.to_owned(),
            containerd_ttrpc_address: self.host.directory.join("ttrpc").to_str().expect("utf-8").to_owned(),
            socket_dir: Some(self.sockets().to_str().expect("utf-8").to_owned()),
            ..BootstrapParams::default()
        };
        let output = self.execute(id, "start", &params.write_to_bytes().expect("encode"));
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && told.is_empty(), "{:?}: {told}", output.status);
        let result = BootstrapResult::parse_from_bytes(&output.stdout).expect("a BootstrapResult");
        assert_eq!((result.version, result.protocol.as_str()), (3, "ttrpc"));
        result.address
    }

    /// `delete`; gives the answer.
    fn delete(&self, id: &str) -> DeleteResponse {
        let output = self.execute(id, "delete", &[]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && told.is_empty(), "{:?}: {told}", output.status);
        DeleteResponse::parse_from_bytes(&output.stdout).expect("a DeleteResponse")
    }

    /// The next event, which has this topic.
    fn event(&self, topic: &str) -> Vec<u8> {
        let (told, event) = self.events.recv_timeout(Duration::from_secs(30)).expect("an event");
        assert_eq!(told, topic);
        event.value
    }

    /// The number of the shim that a bundle names.
    fn shim_pid(&self, id: &str) -> Pid {
        let text = std::fs::read_to_string(self.host.bundle(id).join("shim.pid")).expect("shim.pid");
        Pid::from_raw(text.parse().expect("a number")).expect("a process")
    }

    fn fifo(&self, name: &str) -> String {
        let path = self.host.directory.join(name);
        mkfifoat(CWD, &path, Mode::from_raw_mode(0o600)).expect("mkfifo");
        path.to_str().expect("utf-8").to_owned()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for entry in std::fs::read_dir(&self.host.directory).into_iter().flatten().flatten() {
                let pid = std::fs::read_to_string(entry.path().join("shim.pid")).unwrap_or_default();
                if let Some(pid) = pid.parse().ok().and_then(Pid::from_raw) {
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
        }
    }
}

/// Reads one event off a connection and answers it, as containerd's ttrpc server does.
fn forwarded(stream: &mut UnixStream) -> Option<(String, Any)> {
    let mut header = [0; 10];
    stream.read_exact(&mut header).ok()?;
    let mut body = vec![0; u32::from_be_bytes(header[..4].try_into().expect("four")) as usize];
    stream.read_exact(&mut body).ok()?;
    let request = ttrpc::proto::Request::parse_from_bytes(&body).expect("a request");
    assert_eq!(request.service, "containerd.services.events.ttrpc.v1.Events");
    let forward = ForwardRequest::parse_from_bytes(&request.payload).expect("the message");
    let envelope = forward.envelope.unwrap_or_default();
    assert_eq!(envelope.namespace, NAMESPACE);
    let answer = [&[0; 4][..], &header[4..8], &[2, 0]].concat();
    stream.write_all(&answer).ok()?;
    Some((envelope.topic, envelope.event.unwrap_or_default()))
}

fn connect(address: &str) -> TaskClient {
    TaskClient::new(ttrpc::Client::connect(address).expect("connect"))
}

fn read_end(path: &str) -> File {
    // Both ends at once, so that opening does not wait: the other one is then closed.
    let writer = open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).expect("open");
    let reader: OwnedFd = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).expect("open");
    drop(writer);
    reader.into()
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < until, "{what}");
        std::thread::yield_now();
    }
}

/// Whether the process is gone, or waits for a parent that is not ours.
fn is_gone(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.map_or(true, |stat| stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')))
}

fn shut_down(tasks: &TaskClient, id: &str) {
    let request = ShutdownRequest { id: id.to_owned(), ..ShutdownRequest::default() };
    tasks.shutdown(soon(), &request).expect("shutdown");
}

fn kill_and_delete(tasks: &TaskClient, id: &str) -> DeleteResponse {
    let kill = KillRequest { id: id.to_owned(), signal: 9, all: true, ..KillRequest::default() };
    tasks.kill(soon(), &kill).expect("kill");
    let wait = WaitRequest { id: id.to_owned(), ..WaitRequest::default() };
    assert_eq!(tasks.wait(soon(), &wait).expect("wait").exit_status, 137);
    tasks.delete(soon(), &DeleteRequest { id: id.to_owned(), ..DeleteRequest::default() }).expect("delete")
}

fn start_task(tasks: &TaskClient, id: &str) -> u32 {
    tasks.start(soon(), &StartRequest { id: id.to_owned(), ..StartRequest::default() }).expect("start").pid
}

#[test]
fn the_containers_of_a_pod_share_one_shim_which_ends_with_the_last() {
    let containerd = Containerd::new();
    let pause = containerd.bundle(&Container::new("p", FOREVER), Some("p"));
    let app = containerd.bundle(&Container::new("a", FOREVER), Some("p"));
    containerd.bundle(&Container::new("x", FOREVER), None);
    let address = containerd.start("p");
    let socket = Path::new(address.strip_prefix("unix://").expect("a unix socket"));
    assert!(std::fs::metadata(socket).expect("stat").file_type().is_socket());
    assert_eq!(std::fs::read_to_string(containerd.host.bundle("p").join("address")).expect("read"), address);
    let shim = containerd.shim_pid("p");
    assert_eq!(containerd.start("a"), address, "the pod's own");
    assert!(!containerd.host.bundle("a").join("shim.pid").try_exists().expect("stat"), "no second one");
    let other = containerd.start("x");
    assert_ne!(other, address, "a container of no pod has its own");
    shut_down(&connect(&other), "x");

    // containerd has a connection for each container.
    let clients: Vec<_> = (0..70).map(|_| UnixStream::connect(socket).expect("connect")).collect();
    let tasks = connect(&address);
    // It asks for a container that is not made yet when it is started anew.
    let early = ConnectRequest { id: "a".to_owned(), ..ConnectRequest::default() };
    let early = tasks.connect(soon(), &early).expect("connect");
    drop(clients);
    assert_eq!((early.shim_pid, early.task_pid), (shim.as_raw_nonzero().get().unsigned_abs(), 0));
    for request in [&pause, &app] {
        tasks.create(soon(), request).expect("create");
        start_task(&tasks, &request.id);
    }
    // The pod is containerd's: with a controller of the shim's nobody would make its network.
    let sandbox = SandboxClient::new(ttrpc::Client::connect(&address).expect("connect"));
    let refused = sandbox.ping_sandbox(soon(), &PingRequest::default()).expect_err("refused");
    assert!(
        matches!(refused, ttrpc::Error::RpcStatus(status) if status.code() == ttrpc::Code::UNIMPLEMENTED)
    );
    let program =
        std::fs::read_to_string(containerd.host.bundle("a").join("shim-binary-path")).expect("read");
    assert_eq!(
        program,
        env!("CARGO_BIN_EXE_containerd-shim-peapod-v1"),
        "for a containerd that is started anew"
    );
    // containerd sends the whole of the resources with an update.
    let update = |devices: Value| {
        let resources = json!({ "memory": { "limit": 50 << 20 }, "devices": devices });
        let resources = Any { value: resources.to_string().into_bytes(), ..Any::default() };
        let id = "a".to_owned();
        tasks.update(
            soon(),
            &UpdateTaskRequest { id, resources: Some(resources).into(), ..Default::default() },
        )
    };
    let devices = json!([{ "allow": false, "access": "rwm" }]);
    update(devices).expect("the device rules are the same");
    update(json!([{ "allow": true, "access": "rwm" }])).expect_err("they cannot be changed");
    // One that fails half way changes nothing.
    let limit = || containerd.host.cgroup("a").stats().expect("stats").memory.limit;
    let before = limit();
    let resources = json!({ "memory": { "limit": 60 << 20 }, "cpu": { "cpus": "9999" } });
    let resources = Any { value: resources.to_string().into_bytes(), ..Any::default() };
    let request =
        UpdateTaskRequest { id: "a".to_owned(), resources: Some(resources).into(), ..Default::default() };
    tasks.update(soon(), &request).expect_err("there is no such CPU");
    assert_eq!(limit(), before);
    kill_and_delete(&tasks, "a");
    shut_down(&tasks, "a");
    let state = StateRequest { id: "p".to_owned(), ..StateRequest::default() };
    assert_eq!(tasks.state(soon(), &state).expect("still there").status(), Status::RUNNING);
    kill_and_delete(&tasks, "p");
    shut_down(&tasks, "p");
    assert!(!socket.try_exists().expect("stat"), "its name is free once that is answered");
    wait_until("the shim ends", || is_gone(shim));
    // Nothing is left, and containerd looks after it in any case.
    assert_eq!(containerd.delete("a").exit_status, 137);
}

#[test]
fn streams_are_fifos_and_each_step_is_an_event() {
    let containerd = Containerd::new();
    let (stdin, stdout, stderr) = (containerd.fifo("in"), containerd.fifo("out"), containerd.fifo("err"));
    let script = "echo begun; while read line; do echo got $line; done; echo over >&2; exit 3";
    let mut create = containerd.bundle(&Container::new("c", &["/bin/sh", "-c", script]), None);
    (create.stdin, create.stdout, create.stderr) = (stdin.clone(), stdout.clone(), stderr.clone());
    let tasks = connect(&containerd.start("c"));
    let mut out = read_end(&stdout);
    let pid = tasks.create(soon(), &create).expect("create").pid;
    let created = TaskCreate::parse_from_bytes(&containerd.event("/tasks/create")).expect("the event");
    assert_eq!((created.container_id.as_str(), created.pid), ("c", pid));
    assert_eq!((created.io.stdout.as_str(), created.rootfs[0].type_.as_str()), (stdout.as_str(), "overlay"));
    start_task(&tasks, "c");
    containerd.event("/tasks/start");
    let mut begun = [0; 6];
    out.read_exact(&mut begun).expect("read");
    assert_eq!(&begun, b"begun\n");
    // Both of its ends are closed here, and another client may open it again.
    for line in ["one", "two"] {
        let mut writer = File::options().write(true).open(&stdin).expect("open");
        writeln!(writer, "{line}").expect("write");
    }
    let close = CloseIORequest { id: "c".to_owned(), stdin: true, ..CloseIORequest::default() };
    tasks.close_io(soon(), &close).expect("close");
    let wait = WaitRequest { id: "c".to_owned(), ..WaitRequest::default() };
    assert_eq!(tasks.wait(soon(), &wait).expect("wait").exit_status, 3);
    let exit = TaskExit::parse_from_bytes(&containerd.event("/tasks/exit")).expect("the event");
    assert_eq!((exit.id.as_str(), exit.pid, exit.exit_status), ("c", pid, 3));
    // What was said last is still there, though nobody read it while the container lived.
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("to the end");
    assert_eq!(rest, "got one\ngot two\n");
    let mut complaint = String::new();
    let mut err = File::open(&stderr).expect("open without waiting");
    err.read_to_string(&mut complaint).expect("to the end");
    assert_eq!(complaint, "over\n");
    // A containerd that was away asks which of its shims have something to do.
    let pids = PidsRequest { id: "c".to_owned(), ..PidsRequest::default() };
    let refused = tasks.pids(soon(), &pids).expect_err("no list");
    assert!(matches!(refused, ttrpc::Error::RpcStatus(s) if s.code() == ttrpc::Code::FAILED_PRECONDITION));
    let state = StateRequest { id: "c".to_owned(), ..StateRequest::default() };
    let state = tasks.state(soon(), &state).expect("state");
    assert_eq!((state.status(), state.exit_status, state.stderr), (Status::STOPPED, 3, stderr));
    let deleted = tasks.delete(soon(), &DeleteRequest { id: "c".to_owned(), ..DeleteRequest::default() });
    assert_eq!(deleted.expect("delete").exit_status, 3);
    shut_down(&tasks, "c");
    containerd.event("/tasks/delete");
    assert_eq!(containerd.delete("c").exit_status, 3, "from the record on disk");
}

#[test]
fn a_terminal_and_a_further_process_have_fifos_too() {
    let containerd = Containerd::new();
    let (stdin, stdout) = (containerd.fifo("in"), containerd.fifo("out"));
    let mut container = Container::new("c", &["/bin/sh"]);
    container.terminal = true;
    let mut create = containerd.bundle(&container, None);
    (create.stdin, create.stdout, create.terminal) = (stdin.clone(), stdout.clone(), true);
    // Named by containerd, and opened by nobody.
    create.stderr = "/nonexistent".to_owned();
    let tasks = connect(&containerd.start("c"));
    let mut out = read_end(&stdout);
    tasks.create(soon(), &create).expect("create");
    start_task(&tasks, "c");
    let mut typed = File::options().write(true).open(&stdin).expect("open");
    typed.write_all(b"tty; exit 5\n").expect("write");
    let wait = WaitRequest { id: "c".to_owned(), ..WaitRequest::default() };
    // Before its end, another one beside it.
    let exec_out = containerd.fifo("exec-out");
    let mut exec_reader = read_end(&exec_out);
    drop(typed);
    assert_eq!(tasks.wait(soon(), &wait).expect("wait").exit_status, 5);
    let mut shown = String::new();
    out.read_to_string(&mut shown).expect("to the end");
    assert!(shown.contains("/dev/pts/0"), "{shown}");
    tasks.delete(soon(), &DeleteRequest { id: "c".to_owned(), ..DeleteRequest::default() }).expect("delete");

    let second = containerd.bundle(&Container::new("d", FOREVER), None);
    tasks.create(soon(), &second).expect("create");
    start_task(&tasks, "d");
    for topic in ["create", "start", "exit", "delete", "create", "start"] {
        containerd.event(&format!("/tasks/{topic}"));
    }
    let process = json!({
        "args": ["/bin/sh", "-c", "echo hello; readlink /proc/self/fd/1; exit 4"], "cwd": "/", "env": ["PATH=/bin"],
        "user": { "uid": 0, "gid": 0 },
    });
    let spec = Any { value: process.to_string().into_bytes(), ..Any::default() };
    let exec = ExecProcessRequest {
        id: "d".to_owned(),
        exec_id: "e".to_owned(),
        stdout: exec_out,
        spec: Some(spec).into(),
        ..ExecProcessRequest::default()
    };
    tasks.exec(soon(), &exec).expect("exec");
    containerd.event("/tasks/exec-added");
    let start = StartRequest { id: "d".to_owned(), exec_id: "e".to_owned(), ..StartRequest::default() };
    let pid = tasks.start(soon(), &start).expect("start").pid;
    containerd.event("/tasks/exec-started");
    let wait = WaitRequest { id: "d".to_owned(), exec_id: "e".to_owned(), ..WaitRequest::default() };
    assert_eq!(tasks.wait(soon(), &wait).expect("wait").exit_status, 4);
    let exit = TaskExit::parse_from_bytes(&containerd.event("/tasks/exit")).expect("the event");
    assert_eq!((exit.container_id.as_str(), exit.id.as_str(), exit.pid), ("d", "e", pid));
    let mut said = String::new();
    exec_reader.read_to_string(&mut said).expect("to the end");
    assert!(said.starts_with("hello\n/"), "{said}");
    assert!(!said.contains("exec-out"), "no path of the host's is seen: {said}");
    kill_and_delete(&tasks, "d");
    shut_down(&tasks, "d");
}

#[test]
fn a_container_is_paused_counted_and_killed() {
    let containerd = Containerd::new();
    let create = containerd.bundle(&Container::new("c", FOREVER), None);
    let tasks = connect(&containerd.start("c"));
    tasks.create(soon(), &create).expect("create");
    start_task(&tasks, "c");
    let stats = StatsRequest { id: "c".to_owned(), ..StatsRequest::default() };
    let any = tasks.stats(soon(), &stats).expect("stats").stats.unwrap_or_default();
    let pids = match any.type_url.as_str() {
        "io.containerd.cgroups.v1.Metrics" => {
            let metrics = cgroups::metrics::Metrics::parse_from_bytes(&any.value).expect("v1");
            assert!(metrics.cpu.usage.total > 0 && metrics.memory.usage.usage > 0);
            metrics.pids.current
        }
        "io.containerd.cgroups.v2.Metrics" => {
            let metrics = cgroups_v2::metrics::Metrics::parse_from_bytes(&any.value).expect("v2");
            assert!(metrics.cpu.usage_usec > 0 && metrics.memory.usage > 0);
            metrics.pids.current
        }
        other => panic!("{other}"),
    };
    assert_eq!(pids, 1);
    let pause = PauseRequest { id: "c".to_owned(), ..PauseRequest::default() };
    tasks.pause(soon(), &pause).expect("pause");
    let state = StateRequest { id: "c".to_owned(), ..StateRequest::default() };
    assert_eq!(tasks.state(soon(), &state).expect("state").status(), Status::PAUSED);
    let resume = ResumeRequest { id: "c".to_owned(), ..ResumeRequest::default() };
    tasks.resume(soon(), &resume).expect("resume");
    assert_eq!(tasks.state(soon(), &state).expect("state").status(), Status::RUNNING);
    tasks.resume(soon(), &resume).expect_err("it is not paused");
    for topic in ["/tasks/create", "/tasks/start", "/tasks/paused", "/tasks/resumed"] {
        containerd.event(topic);
    }
    // One that is frozen ends all the same.
    tasks.pause(soon(), &pause).expect("pause");
    kill_and_delete(&tasks, "c");
    shut_down(&tasks, "c");
}

#[test]
fn what_a_killed_shim_leaves_is_ended_and_no_exit_code_is_lost() {
    let containerd = Containerd::new();
    let ended = containerd.bundle(&Container::new("e", &["/bin/sh", "-c", "exit 9"]), Some("p"));
    let living =
        containerd.bundle(&Container::new("p", &["/bin/sh", "-c", "sleep 100000 & wait"]), Some("p"));
    let address = containerd.start("p");
    let tasks = connect(&address);
    for request in [&living, &ended] {
        tasks.create(soon(), request).expect("create");
        start_task(&tasks, &request.id);
    }
    let wait = WaitRequest { id: "e".to_owned(), ..WaitRequest::default() };
    assert_eq!(tasks.wait(soon(), &wait).expect("wait").exit_status, 9);
    let group = containerd.host.cgroup("p");
    wait_until("both run", || group.processes().expect("list").len() == 2);
    let shim = containerd.shim_pid("p");
    kill_process(shim, Signal::KILL).expect("kill the shim");
    wait_until("the shim ends", || is_gone(shim));
    assert_eq!(containerd.delete("e").exit_status, 9);
    let response = containerd.delete("p");
    assert_eq!(response.exit_status, 137);
    assert!(response.exited_at.seconds > 1_600_000_000);
    assert!(cgroup::Cgroup::open(group.mounts(), group.path()).is_err(), "the cgroup is gone");
    assert!(std::fs::read_dir(containerd.sockets()).expect("list").next().is_none(), "no socket is left");
    assert_eq!(containerd.delete("p").exit_status, 137, "again changes nothing");
}

#[test]
fn what_containerd_asks_wrongly_is_refused_by_name() {
    let containerd = Containerd::new();
    containerd.bundle(&Container::new("c", FOREVER), None);
    std::fs::remove_file(containerd.host.bundle("c").join("config.json")).expect("remove");
    let output = containerd.execute("c", "start", &[]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && told.contains("config.json"), "{told}");
    let output = containerd.execute("c", "stop", &[]);
    assert_eq!(output.status.code(), Some(2));
    let mut create = containerd.bundle(&Container::new("c", FOREVER), None);
    let tasks = connect(&containerd.start("c"));
    create.options = Some(Any { type_url: "a.Options".to_owned(), ..Any::default() }).into();
    let refused = tasks.create(soon(), &create).expect_err("refused");
    assert!(matches!(&refused, ttrpc::Error::RpcStatus(s) if s.message.contains("a.Options")), "{refused}");
    create.options = None.into();
    create.stdout = "binary:///bin/true".to_owned();
    let refused = tasks.create(soon(), &create).expect_err("refused");
    assert!(matches!(&refused, ttrpc::Error::RpcStatus(s) if s.message.starts_with("stdout: ")), "{refused}");
    shut_down(&tasks, "c");
}
