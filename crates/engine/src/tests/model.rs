//! Many callers at once, each with a pod of its own, making legal and illegal calls at random: each
//! answer must be the one that a simple model gives.

use super::*;
use crate::{EngineError, PodState};
use std::time::Duration;

/// xorshift64*: the same calls in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }
}

/// What the model knows of a pod with two possible containers.
#[derive(Debug, Default)]
struct Model {
    pod: Option<(String, PodState)>,
    containers: [Option<(String, ContainerState)>; 2],
    /// Of the pod's last life, and so unknown now.
    old: Option<String>,
}

/// What an answer was, as far as the model says.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Done,
    NotFound,
    Precondition,
    Exists,
}

fn said<T>(result: &Result<T, EngineError>) -> Said {
    match result {
        Ok(_) => Said::Done,
        Err(EngineError::NotFound { .. }) => Said::NotFound,
        Err(EngineError::FailedPrecondition { .. }) => Said::Precondition,
        Err(EngineError::AlreadyExists { .. }) => Said::Exists,
        Err(other) => panic!("no answer of the model: {other:?}"),
    }
}

impl Model {
    async fn step(&mut self, engine: &Engine<FakeHost>, name: &str, dice: &mut Dice) {
        let n = usize::from(dice.below(2) == 1);
        let ids = (self.pod.clone(), self.containers[n].clone(), self.old.clone());
        let pod_id = ids.0.as_ref().map(|(id, _)| id.clone()).or(ids.2).unwrap_or_else(|| "f".repeat(64));
        let id = ids.1.as_ref().map_or_else(|| "e".repeat(64), |(id, _)| id.clone());
        match dice.below(12) {
            0 | 1 => self.run(engine, name).await,
            2 | 3 => self.create(engine, &pod_id, n, "stubborn").await,
            4 => self.create(engine, &pod_id, n, "forever").await,
            5 | 6 => self.start(engine, &id, n).await,
            7 => {
                engine.stop_container(&id, Duration::ZERO).await.expect("stops");
                if let Some((_, state)) = &mut self.containers[n] {
                    *state = ContainerState::Exited;
                }
            }
            8 => {
                engine.remove_container(&id).await.expect("removed");
                self.containers[n] = None;
            }
            9 => {
                let wanted = match &self.containers[n] {
                    Some((_, ContainerState::Running)) => Said::Done,
                    Some(_) => Said::Precondition,
                    None => Said::NotFound,
                };
                assert_eq!(said(&engine.reopen_log(&id).await), wanted, "{self:?}");
            }
            10 => {
                engine.stop_pod(&pod_id).await.expect("stops");
                self.stopped();
            }
            _ => {
                engine.remove_pod(&pod_id).await.expect("removed");
                self.old = Some(pod_id);
                self.pod = None;
                self.containers = [None, None];
            }
        }
        self.compare(engine);
    }

    async fn run(&mut self, engine: &Engine<FakeHost>, name: &str) {
        let id = engine.run_pod(pod(name)).await.expect("runs").to_string();
        match &self.pod {
            Some((had, _)) => assert_eq!(*had, id),
            None => self.pod = Some((id, PodState::Ready)),
        }
        let other = PodSpec { hostname: "else".to_owned(), ..pod(name) };
        assert_eq!(said(&engine.run_pod(other).await), Said::Exists);
    }

    async fn create(&mut self, engine: &Engine<FakeHost>, pod_id: &str, n: usize, command: &str) {
        let made = engine.create_container(pod_id, container(["x", "y"][n], command)).await;
        let has = self.containers[n].as_ref().map(|(id, _)| id.clone());
        let wanted = match (&self.pod, &has) {
            (None, _) => Said::NotFound,
            // Which command it was made with is in the engine's answer to the other one.
            (Some(_), Some(_)) => match &made {
                Ok(_) => Said::Done,
                Err(_) => Said::Exists,
            },
            (Some((_, PodState::Ready)), None) => Said::Done,
            (Some((_, PodState::NotReady)), None) => Said::Precondition,
        };
        assert_eq!(said(&made), wanted, "{self:?}");
        if let Ok(id) = made {
            match has {
                Some(had) => assert_eq!(had, id.to_string()),
                None => self.containers[n] = Some((id.to_string(), ContainerState::Created)),
            }
        }
    }

    async fn start(&mut self, engine: &Engine<FakeHost>, id: &str, n: usize) {
        let started = engine.start_container(id).await;
        let wanted = match &mut self.containers[n] {
            Some((_, state @ ContainerState::Created)) => {
                *state = ContainerState::Running;
                Said::Done
            }
            Some(_) => Said::Precondition,
            None => Said::NotFound,
        };
        assert_eq!(said(&started), wanted, "{self:?}");
    }

    fn stopped(&mut self) {
        if let Some((_, state)) = &mut self.pod {
            *state = PodState::NotReady;
            for (_, state) in self.containers.iter_mut().flatten() {
                *state = ContainerState::Exited;
            }
        }
    }

    fn compare(&self, engine: &Engine<FakeHost>) {
        if let Some((id, state)) = &self.pod {
            assert_eq!(engine.pod(id).expect("is there").state(), *state, "{self:?}");
        }
        for (id, state) in self.containers.iter().flatten() {
            assert_eq!(engine.container(id).expect("is there").state(), *state, "{self:?}");
        }
    }
}

async fn many_callers() {
    let house = House::new().await;
    let callers: Vec<_> = (0..8)
        .map(|number: u64| {
            let engine = house.engine.clone();
            tokio::spawn(async move {
                let name = format!("p{number}");
                let mut dice = Dice(0x1234_5678_9abc_def1 ^ (number << 32));
                let mut model = Model::default();
                for _ in 0..300 {
                    model.step(&engine, &name, &mut dice).await;
                }
                if let Some((id, _)) = model.pod {
                    engine.remove_pod(&id).await.expect("removed");
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.expect("no panic");
    }
    house.assert_empty("at the end");
}

#[tokio::test]
async fn many_callers_get_the_models_answers_on_one_thread() {
    many_callers().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_callers_get_the_models_answers_on_several_threads() {
    many_callers().await;
}

/// Several callers, one pod: answers cannot be foretold, but nothing may panic, hang or be left.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn callers_that_fight_over_one_pod_leave_nothing() {
    let house = House::new().await;
    let callers: Vec<_> = (0..6)
        .map(|number: u64| {
            let engine = house.engine.clone();
            tokio::spawn(async move {
                let mut dice = Dice(0xfeed_beef ^ (number << 40));
                for _ in 0..150 {
                    let Ok(id) = engine.run_pod(pod("a")).await else { continue };
                    let id = id.as_str();
                    let made = engine.create_container(id, container("c", "forever")).await;
                    let made = made.map_or_else(|_| "0".repeat(64), |id| id.to_string());
                    match dice.below(6) {
                        0 => drop(engine.remove_pod(id).await),
                        1 => drop(engine.stop_pod(id).await),
                        2 => drop(engine.remove_container(&made).await),
                        3 => drop(engine.stop_container(&made, Duration::ZERO).await),
                        _ => drop(engine.start_container(&made).await),
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.expect("no panic");
    }
    let id = house.pod("a").await;
    house.engine.remove_pod(&id).await.expect("removed");
    house.assert_empty("at the end");
}
