//! containerd-shim-peapod-v1: one process per pod, the parent of its containers.
#![forbid(unsafe_code)]
#![allow(dead_code)]

mod connection;
mod exitfile;
mod framing;
mod logfile;
mod poll;
#[cfg(test)]
mod testing;
mod wire;

fn main() {}
