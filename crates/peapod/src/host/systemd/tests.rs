//! The manager against a bus of this test's own.

use super::{
    message::{self, tests::sent},
    *,
};
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    thread::JoinHandle,
};

const UNIT: &str = "peapod-1.scope";
const SYSTEMD: &str = ":1.0";

/// A bus with systemd on it, for one connection.
struct Fake {
    socket: PathBuf,
    served: Option<JoinHandle<Vec<String>>>,
}

impl Fake {
    /// `answers` gives what is sent back for a call, by its number and its member.
    fn new(name: &str, answers: impl Fn(u32, &str) -> Vec<u8> + Send + 'static) -> Fake {
        Fake::with_welcome(name, "OK 0123\r\n", answers)
    }

    fn with_welcome(
        name: &str,
        welcome: &'static str,
        answers: impl Fn(u32, &str) -> Vec<u8> + Send + 'static,
    ) -> Fake {
        let socket = std::env::temp_dir().join(format!("peapod-test-bus-{name}-{}", std::process::id()));
        let listener = UnixListener::bind(&socket).expect("a socket");
        let served = std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a client");
            serve(stream, welcome, answers)
        });
        Fake { socket, served: Some(served) }
    }

    fn manager(&self) -> Manager {
        self.manager_with(Duration::from_secs(20))
    }

    fn start(&self) -> Result<(), BusError> {
        let description = "peapod pod default/a".to_owned();
        self.manager().start(&NewScope { unit: UNIT, slice: "a-b.slice", description, pid: 4711 })
    }

    /// The calls that were made, once the client is gone.
    fn calls(mut self) -> Vec<String> {
        self.served.take().expect("once").join().expect("the bus ends")
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// Answers until the client leaves; gives the members that were called, with the bytes of the unit's
/// properties among them as they are.
fn serve(stream: UnixStream, welcome: &str, answers: impl Fn(u32, &str) -> Vec<u8>) -> Vec<String> {
    let mut reader = BufReader::new(stream.try_clone().expect("a second end"));
    let mut writer = stream;
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line).expect("a line");
    let user = sys::rustix::process::geteuid().as_raw().to_string();
    let hex: String = user.bytes().map(|digit| format!("{digit:02x}")).collect();
    assert_eq!(String::from_utf8_lossy(&line), format!("\0AUTH EXTERNAL {hex}\r\n"));
    writer.write_all(welcome.as_bytes()).expect("written");
    let mut calls = Vec::new();
    let mut begin = [0; 7];
    if reader.read_exact(&mut begin).is_err() {
        return calls;
    }
    assert_eq!(&begin, b"BEGIN\r\n");
    while let Ok(call) = message::read(&mut reader) {
        let serial = u32::try_from(calls.len() + 1).expect("few");
        calls.push(call.member.clone());
        if writer.write_all(&answers(serial, &call.member)).is_err() {
            break;
        }
    }
    calls
}

fn answer(serial: u32, body: &[&str]) -> Vec<u8> {
    sent(2, &[(5, "u", &serial.to_string()), (7, "s", SYSTEMD)], body)
}

fn refusal(serial: u32, name: &str) -> Vec<u8> {
    sent(3, &[(5, "u", &serial.to_string()), (4, "s", name), (7, "s", SYSTEMD)], &["it said so"])
}

fn removed(sender: &str, job: &str, result: &str) -> Vec<u8> {
    let fields =
        [(1, "o", MANAGER.path), (2, "s", MANAGER.interface), (3, "s", "JobRemoved"), (7, "s", sender)];
    sent(4, &fields, &["5", job, UNIT, result])
}

/// A systemd that does what it is asked for, whose job ends so.
fn ends(result: &'static str) -> impl Fn(u32, &str) -> Vec<u8> + Send {
    move |serial, member| match member {
        "StartTransientUnit" | "StopUnit" => {
            let mut bytes = answer(serial, &["/job/5"]);
            bytes.extend(removed(SYSTEMD, "/job/5", result));
            bytes
        }
        _ => answer(serial, &[]),
    }
}

#[test]
fn a_scope_is_made_when_its_job_is_done() {
    let fake = Fake::new("start", ends("done"));
    fake.start().expect("made");
    assert_eq!(fake.calls(), ["Hello", "AddMatch", "Subscribe", "StartTransientUnit"]);
}

#[test]
fn a_job_that_fails_is_an_error_that_names_the_unit_and_the_end() {
    for result in ["failed", "canceled", "timeout", "dependency", "skipped", ""] {
        let fake = Fake::new("failed", ends(result));
        let error = fake.start().expect_err(result).to_string();
        assert_eq!(error, format!("systemd's job for {UNIT} ended as {result:?}"));
    }
}

