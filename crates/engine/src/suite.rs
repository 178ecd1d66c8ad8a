//! What every [`Host`] must do, as one suite: the fake passes it in the unit tests, the real one as
//! root. Each check ends with nothing left.

use crate::{
    container::plan::{self as container, ContainerPlan},
    host::{Attached, Exit, Fault, Host, Life, LimitChange, ShimState, ShimUp, Whom},
    pod::{
        PodUp,
        plan::{self as pod, PodPlan},
    },
};
use config::Config;
use oci_spec::runtime::{LinuxCpuBuilder, LinuxResourcesBuilder};
use std::fmt;
use types::{
    ContainerId, PodId, Timestamp,
    container::ContainerSpec,
    pod::{Namespaces, NsMode, PodSpec},
    signal::Signal,
};

/// A host under test, and what is needed to try it.
pub struct Bench<H> {
    /// The host.
    pub host: H,
    /// With directories that are this bench's own.
    pub config: Config,
    /// An image that the host has.
    pub image: String,
    /// A command that runs until it gets a signal and then ends.
    pub forever: Vec<String>,
    /// A command that ends at once with code 3.
    pub exit_3: Vec<String>,
    /// All that is on the machine and might be a pod's; compared before and after.
    pub owned: Box<dyn Fn() -> Vec<String> + Send + Sync>,
    /// Ids.
    pub random: Box<dyn Fn() -> [u8; 32] + Send + Sync>,
    /// Whether pods are attached to a network (else they have the node's).
    pub network: bool,
}

impl<H> fmt::Debug for Bench<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bench")
    }
}

/// How many of the verbs that make a pod there are.
const POD_STEPS: usize = 5;
/// How many of the verbs that make a container there are.
const CONTAINER_STEPS: usize = 3;

/// Runs all checks.
///
/// # Panics
/// If the host breaks a rule of [`Host`].
pub async fn host_suite<H: Host>(bench: &Bench<H>) {
    bench.what_was_never_made_can_be_dropped_twice().await;
    bench.a_pod_that_was_made_in_part_can_be_dropped_twice().await;
    bench.a_container_that_was_made_in_part_can_be_dropped_twice().await;
    bench.a_container_lives_and_its_exit_is_told_and_recorded().await;
    bench.a_created_and_a_running_container_can_be_killed_without_the_shim().await;
    bench.a_shim_is_found_again_with_what_it_knows().await;
    bench.limits_are_changed_and_set_back().await;
    bench.an_unknown_image_is_not_found().await;
}

impl<H: Host> Bench<H> {
    async fn pod(&self) -> PodPlan {
        let network = if self.network { NsMode::Pod } else { NsMode::Node };
        let spec = PodSpec {
            name: "bench".to_owned(),
            namespace: "suite".to_owned(),
            uid: "0".to_owned(),
            hostname: "bench".to_owned(),
            namespaces: Namespaces { network, ..Namespaces::default() },
            ..PodSpec::default()
        };
        let id = PodId::from_random((self.random)());
        let cgroup = pod::cgroup_path(&self.config, &id, &spec).expect("a path of our own");
        let conflist = match self.network {
            true => Some(self.host.network_plan().await.expect("a network")),
            false => None,
        };
        let missing_groups = self.host.missing_groups(&cgroup).await.expect("groups");
        let facts = pod::Facts { conflist, missing_groups };
        pod::plan(&self.config, id, spec, facts, Timestamp(1)).expect("a plan")
    }

    async fn container(&self, pod: &PodPlan, command: &[String]) -> ContainerPlan {
        let spec = ContainerSpec {
            name: "c".to_owned(),
            image: self.image.clone(),
            command: command.to_vec(),
            ..ContainerSpec::default()
        };
        let image = self.host.image(&spec).await.expect("the image");
        let id = ContainerId::from_random((self.random)());
        container::plan(pod, id, spec, image, Timestamp(2)).expect("a plan")
    }

    /// The first `steps` of the way up.
    async fn bring_up(&self, plan: &PodPlan, steps: usize) -> Option<PodUp> {
        let host = &self.host;
        let dirs =
            if steps > 0 { host.make_pod_dirs(plan).await.expect("directories") } else { return None };
        let spaces = if steps > 1 {
            host.make_namespaces(plan, &dirs).await.expect("namespaces")
        } else {
            return None;
        };
        let network: Attached =
            if steps > 2 { host.attach(plan, &spaces).await.expect("a network") } else { return None };
        let group = if steps > 3 { host.make_pod_cgroup(plan).await.expect("a group") } else { return None };
        let shim: ShimUp = if steps > 4 {
            host.start_shim(plan, &network, &group).await.expect("a shim")
        } else {
            return None;
        };
        assert_eq!(network.ips.is_empty(), !self.network, "addresses");
        Some(PodUp { ips: network.ips, shim })
    }

