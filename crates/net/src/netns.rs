//! The namespaces of a pod, made on a thread of their own and pinned by bind mounts.
//!
//! `S/ns` is a private, unbindable tmpfs, so that no other mount namespace gets copies of the pins by
//! propagation. `S/ns/<pod>/{net,ipc,uts}` and, where a pod has one, `user` hold the namespaces: no process has to. Dropping a pin is
//! dropping the namespace; with the network namespace the kernel removes its links by itself.

use crate::{
    rtnl,
    session::{Refusal, Session},
    sysctl::{self, SysctlError},
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};
use sys::{
    netlink::Subsystem,
    rustix::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        fs::{self, AtFlags, CWD, Dir, Mode, OFlags, StatxAttributes, StatxFlags},
        io::Errno,
        mount::{self, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags},
        system,
        thread::{LinkNameSpaceType, UnshareFlags},
    },
};
use types::{
    PodId,
    pod::{NsMode, PodSpec, UserMapping},
};

/// `NSFS_MAGIC`, linux/magic.h.
const NSFS: u64 = 0x6e73_6673;
/// `TMPFS_MAGIC`
const TMPFS: u64 = 0x0102_1994;
/// Linux' `__NEW_UTS_LEN`.
const LONGEST_HOSTNAME: usize = 64;
/// A pin on top of a pin comes of a crash in the middle; more than a few come of nothing of ours.
const MOST_STACKED: usize = 16;

/// Why the namespaces of a pod could not be made, found or dropped.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// A step of the kernel's failed.
    #[error("{step}")]
    Step {
        /// What was tried.
        step: String,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// A step with netlink failed.
    #[error("cannot bring the pod's loopback up")]
    Loopback(#[source] Refusal),
    /// A sysctl cannot be set.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// The host name does not fit.
    #[error("hostname: {0} bytes, at most {LONGEST_HOSTNAME} are taken")]
    Hostname(usize),
    /// There is a file where a pin should be.
    #[error("`{0}` is not a pinned namespace")]
    NotPinned(PathBuf),
    /// Something else is mounted at `S/ns`.
    #[error("`{0}` is a mount of something else than the pins")]
    Foreign(PathBuf),
    /// The thread that makes namespaces died.
    #[error("the thread that makes a pod's namespaces ended without an answer")]
    Died,
}

fn step(what: impl Into<String>) -> impl FnOnce(Errno) -> NetnsError {
    let step = what.into();
    move |source| NetnsError::Step { step, source }
}

/// What a pod has of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NsRequest {
    /// A network namespace, with its loopback up.
    pub net: bool,
    /// An IPC namespace.
    pub ipc: bool,
    /// A UTS namespace, with that host name.
    pub uts: bool,
    /// Host name inside; empty = left as it is.
    pub hostname: String,
    /// Sysctls of these namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// A user namespace with this mapping, which owns the others.
    pub user: Option<UserMapping>,
}

impl NsRequest {
    /// What a pod asks for. The UTS namespace follows the network: a pod with the node's network has
    /// the node's name.
    #[must_use]
    pub fn of(pod: &PodSpec) -> Self {
        let net = pod.namespaces.network != NsMode::Node;
        Self {
            net,
            ipc: pod.namespaces.ipc != NsMode::Node,
            uts: net,
            hostname: pod.hostname.clone(),
            sysctls: pod.sysctls.clone(),
            user: pod.namespaces.user_mapping(),
        }
    }
}

/// Where the pins of a pod are; `None` = shared with the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodNamespaces {
    /// Of the network namespace.
    pub net: Option<PathBuf>,
    /// Of the IPC namespace.
    pub ipc: Option<PathBuf>,
    /// Of the UTS namespace.
    pub uts: Option<PathBuf>,
    /// Of the user namespace.
    pub user: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug)]
struct Kind {
    name: &'static str,
    flag: UnshareFlags,
}

const KINDS: [Kind; 3] = [
    Kind { name: "net", flag: UnshareFlags::NEWNET },
    Kind { name: "ipc", flag: UnshareFlags::NEWIPC },
    Kind { name: "uts", flag: UnshareFlags::NEWUTS },
];

/// The pin of a user namespace.
const USER: &str = "user";

