//! What all tasks of one engine share: the host, the store, the clock, the index.

use crate::{
    error::EngineError,
    feed::{Event, EventKind, Feed},
    host::{self, Host},
    index::Index,
};
use config::Config;
use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};
use store::{Change, Store};
use tokio::sync::mpsc;
use types::{Clock, ContainerId, PodId, Timestamp};

/// Where ids come from: 32 bytes that nobody can guess and that never come twice.
pub type Random = Arc<dyn Fn() -> [u8; 32] + Send + Sync>;

/// What an engine is made of.
pub struct Parts<H> {
    /// The machine.
    pub host: H,
    /// The records.
    pub store: Store,
    /// The settings.
    pub config: Config,
    /// The time that is shown.
    pub clock: Arc<dyn Clock>,
    /// Ids.
    pub random: Random,
    /// For tests of crashes; else [`Probe::none`].
    pub probe: Probe,
}

/// Is told of each durable write and each verb of the host when it is done, so that a test can end
/// the engine there.
#[derive(Clone)]
pub struct Probe(Option<Arc<Hook>>);

type Hook = dyn Fn(&'static str) -> Go + Send + Sync;

/// Whether the engine goes on after a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Go {
    /// It does.
    On,
    /// Not this task: it waits for ever, as if the process had ended.
    Never,
}

impl Probe {
    /// Nobody is told.
    #[must_use]
    pub fn none() -> Self {
        Probe(None)
    }

    /// `hook` is told the point's name.
    pub fn new(hook: impl Fn(&'static str) -> Go + Send + Sync + 'static) -> Self {
        Probe(Some(Arc::new(hook)))
    }

    async fn passed(&self, point: &'static str) {
        match self.0.as_ref().map_or(Go::On, |hook| hook(point)) {
            Go::On => {}
            Go::Never => std::future::pending().await,
        }
    }
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Probe" } else { "Probe::none" })
    }
}

impl<H> fmt::Debug for Parts<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Parts")
    }
}

/// [`Parts`], with what the engine adds.
pub(crate) struct Core<H> {
    pub(crate) host: H,
    pub(crate) config: Config,
    pub(crate) index: Index,
    pub(crate) work: Work,
    pub(crate) feed: Feed,
    store: Store,
    clock: Arc<dyn Clock>,
    random: Random,
    probe: Probe,
}

impl<H: Host> Core<H> {
    pub(crate) fn new(parts: Parts<H>) -> Self {
        let Parts { host, store, config, clock, random, probe } = parts;
        let (index, work, feed) = (Index::default(), Work::default(), Feed::default());
        Core { host, config, index, work, feed, store, clock, random, probe }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn random(&self) -> [u8; 32] {
        (self.random)()
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// A durable write, and the point after it.
    pub(crate) async fn commit(&self, point: &'static str, change: Change) -> Result<(), EngineError> {
        let done = self.store.commit(vec![change]).await;
        self.probe.passed(point).await;
        done.map_err(|error| EngineError::internal("cannot record it", error))
    }

    /// Tells subscribers what happened to a pod, or to a container of it, as it is shown now.
    pub(crate) fn tell(&self, kind: EventKind, pod: &PodId, container: Option<&ContainerId>) {
        // A pod that is not shown has no news: nobody knows its id.
        let Some((pod, containers)) = self.index.pod_as_shown(pod) else { return };
        let id = container.map_or_else(|| pod.plan.id.to_string(), ToString::to_string);
        self.feed.publish(Event { kind, id, at: self.now(), pod, containers });
    }

    /// A verb of the host, and the point after it.
    pub(crate) async fn step<T>(
        &self,
        point: &'static str,
        verb: impl Future<Output = host::Result<T>>,
    ) -> host::Result<T> {
        let done = verb.await;
        self.probe.passed(point).await;
        done
    }
}

/// Counts the work under way, so that stopping can wait for it and refuse more.
#[derive(Debug)]
pub(crate) struct Work(Mutex<Doors>);

#[derive(Debug)]
enum Doors {
    Open(mpsc::Sender<()>, mpsc::Receiver<()>),
    Closed,
}

/// Work under way; dropped when it is done.
#[derive(Clone, Debug)]
pub(crate) struct Guard(#[expect(dead_code, reason = "its drop is what counts")] mpsc::Sender<()>);

impl Default for Work {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(1);
        Work(Mutex::new(Doors::Open(sender, receiver)))
    }
}

impl Work {
    /// # Errors
    /// [`EngineError::Unavailable`] once the engine is stopping.
    pub(crate) fn begin(&self) -> Result<Guard, EngineError> {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Doors::Open(sender, _) => Ok(Guard(sender.clone())),
            Doors::Closed => Err(EngineError::Unavailable),
        }
    }

    /// Takes no more work and waits until what was begun is done.
    pub(crate) async fn finish(&self) {
        let doors =
            std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), Doors::Closed);
        match doors {
            Doors::Open(sender, mut receiver) => {
                drop(sender);
                receiver.recv().await;
            }
            Doors::Closed => {}
        }
    }
}
