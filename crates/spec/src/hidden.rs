//! Which paths are hidden from a container, or read-only in it.
//!
//! What the request lists, and nothing where it lists nothing: so `procMount: Unmasked` comes through
//! (KEP-4265). For `Default` the kubelet and `peapod run` send the lists themselves.

use crate::Input;

/// When which key was pressed can be told from it; the lists of kubelets before 1.37 lack it.
const INTERRUPTS: &str = "/proc/interrupts";

/// Masked and read-only paths.
pub(crate) fn hidden(input: &Input<'_>) -> (Vec<String>, Vec<String>) {
    let security = &input.container.security;
    if security.privileged {
        return (Vec::new(), Vec::new());
    }
    let (mut masked, readonly) = (security.masked_paths.clone(), security.readonly_paths.clone());
    if !masked.is_empty() && !masked.iter().any(|path| path == INTERRUPTS) {
        masked.push(INTERRUPTS.to_owned());
    }
    (masked, readonly)
}
