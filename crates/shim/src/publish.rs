//! Events for a containerd that started this shim: forwarded over ttrpc to the address that it gave
//! (containerd:api/services/ttrpc/events/v1/events.proto).
//!
//! Nothing here waits. Events queue up, at most [`MOST`] and [`MOST_BYTES`]; one is under way at a time,
//! on a connection that stands only while there are any. Each is sent until containerd has answered, so
//! one may come twice when the connection breaks. While containerd is away it is dialled now and then. What
//! is lost when the queue is full is no exit code: those are on disk, and told by Wait.

use crate::framing::now_nanos;
use crate::poll::{Interest, Poll, Source, Watched};
use crate::spill::write_some;
use crate::task::timestamp;
use crate::wire::HEADER;
use containerd_shim_protos::api::ForwardRequest;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim::event::Envelope;
use protobuf::{Message as _, MessageField};
use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};
use sys::rustix::buffer::spare_capacity;
use sys::rustix::event::{PollFd, PollFlags, Timespec, poll};
use sys::rustix::io::Errno;
use sys::rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use ttrpc::proto::{Code, Request, Response};

/// Events that wait, as in containerd's own shims (pkg/shim/publisher.go).
const MOST: usize = 2048;
/// Bytes of them.
const MOST_BYTES: usize = 1 << 20;
/// How long containerd may take to answer one.
const PATIENCE: Duration = Duration::from_secs(5);
/// How soon it is dialled again at first; doubled each time.
const SOON: Duration = Duration::from_millis(100);
/// How late at the latest.
const LATE: Duration = Duration::from_secs(10);
/// The largest answer that is read: an empty message, or a status with a text.
const LARGEST_ANSWER: usize = 64 << 10;
/// Frame types of ttrpc.
const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;

/// An event on its way.
#[derive(Debug)]
struct Event {
    /// For the log.
    topic: &'static str,
    /// An encoded `ForwardRequest`.
    payload: Vec<u8>,
}

/// A connection, and the event that is under way on it.
#[derive(Debug)]
struct Link {
    socket: Watched,
    /// Its ttrpc stream; odd.
    stream: u32,
    frame: Vec<u8>,
    sent: usize,
    answer: Vec<u8>,
    until: Instant,
}

/// The publisher.
#[derive(Debug)]
pub(crate) struct Publisher {
    address: SocketAddrUnix,
    namespace: String,
    queue: VecDeque<Event>,
    bytes: usize,
    link: Option<Link>,
    retry_at: Option<Instant>,
    pause: Duration,
    /// Events that found no room since that was last logged.
    lost: u64,
}

/// What is to be said in the shim's own log.
pub(crate) type Said = Option<String>;

/// The path of an address as containerd writes it, with or without `unix://`; none for another one.
pub(crate) fn socket_path(address: &str) -> Option<&Path> {
    let path = address.strip_prefix("unix://").unwrap_or(address);
    path.starts_with('/').then(|| Path::new(path))
}

impl Publisher {
    /// Publishes to the socket at `path`, for the namespace of containerd.
    ///
    /// # Errors
    /// The path is too long for a socket.
    pub(crate) fn new(path: &Path, namespace: String) -> io::Result<Self> {
        Ok(Self {
            address: SocketAddrUnix::new(path)?,
            namespace,
            queue: VecDeque::new(),
            bytes: 0,
            link: None,
            retry_at: None,
            pause: SOON,
            lost: 0,
        })
    }

    /// Takes an event; `topic` and `name` are its topic and the full name of its message.
    pub(crate) fn push(
        &mut self,
        topic: &'static str,
        name: &str,
        event: &impl protobuf::Message,
        poll: &Poll,
    ) -> Said {
        let Ok(payload) = self.forward_request(topic, name, event) else {
            return Some(format!("the event {topic} cannot be encoded"));
        };
        if self.queue.len() >= MOST || self.bytes + payload.len() > MOST_BYTES {
            self.lost += 1;
            return (self.lost == 1)
                .then(|| format!("{topic}: containerd takes no events, this one is lost"));
        }
        self.bytes += payload.len();
        self.queue.push_back(Event { topic, payload });
        // One is under way already, or the next try has its time.
        if self.link.is_some() || self.retry_at.is_some() {
            return None;
        }
        self.advance(poll)
    }

