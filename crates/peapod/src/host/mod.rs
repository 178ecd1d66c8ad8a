//! The engine's hands on a Linux machine: [`LinuxHost`].
//!
//! Only this module knows that a network namespace, a cgroup and a shim belong to one pod. The rooms
//! that do the work know nothing of one another.

mod blocking;
mod bundle;
mod cdi;
mod container;
mod devices;
mod files;
pub(crate) mod handlers;
mod lsm;
mod network;
mod pod;
mod policy;
mod processes;
mod scope;
mod selinux;
mod shims;
mod sources;
mod systemd;
mod target;
mod update;
pub(crate) mod userns;
mod volumes;

use blocking::blocking;
use cgroup::Mounts;
use config::Config;
use engine::{
    Host,
    host::{
        Attached, ContainerPlan, Created, Exec, ExecOutput, Exit, ImageFacts, LimitChange, Limits,
        Namespaces, OciSpec, PodDirs, PodGroup, PodPlan, Result, Rootfs, Scope, ShimState, ShimUp, Started,
        Whom,
    },
};
use handlers::Handlers;
use image::Images;
use net::{Network, netns::Pins};
use policy::Policy;
use shimlink::Holder;
use shims::Shims;
use std::{path::PathBuf, sync::Arc};
pub(crate) use systemd::is_running as systemd_is_running;
use types::{container::ContainerSpec, pod::PodSpec, signal::Signal};

/// What the host is made of.
#[derive(Debug)]
pub(crate) struct LinuxHost {
    images: Arc<Images>,
    network: Arc<Network>,
    pins: Pins,
    shims: Shims,
    mounts: Mounts,
    /// Pods that are scopes need it, whatever the driver of new ones is.
    systemd: systemd::Manager,
    program: Arc<shimlink::Program>,
    /// `<state>/groups`: cgroups that were still in use when their maker left.
    groups: PathBuf,
    policy: Arc<Policy>,
    user_namespaces: userns::Support,
    handlers: Arc<Handlers>,
}

impl LinuxHost {
    /// Puts the rooms together.
    pub(crate) fn new(
        images: Arc<Images>,
        network: Arc<Network>,
        pins: Pins,
        program: Arc<shimlink::Program>,
        mounts: Mounts,
        config: &Config,
        user_namespaces: userns::Support,
    ) -> LinuxHost {
        let state = &config.state;
        let shims = Shims::new(Arc::clone(&program), config);
        LinuxHost {
            images,
            network,
            pins,
            shims,
            mounts,
            systemd: systemd::Manager::of_the_host(),
            program,
            groups: state.join("groups"),
            policy: Arc::new(config.into()),
            user_namespaces,
            handlers: Arc::new(Handlers::new(config)),
        }
    }

    /// The configured handlers.
    pub(crate) fn handlers(&self) -> Arc<Handlers> {
        Arc::clone(&self.handlers)
    }

    /// The pod's scope, unless it is there.
    async fn keep_scope(&self, plan: &PodPlan, scope: &Scope) -> Result<()> {
        let (mounts, systemd, plan, wanted) =
            (self.mounts.clone(), self.systemd.clone(), plan.clone(), scope.clone());
        let (program, runtime) = (Arc::clone(&self.program), tokio::runtime::Handle::current());
        blocking("making the pod's scope", move || {
            if scope::is_kept(&mounts, &plan)? {
                return Ok(());
            }
            let _within = runtime.enter();
            let holder = Holder::start(&program).map_err(blocking::failed("cannot make the pod's scope"))?;
            scope::make(&mounts, &systemd, &plan, &wanted, holder)
        })
        .await
    }
}

/// What an administrator should know of the machine's security modules.
pub(crate) fn security_remark() -> Option<&'static str> {
    lsm::Modules::of_the_host().remark()
}

impl Host for LinuxHost {
    async fn image(&self, container: &ContainerSpec) -> Result<ImageFacts> {
        container::image(&self.images, container).await
    }

    async fn check_pod(&self, spec: &PodSpec) -> Result<()> {
        let (spec, handlers) = (spec.clone(), Arc::clone(&self.handlers));
        blocking("looking at the pod's profiles", move || {
            handlers.check_pod(&spec.runtime_handler)?;
            pod::check_profiles(&spec)
        })
        .await
    }

