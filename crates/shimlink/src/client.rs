//! One connection with many calls in flight. One task owns the socket, so that a caller that leaves
//! in the middle of a call cannot leave half a frame behind.
//!
//! A shim that hangs costs one deadline and not one for each call: while it has missed one and said nothing since,
//! calls wait for [`AGAIN`] only.

use crate::error::{Code, ShimError};
use crate::wire::{self, Answer, Refused};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot, watch};
use ttrpc::proto::Request;

/// Requests that wait to be written.
const QUEUE: usize = 16;
/// Enough for most responses, so that one read takes header and body.
const BUFFER: usize = 512;
/// How long a call waits for a shim that is late already.
const AGAIN: Duration = Duration::from_secs(1);

type Reply = oneshot::Sender<Result<Vec<u8>, Refused>>;

/// Calls that wait for their answers; none when the connection is closed.
type Pending = Mutex<Option<HashMap<u32, Reply>>>;

/// The caller's side of a connection. The connection closes with the last of them.
#[derive(Debug)]
pub(crate) struct Client {
    frames: mpsc::Sender<Vec<u8>>,
    pending: Arc<Pending>,
    gone: watch::Receiver<bool>,
    next: AtomicU32,
    pace: Arc<Pace>,
}

/// Whether the shim keeps to its deadlines.
#[derive(Debug, Default)]
struct Pace {
    /// It missed one and has said nothing since.
    late: AtomicBool,
    /// Calls with a deadline in flight. A shim does one thing after the other: it may be busy with any of them.
    timed: AtomicU32,
}

impl Pace {
    /// A call with a deadline begins, for as long as what is returned is kept.
    fn begin(&self) -> Timed<'_> {
        self.timed.fetch_add(1, Ordering::Relaxed);
        Timed(self)
    }
}

struct Timed<'a>(&'a Pace);

impl Timed<'_> {
    /// Its deadline has passed.
    fn missed(self) {
        if self.0.timed.load(Ordering::Relaxed) == 1 {
            self.0.late.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        self.0.timed.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Client {
    /// Takes over a connected socket.
    pub(crate) fn new(socket: UnixStream) -> Self {
        let (frames, outgoing) = mpsc::channel(QUEUE);
        let pending = Arc::new(Mutex::new(Some(HashMap::new())));
        let (tell, gone) = watch::channel(false);
        let pace = Arc::<Pace>::default();
        tokio::spawn(run(socket, outgoing, (Arc::clone(&pending), Arc::clone(&pace)), tell));
        Self { frames, pending, gone, next: AtomicU32::new(1), pace }
    }

    /// Calls a method with an encoded message and gives the encoded answer. Without a deadline it
    /// waits until there is an answer or no shim; with one not longer than [`AGAIN`] if the shim is late.
    pub(crate) async fn call(
        &self,
        service: &str,
        method: &'static str,
        payload: Vec<u8>,
        deadline: Option<Duration>,
    ) -> Result<Vec<u8>, ShimError> {
        let late = self.pace.late.load(Ordering::Relaxed);
        let deadline = deadline.map(|after| if late { after.min(AGAIN) } else { after });
        // A client's streams are odd. After 2^31 calls the numbers start again, long answered.
        let stream = self.next.fetch_add(2, Ordering::Relaxed);
        let request = Request {
            service: service.to_owned(),
            method: method.to_owned(),
            payload,
            timeout_nano: deadline.map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX)),
            ..Request::default()
        };
        let too_large =
            || ShimError::Protocol { method, reason: "the request is larger than 4 MiB".to_owned() };
        let frame = wire::request(stream, &request).ok_or_else(too_large)?;
        let (reply, answer) = oneshot::channel();
        if !register(&self.pending, stream, reply) {
            return Err(ShimError::Gone { method });
        }
        // A caller that leaves takes its entry along.
        let _entry = Entry { pending: &self.pending, stream };
        let exchange = async {
            self.frames.send(frame).await.map_err(|_| ShimError::Gone { method })?;
            match answer.await {
                Ok(Ok(payload)) => Ok(payload),
                Ok(Err(Refused { code, message })) => {
                    Err(ShimError::Refused { method, code: Code::from(code), message })
                }
                Err(_) => Err(ShimError::Gone { method }),
            }
        };
        let Some(after) = deadline else { return exchange.await };
        let timed = self.pace.begin();
        match tokio::time::timeout(after, exchange).await {
            Ok(result) => result,
            Err(_) => {
                timed.missed();
                Err(ShimError::Deadline { method, after })
            }
        }
    }

    /// Returns when the connection is closed.
    pub(crate) async fn gone(&self) {
        let mut gone = self.gone.clone();
        // An error says that the task has ended, and the connection with it.
        let _ = gone.wait_for(|gone| *gone).await;
    }
}

