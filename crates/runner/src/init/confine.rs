//! What takes rights away from the process, and the exec.

use super::{home, mounts::detached};
use crate::{
    failure::{Failure, Message, Step},
    hooks::Hooks,
    plan::process::ProcessPlan,
};
use std::{convert::Infallible, ffi::CStr};
use sys::{
    caps, exec, keyring, rlimit,
    root::RootFd,
    rustix::{
        self,
        fd::OwnedFd,
        fs::{self, AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags},
        io::Errno,
        thread::{
            CpuSet, sched_setaffinity, set_keep_capabilities, set_no_new_privs, set_thread_groups,
            set_thread_res_gid, set_thread_res_uid,
        },
    },
    sched, seccomp, signal, socket,
};

const CAP_SYS_ADMIN: u64 = 1 << 21;

/// Through the host's /proc. Below the own value only CAP_SYS_RESOURCE leads: without it the value stays.
pub(super) fn set_oom_score_adj(process: &ProcessPlan) -> Result<(), Failure> {
    let Some(value) = process.oom_score_adj else { return Ok(()) };
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let write = || {
        rustix::io::write(
            &fs::open(c"/proc/self/oom_score_adj", flags, Mode::empty())?,
            value.to_string().as_bytes(),
        )
    };
    match write() {
        Ok(_) | Err(Errno::ACCESS | Errno::PERM) => Ok(()),
        Err(error) => Err(error).step("set process.oomScoreAdj"),
    }
}

/// The processors that this process may run on; those that its cgroup does not have are left out by the kernel.
pub(super) fn set_affinity(cpus: &CpuSet) -> Result<(), Errno> {
    sched_setaffinity(None, cpus)
}

/// All processors of its cgroup: those that a service manager gave to this runtime are no limit of a container.
pub(super) fn reset_affinity() {
    let mut all = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|at| all.set(at));
    // Where it is not allowed to, the process keeps what it has, as each other process there.
    let _ = sched_setaffinity(None, &all);
}

/// How the kernel runs it; while the rights for it are there.
fn schedule(process: &ProcessPlan) -> Result<(), Failure> {
    if let Some(domain) = process.personality {
        sched::set_personality(domain).step("set linux.personality")?;
    }
    if let Some((class, priority)) = process.io_priority {
        sched::set_io_priority(class, priority).step("set process.ioPriority")?;
    }
    if let Some(attributes) = &process.scheduler {
        sched::set(attributes).step("set process.scheduler")?;
    }
    Ok(())
}

/// Raises the hard limits that the process shall have, for who will soon have no right to.
pub(super) fn raise_limits(process: &ProcessPlan) -> Result<(), Failure> {
    for (resource, _, hard) in &process.rlimits {
        rlimit::raise_hard(*resource, *hard).step_with(|| format!("raise the limit {resource:?}"))?;
    }
    Ok(())
}

/// Makes `process.cwd` beneath the root where it is missing, as long as the root can be written.
pub(super) fn make_cwd(process: &ProcessPlan, root: &RootFd) -> Result<(), Failure> {
    let made = root.make_dir(relative(process), Mode::from_raw_mode(0o755));
    made.map(drop).step_with(|| format!("make process.cwd {}", process.cwd.display()))
}

fn relative(process: &ProcessPlan) -> &std::path::Path {
    process.cwd.strip_prefix("/").unwrap_or(&process.cwd)
}

/// Limits, directory, keyring, groups and user; what only gets tighter later.
pub(super) fn become_user(process: &ProcessPlan, root: &RootFd) -> Result<(), Failure> {
    schedule(process)?;
    for (resource, soft, hard) in &process.rlimits {
        rlimit::set_clamped(*resource, *soft, *hard).step_with(|| format!("set the limit {resource:?}"))?;
    }
    match keyring::join_new_session() {
        Ok(()) | Err(Errno::NOSYS) => {}
        Err(error) => return Err(error).step("join a new session keyring"),
    }
    caps::limit_bounding(process.caps.bounding).step("limit the bounding set")?;
    set_keep_capabilities(true).step("keep the capabilities")?;
    let entered = enter_cwd(process, root);
    set_thread_groups(&process.groups).step("set the groups")?;
    set_thread_res_gid(process.gid, process.gid, process.gid).step("set the group")?;
    set_thread_res_uid(process.uid, process.uid, process.uid).step("set the user")?;
    // A directory that root may not enter (NFS), but the user may.
    entered
        .or_else(|_| enter_cwd(process, root))
        .step_with(|| format!("enter process.cwd {}", process.cwd.display()))?;
    rustix::process::umask(process.umask);
    Ok(())
}

/// By descriptor beneath the root and through no magic link, then proven to be inside (CVE-2024-21626).
fn enter_cwd(process: &ProcessPlan, root: &RootFd) -> Result<(), Errno> {
    rustix::process::fchdir(root.resolve(relative(process), OFlags::PATH | OFlags::DIRECTORY)?)?;
    let shown = rustix::process::getcwd(Vec::new())?;
    if shown.as_bytes().starts_with(b"/") { Ok(()) } else { Err(Errno::NOENT) }
}

