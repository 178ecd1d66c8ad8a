//! containerd's Task API (containerd:api/runtime/task/v3/shim.proto; version 2 has the same messages).

use crate::connection::ReplyTo;
use crate::container::{Container, State};
use crate::containerd::options;
use crate::framing::now_nanos;
use crate::input::Input;
use crate::launch::{self, NotStarted, Process};
use crate::output::Output;
use crate::serve::{Shim, bounded};
use crate::stdio::Streams;
use crate::wire::{Payload, Refusal, chain};
use cgroup::Cgroup;
use containerd_shim_protos::{api, protobuf::well_known_types::timestamp::Timestamp};
use protobuf::MessageField;
use std::path::PathBuf;
use sys::rustix::process::Signal;
use sys::rustix::termios::{Winsize, tcsetwinsize};
use ttrpc::proto::Code;
use types::shim::{ExitRecord, Phase};

/// Containers of one pod that one shim takes.
pub(crate) const MOST_CONTAINERS: usize = 1024;
/// The longest id that is taken.
pub(crate) const LONGEST_ID: usize = 128;

/// Reads a request.
pub(crate) fn decode<M: protobuf::Message>(payload: &[u8]) -> Result<M, Refusal> {
    M::parse_from_bytes(payload).map_err(|e| Refusal::invalid(format!("the message cannot be read: {e}")))
}

/// A moment as protobuf tells it; none for "never".
pub(crate) fn timestamp(nanos: i64) -> MessageField<Timestamp> {
    if nanos == 0 {
        return MessageField::none();
    }
    MessageField::some(Timestamp {
        seconds: nanos.div_euclid(1_000_000_000),
        nanos: i32::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or_default(),
        ..Timestamp::default()
    })
}

/// What a Wait call gets.
pub(crate) fn wait_response(record: &ExitRecord) -> Result<Payload, Refusal> {
    Payload::of(&api::WaitResponse {
        exit_status: record.code,
        exited_at: timestamp(record.exited_at),
        ..api::WaitResponse::default()
    })
}

fn now(message: &impl protobuf::Message) -> Result<Option<Payload>, Refusal> {
    Payload::of(message).map(Some)
}

/// The empty message.
fn done() -> Result<Option<Payload>, Refusal> {
    Ok(Some(Payload::default()))
}

impl Shim {
    /// One call; no payload means that its answer comes later.
    pub(crate) fn task_call(
        &mut self,
        reply_to: ReplyTo,
        method: &str,
        payload: &[u8],
    ) -> Result<Option<Payload>, Refusal> {
        match method {
            "State" => self.state(&decode(payload)?),
            "Create" => self.create(decode(payload)?),
            "Start" => self.start(&decode(payload)?),
            "Delete" => self.delete(&decode(payload)?),
            "Pids" => self.pids(&decode(payload)?),
            "Exec" => {
                self.exec(reply_to, decode(payload)?)?;
                done()
            }
            "Kill" => self.kill(&decode(payload)?),
            "ResizePty" => self.resize_pty(&decode(payload)?),
            "CloseIO" => self.close_io(&decode(payload)?),
            "Update" => self.update(&decode(payload)?),
            "Wait" => self.wait(reply_to, &decode(payload)?),
            "Connect" => self.connect(&decode(payload)?),
            "Shutdown" => self.shutdown(reply_to, &decode(payload)?),
            "Stats" => self.stats(&decode(payload)?),
            "Pause" => self.pause(&decode(payload)?),
            "Resume" => self.resume(&decode(payload)?),
            // Checkpoint among them.
            _ => Err(Refusal::unimplemented(&format!("method {method}"))),
        }
    }

    /// The container with this id.
    pub(crate) fn find(&self, id: &str) -> Result<usize, Refusal> {
        let found = self.containers.iter().position(|container| container.id == id);
        found.ok_or_else(|| {
            Refusal::not_found(format!("no container {:?}", id.chars().take(LONGEST_ID).collect::<String>()))
        })
    }

