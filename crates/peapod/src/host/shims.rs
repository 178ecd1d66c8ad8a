//! The shims of all pods: connections, calls, and their end.

use super::{blocking::failed, processes};
use config::Config;
use engine::host::{
    ContainerPlan, Exec, ExecOutput, Exit, Fault, HostError, Life, PodPlan, Result, ShimContainer, ShimState,
    ShimUp, Started, Whom,
};
use shimlink::{Code, CreateTask, ExecSync, Program, RootMount, Shim, ShimError, SpawnRequest};
use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use sys::{
    pidfd,
    rustix::{fd::OwnedFd, process::Signal as RawSignal},
};
use types::{
    Clock as _, ContainerId, PodId, SystemClock, Timestamp,
    pod::UserMapping,
    shim::{self, ContainerState, ExitRecord, Phase},
    signal::Signal,
};

/// How long a killed shim may take to be gone.
const KILLED_WITHIN: Duration = Duration::from_secs(5);

/// One connection a pod.
#[derive(Debug)]
pub(super) struct Shims {
    program: Arc<Program>,
    seccomp_cache: PathBuf,
    log_line: usize,
    connected: Mutex<HashMap<PodId, Shim>>,
}

/// What a shim's refusal means for the caller.
fn shim_error(doing: impl Into<String>) -> impl FnOnce(ShimError) -> HostError {
    let doing = doing.into();
    move |error| {
        let fault = match &error {
            ShimError::Gone { .. } | ShimError::Connect { .. } if error.is_gone() => Fault::ShimGone,
            ShimError::Deadline { .. } => Fault::Deadline,
            ShimError::Refused { code, .. } => match code {
                Code::InvalidArgument => Fault::Invalid("config"),
                Code::FailedPrecondition => Fault::Precondition,
                Code::ResourceExhausted => Fault::Exhausted,
                Code::NotFound
                | Code::AlreadyExists
                | Code::Unimplemented
                | Code::Internal
                | Code::Other(_) => return failed(doing)(error),
            },
            ShimError::Gone { .. }
            | ShimError::Connect { .. }
            | ShimError::Protocol { .. }
            | ShimError::Spawn { .. } => return failed(doing)(error),
        };
        HostError::because(doing, fault, error)
    }
}

impl Shims {
    pub(super) fn new(program: Arc<Program>, config: &Config) -> Shims {
        Shims {
            program,
            seccomp_cache: config.state.join("seccomp"),
            log_line: config.container.max_log_line,
            connected: Mutex::default(),
        }
    }

