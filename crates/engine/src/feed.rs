//! The feed of what happens to pods and containers (CRI `GetContainerEvents`), for any number of
//! subscribers.
//!
//! Nobody who publishes ever waits. What nobody has read is kept, for five minutes and up to
//! [`MOST`], and goes to who subscribes next: so an exit that was found after a restart, before the
//! kubelet has come back, is told; and so is what came while its stream was closed. A subscriber that
//! does not read is dropped when [`MOST`] events wait for it: it gets those, then [`Ended::Slow`], and
//! when it subscribes anew the events from there on. Dropping the oldest instead would lose the end of
//! a container silently, while the kubelet's PLEG looks at everything anew when its stream breaks.
//!
//! At least once: a daemon that is killed after an exit was recorded and before it was told tells it
//! again after its start, if it is younger than [`AGE`].

use crate::view::{ContainerView, PodView};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    task::{Context, Poll},
    time::Duration,
};
use tokio::{sync::mpsc, time::Instant};
use types::Timestamp;

/// How many events wait for a subscriber, and how many are kept while there is none.
const MOST: usize = 4096;
/// How long an event is kept that nobody reads.
pub(crate) const AGE: Duration = Duration::from_secs(300);

/// `ContainerEventType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It was made: a container's process waits, a pod is ready.
    Created,
    /// It runs.
    Started,
    /// It ended; a pod is not ready any more.
    Stopped,
    /// It was removed.
    Deleted,
}

/// Something happened to a container, or to a pod as a whole.
#[derive(Clone, Debug)]
pub struct Event {
    /// What.
    pub kind: EventKind,
    /// The id of the container, or of the pod.
    pub id: String,
    /// When the event was made (for an exit: when it was noticed).
    pub at: Timestamp,
    /// The pod just after.
    pub pod: Arc<PodView>,
    /// All its containers just after, by id.
    pub containers: Vec<Arc<ContainerView>>,
}

/// Why there are no more events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Too many waited: what follows comes with the next subscription.
    Slow,
    /// The daemon is stopping.
    Stopping,
}

/// The publishing end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Feed(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    subscribers: Vec<Subscriber>,
    /// What nobody has read, oldest first.
    unread: VecDeque<(Instant, Arc<Event>)>,
    stopping: bool,
}

#[derive(Debug)]
struct Subscriber {
    queue: mpsc::Sender<Arc<Event>>,
    ended: Arc<OnceLock<Ended>>,
}

/// One reader's events, from the first that nobody has read.
#[derive(Debug)]
pub struct Subscription {
    before: VecDeque<Arc<Event>>,
    queue: mpsc::Receiver<Arc<Event>>,
    ended: Arc<OnceLock<Ended>>,
    feed: Feed,
}

impl Feed {
    /// Hands an event to all subscribers, or keeps it for the next one.
    pub(crate) fn publish(&self, event: Event) {
        let event = Arc::new(event);
        let mut state = self.lock();
        let before = state.subscribers.len();
        state.subscribers.retain(|subscriber| match subscriber.queue.try_send(Arc::clone(&event)) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                let _ = subscriber.ended.set(Ended::Slow);
                false
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        });
        if state.subscribers.len() < before {
            tracing::warn!("a subscriber of events has left or is too slow");
        }
        if state.subscribers.is_empty() && !state.stopping {
            state.keep(Instant::now(), event);
        }
    }

    /// A new reader.
    pub(crate) fn subscribe(&self) -> Subscription {
        let (sender, queue) = mpsc::channel(MOST);
        let ended = Arc::new(OnceLock::new());
        let mut state = self.lock();
        state.forget_old(Instant::now());
        let before = state.unread.drain(..).map(|(_, event)| event).collect();
        if state.stopping {
            let _ = ended.set(Ended::Stopping);
        } else {
            state.subscribers.push(Subscriber { queue: sender, ended: Arc::clone(&ended) });
        }
        drop(state);
        Subscription { before, queue, ended, feed: self.clone() }
    }

    /// Ends all subscriptions, so that a server with open streams can end.
    pub(crate) fn stop(&self) {
        let mut state = self.lock();
        state.stopping = true;
        for subscriber in state.subscribers.drain(..) {
            let _ = subscriber.ended.set(Ended::Stopping);
        }
    }

    /// What is held is whole after each statement, so a panic elsewhere has left nothing half-done.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn keep(&mut self, now: Instant, event: Arc<Event>) {
        self.forget_old(now);
        if self.unread.len() == MOST {
            self.unread.pop_front();
        }
        self.unread.push_back((now, event));
    }

    fn forget_old(&mut self, now: Instant) {
        while self.unread.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) >= AGE) {
            self.unread.pop_front();
        }
    }
}

