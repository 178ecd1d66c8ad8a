//! seccomp profiles: JSON to BPF, cached.
//!
//! A profile is the OCI `linux.seccomp` (runtime-spec config-linux.md), which has the form of the
//! profile files that Kubernetes calls `Localhost`. [`compile()`] makes the classic BPF program of it that
//! seccomp(2) loads; [`cached`] keeps programs on disk; [`default_profile`] is `RuntimeDefault`;
//! [`read_profile`] reads a profile file.
//!
//! Read as the other runtimes read it:
//! - a name that no architecture knows is skipped: it is newer than the tables or of another machine;
//! - the comparisons of one rule must all hold, but if two of them are of the same argument, each is a
//!   rule of its own; several rules of one call are alternatives, in order; one without comparisons
//!   comes last;
//! - a rule whose action is the default action says nothing;
//! - above the newest call that a profile with a forbidding default names, a call answers ENOSYS, so
//!   that a C library that is newer than the profile falls back instead of failing;
//! - on 32-bit architectures only the lower half of a value is compared;
//! - a call by an architecture that is not listed kills the process. The machine's own is always listed,
//!   those that it cannot execute are skipped.
//!
//! Otherwise than libseccomp, a rule for `socket` or `shmget` does not reach into the multiplexed
//! socketcall(2) and ipc(2) of i386: these are calls like others, by their own names.
#![forbid(unsafe_code)]

mod arch;
mod cache;
mod compile;
mod default;
mod emit;
mod error;
mod profile;
mod table;
#[cfg(test)]
mod tests;

pub use cache::cached;
pub use compile::{Program, compile};
pub use default::default_profile;
pub use error::SeccompError;
pub use profile::read_profile;