/// Names the AppArmor profile and the SELinux label that the exec begins: through a procfs of this process's
/// own that is mounted nowhere, so that nothing in the container decides where it is written
/// (CVE-2019-16884). While the rights are still there: the kernel wants the writer to be who opened.
pub(super) fn label(process: &ProcessPlan) -> Result<(), Failure> {
    if process.apparmor.is_none() && process.selinux.is_none() {
        return Ok(());
    }
    let proc = detached(c"proc", c"proc", &[], 0).step("make a procfs for the labels")?;
    if let Some(name) = &process.apparmor {
        // Where several security modules are stacked, `attr/exec` is another's.
        let text = format!("exec {name}");
        match write_attribute(&proc, "thread-self/attr/apparmor/exec", &text) {
            Err(Errno::NOENT) => write_attribute(&proc, "thread-self/attr/exec", &text),
            done => done,
        }
        .step_with(|| format!("set process.apparmorProfile {name} (ENOENT: it is not loaded)"))?;
    }
    if let Some(label) = &process.selinux {
        // Of the session's keyring, which is made next; it goes with the exec.
        match write_attribute(&proc, "thread-self/attr/keycreate", label) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error).step_with(|| format!("label the keyring {label}")),
        }
        write_attribute(&proc, "thread-self/attr/exec", label)
            .step_with(|| format!("set process.selinuxLabel {label}"))?;
    }
    Ok(())
}

fn write_attribute(proc: &OwnedFd, path: &str, text: &str) -> Result<(), Errno> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = fs::openat2(proc, path, flags, Mode::empty(), how)?;
    rustix::io::write(&file, text.as_bytes()).map(drop)
}

/// Finds the program, takes the last rights away, runs the hooks of the start with what is left, and executes it.
/// It does not come back: what went wrong is said to the other end of the channel.
pub(super) fn execute(process: &ProcessPlan, hooks: Option<&Hooks>, channel: &OwnedFd) -> Infallible {
    let message = match last_steps(process, hooks) {
        Ok(errno) => Message::NotExecuted(Failure { step: process.program.clone(), errno }),
        Err(message) => message,
    };
    // With a profile that forbids sendmsg, or without a reader, the exit code alone tells.
    let _ = socket::send(channel, &message.to_bytes(), &[]);
    sys::clone::leave(127)
}

fn last_steps(process: &ProcessPlan, hooks: Option<&Hooks>) -> Result<Errno, Message> {
    signal::reset_all().step("reset the signals")?;
    exec::close_on_exec_from(3).step("mark the descriptors")?;
    // Before the filter: it may forbid to look.
    let path = match find(process) {
        Ok(path) => path,
        Err(errno) => return Ok(errno),
    };
    let with_home = home::environment(process);
    let files = hooks.map(Hooks::before_start).transpose()?.unwrap_or_default();
    drop_rights(process)?;
    // With the rights and the filter of the program, as runc does it (libcontainer/standard_init_linux.go).
    if let Some(hooks) = hooks {
        hooks.run_start_container(files)?;
    }
    Ok(exec::execve(path, &process.argv, with_home.as_ref().unwrap_or(&process.env)))
}

fn drop_rights(process: &ProcessPlan) -> Result<(), Failure> {
    let sets = &process.caps;
    let filter = |step| match &process.seccomp {
        Some(filter) => seccomp::load(&filter.program, filter.flags).step(step),
        None => Ok(()),
    };
    let last = || -> Result<(), Errno> {
        caps::set(sets.effective, sets.permitted, sets.inheritable)?;
        if sets.ambient == 0 { Ok(()) } else { caps::set_ambient(sets.ambient) }
    };
    if process.no_new_privs {
        last().step("set the capabilities")?;
        set_no_new_privs(true).step("set no_new_privs")?;
        return filter("load the seccomp program");
    }
    if process.seccomp.is_some() {
        // Without no_new_privs the kernel wants this one for the load. It goes with the next call, which
        // each profile must allow, as with other runtimes.
        let more = CAP_SYS_ADMIN;
        caps::set(sets.effective | more, sets.permitted | more, sets.inheritable)
            .step("keep CAP_SYS_ADMIN for seccomp")?;
        filter("load the seccomp program")?;
    }
    last().step("set the capabilities")
}

/// The first candidate that this user may execute; else the most telling reason why there is none.
fn find(process: &ProcessPlan) -> Result<&CStr, Errno> {
    let mut reason = Errno::NOENT;
    for path in &process.candidates {
        match executable(path) {
            Ok(()) => return Ok(path),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => reason = errno,
        }
    }
    Err(reason)
}

fn executable(path: &CStr) -> Result<(), Errno> {
    let stat = fs::statat(CWD, path, AtFlags::empty())?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Err(Errno::ISDIR);
    }
    fs::accessat(CWD, path, fs::Access::EXEC_OK, AtFlags::EACCESS)
}
