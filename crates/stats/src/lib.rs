//! Readers of cgroup, network and disk statistics.
