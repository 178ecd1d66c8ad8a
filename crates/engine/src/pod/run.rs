//! The way up and the one way down.
//!
//! Invariant: the plan is on disk before [`bring_up`], and it names all that the pod will own. So
//! [`tear_down`] needs the plan and nothing else: rollback, StopPodSandbox and recovery after a crash
//! are this one function.

use super::{phase::PodUp, plan::PodPlan};
use crate::{
    core::Core,
    host::{self, Host},
};

pub(crate) async fn bring_up<H: Host>(core: &Core<H>, plan: &PodPlan) -> host::Result<PodUp> {
    let host = &core.host;
    let dirs = core.step("pod.make_dirs", host.make_pod_dirs(plan)).await?;
    let namespaces = core.step("pod.make_namespaces", host.make_namespaces(plan, &dirs)).await?;
    let network = core.step("pod.attach", host.attach(plan, &namespaces)).await?;
    let group = core.step("pod.make_cgroup", host.make_pod_cgroup(plan)).await?;
    let shim = core.step("pod.start_shim", host.start_shim(plan, &network, &group)).await?;
    Ok(PodUp { ips: network.ips, shim })
}

/// Goes on past a failed step, so that one stuck thing does not keep the others; answers the first
/// failure.
pub(crate) async fn tear_down<H: Host>(core: &Core<H>, plan: &PodPlan) -> host::Result<()> {
    let host = &core.host;
    // The shim first: it is parent of all processes, and a pod without a shim is known to be going
    // down if the daemon ends here. The directories last: exit records lie in them.
    let results = [
        core.step("pod.drop_shim", host.drop_shim(plan)).await,
        core.step("pod.detach", host.detach(plan)).await,
        core.step("pod.drop_namespaces", host.drop_namespaces(plan)).await,
        core.step("pod.drop_cgroup", host.drop_pod_cgroup(plan)).await,
        core.step("pod.drop_dirs", host.drop_pod_dirs(plan)).await,
    ];
    results.into_iter().collect()
}
