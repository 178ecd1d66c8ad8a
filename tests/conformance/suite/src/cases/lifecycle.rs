//! Containers: from their creation to their removal.

use crate::{
    case::{Case, between, case, has, holds, is, refused},
    cases::sandbox::now,
    host,
    story::{Config as _, ContainerWords as _, Test, map, words},
};
use anyhow::{Context as _, Result};
use api::cri::{self, ContainerState};
use std::time::Instant;
use tonic::Code;

/// The cases.
pub fn cases() -> Vec<Case> {
    vec![
        case(
            "lifecycle: created, running, exited, gone",
            "CRI ContainerState; critest Container basic",
            "CreateContainerRequest.pod_sandbox_id CreateContainerResponse.container_id StartContainerRequest.container_id StopContainerRequest.container_id RemoveContainerRequest.container_id StartContainerResponse StopContainerResponse RemoveContainerResponse cs.state cs.created_at cs.started_at cs.finished_at ContainerStatusRequest.container_id",
            life,
        ),
        case(
            "lifecycle: what was asked for comes back in the status",
            "CRI ContainerStatus",
            "c.metadata.name c.metadata.attempt c.labels c.annotations c.image.image cs.id cs.metadata.name cs.metadata.attempt cs.labels cs.annotations cs.log_path cs.message",
            echo,
        ),
        case(
            "lifecycle: an exit code is the status's",
            "CRI ContainerStatus.exit_code",
            "cs.exit_code cs.reason",
            exit_code,
        ),
        case("lifecycle: an exit of 0 is Completed", "CRI ContainerStatus.reason", "cs.reason", completed),
        case(
            "lifecycle: unknown ids can be stopped and removed",
            "critest Idempotence",
            "StopContainerRequest.container_id RemoveContainerRequest.container_id",
            idempotent,
        ),
        case(
            "lifecycle: stop with grace lets the process end by itself",
            "CRI StopContainerRequest.timeout",
            "StopContainerRequest.timeout",
            graceful,
        ),
        case(
            "lifecycle: stop kills what ignores the signal after the grace",
            "CRI StopContainerRequest.timeout",
            "StopContainerRequest.timeout cs.exit_code",
            stubborn,
        ),
        case(
            "lifecycle: stop without grace kills at once",
            "contract A.1 StopContainer: timeout 0",
            "cs.exit_code",
            at_once,
        ),
        case(
            "lifecycle: a running container can be removed by force",
            "CRI RemoveContainer",
            "RemoveContainerRequest.container_id",
            forced,
        ),
        case(
            "lifecycle: command and arguments are those of the request",
            "CRI ContainerConfig.command, args",
            "c.command c.args",
            command,
        ),
        case(
            "lifecycle: the working directory is the request's",
            "CRI ContainerConfig.working_dir",
            "c.working_dir",
            working_dir,
        ),
        case(
            "lifecycle: environment variables are those of the request",
            "CRI KeyValue",
            "c.envs.key c.envs.value",
            envs,
        ),
        case(
            "lifecycle: exec gives output, errors and exit code apart",
            "CRI ExecSyncResponse; critest Container basic",
            "ExecSyncRequest.container_id ExecSyncRequest.cmd ExecSyncResponse.stdout ExecSyncResponse.stderr ExecSyncResponse.exit_code",
            exec,
        ),
        case(
            "lifecycle: verbose status has information as JSON",
            "CRI ContainerStatusRequest.verbose; crictl inspect",
            "ContainerStatusRequest.verbose ContainerStatusResponse.info",
            |t: Test| async move {
                let c = t.container(|_| {}).await?;
                is("unless asked", c.full_status(false).await?.info.len(), 0)?;
                has("its process", &host::proc_file(c.pid().await?, "cmdline")?, "sleep")
            },
        ),
        case(
            "lifecycle: a container that was not started can be stopped and removed",
            "critest Container basic: remove in 3 states",
            "StopContainerRequest.container_id",
            |t: Test| async move {
                let pod = t.pod().await?;
                let c = pod.create(|_| {}).await?;
                c.remove().await?;
                c.gone().await?;
                let c = pod.create(|_| {}).await?;
                c.stop(5).await?;
                c.remove().await?;
                c.gone().await
            },
        ),
        case(
            "lifecycle: creating starts nothing",
            "contract A.1 CreateContainer",
            "CreateContainerRequest.pod_sandbox_id",
            |t: Test| async move {
                let dir = t.host_dir("volume", &[])?;
                let c = t
                    .pod()
                    .await?
                    .create(|c| {
                        c.bind(&dir, "/volume");
                        c.script("touch /volume/ran; sleep 1000; :");
                    })
                    .await?;
                tokio::time::sleep(std::time::Duration::from_millis(300)).await;
                is("before the start", std::fs::exists(format!("{dir}/ran"))?, false)?;
                c.start().await?;
                crate::story::until("the file", || async {
                    Ok(std::fs::exists(format!("{dir}/ran"))?.then_some(()))
                })
                .await
            },
        ),
        case(
            "lifecycle: a variable that is not UTF-8 is kept, or refused by name",
            "CRI KeyValue.value: bytes since 1.36.3",
            "c.envs.value",
            |t: Test| async move {
                let pod = t.pod().await?;
                let change = |c: &mut cri::ContainerConfig| {
                    c.envs = vec![cri::KeyValue { key: "BYTES".to_owned(), value: b"a\xff\xfeb".to_vec() }];
                };
                let c = match pod.try_run(change).await {
                    Ok(c) => c,
                    // What cannot be done is said.
                    Err(status) => return has("the error names it", status.message(), "BYTES"),
                };
                let environment = std::fs::read(format!("/proc/{}/environ", c.pid().await?))?;
                let found = environment.split(|byte| *byte == 0).any(|word| word == b"BYTES=a\xff\xfeb");
                holds("the bytes are as they were", found)
            },
        ),
        case(
            "lifecycle: attempt after attempt",
            "kubelet restarts; CRI ContainerMetadata.attempt",
            "c.metadata.attempt cs.metadata.attempt",
            |t: Test| async move {
                let pod = t.pod().await?;
                for attempt in 0..4 {
                    let mut config = pod.container_config();
                    config.metadata = Some(cri::ContainerMetadata { name: "again".to_owned(), attempt });
                    config.script(&format!("exit {attempt}"));
                    let c = pod.create_from(config).await?;
                    c.start().await?;
                    let status = c.ended_with(i32::try_from(attempt)?).await?;
                    is("attempt", status.metadata.unwrap_or_default().attempt, attempt)?;
                }
                Ok(())
            },
        ),
        case(
            "lifecycle: ten containers in a pod",
            "critest Multiple Containers",
            "CreateContainerRequest.pod_sandbox_id",
            |t: Test| async move {
                let pod = t.pod().await?;
                let mut starting = tokio::task::JoinSet::new();
                for n in 0..10 {
                    let pod = pod.clone();
                    starting.spawn(async move {
                        let c = pod.run(|_| {}).await?;
                        is("its own words", c.sh(&format!("echo {n}")).await?, n.to_string())
                    });
                }
                starting.join_all().await.into_iter().collect()
            },
        ),
        case(
            "lifecycle: several stops of one container",
            "CRI StopContainer: idempotent",
            "StopContainerRequest.container_id",
            |t: Test| async move {
                let c = t.container(|_| {}).await?;
                let (a, b, d) = tokio::join!(c.stop(1), c.stop(1), c.stop(0));
                a?;
                b?;
                d?;
                c.ended_with(137).await.map(|_| ())
            },
        ),
        case(
            "lifecycle: death by a signal is 128 and the signal",
            "contract B.4",
            "cs.exit_code cs.reason",
            |t: Test| async move {
                // The first process of a PID namespace is spared signals that it does not expect.
                let pod = t
                    .pod_with(|p| {
                        p.sc().namespace_options.get_or_insert_default().pid = cri::NamespaceMode::Pod.into()
                    })
                    .await?;
                let c = pod.run(|_| {}).await?;
                host::command("kill", &["-SEGV", &c.pid().await?.to_string()])?;
                is("reason", c.ended_with(139).await?.reason, "Error")
            },
        ),
        case(
            "lifecycle: a short life is told whole",
            "contract B.4: ns timestamps",
            "cs.started_at cs.finished_at cs.created_at",
            |t: Test| async move {
                let before = now();
                let c = t.container(|c| c.script("exit 0")).await?;
                let status = c.ended_with(0).await?;
                between("created_at", status.created_at, before, status.started_at)?;
                between("started_at", status.started_at, status.created_at, status.finished_at)?;
                between("finished_at", status.finished_at, status.started_at, now())
            },
        ),
        case(
            "lifecycle: the children of the first process end with it",
            "pid_namespaces(7)",
            "",
            |t: Test| async move {
                let c = t.container(|c| c.script("sleep 98765 & echo up; sleep 1; exit 0")).await?;
                c.logged("up").await?;
                let group = host::cgroup_dir(c.pid().await?, "memory")?;
                c.ended_with(0).await?;
                let left = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
                is("processes in its cgroup", left.trim(), "")
            },
        ),
        case("lifecycle: what it writes stays its own", "CRI: a root of its own", "", |t: Test| async move {
            let pod = t.pod().await?;
            let (a, b) = (pod.run(|_| {}).await?, pod.run(|_| {}).await?);
            a.sh("echo mine >/word; rm /etc/group").await?;
            b.sh_fails("cat /word").await?;
            has("the other's", &b.sh("cat /etc/group").await?, "friends")
        }),
        case(
            "lifecycle: the status of an unknown id is NotFound",
            "cri-api errors IsNotFound",
            "ContainerStatusRequest.container_id",
            absent,
        ),
    ]
}

