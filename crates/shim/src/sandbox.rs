//! containerd's Sandbox API (containerd:api/runtime/sandbox/v1/sandbox.proto), as far as one shim per
//! pod has an answer: namespaces, network and mounts of the pod are the daemon's.

use crate::connection::ReplyTo;
use crate::launch::Handler;
use crate::serve::{Shim, bounded};
use crate::task::{decode, timestamp};
use crate::wire::{Payload, Refusal};
use containerd_shim_protos::sandbox_api as api;

impl Shim {
    /// One call; no payload means that its answer comes later.
    pub(crate) fn sandbox_call(
        &mut self,
        reply_to: ReplyTo,
        method: &str,
        payload: &[u8],
    ) -> Result<Option<Payload>, Refusal> {
        match method {
            "CreateSandbox" => {
                let request: api::CreateSandboxRequest = decode(payload)?;
                self.this_pod(&request.sandbox_id)?;
                now(&api::CreateSandboxResponse::new())
            }
            "StartSandbox" => {
                let request: api::StartSandboxRequest = decode(payload)?;
                self.this_pod(&request.sandbox_id)?;
                let mut response = api::StartSandboxResponse::new();
                response.pid = self.sandbox_pid();
                response.created_at = timestamp(self.created_at);
                now(&response)
            }
            "Platform" => {
                let request: api::PlatformRequest = decode(payload)?;
                self.this_pod(&request.sandbox_id)?;
                let mut response = api::PlatformResponse::new();
                let platform = response.platform.mut_or_insert_default();
                platform.os = "linux".to_owned();
                platform.architecture = match std::env::consts::ARCH {
                    "x86_64" => "amd64",
                    "aarch64" => "arm64",
                    other => other,
                }
                .to_owned();
                now(&response)
            }
            "StopSandbox" => {
                let request: api::StopSandboxRequest = decode(payload)?;
                self.this_pod(&request.sandbox_id)?;
                self.stop_all(reply_to, false)
            }
            "ShutdownSandbox" => {
                let request: api::ShutdownSandboxRequest = decode(payload)?;
                self.this_pod(&request.sandbox_id)?;
                self.stop_all(reply_to, true)
            }
            "WaitSandbox" => {
                let request: api::WaitSandboxRequest = decode(payload)?;
                self.this_pod(&request.sandbox_id)?;
                bounded(self.sandbox_waiters.len(), "WaitSandbox")?;
                self.sandbox_waiters.push(reply_to);
                Ok(None)
            }
            "SandboxStatus" => {
                let request: api::SandboxStatusRequest = decode(payload)?;
                self.this_pod(&request.sandbox_id)?;
                let mut response = api::SandboxStatusResponse::new();
                response.sandbox_id = self.id.clone();
                response.pid = self.sandbox_pid();
                response.state = "SANDBOX_READY".to_owned();
                response.created_at = timestamp(self.created_at);
                now(&response)
            }
            "PingSandbox" => {
                let request: api::PingRequest = decode(payload)?;
                self.this_pod(&request.sandbox_id)?;
                now(&api::PingResponse::new())
            }
            _ => Err(Refusal::unimplemented(&format!("method {method}"))),
        }
    }

    /// The pause process, or the shim where the pod has none.
    fn sandbox_pid(&self) -> u32 {
        self.pause.map_or_else(std::process::id, |pid| pid.as_raw_nonzero().get().unsigned_abs())
    }

    fn this_pod(&self, id: &str) -> Result<(), Refusal> {
        if id == self.id {
            return Ok(());
        }
        Err(Refusal::not_found(format!("sandbox_id: {id:?} is not the sandbox of this shim")))
    }

    /// Kills all containers and answers when the last end is told; `leave` then ends the shim.
    pub(crate) fn stop_all(&mut self, reply_to: ReplyTo, leave: bool) -> Result<Option<Payload>, Refusal> {
        bounded(self.stops.len(), "stop")?;
        for index in 0..self.containers.len() {
            let container = &self.containers[index];
            if container.is_alive() {
                let killed = container.process.cgroup().kill();
                killed.map_err(|e| Refusal::internal("kill the containers", &e))?;
                self.thaw(index)?;
            }
        }
        self.stops.push((reply_to, leave));
        self.finish_stops();
        Ok(None)
    }

    /// Answers the calls that wait for the end of all containers, once that has come.
    pub(crate) fn finish_stops(&mut self) {
        if self.stops.is_empty() || self.containers.iter().any(|container| container.exit().is_none()) {
            return;
        }
        let stops = std::mem::take(&mut self.stops);
        if stops.iter().any(|(_, leave)| *leave) {
            self.leave();
        }
        for waiter in std::mem::take(&mut self.sandbox_waiters) {
            self.reply(waiter, Payload::of(&api::WaitSandboxResponse::new()));
        }
        // All answers of these methods are empty messages.
        for (reply_to, _) in stops {
            self.reply(reply_to, Ok(Payload::default()));
        }
    }

    /// Removes what is the shim's own; the loop ends after this event.
    fn leave(&mut self) {
        self.sweep_cgroups();
        if let Handler::Shim(foreign) = &self.handler {
            // It stays as long as it knows a container.
            for container in &self.containers {
                container.process.removed().iter().for_each(|failed| self.log(failed));
            }
            foreign.end(&self.poll);
        }
        for container in &self.containers {
            if let Err(e) = container.process.cgroup().remove() {
                self.log(&format!("container {}: {}", container.id, crate::wire::chain(&e)));
            }
        }
        if let Some(pause) = self.pause.take() {
            // It ends with us in any case (its parent-death signal).
            let _ = sys::rustix::process::kill_process(pause, sys::rustix::process::Signal::KILL);
            let _ = sys::rustix::process::waitpid(Some(pause), sys::rustix::process::WaitOptions::empty());
        }
        self.leave_containerd();
        self.done = true;
    }
}

fn now(message: &impl protobuf::Message) -> Result<Option<Payload>, Refusal> {
    Payload::of(message).map(Some)
}
