//! The engine on a fake machine: each test is a story with a sentence for a name.

mod crash;
mod failures;
mod life;
mod model;
mod news;
mod records;
mod resize;
mod restart;
mod retries;
mod stop;

use crate::{
    ContainerState, ContainerView, Engine, Go, Parts, Probe,
    fake::{FakeHost, IMAGE},
    suite::{Bench, host_suite},
};
use config::Config;
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
};
use store::Store;
use types::{Clock, Timestamp, container::ContainerSpec, pod::PodSpec};

/// Ids that never come twice.
fn random() -> [u8; 32] {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut bytes = [0x5a; 32];
    let number = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// A clock that goes on by one with each look.
struct Ticks;

impl Clock for Ticks {
    fn now(&self) -> Timestamp {
        static NOW: AtomicI64 = AtomicI64::new(1_000_000);
        Timestamp(NOW.fetch_add(1, Ordering::Relaxed))
    }
}

/// A directory of one test, with a store in it, removed with the value.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("peapod-engine-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).expect("a new directory");
        Dir(path)
    }

    fn store(&self) -> Store {
        Store::open(&self.0.join("meta.redb")).expect("the store opens")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.0.join("meta.redb"));
        let _ = std::fs::remove_dir(&self.0);
    }
}

fn config() -> Config {
    let mut config = Config { root: "/root-dir".into(), state: "/state-dir".into(), ..Config::default() };
    config.limits.max_pods = 50;
    config.limits.max_containers_per_pod = 5;
    config
}

fn parts(store: Store, host: &FakeHost, probe: Probe) -> Parts<FakeHost> {
    let (clock, random) = (Arc::new(Ticks), Arc::new(random));
    Parts { host: host.clone(), store, config: config(), clock, random, probe }
}

/// An engine on a fake machine.
struct House {
    engine: Engine<FakeHost>,
    host: FakeHost,
    /// Last, so that the store is closed before.
    dir: Dir,
}

impl House {
    async fn new() -> House {
        House::on(Dir::new(), FakeHost::new()).await
    }

    async fn on(dir: Dir, host: FakeHost) -> House {
        let engine = Engine::start(parts(dir.store(), &host, Probe::none())).await.expect("starts");
        House { engine, host, dir }
    }

    /// The daemon ends in order, something happens, and it starts again.
    async fn restart(self, meanwhile: impl FnOnce(&FakeHost)) -> House {
        let House { engine, host, dir } = self;
        engine.shutdown().await;
        drop(engine);
        meanwhile(&host);
        // The tasks let go of the store one after the other.
        let store = loop {
            match Store::open(&dir.0.join("meta.redb")) {
                Err(store::OpenError::InUse { .. }) => tokio::task::yield_now().await,
                other => break other.expect("the store opens"),
            }
        };
        let engine = Engine::start(parts(store, &host, Probe::none())).await.expect("starts");
        House { engine, host, dir }
    }

    /// A ready pod.
    async fn pod(&self, name: &str) -> String {
        self.engine.run_pod(pod(name)).await.expect("the pod runs").to_string()
    }

    /// A running container.
    async fn running(&self, pod: &str, name: &str, command: &str) -> String {
        let spec = container(name, command);
        let id = self.engine.create_container(pod, spec).await.expect("created").to_string();
        self.engine.start_container(&id).await.expect("starts");
        id
    }

    fn view(&self, container: &str) -> Arc<ContainerView> {
        self.engine.container(container).expect("is there")
    }

    /// Waits until the container is in that state.
    async fn until(&self, container: &str, state: ContainerState) -> Arc<ContainerView> {
        loop {
            let view = self.view(container);
            if view.state() == state {
                return view;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Nothing is owned, shown or on record.
    fn assert_empty(&self, when: &str) {
        assert_eq!(self.host.owned(), [] as [&str; 0], "{when}");
        assert!(self.engine.pods(&Default::default()).is_empty(), "{when}: pods");
        assert!(self.engine.containers(&Default::default()).is_empty(), "{when}: containers");
    }
}

fn pod(name: &str) -> PodSpec {
    PodSpec {
        name: name.to_owned(),
        namespace: "default".to_owned(),
        uid: format!("uid-{name}"),
        hostname: name.to_owned(),
        log_directory: Some("/logs".into()),
        ..PodSpec::default()
    }
}

fn container(name: &str, command: &str) -> ContainerSpec {
    ContainerSpec {
        name: name.to_owned(),
        image: IMAGE.to_owned(),
        command: command.split(' ').map(str::to_owned).collect(),
        log_path: format!("{name}.log"),
        ..ContainerSpec::default()
    }
}

#[tokio::test]
async fn the_fake_host_passes_the_suite_of_hosts() {
    for network in [true, false] {
        let host = FakeHost::new();
        let seen = host.clone();
        host_suite(&Bench {
            host,
            config: config(),
            image: IMAGE.to_owned(),
            forever: vec!["forever".to_owned()],
            exit_3: vec!["exit".to_owned(), "3".to_owned()],
            owned: Box::new(move || seen.owned()),
            random: Box::new(random),
            network,
        })
        .await;
    }
}

/// Goes on at every point.
fn on(_: &'static str) -> Go {
    Go::On
}
