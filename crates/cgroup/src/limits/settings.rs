//! What limits are at the moment, in the kernel's own words, so that a change can be taken back.

use super::plan;
use crate::{Cgroup, CgroupError, Version, node::Node};
use oci_spec::runtime::LinuxResources;
use std::collections::BTreeSet;
use sys::rustix::io::Errno;

/// A limit as a file of the group has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Controller whose hierarchy it is in; of no meaning on v2.
    pub controller: String,
    /// The file.
    pub file: String,
    /// Its content; a file with a line for each device has several lines, or none.
    pub content: String,
}

/// Files of v2 with a line for each device, and how a device is said to have no limit.
const BY_DEVICE: [(&str, &str); 3] = [
    ("io.max", "rbps=max wbps=max riops=max wiops=max"),
    ("io.weight", "default"),
    ("io.latency", "target=0"),
];

/// What is in the files that these limits would write. Changes nothing.
pub(crate) fn read(group: &Cgroup, resources: &LinuxResources) -> Result<Vec<Setting>, CgroupError> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for write in plan(group, resources)?.0 {
        let device = by_device(&write.file).and_then(|_| write.value.split(' ').next());
        if !seen.insert((write.file.clone(), device.map(str::to_owned))) {
            continue;
        }
        let Some(node) = group.node(write.controller) else { continue };
        // What is not there now is refused, or left out, when it is written.
        let Some(text) = node.read(&write.file)? else { continue };
        let content = match (by_device(&write.file), device) {
            (Some(unlimited), Some(device)) => of_device(&text, device, unlimited),
            _ => text.trim_end().to_owned(),
        };
        found.push(Setting { controller: write.controller.to_owned(), file: write.file, content });
    }
    Ok(found)
}

/// Writes them back. Values that are bound to one another (memory, and memory with swap) find their
/// order: what the kernel refuses is tried again after the others.
pub(crate) fn restore(group: &Cgroup, settings: &[Setting]) -> Result<(), CgroupError> {
    let mut left: Vec<&Setting> = settings.iter().collect();
    loop {
        let before = left.len();
        let mut refused = None;
        left.retain(|setting| {
            let Some(node) = group.node(&setting.controller) else { return false };
            match write_back(&node, setting) {
                Ok(()) => false,
                Err(Errno::NOENT | Errno::NODEV) if node.is_there().is_ok_and(|there| !there) => false,
                Err(errno) => {
                    let doing = format!("write back {:?}", setting.content);
                    refused = Some(node.error(&setting.file, doing, errno));
                    true
                }
            }
        });
        match refused {
            None => return Ok(()),
            Some(error) if left.len() == before => return Err(error),
            Some(_) => {}
        }
    }
}

/// One of them, with the bare answer of the kernel.
fn write_back(node: &Node<'_>, setting: &Setting) -> Result<(), Errno> {
    if !setting.content.is_empty() {
        return node.try_write(&setting.file, &setting.content);
    }
    // A write of no bytes does nothing: an empty list (v2's cpuset) is an empty line.
    match node.try_write(&setting.file, "\n") {
        // A group with processes cannot have its list emptied again (kernel/cgroup/cpuset.c,
        // validate_change): what it had without one is what the group above has.
        Err(Errno::NOSPC) => {
            let above =
                node.parent().ok_or(Errno::NOSPC)?.try_read(&format!("{}.effective", setting.file))?;
            node.try_write(&setting.file, above.trim_end())
        }
        other => other,
    }
}

/// Memory that is in use above a new limit is given back to the kernel, as far as it can be without
/// killing. v1 does so by itself and else refuses the limit; on v2 writing it would kill.
pub(crate) fn make_room(group: &Cgroup, resources: &LinuxResources) -> Result<(), CgroupError> {
    let limit = resources.memory().as_ref().and_then(|memory| memory.limit());
    let Some(limit) = limit.and_then(|limit| u64::try_from(limit).ok()).filter(|limit| *limit > 0) else {
        return Ok(());
    };
    let Some(node) = group.node("memory").filter(|_| group.mounts().version() == Version::V2) else {
        return Ok(());
    };
    let used =
        || Ok::<_, CgroupError>(node.read("memory.current")?.and_then(|text| text.trim().parse().ok()));
    let Some(over) = used()?.unwrap_or(0_u64).checked_sub(limit).filter(|over| *over > 0) else {
        return Ok(());
    };
    // It gives back what it can; kernels before 5.19 have no such file.
    let _ = node.try_write("memory.reclaim", &over.to_string());
    let used = used()?.unwrap_or(0);
    if used <= limit {
        return Ok(());
    }
    Err(super::bad("linux.resources.memory.limit", format!("{limit} is below the {used} bytes in use")))
}

fn by_device(file: &str) -> Option<&'static str> {
    BY_DEVICE.iter().find(|(name, _)| *name == file).map(|(_, unlimited)| *unlimited)
}

/// The line of a device, or the one that says that it has no limit.
fn of_device(text: &str, device: &str, unlimited: &str) -> String {
    let own = text.lines().find(|line| line.split(' ').next() == Some(device));
    own.map_or_else(|| format!("{device} {unlimited}"), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_a_line_of_its_own_or_no_limit() {
        let text = "8:0 rbps=5 wbps=max riops=max wiops=max\n8:16 rbps=7 wbps=max riops=max wiops=max\n";
        let unlimited = by_device("io.max").unwrap();
        assert_eq!(of_device(text, "8:16", unlimited), "8:16 rbps=7 wbps=max riops=max wiops=max");
        assert_eq!(of_device(text, "8:1", unlimited), "8:1 rbps=max wbps=max riops=max wiops=max");
        assert_eq!(by_device("memory.max"), None);
    }
}