/// Notes a call; false when the connection is closed.
fn register(pending: &Pending, stream: u32, reply: Reply) -> bool {
    let mut pending = pending.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(calls) = pending.as_mut() else { return false };
    calls.insert(stream, reply);
    true
}

/// A noted call, forgotten with its caller.
struct Entry<'a> {
    pending: &'a Pending,
    stream: u32,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        if let Some(calls) = self.pending.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            calls.remove(&self.stream);
        }
    }
}

async fn run(
    socket: UnixStream,
    outgoing: mpsc::Receiver<Vec<u8>>,
    (pending, pace): (Arc<Pending>, Arc<Pace>),
    tell: watch::Sender<bool>,
) {
    let (reader, writer) = socket.into_split();
    // Both at once: a shim that waits for us to read may not read meanwhile.
    let end = tokio::select! {
        end = receive(reader, &pending, &pace) => end,
        end = transmit(writer, outgoing) => end,
    };
    if let Err(reason) = end {
        tracing::debug!(%reason, "connection to a shim closed");
    }
    // Dropping the calls tells their callers.
    pending.lock().unwrap_or_else(PoisonError::into_inner).take();
    let _ = tell.send(true);
}

async fn receive(reader: OwnedReadHalf, pending: &Pending, pace: &Pace) -> Result<(), String> {
    let mut reader = BufReader::with_capacity(BUFFER, reader);
    while let Some(Answer { stream, result }) = wire::answer(&mut reader).await? {
        pace.late.store(false, Ordering::Relaxed);
        let mut pending = pending.lock().unwrap_or_else(PoisonError::into_inner);
        let reply = pending.as_mut().and_then(|calls| calls.remove(&stream));
        // The caller may have left; a stream that was not asked for is nobody's.
        if let Some(reply) = reply {
            let _ = reply.send(result);
        }
    }
    Ok(())
}

