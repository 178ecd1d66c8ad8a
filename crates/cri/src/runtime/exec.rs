//! ExecSync, and the doors to Exec, Attach and PortForward: what they ask for is checked here, and the
//! session itself is the stream server's.

use super::Runtime;
use crate::{parse::Bad, status};
use api::cri;
use engine::{ContainerState, ContainerView, EngineError, Host, PodState, PodView};
use std::{sync::Arc, time::Duration};
use stream::{Attach, Exec, Forward, Streams, Ticket};
use tonic::Status;

/// argv together; the kernel's own bound is a quarter of the stack limit (execve(2)).
const LARGEST_COMMAND: usize = 2 << 20;
/// Ports of one session.
const MOST_PORTS: usize = 100;

impl<H: Host> Runtime<H> {
    pub(super) async fn exec_sync(
        &self,
        request: cri::ExecSyncRequest,
    ) -> Result<cri::ExecSyncResponse, Status> {
        // The object comes first: an unknown id is NotFound whatever else is wrong.
        self.engine.container(&request.container_id).map_err(|error| status::of_engine(&error))?;
        command(&request.cmd).map_err(|bad| status::of_request(&bad))?;
        let timeout = match u64::try_from(request.timeout) {
            Ok(0) => None,
            Ok(seconds) => Some(Duration::from_secs(seconds.min(u64::from(u32::MAX)))),
            Err(_) => return Err(status::of_request(&Bad::field("timeout", "is negative"))),
        };
        let output = self
            .engine
            .exec_sync(&request.container_id, request.cmd, timeout)
            .await
            .map_err(|error| status::of_engine(&error))?;
        Ok(cri::ExecSyncResponse {
            stdout: output.stdout,
            stderr: output.stderr,
            exit_code: output.exit_code,
        })
    }

    pub(super) async fn exec(&self, request: cri::ExecRequest) -> Result<cri::ExecResponse, Status> {
        let streams = Streams {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            tty: request.tty,
        };
        let (container, pod) = self.running(&request.container_id)?;
        checked(streams).and_then(|()| command(&request.cmd)).map_err(|bad| status::of_request(&bad))?;
        let ticket = Ticket::Exec(Exec {
            shim: pod.plan.paths.dir.clone(),
            bundle: container.plan.bundle.clone(),
            container: container.plan.id.to_string(),
            command: request.cmd,
            streams,
        });
        Ok(cri::ExecResponse { url: self.session(ticket).await? })
    }

    pub(super) async fn attach(&self, request: cri::AttachRequest) -> Result<cri::AttachResponse, Status> {
        let streams = Streams {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            tty: request.tty,
        };
        let (container, pod) = self.running(&request.container_id)?;
        checked(streams).map_err(|bad| status::of_request(&bad))?;
        // Whether there is a terminal is the container's to know: a client that is wrong about it gets
        // what there is.
        if streams.stdin && !container.plan.spec.stdin {
            let why = "the container was created without standard input (stdin: false)";
            return Err(status::of_request(&Bad::field("stdin", why)));
        }
        let ticket = Ticket::Attach(Attach {
            shim: pod.plan.paths.dir.clone(),
            container: container.plan.id.to_string(),
            streams,
        });
        Ok(cri::AttachResponse { url: self.session(ticket).await? })
    }

    pub(super) async fn port_forward(
        &self,
        request: cri::PortForwardRequest,
    ) -> Result<cri::PortForwardResponse, Status> {
        if request.pod_sandbox_id.is_empty() {
            return Err(status::of_request(&Bad::field("pod_sandbox_id", "is empty")));
        }
        let pod = self.engine.pod(&request.pod_sandbox_id).map_err(|error| status::of_engine(&error))?;
        match pod.state() {
            PodState::Ready => {}
            PodState::NotReady => {
                return Err(status::of_engine(&wrong_state("the pod is not ready")));
            }
        }
        let ports = ports(&request.port).map_err(|bad| status::of_request(&bad))?;
        let ticket = Ticket::Forward(Forward { netns: pod.plan.pins.net.clone(), ports });
        Ok(cri::PortForwardResponse { url: self.session(ticket).await? })
    }