async fn life(t: Test) -> Result<()> {
    let pod = t.pod().await?;
    let before = now();
    let c = pod.create(|_| {}).await?;
    let status = c.status().await?;
    is("state", status.state(), ContainerState::ContainerCreated)?;
    between("created_at", status.created_at, before, now())?;
    is("started_at", status.started_at, 0)?;
    is("finished_at", status.finished_at, 0)?;
    let started = now();
    c.start().await?;
    let status = c.status().await?;
    is("state", status.state(), ContainerState::ContainerRunning)?;
    between("started_at", status.started_at, started, now())?;
    is("finished_at", status.finished_at, 0)?;
    let pid = c.pid().await?;
    let stopped = now();
    c.stop(0).await?;
    let status = c.status().await?;
    is("state", status.state(), ContainerState::ContainerExited)?;
    between("finished_at", status.finished_at, stopped, now())?;
    holds("its process is gone", host::proc_file(pid, "stat").is_err())?;
    c.stop(0).await.context("stop again")?;
    refused("start again", c.start().await, &[])?;
    c.remove().await?;
    c.gone().await?;
    c.remove().await.context("remove again")
}

async fn echo(t: Test) -> Result<()> {
    let pod = t.pod().await?;
    let mut config = pod.container_config();
    config.metadata = Some(cri::ContainerMetadata { name: "echo".to_owned(), attempt: 4 });
    config.labels = map(&[("part", "echo"), ("empty", "")]);
    config.annotations = map(&[("note", "two words and a \"quote\"")]);
    config.log_path = "echo/4.log".to_owned();
    std::fs::create_dir_all(t.dir().join("logs/echo"))?;
    let c = pod.create_from(config.clone()).await?;
    let status = c.status().await?;
    is("id", &status.id, &c.id)?;
    is("metadata", &status.metadata, &config.metadata)?;
    is("labels", &status.labels, &config.labels)?;
    is("annotations", &status.annotations, &config.annotations)?;
    is("message, while there is nothing to say", &status.message, "")?;
    is("log_path", status.log_path, t.dir().join("logs/echo/4.log").to_string_lossy().into_owned())
}

