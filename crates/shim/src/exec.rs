//! A command in a container whose output is captured: in a cgroup of its own, so that at the timeout
//! its whole process tree is killed, whatever it forked.
//!
//! After the command's end the pipes are read on while a background child holds them, at most for the
//! time that the caller gives. A child that still holds them then is killed: it would write into
//! nothing. A background child that closed them goes on as a process of the container, as with other
//! runtimes.

use crate::capture::Capture;
use crate::connection::ReplyTo;
use crate::launch::{self, Further};
use crate::output::{Progress, ROUNDS};
use crate::poll::{Interest, Source, Stream};
use crate::serve::Shim;
use crate::wire::{Payload, Refusal, chain, varint};
use cgroup::Cgroup;
use prost::Message as _;
use std::time::{Duration, Instant};
use sys::rustix::process::Pid;
use ttrpc::proto::Code;
use types::shim::{ExecSyncRequest, ExecSyncResponse};

/// Commands that run at once in one pod.
const MOST: usize = 128;
/// The largest `output_cap` that is taken: 16 MiB, as in CRI-O.
const CAP: usize = 16 << 20;
/// The longest drain that is taken.
const LONGEST_DRAIN: Duration = Duration::from_secs(60);

/// cgroups looked at when a process has ended.
const SWEPT: usize = 16;

/// A command.
#[derive(Debug)]
pub(crate) struct Exec {
    /// Its name among the sources of events.
    pub(crate) key: u32,
    pid: Pid,
    cgroup: Cgroup,
    /// None once it is answered.
    reply_to: Option<ReplyTo>,
    stdout: Capture,
    stderr: Capture,
    timeout: Option<Instant>,
    drain: Duration,
    /// Set when the command ended or was killed: when it is answered at the latest.
    until: Option<Instant>,
    /// How it ended, once it is reaped.
    code: Option<u32>,
    timed_out: bool,
}

impl Exec {
    /// When the loop has to look at it again.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.reply_to.and([self.timeout, self.until].into_iter().flatten().min())
    }

    fn stream(&mut self, stream: Stream) -> &mut Capture {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    /// Whether somebody still holds a pipe.
    fn is_open(&self) -> bool {
        self.stdout.fd().is_some() || self.stderr.fd().is_some()
    }
}

impl Shim {
    /// Starts a command; its answer comes later.
    pub(crate) fn exec_sync(
        &mut self,
        reply_to: ReplyTo,
        request: &ExecSyncRequest,
    ) -> Result<Option<Payload>, Refusal> {
        if self.execs.len() >= MOST {
            return Err(Refusal::new(Code::RESOURCE_EXHAUSTED, format!("{MOST} commands run in this pod")));
        }
        if request.command.is_empty() {
            return Err(Refusal::invalid("command: is empty"));
        }
        self.spare_descriptors()?;
        let key = self.next_key();
        let index = self.running(&request.container_id)?;
        let container = &self.containers[index];
        let process = &container.process;
        let internal = |what: &'static str| move |e: std::io::Error| Refusal::internal(what, &e);
        let sub = process
            .cgroup()
            .sub(&format!("exec-{key}"))
            .map_err(|e| Refusal::internal("make a cgroup", &e))?;
        let (stdout, out_end) = launch::output_pipe().map_err(internal("make a pipe"))?;
        let (stderr, err_end) = launch::output_pipe().map_err(internal("make a pipe"))?;
        let stdin = crate::logfile::null().map_err(internal("open /dev/null"))?;
        let stdio = runner::Stdio::Files { stdin, stdout: out_end, stderr: err_end };
        let made = process.exec(self, &container.bundle, Further::Command(&request.command), stdio, &sub);
        let pid = match made {
            Ok((pid, _)) => pid,
            Err(refusal) => {
                self.forget_cgroup(sub);
                return Err(refusal);
            }
        };
        let cap = usize::try_from(request.output_cap).unwrap_or(CAP).min(CAP);
        let timeout = (request.timeout_nanos > 0).then(|| Duration::from_nanos(request.timeout_nanos));
        let exec = Exec {
            key,
            pid,
            cgroup: sub,
            reply_to: Some(reply_to),
            stdout: Capture::new(stdout, cap),
            stderr: Capture::new(stderr, cap),
            // A timeout beyond the clock's range is none.
            timeout: timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
            drain: Duration::from_nanos(request.drain_nanos).min(LONGEST_DRAIN),
            until: None,
            code: None,
            timed_out: false,
        };
        for (capture, stream) in [(&exec.stdout, Stream::Stdout), (&exec.stderr, Stream::Stderr)] {
            let Some(fd) = capture.fd() else { continue };
            self.poll.add(fd, Source::Exec(key, stream), Interest::READ).map_err(internal("watch a pipe"))?;
        }
        self.execs.push(exec);
        Ok(None)
    }

    /// Output of a command.
    pub(crate) fn exec_readable(&mut self, key: u32, stream: Stream) {
        if let Some(index) = self.execs.iter().position(|exec| exec.key == key) {
            self.capture(index, stream);
            self.advance_exec(index, Instant::now());
        }
    }

    /// Reads one stream of a command once.
    fn capture(&mut self, index: usize, stream: Stream) -> Progress {
        let capture = self.execs[index].stream(stream);
        let progress = capture.read(&mut self.scratch, &mut self.spent);
        if progress == Progress::Ended
            && let Some(fd) = capture.fd()
        {
            self.poll.remove(fd);
            capture.close();
        }
        progress
    }