    fn keep(&self, pod: &PodId, shim: &Shim) {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner).insert(pod.clone(), shim.clone());
    }

    fn let_go(&self, pod: &PodId) {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner).remove(pod);
    }

    /// The connection to a pod's shim; made anew when there is none.
    async fn of(&self, plan: &PodPlan) -> std::result::Result<Shim, ShimError> {
        let known = self.connected.lock().unwrap_or_else(PoisonError::into_inner).get(&plan.id).cloned();
        if let Some(shim) = known {
            return Ok(shim);
        }
        let shim = Shim::connect(&plan.paths.dir).await?;
        self.keep(&plan.id, &shim);
        Ok(shim)
    }

    pub(super) async fn start(&self, plan: &PodPlan) -> Result<ShimUp> {
        const DOING: &str = "cannot start the pod's shim";
        let request = SpawnRequest {
            program: Arc::clone(&self.program),
            pod: plan.id.clone(),
            directory: plan.paths.dir.clone(),
            seccomp_cache: Some(self.seccomp_cache.clone()),
            pause: plan.pause,
            userns: plan.pins.user.clone(),
            log_line: self.log_line,
            handler: plan.handler.clone(),
        };
        let shim = Shim::spawn(request).await.map_err(shim_error(DOING))?;
        self.keep(&plan.id, &shim);
        let state = shim.first_state().await.map_err(shim_error(DOING))?;
        Ok(up(&state))
    }

    /// Asks it to end, and ends it by force if it does not answer. Without a shim there is nothing
    /// to do: its containers are the engine's to kill.
    pub(super) async fn drop_shim(&self, plan: &PodPlan) -> Result<()> {
        const DOING: &str = "cannot end the pod's shim";
        let shim = match self.of(plan).await {
            Ok(shim) => shim,
            Err(error) if error.is_gone() => {
                self.let_go(&plan.id);
                return Ok(());
            }
            Err(error) => return Err(shim_error(DOING)(error)),
        };
        // Something quick first: one that hangs is known by it, and not waited for again for as long as an end may take.
        let _ = shim.pod_state().await;
        let asked = shim.shutdown(true).await;
        self.let_go(&plan.id);
        match asked {
            Ok(()) => {
                // Its answer comes a moment before its end.
                let gone = tokio::time::timeout(KILLED_WITHIN, shim.gone()).await;
                gone.map_err(|_| HostError::new(format!("{DOING}: it does not end"), Fault::Deadline))
            }
            Err(error) if error.is_gone() => Ok(()),
            Err(error) => {
                let server = match Shim::server(&plan.paths.dir).await {
                    Ok(server) => server,
                    Err(error) if error.is_gone() => return Ok(()),
                    Err(error) => return Err(shim_error(DOING)(error)),
                };
                let (pod, directory) = (plan.id.clone(), plan.paths.dir.clone());
                let killed = tokio::task::spawn_blocking(move || {
                    let Some((pid, shim)) =
                        server.and_then(|pid| Some((pid, processes::shim(pid, &directory)?)))
                    else {
                        return Err(shim_error(DOING)(error));
                    };
                    tracing::warn!(%pod, %error, pid, "the shim does not answer and is killed");
                    kill(&shim)
                });
                killed.await.map_err(failed(DOING))?
            }
        }
    }

    pub(super) async fn create(&self, pod: &PodPlan, plan: &ContainerPlan) -> Result<u32> {
        const DOING: &str = "cannot create the container's process";
        let shim = self.of(pod).await.map_err(shim_error(DOING))?;
        let task = CreateTask {
            id: plan.id.to_string(),
            bundle: plan.bundle.clone(),
            // Another handler's is mounted already, where its program looks for it.
            rootfs: if pod.handler.is_none() { vec![root_mount(pod, plan)] } else { Vec::new() },
            stdout: match (&pod.spec.log_directory, plan.spec.log_path.as_str()) {
                (Some(directory), path) if !path.is_empty() => {
                    shim::log_address(&directory.display().to_string(), path)
                }
                (Some(_) | None, _) => shim::LOG_SCHEME.to_owned(),
            },
            stdin: plan.spec.stdin,
            stdin_once: plan.spec.stdin_once,
            terminal: plan.spec.tty,
        };
        shim.create(task).await.map_err(shim_error(DOING))
    }

    pub(super) async fn start_container(&self, pod: &PodPlan, plan: &ContainerPlan) -> Result<Started> {
        const DOING: &str = "cannot start the container";
        let shim = self.of(pod).await.map_err(shim_error(DOING))?;
        // Before it runs: nothing that it does may seem to have happened earlier than its start.
        let at = SystemClock.now();
        shim.start(plan.id.as_str()).await.map_err(|error| {
            // The program cannot be executed: no field of this request is wrong.
            if matches!(error, ShimError::Refused { code: Code::InvalidArgument, .. }) {
                failed(DOING)(error)
            } else {
                shim_error(DOING)(error)
            }
        })?;
        Ok(Started { at })
    }

    pub(super) async fn signal(
        &self,
        pod: &PodPlan,
        plan: &ContainerPlan,
        signal: Signal,
        whom: Whom,
    ) -> Result<()> {
        const DOING: &str = "cannot signal the container";
        let shim = self.of(pod).await.map_err(shim_error(DOING))?;
        let number = u32::try_from(signal.number()).map_err(failed(DOING))?;
        match shim.kill(plan.id.as_str(), number, whom == Whom::All).await {
            // It has ended: the exit is on the way.
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map_err(shim_error(DOING)),
        }
    }

    /// Has the shim kill the container and forget it; without a shim there is nothing to forget.
    pub(super) async fn forget(&self, pod: &PodPlan, plan: &ContainerPlan) -> Result<()> {
        const DOING: &str = "cannot make the shim forget the container";
        let shim = match self.of(pod).await {
            Ok(shim) => shim,
            Err(error) if error.is_gone() => return Ok(()),
            Err(error) => return Err(shim_error(DOING)(error)),
        };
        let id = plan.id.as_str();
        match shim.delete(id).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_not_found() || error.is_gone() => return Ok(()),
            Err(ShimError::Refused { code: Code::FailedPrecondition, .. }) => {}
            Err(error) => return Err(shim_error(DOING)(error)),
        }
        let kill = u32::try_from(Signal::KILL.number()).map_err(failed(DOING))?;
        match shim.kill(id, kill, true).await {
            Ok(()) => {}
            Err(error) if error.is_not_found() || error.is_gone() => {}
            Err(error) => return Err(shim_error(DOING)(error)),
        }
        let ended = tokio::time::timeout(KILLED_WITHIN, shim.wait(id)).await;
        match ended {
            Ok(Ok(_)) => {}
            Ok(Err(error)) if error.is_not_found() || error.is_gone() => return Ok(()),
            Ok(Err(error)) => return Err(shim_error(DOING)(error)),
            Err(_) => return Err(HostError::new(format!("{DOING}: it does not end"), Fault::Deadline)),
        }
        match shim.delete(id).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() || error.is_gone() => Ok(()),
            Err(error) => Err(shim_error(DOING)(error)),
        }
    }

    pub(super) async fn reopen_log(&self, pod: &PodPlan, plan: &ContainerPlan) -> Result<()> {
        const DOING: &str = "cannot open the log anew";
        let shim = self.of(pod).await.map_err(shim_error(DOING))?;
        shim.reopen_log(plan.id.as_str()).await.map_err(shim_error(DOING))
    }

    pub(super) async fn log_trouble(&self, pod: &PodPlan, plan: &ContainerPlan) -> Result<Option<String>> {
        const DOING: &str = "cannot ask the shim for the log's state";
        let shim = self.of(pod).await.map_err(shim_error(DOING))?;
        let state = shim.pod_state().await.map_err(shim_error(DOING))?;
        let mine = state.containers.into_iter().find(|c| c.container_id == plan.id.as_str());
        Ok(mine.map(|c| c.log_trouble).filter(|trouble| !trouble.is_empty()))
    }

    pub(super) async fn exec_sync(
        &self,
        pod: &PodPlan,
        plan: &ContainerPlan,
        exec: &Exec,
    ) -> Result<ExecOutput> {
        let doing = format!("cannot run `{}`", exec.command.first().map(String::as_str).unwrap_or_default());
        let shim = self.of(pod).await.map_err(shim_error(doing.as_str()))?;
        let request = ExecSync {
            container_id: plan.id.to_string(),
            command: exec.command.clone(),
            timeout: exec.timeout,
            output_cap: exec.output_cap,
            drain: exec.drain,
        };
        let said = match shim.exec_sync(request).await {
            Ok(said) => said,
            Err(error @ ShimError::Refused { code: Code::InvalidArgument, .. }) => {
                return Err(HostError::because(doing, Fault::Invalid("cmd"), error));
            }
            Err(error) => return Err(shim_error(doing)(error)),
        };
        Ok(ExecOutput {
            stdout: said.stdout,
            stderr: said.stderr,
            exit_code: said.exit_code,
            timed_out: said.timed_out,
        })
    }

    pub(super) async fn reconnect(&self, plan: &PodPlan) -> Result<ShimState> {
        const DOING: &str = "cannot ask the shim for its state";
        let state = match self.of(plan).await {
            Ok(shim) => shim.pod_state().await,
            Err(error) => Err(error),
        };
        let state = match state {
            Ok(state) => state,
            Err(error) if error.is_gone() => {
                self.let_go(&plan.id);
                return Ok(ShimState::Dead);
            }
            Err(error) => return Err(shim_error(DOING)(error)),
        };
        let containers = state.containers.iter().map(container).collect::<Result<Vec<_>>>()?;
        Ok(ShimState::Alive { up: up(&state), containers, last_exit: state.last_exit })
    }

    pub(super) async fn next_exits(&self, plan: &PodPlan, after: u64) -> Result<Vec<Exit>> {
        const DOING: &str = "cannot wait for exits";
        let watched = match self.of(plan).await {
            Ok(shim) => shim.watch(after).await,
            Err(error) => Err(error),
        };
        match watched {
            Ok(news) => news.exits.into_iter().map(exit).collect(),
            Err(error) => {
                if error.is_gone() {
                    self.let_go(&plan.id);
                }
                Err(shim_error(DOING)(error))
            }
        }
    }
}

