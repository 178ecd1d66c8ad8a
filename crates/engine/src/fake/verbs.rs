//! The verbs, done to the set of names.

use super::{FakeHost, IMAGE, Known, Shim, World};
use crate::host::{
    Attached, ContainerPlan, Created, Exec, ExecOutput, Exit, Fault, Host, HostError, ImageFacts, Life,
    LimitChange, Limits, Namespaces, OciSpec, PodDirs, PodGroup, PodPlan, Result, Rootfs, ShimContainer,
    ShimState, ShimUp, Started, Whom,
};
use std::net::IpAddr;
use types::{
    container::{ContainerSpec, RunAs, SeccompProfile},
    pod::PodSpec,
    signal::Signal,
};

impl FakeHost {
    fn act(&self, verb: &'static str, action: impl FnOnce(&mut World)) -> Result<()> {
        let mut world = self.world();
        world.check_stuck(verb)?;
        action(&mut world);
        let result = world.step(verb);
        drop(world);
        self.0.news.notify_waiters();
        result
    }

    fn own(&self, verb: &'static str, name: String) -> Result<()> {
        self.act(verb, |world| {
            world.owned.insert(name);
        })
    }

    fn disown(&self, verb: &'static str, name: &str) -> Result<()> {
        self.act(verb, |world| {
            world.owned.remove(name);
        })
    }

    /// The shim of a pod, if it answers.
    fn with_shim<T>(&self, pod: &PodPlan, action: impl FnOnce(&mut World) -> T) -> Result<T> {
        let mut world = self.world();
        match world.shims.get(&pod.id).map(|shim| shim.frozen) {
            None => Err(HostError::new("cannot reach the shim", Fault::ShimGone)),
            Some(true) => Err(HostError::new("the shim did not answer", Fault::Deadline)),
            Some(false) => Ok(action(&mut world)),
        }
    }
}

impl Host for FakeHost {
    async fn image(&self, container: &ContainerSpec) -> Result<ImageFacts> {
        if container.image != IMAGE {
            return Err(HostError::new(container.image.clone(), Fault::NotFound));
        }
        if let Some(RunAs::Name(name)) = &container.security.user {
            let doing = format!("the image knows no user {name}");
            return Err(HostError::new(doing, Fault::Invalid("run_as_username")));
        }
        Ok(ImageFacts { id: "sha256:1".to_owned(), reference: IMAGE.to_owned(), ..ImageFacts::default() })
    }

    async fn check_pod(&self, pod: &PodSpec) -> Result<()> {
        match &pod.security.seccomp {
            SeccompProfile::Localhost(path) => {
                Err(HostError::new(path.display().to_string(), Fault::Invalid("seccomp")))
            }
            SeccompProfile::Unconfined | SeccompProfile::RuntimeDefault => Ok(()),
        }
    }

    async fn network_plan(&self) -> Result<String> {
        match self.world().stuck.contains("network_plan") {
            false => Ok("{}".to_owned()),
            true => Err(HostError::new("there is no network", Fault::Precondition)),
        }
    }

    async fn missing_groups(&self, cgroup: &str) -> Result<Vec<String>> {
        Ok(vec![cgroup.to_owned()])
    }

    async fn make_pod_dirs(&self, plan: &PodPlan) -> Result<PodDirs> {
        self.own("make_pod_dirs", format!("dirs {}", plan.id.short())).map(|()| PodDirs::done())
    }

    async fn make_namespaces(&self, plan: &PodPlan, _: &PodDirs) -> Result<Namespaces> {
        self.own("make_namespaces", format!("namespaces {}", plan.id.short())).map(|()| Namespaces::done())
    }

    async fn attach(&self, plan: &PodPlan, _: &Namespaces) -> Result<Attached> {
        self.own("attach", format!("network {}", plan.id.short()))?;
        let ips = plan.conflist.iter().map(|_| IpAddr::from([10, 0, 0, 2])).collect();
        Ok(Attached { ips })
    }

    async fn make_pod_cgroup(&self, plan: &PodPlan) -> Result<PodGroup> {
        self.own("make_pod_cgroup", format!("group {}", plan.id.short())).map(|()| PodGroup::done())
    }

    async fn start_shim(&self, plan: &PodPlan, _: &Attached, _: &PodGroup) -> Result<ShimUp> {
        let mut up = ShimUp { pid: 0, pause_pid: None };
        self.act("start_shim", |world| {
            up = ShimUp { pid: world.pid(), pause_pid: plan.pause.then(|| world.pid()) };
            let shim = Shim { pid: up.pid, pause_pid: up.pause_pid, ..Shim::default() };
            world.shims.insert(plan.id.clone(), shim);
            world.owned.insert(format!("shim {}", plan.id.short()));
        })?;
        Ok(up)
    }

