//! Which paths are hidden from a container, or read-only in it.
//!
//! The kubelet always sends both lists, but for `procMount: Unmasked`, when it sends none (KEP-4265); that
//! is for pods with a user namespace only. So lists that are empty mean "nothing is hidden" there, and
//! elsewhere that a client knows nothing of them: then these defaults hold.

use crate::Input;

/// What tells about, or acts on, the whole machine: all that the kubelet and both peers hide.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    INTERRUPTS,
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// When which key was pressed can be told from it; the lists of kubelets before 1.37 lack it.
const INTERRUPTS: &str = "/proc/interrupts";

const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Masked and read-only paths.
pub(crate) fn hidden(input: &Input<'_>) -> (Vec<String>, Vec<String>) {
    let security = &input.container.security;
    if security.privileged {
        return (Vec::new(), Vec::new());
    }
    let (mut masked, readonly) = (security.masked_paths.clone(), security.readonly_paths.clone());
    if masked.is_empty() && readonly.is_empty() {
        return (MASKED.map(str::to_owned).to_vec(), READONLY.map(str::to_owned).to_vec());
    }
    if !masked.is_empty() && !masked.iter().any(|path| path == INTERRUPTS) {
        masked.push(INTERRUPTS.to_owned());
    }
    (masked, readonly)
}
