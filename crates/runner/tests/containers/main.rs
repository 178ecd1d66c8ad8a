//! Real containers through the runner's command line, as root, with the busybox of the host.
#![expect(unreachable_pub, reason = "modules of a test program")]

mod bundle;
#[cfg(test)]
mod confined;
#[cfg(test)]
mod hooks;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod mounts;
#[cfg(test)]
mod namespaces;
#[cfg(test)]
mod userns;