    /// A container that runs, and its pod.
    fn running(&self, id: &str) -> Result<(Arc<ContainerView>, Arc<PodView>), Status> {
        if id.is_empty() {
            return Err(status::of_request(&Bad::field("container_id", "is empty")));
        }
        let container = self.engine.container(id).map_err(|error| status::of_engine(&error))?;
        match container.state() {
            ContainerState::Running => {}
            ContainerState::Created | ContainerState::Exited | ContainerState::Unknown => {
                return Err(status::of_engine(&wrong_state("the container is not running")));
            }
        }
        let pod = self.engine.pod(container.plan.pod.as_str()).map_err(|error| status::of_engine(&error))?;
        Ok((container, pod))
    }

    async fn session(&self, ticket: Ticket) -> Result<String, Status> {
        self.sessions.grant(ticket).await.map_err(|error| status::of_grant(&error))
    }
}

fn wrong_state(why: &str) -> EngineError {
    EngineError::FailedPrecondition { why: why.to_owned(), source: None }
}

/// A command that can be executed.
fn command(words: &[String]) -> Result<(), Bad> {
    if words.first().is_none_or(String::is_empty) {
        return Err(Bad::field("cmd", "is empty"));
    }
    if words.iter().any(|word| word.contains('\0')) {
        return Err(Bad::field("cmd", "holds a NUL"));
    }
    if words.iter().map(|word| word.len() + 1).sum::<usize>() > LARGEST_COMMAND {
        return Err(Bad::field("cmd", "is longer than 2 MiB"));
    }
    Ok(())
}

/// Comments of ExecRequest and AttachRequest in the CRI.
fn checked(streams: Streams) -> Result<(), Bad> {
    if streams.tty && streams.stderr {
        return Err(Bad::field("stderr", "a terminal has one output: ask for tty or stderr"));
    }
    if !streams.stdin && !streams.stdout && !streams.stderr {
        return Err(Bad::field("stdin", "one of stdin, stdout and stderr must be asked for"));
    }
    Ok(())
}

/// Ports of a websocket client; over SPDY each connection names its own.
fn ports(asked: &[i32]) -> Result<Vec<u16>, Bad> {
    if asked.len() > MOST_PORTS {
        return Err(Bad::field("port", "more than 100 ports"));
    }
    let port = |port: &i32| u16::try_from(*port).ok().filter(|port| *port > 0);
    let ports: Option<Vec<u16>> = asked.iter().map(port).collect();
    ports.ok_or_else(|| Bad::field("port", "want 1 to 65535"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_that_cannot_be_are_refused_by_name() {
        for bits in 0..16_u8 {
            let [stdin, stdout, stderr, tty] = [1, 2, 4, 8].map(|bit| bits & bit != 0);
            let bad = checked(Streams { stdin, stdout, stderr, tty }).err().map(|bad| bad.to_string());
            let want = match (stdin || stdout || stderr, tty && stderr) {
                (_, true) => Some("stderr: "),
                (false, false) => Some("stdin: "),
                (true, false) => None,
            };
            assert_eq!(bad.is_some(), want.is_some(), "{bad:?}");
            assert!(bad.unwrap_or_default().starts_with(want.unwrap_or_default()));
        }
    }

    #[test]
    fn only_ports_of_tcp_are_taken() {
        assert_eq!(ports(&[1, 80, 65535]).ok(), Some(vec![1, 80, 65535]));
        assert_eq!(ports(&[]).ok(), Some(vec![]));
        for bad in [&[0][..], &[65536], &[-1], &[80, i32::MIN], &[1; 101]] {
            assert!(ports(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_command_must_be_executable() {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        assert!(command(&words(&["ls", ""])).is_ok());
        for bad in [words(&[]), words(&["", "x"]), words(&["a", "b\0"]), vec!["x".repeat(2 << 20)]] {
            assert!(command(&bad).is_err());
        }
    }
}
