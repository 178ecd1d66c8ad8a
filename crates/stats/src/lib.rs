//! Readers of cgroup, network and disk statistics, in the numbers of the CRI but without its types.
//!
//! What cannot be read is absent, never zero: a zero would be taken for a measurement. Everything here
//! blocks (it reads files), so an asynchronous caller asks from a thread for blocking work.
#![forbid(unsafe_code)]

mod container;
mod disk;
mod error;
pub mod metrics;
mod network;
mod pod;
mod process;
mod reader;
#[cfg(test)]
mod tests;

pub use container::{ContainerStats, CpuUsage, IoUsage, MemoryUsage, Psi, PsiLine, SwapUsage};
pub use disk::{DirectoryUsage, FilesystemSpace, directory, filesystem};
pub use error::StatsError;
pub use network::{Interface, PodNetwork, networks};
pub use pod::PodStats;
pub use process::Processes;
pub use reader::{Reader, Target};