    async fn make(&self, pod: &PodPlan, up: &PodUp, plan: &ContainerPlan, steps: usize) {
        let host = &self.host;
        let spec = container::oci_spec(pod, up, None, plan).expect("a spec");
        if steps > 0 {
            host.hold_image(plan).await.expect("held");
        }
        if steps > 1 {
            let rootfs = host.make_rootfs(pod, plan).await.expect("a rootfs");
            if steps > 2 {
                let created = host.create(pod, plan, &spec, rootfs).await.expect("created");
                assert!(created.pid > 0, "a process");
            }
        }
    }

    async fn tear_down(&self, plan: &PodPlan) {
        let host = &self.host;
        host.drop_shim(plan).await.expect("no shim");
        host.detach(plan).await.expect("no network");
        host.drop_namespaces(plan).await.expect("no namespaces");
        host.drop_pod_cgroup(plan).await.expect("no group");
        host.drop_pod_dirs(plan).await.expect("no directories");
    }

    fn assert_nothing_left(&self, before: &[String], when: &str) {
        let after = (self.owned)();
        let left: Vec<&String> = after.iter().filter(|name| !before.contains(name)).collect();
        assert!(left.is_empty(), "{when}: left {left:?}");
    }

    async fn what_was_never_made_can_be_dropped_twice(&self) {
        let before = (self.owned)();
        let pod = self.pod().await;
        let container = self.container(&pod, &self.forever).await;
        for _ in 0..2 {
            self.host.kill_group(&pod, &container).await.expect("nothing to kill");
            self.host.drop_container(&pod, &container).await.expect("nothing to drop");
            self.tear_down(&pod).await;
        }
        assert_eq!(self.host.recorded_exit(&pod, &container).await.expect("readable"), None);
        assert_eq!(self.host.reconnect(&pod).await.expect("known"), ShimState::Dead);
        self.assert_nothing_left(&before, "never made");
    }

    async fn a_pod_that_was_made_in_part_can_be_dropped_twice(&self) {
        for steps in 0..=POD_STEPS {
            let before = (self.owned)();
            let pod = self.pod().await;
            let up = self.bring_up(&pod, steps).await;
            assert_eq!(up.is_some(), steps == POD_STEPS);
            self.tear_down(&pod).await;
            self.assert_nothing_left(&before, &format!("a pod after {steps} steps"));
            self.tear_down(&pod).await;
        }
    }

    async fn a_container_that_was_made_in_part_can_be_dropped_twice(&self) {
        for steps in 0..=CONTAINER_STEPS {
            let before = (self.owned)();
            let pod = self.pod().await;
            let up = self.bring_up(&pod, POD_STEPS).await.expect("up");
            let with_pod = (self.owned)();
            let container = self.container(&pod, &self.forever).await;
            self.make(&pod, &up, &container, steps).await;
            self.host.drop_container(&pod, &container).await.expect("dropped");
            self.assert_nothing_left(&with_pod, &format!("a container after {steps} steps"));
            self.host.drop_container(&pod, &container).await.expect("dropped again");
            self.tear_down(&pod).await;
            self.assert_nothing_left(&before, &format!("its pod, after {steps} steps of a container"));
        }
    }

    async fn next_exit(&self, pod: &PodPlan, after: u64) -> Exit {
        let exits = self.host.next_exits(pod, after).await.expect("news");
        assert_eq!(exits.len(), 1, "{exits:?}");
        exits.into_iter().next().expect("one")
    }

    async fn a_container_lives_and_its_exit_is_told_and_recorded(&self) {
        let before = (self.owned)();
        let pod = self.pod().await;
        let up = self.bring_up(&pod, POD_STEPS).await.expect("up");
        let ends = self.container(&pod, &self.exit_3).await;
        let stays = self.container(&pod, &self.forever).await;
        for container in [&ends, &stays] {
            self.make(&pod, &up, container, CONTAINER_STEPS).await;
            let started = self.host.start(&pod, container).await.expect("started");
            assert!(started.at > Timestamp::NEVER);
        }
        let first = self.next_exit(&pod, 0).await;
        assert_eq!((&first.container, first.code, first.oom_killed), (&ends.id, 3, false));
        assert_eq!(self.host.recorded_exit(&pod, &ends).await.expect("readable"), Some(first.clone()));
        assert_eq!(self.host.recorded_exit(&pod, &stays).await.expect("readable"), None);
        self.host.signal(&pod, &stays, Signal::TERM, Whom::Init).await.expect("sent");
        let second = self.next_exit(&pod, first.sequence).await;
        assert_eq!((&second.container, second.code), (&stays.id, 128 + 15));
        assert!(second.sequence > first.sequence && second.at >= first.at);
        // To what has ended, a signal is no error.
        self.host.signal(&pod, &stays, Signal::KILL, Whom::All).await.expect("nobody to signal");
        for container in [&ends, &stays] {
            self.host.drop_container(&pod, container).await.expect("dropped");
        }
        self.tear_down(&pod).await;
        self.assert_nothing_left(&before, "two lives");
    }

