//! What makes this program a shim that a stock containerd starts (containerd:core/runtime/v2,
//! pkg/shim; since 2.3 with the bootstrap protocol): the command line, and what differs in the shim
//! that serves containerd instead of our daemon.
//!
//! ```text
//! containerd: start  ──> one shim for the pod (or that which runs) ──> its address on standard output
//!             Create, Start, Exec, ... over ttrpc   <── events, by `publish`
//!             delete ──> the shim is gone: ends what is left, and tells the exit that is on disk
//!             -info  ──> what the runtime can do
//! ```

mod args;
mod delete;
mod info;
pub(crate) mod options;
mod start;

use crate::publish::{Publisher, Said};
use crate::serve::Shim;
use crate::task::timestamp;
use args::Call;
use containerd_shim_protos::events::task::{
    TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskIO, TaskOOM, TaskPaused,
    TaskResumed, TaskStart,
};
use containerd_shim_protos::{api, topics};
use protobuf::MessageField;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use sys::rustix::fs::Mode;
use types::shim::ExitRecord;

/// How long a shim that leaves takes to tell its last events.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a shim knows of the containerd that started it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    /// containerd's namespace.
    pub(crate) namespace: String,
    /// Where events go; none: nowhere.
    pub(crate) events: Option<PathBuf>,
    /// The shim's own socket, which it removes at its end.
    pub(crate) socket: PathBuf,
    /// The program, as it was executed.
    pub(crate) program: PathBuf,
}

/// The containerd that a shim serves.
#[derive(Debug)]
pub(crate) struct Containerd {
    pub(crate) publisher: Option<Publisher>,
    socket: PathBuf,
    program: PathBuf,
}

impl Containerd {
    /// As the command line names it.
    ///
    /// # Errors
    /// The address of its events is none.
    pub(crate) fn new(origin: Origin) -> io::Result<Self> {
        let publisher = origin.events.map(|path| Publisher::new(&path, origin.namespace)).transpose()?;
        Ok(Self { publisher, socket: origin.socket, program: origin.program })
    }
}

/// Runs what containerd asks for; `arguments` without the program's name.
pub(crate) fn main(program: &Path, arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let call = match args::parse(arguments) {
        Ok(call) => call,
        Err(complaint) => return crate::say(&format!("{complaint}\n"), ExitCode::from(crate::USAGE)),
    };
    let (what, answer) = match &call {
        Call::Version => return crate::tell(crate::VERSION),
        Call::Info => ("info", info::info()),
        Call::Start(target) => ("start", start::start(program, target)),
        Call::Delete(target) => ("delete", delete::delete(target)),
    };
    match answer.and_then(|bytes| io::stdout().write_all(&bytes).map_err(|e| format!("answer: {e}"))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => crate::say(&format!("{what}: {e}\n"), ExitCode::FAILURE),
    }
}

/// Events. Without a containerd they are nothing.
impl Shim {
    /// Whether a containerd started this shim.
    pub(crate) fn is_containerds(&self) -> bool {
        self.containerd.is_some()
    }

    fn publish(&mut self, topic: &'static str, name: &str, event: &impl protobuf::Message) {
        if let Some(Containerd { publisher: Some(publisher), .. }) = self.containerd.as_deref_mut() {
            let said = publisher.push(topic, name, event, &self.poll);
            self.say(said);
        }
    }

    fn say(&self, said: Said) {
        if let Some(text) = said {
            self.log(&text);
        }
    }

    /// The publisher's socket is ready.
    pub(crate) fn on_events(&mut self) {
        if let Some(Containerd { publisher: Some(publisher), .. }) = self.containerd.as_deref_mut() {
            let said = publisher.advance(&self.poll);
            self.say(said);
        }
    }

    /// A time of the publisher's may be over.
    pub(crate) fn events_on_time(&mut self, now: Instant) {
        if let Some(Containerd { publisher: Some(publisher), .. }) = self.containerd.as_deref_mut() {
            let said = publisher.on_time(now, &self.poll);
            self.say(said);
        }
    }

    /// When the publisher has to be looked at again.
    pub(crate) fn events_deadline(&self) -> Option<Instant> {
        self.containerd.as_ref()?.publisher.as_ref()?.deadline()
    }

    /// Leaves the program's place in a bundle. containerd does so only where it has executed `start`; when it
    /// is started anew it would look for the program in PATH, and lose the container if it is not there.
    pub(crate) fn name_program(&self, bundle: &Path) {
        const NAME: &str = "shim-binary-path";
        let Some(containerd) = self.containerd.as_deref().filter(|own| own.program.is_absolute()) else {
            return;
        };
        let path = bundle.join(NAME);
        if path.try_exists().is_ok_and(|there| !there) {
            let text = containerd.program.as_os_str().as_encoded_bytes();
            if let Err(e) = sys::file::replace_path(&path, text, Mode::from_raw_mode(0o600)) {
                self.log(&format!("write {}: {e}", path.display()));
            }
        }
    }

