//! What `peapod run` keeps on the disk: volumes, termination messages, logs.
//!
//! ```text
//! /var/lib/peapod-run/lock                    one `run` or `rm` at a time makes or sweeps
//! /var/lib/peapod-run/<uid>/                  locked (flock(2)) as long as a `run` looks after the pod
//!     owner                                   the socket of the daemon that has the pod
//!     stopping                                `stop` or `rm` is at it: restart nothing
//!     volumes/<name>  containers/<name>/<n>   emptyDirs; termination messages of attempt n
//! /var/log/peapod/pods/<namespace>_<name>_<uid>/<container>/<n>.log
//! ```
//!
//! Everything of a pod follows from its uid, so that whatever a killed program left can be found: a directory
//! whose pod its daemon does not know, and that nobody holds locked, is an orphan.

// Uids come from the daemon too, where other clients name pods as they like: no path may come of one
// that was not looked at.
use super::super::manifest::{HostPathKind, Pod, Volume, VolumeSource, is_uid};
use anyhow::{Context as _, bail};
use std::{
    collections::BTreeSet,
    ffi::{CString, OsStr},
    fs::{self, DirBuilder, File, Permissions},
    io::{self, ErrorKind, Read as _},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown},
    },
    path::{Path, PathBuf},
};
use sys::rustix::{
    fs::Mode,
    mount::{UnmountFlags, unmount},
};

/// Where things are kept. Two daemons may share these: each directory knows whose it is.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Places {
    /// Where emptyDir volumes of `peapod run` are
    #[arg(long, value_name = "DIR", default_value = "/var/lib/peapod-run", hide_short_help = true)]
    run_dir: PathBuf,
    /// Where logs of `peapod run` are
    #[arg(long, value_name = "DIR", default_value = "/var/log/peapod/pods", hide_short_help = true)]
    pod_logs_dir: PathBuf,
}

/// The directories of one pod.
#[derive(Clone, Debug)]
pub(crate) struct PodPlaces {
    pub(crate) home: PathBuf,
    pub(crate) logs: PathBuf,
}

/// Held while pods are made or swept.
#[derive(Debug)]
pub(crate) struct Claim {
    /// Closing it gives the lock back.
    _lock: File,
}

/// Held while a `run` looks after its pod.
#[derive(Debug)]
pub(crate) struct Hold {
    _lock: File,
}

impl PodPlaces {
    pub(crate) fn volume(&self, name: &str) -> PathBuf {
        self.home.join("volumes").join(name)
    }

    pub(crate) fn termination(&self, container: &str, attempt: u32) -> PathBuf {
        self.home.join("containers").join(container).join(attempt.to_string())
    }

    pub(crate) fn log(&self, container: &str, attempt: u32) -> PathBuf {
        self.logs.join(container).join(format!("{attempt}.log"))
    }

    /// Makes what an attempt of a container needs: its log directory, an empty termination message.
    pub(crate) fn prepare(&self, container: &str, attempt: u32) -> anyhow::Result<()> {
        let logs = self.logs.join(container);
        make_all(&logs, 0o755).with_context(|| format!("cannot make {}", logs.display()))?;
        let message = self.termination(container, attempt);
        let made = || -> io::Result<()> {
            if let Some(dir) = message.parent() {
                make_all(dir, 0o700)?;
            }
            let file = File::options().write(true).create(true).truncate(true).open(&message)?;
            // Any user of the container may write it.
            file.set_permissions(Permissions::from_mode(0o666))
        };
        made().with_context(|| format!("cannot make {}", message.display()))
    }

    /// What the container had to say about its end; Kubernetes keeps 4096 bytes.
    pub(crate) fn termination_message(&self, container: &str, attempt: u32) -> String {
        let mut bytes = Vec::new();
        // Nothing said and nothing readable come to the same.
        let _ = File::open(self.termination(container, attempt))
            .and_then(|f| f.take(4096).read_to_end(&mut bytes));
        String::from_utf8_lossy(&bytes).trim().to_owned()
    }

    /// Takes away what an attempt left that nobody asks for any more.
    pub(crate) fn forget(&self, container: &str, attempt: u32) {
        // What stays is swept with the pod.
        let _ = fs::remove_file(self.log(container, attempt));
        let _ = fs::remove_file(self.termination(container, attempt));
    }