fn up(state: &shim::PodStateResponse) -> ShimUp {
    ShimUp { pid: state.shim_pid, pause_pid: Some(state.pause_pid).filter(|pid| *pid != 0) }
}

fn container_id(text: &str) -> Result<ContainerId> {
    ContainerId::parse(text).map_err(failed("the shim names a container that is not ours"))
}

/// An exit as the engine knows it.
pub(super) fn exit(record: ExitRecord) -> Result<Exit> {
    Ok(Exit {
        container: container_id(&record.container_id)?,
        code: i32::try_from(record.code).unwrap_or(i32::MAX),
        at: Timestamp(record.exited_at),
        oom_killed: record.oom_killed,
        message: record.message,
        sequence: record.sequence,
    })
}

fn container(state: &ContainerState) -> Result<ShimContainer> {
    let started_at = Timestamp(state.started_at);
    let life = match (Phase::try_from(state.phase), state.exit.clone()) {
        (Ok(Phase::Created), _) => Life::Created { pid: state.pid },
        (Ok(Phase::Running), _) => Life::Running { pid: state.pid, at: started_at },
        (Ok(Phase::Exited), Some(record)) => Life::Exited { started_at, exit: exit(record)? },
        (Ok(Phase::Exited), None) | (Ok(Phase::Unknown) | Err(_), _) => {
            return Err(HostError::new(
                "the shim tells a state that this version does not know",
                Fault::Internal,
            ));
        }
    };
    Ok(ShimContainer { id: container_id(&state.container_id)?, life })
}

