//! Commands that change something: create, start, run, exec, kill, delete.

use super::{
    FrontError,
    args::{Arguments, not_supported},
    console,
    store::{self, Place, Record, Status},
};
use crate::{CreateRequest, Created, ExecRequest, Gate, StartError, Stdio};
use oci_spec::runtime::{Process, Spec};
use std::{
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};
use sys::{
    pidfd,
    rustix::{
        self,
        event::{PollFd, PollFlags, poll},
        fd::{AsFd, OwnedFd},
        fs::Mode,
        process::Pid,
    },
    signalfd::{self, SignalFd},
};

/// How long `delete --force` waits for the processes.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// Signals that `run` and `exec` pass on: those that people and service managers send.
const FORWARDED: [i32; 8] = {
    use sys::libc::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
    [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH, SIGCONT]
};

/// Options of create and run.
struct Making {
    place: Place,
    bundle: PathBuf,
    pid_file: Option<PathBuf>,
    console: Option<UnixStream>,
    detach: bool,
    keep: bool,
}

impl Making {
    fn parse(mut args: Arguments, root: &Path, is_run: bool) -> Result<Self, FrontError> {
        let (mut bundle, mut pid_file, mut console) = (PathBuf::from("."), None, None);
        let (mut detach, mut keep) = (!is_run, false);
        while let Some(option) = args.next_option() {
            match option.as_str() {
                "--bundle" | "-b" => bundle = args.value(&option)?.into(),
                "--pid-file" => pid_file = Some(PathBuf::from(args.value(&option)?)),
                "--console-socket" => console = Some(PathBuf::from(args.value(&option)?)),
                "--detach" | "-d" if is_run => detach = true,
                "--keep" if is_run => keep = true,
                other => return Err(not_supported(other)),
            }
        }
        let place = Place::new(root, &args.word("a container id")?)?;
        args.end()?;
        let bundle = std::path::absolute(&bundle).map_err(FrontError::io("find the bundle"))?;
        let console = console.as_deref().map(console::connect).transpose()?;
        Ok(Making { place, bundle, pid_file, console, detach, keep })
    }

    fn stdio(&self, process: Option<&Process>) -> Result<Stdio, FrontError> {
        let terminal = process.and_then(Process::terminal).unwrap_or(false);
        stdio(terminal, self.console.is_some())
    }

    /// Makes the container; what fails leaves nothing behind.
    fn create(&self, gate: fn(&Place) -> Result<Gate, FrontError>) -> Result<Created, FrontError> {
        let config = self.bundle.join("config.json");
        let file =
            std::fs::File::open(&config).map_err(FrontError::io(format!("open {}", config.display())))?;
        let mut spec: Spec = store::parse(file, &config)?;
        name_cgroup(&mut spec, &self.place.id);
        let stdio = self.stdio(spec.process().as_ref())?;
        let cgroups = cgroup::Mounts::detect()?;
        self.place.make()?;
        let mut record = Record {
            version: 1,
            id: self.place.id.clone(),
            bundle: self.bundle.clone(),
            created: store::now(),
            pid: 0,
            start_time: 0,
            config: spec,
        };
        let made = self.launch(&mut record, stdio, &cgroups, gate);
        if made.is_err() {
            self.place.remove()?;
        }
        made
    }

    fn launch(
        &self,
        record: &mut Record,
        stdio: Stdio,
        cgroups: &cgroup::Mounts,
        gate: fn(&Place) -> Result<Gate, FrontError>,
    ) -> Result<Created, FrontError> {
        self.place.save(record)?;
        let cache = self.place.root.join(".seccomp");
        let request = CreateRequest {
            id: &self.place.id,
            spec: &record.config,
            bundle: &self.bundle,
            rootfs: Vec::new(),
            stdio,
            cgroups,
            seccomp_cache: Some(&cache),
            gate: gate(&self.place)?,
        };
        let created = crate::create(request)?;
        record.pid = created.pid.as_raw_pid();
        record.start_time = store::start_time(record.pid).unwrap_or_default();
        let known = self.place.save(record).and_then(|()| self.tell(&created));
        if let Err(error) = known {
            // Nobody would ever find the container again.
            crate::delete(&created.cgroup)?;
            return Err(error);
        }
        Ok(created)
    }