    fn forward_request(
        &self,
        topic: &str,
        name: &str,
        event: &impl protobuf::Message,
    ) -> protobuf::Result<Vec<u8>> {
        let event = Any { type_url: name.to_owned(), value: event.write_to_bytes()?, ..Any::default() };
        let envelope = Envelope {
            timestamp: timestamp(now_nanos()),
            namespace: self.namespace.clone(),
            topic: topic.to_owned(),
            event: MessageField::some(event),
            ..Envelope::default()
        };
        ForwardRequest { envelope: MessageField::some(envelope), ..ForwardRequest::default() }
            .write_to_bytes()
    }

    /// When the loop has to look at it again.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.retry_at.or(self.link.as_ref().map(|link| link.until))
    }

    /// The time of a try, or of an answer, may be over.
    pub(crate) fn on_time(&mut self, now: Instant, poll: &Poll) -> Said {
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            return self.advance(poll);
        }
        if self.link.as_ref().is_some_and(|link| link.until <= now) {
            self.fail(poll);
            return Some("containerd does not answer an event in time".to_owned());
        }
        None
    }

    /// Goes as far as it can without waiting.
    pub(crate) fn advance(&mut self, poll: &Poll) -> Said {
        let mut said = None;
        loop {
            if self.queue.is_empty() {
                self.queue = VecDeque::new();
                if let Some(link) = self.link.take() {
                    link.socket.close(poll);
                }
                return said;
            }
            match self.step(poll) {
                Ok(Some(refusal)) => said = refusal.or(said),
                Ok(None) => return said,
                // Containerd is away, or was: that is no news.
                Err(_) => {
                    self.fail(poll);
                    return said;
                }
            }
        }
    }

    /// Sends, or reads the answer; `Some` when the first event is done with, `None` when it has to wait.
    fn step(&mut self, poll: &Poll) -> io::Result<Option<Said>> {
        let Some(event) = self.queue.front() else { return Ok(None) };
        let mut link = match self.link.take() {
            Some(link) => link,
            None => Link::dial(&self.address, &event.payload)?,
        };
        let answered = link.go_on(poll);
        let link = self.link.insert(link);
        let Some(refused) = answered? else { return Ok(None) };
        self.pause = SOON;
        self.lost = 0;
        self.bytes -= event.payload.len();
        let said = refused.map(|why| format!("{}: containerd refused the event: {why}", event.topic));
        self.queue.pop_front();
        if let Some(next) = self.queue.front() {
            link.carry(&next.payload)?;
        }
        Ok(Some(said))
    }

    /// The connection is of no use; another one is tried later.
    fn fail(&mut self, poll: &Poll) {
        if let Some(link) = self.link.take() {
            link.socket.close(poll);
        }
        self.retry_at = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(LATE);
    }

    /// At the end of the shim: publishes what is left, and waits for that until `until` at most.
    pub(crate) fn finish(mut self, poll_: &Poll, until: Instant) {
        self.retry_at = None;
        loop {
            self.advance(poll_);
            // No connection: all is said, or containerd is away.
            let Some(link) = &self.link else { return };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let timeout = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            let wanted = if link.is_sent() { PollFlags::IN } else { PollFlags::OUT };
            let _ = poll(&mut [PollFd::new(link.socket.fd(), wanted)], Some(&timeout));
        }
    }
}