    async fn network_plan(&self) -> Result<String> {
        network::plan(&self.network).await
    }

    async fn missing_groups(&self, cgroup: &str) -> Result<Vec<String>> {
        let (mounts, cgroup) = (self.mounts.clone(), cgroup.to_owned());
        blocking("looking at the cgroup", move || pod::missing_groups(&mounts, &cgroup)).await
    }

    async fn make_pod_dirs(&self, plan: &PodPlan) -> Result<PodDirs> {
        let plan = plan.clone();
        blocking("making the pod's directories", move || pod::make_dirs(&plan)).await?;
        Ok(PodDirs::done())
    }

    async fn make_namespaces(&self, plan: &PodPlan, _dirs: &PodDirs) -> Result<Namespaces> {
        self.user_namespaces.check(plan)?;
        network::make_namespaces(&self.pins, plan).await?;
        Ok(Namespaces::done())
    }

    async fn attach(&self, plan: &PodPlan, _namespaces: &Namespaces) -> Result<Attached> {
        network::attach(&self.network, &self.pins, plan).await
    }

    async fn make_pod_cgroup(&self, plan: &PodPlan) -> Result<PodGroup> {
        if let Some(scope) = &plan.cgroup.scope {
            self.keep_scope(plan, scope).await?;
            return Ok(PodGroup::done());
        }
        let (mounts, plan) = (self.mounts.clone(), plan.clone());
        blocking("making the pod's cgroup", move || pod::make_cgroup(&mounts, &plan)).await?;
        Ok(PodGroup::done())
    }

    async fn start_shim(&self, plan: &PodPlan, _network: &Attached, _group: &PodGroup) -> Result<ShimUp> {
        self.shims.start(plan).await
    }

    async fn drop_shim(&self, plan: &PodPlan) -> Result<()> {
        self.shims.drop_shim(plan).await?;
        if plan.handler.is_none() {
            return Ok(());
        }
        let plan = plan.clone();
        blocking("ending the handler's shim", move || handlers::drop_shim(&plan)).await
    }

    async fn detach(&self, plan: &PodPlan) -> Result<()> {
        network::detach(&self.network, plan).await
    }

    async fn drop_namespaces(&self, plan: &PodPlan) -> Result<()> {
        let (pins, pod) = (self.pins.clone(), plan.id.clone());
        blocking("dropping the pod's namespaces", move || {
            pins.drop_pod(&pod).map_err(blocking::failed("cannot drop the pod's namespaces"))
        })
        .await
    }

    async fn drop_pod_cgroup(&self, plan: &PodPlan) -> Result<()> {
        if let Some(wanted) = plan.cgroup.scope.clone() {
            let (mounts, systemd, plan) = (self.mounts.clone(), self.systemd.clone(), plan.clone());
            return blocking("dropping the pod's scope", move || {
                scope::drop(&mounts, &systemd, &plan, &wanted)
            })
            .await;
        }
        let (mounts, plan, groups) = (self.mounts.clone(), plan.clone(), self.groups.clone());
        blocking("dropping the pod's cgroup", move || {
            handlers::drop_groups(&mounts, &plan)?;
            pod::drop_cgroup(&mounts, &plan, &groups)
        })
        .await
    }

    async fn drop_pod_dirs(&self, plan: &PodPlan) -> Result<()> {
        let (mounts, plan, groups) = (self.mounts.clone(), plan.clone(), self.groups.clone());
        // Removing a pod ends here, after its containers: a group that they kept in use is free now.
        blocking("removing the pod's directories", move || {
            pod::drop_dirs(&plan).and_then(|()| pod::collect_cgroups(&mounts, &groups))
        })
        .await
    }

    async fn hold_image(&self, container: &ContainerPlan) -> Result<()> {
        container::hold_image(&self.images, container)
    }

    async fn make_rootfs(&self, pod: &PodPlan, container: &ContainerPlan) -> Result<Rootfs> {
        if pod.handler.is_some() {
            let (handlers, pod, plan) = (Arc::clone(&self.handlers), pod.clone(), container.clone());
            blocking("asking the handler", move || handlers.check_container(&pod, &plan)).await?;
        }
        let plan = container.clone();
        blocking("making the writable layer", move || container::make_rootfs(&plan)).await?;
        Ok(Rootfs::done())
    }