    fn tell(&self, created: &Created) -> Result<(), FrontError> {
        if let (Some(socket), Some(terminal)) = (&self.console, &created.terminal) {
            console::send(socket, terminal)?;
        }
        write_pid(self.pid_file.as_deref(), created.pid)
    }
}

/// runc's default is a group named as the container; a relative path is taken from the root.
fn name_cgroup(spec: &mut Spec, id: &str) {
    let Some(linux) = spec.linux_mut() else { return };
    let path = match linux.cgroups_path() {
        Some(path) if !path.as_os_str().is_empty() => Path::new("/").join(path),
        Some(_) | None => Path::new("/").join(id),
    };
    linux.set_cgroups_path(Some(path));
}

fn write_pid(file: Option<&Path>, pid: Pid) -> Result<(), FrontError> {
    let Some(file) = file else { return Ok(()) };
    sys::file::replace_path(file, pid.as_raw_pid().to_string().as_bytes(), Mode::from_raw_mode(0o644))
        .map_err(FrontError::io(format!("write {}", file.display())))
}

/// The caller's own three descriptors, or a terminal that needs a receiver.
fn stdio(terminal: bool, console: bool) -> Result<Stdio, FrontError> {
    if terminal != console {
        let why = if terminal {
            "process.terminal needs --console-socket"
        } else {
            "--console-socket needs process.terminal"
        };
        return Err(FrontError::Usage(why.to_owned()));
    }
    if terminal {
        return Ok(Stdio::Terminal);
    }
    let copy = |fd: std::os::fd::BorrowedFd<'_>| {
        rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(FrontError::errno("copy stdin, stdout or stderr"))
    };
    Ok(Stdio::Files {
        stdin: copy(std::io::stdin().as_fd())?,
        stdout: copy(std::io::stdout().as_fd())?,
        stderr: copy(std::io::stderr().as_fd())?,
    })
}

pub(crate) fn create(args: Arguments, root: &Path) -> Result<u8, FrontError> {
    let making = Making::parse(args, root, false)?;
    making.create(|place| place.listener().map(Gate::Listener))?;
    Ok(0)
}

pub(crate) fn start(mut args: Arguments, root: &Path) -> Result<u8, FrontError> {
    if let Some(option) = args.next_option() {
        return Err(not_supported(&option));
    }
    let place = Place::new(root, &args.word("a container id")?)?;
    args.end()?;
    let record = place.load()?;
    match place.status(&record)? {
        Status::Created => begin(&place, &record).map(|()| 0),
        other @ (Status::Creating | Status::Running | Status::Stopped) => {
            Err(FrontError::State(format!("container {} is {}, not created", place.id, other.name())))
        }
    }
}

/// Starts it with its hooks; when one fails the container is removed, as the runtime specification says.
fn begin(place: &Place, record: &Record) -> Result<(), FrontError> {
    let Some(hooks) = record.hooks()? else { return place.start(Duration::ZERO) };
    let started = place.start(hooks.time_to_start()).and_then(|()| {
        let pid = Pid::from_raw(record.pid).ok_or(StartError::NotWaiting)?;
        Ok(hooks.run_poststart(pid).map_err(StartError::from)?)
    });
    if let Err(FrontError::Start(StartError::Hook(_))) = &started {
        destroy(place, record)?;
    }
    started
}

/// Ends what is left of the container, and removes it.
fn destroy(place: &Place, record: &Record) -> Result<(), FrontError> {
    if let Some(process) = record.process()? {
        pidfd::send_signal(&process, rustix::process::Signal::KILL)
            .map_err(FrontError::errno("kill the container"))?;
        if !pidfd::ended_within(&process, KILL_LIMIT).map_err(FrontError::errno("wait for the container"))? {
            return Err(FrontError::State(format!("container {} does not end", place.id)));
        }
    }
    crate::delete(&record.cgroup(&cgroup::Mounts::detect()?)?)?;
    place.remove()?;
    let failed = record.hooks()?.map_or_else(Vec::new, |hooks| hooks.run_poststop());
    failed.iter().for_each(|error| super::warn(&error.to_string()));
    Ok(())
}

