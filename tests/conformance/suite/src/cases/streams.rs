//! Exec, attach, port-forward: the answers' URLs, and what comes through them; and ExecSync's bounds.

use crate::{
    case::{Case, between, case, has, holds, is, lacks, refused},
    host,
    socket::Socket,
    story::{Container, ContainerWords as _, Test, words},
};
use anyhow::{Context as _, Result};
use api::cri;
use std::time::Instant;
use tonic::{Code, Status};

const V4: &str = "v4.channel.k8s.io";
const EXEC: &str = "contract F; CRI ExecRequest";
const ATTACH: &str = "contract F; CRI AttachRequest";
const FORWARD: &str = "contract F; CRI PortForwardRequest";
const SYNC: &str = "contract A.1 ExecSync";

/// The cases.
pub fn cases() -> Vec<Case> {
    [exec(), attach(), forward(), sync()].concat()
}

fn request(c: &Container, command: &[&str]) -> cri::ExecRequest {
    cri::ExecRequest {
        container_id: c.id.clone(),
        cmd: words(command),
        stdout: true,
        stderr: true,
        ..Default::default()
    }
}

async fn url(c: &Container, request: cri::ExecRequest) -> Result<String, Status> {
    Ok(c.pod.test.runtime().exec(request).await?.into_inner().url)
}

async fn exec_socket(c: &Container, request: cri::ExecRequest) -> Result<Socket> {
    Socket::open(&url(c, request).await?, V4).await
}

/// A shell's loop until its terminal has that size: nothing tells a client when its wish has come true.
fn sized(size: &str) -> String {
    format!("until [ \"$(stty size 2>&1)\" = \"{size}\" ]; do sleep 0.05; done;")
}

