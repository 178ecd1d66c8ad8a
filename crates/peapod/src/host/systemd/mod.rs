//! systemd as the maker of pods' cgroups: a pod is a transient scope, delegated to us.
//!
//! ```text
//! kubepods-burstable-podX.slice        the kubelet's, or the parent that is configured
//! └─ peapod-<pod id>.scope             the unit; systemd leaves alone what is beneath (Delegate=yes)
//!    ├─ hold                           a process that keeps the scope while no container runs
//!    ├─ <container id>                 as with cgroupfs
//!    └─ ...
//! ```
//!
//! A scope for each pod and not for each container: systemd takes a scope's group away at the end of
//! its last process, and with it what the kernel counted there; whether a container was killed for
//! want of memory would then be a race. As containers are no units, systemd changes none of their
//! limits either, whatever it reloads.
//!
//! The client speaks D-Bus itself: docs/dependencies.md says why.

mod bus;
mod error;
mod message;
#[cfg(test)]
mod tests;

pub(super) use error::BusError;

use bus::{Bus, MANAGER, PATIENCE};
use engine::host::{Fault, HostError};
use message::{Method, Value, Writer};
use std::{path::PathBuf, time::Duration};

/// Where the D-Bus specification has the system bus.
const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";
/// There while systemd is the machine's init (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";

/// systemd's manager on a bus. A connection is made for each job: none of them is in the way of another,
/// and nothing has to be taken up again when the bus was restarted.
#[derive(Clone, Debug)]
pub(super) struct Manager {
    socket: PathBuf,
    patience: Duration,
}

/// A scope to be made.
#[derive(Debug)]
pub(super) struct NewScope<'a> {
    pub(super) unit: &'a str,
    pub(super) slice: &'a str,
    pub(super) description: String,
    /// The process that is moved into it.
    pub(super) pid: u32,
}

impl Manager {
    /// This machine's.
    pub(super) fn of_the_host() -> Manager {
        Manager { socket: PathBuf::from(SYSTEM_BUS), patience: PATIENCE }
    }

    /// Makes a scope and waits until its process is in it. If there is such a unit already, it stays as
    /// it is, without the process.
    pub(super) fn start(&self, scope: &NewScope<'_>) -> Result<(), BusError> {
        let mut bus = Bus::connect(&self.socket, self.patience)?;
        bus.watch(scope.unit)?;
        let mut body = Writer::default();
        body.text(scope.unit);
        body.text("fail");
        body.properties(&properties(scope));
        // No further units.
        body.array(8, |_| {});
        let method = Method { member: "StartTransientUnit", signature: "ssa(sv)a(sa(sv))", ..MANAGER };
        match bus.call(method, &body) {
            Ok(begun) => bus.job(&begun, scope.unit),
            Err(error) if error.is_unit_exists() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Ends a scope with all that is in it, and waits until it is gone. None is gone.
    pub(super) fn stop(&self, unit: &str) -> Result<(), BusError> {
        let mut bus = Bus::connect(&self.socket, self.patience)?;
        bus.watch(unit)?;
        let mut body = Writer::default();
        body.text(unit);
        body.text("replace");
        let method = Method { member: "StopUnit", signature: "ss", ..MANAGER };
        match bus.call(method, &body) {
            Ok(begun) => bus.job(&begun, unit),
            Err(error) if error.is_no_such_unit() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// systemd.resource-control(5), systemd.scope(5).
fn properties(scope: &NewScope<'_>) -> Vec<(&'static str, Value)> {
    let on = |name| (name, Value::Flag(true));
    vec![
        ("Description", Value::Text(scope.description.clone())),
        ("Slice", Value::Text(scope.slice.to_owned())),
        ("PIDs", Value::Numbers(vec![scope.pid])),
        // All controllers, and nothing beneath is touched. An OOM kill of a container does not end the
        // scope then, either (OOMPolicy=continue).
        on("Delegate"),
        on("CPUAccounting"),
        on("MemoryAccounting"),
        on("TasksAccounting"),
        on("IOAccounting"),
        // The manager's own default would limit a pod to 15 % of the machine's tasks.
        ("TasksMax", Value::Number(u64::MAX)),
        // Pods outlive the ordering of a shutdown, as the daemon that they are of.
        ("DefaultDependencies", Value::Flag(false)),
        // Forgotten also when it failed, so that nobody has to reset it.
        ("CollectMode", Value::Text("inactive-or-failed".to_owned())),
    ]
}

/// Whether systemd is there to be asked.
///
/// # Errors
/// It is not.
pub(crate) fn is_running() -> Result<(), &'static str> {
    let booted = std::fs::symlink_metadata(BOOTED).is_ok();
    if booted {
        Ok(())
    } else {
        Err("systemd is not this machine's init: set [cgroup] driver = \"cgroupfs\"")
    }
}

/// The engine's error: a deadline is one, and the rest is the machine's.
pub(super) fn refused(doing: &'static str) -> impl FnOnce(BusError) -> HostError {
    move |error| {
        let fault = match &error {
            BusError::Deadline(_) => Fault::Deadline,
            BusError::Connect { .. }
            | BusError::Denied(_)
            | BusError::Io(_)
            | BusError::Protocol(_)
            | BusError::Refused { .. }
            | BusError::Job { .. } => Fault::Internal,
        };
        HostError::because(doing, fault, error)
    }
}
