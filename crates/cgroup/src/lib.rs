//! cgroup v1 and v2: create, limit, freeze, kill, read, watch.
//!
//! A group has one path, absolute from the root of every hierarchy ([`CgroupPath`]); the caller's
//! own position is of no meaning. Everything is a file beneath the hierarchies' roots ([`Mounts`]),
//! opened by descriptor and without symbolic links. A [`Cgroup`] is a name, not a resource: dropping
//! it does nothing, and a process that comes later finds the same group by its path.
//!
//! Limits are the OCI `linux.resources`. A field that this generation of cgroups cannot do is
//! refused by name, unless its value asks for nothing.
#![forbid(unsafe_code)]

mod details;
mod devices;
mod error;
mod group;
mod limits;
mod mounts;
mod node;
mod path;
mod stats;
#[cfg(test)]
mod tests;

pub use details::{Details, HugePages};
pub use error::CgroupError;
pub use group::{Cgroup, Entry};
pub use limits::settings::Setting;
pub use mounts::{Mounts, Version};
pub use path::CgroupPath;
pub use stats::{Cpu, DeviceIo, Io, Memory, MemoryParts, Pressure, Stall, Stats, Throttling};