    /// The container with this id, which must run.
    pub(crate) fn running(&self, id: &str) -> Result<usize, Refusal> {
        let index = self.find(id)?;
        match &self.containers[index].state {
            State::Running if self.containers[index].paused => {
                Err(Refusal::state(format!("container {id} is paused")))
            }
            State::Running => Ok(index),
            State::Created => Err(Refusal::state(format!("container {id} is not started"))),
            State::Ending(_) | State::Exited(_) => Err(Refusal::state(format!("container {id} has ended"))),
        }
    }

    fn create(&mut self, request: api::CreateTaskRequest) -> Result<Option<Payload>, Refusal> {
        if request.id.is_empty() || request.id.len() > LONGEST_ID {
            return Err(Refusal::invalid(format!("id: want 1 to {LONGEST_ID} bytes")));
        }
        if self.find(&request.id).is_ok() {
            return Err(Refusal::new(Code::ALREADY_EXISTS, format!("id: container {} exists", request.id)));
        }
        if self.containers.len() >= MOST_CONTAINERS {
            return Err(Refusal::new(
                Code::RESOURCE_EXHAUSTED,
                format!("the pod has {MOST_CONTAINERS} containers"),
            ));
        }
        if !request.checkpoint.is_empty() {
            return Err(Refusal::unimplemented("checkpoint"));
        }
        if !self.stops.is_empty() {
            return Err(Refusal::state("the pod is stopping"));
        }
        let bundle = PathBuf::from(&request.bundle);
        if !bundle.is_absolute() {
            return Err(Refusal::invalid("bundle: want an absolute path"));
        }
        if request.rootfs.iter().any(|mount| !mount.target.is_empty()) {
            return Err(Refusal::unimplemented("rootfs: a mount with a target"));
        }
        options::check(request.options.as_ref(), &bundle)?;
        self.spare_descriptors()?;
        let client = self.next_key();
        let Streams { log, mut attached, held, wanted, once } = Streams::open(&request, client, &self.poll)?;
        let made = match launch::create(self, &request.id, &bundle, &request.rootfs, wanted) {
            Ok(made) => made,
            Err(refusal) => {
                attached.close(&self.poll);
                return Err(refusal);
            }
        };
        let launch::Made { process, stdout, stderr, input, terminal } = made;
        let pid = process.pid();
        let key = self.next_key();
        let mut output = Output::new(log, self.log_line, stdout, stderr);
        output.attached = attached;
        self.name_program(&bundle);
        self.tell_created(&request, pid);
        self.containers.push(Container {
            id: request.id,
            key,
            bundle,
            stdout: request.stdout,
            stderr: request.stderr,
            stdin: request.stdin,
            state: State::Created,
            process,
            oom_kills_before: 0,
            output,
            input: input.map_or_else(Input::default, |target| Input::new(key, target, once)),
            held,
            paused: false,
            terminal,
            started_at: 0,
            waiting: Vec::new(),
            let_go: Vec::new(),
            unsaved: false,
            retry_at: None,
        });
        let index = self.containers.len() - 1;
        let container = &mut self.containers[index];
        container.input.watch(&mut container.output.attached, &self.poll);
        self.after_output(index);
        now(&api::CreateTaskResponse { pid, ..api::CreateTaskResponse::default() })
    }

    fn start(&mut self, request: &api::StartRequest) -> Result<Option<Payload>, Refusal> {
        if !request.exec_id.is_empty() {
            let pid = self.start_session(&request.id, &request.exec_id)?;
            return now(&api::StartResponse { pid, ..api::StartResponse::default() });
        }
        let index = self.find(&request.id)?;
        let container = &mut self.containers[index];
        if !matches!(container.state, State::Created) {
            return Err(Refusal::state(format!("container {} is not waiting to be started", container.id)));
        }
        match container.process.start() {
            Ok(()) => {
                container.state = State::Running;
                container.started_at = now_nanos();
                let pid = container.process.pid();
                self.tell_started(&request.id, pid);
                now(&api::StartResponse { pid, ..api::StartResponse::default() })
            }
            // It was killed while it waited: that end is told as any other.
            Err(NotStarted::NotWaiting) => {
                Err(Refusal::state(format!("container {} has ended before its start", container.id)))
            }
            Err(NotStarted::Failed(message)) => {
                self.start_failed(index, message.clone());
                Err(Refusal::invalid(message))
            }
        }
    }

