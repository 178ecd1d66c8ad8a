//! What other runtimes are known not to do, each with its reason. A case that fails as it is known does not fail the run;
//! one that passes although it is in the table does, so that the table stays true.

const OPTIONS: &str = "KEP-5855 is not in it: mount_options is not read";
const UNCHECKED: &str = "the kubelet is trusted with it";
const DRAIN: &str = "drain_exec_sync_io_timeout is 0 by default: it waits for the output's end for ever";

/// Of containerd 2.4.2 with the configuration of the test node: the case's name, and why.
const CONTAINERD: &[(&str, &str)] = &[
    ("runtime: it knows mount options", OPTIONS),
    ("mounts: option noexec", OPTIONS),
    ("mounts: option nodev", OPTIONS),
    ("mounts: option nosuid", OPTIONS),
    ("mounts: option \"suid\" is refused", OPTIONS),
    ("mounts: option \"remount\" is refused", OPTIONS),
    ("mounts: option \"uid=0\" is refused", OPTIONS),
    ("mounts: option \"\" is refused", OPTIONS),
    ("mounts: the reference of an image's volume is in the status", "KEP-5365 is not in it"),
    ("users: the largest uid", "it takes no uid above 2^31-1"),
    ("users: a negative supplemental group is refused", UNCHECKED),
    (
        "security: a capability by its kernel name is that one, or refused",
        "an unknown capability is left out silently",
    ),
    ("security: an unknown capability is refused", "an unknown capability is left out silently"),
    ("security: ambient capabilities reach a user other than root", "KEP-2763 is not in it"),
    ("resources: the OOM score changed is the next process's", "an update leaves it out silently"),
    (
        "resources: an update with a period that is too long changes nothing",
        "the files before the one that fails stay written",
    ),
    ("resources: an update of what has ended is refused", "it changes the record and succeeds"),
    (
        "resources: a child that is killed for memory is not the container's end",
        "any OOM kill in the cgroup gives the reason, as server/events.go says",
    ),
    (
        "resources: a child that was killed for memory does not make a later SIGKILL OOMKilled",
        "any OOM kill in the cgroup gives the reason, as server/events.go says",
    ),
    (
        "resources: a page size that is none are refused",
        "huge pages are off by default (disable_hugetlb_controller)",
    ),
    ("devices: unknown permissions are refused", UNCHECKED),
    ("logs: a log path does not lead out of the directory", UNCHECKED),
    ("images: a pull for an unknown handler is refused", "it falls back to the default snapshotter"),
    (
        "images: the name in the pod's spec comes with a container",
        "user_specified_image is not in its answers",
    ),
    ("images: a token of the registry", "AuthConfig.registry_token is not read"),
    ("images: the file system of containers", "container_filesystems is always empty"),
    ("lists: images, and one by its name (list)", "the filter of images is not read"),
    ("lists: images, and one by its name (stream)", "the filter of images is not read"),
    ("lists: an image with all names of its filter (list)", "the filter of images is not read"),
    ("lists: an image with all names of its filter (stream)", "the filter of images is not read"),
    ("streams: a child that holds the output does not hold the answer", DRAIN),
    ("streams: ExecSync's timeout ends children too", DRAIN),
    ("stats: further interfaces leave the default one out", "the default interface is there once more"),
    ("stats: a container's CPU rate", "the answer for a single container has no usage_nano_cores"),
    ("stats: a container's swap", "swap is not in its answers"),
    ("stats: the metrics are all that either peer has", "it has 49 names"),
    ("stats: containers by id, pod and label (list)", "what has ended is listed too"),
    ("stats: containers by id, pod and label (stream)", "what has ended is listed too"),
    ("stats: a pod without a cgroup parent does not fail a list (list)", "the whole list fails"),
    ("stats: a pod without a cgroup parent does not fail a list (stream)", "the whole list fails"),
    ("sandbox: verbose status has information as JSON", "the information comes unasked"),
    ("namespaces: a target for a whole pod is refused", UNCHECKED),
    (
        "lifecycle: a variable that is not UTF-8 is kept, or refused by name",
        "its OCI specification is JSON, which replaces the bytes",
    ),
    ("refused: a pod without a name", UNCHECKED),
    ("refused: a pod with a relative log directory", UNCHECKED),
    ("refused: a pod with a host name that has a line's end", UNCHECKED),
    ("refused: a pod with a DNS server that is no address", UNCHECKED),
    ("refused: a pod with an unknown mode of a namespace", UNCHECKED),
    ("refused: a pod with a cgroup parent that leads elsewhere", UNCHECKED),
    ("refused: a container without a name", UNCHECKED),
    ("refused: a container with an unknown propagation", UNCHECKED),
    ("refused: a container with a variable whose name has an equals sign", UNCHECKED),
];

/// The same, of what it does not do each time.
const SOMETIMES: &[(&str, &str)] = &[
    ("mounts: two containers share an image's volume", "its own source has a TODO about this race"),
    ("lifecycle: a short life is told whole", "started_at is taken when the process may have ended"),
    (
        "stats: pods that come and go do not fail a list (list)",
        "a pod that goes meanwhile fails the whole list",
    ),
    (
        "stats: pods that come and go do not fail a list (stream)",
        "a pod that goes meanwhile fails the whole list",
    ),
];

/// Why this case may fail on that runtime, and may pass.
#[must_use]
pub fn sometimes(runtime: &str, case: &str) -> Option<&'static str> {
    let table = if runtime == "containerd" { SOMETIMES } else { &[] };
    table.iter().find(|(known, _)| *known == case).map(|(_, why)| *why)
}

/// Why this case fails on that runtime.
#[must_use]
pub fn reason(runtime: &str, case: &str) -> Option<&'static str> {
    let table = if runtime == "containerd" { CONTAINERD } else { &[] };
    table.iter().find(|(known, _)| *known == case).map(|(_, why)| *why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_names_a_case() {
        let names: Vec<_> = crate::cases::all().into_iter().map(|case| case.name).collect();
        for (case, _) in CONTAINERD.iter().chain(SOMETIMES) {
            assert!(names.iter().any(|name| name == case), "no case is named {case:?}");
        }
    }
}