pub(crate) fn run(args: Arguments, root: &Path) -> Result<u8, FrontError> {
    let making = Making::parse(args, root, true)?;
    let signals = (!making.detach)
        .then(|| SignalFd::block(&FORWARDED))
        .transpose()
        .map_err(FrontError::io("take the signals"))?;
    let mut created = making.create(|_| Ok(Gate::Creator))?;
    let started = created.start();
    if let (Ok(()), None) = (&started, &signals) {
        return Ok(0);
    }
    let code = match (&started, signals) {
        (Ok(()), Some(signals)) => forward(&created.pidfd, &signals)?,
        (Ok(()) | Err(_), _) => {
            // It ends by itself after a failed exec.
            pidfd::wait(&created.pidfd).map_err(FrontError::errno("reap the process"))?.code()
        }
    };
    if !making.keep || started.is_err() {
        crate::delete(&created.cgroup)?;
        making.place.remove()?;
        created.removed().iter().for_each(|error| super::warn(&error.to_string()));
    }
    started?;
    Ok(u8::try_from(code).unwrap_or(255))
}

/// Waits for the process and passes signals on to it.
fn forward(process: &OwnedFd, signals: &SignalFd) -> Result<i32, FrontError> {
    loop {
        let mut polled = [PollFd::new(process, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        rustix::io::retry_on_intr(|| poll(&mut polled, None)).map_err(FrontError::errno("poll"))?;
        while let Some(number) = signals.take().map_err(FrontError::io("read the signals"))? {
            if let Some(signal) = signalfd::by_number(number) {
                pidfd::send_signal(process, signal).map_err(FrontError::errno("pass a signal on"))?;
            }
        }
        if let Some(exit) = pidfd::try_wait(process).map_err(FrontError::errno("reap the process"))? {
            return Ok(exit.code());
        }
    }
}

pub(crate) fn kill(mut args: Arguments, root: &Path) -> Result<u8, FrontError> {
    let mut all = false;
    while let Some(option) = args.next_option() {
        match option.as_str() {
            "--all" | "-a" => all = true,
            other => return Err(not_supported(other)),
        }
    }
    let place = Place::new(root, &args.word("a container id")?)?;
    let signal = args.optional().unwrap_or_else(|| "SIGTERM".to_owned());
    args.end()?;
    let number =
        types::signal::Signal::parse(&signal).map_err(|error| FrontError::Usage(error.to_string()))?.number();
    let signal =
        signalfd::by_number(number).ok_or_else(|| FrontError::Usage(format!("{number} is no signal")))?;
    let record = place.load()?;
    if all {
        for pid in
            record.cgroup(&cgroup::Mounts::detect()?)?.processes()?.into_iter().filter_map(Pid::from_raw)
        {
            let Ok(process) = pidfd::open(pid) else { continue };
            pidfd::send_signal(&process, signal).map_err(FrontError::errno(format!("signal {pid:?}")))?;
        }
        return Ok(0);
    }
    let process = record
        .process()?
        .ok_or_else(|| FrontError::State(format!("container {} is not running", place.id)))?;
    pidfd::send_signal(&process, signal).map_err(FrontError::errno("signal the container"))?;
    Ok(0)
}

pub(crate) fn delete(mut args: Arguments, root: &Path) -> Result<u8, FrontError> {
    let mut force = false;
    while let Some(option) = args.next_option() {
        match option.as_str() {
            "--force" | "-f" => force = true,
            other => return Err(not_supported(other)),
        }
    }
    let place = Place::new(root, &args.word("a container id")?)?;
    args.end()?;
    let record = match place.load() {
        Ok(record) => record,
        // A crash before the first record leaves an empty directory.
        Err(FrontError::State(_)) if force => return place.remove().map(|()| 0),
        Err(error) => return Err(error),
    };
    let status = place.status(&record)?;
    if !force && status == Status::Running {
        return Err(FrontError::State(format!("container {} is {}", place.id, status.name())));
    }
    destroy(&place, &record)?;
    Ok(0)
}

/// Options of exec.
#[derive(Default)]
struct Executing {
    process: Option<PathBuf>,
    tty: bool,
    detach: bool,
    cwd: Option<String>,
    env: Vec<String>,
    user: Option<String>,
    pid_file: Option<PathBuf>,
    console: Option<PathBuf>,
}

impl Executing {
    fn parse(args: &mut Arguments) -> Result<Self, FrontError> {
        let mut found = Executing::default();
        while let Some(option) = args.next_option() {
            match option.as_str() {
                "--process" | "-p" => found.process = Some(args.value(&option)?.into()),
                "--tty" | "-t" => found.tty = true,
                "--detach" | "-d" => found.detach = true,
                "--cwd" => found.cwd = Some(args.value(&option)?),
                "--env" | "-e" => found.env.push(args.value(&option)?),
                "--user" | "-u" => found.user = Some(args.value(&option)?),
                "--pid-file" => found.pid_file = Some(args.value(&option)?.into()),
                "--console-socket" => found.console = Some(args.value(&option)?.into()),
                other => return Err(not_supported(other)),
            }
        }
        Ok(found)
    }

    /// The container's own process with what was asked for changed, or that of `--process` as it is.
    fn process(&self, container: &Process, command: Vec<String>) -> Result<Process, FrontError> {
        if let Some(path) = &self.process {
            let file =
                std::fs::File::open(path).map_err(FrontError::io(format!("open {}", path.display())))?;
            let mut process: serde_json::Value = store::parse(file, path)?;
            // runc takes a missing user for root.
            if let Some(fields) = process.as_object_mut() {
                fields.entry("user").or_insert_with(|| serde_json::json!({ "uid": 0, "gid": 0 }));
            }
            return serde_json::from_value(process)
                .map_err(|source| FrontError::Json { what: format!("parse {}", path.display()), source });
        }
        let mut process = container.clone();
        process.set_args(Some(command)).set_terminal(Some(self.tty));
        if let Some(cwd) = &self.cwd {
            process.set_cwd(cwd.into());
        }
        process.env_mut().get_or_insert_default().extend(self.env.iter().cloned());
        if let Some(text) = &self.user {
            let number = |text: &str| {
                let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                text.parse::<u32>()
                    .ok()
                    .filter(|_| digits)
                    .ok_or_else(|| FrontError::Usage(format!("--user `{text}` is no number")))
            };
            let (uid, gid) =
                text.split_once(':').map_or((text.as_str(), None), |(uid, gid)| (uid, Some(gid)));
            let mut user = process.user().clone();
            user.set_uid(number(uid)?);
            if let Some(gid) = gid {
                user.set_gid(number(gid)?);
            }
            process.set_user(user);
        }
        Ok(process)
    }
}

pub(crate) fn exec(mut args: Arguments, root: &Path) -> Result<u8, FrontError> {
    let asked = Executing::parse(&mut args)?;
    let place = Place::new(root, &args.word("a container id")?)?;
    let record = place.load()?;
    let status = place.status(&record)?;
    // As with runc, also in one that waits for its start.
    let (Status::Running | Status::Created, Some(container)) = (status, record.process()?) else {
        return Err(FrontError::State(format!("container {} is {}, not running", place.id, status.name())));
    };
    let own = record
        .config
        .process()
        .as_ref()
        .ok_or_else(|| FrontError::State("the container has no process".to_owned()))?;
    let process = asked.process(own, args.rest())?;
    let console = asked.console.as_deref().map(console::connect).transpose()?;
    let stdio = stdio(process.terminal().unwrap_or(false), console.is_some())?;
    let signals = (!asked.detach)
        .then(|| SignalFd::block(&FORWARDED))
        .transpose()
        .map_err(FrontError::io("take the signals"))?;
    let cgroups = cgroup::Mounts::detect()?;
    let execed = crate::exec(ExecRequest {
        container: container.as_fd(),
        spec: &record.config,
        process: &process,
        stdio,
        cgroup: &record.cgroup(&cgroups)?,
        seccomp_cache: Some(&root.join(".seccomp")),
    })?;
    let sent = match (&console, &execed.terminal) {
        (Some(socket), Some(terminal)) => console::send(socket, terminal),
        (Some(_) | None, _) => Ok(()),
    };
    if let Err(error) = sent.and_then(|()| write_pid(asked.pid_file.as_deref(), execed.pid)) {
        // Nobody would ever find it again. One that has ended by itself is no error.
        let _ = pidfd::send_signal(&execed.pidfd, rustix::process::Signal::KILL);
        pidfd::wait(&execed.pidfd).map_err(FrontError::errno("reap the process"))?;
        return Err(error);
    }
    match signals {
        None => Ok(0),
        Some(signals) => Ok(u8::try_from(forward(&execed.pidfd, &signals)?).unwrap_or(255)),
    }
}