    async fn drop_shim(&self, plan: &PodPlan) -> Result<()> {
        self.act("drop_shim", |world| {
            world.shims.remove(&plan.id);
            world.owned.remove(&format!("shim {}", plan.id.short()));
            world.alive.retain(|_, pod| *pod != plan.id);
        })
    }

    async fn detach(&self, plan: &PodPlan) -> Result<()> {
        self.disown("detach", &format!("network {}", plan.id.short()))
    }

    async fn drop_namespaces(&self, plan: &PodPlan) -> Result<()> {
        self.disown("drop_namespaces", &format!("namespaces {}", plan.id.short()))
    }

    async fn drop_pod_cgroup(&self, plan: &PodPlan) -> Result<()> {
        self.disown("drop_pod_cgroup", &format!("group {}", plan.id.short()))
    }

    async fn drop_pod_dirs(&self, plan: &PodPlan) -> Result<()> {
        self.act("drop_pod_dirs", |world| {
            world.owned.remove(&format!("dirs {}", plan.id.short()));
            // The bundles lie in it, and the exit records in them.
            let of = format!(" of {}", plan.id.short());
            let gone = |name: &String| name.starts_with("bundle ") && name.ends_with(&of);
            let bundles: Vec<String> = world.owned.iter().filter(|name| gone(name)).cloned().collect();
            for bundle in bundles {
                world.owned.remove(&bundle);
                world.recorded.retain(|id, _| !bundle.contains(id.short()));
            }
        })
    }

    async fn hold_image(&self, container: &ContainerPlan) -> Result<()> {
        self.own("hold_image", format!("hold {}", container.id.short()))
    }

    async fn make_rootfs(&self, _: &PodPlan, container: &ContainerPlan) -> Result<Rootfs> {
        self.own("make_rootfs", format!("rootfs {}", container.id.short())).map(|()| Rootfs::done())
    }

    async fn create(
        &self,
        pod: &PodPlan,
        container: &ContainerPlan,
        spec: &OciSpec,
        _: Rootfs,
    ) -> Result<Created> {
        let command = spec.process().as_ref().and_then(|process| process.args().clone()).unwrap_or_default();
        self.with_shim(pod, |_| ())?;
        let mut pid = 0;
        self.act("create", |world| {
            pid = world.pid();
            world.owned.insert(bundle(pod, container));
            world.alive.insert(container.id.clone(), pod.id.clone());
            let known = Known { life: Life::Created { pid }, command };
            if let Some(shim) = world.shims.get_mut(&pod.id) {
                shim.containers.insert(container.id.clone(), known);
            }
        })?;
        Ok(Created { pid })
    }

    async fn start(&self, pod: &PodPlan, container: &ContainerPlan) -> Result<Started> {
        self.with_shim(pod, |_| ())?;
        let mut started = Err(HostError::new("the shim does not know it", Fault::Internal));
        self.act("start", |world| started = world.start(pod, container))?;
        started
    }

    async fn signal(&self, pod: &PodPlan, container: &ContainerPlan, signal: Signal, _: Whom) -> Result<()> {
        self.with_shim(pod, |_| ())?;
        self.act("signal", |world| {
            let shim = world.shims.get(&pod.id);
            let known = shim.and_then(|shim| shim.containers.get(&container.id));
            let stubborn = known.is_some_and(|known| known.command.first().is_some_and(|c| c == "stubborn"));
            if signal == Signal::KILL || !stubborn {
                world.end(&container.id, 128 + signal.number(), false);
            }
        })
    }

    async fn kill_group(&self, _: &PodPlan, container: &ContainerPlan) -> Result<()> {
        self.act("kill_group", |world| world.end(&container.id, 137, false))
    }

    async fn drop_container(&self, pod: &PodPlan, container: &ContainerPlan) -> Result<()> {
        self.act("drop_container", |world| {
            world.alive.remove(&container.id);
            world.recorded.remove(&container.id);
            if let Some(shim) = world.shims.get_mut(&pod.id) {
                shim.containers.remove(&container.id);
            }
            let short = container.id.short();
            world.owned.remove(&bundle(pod, container));
            world.owned.remove(&format!("rootfs {short}"));
            world.owned.remove(&format!("hold {short}"));
        })
    }

    async fn limits(&self, container: &ContainerPlan, change: &LimitChange) -> Result<Limits> {
        let world = self.world();
        let set = world.limits.get(&container.id).cloned().unwrap_or_default();
        let before = |(file, _): (&'static str, String)| {
            let content = set.get(file).cloned().unwrap_or_else(|| "unset".to_owned());
            (String::new(), file.to_owned(), content)
        };
        Ok(Limits {
            files: writes(change).into_iter().map(before).collect(),
            oom_score_adj: change.oom_score_adj.map(|_| 0),
        })
    }

    async fn set_limits(&self, container: &ContainerPlan, change: &LimitChange) -> Result<()> {
        // One verb of the world for each file, so that a test can have any of them fail.
        for (file, content) in writes(change) {
            self.act("set_limits", |world| {
                world.limits.entry(container.id.clone()).or_default().insert(file.to_owned(), content);
            })?;
        }
        Ok(())
    }

