//! containerd-shim-peapod-v1: one process per pod, the parent of its containers.

fn main() {}
