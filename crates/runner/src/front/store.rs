//! What the command line keeps of a container: `<root>/<id>/state.json`, and the socket through which it is
//! started.
//!
//! The record is written before the container is made, so that whatever a crash leaves can be deleted.

use super::FrontError;
use crate::{create::start_through, hooks::Hooks};
use cgroup::{Cgroup, CgroupPath};
use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};
use std::{
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    rc::Rc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use sys::{
    bounded::Bounded,
    pidfd,
    rustix::{
        fd::{AsRawFd, OwnedFd},
        fs::{self, Mode, OFlags},
        io::Errno,
        net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with},
        process::Pid,
    },
};

/// The most bytes of a record or a `config.json`.
pub(crate) const MOST_JSON: u64 = 64 << 20;

/// One container's record. Version 1; later fields get a `#[serde(default)]`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) version: u32,
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    pub(crate) created: String,
    /// 0 until the process is made.
    pub(crate) pid: i32,
    /// Field 22 of /proc/PID/stat: the number may be another process' later.
    pub(crate) start_time: u64,
    /// As parsed when it was created.
    pub(crate) config: Spec,
}

/// The states of the runtime specification, runtime.md "State".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Creating,
    Created,
    Running,
    Stopped,
}

impl Status {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Stopped => "stopped",
        }
    }
}

/// A container's directory.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) root: PathBuf,
    pub(crate) id: String,
}

impl Place {
    /// # Errors
    /// When the id could be a path, or something else than a name.
    pub(crate) fn new(root: &Path, id: &str) -> Result<Self, FrontError> {
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
        if id.is_empty() || id.len() > 255 || id == "." || id == ".." || !id.bytes().all(fine) {
            let shown: String = id.chars().take(80).flat_map(char::escape_default).collect();
            return Err(FrontError::Usage(format!(
                "`{shown}` is no container id: letters, digits and _+-. only"
            )));
        }
        Ok(Place { root: root.to_owned(), id: id.to_owned() })
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.root.join(&self.id)
    }

    fn file(&self) -> PathBuf {
        self.dir().join("state.json")
    }

    fn socket(&self) -> PathBuf {
        self.dir().join("start.sock")
    }

