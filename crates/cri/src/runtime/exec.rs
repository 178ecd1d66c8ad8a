//! ExecSync.

use super::Runtime;
use crate::{parse::Bad, status};
use api::cri;
use engine::Host;
use std::time::Duration;
use tonic::Status;

/// argv together; the kernel's own bound is a quarter of the stack limit (execve(2)).
const LARGEST_COMMAND: usize = 2 << 20;

impl<H: Host> Runtime<H> {
    pub(super) async fn exec_sync(
        &self,
        request: cri::ExecSyncRequest,
    ) -> Result<cri::ExecSyncResponse, Status> {
        // The object comes first: an unknown id is NotFound whatever else is wrong.
        self.engine.container(&request.container_id).map_err(|error| status::of_engine(&error))?;
        let refuse = |field: &str, reason: &str| status::of_request(&Bad::field(field, reason));
        if request.cmd.is_empty() || request.cmd[0].is_empty() {
            return Err(refuse("cmd", "is empty"));
        }
        if request.cmd.iter().any(|word| word.contains('\0')) {
            return Err(refuse("cmd", "holds a NUL"));
        }
        if request.cmd.iter().map(|word| word.len() + 1).sum::<usize>() > LARGEST_COMMAND {
            return Err(refuse("cmd", "is longer than 2 MiB"));
        }
        let timeout = match u64::try_from(request.timeout) {
            Ok(0) => None,
            Ok(seconds) => Some(Duration::from_secs(seconds.min(u64::from(u32::MAX)))),
            Err(_) => return Err(refuse("timeout", "is negative")),
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
}
