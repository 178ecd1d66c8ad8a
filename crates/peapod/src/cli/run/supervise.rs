//! Looks after a pod's containers: starts, watches and restarts them, shows what they write, stops them.

use super::{
    super::{
        client::{Client, told},
        find,
        logs::{Follower, TICK, status},
        manifest::Kind,
        output,
        stop::{Stopping, stop_containers, stop_sandbox},
    },
    images,
    machine::{Machine, Phase},
    places::Places,
    plan::Plan,
    signals::Signals,
};
use anyhow::Context as _;
use api::cri::{
    Container, ContainerFilter, ContainerState, ContainerStatus, CreateContainerRequest, Image,
    ListContainersRequest, ListPodSandboxRequest, PodSandboxConfig, PodSandboxFilter, PodSandboxState,
    RemoveContainerRequest, RemovePodSandboxRequest, StartContainerRequest,
};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// How it came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All containers run, and are on their own now.
    Detached,
    /// The pod has ended; with the code of the container that failed first.
    Ended(u8),
}

/// What a container that could not be started ends with, as in containerd.
const START_ERROR: i32 = 128;
/// What is said of a container that somebody removed: killed.
const REMOVED: i32 = 137;
/// Ticks between two looks at the daemon.
const POLL_TICKS: u32 = 3;

#[derive(Debug)]
pub(crate) struct Supervisor {
    client: Client,
    plan: Plan,
    pod_id: String,
    sandbox: PodSandboxConfig,
    images: BTreeMap<String, Image>,
    machine: Machine,
    /// Of each container's newest attempt: its id, and its log in the follower.
    made: Vec<Option<(String, Option<usize>)>>,
    follower: Follower,
    signals: Signals,
    begun: Instant,
    detach: bool,
    /// Our standard output is broken: the pod goes on, unseen.
    mute: bool,
    /// The daemon did not answer the last time.
    away: bool,
}

/// What a look at the daemon tells of the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Living,
    /// Somebody else stopped or removed it.
    Stopped,
}

impl Supervisor {
    pub(crate) fn new(
        client: Client,
        plan: Plan,
        pod_id: String,
        sandbox: PodSandboxConfig,
        images: BTreeMap<String, Image>,
        detach: bool,
    ) -> anyhow::Result<Self> {
        let machine = Machine::new(plan.pod.restart, plan.pod.containers.iter().map(|c| c.kind));
        let made = vec![None; plan.pod.containers.len()];
        Ok(Self {
            client,
            plan,
            pod_id,
            sandbox,
            images,
            machine,
            made,
            follower: Follower::new(false),
            signals: Signals::new()?,
            begun: Instant::now(),
            detach,
            mute: false,
            away: false,
        })
    }

    /// Brings the containers up, and in the foreground looks after them until the pod has ended.
    ///
    /// # Errors
    /// If a container cannot be made as the manifest says; the pod is to be removed then.
    pub(crate) async fn run(&mut self) -> anyhow::Result<Outcome> {
        let mut ticks = 0_u32;
        loop {
            self.pump();
            if ticks.is_multiple_of(POLL_TICKS) && self.look().await? == Seen::Stopped {
                self.say("somebody else stopped the pod");
                return self.wind_down(Duration::ZERO).await;
            }
            ticks = ticks.wrapping_add(1);
            let next = self.machine.next(self.now());
            if next.over {
                return self.wind_down(self.grace()).await;
            }
            for unit in next.start {
                if !self.plan.places.is_stopping() {
                    self.start(unit).await?;
                }
            }
            if self.detach && self.machine.all_started() {
                return Ok(Outcome::Detached);
            }
            tokio::select! {
                () = tokio::time::sleep(TICK) => {}
                () = self.signals.next() => {
                    self.say("stopping the pod; Ctrl-C again kills it");
                    return self.wind_down(self.grace()).await;
                }
            }
        }
    }