#[test]
fn the_end_of_another_job_or_of_another_sender_is_not_ours() {
    let fake = Fake::new("strangers", |serial, member| match member {
        "StartTransientUnit" => {
            // Told before the answer, by whoever wants; and the right one last.
            let mut bytes = removed(":1.666", "/job/5", "done");
            bytes.extend(answer(serial, &["/job/5"]));
            bytes.extend(removed(SYSTEMD, "/job/4", "done"));
            bytes.extend(removed(SYSTEMD, "/job/5", "canceled"));
            bytes
        }
        _ => answer(serial, &[]),
    });
    let error = fake.start().expect_err("it was cancelled").to_string();
    assert!(error.ends_with("\"canceled\""), "{error}");
}

#[test]
fn a_job_that_is_done_before_it_is_answered_is_done() {
    let fake = Fake::new("early", |serial, member| match member {
        "StartTransientUnit" => {
            let mut bytes = removed(SYSTEMD, "/job/5", "done");
            bytes.extend(answer(serial, &["/job/5"]));
            bytes
        }
        _ => answer(serial, &[]),
    });
    fake.start().expect("made");
}

#[test]
fn a_unit_that_is_there_is_started_and_one_that_is_not_is_stopped() {
    let refuses = |name: &'static str| {
        move |serial, member: &str| match member {
            "StartTransientUnit" | "StopUnit" => refusal(serial, name),
            _ => answer(serial, &[]),
        }
    };
    Fake::new("exists", refuses("org.freedesktop.systemd1.UnitExists")).start().expect("there");
    let absent = Fake::new("absent", refuses("org.freedesktop.systemd1.NoSuchUnit"));
    absent.manager().stop(UNIT).expect("gone");
    assert_eq!(absent.calls(), ["Hello", "AddMatch", "Subscribe", "StopUnit"]);
    let denied = Fake::new("denied", refuses("org.freedesktop.DBus.Error.AccessDenied"));
    let error = denied.start().expect_err("refused").to_string();
    assert_eq!(error, "org.freedesktop.DBus.Error.AccessDenied: it said so");
}

#[test]
fn a_bus_that_is_absent_refuses_or_talks_nonsense_is_an_error() {
    let nobody = Manager { socket: "/nonexistent/bus".into(), patience: Duration::from_secs(5) };
    assert!(matches!(nobody.stop(UNIT), Err(BusError::Connect { .. })));
    let refuses = Fake::with_welcome("refuses", "REJECTED EXTERNAL\r\n", |_, _| Vec::new());
    assert!(matches!(refuses.start(), Err(BusError::Denied(line)) if line == "REJECTED EXTERNAL"));
    let endless: &'static str = Box::leak("x".repeat(10_000).into_boxed_str());
    let talks = Fake::with_welcome("endless", endless, |_, _| Vec::new());
    assert!(matches!(talks.start(), Err(BusError::Protocol(_))));
    let garbage = Fake::new("garbage", |_, _| vec![0xff; 64]);
    assert!(matches!(garbage.start(), Err(BusError::Protocol(_))));
    let closes = Fake::new("closes", |serial, _| answer(serial, &[])[..9].to_vec());
    assert!(closes.manager_with(Duration::from_millis(50)).stop(UNIT).is_err());
    let wrong = Fake::new("wrong", |serial, _| answer(serial, &["no", "job"]));
    assert!(matches!(wrong.start(), Err(BusError::Protocol("an answer without a job"))));
}

#[test]
fn a_systemd_that_says_nothing_is_waited_for_only_so_long() {
    let silent = Fake::new("silent", |serial, member| match member {
        "StartTransientUnit" => answer(serial, &["/job/5"]),
        _ => answer(serial, &[]),
    });
    let manager = silent.manager_with(Duration::from_millis(200));
    let new = NewScope { unit: UNIT, slice: "a.slice", description: String::new(), pid: 1 };
    assert!(matches!(manager.start(&new), Err(BusError::Deadline(0))));
}

impl Fake {
    fn manager_with(&self, patience: Duration) -> Manager {
        Manager { socket: self.socket.clone(), patience }
    }
}

#[test]
fn the_properties_are_those_of_a_delegated_scope() {
    let new = NewScope { unit: UNIT, slice: "a-b.slice", description: "d".to_owned(), pid: 9 };
    let told: Vec<String> =
        properties(&new).into_iter().map(|(name, value)| format!("{name}={value:?}")).collect();
    assert_eq!(
        told,
        [
            "Description=Text(\"d\")",
            "Slice=Text(\"a-b.slice\")",
            "PIDs=Numbers([9])",
            "Delegate=Flag(true)",
            "CPUAccounting=Flag(true)",
            "MemoryAccounting=Flag(true)",
            "TasksAccounting=Flag(true)",
            "IOAccounting=Flag(true)",
            "TasksMax=Number(18446744073709551615)",
            "DefaultDependencies=Flag(false)",
            "CollectMode=Text(\"inactive-or-failed\")",
        ]
    );
}
