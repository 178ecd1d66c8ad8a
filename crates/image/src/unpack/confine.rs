//! What the child gives up before it reads the first byte of a layer.
//!
//! It starts as root in namespaces of its own (mount, network, IPC, PID) and ends with the layer's
//! directory as its whole file system, six capabilities, Landlock where the kernel has it, and a
//! seccomp filter. It has no user namespace: in one, device nodes are refused.

use oci_spec::runtime::LinuxSeccomp;
use sys::{
    caps, landlock, mount,
    rustix::{
        fs::{self, Mode, OFlags},
        io::Errno,
        mount::{self as mounts, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags},
        process::{self, Resource},
        thread,
    },
};

/// What unpacking needs: owners, foreign modes, set-id bits, device nodes, file capabilities.
const CAPABILITIES: [&str; 6] = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "MKNOD", "SETFCAP"];
/// Address space: the decoder's window of 128 MiB, buffers, and the names of directories.
const MAX_ADDRESS_SPACE: u64 = 4 << 30;
const MAX_FILES: u64 = 64;

/// What a decoder and a writer of files call, with threads and memory. clone3 hides its flags in memory,
/// so the C library is made to fall back to clone, which may not make namespaces.
const SYSTEM_CALLS: &str = r#"{
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 1,
    "syscalls": [
        {"action": "SCMP_ACT_ALLOW", "names": [
            "read", "readv", "pread64", "write", "writev", "close", "close_range", "lseek", "fcntl", "dup",
            "open", "openat", "openat2", "fstat", "stat", "lstat", "newfstatat", "statx", "fstatfs", "getdents64",
            "mkdirat", "mknodat", "symlinkat", "linkat", "unlinkat", "renameat", "renameat2", "readlinkat",
            "fchown", "fchownat", "fchmod", "fchmodat", "fchmodat2", "utimensat", "fsetxattr", "ftruncate",
            "mmap", "munmap", "mremap", "mprotect", "madvise", "brk", "prlimit64", "getrandom",
            "futex", "set_robust_list", "rseq", "sched_yield", "sched_getaffinity", "gettid", "getpid",
            "set_tid_address", "arch_prctl", "prctl", "clock_gettime", "clock_nanosleep", "poll", "ppoll",
            "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "tgkill", "restart_syscall",
            "exit", "exit_group"]},
        {"action": "SCMP_ACT_ALLOW", "names": ["clone"],
         "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
        {"action": "SCMP_ACT_ERRNO", "errnoRet": 38, "names": ["clone3"]}
    ]
}"#;

/// Which step failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot confine the unpacking: {step}: {source}")]
pub(super) struct ConfineError {
    step: &'static str,
    source: Errno,
}

fn step(step: &'static str) -> impl FnOnce(Errno) -> ConfineError {
    move |source| ConfineError { step, source }
}

/// Confines the calling, single-threaded process to its working directory.
pub(super) fn confine() -> Result<(), ConfineError> {
    process::umask(Mode::empty());
    become_root_of_working_directory()?;
    let limit = |resource, most| sys::rlimit::set_clamped(resource, most, most).map_err(step("a limit"));
    limit(Resource::Core, 0)?;
    limit(Resource::Nofile, MAX_FILES)?;
    limit(Resource::As, MAX_ADDRESS_SPACE)?;
    thread::set_no_new_privs(true).map_err(step("no_new_privs"))?;
    landlock::files_only(
        fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(step("open /"))?,
    )
    .map_err(step("Landlock"))?;
    let keep = CAPABILITIES.iter().fold(0_u64, |bits, name| {
        bits | 1 << caps::number(name).expect("the names above are of capability.h")
    });
    caps::set_ambient(0).map_err(step("the ambient capabilities"))?;
    caps::limit_bounding(keep).map_err(step("the bounding set"))?;
    // Less, when the daemon itself has less.
    let have = caps::current().map_err(step("capget"))?.permitted.bits() & keep;
    caps::set(have, have, 0).map_err(step("the capabilities"))?;
    let filter: LinuxSeccomp =
        serde_json::from_str(SYSTEM_CALLS).map_err(|_| Errno::INVAL).map_err(step("seccomp"))?;
    let filter = seccomp::compile(&filter).map_err(|_| Errno::INVAL).map_err(step("seccomp"))?;
    sys::seccomp::load(filter.bytes(), 0).map_err(step("seccomp"))
}

/// Makes the working directory `/`, with nothing of the host's mounts left beneath or above it.
fn become_root_of_working_directory() -> Result<(), ConfineError> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mounts::mount_change("/", private).map_err(step("private mounts"))?;
    let tree =
        mounts::open_tree(fs::CWD, ".", OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
            .map_err(step("open_tree"))?;
    let attributes = mount::Attributes {
        set: mount::NODEV | mount::NOSUID | mount::NOEXEC,
        ..mount::Attributes::default()
    };
    mount::set_attributes(&tree, false, &attributes).map_err(step("mount_setattr"))?;
    mounts::move_mount(&tree, "", fs::CWD, ".", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(step("move_mount"))?;
    process::fchdir(&tree).map_err(step("fchdir"))?;
    match process::pivot_root(".", ".") {
        Ok(()) => mounts::unmount(".", UnmountFlags::DETACH).map_err(step("unmount of the old root"))?,
        // The host runs from its initial ramfs, which cannot be pivoted away. CAP_SYS_CHROOT is given
        // up below, and no descriptor of a directory outside is open.
        Err(Errno::INVAL) => process::chroot(".").map_err(step("chroot"))?,
        Err(error) => return Err(step("pivot_root")(error)),
    }
    process::chdir("/").map_err(step("chdir"))
}
