//! Limits: the OCI `linux.resources` as a list of writes to files of the group.
//!
//! OCI runtime-spec config-linux.md and features of the kernel's Documentation/admin-guide
//! (cgroup-v1/*, cgroup-v2.rst). The lists are pure; only [`apply`] touches files.

mod v1;
mod v2;

use crate::{Cgroup, CgroupError, Version, node::Node};
use oci_spec::runtime::LinuxResources;
use std::collections::VecDeque;
use sys::rustix::io::Errno;

pub(crate) mod settings;

/// What a missing file or controller means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    /// The limit cannot be kept: an error.
    Refuse,
    /// The value asks for what holds anyway, or the field is best effort.
    Skip,
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Write {
    field: &'static str,
    controller: &'static str,
    file: String,
    value: String,
    missing: Missing,
}

/// Collects writes.
#[derive(Debug, Default)]
struct Plan(Vec<Write>);

impl Plan {
    fn push(
        &mut self,
        field: &'static str,
        controller: &'static str,
        file: impl Into<String>,
        value: impl ToString,
    ) {
        self.0.push(Write {
            field,
            controller,
            file: file.into(),
            value: value.to_string(),
            missing: Missing::Refuse,
        });
    }

    /// The last write may be left out where its file is missing.
    fn if_there(&mut self) {
        if let Some(last) = self.0.last_mut() {
            last.missing = Missing::Skip;
        }
    }
}

/// The writes that make up the limits (not the devices).
fn plan(group: &Cgroup, resources: &LinuxResources) -> Result<Plan, CgroupError> {
    match group.mounts().version() {
        Version::V1 => {
            let read = |controller: &str, file: &str| match group.node(controller) {
                Some(node) => node.read(file),
                None => Ok(None),
            };
            v1::plan(resources, &read)
        }
        Version::V2 => v2::plan(resources),
    }
}

/// Sets the limits of a group (not the devices).
pub(crate) fn apply(group: &Cgroup, resources: &LinuxResources) -> Result<(), CgroupError> {
    let plan = plan(group, resources)?;
    let mut queue: VecDeque<(Write, bool)> = plan.0.into_iter().map(|write| (write, false)).collect();
    while let Some((write, again)) = queue.pop_front() {
        let Some(node) = group.node(write.controller) else {
            if write.missing == Missing::Skip {
                continue;
            }
            return Err(CgroupError::NoController {
                field: write.field,
                controller: write.controller.to_owned(),
            });
        };
        match node.try_write(&write.file, &write.value) {
            Ok(()) => {}
            Err(Errno::NOENT) if !node.is_there()? => return Err(node.error("", "open", Errno::NOENT)),
            Err(Errno::NOENT) if write.missing == Missing::Skip => {}
            Err(Errno::NOENT) => {
                return Err(CgroupError::NoController {
                    field: write.field,
                    controller: controller_of(&write.file).to_owned(),
                });
            }
            // Two values of one controller may fit only together (a CFS period and its quota while
            // the group above limits their ratio): the one that did not goes after the others, once.
            Err(Errno::INVAL) if !again => queue.push_back((write, true)),
            Err(errno) => return Err(refused(&node, &write, errno)),
        }
    }
    Ok(())
}

/// The error of a write that the kernel refused.
fn refused(node: &Node<'_>, write: &Write, errno: Errno) -> CgroupError {
    if errno == Errno::BUSY && write.controller == "memory" {
        let used = node.try_read("memory.usage_in_bytes").or_else(|_| node.try_read("memory.current"));
        let used = used.unwrap_or_default();
        return CgroupError::BadValue {
            field: write.field.to_owned(),
            why: format!("{} is below the {} bytes in use", write.value, used.trim()),
        };
    }
    node.error(&write.file, format!("write {:?} for {}", write.value, write.field), errno)
}

/// The controller that a file name begins with.
fn controller_of(file: &str) -> &str {
    file.split_once('.').map_or(file, |(controller, _)| controller)
}

/// A page size as the file names have it (`2MB`).
fn page_size(text: &str) -> Result<&str, CgroupError> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_uppercase());
    let unit = &text[digits.len()..];
    let fine = matches!(unit, "KB" | "MB" | "GB")
        && (1..=4).contains(&digits.len())
        && digits.bytes().all(|byte| byte.is_ascii_digit());
    if fine {
        return Ok(text);
    }
    Err(CgroupError::BadValue {
        field: "linux.resources.hugepageLimits.pageSize".to_owned(),
        why: format!("{:?} is not a page size like 2MB", text.chars().take(32).collect::<String>()),
    })
}

/// A list of CPUs or memory nodes, cpuset(7).
fn cpu_list<'a>(field: &'static str, text: &'a str) -> Result<&'a str, CgroupError> {
    let fine = text.len() <= 4096
        && text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b',' | b'-' | b':' | b'/'));
    if fine {
        return Ok(text);
    }
    Err(CgroupError::BadValue { field: field.to_owned(), why: "is not a list like 0-3,7".to_owned() })
}

/// A value beside what the kernel can hold.
fn bad(field: &str, why: impl Into<String>) -> CgroupError {
    CgroupError::BadValue { field: field.to_owned(), why: why.into() }
}

/// -1 and less mean no limit, in the word of v2 and of the pids controller.
fn or_max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}