/// The overlay of the image's layers and the container's own, mounted by the container itself.
/// `volatile`: what a crash leaves of it is never mounted again, so nothing has to be synced.
fn root_mount(pod: &PodPlan, plan: &ContainerPlan) -> RootMount {
    let upper = plan.rootfs.join("upper");
    if plan.image.layers.is_empty() {
        let options = vec!["rbind".to_owned(), "rprivate".to_owned()];
        return RootMount { kind: "bind".to_owned(), source: upper.display().to_string(), options };
    }
    // overlay wants the highest first.
    let lower: Vec<String> =
        plan.image.layers.iter().rev().map(|layer| layer.display().to_string()).collect();
    let mut options = vec![
        format!("lowerdir={}", lower.join(":")),
        format!("upperdir={}", upper.display()),
        format!("workdir={}", plan.rootfs.join("work").display()),
        "volatile".to_owned(),
    ];
    if let Some(UserMapping { first_uid, first_gid, length }) = pod.spec.namespaces.user_mapping() {
        // All on disk keeps the ids of the image.
        options.push(format!("uidmap=0:{first_uid}:{length}"));
        options.push(format!("gidmap=0:{first_gid}:{length}"));
        options.push("idmap-upper".to_owned());
    }
    RootMount { kind: "overlay".to_owned(), source: "overlay".to_owned(), options }
}

/// SIGKILL, and waits for the end.
fn kill(shim: &OwnedFd) -> Result<()> {
    const DOING: &str = "cannot kill the pod's shim";
    pidfd::send_signal(shim, RawSignal::KILL).map_err(failed(DOING))?;
    match pidfd::ended_within(shim, KILLED_WITHIN).map_err(failed(DOING))? {
        true => Ok(()),
        false => Err(HostError::new(format!("{DOING}: it does not end"), Fault::Deadline)),
    }
}