    pub(crate) fn is_stopping(&self) -> bool {
        fs::symlink_metadata(self.home.join("stopping")).is_ok()
    }
}

impl Places {
    /// Waits until no other `run` or `rm` is at it.
    pub(crate) fn claim(&self) -> anyhow::Result<Claim> {
        let path = self.run_dir.join("lock");
        let lock = || -> io::Result<File> {
            loop {
                make_all(&self.run_dir, 0o700)?;
                let file = match File::options().write(true).create(true).truncate(false).open(&path) {
                    // The one before us tidied up between our two steps.
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    file => file?,
                };
                file.lock()?;
                // Or it took the file away while we waited; then another may hold the new one.
                let identity = |m: fs::Metadata| (m.dev(), m.ino());
                if fs::metadata(&path).map(identity).ok() == Some(identity(file.metadata()?)) {
                    return Ok(file);
                }
            }
        };
        let _lock = lock().with_context(|| format!("cannot lock {}", self.run_dir.display()))?;
        Ok(Claim { _lock })
    }

    pub(crate) fn of(&self, pod: &Pod, uid: &str) -> PodPlaces {
        let logs = self.pod_logs_dir.join(format!("{}_{}_{uid}", pod.namespace, pod.name));
        PodPlaces { home: self.run_dir.join(uid), logs }
    }

    /// Makes the directory of a new pod of the daemon at `owner`, and its volumes.
    pub(crate) fn make(
        &self,
        _: &Claim,
        pod: &Pod,
        places: &PodPlaces,
        owner: &Path,
    ) -> anyhow::Result<Hold> {
        match DirBuilder::new().mode(0o700).create(&places.home) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                bail!("{} is in use: another pod has this metadata.uid", places.home.display())
            }
            made => made.with_context(|| format!("cannot make {}", places.home.display()))?,
        }
        let filled = fill(pod, places, owner);
        if filled.is_err() {
            // The error is told; what stays is swept by the next `run`.
            let _ = places.home.file_name().and_then(OsStr::to_str).map(|uid| self.remove(uid, owner));
        }
        filled
    }

    /// Whether a `run` looks after this pod right now.
    pub(crate) fn is_held(&self, uid: &str) -> bool {
        is_uid(uid) && File::open(self.run_dir.join(uid)).is_ok_and(|dir| dir.try_lock().is_err())
    }

    /// Tells the `run` that looks after this pod, if one does, to restart nothing.
    pub(crate) fn mark_stopping(&self, uid: &str, owner: &Path) {
        if is_uid(uid) && !self.is_another_daemons(uid, owner) {
            // A pod that `run` did not make has no directory.
            let _ = File::create(self.run_dir.join(uid).join("stopping"));
        }
    }

    /// Removes what a pod of the daemon at `owner` has here; its containers are gone.
    pub(crate) fn remove(&self, uid: &str, owner: &Path) -> anyhow::Result<()> {
        // Two daemons may each have a pod of one uid, where manifests say it.
        if !is_uid(uid) || self.is_another_daemons(uid, owner) {
            return Ok(());
        }
        let home = self.run_dir.join(uid);
        unmount_beneath(&home)?;
        // The directory goes last: by it the rest is found after a kill.
        for logs in entries(&self.pod_logs_dir)? {
            let of_uid =
                logs.to_str().and_then(|name| name.rsplit_once('_')).is_some_and(|(_, last)| last == uid);
            if of_uid {
                let logs = self.pod_logs_dir.join(logs);
                sys::tree::remove_path(&logs).with_context(|| format!("cannot remove {}", logs.display()))?;
            }
        }
        sys::tree::remove_path(&home).with_context(|| format!("cannot remove {}", home.display()))
    }

    /// Whether this uid's directory says that its pod is another daemon's. One that does not say was left by a
    /// `run` that was killed before it asked any daemon for anything.
    fn is_another_daemons(&self, uid: &str, owner: &Path) -> bool {
        match fs::read(self.run_dir.join(uid).join("owner")) {
            Ok(text) => text != owner.as_os_str().as_bytes(),
            Err(error) => error.kind() != ErrorKind::NotFound,
        }
    }

    /// Removes what pods left that the daemon at `owner` does not know, `known` being the uids of those it
    /// does. To be asked for while the claim is held, so that no pod is just being made.
    pub(crate) fn sweep(&self, _: &Claim, owner: &Path, known: &BTreeSet<String>) -> anyhow::Result<()> {
        for name in entries(&self.run_dir)? {
            let Some(uid) = name.to_str().filter(|name| is_uid(name) && *name != "lock") else { continue };
            if known.contains(uid) || self.is_held(uid) {
                continue;
            }
            self.remove(uid, owner)?;
        }
        Ok(())
    }

    /// Leaves no empty directory behind once the last pod is gone.
    pub(crate) fn tidy(&self, claim: Claim) {
        let others = entries(&self.run_dir).is_ok_and(|names| names.iter().any(|name| name != "lock"));
        if !others {
            // Whoever waits for the lock sees that the file has lost its name, and makes it anew.
            let _ = fs::remove_file(self.run_dir.join("lock"));
            let _ = fs::remove_dir(&self.run_dir);
            let _ = fs::remove_dir(&self.pod_logs_dir);
            if let Some(parent) = self.pod_logs_dir.parent().filter(|parent| parent.ends_with("peapod")) {
                let _ = fs::remove_dir(parent);
            }
        }
        drop(claim);
    }
}