async fn transmit(mut writer: OwnedWriteHalf, mut outgoing: mpsc::Receiver<Vec<u8>>) -> Result<(), String> {
    while let Some(frame) = outgoing.recv().await {
        writer.write_all(&frame).await.map_err(|e| format!("write: {e}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;

    const DEADLINE: Option<Duration> = Some(Duration::from_secs(30));

    /// Reads one request frame; its stream.
    async fn request(peer: &mut UnixStream) -> u32 {
        let mut header = [0; 10];
        peer.read_exact(&mut header).await.expect("header");
        let length = u32::from_be_bytes(header[..4].try_into().expect("4"));
        let mut body = vec![0; length as usize];
        peer.read_exact(&mut body).await.expect("body");
        u32::from_be_bytes(header[4..8].try_into().expect("4"))
    }

    async fn answer(peer: &mut UnixStream, stream: u32, payload: u8) {
        let mut frame = vec![0, 0, 0, 3];
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(&[2, 0, 0x12, 1, payload]);
        peer.write_all(&frame).await.expect("write");
    }

    #[tokio::test]
    async fn answers_find_their_calls_in_any_order() {
        let (ours, mut peer) = UnixStream::pair().expect("pair");
        let client = Client::new(ours);
        let shim = async {
            let (one, two) = (request(&mut peer).await, request(&mut peer).await);
            assert!(one % 2 == 1 && two % 2 == 1 && one != two);
            answer(&mut peer, 4711, 9).await;
            answer(&mut peer, two, 2).await;
            answer(&mut peer, one, 1).await;
        };
        let first = client.call("s", "One", vec![], DEADLINE);
        let second = client.call("s", "Two", vec![], DEADLINE);
        let (first, second, ()) = tokio::join!(biased; first, second, shim);
        assert_eq!((first.expect("one"), second.expect("two")), (vec![1], vec![2]));
    }

    #[tokio::test]
    async fn a_shim_that_ends_fails_all_calls_and_is_told_as_gone() {
        let (ours, mut peer) = UnixStream::pair().expect("pair");
        let client = Client::new(ours);
        let shim = async {
            request(&mut peer).await;
            drop(peer);
        };
        let (result, ()) = tokio::join!(client.call("s", "One", vec![], None), shim);
        assert!(matches!(result, Err(ShimError::Gone { method: "One" })));
        client.gone().await;
        assert!(matches!(
            client.call("s", "Two", vec![], None).await,
            Err(ShimError::Gone { method: "Two" })
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn a_frozen_shim_is_told_by_the_deadline_and_a_late_answer_harms_nobody() {
        let (ours, mut peer) = UnixStream::pair().expect("pair");
        let client = Client::new(ours);
        let result = client.call("s", "One", vec![], DEADLINE).await;
        assert!(matches!(result, Err(ShimError::Deadline { method: "One", .. })));
        let late = request(&mut peer).await;
        let shim = async {
            let next = request(&mut peer).await;
            answer(&mut peer, late, 1).await;
            answer(&mut peer, next, 2).await;
        };
        let (result, ()) = tokio::join!(client.call("s", "Two", vec![], None), shim);
        assert_eq!(result.expect("two"), [2]);
    }

    /// How long a call waits in vain.
    async fn wasted(client: &Client) -> Duration {
        let begun = tokio::time::Instant::now();
        client.call("s", "One", vec![], DEADLINE).await.expect_err("nobody answers");
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_frozen_shim_is_waited_for_once_until_it_says_something() {
        let (ours, mut peer) = UnixStream::pair().expect("pair");
        let client = Client::new(ours);
        let about = |waited: Duration, wanted: Duration| waited.abs_diff(wanted) < Duration::from_millis(20);
        let first = wasted(&client).await;
        assert!(about(first, Duration::from_secs(30)), "{first:?}");
        for _ in 0..3 {
            let again = wasted(&client).await;
            assert!(about(again, AGAIN), "{again:?}");
        }
        // Any answer will do, also one that nobody waits for any longer.
        let late = request(&mut peer).await;
        answer(&mut peer, late, 1).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        let then = wasted(&client).await;
        assert!(about(then, Duration::from_secs(30)), "{then:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_shim_that_may_be_busy_with_another_call_is_not_late() {
        let (ours, _peer) = UnixStream::pair().expect("pair");
        let client = Client::new(ours);
        let hour = Some(Duration::from_secs(3600));
        let long = client.call("s", "Long", vec![], hour);
        let others = async {
            for _ in 0..2 {
                let waited = wasted(&client).await;
                assert!(waited >= Duration::from_secs(30), "{waited:?}");
            }
        };
        tokio::select! {
            biased;
            _ = long => panic!("nobody answers"),
            () = others => {}
        }
        // Its caller has left: nothing is in flight any more.
        wasted(&client).await;
        assert!(wasted(&client).await < Duration::from_secs(2));
    }

    #[tokio::test]
    async fn callers_that_left_are_forgotten() {
        let (ours, mut peer) = UnixStream::pair().expect("pair");
        let client = Client::new(ours);
        let noted = || client.pending.lock().expect("not poisoned").as_ref().map(HashMap::len);
        let mut left = Vec::new();
        for _ in 0..100 {
            let call = client.call("s", "Left", vec![], None);
            tokio::select! {
                biased;
                _ = call => panic!("nobody answers"),
                stream = request(&mut peer) => left.push(stream),
            }
        }
        assert_eq!(noted(), Some(0));
        let shim = async {
            let stream = request(&mut peer).await;
            // Late answers are nobody's.
            for late in left {
                answer(&mut peer, late, 1).await;
            }
            answer(&mut peer, stream, 2).await;
        };
        let (result, ()) = tokio::join!(biased; client.call("s", "Next", vec![], None), shim);
        assert_eq!(result.expect("next"), [2]);
        assert_eq!(noted(), Some(0));
    }
}