    /// Makes the directory; fails when the container exists.
    pub(crate) fn make(&self) -> Result<(), FrontError> {
        let mut builder = DirBuilder::new();
        builder.mode(0o700).recursive(true);
        builder.create(&self.root).map_err(FrontError::io(format!("make {}", self.root.display())))?;
        match builder.recursive(false).create(self.dir()) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                Err(FrontError::State(format!("container {} exists already", self.id)))
            }
            done => done.map_err(FrontError::io(format!("make {}", self.dir().display()))),
        }
    }

    pub(crate) fn save(&self, record: &Record) -> Result<(), FrontError> {
        let what = || format!("write {}", self.file().display());
        let bytes = serde_json::to_vec(record).map_err(|source| FrontError::Json { what: what(), source })?;
        sys::file::replace_path(&self.file(), &bytes, Mode::from_raw_mode(0o600))
            .map_err(FrontError::io(what()))
    }

    pub(crate) fn load(&self) -> Result<Record, FrontError> {
        match std::fs::File::open(self.file()) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(FrontError::State(format!("container {} does not exist", self.id)))
            }
            Err(error) => Err(FrontError::io(format!("open {}", self.file().display()))(error)),
            Ok(file) => parse(file, &self.file()),
        }
    }

    /// Removes the directory. It may be gone already.
    pub(crate) fn remove(&self) -> Result<(), FrontError> {
        sys::tree::remove_path(&self.dir())
            .map_err(FrontError::errno(format!("remove {}", self.dir().display())))
    }

    /// A socket on which the container waits for its start.
    pub(crate) fn listener(&self) -> Result<OwnedFd, FrontError> {
        let step = || FrontError::errno(format!("listen on {}", self.socket().display()));
        let dir = self.open()?;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(step())?;
        bind(&socket, &address(&dir).map_err(step())?).map_err(step())?;
        listen(&socket, 1).map_err(step())?;
        Ok(socket)
    }

    /// Starts the container and remembers it. `more`: the time that its hooks may take.
    pub(crate) fn start(&self, more: Duration) -> Result<(), FrontError> {
        let dir = self.open()?;
        start_through(Path::new(&format!("/proc/self/fd/{}/start.sock", dir.as_raw_fd())), more)?;
        self.forget_listener()
    }

    /// The container is started: nothing listens any more.
    pub(crate) fn forget_listener(&self) -> Result<(), FrontError> {
        match std::fs::remove_file(self.socket()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(FrontError::io(format!("remove {}", self.socket().display()))(error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    pub(crate) fn status(&self, record: &Record) -> Result<Status, FrontError> {
        if record.pid == 0 {
            return Ok(Status::Creating);
        }
        if record.process()?.is_none() {
            return Ok(Status::Stopped);
        }
        match std::fs::symlink_metadata(self.socket()) {
            Ok(_) => Ok(Status::Created),
            Err(_) => Ok(Status::Running),
        }
    }

    fn open(&self) -> Result<OwnedFd, FrontError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match fs::open(self.dir(), flags, Mode::empty()) {
            Err(Errno::NOENT) => Err(FrontError::State(format!("container {} does not exist", self.id))),
            done => done.map_err(FrontError::errno(format!("open {}", self.dir().display()))),
        }
    }
}

/// Through a descriptor: a path of more than 107 bytes is no address of a socket.
fn address(dir: &OwnedFd) -> Result<SocketAddrUnix, Errno> {
    SocketAddrUnix::new(format!("/proc/self/fd/{}/start.sock", dir.as_raw_fd()))
}

impl Record {
    /// The first process, if it lives.
    pub(crate) fn process(&self) -> Result<Option<OwnedFd>, FrontError> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(None) };
        let process = match pidfd::open(pid) {
            Ok(process) => process,
            Err(Errno::SRCH | Errno::INVAL) => return Ok(None),
            Err(errno) => return Err(FrontError::errno(format!("open process {}", self.pid))(errno)),
        };
        // Now that the descriptor holds the process its number cannot change hands.
        let lives = start_time(self.pid) == Some(self.start_time)
            && !pidfd::ended_within(&process, std::time::Duration::ZERO)
                .map_err(FrontError::errno("poll the process"))?;
        Ok(lives.then_some(process))
    }

    /// Its hooks, if it has any.
    pub(crate) fn hooks(&self) -> Result<Option<Rc<Hooks>>, FrontError> {
        Ok(Hooks::new(&self.config, &self.id, &self.bundle)?)
    }

    pub(crate) fn cgroup(&self, mounts: &cgroup::Mounts) -> Result<Cgroup, FrontError> {
        let path = self.config.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
        let path = path.and_then(Path::to_str).unwrap_or_default();
        Ok(Cgroup::at(mounts, &CgroupPath::parse(path)?))
    }
}

/// When a process was started, in clock ticks after boot; `None` when there is none.
pub(crate) fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, also parentheses and spaces.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Reads a bounded JSON file.
pub(crate) fn parse<T: serde::de::DeserializeOwned>(
    file: std::fs::File,
    path: &Path,
) -> Result<T, FrontError> {
    let bytes = Bounded::new(file, MOST_JSON)
        .read_all()
        .map_err(FrontError::io(format!("read {}", path.display())))?;
    serde_json::from_slice(&bytes)
        .map_err(|source| FrontError::Json { what: format!("parse {}", path.display()), source })
}

/// The present, RFC 3339 in UTC.
pub(crate) fn now() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    rfc3339(now.as_secs(), now.subsec_nanos())
}

/// Days to a date after Howard Hinnant's "chrono-Compatible Low-Level Date Algorithms", civil_from_days.
fn rfc3339(seconds: u64, nanos: u32) -> String {
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(rfc3339(0, 0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(rfc3339(951_782_400, 1), "2000-02-29T00:00:00.000000001Z");
        assert_eq!(rfc3339(1_767_225_599, 0), "2025-12-31T23:59:59.000000000Z");
    }

    #[test]
    fn an_id_that_could_be_a_path_is_refused() {
        for bad in ["", ".", "..", "a/b", "a\n", "ä", &"a".repeat(256)] {
            assert!(Place::new(Path::new("/r"), bad).is_err(), "{bad:?}");
        }
        assert_eq!(Place::new(Path::new("/r"), "a.b+c_d-1").expect("fine").dir(), Path::new("/r/a.b+c_d-1"));
    }

    #[test]
    fn the_own_process_has_a_start_time_and_no_process_has_none() {
        assert!(start_time(i32::try_from(std::process::id()).expect("pid")).is_some());
        assert_eq!(start_time(0), None);
    }
}