    /// No client comes any more: the socket's name is free for another shim.
    pub(crate) fn leave_containerd(&self) {
        if let Some(containerd) = &self.containerd
            && let Err(e) = std::fs::remove_file(&containerd.socket)
        {
            self.log(&format!("remove {}: {e}", containerd.socket.display()));
        }
    }

    /// The loop has ended: what is not told yet is told now.
    pub(crate) fn last_words(&mut self) {
        if let Some(publisher) = self.containerd.take().and_then(|containerd| containerd.publisher) {
            publisher.finish(&self.poll, Instant::now() + LAST_WORDS);
        }
    }

    pub(crate) fn tell_created(&mut self, request: &api::CreateTaskRequest, pid: u32) {
        if !self.is_containerds() {
            return;
        }
        let io = TaskIO {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
            ..TaskIO::default()
        };
        let event = TaskCreate {
            container_id: request.id.clone(),
            bundle: request.bundle.clone(),
            rootfs: request.rootfs.clone(),
            io: MessageField::some(io),
            pid,
            ..TaskCreate::default()
        };
        self.publish(topics::TASK_CREATE_EVENT_TOPIC, "containerd.events.TaskCreate", &event);
    }

    pub(crate) fn tell_started(&mut self, id: &str, pid: u32) {
        let event = TaskStart { container_id: id.to_owned(), pid, ..TaskStart::default() };
        self.publish(topics::TASK_START_EVENT_TOPIC, "containerd.events.TaskStart", &event);
    }

    /// The end of a container's first process, and what ended it.
    pub(crate) fn tell_exit(&mut self, pid: u32, record: &ExitRecord) {
        if record.oom_killed {
            let event = TaskOOM { container_id: record.container_id.clone(), ..TaskOOM::default() };
            self.publish(topics::TASK_OOM_EVENT_TOPIC, "containerd.events.TaskOOM", &event);
        }
        let id = record.container_id.as_str();
        self.tell_end(id, id, pid, record.code, record.exited_at);
    }

    /// The end of a process: `id` is the container's own, or that of a further process in it.
    pub(crate) fn tell_end(&mut self, container: &str, id: &str, pid: u32, code: u32, at: i64) {
        let event = TaskExit {
            container_id: container.to_owned(),
            id: id.to_owned(),
            pid,
            exit_status: code,
            exited_at: timestamp(at),
            ..TaskExit::default()
        };
        self.publish(topics::TASK_EXIT_EVENT_TOPIC, "containerd.events.TaskExit", &event);
    }

    pub(crate) fn tell_deleted(&mut self, id: &str, response: &api::DeleteResponse) {
        let event = TaskDelete {
            container_id: id.to_owned(),
            pid: response.pid,
            exit_status: response.exit_status,
            exited_at: response.exited_at.clone(),
            ..TaskDelete::default()
        };
        self.publish(topics::TASK_DELETE_EVENT_TOPIC, "containerd.events.TaskDelete", &event);
    }

    pub(crate) fn tell_exec_added(&mut self, container: &str, id: &str) {
        let event = TaskExecAdded {
            container_id: container.to_owned(),
            exec_id: id.to_owned(),
            ..TaskExecAdded::default()
        };
        self.publish(topics::TASK_EXEC_ADDED_EVENT_TOPIC, "containerd.events.TaskExecAdded", &event);
    }

    pub(crate) fn tell_exec_started(&mut self, container: &str, id: &str, pid: u32) {
        let event = TaskExecStarted {
            container_id: container.to_owned(),
            exec_id: id.to_owned(),
            pid,
            ..TaskExecStarted::default()
        };
        self.publish(topics::TASK_EXEC_STARTED_EVENT_TOPIC, "containerd.events.TaskExecStarted", &event);
    }

    pub(crate) fn tell_paused(&mut self, id: &str) {
        let event = TaskPaused { container_id: id.to_owned(), ..TaskPaused::default() };
        self.publish(topics::TASK_PAUSED_EVENT_TOPIC, "containerd.events.TaskPaused", &event);
    }

    pub(crate) fn tell_resumed(&mut self, id: &str) {
        let event = TaskResumed { container_id: id.to_owned(), ..TaskResumed::default() };
        self.publish(topics::TASK_RESUMED_EVENT_TOPIC, "containerd.events.TaskResumed", &event);
    }
}

/// The socket of a shim that a bundle names; none if it names none.
///
/// containerd writes `bootstrap.json` into the bundles of all containers, `start` writes `address` into
/// that of the first one, which is there before.
fn socket_of(bundle: &Path) -> Option<PathBuf> {
    let bootstrap = read_small(&bundle.join("bootstrap.json")).and_then(|bytes| {
        let value: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
        value.get("address")?.as_str().map(str::to_owned)
    });
    let address = bootstrap.or_else(|| String::from_utf8(read_small(&bundle.join("address"))?).ok())?;
    crate::publish::socket_path(address.trim()).map(Path::to_owned)
}

/// A small file whole; none if there is none, or it is larger than 64 KiB.
fn read_small(path: &Path) -> Option<Vec<u8>> {
    use std::io::Read as _;
    const LARGEST: u64 = 64 << 10;
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(LARGEST + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= LARGEST).then_some(bytes)
}
