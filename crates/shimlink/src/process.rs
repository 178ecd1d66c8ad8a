//! Processes that a client talks to: exec and attach through FIFOs.
//!
//! ```text
//! Input::make, Output::make ──> exec / attach ──> Input::opened, Output::opened ──> bytes
//! ```

use crate::shim::{QUICK, SLOW};
use crate::{Ended, Shim, ShimError};
use containerd_shim_protos::api;
use types::shim::{ATTACH, AttachRequest, AttachResponse, Empty, WAIT_ATTACHED, WaitAttachedRequest};

/// containerd's name of the message that holds an OCI process
/// (containerd:core/runtime/v2/shim.go, typeurl of `specs.Process`).
const PROCESS: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

/// A further process of a running container.
#[derive(Clone)]
pub struct ExecProcess {
    /// The container.
    pub container_id: String,
    /// Its own name within the container.
    pub exec_id: String,
    /// The OCI runtime specification's `process` as JSON.
    pub process: Vec<u8>,
    /// Give it a terminal.
    pub terminal: bool,
    /// [`crate::Input::address`]; empty = /dev/null.
    pub stdin: String,
    /// [`crate::Output::address`]; empty = /dev/null. With a terminal all that it shows.
    pub stdout: String,
    /// [`crate::Output::address`]; empty = /dev/null, and always so with a terminal.
    pub stderr: String,
}

impl std::fmt::Debug for ExecProcess {
    /// Without the process: its arguments and environment may hold a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExecProcess")
            .field("container_id", &self.container_id)
            .field("exec_id", &self.exec_id)
            .field("terminal", &self.terminal)
            .finish_non_exhaustive()
    }
}

/// A container's own streams that a client wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attach {
    /// The container, which must run.
    pub container_id: String,
    /// [`crate::Input::address`]; empty = none. Refused as a wrong state when the container was created
    /// without an open standard input.
    pub stdin: String,
    /// [`crate::Output::address`]; empty = none.
    pub stdout: String,
    /// [`crate::Output::address`]; empty = none, and always so with a terminal.
    pub stderr: String,
}

/// What was joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attached {
    /// The container has a terminal.
    pub terminal: bool,
    /// The container's input is closed for good when this client's ends.
    pub stdin_once: bool,
    /// The container's input was closed for good before: writing gives EPIPE.
    pub stdin_closed: bool,
    /// For [`Shim::let_go`]; none from a shim of an older version.
    pub attachment: Option<u32>,
}

impl Shim {
    /// Prepares a process, which [`Self::exec_start`] then starts. The shim has opened its ends of the
    /// streams when this returns.
    ///
    /// With [`types::shim::FIFO_SCHEME`]'s addresses it is forgotten by itself once it has ended and this
    /// connection is closed; until then [`Self::exec_delete`] does it, and the oldest of many that ended
    /// may be forgotten for a new one.
    ///
    /// # Errors
    /// [`ShimError`]; refused as a wrong argument: the process or an address.
    pub async fn exec(&self, exec: ExecProcess) -> Result<(), ShimError> {
        let mut request = api::ExecProcessRequest {
            id: exec.container_id,
            exec_id: exec.exec_id,
            terminal: exec.terminal,
            stdin: exec.stdin,
            stdout: exec.stdout,
            stderr: exec.stderr,
            ..api::ExecProcessRequest::default()
        };
        let spec = request.spec.mut_or_insert_default();
        spec.type_url = PROCESS.to_owned();
        spec.value = exec.process;
        let _: api::Empty = self.task("Exec", &request, QUICK).await?;
        Ok(())
    }

    /// Starts a prepared process; gives its number.
    ///
    /// # Errors
    /// [`ShimError`]; refused as a wrong argument: it cannot be executed (no such file, ...), and has
    /// ended with code 128.
    pub async fn exec_start(&self, container: &str, exec: &str) -> Result<u32, ShimError> {
        let request = api::StartRequest {
            id: container.to_owned(),
            exec_id: exec.to_owned(),
            ..api::StartRequest::default()
        };
        let response: api::StartResponse = self.task("Start", &request, SLOW).await?;
        Ok(response.pid)
    }