/// Checks a path of the host as its type asks, and makes what it may make.
pub(crate) fn check_host_path(path: &Path, kind: HostPathKind) -> anyhow::Result<()> {
    let found = match fs::metadata(path) {
        Ok(metadata) => Some(metadata.file_type()),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("cannot look at {}", path.display())),
    };
    let fine = match (kind, found) {
        (HostPathKind::Any, Some(_)) => return Ok(()),
        (HostPathKind::DirectoryOrCreate, None) => {
            return make_all(path, 0o755).with_context(|| format!("cannot make {}", path.display()));
        }
        (HostPathKind::FileOrCreate, None) => {
            File::create_new(path).with_context(|| format!("cannot make {}", path.display()))?;
            return Ok(());
        }
        (_, None) => bail!("{} is not there", path.display()),
        (HostPathKind::DirectoryOrCreate | HostPathKind::Directory, Some(found)) => found.is_dir(),
        (HostPathKind::FileOrCreate | HostPathKind::File, Some(found)) => found.is_file(),
        (HostPathKind::Socket, Some(found)) => found.is_socket(),
        (HostPathKind::CharDevice, Some(found)) => found.is_char_device(),
        (HostPathKind::BlockDevice, Some(found)) => found.is_block_device(),
    };
    if fine { Ok(()) } else { bail!("{} is no {kind:?}", path.display()) }
}

fn fill(pod: &Pod, places: &PodPlaces, owner: &Path) -> anyhow::Result<Hold> {
    let lock = File::open(&places.home)?;
    lock.lock()?;
    let mode = Mode::from_raw_mode(0o600);
    sys::file::replace_path(&places.home.join("owner"), owner.as_os_str().as_bytes(), mode)?;
    make_all(&places.logs, 0o755).with_context(|| format!("cannot make {}", places.logs.display()))?;
    for volume in &pod.volumes {
        make_volume(places, volume, pod.security.fs_group)
            .with_context(|| format!("cannot make volume {}", volume.name))?;
    }
    Ok(Hold { _lock: lock })
}

fn make_volume(places: &PodPlaces, volume: &Volume, fs_group: Option<i64>) -> anyhow::Result<()> {
    let limit = match &volume.source {
        VolumeSource::HostPath { path, kind } => return check_host_path(path, *kind),
        VolumeSource::EmptyDir => None,
        VolumeSource::Memory { limit } => Some(*limit),
    };
    let dir = places.volume(&volume.name);
    make_all(&dir, 0o700)?;
    if let Some(limit) = limit {
        let options = limit.map_or_else(String::new, |bytes| format!("size={bytes}"));
        let target = CString::new(dir.as_os_str().as_bytes())?;
        sys::mount::mount(c"tmpfs", &target, c"tmpfs", 0, &CString::new(options)?)?;
    }
    // Open to every user of the containers, as the kubelet makes it, whatever our umask.
    let mut mode = 0o777;
    if let Some(group) = fs_group {
        chown(&dir, None, Some(u32::try_from(group)?))?;
        mode |= 0o2000;
    }
    Ok(fs::set_permissions(&dir, Permissions::from_mode(mode))?)
}

