//! The engine ends at every point that it passes: after each durable write and each verb of the
//! host. It is started anew on the same machine and store, by a caller that insists as the kubelet
//! does; in the end all was done once, and nothing is left.

use super::*;
use crate::{EngineError, PodState};
use std::{cell::RefCell, collections::BTreeSet, sync::Mutex, time::Duration};
use tokio::{runtime, sync::mpsc};

/// What a caller knows, across the daemon's lives.
#[derive(Debug, Default)]
struct Caller {
    step: usize,
    pod: Option<String>,
    containers: Vec<String>,
}

const LAST: usize = 11;

impl Caller {
    /// Insists on each step until it is done.
    async fn run(caller: &RefCell<Caller>, engine: &Engine<FakeHost>) {
        loop {
            let step = caller.borrow().step;
            if step == LAST {
                return;
            }
            Caller::check(caller, engine);
            Caller::take(caller, engine, step).await.unwrap_or_else(|error| panic!("step {step}: {error:?}"));
            caller.borrow_mut().step += 1;
        }
    }

    async fn take(
        caller: &RefCell<Caller>,
        engine: &Engine<FakeHost>,
        step: usize,
    ) -> Result<(), EngineError> {
        let pod_id = caller.borrow().pod.clone().unwrap_or_default();
        let container_id = |n: usize| caller.borrow().containers[n].clone();
        match step {
            0 => {
                let id = engine.run_pod(pod("a")).await?.to_string();
                caller.borrow_mut().pod = Some(id);
            }
            1..=3 => {
                let spec =
                    container(["app", "job", "left"][step - 1], ["forever", "exit 3", "forever"][step - 1]);
                let id = engine.create_container(&pod_id, spec).await?.to_string();
                caller.borrow_mut().containers.push(id);
            }
            4 | 5 => {
                let id = container_id(step - 4);
                // Who comes back after a crash looks first.
                if engine.container(&id)?.state() == ContainerState::Created {
                    engine.start_container(&id).await?;
                }
            }
            6 => {
                let id = container_id(1);
                while engine.container(&id)?.state() != ContainerState::Exited {
                    tokio::task::yield_now().await;
                }
                assert_eq!(engine.container(&id)?.ended().map(|ended| ended.code), Some(3));
            }
            7 => {
                engine.stop_container(&container_id(0), Duration::from_secs(1000)).await?;
                let code = engine.container(&container_id(0))?.ended().map(|ended| ended.code);
                assert_eq!(code, Some(143));
            }
            8 => engine.remove_container(&container_id(0)).await?,
            9 => engine.stop_pod(&pod_id).await?,
            _ => engine.remove_pod(&pod_id).await?,
        }
        Ok(())
    }

    /// What was answered holds: same ids, same states.
    fn check(caller: &RefCell<Caller>, engine: &Engine<FakeHost>) {
        let caller = caller.borrow();
        let Some(pod) = caller.pod.as_ref().filter(|_| caller.step < 9) else { return };
        assert_eq!(engine.pod(pod).map(|pod| pod.state()).ok(), Some(PodState::Ready), "{caller:?}");
        for (n, id) in caller.containers.iter().enumerate() {
            let state = engine.container(id).map(|container| container.state()).ok();
            let allowed: &[Option<ContainerState>] = match (n, caller.step) {
                (0, 0..=3) => &[Some(ContainerState::Created)],
                (0, 4) => &[Some(ContainerState::Created), Some(ContainerState::Running)],
                (0, 5 | 6) => &[Some(ContainerState::Running)],
                (0, 7) => &[Some(ContainerState::Running), Some(ContainerState::Exited)],
                (0, 8) => &[Some(ContainerState::Exited), None],
                (1, 0..=4) | (2, _) => &[Some(ContainerState::Created)],
                (1, 5) => &[
                    Some(ContainerState::Created),
                    Some(ContainerState::Running),
                    Some(ContainerState::Exited),
                ],
                (1, 6) => &[Some(ContainerState::Running), Some(ContainerState::Exited)],
                (1, _) => &[Some(ContainerState::Exited)],
                (_, _) => &[None],
            };
            assert!(allowed.contains(&state), "container {n} is {state:?}: {caller:?}");
        }
    }
}