    /// Waits for a process's end, without a deadline. What a terminal showed is in its FIFO by then,
    /// unless nobody took it for ten seconds.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn exec_wait(&self, container: &str, exec: &str) -> Result<Ended, ShimError> {
        let request = api::WaitRequest {
            id: container.to_owned(),
            exec_id: exec.to_owned(),
            ..api::WaitRequest::default()
        };
        let response: api::WaitResponse = self.task("Wait", &request, None).await?;
        Ok(Ended::new(response.exit_status, response.exited_at.as_ref()))
    }

    /// Signals a process, or with `all` all that it forked too.
    ///
    /// # Errors
    /// [`ShimError`]; refused as not found: it has ended.
    pub async fn exec_kill(
        &self,
        container: &str,
        exec: &str,
        signal: u32,
        all: bool,
    ) -> Result<(), ShimError> {
        let request = api::KillRequest {
            id: container.to_owned(),
            exec_id: exec.to_owned(),
            signal,
            all,
            ..api::KillRequest::default()
        };
        let _: api::Empty = self.task("Kill", &request, QUICK).await?;
        Ok(())
    }

    /// Makes the shim forget a process that has ended or was not started. What its terminal showed can
    /// still be read from the FIFO.
    ///
    /// # Errors
    /// [`ShimError`]; refused as a wrong state: it runs.
    pub async fn exec_delete(&self, container: &str, exec: &str) -> Result<Ended, ShimError> {
        let request = api::DeleteRequest {
            id: container.to_owned(),
            exec_id: exec.to_owned(),
            ..api::DeleteRequest::default()
        };
        let response: api::DeleteResponse = self.task("Delete", &request, QUICK).await?;
        Ok(Ended::new(response.exit_status, response.exited_at.as_ref()))
    }

    /// Sets the size of a terminal: of a process, or without one the container's own.
    ///
    /// # Errors
    /// [`ShimError`]; refused as a wrong state: it has no terminal.
    pub async fn resize(
        &self,
        container: &str,
        exec: Option<&str>,
        width: u16,
        height: u16,
    ) -> Result<(), ShimError> {
        let request = api::ResizePtyRequest {
            id: container.to_owned(),
            exec_id: exec.unwrap_or_default().to_owned(),
            width: width.into(),
            height: height.into(),
            ..api::ResizePtyRequest::default()
        };
        let _: api::Empty = self.task("ResizePty", &request, QUICK).await?;
        Ok(())
    }

    /// Ends the standard input of a process, or without one the container's own for good. Closing the
    /// FIFO does the same for a process; a terminal has no such end.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn close_input(&self, container: &str, exec: Option<&str>) -> Result<(), ShimError> {
        let request = api::CloseIORequest {
            id: container.to_owned(),
            exec_id: exec.unwrap_or_default().to_owned(),
            stdin: true,
            ..api::CloseIORequest::default()
        };
        let _: api::Empty = self.task("CloseIO", &request, QUICK).await?;
        Ok(())
    }

    /// Joins a running container's own streams; it is left by closing the FIFOs. The container's end
    /// closes them from the other side, after all of its output.
    ///
    /// # Errors
    /// [`ShimError`]; refused as a wrong state: it does not run, or has no open standard input.
    pub async fn attach(&self, attach: Attach) -> Result<Attached, ShimError> {
        let request = AttachRequest {
            container_id: attach.container_id,
            stdin: attach.stdin,
            stdout: attach.stdout,
            stderr: attach.stderr,
        };
        let response: AttachResponse = self.own(ATTACH, &request, Some(QUICK)).await?;
        Ok(Attached {
            terminal: response.terminal,
            stdin_once: response.stdin_once,
            stdin_closed: response.stdin_closed,
            attachment: (response.attachment != 0).then_some(response.attachment),
        })
    }

    /// Waits, without a deadline, until an attached client is let go because it did not take its output.
    ///
    /// # Errors
    /// [`ShimError`]; refused as not found: the container was deleted.
    pub async fn let_go(&self, container: &str, attachment: u32) -> Result<(), ShimError> {
        let request = WaitAttachedRequest { container_id: container.to_owned(), attachment };
        let _: Empty = self.own(WAIT_ATTACHED, &request, None).await?;
        Ok(())
    }
}