fn exec() -> Vec<Case> {
    let refuses = |name: &'static str, field: &'static str, change: fn(&mut cri::ExecRequest)| {
        case(name, EXEC, field, move |t: Test| async move {
            let c = t.container(|_| {}).await?;
            let mut request = request(&c, &["/bin/true"]);
            change(&mut request);
            refused("the call", url(&c, request).await, &[Code::InvalidArgument]).map(|_| ())
        })
    };
    vec![
        case(
            "streams: exec gives output and errors apart",
            EXEC,
            "ExecRequest.container_id ExecRequest.cmd ExecRequest.stdout ExecRequest.stderr ExecResponse.url",
            |t: Test| async move {
                let c = t.container(|_| {}).await?;
                let mut socket =
                    exec_socket(&c, request(&c, &["/bin/sh", "-c", "echo out; echo err >&2"])).await?;
                let [_, out, err, status, _] = socket.all().await?;
                is("stdout", String::from_utf8(out)?, "out\n")?;
                is("stderr", String::from_utf8(err)?, "err\n")?;
                has("status", &String::from_utf8(status)?, "\"Success\"")
            },
        ),
        case(
            "streams: exec says the exit code",
            "contract F: v4 NonZeroExitCode",
            "ExecRequest.cmd",
            |t: Test| async move {
                let c = t.container(|_| {}).await?;
                let mut socket = exec_socket(&c, request(&c, &["/bin/sh", "-c", "exit 17"])).await?;
                let status: serde_json::Value = serde_json::from_slice(&socket.all().await?[3])?;
                is("status", &status["status"], "Failure")?;
                is("reason", &status["reason"], "NonZeroExitCode")?;
                is("cause", &status["details"]["causes"][0]["reason"], "ExitCode")?;
                is("code", &status["details"]["causes"][0]["message"], "17")
            },
        ),
        case("streams: exec reads its input", EXEC, "ExecRequest.stdin", |t: Test| async move {
            let c = t.container(|_| {}).await?;
            let mut request = request(&c, &["/bin/sh", "-c", "read line; echo got $line"]);
            request.stdin = true;
            let mut socket = exec_socket(&c, request).await?;
            socket.send(0, b"a line\n").await?;
            socket.until(1, "got a line\n").await.map(|_| ())
        }),
        case(
            "streams: exec with a terminal",
            EXEC,
            "ExecRequest.tty ExecRequest.stdin",
            |t: Test| async move {
                let c = t.container(|_| {}).await?;
                let mut request = request(
                    &c,
                    &["/bin/sh", "-c", &format!("tty; read x; {} stty size; echo done", sized("37 101"))],
                );
                (request.tty, request.stdin, request.stderr) = (true, true, false);
                let mut socket = exec_socket(&c, request).await?;
                socket.until(1, "/dev/pts/").await?;
                socket.send(4, b"{\"Width\":101,\"Height\":37}").await?;
                socket.send(0, b"\n").await?;
                let text = socket.until(1, "done").await?;
                has("its size", &text, "37 101")
            },
        ),
        case(
            "streams: exec of much output loses nothing",
            EXEC,
            "ExecRequest.stdout",
            |t: Test| async move {
                let c = t.container(|_| {}).await?;
                let mut socket =
                    exec_socket(&c, request(&c, &["/bin/sh", "-c", "yes 0123456789abcde | head -c 8000000"]))
                        .await?;
                is("bytes", socket.all().await?[1].len(), 8_000_000)
            },
        ),
        case(
            "streams: a URL is good for one use",
            "contract F: token, single use",
            "ExecResponse.url",
            |t: Test| async move {
                let c = t.container(|_| {}).await?;
                let url = url(&c, request(&c, &["/bin/true"])).await?;
                Socket::open(&url, V4).await?.all().await?;
                match Socket::open(&url, V4).await {
                    Ok(_) => anyhow::bail!("the URL was taken twice"),
                    Err(error) => has("the second answer", &format!("{error:#}"), "404"),
                }
            },
        ),
        case(
            "streams: an invented URL is not found",
            "contract F: unknown token -> 404",
            "ExecRequest.container_id",
            |t: Test| async move {
                let c = t.container(|_| {}).await?;
                let url = url(&c, request(&c, &["/bin/true"])).await?;
                let (start, _) = url.rsplit_once('/').context("no token in the URL")?;
                match Socket::open(&format!("{start}/AAAAAAAA"), V4).await {
                    Ok(_) => anyhow::bail!("an invented token was taken"),
                    Err(error) => has("the answer", &format!("{error:#}"), "404"),
                }
            },
        ),
        case(
            "streams: exec runs with the container's user, directory and environment",
            EXEC,
            "ExecRequest.cmd",
            |t: Test| async move {
                let c = t
                    .container(|c| {
                        use crate::story::{Config as _, number};
                        c.sc().run_as_user = number(1000);
                        c.working_dir = "/tmp".to_owned();
                        c.envs = vec![cri::KeyValue { key: "WORD".to_owned(), value: b"here".to_vec() }];
                    })
                    .await?;
                let mut socket =
                    exec_socket(&c, request(&c, &["/bin/sh", "-c", "id -u; pwd; echo $WORD"])).await?;
                is("stdout", String::from_utf8(socket.all().await?[1].clone())?, "1000\n/tmp\nhere\n")
            },
        ),
        case(
            "streams: exec of a program that is not there fails",
            EXEC,
            "ExecRequest.cmd",
            |t: Test| async move {
                let c = t.container(|_| {}).await?;
                let Ok(mut socket) = exec_socket(&c, request(&c, &["/no/such/program"])).await else {
                    return Ok(());
                };
                lacks("status", &String::from_utf8_lossy(&socket.all().await?[3]), "\"Success\"")
            },
        ),
        refuses(
            "streams: exec with a terminal and errors apart is refused",
            "ExecRequest.tty ExecRequest.stderr",
            |r| r.tty = true,
        ),
        refuses("streams: exec without any stream is refused", "ExecRequest.cmd", |r| {
            (r.stdout, r.stderr) = (false, false)
        }),
        case(
            "streams: exec in what does not run is refused",
            EXEC,
            "ExecRequest.container_id",
            |t: Test| async move {
                let c = t.pod().await?.create(|_| {}).await?;
                refused("the call", url(&c, request(&c, &["/bin/true"])).await, &[]).map(|_| ())
            },
        ),
        case(
            "streams: exec in an unknown container is NotFound",
            EXEC,
            "ExecRequest.container_id",
            |t: Test| async move {
                let mut c = t.container(|_| {}).await?;
                c.id = "0123456789abcdef".repeat(4);
                refused("the call", url(&c, request(&c, &["/bin/true"])).await, &[Code::NotFound]).map(|_| ())
            },
        ),
    ]
}

