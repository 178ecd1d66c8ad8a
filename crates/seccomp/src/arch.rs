//! Architectures as seccomp sees them: audit numbers, tables of calls, x32's bit.

use oci_spec::runtime::Arch;
use std::collections::HashMap;
use syscalls::{aarch64, arm, x86, x86_64};

/// The bit that marks a call of the x32 ABI (asm/unistd.h).
pub(crate) const X32_BIT: u32 = 0x4000_0000;

/// Where x32 has numbers of its own: arch/x86/entry/syscalls/syscall_64.tbl, ABI x32, from 512.
const X32_OWN: [&str; 36] = [
    "rt_sigaction",
    "rt_sigreturn",
    "ioctl",
    "readv",
    "writev",
    "recvfrom",
    "sendmsg",
    "recvmsg",
    "execve",
    "ptrace",
    "rt_sigpending",
    "rt_sigtimedwait",
    "rt_sigqueueinfo",
    "sigaltstack",
    "timer_create",
    "mq_notify",
    "kexec_load",
    "waitid",
    "set_robust_list",
    "get_robust_list",
    "vmsplice",
    "move_pages",
    "preadv",
    "pwritev",
    "rt_tgsigqueueinfo",
    "recvmmsg",
    "sendmmsg",
    "process_vm_readv",
    "process_vm_writev",
    "setsockopt",
    "getsockopt",
    "io_setup",
    "io_submit",
    "execveat",
    "preadv2",
    "pwritev2",
];

/// Calls of the 64-bit ABI alone that x32 does not have at all.
const X32_NOT: [&str; 12] = [
    "uselib",
    "_sysctl",
    "create_module",
    "get_kernel_syms",
    "query_module",
    "nfsservctl",
    "set_thread_area",
    "get_thread_area",
    "epoll_ctl_old",
    "epoll_wait_old",
    "vserver",
    "uretprobe",
];

/// arch/arm/include/uapi/asm/unistd.h, `__ARM_NR_*`, and the other name of a call.
const ARM_PRIVATE: [(&str, u32); 4] =
    [("breakpoint", 0xf0001), ("cacheflush", 0xf0002), ("set_tls", 0xf0005), ("sync_file_range2", 341)];

/// A family of architectures that one kernel executes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Machine {
    X86_64,
    Aarch64,
}

impl Machine {
    /// The one that this program was built for.
    pub(crate) fn native() -> Machine {
        if cfg!(target_arch = "aarch64") { Machine::Aarch64 } else { Machine::X86_64 }
    }

    /// For the name of a cached program.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Machine::X86_64 => "x86_64",
            Machine::Aarch64 => "aarch64",
        }
    }

    /// As Go calls it, and Docker's profiles with it.
    pub(crate) fn go_name(self) -> &'static str {
        match self {
            Machine::X86_64 => "amd64",
            Machine::Aarch64 => "arm64",
        }
    }

    /// The ABI that is filtered whether listed or not.
    pub(crate) fn own(self) -> Abi {
        match self {
            Machine::X86_64 => Abi::X86_64,
            Machine::Aarch64 => Abi::Aarch64,
        }
    }

    /// The ABI of a listed architecture, if this machine executes it.
    pub(crate) fn abi(self, arch: Arch) -> Option<Abi> {
        #[allow(clippy::wildcard_enum_match_arm, reason = "all others are of other machines")]
        match (self, arch) {
            (_, Arch::ScmpArchNative) => Some(self.own()),
            (Machine::X86_64, Arch::ScmpArchX86_64) => Some(Abi::X86_64),
            (Machine::X86_64, Arch::ScmpArchX86) => Some(Abi::X86),
            (Machine::X86_64, Arch::ScmpArchX32) => Some(Abi::X32),
            (Machine::Aarch64, Arch::ScmpArchAarch64) => Some(Abi::Aarch64),
            (Machine::Aarch64, Arch::ScmpArchArm) => Some(Abi::Arm),
            _ => None,
        }
    }
}

/// One table of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Abi {
    X86_64,
    X32,
    X86,
    Aarch64,
    Arm,
}

impl Abi {
    /// `AUDIT_ARCH_*`, linux/audit.h: what the filter finds in `seccomp_data.arch`.
    pub(crate) fn audit(self) -> u32 {
        match self {
            Abi::X86_64 | Abi::X32 => 0xc000_003e,
            Abi::X86 => 0x4000_0003,
            Abi::Aarch64 => 0xc000_00b7,
            Abi::Arm => 0x4000_0028,
        }
    }

    /// Whether arguments have 64 bits. Those of x32 are compared whole, although its pointers are
    /// short: the registers are not cut.
    pub(crate) fn wide(self) -> bool {
        match self {
            Abi::X86_64 | Abi::X32 | Abi::Aarch64 => true,
            Abi::X86 | Abi::Arm => false,
        }
    }

    /// All calls by name, with the numbers that the filter sees.
    pub(crate) fn table(self) -> HashMap<&'static str, u32> {
        match self {
            Abi::X86_64 => of_64(),
            Abi::X32 => {
                let mut table = of_64();
                table.retain(|name, _| !X32_NOT.contains(name));
                table.values_mut().for_each(|number| *number |= X32_BIT);
                table.extend((512..).zip(X32_OWN).map(|(number, name)| (name, number | X32_BIT)));
                table
            }
            Abi::X86 => numbers(x86::Sysno::last().id(), |id| x86::Sysno::new(id).map(|call| call.name())),
            Abi::Aarch64 => {
                numbers(aarch64::Sysno::last().id(), |id| aarch64::Sysno::new(id).map(|call| call.name()))
            }
            Abi::Arm => {
                let mut table =
                    numbers(arm::Sysno::last().id(), |id| arm::Sysno::new(id).map(|call| call.name()));
                table.extend(ARM_PRIVATE);
                table
            }
        }
    }
}

fn of_64() -> HashMap<&'static str, u32> {
    numbers(x86_64::Sysno::last().id(), |id| x86_64::Sysno::new(id).map(|call| call.name()))
}

fn numbers(last: i32, name: impl Fn(usize) -> Option<&'static str>) -> HashMap<&'static str, u32> {
    (0..=u32::try_from(last).unwrap_or(0))
        .filter_map(|id| {
            let name = name(usize::try_from(id).ok()?)?;
            // A Rust keyword among the names has a prefix.
            Some((name.strip_prefix("r#").unwrap_or(name), id))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_calls_have_the_kernels_numbers() {
        let known = [
            (Abi::X86_64, "read", 0),
            (Abi::X86_64, "execve", 59),
            (Abi::X86_64, "mseal", 462),
            (Abi::X86, "exit", 1),
            (Abi::X86, "break", 17),
            (Abi::X86, "socketcall", 102),
            (Abi::X86, "file_setattr", 469),
            (Abi::X32, "read", X32_BIT),
            (Abi::X32, "rt_sigaction", X32_BIT + 512),
            (Abi::X32, "execve", X32_BIT + 520),
            (Abi::X32, "getsockopt", X32_BIT + 542),
            (Abi::X32, "pwritev2", X32_BIT + 547),
            (Abi::Aarch64, "openat", 56),
            (Abi::Arm, "set_tls", 0xf0005),
        ];
        for (abi, name, number) in known {
            assert_eq!(abi.table().get(name), Some(&number), "{abi:?} {name}");
        }
        assert_eq!(Abi::X86_64.table().get("socketcall"), None);
    }
}
