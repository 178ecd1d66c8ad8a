//! Ends of processes: SIGCHLD, then every child that can be reaped. The shim is a subreaper, so that
//! what a container or a command leaves behind outside a PID namespace comes here and not to a
//! stranger.

use crate::container::{DRAIN, Ending, RETRY, State};
use crate::exitfile;
use crate::foreign::Foreign;
use crate::framing::now_nanos;
use crate::launch::{Handler, Process};
use crate::oom;
use crate::serve::Shim;
use crate::wire::{Payload, chain};
use std::rc::Rc;
use std::time::{Duration, Instant};
use sys::rustix::io::Errno;
use sys::rustix::process::{Pid, Signal, WaitOptions, WaitStatus, wait};
use types::shim::{ExitRecord, WatchResponse};

/// Exit code of a container whose program could not be executed, as in containerd.
pub(crate) const START_FAILED: u32 = 128;
/// How long the end of a process that was killed, and is not ours to reap, is waited for.
const LOST_WITHIN: Duration = Duration::from_secs(2);
/// 128 + SIGKILL.
pub(crate) const KILLED: u32 = 137;

/// Exit status as a shell gives it: the code, or 128 + signal.
fn code_of(status: WaitStatus) -> u32 {
    let code = status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal));
    code.map_or(255, i32::unsigned_abs)
}