    fn kill(&mut self, request: &api::KillRequest) -> Result<Option<Payload>, Refusal> {
        let number = i32::try_from(request.signal).ok();
        let signal = number.and_then(sys::signalfd::by_number);
        let signal = signal.ok_or_else(|| Refusal::invalid(format!("signal: {} is none", request.signal)))?;
        if !request.exec_id.is_empty() {
            self.kill_session(request, signal)?;
            return done();
        }
        let index = self.find(&request.id)?;
        let container = &self.containers[index];
        if !container.is_alive() {
            return Err(Refusal::not_found(format!("container {}: its process has ended", container.id)));
        }
        let waits = matches!(container.state, State::Created);
        // Its program does not run yet, so nothing could handle the signal; and as the first process of
        // a PID namespace it would not even notice.
        let signal = if waits && ends(signal) { Signal::KILL } else { signal };
        let kills = container.process.cgroup().oom_kills().unwrap_or(0);
        container.process.kill(signal, request.all)?;
        if signal == Signal::KILL {
            self.containers[index].oom_kills_before = kills;
            // A frozen process ends only when it is thawed.
            self.thaw(index)?;
        }
        done()
    }

    fn delete(&mut self, request: &api::DeleteRequest) -> Result<Option<Payload>, Refusal> {
        if !request.exec_id.is_empty() {
            return now(&self.delete_session(request)?);
        }
        let index = self.find(&request.id)?;
        let container = &self.containers[index];
        let Some(record) = container.exit() else {
            return Err(Refusal::state(format!("container {} has not ended", container.id)));
        };
        let response = api::DeleteResponse {
            pid: container.process.pid(),
            exit_status: record.code,
            exited_at: timestamp(record.exited_at),
            ..api::DeleteResponse::default()
        };
        let cgroup = container.process.cgroup();
        // What came into the group since its end was told, if anything.
        let removed = cgroup.kill().and_then(|()| cgroup.remove());
        removed.map_err(|e| Refusal::internal("remove the cgroup", &e))?;
        self.end_sessions_of(self.containers[index].key);
        let mut container = self.containers.remove(index);
        container.input.close(&mut container.output.attached, &self.poll);
        container.output.unwatch(&self.poll);
        for (reply_to, _) in container.let_go {
            let text = format!("container {} was deleted", container.id);
            self.reply(reply_to, Err(Refusal::not_found(text)));
        }
        self.sweep_cgroups();
        for failed in container.process.removed() {
            self.log(&failed);
        }
        self.tell_deleted(&request.id, &response);
        now(&response)
    }

    fn state(&mut self, request: &api::StateRequest) -> Result<Option<Payload>, Refusal> {
        if !request.exec_id.is_empty() {
            return now(&self.session_state(request)?);
        }
        let container = &self.containers[self.find(&request.id)?];
        let status = match container.phase() {
            Phase::Created => api::Status::CREATED,
            Phase::Running if container.paused => api::Status::PAUSED,
            Phase::Running => api::Status::RUNNING,
            Phase::Exited => api::Status::STOPPED,
            Phase::Unknown => api::Status::UNKNOWN,
        };
        let exit = container.exit();
        now(&api::StateResponse {
            id: container.id.clone(),
            bundle: container.bundle.to_string_lossy().into_owned(),
            pid: container.pid(),
            status: status.into(),
            stdin: container.stdin.clone(),
            stdout: container.stdout.clone(),
            stderr: container.stderr.clone(),
            terminal: container.terminal.is_some(),
            exit_status: exit.map_or(0, |record| record.code),
            exited_at: timestamp(exit.map_or(0, |record| record.exited_at)),
            ..api::StateResponse::default()
        })
    }