async fn attach_url(t: &Test, request: cri::AttachRequest) -> Result<String, Status> {
    Ok(t.runtime().attach(request).await?.into_inner().url)
}

fn attach() -> Vec<Case> {
    let to = |c: &Container| cri::AttachRequest {
        container_id: c.id.clone(),
        stdout: true,
        stderr: true,
        ..Default::default()
    };
    let refuses = |name: &'static str, field: &'static str, change: fn(&mut cri::AttachRequest)| {
        case(name, ATTACH, field, move |t: Test| async move {
            let c = t.container(|_| {}).await?;
            let mut request = cri::AttachRequest {
                container_id: c.id.clone(),
                stdout: true,
                stderr: true,
                ..Default::default()
            };
            change(&mut request);
            refused("the call", attach_url(&t, request).await, &[Code::InvalidArgument]).map(|_| ())
        })
    };
    vec![
        case(
            "streams: attach hears what the container says",
            ATTACH,
            "AttachRequest.container_id AttachRequest.stdout AttachRequest.stderr AttachResponse.url",
            move |t: Test| async move {
                let c = t
                    .container(|c| c.script("while :; do echo tick; echo tock >&2; sleep 0.1; done"))
                    .await?;
                let mut socket = Socket::open(&attach_url(&t, to(&c)).await?, V4).await?;
                socket.until(1, "tick\n").await?;
                socket.until(2, "tock\n").await.map(|_| ())
            },
        ),
        case(
            "streams: attach speaks to the container",
            ATTACH,
            "AttachRequest.stdin c.stdin",
            move |t: Test| async move {
                let c = t
                    .container(|c| {
                        c.stdin = true;
                        c.script("while read line; do echo heard $line; done; echo end");
                    })
                    .await?;
                let mut request = to(&c);
                request.stdin = true;
                let mut socket = Socket::open(&attach_url(&t, request).await?, V4).await?;
                socket.send(0, b"hello\n").await?;
                socket.until(1, "heard hello\n").await?;
                // The log has it too.
                c.logged("heard hello").await.map(|_| ())
            },
        ),
        case(
            "streams: attach to a terminal",
            ATTACH,
            "AttachRequest.tty AttachRequest.stdin c.tty c.stdin",
            move |t: Test| async move {
                let c = t
                    .container(|c| {
                        (c.stdin, c.tty) = (true, true);
                        c.script(&format!(
                            "read line; {} stty size; echo heard $line; sleep 1000; :",
                            sized("20 90")
                        ));
                    })
                    .await?;
                let mut request = to(&c);
                (request.stdin, request.tty, request.stderr) = (true, true, false);
                let mut socket = Socket::open(&attach_url(&t, request).await?, V4).await?;
                socket.send(4, b"{\"Width\":90,\"Height\":20}").await?;
                socket.send(0, b"hello\n").await?;
                let text = socket.until(1, "heard hello").await?;
                has("its size", &text, "20 90")
            },
        ),
        case(
            "streams: without stdin the container reads an end",
            "CRI ContainerConfig.stdin",
            "",
            |t: Test| async move {
                let c = t.container(|c| c.script("cat; echo end; exit 0")).await?;
                c.ended_with(0).await?;
                has("its log", &c.log().await?, "end")
            },
        ),
        case(
            "streams: with stdin the container waits",
            "CRI ContainerConfig.stdin",
            "c.stdin",
            |t: Test| async move {
                let c = t
                    .container(|c| {
                        c.stdin = true;
                        c.script("echo up; cat; echo end; exit 0");
                    })
                    .await?;
                c.logged("up").await?;
                tokio::time::sleep(std::time::Duration::from_millis(300)).await;
                is("its state", c.status().await?.state(), cri::ContainerState::ContainerRunning)
            },
        ),
        case(
            "streams: with stdin_once the first to attach closes it",
            "CRI ContainerConfig.stdin_once; contract B.2",
            "c.stdin_once c.stdin",
            move |t: Test| async move {
                let c = t
                    .container(|c| {
                        (c.stdin, c.stdin_once) = (true, true);
                        c.script("cat; echo end; exit 6");
                    })
                    .await?;
                let mut request = to(&c);
                request.stdin = true;
                let mut socket = Socket::open(&attach_url(&t, request).await?, V4).await?;
                socket.send(0, b"only this\n").await?;
                socket.until(1, "only this\n").await?;
                drop(socket);
                c.ended_with(6).await.map(|_| ())
            },
        ),
        case(
            "streams: without stdin_once it stays open",
            "CRI ContainerConfig.stdin_once",
            "c.stdin",
            move |t: Test| async move {
                let c = t
                    .container(|c| {
                        c.stdin = true;
                        c.script("while read line; do echo heard $line; done; echo end");
                    })
                    .await?;
                for word in ["first", "second"] {
                    let mut request = to(&c);
                    request.stdin = true;
                    let mut socket = Socket::open(&attach_url(&t, request).await?, V4).await?;
                    socket.send(0, format!("{word}\n").as_bytes()).await?;
                    socket.until(1, &format!("heard {word}\n")).await?;
                    drop(socket);
                    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
                }
                is("its state", c.status().await?.state(), cri::ContainerState::ContainerRunning)
            },
        ),
        case(
            "streams: a terminal is the container's",
            "CRI ContainerConfig.tty",
            "c.tty",
            |t: Test| async move {
                let c = t
                    .container(|c| {
                        c.tty = true;
                        c.script("tty; test -t 0 && test -t 1 && test -t 2 && echo all three; sleep 1000; :");
                    })
                    .await?;
                has("its log", &c.logged("all three").await?, "/dev/")
            },
        ),
        refuses(
            "streams: attach with a terminal and errors apart is refused",
            "AttachRequest.tty AttachRequest.stderr",
            |r| r.tty = true,
        ),
        refuses("streams: attach without any stream is refused", "AttachRequest.container_id", |r| {
            (r.stdout, r.stderr) = (false, false)
        }),
        case(
            "streams: attach to an unknown container is NotFound",
            ATTACH,
            "AttachRequest.container_id",
            |t: Test| async move {
                let request = cri::AttachRequest {
                    container_id: "0123456789abcdef".repeat(4),
                    stdout: true,
                    ..Default::default()
                };
                refused("the call", attach_url(&t, request).await, &[Code::NotFound]).map(|_| ())
            },
        ),
    ]
}