    async fn create(
        &self,
        pod: &PodPlan,
        container: &ContainerPlan,
        spec: &OciSpec,
        _rootfs: Rootfs,
    ) -> Result<Created> {
        if let Some(scope) = &pod.cgroup.scope {
            // Its keeper may have been killed since: the kubelet ends all processes of a pod's slice.
            self.keep_scope(pod, scope).await?;
        }
        let (pod_plan, plan, oci) = (pod.clone(), container.clone(), spec.clone());
        let policy = Arc::clone(&self.policy);
        blocking("writing the bundle", move || bundle::write(&pod_plan, &plan, oci, &policy)).await?;
        let pid = self.shims.create(pod, container).await?;
        target::check(pod, container, spec, pid)?;
        if !container.image.volumes.is_empty() {
            // The container has mounts of its own of them.
            let plan = container.clone();
            blocking("unmounting image volumes", move || volumes::drop_all(&plan)).await?;
        }
        Ok(Created { pid })
    }

    async fn start(&self, pod: &PodPlan, container: &ContainerPlan) -> Result<Started> {
        self.shims.start_container(pod, container).await
    }

    async fn signal(
        &self,
        pod: &PodPlan,
        container: &ContainerPlan,
        signal: Signal,
        whom: Whom,
    ) -> Result<()> {
        self.shims.signal(pod, container, signal, whom).await
    }

    async fn kill_group(&self, _pod: &PodPlan, container: &ContainerPlan) -> Result<()> {
        let (mounts, plan) = (self.mounts.clone(), container.clone());
        blocking("killing the container's processes", move || container::kill_group(&mounts, &plan)).await
    }

    async fn drop_container(&self, pod: &PodPlan, container: &ContainerPlan) -> Result<()> {
        // The shim's record first, so that nothing writes into the bundle any more.
        self.shims.forget(pod, container).await?;
        let (mounts, pod, plan) = (self.mounts.clone(), pod.clone(), container.clone());
        blocking("dropping the container", move || {
            if pod.handler.is_some() {
                container::kill_group(&mounts, &plan)?;
                handlers::drop_container(&pod, &plan)?;
            }
            container::drop_host_side(&mounts, &plan)
        })
        .await?;
        self.images.release(&container.id);
        Ok(())
    }

    async fn limits(&self, container: &ContainerPlan, change: &LimitChange) -> Result<Limits> {
        let (mounts, plan, change) = (self.mounts.clone(), container.clone(), change.clone());
        blocking("reading the container's limits", move || update::limits(&mounts, &plan, &change)).await
    }

    async fn set_limits(&self, container: &ContainerPlan, change: &LimitChange) -> Result<()> {
        let (mounts, plan, change) = (self.mounts.clone(), container.clone(), change.clone());
        blocking("setting the container's limits", move || update::set(&mounts, &plan, &change)).await
    }

    async fn restore_limits(&self, container: &ContainerPlan, before: &Limits) -> Result<()> {
        let (mounts, plan, before) = (self.mounts.clone(), container.clone(), before.clone());
        blocking("restoring the container's limits", move || update::restore(&mounts, &plan, &before)).await
    }

    async fn reopen_log(&self, pod: &PodPlan, container: &ContainerPlan) -> Result<()> {
        self.shims.reopen_log(pod, container).await
    }

    async fn log_trouble(&self, pod: &PodPlan, container: &ContainerPlan) -> Result<Option<String>> {
        self.shims.log_trouble(pod, container).await
    }

    async fn exec_sync(&self, pod: &PodPlan, container: &ContainerPlan, exec: &Exec) -> Result<ExecOutput> {
        self.shims.exec_sync(pod, container, exec).await
    }

    async fn recorded_exit(&self, _pod: &PodPlan, container: &ContainerPlan) -> Result<Option<Exit>> {
        let plan = container.clone();
        blocking("reading the exit record", move || container::recorded_exit(&plan)).await
    }

    async fn reconnect(&self, plan: &PodPlan) -> Result<ShimState> {
        self.shims.reconnect(plan).await
    }

    async fn next_exits(&self, plan: &PodPlan, after: u64) -> Result<Vec<Exit>> {
        self.shims.next_exits(plan, after).await
    }
}
