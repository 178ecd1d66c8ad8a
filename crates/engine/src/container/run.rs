//! The way up and the one way down, as for pods.

use super::plan::ContainerPlan;
use crate::{
    core::Core,
    host::{self, Created, Host, OciSpec},
    pod::plan::PodPlan,
};

pub(crate) async fn bring_up<H: Host>(
    core: &Core<H>,
    pod: &PodPlan,
    plan: &ContainerPlan,
    spec: &OciSpec,
) -> host::Result<Created> {
    let host = &core.host;
    core.step("container.hold_image", host.hold_image(plan)).await?;
    let rootfs = core.step("container.make_rootfs", host.make_rootfs(pod, plan)).await?;
    core.step("container.create", host.create(pod, plan, spec, rootfs)).await
}

/// Rollback, RemoveContainer and recovery.
pub(crate) async fn tear_down<H: Host>(
    core: &Core<H>,
    pod: &PodPlan,
    plan: &ContainerPlan,
) -> host::Result<()> {
    core.step("container.drop", core.host.drop_container(pod, plan)).await
}
