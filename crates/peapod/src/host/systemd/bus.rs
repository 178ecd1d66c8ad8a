//! One connection to the system bus, for one job of systemd. It blocks, within a bound.
//!
//! D-Bus specification, "Authentication Protocol" and "Message Bus"; org.freedesktop.systemd1(5).

use super::{
    error::BusError,
    message::{self, Kind, Message, Method, Writer},
};
use std::{
    collections::VecDeque,
    io::{self, Read, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

/// How long systemd may take for a job.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// Messages that are not for us, at most, before that is called garbage.
const STRANGERS: usize = 1024;
/// Longest line of the authentication.
const LONGEST_LINE: usize = 4096;

const BUS: Method = Method {
    destination: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
    member: "",
    signature: "",
};
/// The manager's methods.
pub(super) const MANAGER: Method = Method {
    destination: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
    member: "",
    signature: "",
};

/// A connection that has said hello.
#[derive(Debug)]
pub(super) struct Bus {
    stream: Bounded,
    serial: u32,
    /// Signals that came while an answer was waited for.
    signals: VecDeque<Message>,
}

/// A stream that is read and written until a deadline.
#[derive(Debug)]
struct Bounded {
    stream: UnixStream,
    deadline: Instant,
    patience: Duration,
}

impl Bounded {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), BusError> {
        let sent = self.left().and_then(|left| {
            self.stream.set_write_timeout(left)?;
            self.stream.write_all(bytes)
        });
        sent.map_err(|error| self.error(error))
    }

    fn error(&self, error: io::Error) -> BusError {
        if matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) {
            BusError::Deadline(self.patience.as_secs())
        } else {
            BusError::Io(error)
        }
    }
}

impl Read for Bounded {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(into)
    }
}

impl Bus {
    /// Connects as the user that we are.
    pub(super) fn connect(path: &Path, patience: Duration) -> Result<Bus, BusError> {
        let connect = |source| BusError::Connect { path: path.display().to_string(), source };
        let stream = UnixStream::connect(path).map_err(connect)?;
        let stream = Bounded { stream, deadline: Instant::now() + patience, patience };
        let mut bus = Bus { stream, serial: 0, signals: VecDeque::new() };
        bus.authenticate()?;
        bus.call(Method { member: "Hello", ..BUS }, &Writer::default())?;
        Ok(bus)
    }

    /// EXTERNAL: the kernel says who we are, and we say the same.
    fn authenticate(&mut self) -> Result<(), BusError> {
        let user = sys::rustix::process::geteuid().as_raw().to_string();
        let user: String = user.bytes().map(|digit| format!("{digit:02x}")).collect();
        self.stream.send(format!("\0AUTH EXTERNAL {user}\r\n").as_bytes())?;
        let line = self.line()?;
        if !line.starts_with("OK ") {
            return Err(BusError::Denied(line));
        }
        self.stream.send(b"BEGIN\r\n")
    }

    /// A line without its end. Byte by byte: what follows it is not ours to take.
    fn line(&mut self) -> Result<String, BusError> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).map_err(|error| self.stream.error(error))?;
            line.extend(byte);
            if line.len() > LONGEST_LINE {
                return Err(BusError::Protocol("a line without an end"));
            }
        }
        line.truncate(line.len() - 2);
        String::from_utf8(line).map_err(|_| BusError::Protocol("a line that is no text"))
    }

    /// Calls a method and waits for its answer.
    pub(super) fn call(&mut self, method: Method, body: &Writer) -> Result<Message, BusError> {
        self.serial += 1;
        self.stream.send(&message::call(self.serial, method, body))?;
        for _ in 0..STRANGERS {
            let message = self.read()?;
            match message.kind {
                Kind::Answer if message.reply_to == Some(self.serial) => return Ok(message),
                Kind::Error if message.reply_to == Some(self.serial) => {
                    let said = message.arguments().unwrap_or_default();
                    let message_text = said.into_iter().next().unwrap_or_default();
                    return Err(BusError::Refused { name: message.error, message: message_text });
                }
                Kind::Signal => self.signals.push_back(message),
                Kind::Answer | Kind::Error | Kind::Other => {}
            }
        }
        Err(BusError::Protocol("too much that is not for us"))
    }

    fn read(&mut self) -> Result<Message, BusError> {
        match message::read(&mut self.stream) {
            Err(BusError::Io(error)) => Err(self.stream.error(error)),
            other => other,
        }
    }

    /// Asks to be told of the end of a unit's jobs.
    pub(super) fn watch(&mut self, unit: &str) -> Result<(), BusError> {
        let mut rule = Writer::default();
        rule.text(&format!(
            "type='signal',sender='{}',path='{}',interface='{}',member='JobRemoved',arg2='{unit}'",
            MANAGER.destination, MANAGER.path, MANAGER.interface
        ));
        self.call(Method { member: "AddMatch", signature: "s", ..BUS }, &rule)?;
        // Without a subscriber systemd sends no signals.
        self.call(Method { member: "Subscribe", ..MANAGER }, &Writer::default()).map(drop)
    }

    /// Waits for the end of the job that a call has begun.
    pub(super) fn job(&mut self, begun: &Message, unit: &str) -> Result<(), BusError> {
        let arguments = begun.arguments()?;
        let [job] = arguments.as_slice() else {
            return Err(BusError::Protocol("an answer without a job"));
        };
        for _ in 0..STRANGERS {
            let signal = match self.signals.pop_front() {
                Some(signal) => signal,
                None => self.read()?,
            };
            // Anybody on the bus may send us a signal of any name; only systemd is asked for the job.
            if signal.kind != Kind::Signal || signal.member != "JobRemoved" || signal.sender != begun.sender {
                continue;
            }
            if let [_, removed, _, result] = signal.arguments()?.as_slice()
                && removed == job
            {
                return match result.as_str() {
                    "done" => Ok(()),
                    other => Err(BusError::Job { unit: unit.to_owned(), result: other.to_owned() }),
                };
            }
        }
        Err(BusError::Protocol("too much that is not for us"))
    }
}