    async fn a_created_and_a_running_container_can_be_killed_without_the_shim(&self) {
        for start in [false, true] {
            let before = (self.owned)();
            let pod = self.pod().await;
            let up = self.bring_up(&pod, POD_STEPS).await.expect("up");
            let container = self.container(&pod, &self.forever).await;
            self.make(&pod, &up, &container, CONTAINER_STEPS).await;
            if start {
                self.host.start(&pod, &container).await.expect("started");
            }
            self.host.kill_group(&pod, &container).await.expect("killed");
            let exit = self.next_exit(&pod, 0).await;
            assert_eq!((exit.code, exit.oom_killed), (137, false));
            self.host.drop_container(&pod, &container).await.expect("dropped");
            self.tear_down(&pod).await;
            self.assert_nothing_left(&before, "a killed container");
        }
    }

    async fn a_shim_is_found_again_with_what_it_knows(&self) {
        let before = (self.owned)();
        let pod = self.pod().await;
        let up = self.bring_up(&pod, POD_STEPS).await.expect("up");
        let containers =
            [self.container(&pod, &self.forever).await, self.container(&pod, &self.exit_3).await];
        let [stays, ends] = &containers;
        for container in &containers {
            self.make(&pod, &up, container, CONTAINER_STEPS).await;
        }
        let mut both = [named((&stays.id, "created")), named((&ends.id, "created"))];
        both.sort();
        assert_eq!(self.lives(&pod, &up).await, both);
        for container in &containers {
            self.host.start(&pod, container).await.expect("started");
        }
        self.next_exit(&pod, 0).await;
        let mut both = [named((&stays.id, "running")), named((&ends.id, "exited"))];
        both.sort();
        assert_eq!(self.lives(&pod, &up).await, both);
        // The pod first, as after a stop; the containers' layers are left for them.
        self.tear_down(&pod).await;
        let gone = self.host.next_exits(&pod, 1).await.expect_err("no shim");
        assert_eq!(gone.fault, Fault::ShimGone);
        for container in &containers {
            self.host.drop_container(&pod, container).await.expect("dropped");
        }
        self.host.drop_pod_dirs(&pod).await.expect("no directories");
        self.assert_nothing_left(&before, "a pod that was found again");
    }

    /// What the shim says of its containers, by id.
    async fn lives(&self, pod: &PodPlan, wanted: &PodUp) -> Vec<(String, &'static str)> {
        match self.host.reconnect(pod).await.expect("an answer") {
            ShimState::Dead => panic!("the shim is dead"),
            ShimState::Alive { up, containers, .. } => {
                assert_eq!(up, wanted.shim);
                let mut lives: Vec<_> = containers
                    .into_iter()
                    .map(|container| match container.life {
                        Life::Created { .. } => (container.id.to_string(), "created"),
                        Life::Running { .. } => (container.id.to_string(), "running"),
                        Life::Exited { exit, .. } => {
                            assert_eq!(exit.code, 3);
                            (container.id.to_string(), "exited")
                        }
                    })
                    .collect();
                lives.sort();
                lives
            }
        }
    }

    async fn limits_are_changed_and_set_back(&self) {
        let before = (self.owned)();
        let pod = self.pod().await;
        let up = self.bring_up(&pod, POD_STEPS).await.expect("up");
        let container = self.container(&pod, &self.forever).await;
        self.make(&pod, &up, &container, CONTAINER_STEPS).await;
        let cpu = LinuxCpuBuilder::default().shares(77_u64).quota(20_000_i64).build().expect("limits");
        let resources = LinuxResourcesBuilder::default().cpu(cpu).build().expect("limits");
        let change = LimitChange { resources, oom_score_adj: Some(1000) };
        for start in [false, true] {
            if start {
                self.host.start(&pod, &container).await.expect("started");
            }
            let were = self.host.limits(&container, &change).await.expect("limits");
            assert!(!were.files.is_empty());
            self.host.set_limits(&container, &change).await.expect("set");
            let are = self.host.limits(&container, &change).await.expect("limits");
            assert_ne!(are.files, were.files);
            for _ in 0..2 {
                self.host.restore_limits(&container, &were).await.expect("set back");
            }
            let are = self.host.limits(&container, &change).await.expect("limits");
            assert_eq!(are.files, were.files);
        }
        let were = self.host.limits(&container, &change).await.expect("limits");
        self.host.drop_container(&pod, &container).await.expect("dropped");
        self.host.restore_limits(&container, &were).await.expect("nothing to set back");
        self.tear_down(&pod).await;
        self.assert_nothing_left(&before, "changed limits");
    }

    async fn an_unknown_image_is_not_found(&self) {
        let spec = ContainerSpec { image: "nowhere.test/none:0".to_owned(), ..ContainerSpec::default() };
        let error = self.host.image(&spec).await.expect_err("no such image");
        assert_eq!(error.fault, Fault::NotFound);
    }
}

fn named((id, life): (&ContainerId, &'static str)) -> (String, &'static str) {
    (id.to_string(), life)
}
