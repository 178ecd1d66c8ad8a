//! The process that holds a pod's shared PID namespace: its process 1, which reaps what is left to it
//! and does nothing else. There is no pause image: it is a copy of this program that sees nothing.
//!
//! A container of that namespace that may trace processes can reach it (`/proc/1/root`, ptrace(2)),
//! so it has an empty read-only root, namespaces of its own, no capability and the user 65535.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;
use sys::clone::{Child, Clone};
use sys::rustix::fs::{Gid, Uid};
use sys::rustix::io::Errno;
use sys::rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, mount_remount, unmount,
};
use sys::rustix::process::{
    DumpableBehavior, Pid, Signal, WaitOptions, chdir, pivot_root, set_dumpable_behavior,
    set_parent_process_death_signal, wait,
};
use sys::rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use sys::rustix::thread::{
    UnshareFlags, set_name, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};
use sys::signalfd::SignalFd;

/// User and group of the process, those of Kubernetes' pause image.
const NOBODY: u32 = 65_535;

/// Starts it and waits until it is confined. It dies with the shim. `userns`: the pod's user namespace, if it has one
/// of its own, which then owns the PID namespace.
///
/// # Errors
/// The step that failed.
pub(crate) fn start(userns: Option<&Path>) -> io::Result<Pid> {
    let (mut reader, writer) = io::pipe()?;
    let flags = UnshareFlags::NEWPID | UnshareFlags::NEWNS | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    let flags = flags | UnshareFlags::NEWNET | UnshareFlags::NEWCGROUP;
    let child = match userns {
        None => {
            let keep = [writer.as_raw_fd()];
            let wanted = Clone { flags, cgroup: None, keep: &keep, sibling: false };
            Some(sys::clone::clone(&wanted, || run(writer))?)
        }
        Some(userns) => within(&File::open(userns)?.into(), flags, writer)?,
    };
    let mut said = Vec::new();
    reader.read_to_end(&mut said)?;
    if let Some(child) = child {
        if said == READY {
            return Ok(child.pid);
        }
        // It ends by itself; reaped here, where nobody else waits for it.
        let _ = sys::pidfd::wait(&child.pidfd);
    }
    Err(io::Error::other(format!("pause: {}", String::from_utf8_lossy(&said))))
}

/// Starts it in a user namespace: a child that enters it makes another one, which is the shim's child too, and
/// ends. `None`: it could not, and has written why.
fn within(userns: &OwnedFd, flags: UnshareFlags, writer: io::PipeWriter) -> io::Result<Option<Child>> {
    let (ours, theirs) = sys::socket::pair()?;
    let keep = [writer.as_raw_fd(), userns.as_raw_fd(), theirs.as_raw_fd()];
    let wanted = Clone { flags: UnshareFlags::empty(), cgroup: None, keep: &keep, sibling: false };
    let between = sys::clone::clone(&wanted, || bear(userns, flags, writer, theirs))?;
    let mut number = [0; size_of::<i32>()];
    let (got, mut descriptors) = sys::socket::receive(&ours, &mut number)?;
    sys::pidfd::wait(&between.pidfd)?;
    let pid = Pid::from_raw(i32::from_ne_bytes(number)).filter(|_| got == number.len());
    Ok(pid.zip(descriptors.pop()).map(|(pid, pidfd)| Child { pid, pidfd }))
}

fn bear(userns: &OwnedFd, flags: UnshareFlags, parent: io::PipeWriter, channel: OwnedFd) -> Infallible {
    let keep = [parent.as_raw_fd()];
    let wanted = Clone { flags, cgroup: None, keep: &keep, sibling: true };
    let mut parent = Some(parent);
    let born = sys::userns::join(userns).and_then(|()| {
        sys::clone::clone(&wanted, || match parent.take() {
            Some(parent) => run(parent),
            None => sys::clone::leave(1),
        })
    });
    match (born, parent) {
        (Ok(child), _) => {
            let number = child.pid.as_raw_nonzero().get().to_ne_bytes();
            // Without it the shim has no process to name, and gives up.
            let _ = sys::socket::send(&channel, &number, &[child.pidfd.as_fd()]);
        }
        (Err(errno), Some(mut parent)) => {
            let _ = write!(parent, "enter the user namespace: {}", io::Error::from(errno));
        }
        (Err(_), None) => {}
    }
    sys::clone::leave(0)
}

/// What the child writes when it is confined.
const READY: &[u8] = b"ready";

fn run(mut parent: io::PipeWriter) -> Infallible {
    match confine() {
        Ok(signals) => {
            if parent.write_all(READY).is_err() {
                sys::clone::leave(1);
            }
            drop(parent);
            reap_for_ever(&signals)
        }
        Err((step, errno)) => {
            let _ = write!(parent, "{step}: {}", io::Error::from(errno));
            sys::clone::leave(1)
        }
    }
}

/// Gives up all that the shim has.
fn confine() -> Result<SignalFd, (&'static str, Errno)> {
    let at = |step: &'static str| move |errno: Errno| (step, errno);
    sys::signal::reset_all().map_err(at("reset signals"))?;
    let null = crate::logfile::null().map_err(|_| ("open /dev/null", Errno::IO))?;
    dup2_stdin(&null)
        .and_then(|()| dup2_stdout(&null))
        .and_then(|()| dup2_stderr(&null))
        .map_err(at("close stdio"))?;
    drop(null);
    set_name(c"pause").map_err(at("name"))?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(at("make / private"))?;
    // Any directory that is always there; only this process sees what is mounted on it.
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("tmpfs", "/proc", "tmpfs", flags, Some(c"size=0,nr_inodes=1,mode=555"))
        .map_err(at("mount an empty root"))?;
    mount_remount("/proc", flags | MountFlags::RDONLY, c"size=0,nr_inodes=1")
        .map_err(at("make the root read-only"))?;
    chdir("/proc").map_err(at("enter the root"))?;
    pivot_root(".", ".").map_err(at("pivot_root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(at("leave the host's root"))?;
    chdir("/").map_err(at("chdir /"))?;
    set_thread_groups(&[]).map_err(at("drop groups"))?;
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    // From root to another user: the kernel clears the capabilities (capabilities(7)).
    let changed = set_thread_res_gid(group, group, group).and_then(|()| set_thread_res_uid(user, user, user));
    match changed {
        // A user namespace that is too small for that one: its root, without a right.
        Err(Errno::INVAL) => sys::caps::set(0, 0, 0).map_err(at("drop capabilities"))?,
        changed => changed.map_err(at("setuid"))?,
    }
    set_no_new_privs(true).map_err(at("no_new_privs"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(at("not dumpable"))?;
    // After the change of user, which forgets it.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(at("die with the parent"))?;
    SignalFd::block(&[sys::libc::SIGCHLD]).map_err(|_| ("watch children", Errno::IO))
}

fn reap_for_ever(signals: &SignalFd) -> Infallible {
    use sys::rustix::event::{PollFd, PollFlags, poll};
    loop {
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        while let Ok(Some(_)) = signals.take() {}
        // A child that ended since is pending in the signalfd: no end is slept through.
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        let _ = poll(&mut [PollFd::new(signals, PollFlags::IN)], None);
    }
}