async fn exit_code(t: Test) -> Result<()> {
    let c = t.container(|c| c.script("exit 42")).await?;
    let status = c.ended_with(42).await?;
    is("reason", status.reason, "Error")
}

async fn completed(t: Test) -> Result<()> {
    let c = t.container(|c| c.script("exit 0")).await?;
    let status = c.ended_with(0).await?;
    is("reason", status.reason, "Completed")
}

async fn idempotent(t: Test) -> Result<()> {
    let id = "0123456789abcdef".repeat(4);
    let request = cri::StopContainerRequest { container_id: id.clone(), timeout: 0 };
    t.runtime().stop_container(request).await.context("stop")?;
    t.runtime().remove_container(cri::RemoveContainerRequest { container_id: id }).await.context("remove")?;
    Ok(())
}

async fn graceful(t: Test) -> Result<()> {
    let c = t
        .container(|c| c.script("trap 'echo bye; exit 9' TERM; echo up; while :; do sleep 0.1; done"))
        .await?;
    c.logged("up").await?;
    let began = Instant::now();
    c.stop(30).await?;
    c.ended_with(9).await?;
    has("the log", &c.log().await?, "bye")?;
    holds("it did not wait for the whole grace", began.elapsed().as_secs() < 15)
}

async fn stubborn(t: Test) -> Result<()> {
    let c = t.container(|c| c.script("trap 'echo no' TERM; echo up; while :; do sleep 0.1; done")).await?;
    c.logged("up").await?;
    let began = Instant::now();
    c.stop(2).await?;
    between("seconds of grace", began.elapsed().as_secs_f64(), 1.9, 12.0)?;
    has("the signal came first", &c.log().await?, "no")?;
    c.ended_with(137).await.map(|_| ())
}