impl Shim {
    /// Reaps all that can be reaped.
    pub(crate) fn reap(&mut self) {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => self.ended(pid, code_of(status), status.signaled()),
                Err(Errno::INTR) => {}
                // Nobody is left, or nobody has ended.
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// What the handler's shim told since it was last looked at.
    pub(crate) fn handler_news(&mut self, now: Instant) {
        let Handler::Shim(foreign) = &self.handler else { return };
        let foreign = Rc::clone(foreign);
        for (pid, code) in foreign.take_ended(&self.poll) {
            self.ended(pid, code, code == KILLED);
        }
        foreign.on_time(now);
        if foreign.is_broken() {
            self.handler_gone(&foreign);
        }
    }

    /// The handler's shim has ended, and with it whoever reads what its containers write: they end too. This shim
    /// reaps those that nobody has reaped.
    fn handler_gone(&mut self, foreign: &Foreign) {
        self.log("the handler's shim has ended or hangs: its containers are killed");
        let left = foreign.give_up(&self.poll);
        for container in &self.containers {
            if let Process::Shim(process) = &container.process
                && let Err(e) = process.cgroup().kill()
            {
                self.log(&format!("container {}: kill: {}", container.id, chain(&e)));
            }
        }
        for wait in left {
            if let Some(pidfd) = &wait.pidfd {
                let _ = sys::pidfd::send_signal(pidfd, Signal::KILL);
                if sys::pidfd::is_child(pidfd) == Ok(true) {
                    continue;
                }
                let _ = sys::pidfd::ended_within(pidfd, LOST_WITHIN);
            }
            let number = wait.pid.as_raw_nonzero().get().unsigned_abs();
            match self.containers.iter().position(|c| c.is_alive() && c.process.pid() == number) {
                Some(index) => {
                    let message = "the handler's shim ended and did not tell how this process did".to_owned();
                    self.container_ended(index, KILLED, false, message);
                }
                None => self.ended(wait.pid, KILLED, true),
            }
        }
    }

    fn ended(&mut self, pid: Pid, code: u32, by_signal: bool) {
        if self.pause == Some(pid) {
            // The kernel killed every container of the namespace with it; their ends come by themselves.
            self.pause = None;
            self.log("the pause process ended");
            return;
        }
        let number = pid.as_raw_nonzero().get().unsigned_abs();
        let found = self.containers.iter().position(|c| c.is_alive() && c.process.pid() == number);
        match found {
            Some(index) => self.container_ended(index, code, by_signal, String::new()),
            None if self.session_ended(pid, code) => {}
            None => self.exec_ended(pid, code),
        }
    }

    /// The program of a container could not be executed: it ends without having started.
    pub(crate) fn start_failed(&mut self, index: usize, message: String) {
        self.container_ended(index, START_FAILED, false, message);
    }

    /// The first process of a container has ended: nothing of it may go on, and what it wrote is
    /// brought to the log before its end is told.
    fn container_ended(&mut self, index: usize, code: u32, by_signal: bool, message: String) {
        let container = &mut self.containers[index];
        if let Err(e) = container.process.cgroup().kill() {
            let text = format!("container {}: kill what its process left: {}", container.id, chain(&e));
            self.log(&text);
        }
        let container = &mut self.containers[index];
        // A kill for want of memory is told as such when it (or the shell that passes it on) ended it.
        let end = oom::End { pid: container.process.pid(), by_signal, before: container.oom_kills_before };
        let cause = if code == KILLED { oom::cause(container.process.cgroup(), end) } else { None };
        let (oom_killed, message) = (cause.is_some(), cause.unwrap_or(message));
        container.input.close(&mut container.output.attached, &self.poll);
        let until = Instant::now() + DRAIN;
        container.state = State::Ending(Ending { code, at: now_nanos(), oom_killed, message, until });
        self.settle(index, Instant::now());
    }

    /// Tells the end of a container if its output is written or its time is over.
    pub(crate) fn settle(&mut self, index: usize, now: Instant) {
        let container = &mut self.containers[index];
        let State::Ending(ending) = &mut container.state else { return };
        let written = container.output.drain(&self.poll, &mut self.scratch);
        if !written && now < ending.until {
            self.after_output(index);
            return;
        }
        self.exits += 1;
        let mut message = std::mem::take(&mut ending.message);
        let trouble = container.output.trouble();
        if !trouble.is_empty() {
            if !message.is_empty() {
                message.push_str("; ");
            }
            message.push_str(&trouble);
        }
        let mut record = ExitRecord {
            container_id: container.id.clone(),
            code: ending.code,
            exited_at: ending.at,
            oom_killed: ending.oom_killed,
            sequence: self.exits,
            message,
        };
        // On disk first. If it cannot be, a daemon that waits for ever would be worse than one that is
        // told: it hears why, and the write is tried again.
        if let Err(e) = exitfile::write(&container.bundle, &record) {
            container.unsaved = true;
            container.retry_at = Some(now + RETRY);
            record.message.push_str(&format!("; the exit record is not on disk: {e}"));
        }
        container.terminal = None;
        container.state = State::Exited(record.clone());
        let waiting = std::mem::take(&mut container.waiting);
        let pid = container.process.pid();
        self.after_output(index);
        self.tell_exit(pid, &record);
        for reply_to in waiting {
            let answer = crate::task::wait_response(&record);
            self.reply(reply_to, answer);
        }
        self.tell_watchers();
        self.finish_stops();
    }

    /// Brings the poll and the retries in step with the state of a container's output.
    pub(crate) fn after_output(&mut self, index: usize) {
        let container = &mut self.containers[index];
        let stuck = container.output.is_stuck();
        if let Err(e) = container.output.watch(&self.poll, container.key) {
            let text = format!("container {}: watch its output: {e}", container.id);
            self.log(&text);
        }
        let container = &mut self.containers[index];
        container.let_fifos_go(Instant::now());
        if stuck || container.unsaved {
            container.retry_at.get_or_insert_with(|| Instant::now() + RETRY);
        } else {
            container.retry_at = None;
        }
    }

    /// Tries again what could not be written.
    pub(crate) fn retry(&mut self, index: usize, now: Instant) {
        let container = &mut self.containers[index];
        container.retry_at = None;
        container.output.retry(&mut self.scratch);
        if container.unsaved
            && let State::Exited(record) = &container.state
        {
            container.unsaved = exitfile::write(&container.bundle, record).is_err();
        }
        self.after_output(index);
        self.settle(index, now);
    }

    /// Answers those whose last known exit is not the newest.
    pub(crate) fn tell_watchers(&mut self) {
        let mut index = 0;
        while index < self.watchers.len() {
            let (reply_to, after) = self.watchers[index];
            let exits = self.exits_after(after);
            if exits.is_empty() {
                index += 1;
            } else {
                self.watchers.swap_remove(index);
                self.reply(reply_to, Ok(Payload::own(&WatchResponse { exits })));
            }
        }
    }

    /// The exits after `after`, oldest first.
    pub(crate) fn exits_after(&self, after: u64) -> Vec<ExitRecord> {
        let known = self.containers.iter().filter_map(|container| container.exit());
        let mut exits: Vec<ExitRecord> = known.filter(|record| record.sequence > after).cloned().collect();
        exits.sort_by_key(|record| record.sequence);
        exits
    }
}