    /// Takes all of the pod away again.
    pub(crate) async fn remove(&mut self, places: &Places) -> anyhow::Result<()> {
        stop_sandbox(&self.client, &self.pod_id).await?;
        let request = RemovePodSandboxRequest { pod_sandbox_id: self.pod_id.clone() };
        self.client.runtime.remove_pod_sandbox(request).await.map_err(|s| told(&s))?;
        places.remove(&self.plan.uid, self.client.address().path())
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn grace(&self) -> Duration {
        Duration::from_secs(u64::try_from(self.plan.pod.grace).unwrap_or(0))
    }

    fn say(&self, text: &str) {
        output::complain(&format!("peapod: {text}"));
    }

    fn name(&self, unit: usize) -> &str {
        &self.plan.pod.containers[unit].name
    }

    /// Shows what was written since the last time.
    fn pump(&mut self) {
        if !self.mute && self.follower.pump().is_err() {
            self.mute = true;
        }
    }

    /// Makes and starts the next attempt of a container. One that cannot be started has failed, and is
    /// restarted by the pod's policy; only what cannot even be made is an error, and what nobody would restart.
    async fn start(&mut self, unit: usize) -> anyhow::Result<()> {
        let now = self.now();
        let attempt = self.machine.begin(unit, now);
        let id = match self.create(unit, attempt).await {
            Ok(id) => id,
            Err(error) if attempt == 0 => return Err(error),
            Err(error) => return self.failed(unit, &error),
        };
        let source = (!self.detach).then(|| {
            let name = self.name(unit).to_owned();
            let log = self.plan.places.log(&name, attempt);
            self.follower.add(Some(name), log)
        });
        self.made[unit] = Some((id.clone(), source));
        self.forget_older(unit, attempt).await;
        match self.client.runtime.start_container(StartContainerRequest { container_id: id }).await {
            Ok(_) => {
                self.machine.started(unit);
                Ok(())
            }
            Err(status) => {
                let error = told(&status).context(format!("cannot start container {}", self.name(unit)));
                if self.detach { Err(error) } else { self.failed(unit, &error) }
            }
        }
    }

    async fn create(&mut self, unit: usize, attempt: u32) -> anyhow::Result<String> {
        let container = &self.plan.pod.containers[unit];
        // The first attempt's image was looked at before the sandbox was made.
        if attempt > 0 {
            let image = images::ensure(&self.client, container).await?;
            self.images.insert(container.image.clone(), image);
        }
        let image = self.images.get(&container.image).context("the image was looked up")?;
        let config = self.plan.container(container, attempt, image)?;
        self.plan.places.prepare(&container.name, attempt)?;
        let request = CreateContainerRequest {
            pod_sandbox_id: self.pod_id.clone(),
            config: Some(config),
            sandbox_config: Some(self.sandbox.clone()),
        };
        let created = self.client.runtime.create_container(request).await.map_err(|s| told(&s));
        Ok(created
            .with_context(|| format!("cannot make container {}", container.name))?
            .into_inner()
            .container_id)
    }

    fn failed(&mut self, unit: usize, error: &anyhow::Error) -> anyhow::Result<()> {
        self.say(&format!("{error:#}"));
        self.ended(unit, START_ERROR);
        Ok(())
    }

    /// Counts an end, and says what comes next.
    fn ended(&mut self, unit: usize, code: i32) {
        self.machine.ended(unit, code, self.now());
        if let Some((_, Some(source))) = self.made[unit] {
            self.follower.end(source);
        }
        if let Some(at) = self.machine.restarts_at(unit) {
            let wait = at.saturating_sub(self.now());
            if wait > Duration::ZERO && !self.plan.places.is_stopping() {
                self.say(&format!("{} is restarted in {} s", self.name(unit), wait.as_secs() + 1));
            }
        }
    }

    /// Keeps the last ended attempt of a container for whoever asks why; older ones go.
    async fn forget_older(&mut self, unit: usize, attempt: u32) {
        let Some(old) = attempt.checked_sub(2) else { return };
        let name = self.name(unit).to_owned();
        // What could not be removed goes with the pod.
        if let Ok(containers) = self.containers().await {
            for container in containers {
                if find::name(&container) == name && find::attempt(&container) <= old {
                    let request = RemoveContainerRequest { container_id: container.id };
                    let _ = self.client.runtime.remove_container(request).await;
                }
            }
        }
        self.plan.places.forget(&name, old);
    }

    async fn containers(&mut self) -> Result<Vec<Container>, tonic::Status> {
        let filter = ContainerFilter { pod_sandbox_id: self.pod_id.clone(), ..ContainerFilter::default() };
        let request = ListContainersRequest { filter: Some(filter) };
        Ok(self.client.runtime.list_containers(request).await?.into_inner().containers)
    }

    async fn is_ready(&mut self) -> Result<bool, tonic::Status> {
        let filter = PodSandboxFilter { id: self.pod_id.clone(), ..PodSandboxFilter::default() };
        let request = ListPodSandboxRequest { filter: Some(filter) };
        let found = self.client.runtime.list_pod_sandbox(request).await?.into_inner().items;
        Ok(found.first().is_some_and(|pod| pod.state() == PodSandboxState::SandboxReady))
    }

    /// Asks the daemon what became of the pod. One that is away for a while is waited for: the pod runs on.
    async fn look(&mut self) -> anyhow::Result<Seen> {
        let ready = match self.is_ready().await {
            Err(status) if status.code() == tonic::Code::Unavailable => {
                if !std::mem::replace(&mut self.away, true) {
                    self.say("the daemon does not answer; waiting for it");
                }
                return Ok(Seen::Living);
            }
            ready => ready.map_err(|s| told(&s))?,
        };
        if std::mem::take(&mut self.away) {
            self.say("the daemon answers again");
        }
        self.collect().await?;
        Ok(if ready { Seen::Living } else { Seen::Stopped })
    }

    /// Counts the containers that ended since the last time.
    async fn collect(&mut self) -> anyhow::Result<()> {
        let containers = match self.containers().await {
            Err(status) if status.code() == tonic::Code::Unavailable => return Ok(()),
            containers => containers.map_err(|s| told(&s))?,
        };
        for unit in 0..self.made.len() {
            let Some((id, _)) = self.made[unit].clone() else { continue };
            if self.machine.phase(unit) != Phase::Running {
                continue;
            }
            match containers.iter().find(|container| container.id == id) {
                Some(container) if container.state() == ContainerState::ContainerExited => {
                    let status = status(&mut self.client, &id).await?;
                    self.say_end(unit, &status);
                    self.ended(unit, status.exit_code);
                }
                Some(_) => {}
                None => self.ended(unit, REMOVED),
            }
        }
        Ok(())
    }

    fn say_end(&mut self, unit: usize, status: &ContainerStatus) {
        // Its last words come before ours.
        self.pump();
        let name = self.name(unit);
        let message = self.plan.places.termination_message(name, self.machine.attempt(unit));
        let why = if message.is_empty() { &status.message } else { &message };
        let why = if why.is_empty() { String::new() } else { format!(": {}", why.escape_debug()) };
        let reason = match status.reason.as_str() {
            "" | "Completed" | "Error" => String::new(),
            reason => format!(" ({reason})"),
        };
        self.say(&format!("{name} ended with exit code {}{reason}{why}", status.exit_code));
    }

    /// Stops what runs: apps, then sidecars, then the sandbox. Another signal meanwhile kills.
    async fn wind_down(&mut self, grace: Duration) -> anyhow::Result<Outcome> {
        let stopping = self.running();
        let (client, id) = (self.client.clone(), self.pod_id.clone());
        let orderly = async {
            stop_containers(&client, stopping, grace).await?;
            stop_sandbox(&client, &id).await
        };
        let mut orderly = std::pin::pin!(orderly);
        loop {
            tokio::select! {
                stopped = &mut orderly => break stopped?,
                () = tokio::time::sleep(TICK) => self.pump(),
                () = self.signals.next() => break stop_sandbox(&client, &id).await?,
            }
        }
        self.collect().await?;
        for unit in 0..self.made.len() {
            if let Some((_, Some(source))) = self.made[unit] {
                self.follower.end(source);
            }
        }
        while !self.mute && !self.follower.is_over() {
            self.pump();
        }
        Ok(Outcome::Ended(self.machine.exit_code()))
    }

    fn running(&self) -> Vec<Stopping> {
        let units = self.plan.pod.containers.iter().zip(&self.made).enumerate();
        let running = units.filter(|(unit, _)| self.machine.phase(*unit) == Phase::Running);
        let stopping =
            |(_, (container, made)): (usize, (&super::super::manifest::Container, &Option<(String, _)>))| {
                let (id, _) = made.as_ref()?;
                Some(Stopping { id: id.clone(), sidecar: container.kind == Kind::Sidecar })
            };
        running.filter_map(stopping).collect()
    }
}
