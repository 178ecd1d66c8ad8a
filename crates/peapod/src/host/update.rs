//! Limits of a container that is there: its cgroup's, and its processes' weight for the OOM killer.

use super::{blocking::failed, pod};
use cgroup::{Cgroup, CgroupError, Mounts, Setting};
use engine::host::{ContainerPlan, Fault, HostError, LimitChange, Limits, Result};
use std::{fs, io::Write as _};
use sys::rustix::io::Errno;

const READING: &str = "cannot read the container's limits";
const SETTING: &str = "cannot set the container's limits";

fn group(mounts: &Mounts, plan: &ContainerPlan) -> Result<Cgroup> {
    Ok(Cgroup::at(mounts, &pod::cgroup_path(&plan.cgroup)?))
}

/// What the kernel does not take, or what this machine does not have, is told of the request.
fn limit_error(doing: &'static str) -> impl FnOnce(CgroupError) -> HostError {
    move |error| {
        let invalid = match &error {
            CgroupError::BadValue { .. } | CgroupError::NoController { .. } => true,
            CgroupError::Io { source, .. } => {
                matches!(*source, Errno::INVAL | Errno::RANGE | Errno::NOSPC | Errno::BUSY)
            }
            CgroupError::BadPath { .. }
            | CgroupError::NoHierarchy { .. }
            | CgroupError::Busy { .. }
            | CgroupError::Bpf { .. } => false,
        };
        if invalid { HostError::because(doing, Fault::Invalid("linux"), error) } else { failed(doing)(error) }
    }
}

/// What the change will overwrite.
pub(super) fn limits(mounts: &Mounts, plan: &ContainerPlan, change: &LimitChange) -> Result<Limits> {
    let group = group(mounts, plan)?;
    let settings = group.settings(&change.resources).map_err(limit_error(READING))?;
    let oom_score_adj = match change.oom_score_adj {
        Some(_) => group.processes().map_err(failed(READING))?.into_iter().find_map(oom_score_adj),
        None => None,
    };
    let files = settings.into_iter().map(|s| (s.controller, s.file, s.content)).collect();
    Ok(Limits { files, oom_score_adj })
}

/// The cgroup's limits first: they are what may be refused.
pub(super) fn set(mounts: &Mounts, plan: &ContainerPlan, change: &LimitChange) -> Result<()> {
    let group = group(mounts, plan)?;
    group.update(&change.resources).map_err(limit_error(SETTING))?;
    match change.oom_score_adj {
        Some(value) => set_oom_score_adj(&group, value),
        None => Ok(()),
    }
}

/// Back to what was there.
pub(super) fn restore(mounts: &Mounts, plan: &ContainerPlan, before: &Limits) -> Result<()> {
    let group = group(mounts, plan)?;
    let settings: Vec<Setting> = before
        .files
        .iter()
        .map(|(controller, file, content)| Setting {
            controller: controller.clone(),
            file: file.clone(),
            content: content.clone(),
        })
        .collect();
    group.restore(&settings).map_err(failed("cannot restore the container's limits"))?;
    match before.oom_score_adj {
        Some(value) => set_oom_score_adj(&group, value),
        None => Ok(()),
    }
}

fn oom_score_adj(pid: i32) -> Option<i32> {
    fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).ok()?.trim().parse().ok()
}

/// Of every process of the group, also of those that are forked meanwhile (they inherit it). Below
/// what a process has only CAP_SYS_RESOURCE leads: without it the value stays, as at the start.
fn set_oom_score_adj(group: &Cgroup, value: i32) -> Result<()> {
    let mut done = std::collections::BTreeSet::new();
    loop {
        let new: Vec<i32> = group
            .processes()
            .map_err(failed(SETTING))?
            .into_iter()
            .filter(|pid| !done.contains(pid))
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        for pid in new {
            done.insert(pid);
            let file = fs::OpenOptions::new().write(true).open(format!("/proc/{pid}/oom_score_adj"));
            match file.and_then(|mut file| file.write_all(value.to_string().as_bytes())) {
                Ok(()) => {}
                // It has ended meanwhile, or must not be lowered.
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::NOENT | Errno::SRCH | Errno::ACCESS | Errno::PERM) => {}
                    Some(_) | None => return Err(failed(SETTING)(error)),
                },
            }
        }
    }
}
