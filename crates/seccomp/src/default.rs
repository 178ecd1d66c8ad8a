//! The default profile (`RuntimeDefault`): what a container may call.
//!
//! An allow-list; all else is EPERM, and what is newer than the list is ENOSYS. Its effect is that of
//! containerd 2.4's default profile, so that a workload finds here what it finds there; the table is
//! ordered by purpose, not by name, so that a reader sees what each permission is for. Not in it, on
//! purpose: keyrings, userfaultfd, io_uring, new namespaces, mounts, modules, bpf, perf events.

use crate::{
    arch::Machine,
    table::{
        ARM_ONLY, ATTRIBUTES, EVENTS, FILES_BY_DESCRIPTOR, IDS, IPC, LOCKS, MEMORY, PATHS, PROCESSES,
        SIGNALS, SOCKETS, TIME, X86_ONLY,
    },
};
use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompBuilder, LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};
use std::collections::HashSet;

/// What a capability adds. The kernel checks the capability again; without it the call is not even
/// reachable.
const BY_CAPABILITY: &[(Capability, &[&str])] = &[
    (
        Capability::SysAdmin,
        &[
            // namespaces
            "clone",
            "clone3",
            "unshare",
            "setns",
            "sethostname",
            "setdomainname",
            // mounts
            "mount",
            "umount",
            "umount2",
            "fsopen",
            "fsconfig",
            "fsmount",
            "fspick",
            "open_tree",
            "move_mount",
            "mount_setattr",
            "quotactl",
            "quotactl_fd",
            "fanotify_init",
            // looking into the kernel
            "bpf",
            "perf_event_open",
            "lookup_dcookie",
            "syslog",
        ],
    ),
    (Capability::Bpf, &["bpf"]),
    (Capability::DacReadSearch, &["open_by_handle_at"]),
    (Capability::Perfmon, &["perf_event_open"]),
    (Capability::SysBoot, &["reboot"]),
    (Capability::SysChroot, &["chroot"]),
    (Capability::SysModule, &["init_module", "finit_module", "delete_module"]),
    (Capability::SysNice, &["get_mempolicy", "set_mempolicy", "set_mempolicy_home_node", "mbind"]),
    (Capability::SysPacct, &["acct"]),
    (
        Capability::SysPtrace,
        &["kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace"],
    ),
    (Capability::SysRawio, &["iopl", "ioperm"]),
    (Capability::SysTime, &["settimeofday", "stime", "clock_settime", "clock_settime64"]),
    (Capability::SysTtyConfig, &["vhangup"]),
    (Capability::Syslog, &["syslog"]),
];

/// First and last of each run of socket domains (`AF_*`, linux/socket.h) that may be opened. Left out:
/// AF_ALG (38), an attack surface without need, and AF_VSOCK (40), which reaches the virtual machines
/// of the host from any network namespace. What is newer than AF_MCTP (45) is not known to be safe.
/// 32-bit ABIs reach all domains by socketcall(2), whose arguments a filter cannot see.
const SOCKET_DOMAINS: &[(u64, u64)] = &[(0, 37), (39, 39), (41, 45)];

/// What personality(2) may be asked for: PER_LINUX, PER_LINUX32, each with UNAME26, and the query.
const PERSONALITIES: &[u64] = &[0x0, 0x8, 0x20000, 0x20008, 0xffff_ffff];

/// Flags of clone(2) that make a namespace (but the time namespace, which shares bits with the exit
/// signal there).
const CLONE_NAMESPACES: u64 =
    0x0002_0000 | 0x0400_0000 | 0x0800_0000 | 0x1000_0000 | 0x2000_0000 | 0x4000_0000 | 0x0200_0000;

/// errno(3) of an unknown call.
const ENOSYS: u32 = 38;

/// The default profile for a process with this bounding set, for the machine's own architectures.
#[must_use]
pub fn default_profile(bounding: &HashSet<Capability>) -> LinuxSeccomp {
    profile_for(Machine::native(), bounding)
}

/// The default profile for any machine.
pub(crate) fn profile_for(machine: Machine, bounding: &HashSet<Capability>) -> LinuxSeccomp {
    let mut always: Vec<&str> = [
        FILES_BY_DESCRIPTOR,
        PATHS,
        ATTRIBUTES,
        MEMORY,
        EVENTS,
        SOCKETS,
        IPC,
        PROCESSES,
        LOCKS,
        IDS,
        SIGNALS,
        TIME,
    ]
    .concat();
    always.extend(match machine {
        Machine::X86_64 => X86_ONLY,
        Machine::Aarch64 => ARM_ONLY,
    });
    for (capability, names) in BY_CAPABILITY {
        if bounding.contains(capability) {
            for name in *names {
                if !always.contains(name) {
                    always.push(name);
                }
            }
        }
    }
    let mut rules = vec![allow(&always, Vec::new())];
    for (first, last) in SOCKET_DOMAINS {
        for domain in *first..=*last {
            rules.push(allow(&["socket"], vec![argument(0, domain, None, LinuxSeccompOperator::ScmpCmpEq)]));
        }
    }
    for value in PERSONALITIES {
        rules.push(allow(&["personality"], vec![argument(0, *value, None, LinuxSeccompOperator::ScmpCmpEq)]));
    }
    if !bounding.contains(&Capability::SysAdmin) {
        let none = argument(0, CLONE_NAMESPACES, Some(0), LinuxSeccompOperator::ScmpCmpMaskedEq);
        rules.push(allow(&["clone"], vec![none]));
        // Its flags are behind a pointer. ENOSYS has the C libraries fall back to clone.
        rules.push(rule(&["clone3"], LinuxSeccompAction::ScmpActErrno, Some(ENOSYS), Vec::new()));
    }
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .architectures(match machine {
            Machine::X86_64 => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32],
            Machine::Aarch64 => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm],
        })
        .syscalls(rules)
        .build()
        .expect("every field has a default")
}

fn allow(names: &[&str], arguments: Vec<LinuxSeccompArg>) -> LinuxSyscall {
    rule(names, LinuxSeccompAction::ScmpActAllow, None, arguments)
}

fn rule(
    names: &[&str],
    action: LinuxSeccompAction,
    errno: Option<u32>,
    arguments: Vec<LinuxSeccompArg>,
) -> LinuxSyscall {
    let mut rule = LinuxSyscallBuilder::default()
        .names(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
        .action(action);
    if let Some(errno) = errno {
        rule = rule.errno_ret(errno);
    }
    if !arguments.is_empty() {
        rule = rule.args(arguments);
    }
    rule.build().expect("names and action are set")
}

fn argument(index: usize, value: u64, second: Option<u64>, op: LinuxSeccompOperator) -> LinuxSeccompArg {
    let mut argument = LinuxSeccompArgBuilder::default().index(index).value(value).op(op);
    if let Some(second) = second {
        argument = argument.value_two(second);
    }
    argument.build().expect("index, value and operator are set")
}