async fn forward_url(t: &Test, pod: &str, ports: Vec<i32>) -> Result<String, Status> {
    let request = cri::PortForwardRequest { pod_sandbox_id: pod.to_owned(), port: ports };
    Ok(t.runtime().port_forward(request).await?.into_inner().url)
}

fn forward() -> Vec<Case> {
    vec![
        case(
            "streams: a port of the pod is forwarded",
            FORWARD,
            "PortForwardRequest.pod_sandbox_id PortForwardRequest.port PortForwardResponse.url",
            |t: Test| async move {
                let c = t
                    .container(|c| {
                        c.script("echo up; while :; do echo of the pod | nc -l -p 8123 -w 5; done")
                    })
                    .await?;
                c.logged("up").await?;
                tokio::time::sleep(std::time::Duration::from_millis(300)).await;
                let mut socket = Socket::open(&forward_url(&t, &c.pod.id, vec![8123]).await?, V4).await?;
                // The port's number comes first, on both channels.
                let (_, first) = socket.next().await?.context("closed at once")?;
                is("the port", first, 8123_u16.to_le_bytes().to_vec())?;
                socket.send(0, b"hello\n").await?;
                socket.until(0, "of the pod").await.map(|_| ())
            },
        ),
        case(
            "streams: nothing listens on a port",
            FORWARD,
            "PortForwardRequest.port",
            |t: Test| async move {
                let c = t.container(|_| {}).await?;
                let mut socket = Socket::open(&forward_url(&t, &c.pod.id, vec![8124]).await?, V4).await?;
                socket.send(0, b"hello\n").await?;
                let mut text = String::new();
                while let Some((channel, data)) = socket.next().await? {
                    if channel == 1 {
                        text.push_str(&String::from_utf8_lossy(&data));
                    }
                }
                has("the error channel", &text, "refused")
            },
        ),
        case(
            "streams: forwarding to an unknown pod is NotFound",
            FORWARD,
            "PortForwardRequest.pod_sandbox_id",
            |t: Test| async move {
                refused(
                    "the call",
                    forward_url(&t, &"0123456789abcdef".repeat(4), vec![80]).await,
                    &[Code::NotFound],
                )
                .map(|_| ())
            },
        ),
        case(
            "streams: forwarding to a stopped pod is refused",
            FORWARD,
            "PortForwardRequest.pod_sandbox_id",
            |t: Test| async move {
                let pod = t.pod().await?;
                pod.stop().await?;
                refused("the call", forward_url(&t, &pod.id, vec![80]).await, &[]).map(|_| ())
            },
        ),
    ]
}

