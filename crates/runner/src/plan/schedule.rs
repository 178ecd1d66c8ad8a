//! `process.scheduler`, `process.ioPriority`, `process.execCPUAffinity` and `linux.personality`.

use crate::RunnerError;
use oci_spec::runtime::{
    ExecCPUAffinity, IOPriorityClass, Linux, LinuxIOPriority, LinuxPersonalityDomain, LinuxSchedulerFlag,
    LinuxSchedulerPolicy, Scheduler,
};
use sys::{rustix::thread::CpuSet, sched};

/// personality(2): a 32-bit system, by uname(2).
const PER_LINUX32: u32 = 8;

/// The processors of a process that joins a container: before it is in its cgroup, and then.
#[derive(Debug, Default)]
pub(crate) struct Affinity {
    pub(crate) first: Option<CpuSet>,
    pub(crate) then: Option<CpuSet>,
}

/// What does not go with the policy is refused, and not left to the kernel, which would ignore it.
pub(crate) fn scheduler(wanted: Option<&Scheduler>) -> Result<Option<sched::Attributes>, RunnerError> {
    use LinuxSchedulerPolicy as Policy;
    let Some(wanted) = wanted else { return Ok(None) };
    let refuse =
        |name: &str, why: String| Err(RunnerError::invalid(format!("process.scheduler.{name}"), why));
    let mut found = sched::Attributes::default();
    let (policy, is_nice, is_real_time, is_deadline) = match wanted.policy() {
        Policy::SchedOther => (0, true, false, false),
        Policy::SchedFifo => (1, false, true, false),
        Policy::SchedRr => (2, false, true, false),
        Policy::SchedBatch => (3, true, false, false),
        Policy::SchedIso => (4, false, false, false),
        Policy::SchedIdle => (5, false, false, false),
        Policy::SchedDeadline => (6, false, false, true),
    };
    found.policy = policy;
    let with = format!("does not go with {}", wanted.policy());
    if let Some(nice) = wanted.nice().filter(|nice| *nice != 0) {
        if !is_nice {
            return refuse("nice", with);
        }
        if !(-20..=19).contains(&nice) {
            return refuse("nice", format!("{nice} is not between -20 and 19"));
        }
        found.nice = nice;
    }
    if let Some(priority) = wanted.priority().filter(|priority| *priority != 0) {
        found.priority = match u32::try_from(priority) {
            Ok(_) if !is_real_time => return refuse("priority", with),
            Ok(number @ 1..=99) => number,
            Ok(_) | Err(_) => return refuse("priority", format!("{priority} is not between 1 and 99")),
        };
    }
    for (name, value, into) in [
        ("runtime", wanted.runtime(), &mut found.runtime),
        ("deadline", wanted.deadline(), &mut found.deadline),
        ("period", wanted.period(), &mut found.period),
    ] {
        match value {
            Some(value) if *value != 0 && !is_deadline => return refuse(name, with),
            value => *into = value.unwrap_or(0),
        }
    }
    found.flags = wanted.flags().iter().flatten().map(flag).fold(0, |all, one| all | one);
    Ok(Some(found))
}

/// `SCHED_FLAG_*` of linux/sched.h.
fn flag(flag: &LinuxSchedulerFlag) -> u64 {
    use LinuxSchedulerFlag as Flag;
    match flag {
        Flag::SchedResetOnFork => 0x01,
        Flag::SchedFlagReclaim => 0x02,
        Flag::SchedFlagDLOverrun => 0x04,
        Flag::SchedFlagKeepPolicy => 0x08,
        Flag::SchedFlagKeepParams => 0x10,
        Flag::SchedFlagUtilClampMin => 0x20,
        Flag::SchedFlagUtilClampMax => 0x40,
    }
}

/// Class and priority, ioprio_set(2).
pub(crate) fn io_priority(wanted: Option<&LinuxIOPriority>) -> Result<Option<(u16, u16)>, RunnerError> {
    let Some(wanted) = wanted else { return Ok(None) };
    let class = match wanted.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match u16::try_from(wanted.priority()) {
        Ok(priority @ 0..=7) => Ok(Some((class, priority))),
        Ok(_) | Err(_) => Err(RunnerError::invalid(
            "process.ioPriority.priority",
            format!("{} is not between 0 and 7", wanted.priority()),
        )),
    }
}