/// Takes off every mount beneath a directory, the innermost first: emptyDirs in memory, and what a container
/// with Bidirectional propagation left.
fn unmount_beneath(dir: &Path) -> anyhow::Result<()> {
    let table = fs::read("/proc/self/mountinfo").context("cannot read the mount table")?;
    let points =
        table.split(|b| *b == b'\n').filter_map(|line| line.split(|b| *b == b' ').nth(4)).map(unescape);
    let beneath: Vec<PathBuf> = points.filter(|point| point.starts_with(dir)).collect();
    for point in beneath.iter().rev() {
        // DETACH: somebody's shell in there must not keep the pod.
        unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
            .with_context(|| format!("cannot unmount {}", point.display()))?;
    }
    Ok(())
}

/// A path of mountinfo, proc(5): space, tab, newline and backslash are octal.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok();
        match (*first == b'\\').then(|| tail.get(..3).and_then(octal)).flatten() {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsStr::from_bytes(&bytes))
}

/// mkdir(2) with all parents; one that is there is fine.
fn make_all(dir: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(dir)
}

/// The names in a directory; none if it is not there.
fn entries(dir: &Path) -> anyhow::Result<Vec<std::ffi::OsString>> {
    let read = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.with_context(|| format!("cannot list {}", dir.display()))?,
    };
    read.map(|entry| Ok(entry?.file_name())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::manifest::parse;

    /// Directories of a test, gone with what is mounted in them.
    pub(crate) struct Scratch {
        top: PathBuf,
        pub(crate) places: Places,
    }

    impl Scratch {
        fn new(name: &str) -> Self {
            let top = std::env::temp_dir().join(format!("peapod-test-{}-places-{name}", std::process::id()));
            fs::create_dir(&top).expect("mkdir");
            let places = Places { run_dir: top.join("run"), pod_logs_dir: top.join("log/peapod/pods") };
            Scratch { top, places }
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            unmount_beneath(&self.top).expect("unmount");
            sys::tree::remove_path(&self.top).expect("remove");
        }
    }

    fn pod() -> Pod {
        parse(
            "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {securityContext: {fsGroup: 77}, \
             containers: [{name: c, image: i}], volumes: [{name: disk}, \
             {name: mem, emptyDir: {medium: Memory, sizeLimit: 1Mi}}]}}",
        )
        .expect("a manifest")
    }

    const OWNER: &str = "/run/a.sock";

    fn made(scratch: &Scratch, uid: &str) -> (PodPlaces, Hold) {
        let claim = scratch.places.claim().expect("claim");
        let places = scratch.places.of(&pod(), uid);
        let hold = scratch.places.make(&claim, &pod(), &places, Path::new(OWNER)).expect("made");
        places.prepare("c", 0).expect("prepared");
        (places, hold)
    }

    fn sweep(scratch: &Scratch, owner: &str, known: &[&str]) {
        let claim = scratch.places.claim().expect("claim");
        let known = known.iter().map(|uid| (*uid).to_owned()).collect();
        scratch.places.sweep(&claim, Path::new(owner), &known).expect("sweep");
    }

    #[test]
    fn volumes_are_made_as_the_kubelet_makes_them_and_go_with_the_pod() {
        let scratch = Scratch::new("volumes");
        let (places, hold) = made(&scratch, "u1");
        for (name, is_tmpfs) in [("disk", false), ("mem", true)] {
            let metadata = fs::metadata(places.volume(name)).expect(name);
            assert_eq!((metadata.mode() & 0o7777, metadata.gid()), (0o2777, 77), "{name}");
            assert_eq!(metadata.dev() != fs::metadata(&scratch.top).expect("top").dev(), is_tmpfs, "{name}");
        }
        let space = sys::rustix::fs::statvfs(places.volume("mem")).expect("statvfs");
        assert_eq!(space.f_blocks * space.f_frsize, 1 << 20);
        assert_eq!(places.termination_message("c", 0), "");
        fs::OpenOptions::new().write(true).open(places.termination("c", 0)).expect("there");
        drop(hold);
        scratch.places.remove("u1", Path::new(OWNER)).expect("removed");
        assert_eq!(fs::metadata(&places.home).expect_err("gone").kind(), ErrorKind::NotFound);
        assert_eq!(fs::metadata(&places.logs).expect_err("gone").kind(), ErrorKind::NotFound);
        scratch.places.tidy(scratch.places.claim().expect("claim"));
        assert!(entries(&scratch.top).expect("list").iter().all(|name| name == "log"));
    }

    #[test]
    fn the_orphans_of_a_daemon_are_swept_and_nothing_else() {
        let scratch = Scratch::new("sweep");
        let (orphan, hold) = made(&scratch, "orphan");
        drop(hold);
        let (known, _) = made(&scratch, "known");
        let (held, _hold) = made(&scratch, "held");
        // Killed before it wrote whose it is.
        fs::create_dir(scratch.places.run_dir.join("half")).expect("mkdir");
        sweep(&scratch, "/run/other.sock", &[]);
        assert!(fs::metadata(&orphan.home).is_ok(), "another daemon's was swept");
        assert!(fs::metadata(scratch.places.run_dir.join("half")).is_err());
        sweep(&scratch, OWNER, &["known"]);
        assert!(fs::metadata(&orphan.home).is_err() && fs::metadata(&orphan.logs).is_err());
        assert!(fs::metadata(&known.home).is_ok() && fs::metadata(&held.home).is_ok());
        assert!(scratch.places.is_held("held") && !scratch.places.is_held("known"));
    }

    #[test]
    fn a_uid_that_is_taken_is_refused_and_a_uid_that_is_a_path_is_no_uid() {
        let scratch = Scratch::new("uid");
        let (places, _hold) = made(&scratch, "u1");
        let claim = scratch.places.claim().expect("claim");
        let error = scratch.places.make(&claim, &pod(), &places, Path::new(OWNER)).expect_err("taken");
        assert!(error.to_string().contains("another pod has this metadata.uid"), "{error}");
        for uid in ["../u1", "", ".", "u1/volumes"] {
            scratch.places.remove(uid, Path::new(OWNER)).expect("nothing is done");
        }
        // Another daemon's pod of the same uid.
        scratch.places.remove("u1", Path::new("/run/b.sock")).expect("nothing is done");
        scratch.places.mark_stopping("u1", Path::new("/run/b.sock"));
        assert!(fs::metadata(&places.home).is_ok() && !places.is_stopping());
        scratch.places.mark_stopping("u1", Path::new(OWNER));
        assert!(places.is_stopping());
    }

    #[test]
    fn a_host_path_must_be_of_its_type() {
        let scratch = Scratch::new("hostpath");
        let (dir, file) = (scratch.top.join("d/e"), scratch.top.join("f"));
        assert!(check_host_path(&dir, HostPathKind::Any).is_err());
        assert!(check_host_path(&dir, HostPathKind::Directory).is_err());
        check_host_path(&dir, HostPathKind::DirectoryOrCreate).expect("made");
        check_host_path(&dir, HostPathKind::Directory).expect("there");
        check_host_path(&dir, HostPathKind::Any).expect("there");
        check_host_path(&file, HostPathKind::FileOrCreate).expect("made");
        check_host_path(&file, HostPathKind::File).expect("there");
        for kind in [
            HostPathKind::Socket,
            HostPathKind::CharDevice,
            HostPathKind::BlockDevice,
            HostPathKind::Directory,
        ] {
            assert!(check_host_path(&file, kind).is_err(), "{kind:?}");
        }
        check_host_path(Path::new("/dev/zero"), HostPathKind::CharDevice).expect("a device");
        assert!(check_host_path(&dir, HostPathKind::File).is_err());
    }

    #[test]
    fn mount_points_with_spaces_are_read() {
        assert_eq!(unescape(br"/a\040b\134c"), Path::new(r"/a b\c"));
        assert_eq!(unescape(br"/a\04"), Path::new(r"/a\04"));
    }
}
