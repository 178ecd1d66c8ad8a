//! The built shim with real containers, driven as the daemon drives it. Needs root.

mod host;

#[cfg(test)]
mod attach;
#[cfg(test)]
mod containerd;
#[cfg(test)]
mod exec;
#[cfg(test)]
mod hangup;
#[cfg(test)]
mod interop;
#[cfg(test)]
mod life;
#[cfg(test)]
mod logs;
#[cfg(test)]
mod session;
#[cfg(test)]
mod soak;
