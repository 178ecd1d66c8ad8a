//! The PID namespace of another container (`TARGET`): that it was really that one which was joined.

use super::blocking::failed;
use engine::host::{ContainerPlan, Fault, HostError, OciSpec, PodPlan, Result};
use oci_spec::runtime::LinuxNamespaceType;
use std::{fs, path::Path};
use types::container::PidMode;

/// The target is named by a process id, which another process may have by the time it is looked at. So
/// it is checked afterwards: whose namespace the new process `pid` is in, that process is the target's.
pub(super) fn check(pod: &PodPlan, plan: &ContainerPlan, spec: &OciSpec, pid: u32) -> Result<()> {
    let PidMode::Target(id) = &plan.spec.security.namespaces.pid else { return Ok(()) };
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let path = namespaces
        .into_iter()
        .flatten()
        .find(|namespace| namespace.typ() == LinuxNamespaceType::Pid)
        .and_then(|namespace| namespace.path().as_deref());
    let Some(path) = path else { return Err(gone()) };
    let own = fs::read_link(format!("/proc/{pid}/ns/pid"))
        .map_err(failed("cannot look at the PID namespace of the new process"))?;
    // In this order: what was in that namespace and is in the target's group still is the target.
    let joined = fs::read_link(path).map_err(|_| gone())? == own;
    let groups = path.parent().and_then(Path::parent).map(|process| process.join("cgroup"));
    let groups = fs::read_to_string(groups.unwrap_or_default()).map_err(|_| gone())?;
    if joined && is_in(&groups, &pod.cgroup.path, id) { Ok(()) } else { Err(gone()) }
}

/// Whether a line of proc_pid_cgroup(5) is the group of the pod's container whose id begins so, or one
/// beneath.
fn is_in(groups: &str, pod: &str, container: &str) -> bool {
    groups
        .lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .filter_map(|group| group.strip_prefix(pod)?.strip_prefix('/'))
        .any(|group| group.starts_with(container))
}

fn gone() -> HostError {
    HostError::new("the target container ended before its PID namespace could be joined", Fault::Precondition)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_of_another_container_is_not_the_target() {
        let groups = "12:cpu,cpuacct:/kubepods/pod1/abc/inner\n0::/\n";
        assert!(is_in(groups, "/kubepods/pod1", "abc") && is_in(groups, "/kubepods/pod1", "ab"));
        for (pod, id) in [("/kubepods/pod", "1"), ("/kubepods/pod2", "abc"), ("/kubepods/pod1", "b")] {
            assert!(!is_in(groups, pod, id), "{pod} {id}");
        }
    }
}
