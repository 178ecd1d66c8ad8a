//! The only unsafe code: system calls behind safe signatures.
//!
//! Other crates take [`rustix`] for whatever it has as a safe function, [`libc`] for constants, and
//! the modules below for the rest. Each `unsafe` block says why it is sound.

pub use libc;
pub use rustix;

pub mod bounded;
pub mod bpf;
pub mod caps;
pub mod clone;
pub mod exec;
pub mod file;
pub mod fsids;
pub mod heap;
pub mod keyring;
pub mod label;
pub mod landlock;
pub mod mount;
pub mod namespace;
pub mod netlink;
pub mod pidfd;
pub mod program;
pub mod rlimit;
pub mod root;
pub mod sched;
pub mod seccomp;
pub mod signal;
pub mod signalfd;
pub mod socket;
pub mod tree;
pub mod userns;
pub mod wait;

use rustix::io::Errno;

/// The result of a raw system call as libc gives it: -1 means `errno`.
fn check(returned: libc::c_long) -> Result<libc::c_long, Errno> {
    if returned == -1 { Err(last_errno()) } else { Ok(returned) }
}

/// The calling thread's `errno`.
fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
