//! A pod's scope of systemd, and the process that keeps it.

use super::{
    blocking::failed,
    pod::cgroup_path,
    systemd::{self, BusError, Manager, NewScope},
};
use cgroup::{Cgroup, Mounts, Version};
use engine::host::{Fault, HostError, PodPlan, Result, Scope};
use shimlink::Holder;
use std::time::Duration;

const MAKING: &str = "cannot make the pod's scope";
/// A scope's own sub-group, for the process that keeps it.
const HOLD: &str = "hold";
/// How long killed processes may take to be gone.
const KILLED_WITHIN: Duration = Duration::from_secs(10);

/// Whether the scope is there, with the process that keeps it.
pub(super) fn is_kept(mounts: &Mounts, plan: &PodPlan) -> Result<bool> {
    let path = cgroup_path(&plan.cgroup.path)?;
    let held = path.join(HOLD).map_err(failed(MAKING))?;
    let held = Cgroup::at(mounts, &held).processes().map_err(failed(MAKING))?;
    Ok(!held.is_empty())
}

/// The pod's scope, which `holder` keeps from then on.
pub(super) fn make(
    mounts: &Mounts,
    systemd: &Manager,
    plan: &PodPlan,
    scope: &Scope,
    holder: Holder,
) -> Result<()> {
    let new = NewScope {
        unit: &scope.unit,
        slice: &scope.slice,
        description: format!("peapod pod {}/{}", plan.spec.namespace, plan.spec.name),
        pid: holder.pid(),
    };
    // Containers keep a scope, too, whose holder was killed: then it is there already.
    systemd.start(&new).map_err(systemd::refused(MAKING))?;
    let path = cgroup_path(&plan.cgroup.path)?;
    let group = match mounts.version() {
        Version::V2 => Cgroup::open(mounts, &path),
        // systemd knows only some of the hierarchies.
        Version::V1 => Cgroup::create(mounts, &path, None),
    };
    let group = group.map_err(failed(MAKING))?;
    group.adopt(HOLD, holder.pid()).map_err(failed(MAKING))?;
    holder.stay().map_err(failed(MAKING))
}

/// A scope is its pod's alone: whatever is in it goes.
pub(super) fn drop(mounts: &Mounts, systemd: &Manager, plan: &PodPlan, scope: &Scope) -> Result<()> {
    const DOING: &str = "cannot remove the pod's scope";
    let group = Cgroup::at(mounts, &cgroup_path(&plan.cgroup.path)?);
    group.kill().map_err(failed(DOING))?;
    let gone = sys::wait::until(KILLED_WITHIN, || group.processes().map(|left| left.is_empty()));
    if !gone.map_err(failed(DOING))? {
        return Err(HostError::new(format!("{DOING}: some processes do not end"), Fault::Deadline));
    }
    let stopped = systemd.stop(&scope.unit);
    // systemd has removed what it knows of; the other hierarchies of v1 are ours.
    group.remove().map_err(failed(DOING))?;
    match stopped {
        Err(error @ BusError::Connect { .. }) => {
            // Without its group it is no unit for long, whenever systemd is there again.
            tracing::warn!(pod = %plan.id, unit = scope.unit, %error, "the scope is not stopped");
            Ok(())
        }
        other => other.map_err(systemd::refused(DOING)),
    }
}