    /// A child that is no container's first process has ended: a command, or an orphan that nobody
    /// waits for.
    pub(crate) fn exec_ended(&mut self, pid: Pid, code: u32) {
        let found = self.execs.iter().position(|exec| exec.pid == pid && exec.code.is_none());
        let Some(index) = found else { return };
        for stream in [Stream::Stdout, Stream::Stderr] {
            // A background child that never stops writing must not hold the loop.
            let mut rounds = ROUNDS;
            while rounds > 0 && self.capture(index, stream) == Progress::More {
                rounds -= 1;
            }
        }
        let exec = &mut self.execs[index];
        exec.code = Some(code);
        exec.timeout = None;
        exec.until.get_or_insert(Instant::now() + exec.drain);
        self.advance_exec(index, Instant::now());
    }

    /// Looks at each command whose time may be over.
    pub(crate) fn execs_on_time(&mut self, now: Instant) {
        let mut index = 0;
        while index < self.execs.len() {
            let before = self.execs.len();
            self.advance_exec(index, now);
            if self.execs.len() == before {
                index += 1;
            }
        }
    }

    /// Brings a command forward: timeout, drain, answer. Forgets it when it is answered and reaped.
    fn advance_exec(&mut self, index: usize, now: Instant) {
        let exec = &mut self.execs[index];
        if exec.timeout.is_some_and(|at| at <= now) {
            exec.timeout = None;
            exec.timed_out = true;
            exec.until = Some(now + exec.drain);
            self.kill_exec(index);
        }
        let exec = &mut self.execs[index];
        let over = exec.until.is_some_and(|at| at <= now);
        let finished = exec.code.is_some() && !exec.is_open();
        if exec.reply_to.is_some() && (finished || over) {
            if !finished {
                self.kill_exec(index);
            }
            self.answer_exec(index);
        }
        let exec = &self.execs[index];
        if exec.reply_to.is_none() && exec.code.is_some() {
            let exec = self.execs.swap_remove(index);
            self.forget_cgroup(exec.cgroup);
        }
    }

    fn kill_exec(&mut self, index: usize) {
        if let Err(e) = self.execs[index].cgroup.kill() {
            let text = format!("kill a command's processes: {}", chain(&e));
            self.log(&text);
        }
    }

    fn answer_exec(&mut self, index: usize) {
        let exec = &mut self.execs[index];
        for stream in [Stream::Stdout, Stream::Stderr] {
            let capture = exec.stream(stream);
            if let Some(fd) = capture.fd() {
                self.poll.remove(fd);
            }
            capture.close();
        }
        let Some(reply_to) = exec.reply_to.take() else { return };
        let (stdout, stderr) =
            (std::mem::take(&mut exec.stdout.bytes), std::mem::take(&mut exec.stderr.bytes));
        self.spent -= stdout.len() + stderr.len();
        let code = exec.code.unwrap_or(137);
        let timed_out = exec.timed_out;
        self.reply(reply_to, Ok(response(stdout, stderr, code, timed_out)));
    }

    /// Removes the cgroup of a command, now or when its last process has ended.
    pub(crate) fn forget_cgroup(&mut self, cgroup: Cgroup) {
        if !is_removed(&cgroup) {
            self.leftovers.push_back(cgroup);
        }
    }

    /// Removes the cgroups of commands that are empty by now. A few at a time: there may be as many as
    /// commands left something running, and the next end of a process looks at the next ones.
    pub(crate) fn sweep_cgroups(&mut self) {
        for _ in 0..self.leftovers.len().min(SWEPT) {
            if let Some(cgroup) = self.leftovers.pop_front() {
                self.forget_cgroup(cgroup);
            }
        }
    }
}

/// Removes a group unless processes are in it: removing would wait for them.
pub(crate) fn is_removed(group: &Cgroup) -> bool {
    match group.processes() {
        Ok(processes) if !processes.is_empty() => false,
        Ok(_) | Err(_) => group.remove().is_ok(),
    }
}

/// An [`ExecSyncResponse`] in parts, so that its outputs (up to 32 MiB) are not copied.
fn response(stdout: Vec<u8>, stderr: Vec<u8>, code: u32, timed_out: bool) -> Payload {
    let exit_code = i32::try_from(code).unwrap_or(i32::MAX);
    let rest = ExecSyncResponse { exit_code, timed_out, ..ExecSyncResponse::default() };
    let lead = |tag: u8, bytes: &[u8]| {
        let mut lead = Vec::new();
        if !bytes.is_empty() {
            lead.push(tag << 3 | 2);
            varint(bytes.len(), &mut lead);
        }
        lead
    };
    Payload(vec![lead(1, &stdout), stdout, lead(2, &stderr), stderr, rest.encode_to_vec()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_in_parts_is_the_message() {
        for (stdout, stderr, code, timed_out) in
            [(vec![], vec![], 0, false), (vec![1; 300], vec![], 137, true), (vec![], vec![2], 1, false)]
        {
            let bytes = response(stdout.clone(), stderr.clone(), code, timed_out).0.concat();
            let message = ExecSyncResponse::decode(bytes.as_slice()).expect("decode");
            let exit_code = i32::try_from(code).expect("small");
            assert_eq!(message, ExecSyncResponse { stdout, stderr, exit_code, timed_out });
        }
    }
}