/// One life of the daemon: it ends at its `crash_at`-th point, or when the caller is done. Answers
/// the names of the points that it passed.
fn life(dir: &Dir, host: &FakeHost, caller: &RefCell<Caller>, crash_at: usize) -> Vec<&'static str> {
    let passed = Arc::new(Mutex::new(Vec::new()));
    let (crash, mut crashed) = mpsc::unbounded_channel();
    let hook = {
        let passed = Arc::clone(&passed);
        move |point: &'static str| {
            let mut passed = passed.lock().expect("not poisoned");
            passed.push(point);
            if passed.len() >= crash_at {
                let _ = crash.send(());
                return Go::Never;
            }
            Go::On
        }
    };
    let runtime = runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let work = async {
            let engine = Engine::start(parts(dir.store(), host, Probe::new(hook))).await.expect("starts");
            assert_owned_is_known(host, &engine);
            Caller::run(caller, &engine).await;
        };
        tokio::select! {
            biased;
            _ = crashed.recv() => {}
            () = work => {}
        }
    });
    // All tasks end where they are, as at a SIGKILL.
    drop(runtime);
    Arc::try_unwrap(passed).map_or_else(
        |shared| shared.lock().expect("not poisoned").clone(),
        |only| only.into_inner().expect("not poisoned"),
    )
}

/// After recovery everything on the machine belongs to a pod or container that is shown.
fn assert_owned_is_known(host: &FakeHost, engine: &Engine<FakeHost>) {
    let pods = engine.pods(&Default::default());
    let containers = engine.containers(&Default::default());
    let shown: BTreeSet<&str> = pods
        .iter()
        .map(|pod| pod.plan.id.short())
        .chain(containers.iter().map(|container| container.plan.id.short()))
        .collect();
    for name in host.owned() {
        let owner = name.split(' ').nth(1).expect("a kind and an id");
        assert!(shown.contains(owner), "{name} belongs to nobody");
    }
}

fn assert_nothing_left(dir: &Dir, host: &FakeHost, when: &str) {
    assert_eq!(host.owned(), [] as [&str; 0], "{when}");
    let store = dir.store();
    for table in [store::Table::PODS, store::Table::CONTAINERS] {
        assert_eq!(store.scan(table).expect("readable").len(), 0, "{when}: {}", table.name());
    }
}

#[test]
fn a_crash_at_any_point_loses_and_leaves_nothing() {
    let (dir, host, caller) = (Dir::new(), FakeHost::new(), RefCell::<Caller>::default());
    let points = life(&dir, &host, &caller, usize::MAX);
    assert_nothing_left(&dir, &host, "without a crash");
    let kinds: BTreeSet<_> = points.iter().collect();
    assert!(kinds.len() > 20, "only {kinds:?}");
    for crash_at in 1..=points.len() {
        let (dir, host, caller) = (Dir::new(), FakeHost::new(), RefCell::<Caller>::default());
        let passed = life(&dir, &host, &caller, crash_at);
        let when = format!("after point {crash_at}, {}", passed.last().expect("it passed one"));
        life(&dir, &host, &caller, usize::MAX);
        assert_eq!(caller.borrow().step, LAST, "{when}");
        assert_nothing_left(&dir, &host, &when);
    }
}

#[test]
fn crashes_again_and_again_lose_and_leave_nothing() {
    for stride in 2..12 {
        let (dir, host, caller) = (Dir::new(), FakeHost::new(), RefCell::<Caller>::default());
        let mut lives = 0;
        while caller.borrow().step < LAST {
            life(&dir, &host, &caller, stride);
            lives += 1;
            if lives == 60 {
                // A daemon that dies at its second point again and again gets nowhere: let it live.
                life(&dir, &host, &caller, usize::MAX);
            }
        }
        assert!(lives > 1, "{stride}");
        assert_nothing_left(&dir, &host, &format!("every {stride} points"));
    }
}