/// `S/ns` with the pins of all pods.
#[derive(Clone, Debug)]
pub struct Pins(Arc<Place>);

#[derive(Debug)]
struct Place {
    path: PathBuf,
    dir: OwnedFd,
}

impl Pins {
    /// Takes `<state>/ns`, mounting it first if it is not; the state directory exists.
    ///
    /// # Errors
    /// [`NetnsError::Foreign`] if something else is mounted there, [`NetnsError::Step`].
    pub fn mount(state: &Path) -> Result<Self, NetnsError> {
        let path = state.join("ns");
        match fs::mkdir(&path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(step(format!("cannot make `{}`", path.display()))(e)),
        }
        if !is_mounted(&path)? {
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            mount::mount("peapod-ns", &path, "tmpfs", flags, c"mode=0700,size=4m")
                .map_err(step(format!("cannot mount `{}`", path.display())))?;
        }
        // Also after a crash between the two calls; unbindable implies private.
        mount::mount_change(&path, MountPropagationFlags::UNBINDABLE)
            .map_err(step(format!("cannot make `{}` unbindable", path.display())))?;
        let dir = open_dir(CWD, &path).map_err(step(format!("cannot open `{}`", path.display())))?;
        Ok(Self(Arc::new(Place { path, dir })))
    }

    /// Drops every pin and the mount itself. For a daemon that leaves the machine, not for one that
    /// restarts.
    ///
    /// # Errors
    /// [`NetnsError::Step`].
    pub fn unmount(self) -> Result<(), NetnsError> {
        let path = &self.0.path;
        let gone = mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        match gone {
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
            Err(e) => return Err(step(format!("cannot unmount `{}`", path.display()))(e)),
        }
        match fs::rmdir(path) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(step(format!("cannot remove `{}`", path.display()))(e)),
        }
    }

    fn pod_path(&self, pod: &PodId) -> PathBuf {
        self.0.path.join(pod.short())
    }

    /// Makes a pod's namespaces and pins them; what an earlier try left of this pod is replaced.
    /// Sysctls that name `eth0` are left for [`Pins::write_late_sysctls`].
    ///
    /// # Errors
    /// [`NetnsError`]; then nothing of the pod is pinned.
    pub async fn make(&self, pod: &PodId, request: NsRequest) -> Result<PodNamespaces, NetnsError> {
        let (pins, pod) = (self.clone(), pod.clone());
        // The thread ends with its namespaces: it is never used for anything else.
        on_thread(move || pins.make_here(&pod, &request)).await
    }

    /// Writes the sysctls that name the pod's interface, once the network is attached.
    ///
    /// # Errors
    /// [`NetnsError::Sysctl`], [`NetnsError::NotPinned`].
    pub async fn write_late_sysctls(
        &self,
        pod: &PodId,
        sysctls: BTreeMap<String, String>,
    ) -> Result<(), NetnsError> {
        if !sysctl::any_late(&sysctls) {
            return Ok(());
        }
        let path = self.pod_path(pod).join("net");
        on_thread(move || {
            sys::namespace::join(open_netns(&path)?, LinkNameSpaceType::Network)
                .map_err(step("cannot join the pod's network namespace"))?;
            Ok(sysctl::write_late(&sysctls)?)
        })
        .await
    }

    fn make_here(&self, pod: &PodId, request: &NsRequest) -> Result<PodNamespaces, NetnsError> {
        sysctl::check_all(&request.sysctls, request.net, request.ipc)?;
        if request.uts && request.hostname.len() > LONGEST_HOSTNAME {
            return Err(NetnsError::Hostname(request.hostname.len()));
        }
        self.drop_pod(pod)?;
        let made = self.unshare_and_pin(pod, request);
        if made.is_err() {
            let _ = self.drop_pod(pod); // the first error is the one to tell; a retry drops again
        }
        made
    }

    fn unshare_and_pin(&self, pod: &PodId, request: &NsRequest) -> Result<PodNamespaces, NetnsError> {
        let asked: Vec<Kind> = KINDS.into_iter().filter(|kind| request.has(kind.flag)).collect();
        let flags = asked.iter().fold(UnshareFlags::empty(), |all, kind| all | kind.flag);
        let user = match &request.user {
            None => {
                sys::namespace::unshare(flags).map_err(step("cannot make the pod's namespaces"))?;
                None
            }
            Some(mapping) => Some(enter_owned(mapping, flags)?),
        };
        if request.uts && !request.hostname.is_empty() {
            system::sethostname(request.hostname.as_bytes()).map_err(step("cannot set the hostname"))?;
        }
        if request.net {
            let mut session =
                Session::open(Subsystem::Route).map_err(step("cannot open a netlink socket in the pod"))?;
            rtnl::loopback_up(&mut session).map_err(NetnsError::Loopback)?;
        }
        let owner = request.user.map(|mapping| mapping.first_uid);
        sysctl::write_early(&request.sysctls, request.net, owner)?;
        if asked.is_empty() && user.is_none() {
            return Ok(PodNamespaces::default());
        }
        let dir = self.pod_dir(pod)?;
        if let Some(user) = &user {
            pin_it(dir.as_fd(), USER, user.as_fd(), "")?;
        }
        for kind in &asked {
            pin(dir.as_fd(), kind.name)?;
        }
        self.find(pod)
    }

    fn pod_dir(&self, pod: &PodId) -> Result<OwnedFd, NetnsError> {
        let made = fs::mkdirat(&self.0.dir, pod.short(), Mode::RWXU);
        match made {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(step("cannot make the directory of the pod's pins")(e)),
        }
        open_dir(self.0.dir.as_fd(), pod.short()).map_err(step("cannot open the directory of the pod's pins"))
    }

    /// The pins that a pod has.
    ///
    /// # Errors
    /// [`NetnsError::NotPinned`] for a file that pins nothing, [`NetnsError::Step`].
    pub fn find(&self, pod: &PodId) -> Result<PodNamespaces, NetnsError> {
        let pinned = |name: &str| {
            let path = self.pod_path(pod).join(name);
            match open_netns(&path) {
                Ok(_) => Ok(Some(path)),
                Err(NetnsError::Step { source: Errno::NOENT, .. }) => Ok(None),
                Err(e) => Err(e),
            }
        };
        Ok(PodNamespaces {
            net: pinned("net")?,
            ipc: pinned("ipc")?,
            uts: pinned("uts")?,
            user: pinned(USER)?,
        })
    }

    /// Drops a pod's pins; nothing to drop is fine.
    ///
    /// # Errors
    /// [`NetnsError::Step`].
    pub fn drop_pod(&self, pod: &PodId) -> Result<(), NetnsError> {
        self.drop_named(pod.short())
    }

    fn drop_named(&self, short: &str) -> Result<(), NetnsError> {
        let dir = match open_dir(self.0.dir.as_fd(), short) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Ok(()),
            Err(e) => return Err(step("cannot open the directory of the pod's pins")(e)),
        };
        for name in KINDS.iter().map(|kind| kind.name).chain([USER]) {
            unpin(dir.as_fd(), name)?;
        }
        match fs::unlinkat(&self.0.dir, short, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(step("cannot remove the directory of the pod's pins")(e)),
        }
    }

    /// Drops the pins of every pod that is not among the living; says how many it dropped.
    ///
    /// # Errors
    /// [`NetnsError::Step`].
    pub fn gc(&self, living: &[PodId]) -> Result<usize, NetnsError> {
        let mut dropped = 0;
        for name in self.names()? {
            if !living.iter().any(|pod| pod.short() == name) {
                self.drop_named(&name)?;
                dropped += 1;
            }
        }
        Ok(dropped)
    }

    fn names(&self) -> Result<Vec<String>, NetnsError> {
        let read = || -> Result<Vec<String>, Errno> {
            let mut names = Vec::new();
            for entry in Dir::read_from(&self.0.dir)? {
                let name = entry?.file_name().to_string_lossy().into_owned();
                if name != "." && name != ".." {
                    names.push(name);
                }
            }
            Ok(names)
        };
        read().map_err(step("cannot list the pins"))
    }
}