    async fn restore_limits(&self, container: &ContainerPlan, before: &Limits) -> Result<()> {
        self.act("restore_limits", |world| {
            let set = world.limits.entry(container.id.clone()).or_default();
            for (_, file, content) in &before.files {
                set.insert(file.clone(), content.clone());
            }
        })
    }

    async fn reopen_log(&self, pod: &PodPlan, _: &ContainerPlan) -> Result<()> {
        self.with_shim(pod, |_| ())?;
        self.act("reopen_log", |_| ())
    }

    async fn log_trouble(&self, pod: &PodPlan, _: &ContainerPlan) -> Result<Option<String>> {
        self.with_shim(pod, |_| None)
    }

    async fn exec_sync(&self, pod: &PodPlan, _: &ContainerPlan, exec: &Exec) -> Result<ExecOutput> {
        self.with_shim(pod, |_| ())?;
        let word = |n: usize| exec.command.get(n).map_or("", String::as_str);
        match word(0) {
            "echo" => Ok(ExecOutput { stdout: word(1).as_bytes().to_vec(), ..ExecOutput::default() }),
            "exit" => Ok(ExecOutput { exit_code: word(1).parse().unwrap_or(0), ..ExecOutput::default() }),
            "forever" => Ok(ExecOutput { timed_out: exec.timeout.is_some(), ..ExecOutput::default() }),
            other => Err(HostError::new(format!("no such program: {other}"), Fault::Internal)),
        }
    }

    async fn recorded_exit(&self, _: &PodPlan, container: &ContainerPlan) -> Result<Option<Exit>> {
        Ok(self.world().recorded.get(&container.id).cloned())
    }

    async fn reconnect(&self, plan: &PodPlan) -> Result<ShimState> {
        let world = self.world();
        let Some(shim) = world.shims.get(&plan.id) else { return Ok(ShimState::Dead) };
        if shim.frozen {
            return Err(HostError::new("the shim did not answer", Fault::Deadline));
        }
        let up = ShimUp { pid: shim.pid, pause_pid: shim.pause_pid };
        let containers = shim
            .containers
            .iter()
            .map(|(id, known)| ShimContainer { id: id.clone(), life: known.life.clone() })
            .collect();
        Ok(ShimState::Alive { up, containers, last_exit: shim.exits.len() as u64 })
    }

    async fn next_exits(&self, plan: &PodPlan, after: u64) -> Result<Vec<Exit>> {
        loop {
            let news = self.0.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            {
                let world = self.world();
                let Some(shim) = world.shims.get(&plan.id) else {
                    return Err(HostError::new("the shim has gone", Fault::ShimGone));
                };
                let newer: Vec<Exit> =
                    shim.exits.iter().filter(|exit| exit.sequence > after).cloned().collect();
                if !newer.is_empty() && !shim.frozen {
                    return Ok(newer);
                }
            }
            news.await;
        }
    }
}

impl World {
    fn start(&mut self, pod: &PodPlan, container: &ContainerPlan) -> Result<Started> {
        let at = self.time();
        let shim = self.shims.get_mut(&pod.id);
        let Some(known) = shim.and_then(|shim| shim.containers.get_mut(&container.id)) else {
            return Err(HostError::new("the shim does not know it", Fault::Internal));
        };
        let Life::Created { pid } = known.life else {
            return Err(HostError::new("it was started before", Fault::Internal));
        };
        let command = known.command.clone();
        let word = |n: usize| command.get(n).map_or("", String::as_str);
        if word(0) == "missing" {
            self.end(&container.id, 127, false);
            return Err(HostError::new("exec: no such file", Fault::Internal));
        }
        known.life = Life::Running { pid, at };
        if word(0) == "exit" {
            self.end(&container.id, word(1).parse().unwrap_or(0), false);
        }
        Ok(Started { at })
    }
}

/// The files that a change writes: enough of them for a story.
fn writes(change: &LimitChange) -> Vec<(&'static str, String)> {
    let cpu = change.resources.cpu().as_ref();
    let memory = change.resources.memory().as_ref();
    let numbers = [
        ("shares", cpu.and_then(|cpu| cpu.shares()).map(|n| n.to_string())),
        ("quota", cpu.and_then(|cpu| cpu.quota()).map(|n| n.to_string())),
        ("memory", memory.and_then(|memory| memory.limit()).map(|n| n.to_string())),
        ("oom_score_adj", change.oom_score_adj.map(|n| n.to_string())),
    ];
    numbers.into_iter().filter_map(|(file, content)| Some((file, content?))).collect()
}

fn bundle(pod: &PodPlan, container: &ContainerPlan) -> String {
    format!("bundle {} of {}", container.id.short(), pod.id.short())
}
