//! Work that several callers wait for is done once, and ended when the last of them leaves.
//!
//! ```text
//! caller ─┐
//! caller ─┼─ Ticket (shared) ── watch <── task
//! caller ─┘        └ dropped by the last caller: the task is aborted
//! ```

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError, Weak},
};
use tokio::{sync::watch, task::AbortHandle};

/// The work under way, by what it is for.
pub(crate) struct Flights<K, T, A = ()> {
    running: Arc<Mutex<Running<K, T, A>>>,
}

struct Running<K, T, A> {
    flights: HashMap<K, (u64, Weak<Flight<T, A>>)>,
    /// Tells a flight from an earlier one for the same key.
    next: u64,
}

/// A caller's share of the work.
pub(crate) struct Ticket<T, A = ()>(Arc<Flight<T, A>>);

struct Flight<T, A> {
    /// What the first caller attached for all of them.
    attached: A,
    outcome: watch::Receiver<Option<T>>,
    task: AbortHandle,
}

impl<T, A> Drop for Flight<T, A> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<K, T, A> Default for Flights<K, T, A> {
    fn default() -> Self {
        Self { running: Arc::new(Mutex::new(Running { flights: HashMap::new(), next: 0 })) }
    }
}

impl<K, T, A> fmt::Debug for Flights<K, T, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Flights")
    }
}

impl<K, T, A> Flights<K, T, A>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
    A: Send + Sync + 'static,
{
    /// Joins the work for `key`, or starts it.
    pub(crate) fn join<F>(&self, key: K, start: impl FnOnce() -> (A, F)) -> Ticket<T, A>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = running.flights.get(&key).and_then(|(_, flight)| flight.upgrade()) {
            return Ticket(flight);
        }
        running.next += 1;
        let number = running.next;
        let (tell, outcome) = watch::channel(None);
        let (attached, work) = start();
        let all = Arc::clone(&self.running);
        let own_key = key.clone();
        let task = tokio::spawn(async move {
            let done = work.await;
            // Whoever comes from now on starts anew: what is done may have been undone meanwhile.
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            if all.flights.get(&own_key).is_some_and(|(found, _)| *found == number) {
                all.flights.remove(&own_key);
            }
            drop(all);
            // Nobody may be left to hear it.
            let _ = tell.send(Some(done));
        });
        let flight = Arc::new(Flight { attached, outcome, task: task.abort_handle() });
        running.flights.retain(|_, (_, flight)| flight.strong_count() > 0);
        running.flights.insert(key, (number, Arc::downgrade(&flight)));
        Ticket(flight)
    }
}

impl<T: Clone, A> Ticket<T, A> {
    /// What the first caller attached.
    pub(crate) fn attached(&self) -> &A {
        &self.0.attached
    }

    /// What the work gave; `None` when it was broken off (it panicked, or the runtime ends).
    pub(crate) async fn outcome(self) -> Option<T> {
        let mut outcome = self.0.outcome.clone();
        let done = outcome.wait_for(Option::is_some).await.ok()?;
        done.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::{Notify, oneshot};

    #[tokio::test]
    async fn callers_of_the_same_work_share_it_and_later_ones_start_anew() {
        let flights: Flights<&str, u32> = Flights::default();
        let go = Arc::new(Notify::new());
        let wait = Arc::clone(&go);
        let first = flights.join("a", || {
            let work = async move {
                wait.notified().await;
                1
            };
            ((), work)
        });
        let second = flights.join("a", || ((), async { 2 }));
        let other = flights.join("b", || ((), async { 3 }));
        assert_eq!(other.outcome().await, Some(3));
        go.notify_one();
        assert_eq!((first.outcome().await, second.outcome().await), (Some(1), Some(1)));
        assert_eq!(flights.join("a", || ((), async { 4 })).outcome().await, Some(4));
    }

    #[tokio::test]
    async fn the_work_goes_on_until_the_last_caller_leaves() {
        let flights: Flights<&str, u32> = Flights::default();
        let (alive, ended) = oneshot::channel::<()>();
        let first = flights.join("a", || {
            let work = async move {
                let _alive = alive;
                std::future::pending().await
            };
            ((), work)
        });
        let second = flights.join("a", || ((), async { 2 }));
        drop(first);
        assert!(!second.0.task.is_finished());
        drop(second);
        assert!(ended.await.is_err(), "the work was ended");
        assert_eq!(flights.join("a", || ((), async { 5 })).outcome().await, Some(5));
    }

    #[tokio::test]
    async fn work_that_panics_is_told_as_broken_off() {
        let flights: Flights<&str, u32> = Flights::default();
        let broken = flights.join("a", || ((), async { panic!("on purpose") }));
        assert_eq!(broken.outcome().await, None);
    }
}