impl Subscription {
    /// The next event, when there is one.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Arc<Event>, Ended>> {
        if let Some(event) = self.before.pop_front() {
            return Poll::Ready(Ok(event));
        }
        self.queue.poll_recv(context).map(|event| {
            // A queue is closed by its feed alone, which has said why.
            event.ok_or_else(|| self.ended.get().copied().unwrap_or(Ended::Stopping))
        })
    }

    /// Waits for the next event.
    ///
    /// # Errors
    /// Why there are no more.
    pub async fn next(&mut self) -> Result<Arc<Event>, Ended> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }
}

impl Drop for Subscription {
    /// What it has not read is for the next one, if nobody else has got it.
    fn drop(&mut self) {
        self.queue.close();
        let mut left: VecDeque<Arc<Event>> = std::mem::take(&mut self.before);
        while let Ok(event) = self.queue.try_recv() {
            left.push_back(event);
        }
        let mut state = self.feed.lock();
        state.subscribers.retain(|subscriber| !subscriber.queue.is_closed());
        if !state.subscribers.is_empty() || state.stopping {
            return;
        }
        let now = Instant::now();
        let later = std::mem::take(&mut state.unread);
        for event in left {
            state.keep(now, event);
        }
        for (_, event) in later {
            state.keep(now, event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::{self, plan};
    use config::Config;
    use types::{PodId, pod::PodSpec};

    fn event(number: usize) -> Event {
        let id = PodId::from_random([7; 32]);
        let plan =
            plan::plan(&Config::default(), id, PodSpec::default(), plan::Facts::default(), Timestamp(1));
        let phase =
            pod::Phase::NotReady { left: pod::Left::Nothing, was_ready: true, message: String::new() };
        Event {
            kind: EventKind::Stopped,
            id: number.to_string(),
            at: Timestamp(1),
            pod: Arc::new(PodView { plan: Arc::new(plan.expect("a plan")), phase, size: None }),
            containers: Vec::new(),
        }
    }

    async fn read(subscription: &mut Subscription, many: usize) -> Vec<String> {
        let mut ids = Vec::new();
        for _ in 0..many {
            ids.push(subscription.next().await.expect("an event").id.clone());
        }
        ids
    }

    #[tokio::test]
    async fn what_came_before_the_first_reader_is_told_once() {
        let feed = Feed::default();
        feed.publish(event(1));
        let mut first = feed.subscribe();
        let mut second = feed.subscribe();
        feed.publish(event(2));
        assert_eq!(read(&mut first, 2).await, ["1", "2"]);
        assert_eq!(read(&mut second, 1).await, ["2"]);
    }

    #[tokio::test]
    async fn what_a_reader_leaves_behind_is_for_the_next_one_in_order() {
        let feed = Feed::default();
        for number in 1..=2 {
            feed.publish(event(number));
        }
        let mut first = feed.subscribe();
        feed.publish(event(3));
        assert_eq!(read(&mut first, 1).await, ["1"]);
        drop(first);
        feed.publish(event(4));
        assert_eq!(read(&mut feed.subscribe(), 3).await, ["2", "3", "4"]);
    }

    #[tokio::test]
    async fn a_slow_reader_is_told_so_and_loses_nothing_by_subscribing_anew() {
        let feed = Feed::default();
        let (mut slow, quick) = (feed.subscribe(), feed.subscribe());
        drop(quick);
        for number in 0..MOST + 3 {
            feed.publish(event(number));
        }
        let read_first = read(&mut slow, MOST).await;
        assert_eq!(read_first.last(), Some(&(MOST - 1).to_string()));
        assert_eq!(slow.next().await.map(|_| ()), Err(Ended::Slow));
        let wanted: Vec<String> = (MOST..MOST + 3).map(|number| number.to_string()).collect();
        assert_eq!(read(&mut feed.subscribe(), 3).await, wanted);
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_reads_is_bounded_in_number_and_age() {
        let feed = Feed::default();
        for number in 0..MOST + 2 {
            feed.publish(event(number));
        }
        assert_eq!(feed.lock().unread.len(), MOST);
        assert_eq!(feed.lock().unread.front().map(|(_, event)| event.id.clone()), Some("2".to_owned()));
        tokio::time::advance(AGE).await;
        feed.publish(event(9999));
        assert_eq!(read(&mut feed.subscribe(), 1).await, ["9999"]);
        assert_eq!(feed.lock().unread.len(), 0);
    }

    #[tokio::test]
    async fn stopping_ends_readers_that_are_there_and_those_that_come() {
        let feed = Feed::default();
        let mut reader = feed.subscribe();
        feed.publish(event(1));
        feed.stop();
        assert_eq!(read(&mut reader, 1).await, ["1"]);
        assert_eq!(reader.next().await.map(|_| ()), Err(Ended::Stopping));
        assert_eq!(feed.subscribe().next().await.map(|_| ()), Err(Ended::Stopping));
    }
}
