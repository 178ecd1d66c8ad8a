//! A foreign client: the blocking one of the ttrpc crate, with containerd's own messages.

use crate::host::{Container, Host};
use containerd_shim_protos::api::{
    ConnectRequest, CreateTaskRequest, KillRequest, Mount, StateRequest, Status, WaitRequest,
};
use containerd_shim_protos::sandbox_api::{PingRequest, PlatformRequest, SandboxStatusRequest};
use containerd_shim_protos::sandbox_sync::SandboxClient;
use containerd_shim_protos::shim_sync::TaskClient;
use shimlink::CreateTask;
use ttrpc::context::with_timeout;

/// 30 s, as the crate counts.
const DEADLINE: i64 = 30_000_000_000;

fn calls(address: &str, task: CreateTask, pod: &str) {
    let client = ttrpc::Client::connect(address).expect("connect");
    let sandbox = SandboxClient::new(client.clone());
    let ping = PingRequest { sandbox_id: pod.to_owned(), ..PingRequest::default() };
    sandbox.ping_sandbox(with_timeout(DEADLINE), &ping).expect("ping");
    let stranger = PingRequest { sandbox_id: "x".to_owned(), ..PingRequest::default() };
    let refused = sandbox.ping_sandbox(with_timeout(DEADLINE), &stranger).expect_err("not this pod");
    assert!(matches!(refused, ttrpc::Error::RpcStatus(status) if status.code() == ttrpc::Code::NOT_FOUND));
    let platform = PlatformRequest { sandbox_id: pod.to_owned(), ..PlatformRequest::default() };
    assert_eq!(sandbox.platform(with_timeout(DEADLINE), &platform).expect("platform").platform.os, "linux");
    let status = SandboxStatusRequest { sandbox_id: pod.to_owned(), ..SandboxStatusRequest::default() };
    assert_eq!(
        sandbox.sandbox_status(with_timeout(DEADLINE), &status).expect("status").state,
        "SANDBOX_READY"
    );

    let tasks = TaskClient::new(client.clone());
    let id = task.id.clone();
    let mount = |mount: shimlink::RootMount| Mount {
        type_: mount.kind,
        source: mount.source,
        options: mount.options,
        ..Mount::default()
    };
    let create = CreateTaskRequest {
        id: id.clone(),
        bundle: task.bundle.to_str().expect("utf-8").to_owned(),
        rootfs: task.rootfs.into_iter().map(mount).collect(),
        stdout: task.stdout,
        ..CreateTaskRequest::default()
    };
    let pid = tasks.create(with_timeout(DEADLINE), &create).expect("create").pid;
    let start = containerd_shim_protos::api::StartRequest { id: id.clone(), ..Default::default() };
    assert_eq!(tasks.start(with_timeout(DEADLINE), &start).expect("start").pid, pid);
    let state = StateRequest { id: id.clone(), ..StateRequest::default() };
    let running = tasks.state(with_timeout(DEADLINE), &state).expect("state");
    assert_eq!((running.status(), running.pid), (Status::RUNNING, pid));
    let connect = ConnectRequest { id: id.clone(), ..ConnectRequest::default() };
    assert_eq!(tasks.connect(with_timeout(DEADLINE), &connect).expect("connect").task_pid, pid);
    // A wait on another connection is answered by what happens on this one.
    let address = address.to_owned();
    let waiting = id.clone();
    let waiter = std::thread::spawn(move || {
        let tasks = TaskClient::new(ttrpc::Client::connect(&address).expect("connect"));
        let wait = WaitRequest { id: waiting, ..WaitRequest::default() };
        tasks.wait(with_timeout(DEADLINE), &wait).expect("wait").exit_status
    });
    let kill = KillRequest { id: id.clone(), signal: 9, all: true, ..KillRequest::default() };
    tasks.kill(with_timeout(DEADLINE), &kill).expect("kill");
    assert_eq!(waiter.join().expect("waiter"), 137);
    let refused = tasks.checkpoint(with_timeout(DEADLINE), &Default::default()).expect_err("not done");
    assert!(
        matches!(refused, ttrpc::Error::RpcStatus(status) if status.code() == ttrpc::Code::UNIMPLEMENTED)
    );
}

#[tokio::test]
async fn a_foreign_client_is_served() {
    let host = Host::new();
    let shim = host.spawn(false).await;
    let address = format!("unix://{}", host.directory.join("shim.sock").display());
    let task = host.task(&Container::new("c", &["/bin/sleep", "100000"]));
    let pod = host.pod().as_str().to_owned();
    tokio::task::spawn_blocking(move || calls(&address, task, &pod)).await.expect("calls");
    host.shutdown(shim).await;
}