fn sync() -> Vec<Case> {
    vec![
        case(
            "streams: ExecSync ends at its timeout, and so does the process",
            "critest execSync timeout; contract A.0: DeadlineExceeded",
            "ExecSyncRequest.timeout",
            |t: Test| async move {
                let c = t.container(|_| {}).await?;
                let began = Instant::now();
                refused("the call", c.exec(&["/bin/sleep", "4321"], 1).await, &[Code::DeadlineExceeded])?;
                between("seconds", began.elapsed().as_secs_f64(), 0.9, 6.0)?;
                lacks("processes", &c.sh("ps -o args").await?, "sleep 4321")
            },
        ),
        case(
            "streams: ExecSync's timeout ends children too",
            SYNC,
            "ExecSyncRequest.timeout",
            |t: Test| async move {
                let c = t.container(|_| {}).await?;
                let began = Instant::now();
                let call = c.exec(&["/bin/sh", "-c", "sleep 5432 & sleep 6543; :"], 1);
                let answer = tokio::time::timeout(crate::story::patience(20), call)
                    .await
                    .context("no answer in time")?;
                refused("the call", answer, &[Code::DeadlineExceeded])?;
                between("seconds", began.elapsed().as_secs_f64(), 0.9, 8.0)?;
                let left = c.sh("ps -o args").await?;
                lacks("processes", &left, "sleep 5432")?;
                lacks("processes", &left, "sleep 6543")
            },
        ),
        case(
            "streams: a child that holds the output does not hold the answer",
            "contract A.1 ExecSync; CVE-2026-53495",
            "ExecSyncRequest.cmd",
            |t: Test| async move {
                let c = t.container(|_| {}).await?;
                let began = Instant::now();
                let call = c.exec(&["/bin/sh", "-c", "sleep 7654 & echo started"], 0);
                let answer = tokio::time::timeout(crate::story::patience(20), call)
                    .await
                    .context("no answer in time")??;
                has("stdout", &String::from_utf8(answer.stdout)?, "started")?;
                between("seconds", began.elapsed().as_secs_f64(), 0.0, 15.0)
            },
        ),
        case(
            "streams: ExecSync keeps 16 MiB and does not fail",
            "CRI ExecSync: cap 16 MiB each, discard the rest",
            "ExecSyncRequest.cmd",
            |t: Test| async move {
                let c = t.container(|_| {}).await?;
                // The client's own limit is 16 MiB for the whole message: a little below is what may arrive.
                let call = c.exec(&["/bin/sh", "-c", "head -c 20000000 /dev/zero; echo end >&2"], 30).await;
                match call {
                    Ok(answer) => {
                        is("stderr", String::from_utf8(answer.stderr)?, "end\n")?;
                        between("bytes", answer.stdout.len(), 15 << 20, 16 << 20)
                    }
                    Err(status) => {
                        // The message is over the limit by its frame alone.
                        is("its code", status.code(), Code::OutOfRange)
                            .or_else(|_| is("its code", status.code(), Code::ResourceExhausted))
                    }
                }
            },
        ),
        case(
            "streams: ExecSync of much less than that loses nothing",
            SYNC,
            "ExecSyncResponse.stdout ExecSyncResponse.stderr",
            |t: Test| async move {
                let c = t.container(|_| {}).await?;
                let answer = c
                    .exec(&["/bin/sh", "-c", "head -c 3000000 /dev/zero; head -c 2000000 /dev/zero >&2"], 30)
                    .await?;
                is("stdout", answer.stdout.len(), 3_000_000)?;
                is("stderr", answer.stderr.len(), 2_000_000)
            },
        ),
        case(
            "streams: ExecSync of a program that is not there fails",
            SYNC,
            "ExecSyncRequest.cmd",
            |t: Test| async move {
                let c = t.container(|_| {}).await?;
                if let Ok(answer) = c.exec(&["/no/such/program"], 5).await {
                    holds("the exit code says so", answer.exit_code != 0)?;
                }
                Ok(())
            },
        ),
        case(
            "streams: ExecSync without a command is refused",
            SYNC,
            "ExecSyncRequest.container_id",
            |t: Test| async move {
                let c = t.container(|_| {}).await?;
                refused("the call", c.exec(&[], 5).await, &[]).map(|_| ())
            },
        ),
        case(
            "streams: ExecSync in what does not run is refused",
            SYNC,
            "ExecSyncRequest.container_id",
            |t: Test| async move {
                let c = t.pod().await?.create(|_| {}).await?;
                refused("the call", c.exec(&["/bin/true"], 5).await, &[]).map(|_| ())
            },
        ),
        case(
            "streams: ExecSync of a killed process says so",
            SYNC,
            "ExecSyncResponse.exit_code",
            |t: Test| async move {
                let c = t.container(|_| {}).await?;
                is("exit code", c.exec(&["/bin/sh", "-c", "kill -KILL $$"], 5).await?.exit_code, 137)
            },
        ),
        case("streams: ten ExecSync at once", SYNC, "ExecSyncRequest.cmd", |t: Test| async move {
            let c = t.container(|_| {}).await?;
            let mut calls = tokio::task::JoinSet::new();
            for n in 0..10 {
                let c = c.clone();
                calls.spawn(async move { (n, c.sh(&format!("sleep 0.2; echo {n}")).await) });
            }
            while let Some(done) = calls.join_next().await {
                let (n, said) = done?;
                is("its output", said?, n.to_string())?;
            }
            Ok(())
        }),
        case(
            "streams: an exec is in the container's cgroup",
            SYNC,
            "ExecSyncRequest.cmd",
            |t: Test| async move {
                let c = t.container(|c| c.res().memory_limit_in_bytes = 64 << 20).await?;
                let container = host::cgroup_dir(c.pid().await?, "memory")?;
                let exec = c.clone();
                let running = tokio::spawn(async move { exec.exec(&["/bin/sleep", "3.25"], 10).await });
                let pid = crate::story::until("the exec's process", || async {
                    Ok(host::process_with("/bin/sleep\x003.25\0", &container))
                })
                .await?;
                holds("it is accounted there", host::cgroup_dir(pid, "memory")?.starts_with(&container))?;
                running.await??;
                Ok(())
            },
        ),
    ]
}