    fn pids(&mut self, request: &api::PidsRequest) -> Result<Option<Payload>, Refusal> {
        let index = self.find(&request.id)?;
        let container = &self.containers[index];
        if self.is_containerds() && container.exit().is_some() {
            // No processes: a containerd that has just started would take that for a shim to be cleaned up,
            // and lose the exit code (containerd:core/runtime/v2/shim_load.go shouldCleanupShim).
            return Err(Refusal::state(format!("container {} has ended", container.id)));
        }
        let pids = container.process.cgroup().processes();
        let pids = pids.map_err(|e| Refusal::internal("list the processes", &e))?;
        let process = |pid: i32| api::ProcessInfo { pid: pid.unsigned_abs(), ..api::ProcessInfo::default() };
        now(&api::PidsResponse {
            processes: pids.into_iter().map(process).collect(),
            ..api::PidsResponse::default()
        })
    }

    fn resize_pty(&mut self, request: &api::ResizePtyRequest) -> Result<Option<Payload>, Refusal> {
        let side = |field: &str, value: u32| {
            u16::try_from(value).map_err(|_| Refusal::invalid(format!("{field}: {value} is more than 65535")))
        };
        let size = Winsize {
            ws_row: side("height", request.height)?,
            ws_col: side("width", request.width)?,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        if !request.exec_id.is_empty() {
            self.resize_session(request, size)?;
            return done();
        }
        let index = self.find(&request.id)?;
        let Some(terminal) = &self.containers[index].terminal else {
            return Err(Refusal::state(format!("container {} has no terminal", request.id)));
        };
        tcsetwinsize(terminal, size).map_err(|e| Refusal::internal("resize the terminal", &e))?;
        done()
    }

    fn close_io(&mut self, request: &api::CloseIORequest) -> Result<Option<Payload>, Refusal> {
        if !request.exec_id.is_empty() {
            if request.stdin {
                self.close_session_input(&request.id, &request.exec_id)?;
            }
            return done();
        }
        let index = self.find(&request.id)?;
        if request.stdin {
            let container = &mut self.containers[index];
            match &mut container.held {
                // What is in the FIFO already still comes, and then its end.
                Some(held) => held.end_input(),
                None => container.input.end(&mut container.output.attached, &self.poll),
            }
            container.input.watch(&mut container.output.attached, &self.poll);
        }
        done()
    }

    fn update(&mut self, request: &api::UpdateTaskRequest) -> Result<Option<Payload>, Refusal> {
        let index = self.find(&request.id)?;
        let container = &self.containers[index];
        if !container.is_alive() {
            return Err(Refusal::state(format!("container {} has ended", container.id)));
        }
        let bytes = request.resources.as_ref().map_or(&[][..], |any| any.value.as_slice());
        let mut resources: oci_spec::runtime::LinuxResources = serde_json::from_slice(bytes)
            .map_err(|e| Refusal::invalid(format!("resources: not the OCI linux.resources as JSON: {e}")))?;
        // containerd sends all of the specification's resources, the changed ones among them.
        if self.is_containerds() && resources.devices().is_some() {
            let spec = launch::read_spec(&container.bundle)?;
            let of_spec = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
            if of_spec.is_some_and(|own| own.devices() == resources.devices()) {
                resources.set_devices(None);
            }
        }
        let refuse = |e: cgroup::CgroupError| Refusal::invalid(format!("resources: {}", chain(&e)));
        let group = container.process.cgroup();
        // Our daemon keeps what was there by itself; containerd does not.
        let before =
            if self.is_containerds() { group.settings(&resources).map_err(refuse)? } else { Vec::new() };
        if let Err(refused) = group.update(&resources) {
            group.restore(&before).map_err(|e| Refusal::internal("bring the limits back", &e))?;
            return Err(refuse(refused));
        }
        done()
    }

    /// Freezes the container's processes.
    fn pause(&mut self, request: &api::PauseRequest) -> Result<Option<Payload>, Refusal> {
        let index = self.running(&request.id)?;
        let container = &mut self.containers[index];
        container.process.cgroup().freeze().map_err(|e| Refusal::internal("freeze the processes", &e))?;
        container.paused = true;
        self.tell_paused(&request.id);
        done()
    }

    /// Lets them go on.
    fn resume(&mut self, request: &api::ResumeRequest) -> Result<Option<Payload>, Refusal> {
        let index = self.find(&request.id)?;
        if !self.containers[index].paused {
            return Err(Refusal::state(format!("container {} is not paused", request.id)));
        }
        self.thaw(index)?;
        self.tell_resumed(&request.id);
        done()
    }

    /// Ends a pause, if there is one.
    pub(crate) fn thaw(&mut self, index: usize) -> Result<(), Refusal> {
        let container = &mut self.containers[index];
        if container.paused {
            container.process.cgroup().thaw().map_err(|e| Refusal::internal("thaw the processes", &e))?;
            container.paused = false;
        }
        Ok(())
    }

    fn wait(&mut self, reply_to: ReplyTo, request: &api::WaitRequest) -> Result<Option<Payload>, Refusal> {
        if !request.exec_id.is_empty() {
            return self.wait_session(reply_to, request);
        }
        let index = self.find(&request.id)?;
        let container = &mut self.containers[index];
        if let Some(record) = container.exit() {
            return wait_response(record).map(Some);
        }
        bounded(container.waiting.len(), "Wait")?;
        container.waiting.push(reply_to);
        Ok(None)
    }

    fn connect(&mut self, request: &api::ConnectRequest) -> Result<Option<Payload>, Refusal> {
        // An empty id asks for the shim alone, and so does containerd before there is such a container.
        let task_pid = match self.find(&request.id) {
            Ok(index) => self.containers[index].pid(),
            Err(_) if request.id.is_empty() || self.is_containerds() => 0,
            Err(refusal) => return Err(refusal),
        };
        now(&api::ConnectResponse {
            shim_pid: std::process::id(),
            task_pid,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..api::ConnectResponse::default()
        })
    }

    /// Ends the shim: with `now` all containers are killed first, without it none may be alive.
    fn shutdown(
        &mut self,
        reply_to: ReplyTo,
        request: &api::ShutdownRequest,
    ) -> Result<Option<Payload>, Refusal> {
        if self.is_containerds() && !self.containers.is_empty() && !request.now {
            // It is asked for with each of the pod's containers, and meant for the last one.
            return done();
        }
        if !request.now
            && let Some(alive) = self.containers.iter().find(|container| container.exit().is_none())
        {
            return Err(Refusal::state(format!("container {} has not ended", alive.id)));
        }
        self.stop_all(reply_to, true)
    }
}

/// Whether a process that does not handle the signal ends by it (signal(7)).
fn ends(signal: Signal) -> bool {
    let goes_on = [Signal::CHILD, Signal::URG, Signal::WINCH, Signal::CONT];
    let stops = [Signal::STOP, Signal::TSTP, Signal::TTIN, Signal::TTOU];
    !goes_on.contains(&signal) && !stops.contains(&signal)
}

impl Process {
    /// Signals the container's first process, or all of them.
    fn kill(&self, signal: Signal, all: bool) -> Result<(), Refusal> {
        if !all {
            let sent = sys::pidfd::send_signal(self.pidfd(), signal);
            return match sent {
                Ok(true) => Ok(()),
                // It ended, and the loop has not reaped it yet.
                Ok(false) => Err(Refusal::not_found("its process has ended")),
                Err(e) => Err(Refusal::internal("signal the process", &e)),
            };
        }
        kill_group(self.cgroup(), signal)
    }
}

/// Signals all processes of a group.
pub(crate) fn kill_group(group: &Cgroup, signal: Signal) -> Result<(), Refusal> {
    group.signal(signal).map_err(|e| Refusal::internal("signal the processes", &e))
}
