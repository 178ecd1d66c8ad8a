//! Our own service, `peapod.shim.v1.Pod`: what the daemon needs beyond containerd's API.

use crate::connection::ReplyTo;
use crate::serve::{Shim, bounded};
use crate::wire::{Payload, Refusal, chain};
use types::shim::{
    EXEC_SYNC, Empty, ExecSyncRequest, POD_STATE, PodStateResponse, REOPEN_LOG, ReopenLogRequest, WATCH,
    WatchRequest, WatchResponse,
};

fn decode<M: prost::Message + Default>(payload: &[u8]) -> Result<M, Refusal> {
    M::decode(payload).map_err(|e| Refusal::invalid(format!("the message cannot be read: {e}")))
}

impl Shim {
    /// One call; no payload means that its answer comes later.
    pub(crate) fn pod_call(
        &mut self,
        reply_to: ReplyTo,
        method: &str,
        payload: &[u8],
    ) -> Result<Option<Payload>, Refusal> {
        match method {
            WATCH => self.watch(reply_to, &decode(payload)?),
            EXEC_SYNC => self.exec_sync(reply_to, &decode::<ExecSyncRequest>(payload)?),
            REOPEN_LOG => self.reopen_log(&decode(payload)?),
            POD_STATE => Ok(Some(Payload::own(&self.pod_state()))),
            _ => Err(Refusal::unimplemented(&format!("method {method}"))),
        }
    }

    fn watch(&mut self, reply_to: ReplyTo, request: &WatchRequest) -> Result<Option<Payload>, Refusal> {
        let exits = self.exits_after(request.after);
        if !exits.is_empty() {
            return Ok(Some(Payload::own(&WatchResponse { exits })));
        }
        bounded(self.watchers.len(), "Watch")?;
        self.watchers.push((reply_to, request.after));
        Ok(None)
    }

    fn reopen_log(&mut self, request: &ReopenLogRequest) -> Result<Option<Payload>, Refusal> {
        let index = self.find(&request.container_id)?;
        let reopened = self.containers[index].output.reopen(&mut self.scratch);
        reopened.map_err(|e| Refusal::state(chain(&e)))?;
        self.after_output(index);
        Ok(Some(Payload::own(&Empty {})))
    }

    fn pod_state(&self) -> PodStateResponse {
        PodStateResponse {
            shim_pid: std::process::id(),
            pause_pid: self.pause.map_or(0, |pid| pid.as_raw_nonzero().get().unsigned_abs()),
            containers: self.containers.iter().map(|container| container.view()).collect(),
            last_exit: self.exits,
        }
    }
}