impl NsRequest {
    fn has(&self, flag: UnshareFlags) -> bool {
        (flag == UnshareFlags::NEWNET && self.net)
            || (flag == UnshareFlags::NEWIPC && self.ipc)
            || (flag == UnshareFlags::NEWUTS && self.uts)
    }
}

/// Runs `work` on a thread of its own, whose namespaces it may change.
async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NetnsError> + Send + 'static,
) -> Result<T, NetnsError> {
    let (tell, told) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("pod-namespaces".to_owned())
        .spawn(move || {
            let _ = tell.send(work()); // the caller may have left; the work stands
        })
        .map_err(|e| step("cannot start a thread")(Errno::from_io_error(&e).unwrap_or(Errno::AGAIN)))?;
    told.await.map_err(|_| NetnsError::Died)?
}

fn open_dir(at: BorrowedFd<'_>, path: impl sys::rustix::path::Arg) -> Result<OwnedFd, Errno> {
    fs::openat(at, path, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

fn is_mounted(path: &Path) -> Result<bool, NetnsError> {
    let failed = || step(format!("cannot look at `{}`", path.display()));
    let fd = fs::openat(
        CWD,
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(failed())?;
    let stat = fs::statx(&fd, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS).map_err(failed())?;
    if !stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        return Ok(false);
    }
    let kind = fs::fstatfs(&fd).map_err(failed())?.f_type.cast_unsigned();
    if kind == TMPFS { Ok(true) } else { Err(NetnsError::Foreign(path.to_owned())) }
}

/// Makes a user namespace that owns namespaces of these kinds, and joins those: this thread stays in its own user
/// namespace, which no thread of many can leave, and has the host's rights over them.
fn enter_owned(mapping: &UserMapping, kinds: UnshareFlags) -> Result<OwnedFd, NetnsError> {
    let line = |outside| [sys::userns::Line { inside: 0, outside, length: mapping.length }];
    let made = sys::userns::with_namespaces(&line(mapping.first_uid), &line(mapping.first_gid), kinds)
        .map_err(step("cannot make the pod's user namespace"))?;
    for (namespace, kind) in [
        (&made.net, LinkNameSpaceType::Network),
        (&made.ipc, LinkNameSpaceType::InterProcessCommunication),
        (&made.uts, LinkNameSpaceType::HostNameAndNISDomainName),
    ] {
        if let Some(namespace) = namespace {
            sys::namespace::join(namespace, kind).map_err(step("cannot join the pod's namespaces"))?;
        }
    }
    Ok(made.user)
}

/// Pins the calling thread's namespace of that kind.
fn pin(dir: BorrowedFd<'_>, name: &str) -> Result<(), NetnsError> {
    pin_it(dir, name, CWD, &format!("/proc/thread-self/ns/{name}"))
}

/// Pins the namespace that `path` beneath `at` leads to; an empty path stands for `at` itself.
fn pin_it(dir: BorrowedFd<'_>, name: &str, at: BorrowedFd<'_>, path: &str) -> Result<(), NetnsError> {
    let failed = |what: &str| step(format!("cannot {what} the pod's {name} namespace"));
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let file = fs::openat(dir, name, flags, Mode::RUSR).map_err(failed("make a file to pin"))?;
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_EMPTY_PATH, path.is_empty());
    let tree = mount::open_tree(at, path, flags).map_err(failed("hold"))?;
    let whole = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    mount::move_mount(&tree, "", &file, "", whole).map_err(failed("pin"))
}

fn unpin(dir: BorrowedFd<'_>, name: &str) -> Result<(), NetnsError> {
    let path = format!("/proc/self/fd/{}/{name}", dir.as_raw_fd());
    for _ in 0..MOST_STACKED {
        match mount::unmount(path.as_str(), UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => break, // no mount (any more), no file
            Err(e) => return Err(step(format!("cannot drop the pod's {name} namespace"))(e)),
        }
    }
    match fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(step(format!("cannot remove the pin `{name}`"))(e)),
    }
}

/// Opens a pinned namespace and makes sure that it is one.
pub(crate) fn open_netns(path: &Path) -> Result<OwnedFd, NetnsError> {
    let failed = || step(format!("cannot open the namespace `{}`", path.display()));
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let fd = fs::openat(CWD, path, flags, Mode::empty()).map_err(failed())?;
    let kind = fs::fstatfs(&fd).map_err(failed())?.f_type.cast_unsigned();
    if kind == NSFS { Ok(fd) } else { Err(NetnsError::NotPinned(path.to_owned())) }
}
