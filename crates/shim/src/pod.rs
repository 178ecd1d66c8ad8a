//! Our own service, `peapod.shim.v1.Pod`: what the daemon needs beyond containerd's API.

use crate::attach;
use crate::connection::ReplyTo;
use crate::fifo::{Address, Ends};
use crate::poll::Stream;
use crate::serve::{Shim, bounded};
use crate::wire::{Payload, Refusal, chain};
use std::time::Instant;
use ttrpc::proto::Code;
use types::shim::{
    ATTACH, AttachRequest, AttachResponse, EXEC_SYNC, Empty, ExecSyncRequest, FIFO_SCHEME, POD_STATE,
    PodStateResponse, REOPEN_LOG, ReopenLogRequest, WAIT_ATTACHED, WATCH, WaitAttachedRequest, WatchRequest,
    WatchResponse,
};

/// The address of an attached client's stream.
fn bound<'a>(field: &str, address: &'a str) -> Result<Address<'a>, Refusal> {
    match Address::parse(field, address)? {
        Address::Held(_) => Err(Refusal::invalid(format!("{field}: want {FIFO_SCHEME}<absolute path>"))),
        fine @ (Address::Nothing(_) | Address::Bound(_)) => Ok(fine),
    }
}

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
            ATTACH => self.attach(&decode(payload)?),
            WAIT_ATTACHED => self.wait_attached(reply_to, &decode(payload)?),
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

    /// Joins a container's streams; nothing is changed when any of them cannot be had.
    fn attach(&mut self, request: &AttachRequest) -> Result<Option<Payload>, Refusal> {
        let index = self.running(&request.container_id)?;
        self.spare_descriptors()?;
        let key = self.next_key();
        let container = &mut self.containers[index];
        if container.output.attached.len() >= attach::MOST {
            let text = format!("{} clients are attached to container {}", attach::MOST, container.id);
            return Err(Refusal::new(Code::RESOURCE_EXHAUSTED, text));
        }
        if !request.stderr.is_empty() && container.terminal.is_some() {
            return Err(Refusal::invalid("stderr: a terminal has none of its own"));
        }
        if !request.stdin.is_empty() && !container.input.is_asked() {
            let text = format!("stdin: container {} was created without an open one", container.id);
            return Err(Refusal::state(text));
        }
        let outputs = !request.stdout.is_empty() || !request.stderr.is_empty();
        if outputs && container.stdout.is_empty() && container.terminal.is_none() {
            return Err(Refusal::state(format!(
                "stdout: container {} was created without one",
                container.id
            )));
        }
        let stdin = Ends::input("stdin", bound("stdin", &request.stdin)?)?.own;
        let stdout = Ends::output("stdout", bound("stdout", &request.stdout)?)?.own;
        let stderr = Ends::output("stderr", bound("stderr", &request.stderr)?)?.own;
        let response = AttachResponse {
            terminal: container.terminal.is_some(),
            stdin_once: container.input.is_once(),
            stdin_closed: container.input.is_asked() && container.input.is_closed(),
            attachment: key,
        };
        // What is at its end already is closed with this call.
        let stdin = stdin.filter(|_| !container.input.is_closed());
        let stdout = stdout.filter(|_| container.output.is_open(Stream::Stdout));
        let stderr = stderr.filter(|_| container.output.is_open(Stream::Stderr));
        let attached = &mut container.output.attached;
        let added = attached.add(key, stdin, stdout, stderr, &self.poll);
        added.map_err(|e| Refusal::internal("watch the streams", &e))?;
        container.input.watch(attached, &self.poll);
        Ok(Some(Payload::own(&response)))
    }

    fn wait_attached(
        &mut self,
        reply_to: ReplyTo,
        request: &WaitAttachedRequest,
    ) -> Result<Option<Payload>, Refusal> {
        let index = self.find(&request.container_id)?;
        let waiting = &mut self.containers[index].let_go;
        bounded(waiting.len(), "WaitAttached")?;
        waiting.push((reply_to, request.attachment));
        Ok(None)
    }

    /// Lets clients go that did not read for too long, and tells them.
    pub(crate) fn let_slow_clients_go(&mut self, index: usize, now: Instant) {
        let container = &mut self.containers[index];
        let gone = container.output.attached.expire(now, &self.poll);
        if gone.is_empty() {
            return;
        }
        let text = format!(
            "container {}: {} attached clients did not read for {} s and were let go",
            container.id,
            gone.len(),
            attach::PATIENCE.as_secs()
        );
        let (told, others) =
            std::mem::take(&mut container.let_go).into_iter().partition(|(_, key)| gone.contains(key));
        container.let_go = others;
        self.log(&text);
        for (reply_to, _) in told {
            self.reply(reply_to, Ok(Payload::own(&Empty {})));
        }
        self.after_output(index);
        self.settle(index, now);
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