impl Link {
    fn dial(address: &SocketAddrUnix, payload: &[u8]) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // It succeeds or fails at once; EAGAIN says that the other side accepts no more for now (unix(7)).
        connect(&socket, address)?;
        let mut link = Self {
            socket: Watched::new(socket, Source::Events),
            // The first one to be used is 1.
            stream: u32::MAX,
            frame: Vec::new(),
            sent: 0,
            answer: Vec::new(),
            until: Instant::now(),
        };
        link.carry(payload)?;
        Ok(link)
    }

    /// Takes the next event on.
    fn carry(&mut self, payload: &[u8]) -> io::Result<()> {
        self.stream = self.stream.wrapping_add(2);
        self.frame = request(self.stream, payload).map_err(io::Error::other)?;
        self.sent = 0;
        self.answer.clear();
        self.until = Instant::now() + PATIENCE;
        Ok(())
    }

    fn is_sent(&self) -> bool {
        self.sent == self.frame.len()
    }

    /// Writes and reads what can be; `Some` with the answer when it is there: the text of a refusal, if it
    /// is one.
    fn go_on(&mut self, poll: &Poll) -> io::Result<Option<Option<String>>> {
        self.sent += write_some(self.socket.fd(), &self.frame[self.sent..])?;
        if !self.is_sent() {
            self.socket.watch(poll, Some(Interest { read: false, write: true }))?;
            return Ok(None);
        }
        loop {
            if let Some(answer) = self.take_answer()? {
                return Ok(Some(answer));
            }
            let mut buffer = Vec::with_capacity(512);
            match sys::rustix::io::read(self.socket.fd(), spare_capacity(&mut buffer)) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => self.answer.extend_from_slice(&buffer),
                Err(Errno::AGAIN) => {
                    self.socket.watch(poll, Some(Interest::READ))?;
                    return Ok(None);
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// The answer to the event that is under way, if it is whole.
    fn take_answer(&mut self) -> io::Result<Option<Option<String>>> {
        loop {
            let Some((header, rest)) = self.answer.split_first_chunk::<HEADER>() else { return Ok(None) };
            let [l0, l1, l2, l3, s0, s1, s2, s3, kind, _flags] = *header;
            let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
            if length > LARGEST_ANSWER || kind != RESPONSE {
                return Err(io::Error::other("not the answer of a ttrpc server"));
            }
            let Some(data) = rest.get(..length) else { return Ok(None) };
            let ours = u32::from_be_bytes([s0, s1, s2, s3]) == self.stream;
            let response = Response::parse_from_bytes(data).map_err(io::Error::other)?;
            self.answer.drain(..HEADER + length);
            if ours {
                let status = response.status.into_option().filter(|status| status.code() != Code::OK);
                return Ok(Some(status.map(|status| status.message)));
            }
        }
    }
}

fn request(stream: u32, payload: &[u8]) -> protobuf::Result<Vec<u8>> {
    let body = Request {
        service: "containerd.services.events.ttrpc.v1.Events".to_owned(),
        method: "Forward".to_owned(),
        payload: payload.to_vec(),
        timeout_nano: i64::try_from(PATIENCE.as_nanos()).unwrap_or(i64::MAX),
        ..Request::default()
    };
    let body = body.write_to_bytes()?;
    let mut frame = Vec::with_capacity(HEADER + body.len());
    frame.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(&[REQUEST, 0]);
    frame.extend_from_slice(&body);
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Directory;
    use containerd_shim_protos::events::task::TaskOOM;
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::{UnixListener, UnixStream};
    use ttrpc::proto::Status;

    fn publisher(directory: &Directory) -> Publisher {
        Publisher::new(&directory.0.join("socket"), "k8s.io".to_owned()).expect("a short path")
    }

    fn push(publisher: &mut Publisher, id: &str, poll: &Poll) -> Said {
        let event = TaskOOM { container_id: id.to_owned(), ..TaskOOM::default() };
        publisher.push("/tasks/oom", "containerd.events.TaskOOM", &event, poll)
    }

    /// Reads one event as containerd does; its stream and the container that it names.
    fn take(stream: &mut UnixStream) -> (u32, String) {
        let mut header = [0; HEADER];
        stream.read_exact(&mut header).expect("a header");
        let number = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().expect("four"));
        let mut body = vec![0; number(0) as usize];
        stream.read_exact(&mut body).expect("a body");
        let request = Request::parse_from_bytes(&body).expect("a request");
        assert_eq!(request.method, "Forward");
        let forward = ForwardRequest::parse_from_bytes(&request.payload).expect("the message");
        let envelope = forward.envelope.unwrap_or_default();
        assert_eq!((envelope.namespace.as_str(), envelope.topic.as_str()), ("k8s.io", "/tasks/oom"));
        let event = envelope.event.unwrap_or_default();
        assert_eq!(event.type_url, "containerd.events.TaskOOM");
        (number(4), TaskOOM::parse_from_bytes(&event.value).expect("the event").container_id)
    }

    fn answer(stream: &mut UnixStream, number: u32, refusal: Option<&str>) {
        let mut response = Response::default();
        if let Some(text) = refusal {
            let status =
                Status { code: Code::INVALID_ARGUMENT.into(), message: text.to_owned(), ..Status::default() };
            response.status = MessageField::some(status);
        }
        let body = response.write_to_bytes().expect("encode");
        let mut frame = u32::try_from(body.len()).expect("small").to_be_bytes().to_vec();
        frame.extend_from_slice(&number.to_be_bytes());
        frame.extend_from_slice(&[RESPONSE, 0]);
        frame.extend_from_slice(&body);
        // In two parts, as a socket may cut it.
        stream.write_all(&frame[..7]).expect("write");
        stream.write_all(&frame[7..]).expect("write");
    }

    #[test]
    fn events_are_told_in_order_and_the_connection_ends_with_them() {
        let directory = Directory::new();
        let poll = Poll::new().expect("epoll");
        let listener = UnixListener::bind(directory.0.join("socket")).expect("bind");
        let mut publisher = publisher(&directory);
        for id in ["a", "b"] {
            assert_eq!(push(&mut publisher, id, &poll), None);
        }
        let (mut stream, _) = listener.accept().expect("accept");
        assert_eq!(take(&mut stream), (1, "a".to_owned()));
        assert_eq!(publisher.advance(&poll), None, "an answer is waited for");
        answer(&mut stream, 1, Some("no such namespace"));
        assert_eq!(poll.wait(None).expect("wait"), [Source::Events]);
        let said = publisher.advance(&poll).expect("a refusal is logged");
        assert!(said.contains("no such namespace"), "{said}");
        assert_eq!(take(&mut stream), (3, "b".to_owned()), "one that is refused is not told again");
        answer(&mut stream, 3, None);
        assert_eq!(publisher.advance(&poll), None);
        assert_eq!(stream.read(&mut [0]).expect("the end"), 0);
        assert_eq!((publisher.deadline(), publisher.bytes), (None, 0));
    }

    #[test]
    fn an_event_outlives_a_containerd_that_is_away() {
        let directory = Directory::new();
        let poll = Poll::new().expect("epoll");
        let mut publisher = publisher(&directory);
        assert_eq!(push(&mut publisher, "a", &poll), None);
        let first = publisher.deadline().expect("tried again");
        assert_eq!(push(&mut publisher, "b", &poll), None);
        assert_eq!(publisher.deadline(), Some(first), "not for each event");
        publisher.on_time(first, &poll);
        let second = publisher.deadline().expect("tried again");
        assert!(second.saturating_duration_since(Instant::now()) > SOON, "later each time");
        let listener = UnixListener::bind(directory.0.join("socket")).expect("bind");
        publisher.on_time(second, &poll);
        // It is killed with the event in its hands.
        let (mut stream, _) = listener.accept().expect("accept");
        assert_eq!(take(&mut stream).1, "a");
        drop(stream);
        assert_eq!(publisher.advance(&poll), None);
        let third = publisher.deadline().expect("tried again");
        publisher.on_time(third, &poll);
        let (mut stream, _) = listener.accept().expect("accept");
        let told = std::thread::spawn(move || {
            for id in ["a", "b"] {
                let (number, container) = take(&mut stream);
                assert_eq!(container, id);
                answer(&mut stream, number, None);
            }
            stream.read(&mut [0]).expect("the end")
        });
        publisher.finish(&poll, Instant::now() + Duration::from_secs(30));
        assert_eq!(told.join().expect("told"), 0);
    }

    #[test]
    fn the_queue_is_bounded_and_a_silent_containerd_is_left() {
        let directory = Directory::new();
        let poll = Poll::new().expect("epoll");
        let _listener = UnixListener::bind(directory.0.join("socket")).expect("bind");
        let mut publisher = publisher(&directory);
        for _ in 0..MOST {
            assert_eq!(push(&mut publisher, "a", &poll), None);
        }
        assert!(push(&mut publisher, "a", &poll).is_some_and(|said| said.contains("lost")));
        assert_eq!(push(&mut publisher, "a", &poll), None, "said once");
        assert_eq!(publisher.queue.len(), MOST);
        let until = publisher.deadline().expect("an answer is due");
        assert!(publisher.on_time(until, &poll).is_some());
        assert!(publisher.link.is_none() && publisher.retry_at.is_some());
    }

    #[test]
    fn an_address_is_a_path_with_or_without_a_scheme() {
        assert_eq!(socket_path("/run/a.ttrpc"), Some(Path::new("/run/a.ttrpc")));
        assert_eq!(socket_path("unix:///run/a"), Some(Path::new("/run/a")));
        for other in ["", "a", "vsock://2:3", "unix://a"] {
            assert_eq!(socket_path(other), None, "{other}");
        }
    }
}
