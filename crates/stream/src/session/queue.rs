//! From the protocol's reader to the session: input waits its turn, sizes replace one another.

use super::{Event, Size};
use bytes::Bytes;
use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};

/// Pieces of input that wait for the process; with at most 64 KiB each, so bounded.
const PIECES: usize = 4;
/// Parts into which the idle time is cut: it is kept that exactly.
const PARTS: u32 = 8;

/// The session is over: what comes is for nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session is over")]
pub(crate) struct Gone;

/// The client's end. When the last clone is dropped, the client is gone, at once, whatever still waits.
#[derive(Clone, Debug)]
pub(crate) struct Inlet {
    /// None: no more input.
    input: mpsc::Sender<Option<Bytes>>,
    size: watch::Sender<Option<Size>>,
    activity: Activity,
}

/// The session's end.
#[derive(Debug)]
pub(crate) struct Outlet {
    pub(super) input: mpsc::Receiver<Option<Bytes>>,
    pub(super) size: watch::Receiver<Option<Size>>,
    pub(super) activity: Activity,
}

/// A queue of [`Event`]s.
pub(crate) fn queue() -> (Inlet, Outlet) {
    let (input, input_out) = mpsc::channel(PIECES);
    let (size, size_out) = watch::channel(None);
    let activity = Activity::default();
    let inlet = Inlet { input, size, activity: activity.clone() };
    (inlet, Outlet { input: input_out, size: size_out, activity })
}

impl Inlet {
    /// Hands an event over. Input waits for room; of sizes only the newest is kept, so that a flood of
    /// them costs nothing; sizes of zero mean nothing and are ignored.
    pub(crate) async fn send(&self, event: Event) -> Result<(), Gone> {
        self.activity.touch();
        match event {
            Event::Input(bytes) if bytes.is_empty() => Ok(()),
            Event::Input(bytes) => self.input.send(Some(bytes)).await.map_err(|_| Gone),
            Event::InputEnd => self.input.send(None).await.map_err(|_| Gone),
            Event::Resize(size) => {
                if size.width > 0 && size.height > 0 {
                    self.size.send_replace(Some(size));
                }
                if self.size.is_closed() { Err(Gone) } else { Ok(()) }
            }
        }
    }

    /// To be touched by each frame of the client, also one without bytes: the reference counts those,
    /// too (moby/spdystream:connection.go).
    pub(crate) fn activity(&self) -> &Activity {
        &self.activity
    }
}

impl Outlet {
    /// Waits until the client is gone.
    pub(super) async fn gone(size: &mut watch::Receiver<Option<Size>>) {
        while size.changed().await.is_ok() {}
    }
}

/// Counts what happens, to know when nothing does.
#[derive(Clone, Debug, Default)]
pub(crate) struct Activity(Arc<AtomicU64>);

impl Activity {
    pub(crate) fn touch(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until nothing has happened for so long (and at most an eighth longer); zero is never.
    pub(crate) async fn idle(&self, time: Duration) {
        if time.is_zero() {
            return pending().await;
        }
        let (mut seen, mut quiet) = (self.0.load(Ordering::Relaxed), 0);
        while quiet < PARTS {
            sleep(time / PARTS).await;
            let now = self.0.load(Ordering::Relaxed);
            quiet = if now == seen { quiet + 1 } else { 0 };
            seen = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(width: u16, height: u16) -> Event {
        Event::Resize(Size { width, height })
    }

    #[tokio::test]
    async fn of_a_flood_of_sizes_the_last_good_one_is_kept() {
        let (inlet, outlet) = queue();
        for width in 1..10_000 {
            inlet.send(size(width, 24)).await.expect("session");
        }
        inlet.send(size(0, 24)).await.expect("session");
        inlet.send(size(80, 0)).await.expect("session");
        assert_eq!(*outlet.size.borrow(), Some(Size { width: 9_999, height: 24 }));
    }

    #[tokio::test]
    async fn input_waits_for_the_process_and_learns_its_end() {
        let (inlet, outlet) = queue();
        for _ in 0..PIECES {
            inlet.send(Event::Input(Bytes::from_static(b"x"))).await.expect("session");
        }
        let (more, ()) = tokio::join!(inlet.send(Event::InputEnd), async {
            tokio::task::yield_now().await;
            drop(outlet);
        });
        assert_eq!(more, Err(Gone));
        assert_eq!(inlet.send(size(1, 1)).await, Err(Gone));
    }

    #[tokio::test]
    async fn a_client_is_gone_when_the_last_inlet_is() {
        let (inlet, mut outlet) = queue();
        drop(inlet.clone());
        inlet.send(size(1, 1)).await.expect("session");
        drop(inlet);
        Outlet::gone(&mut outlet.size).await;
    }

    #[tokio::test(start_paused = true)]
    async fn only_silence_is_idle() {
        let activity = Activity::default();
        let start = tokio::time::Instant::now();
        let busy = async {
            for _ in 0..10 {
                sleep(Duration::from_secs(30)).await;
                activity.touch();
            }
        };
        tokio::join!(busy, activity.idle(Duration::from_secs(60)));
        let took = start.elapsed();
        assert!(took >= Duration::from_secs(360) && took <= Duration::from_secs(375), "{took:?}");
    }
}