/// The sets of processors, from lists like `0-3,7`.
pub(crate) fn affinity(wanted: Option<&ExecCPUAffinity>) -> Result<Affinity, RunnerError> {
    let Some(wanted) = wanted else { return Ok(Affinity::default()) };
    let list = |name: &str, list: &Option<String>| match list.as_deref() {
        None | Some("") => Ok(None),
        Some(text) => cpus(text).map(Some).ok_or_else(|| {
            RunnerError::invalid(
                format!("process.execCPUAffinity.{name}"),
                format!("`{text}` is no list of CPUs"),
            )
        }),
    };
    Ok(Affinity {
        first: list("initial", wanted.initial())?,
        then: list("final", wanted.cpu_affinity_final())?,
    })
}

fn cpus(text: &str) -> Option<CpuSet> {
    let mut set = CpuSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.parse().ok().filter(|at: &usize| *at < CpuSet::MAX_CPU);
        let (first, last) = (number(first.trim())?, number(last.trim())?);
        if first > last {
            return None;
        }
        (first..=last).for_each(|at| set.set(at));
    }
    Some(set)
}

/// `PER_*` of personality(2), when it is to be set.
pub(crate) fn personality(linux: Option<&Linux>) -> Result<Option<u32>, RunnerError> {
    let Some(wanted) = linux.and_then(|linux| linux.personality().as_ref()) else { return Ok(None) };
    if wanted.flags().as_ref().is_some_and(|flags| !flags.is_empty()) {
        return Err(RunnerError::unsupported("linux.personality.flags", ""));
    }
    match wanted.domain() {
        LinuxPersonalityDomain::PerLinux => Ok(Some(0)),
        LinuxPersonalityDomain::PerLinux32 if cfg!(target_pointer_width = "64") => Ok(Some(PER_LINUX32)),
        LinuxPersonalityDomain::PerLinux32 => {
            Err(RunnerError::unsupported("linux.personality.domain", "LINUX32 on a machine of 32 bits"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_go_with_a_policy_is_refused_by_name() {
        let check = |json: &str| {
            let found = scheduler(Some(&serde_json::from_str(json).expect("scheduler")));
            found.map(Option::unwrap_or_default).map_err(|error| error.to_string())
        };
        let fine =
            check(r#"{"policy":"SCHED_BATCH","nice":5,"flags":["SCHED_RESET_ON_FORK"]}"#).expect("fine");
        assert_eq!((fine.policy, fine.nice, fine.flags), (3, 5, 1));
        let fine = check(r#"{"policy":"SCHED_DEADLINE","runtime":1,"deadline":2,"period":3}"#).expect("fine");
        assert_eq!((fine.policy, fine.runtime, fine.deadline, fine.period), (6, 1, 2, 3));
        for (json, field) in [
            (r#"{"policy":"SCHED_OTHER","nice":20}"#, "nice"),
            (r#"{"policy":"SCHED_FIFO","nice":1}"#, "nice"),
            (r#"{"policy":"SCHED_OTHER","priority":1}"#, "priority"),
            (r#"{"policy":"SCHED_RR","priority":100}"#, "priority"),
            (r#"{"policy":"SCHED_RR","priority":-1}"#, "priority"),
            (r#"{"policy":"SCHED_IDLE","runtime":1}"#, "runtime"),
        ] {
            let error = check(json).expect_err(json);
            assert!(error.starts_with(&format!("process.scheduler.{field} is invalid")), "{error}");
        }
    }

    #[test]
    fn lists_of_processors_are_read_and_others_refused() {
        let set = cpus("0-1, 3").expect("fine");
        assert!((0..5).map(|at| set.is_set(at)).eq([true, true, false, true, false]));
        for bad in ["", "a", "1-", "3-1", "0,,1", "4096"] {
            assert!(cpus(bad).is_none(), "{bad}");
        }
    }
}