async fn at_once(t: Test) -> Result<()> {
    let c = t.container(|c| c.script("trap 'echo no' TERM; echo up; while :; do sleep 0.1; done")).await?;
    c.logged("up").await?;
    c.stop(0).await?;
    c.ended_with(137).await.map(|_| ())
}

async fn forced(t: Test) -> Result<()> {
    let c = t.container(|_| {}).await?;
    let pid = c.pid().await?;
    c.remove().await?;
    c.gone().await?;
    holds("its process is gone", host::proc_file(pid, "stat").is_err())
}

async fn command(t: Test) -> Result<()> {
    let c = t
        .container(|c| {
            c.command = words(&["/bin/sh", "-c"]);
            c.args = words(&["echo \"$0:$1\"; sleep 1000; :", "zero arg", ""]);
        })
        .await?;
    c.logged("zero arg:").await?;
    let line = host::proc_file(c.pid().await?, "cmdline")?;
    is("its command line", line, "/bin/sh\0-c\0echo \"$0:$1\"; sleep 1000; :\0zero arg\0\0".to_owned())
}

async fn working_dir(t: Test) -> Result<()> {
    let c = t.container(|c| c.working_dir = "/tmp".to_owned()).await?;
    let cwd = std::fs::read_link(format!("/proc/{}/cwd", c.pid().await?))?;
    is("its directory", cwd.to_string_lossy().into_owned(), "/tmp")?;
    is("an exec's directory", c.sh("pwd").await?, "/tmp")
}

async fn envs(t: Test) -> Result<()> {
    let c = t
        .container(|c| {
            c.envs = vec![
                cri::KeyValue { key: "WORD".to_owned(), value: b"two words = one $HOME".to_vec() },
                cri::KeyValue { key: "EMPTY".to_owned(), value: Vec::new() },
            ];
        })
        .await?;
    let environment = host::proc_file(c.pid().await?, "environ")?;
    for word in ["WORD=two words = one $HOME", "EMPTY=", "PATH=/bin"] {
        holds(&format!("{word} in {environment:?}"), environment.split('\0').any(|other| other == word))?;
    }
    is("an exec's", c.sh("echo $WORD").await?, "two words = one $HOME")
}

async fn exec(t: Test) -> Result<()> {
    let c = t.container(|_| {}).await?;
    let answer = c.exec(&["/bin/sh", "-c", "echo out; echo err >&2; exit 7"], 0).await?;
    is("stdout", String::from_utf8(answer.stdout)?, "out\n")?;
    is("stderr", String::from_utf8(answer.stderr)?, "err\n")?;
    is("exit code", answer.exit_code, 7)
}

async fn absent(t: Test) -> Result<()> {
    let request = cri::ContainerStatusRequest { container_id: "0123456789abcdef".repeat(4), verbose: false };
    refused("the status", t.runtime().container_status(request).await, &[Code::NotFound]).map(|_| ())
}
