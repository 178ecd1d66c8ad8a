//! What one process shall be: the same for a container's first process and for one that joins it.

use super::{
    options::text,
    schedule::{self, Affinity},
    userns::UserPlan,
};
use crate::RunnerError;
use oci_spec::runtime::{Capabilities, Linux, LinuxSeccomp, Process};
use std::{ffi::CString, path::PathBuf};
use sys::{
    caps,
    exec::Strings,
    libc,
    rustix::{
        fs::Mode,
        process::{Gid, Resource, Uid},
    },
    sched,
};

/// `PATH` of a process whose environment has none, as execvp(3) takes it.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The most bytes of one argument or variable: MAX_ARG_STRLEN of the kernel.
const MOST_STRING: usize = 128 << 10;

/// A process, ready for the child: no look-up and no parsing is left.
#[derive(Debug)]
pub(crate) struct ProcessPlan {
    pub(crate) argv: Strings,
    pub(crate) env: Strings,
    /// `args[0]`, for messages.
    pub(crate) program: String,
    /// Where the program may be, in order.
    pub(crate) candidates: Vec<CString>,
    pub(crate) cwd: PathBuf,
    pub(crate) uid: Uid,
    pub(crate) gid: Gid,
    pub(crate) groups: Vec<Gid>,
    pub(crate) umask: Mode,
    pub(crate) caps: caps::Sets,
    pub(crate) no_new_privs: bool,
    pub(crate) rlimits: Vec<(Resource, u64, u64)>,
    /// Who, on the host, is given the pipes, so that the process can open them again.
    pub(crate) pipes_owner: Option<Uid>,
    pub(crate) oom_score_adj: Option<i32>,
    pub(crate) scheduler: Option<sched::Attributes>,
    /// Class and priority, ioprio_set(2).
    pub(crate) io_priority: Option<(u16, u16)>,
    /// For a process that joins a container.
    pub(crate) affinity: Affinity,
    /// `PER_*`, personality(2).
    pub(crate) personality: Option<u32>,
    /// Rows and columns of the terminal, if asked.
    pub(crate) console_size: Option<(u16, u16)>,
    pub(crate) seccomp: Option<Filter>,
    /// The AppArmor profile from the exec on.
    pub(crate) apparmor: Option<String>,
    /// The SELinux label from the exec on.
    pub(crate) selinux: Option<String>,
}

/// A seccomp program with the flags to load it with.
#[derive(Debug)]
pub(crate) struct Filter {
    pub(crate) program: Vec<u8>,
    pub(crate) flags: u64,
}

impl ProcessPlan {
    /// `inside`: the user namespace that it is in, if it is in one of its own.
    pub(crate) fn new(
        process: &Process,
        linux: Option<&Linux>,
        seccomp: Option<Filter>,
        inside: Option<&UserPlan>,
    ) -> Result<Self, RunnerError> {
        refuse(process)?;
        if let Some(user) = inside {
            user.check(process.user())?;
        }
        let args = process.args().as_deref().unwrap_or_default();
        let program = args.first().cloned().unwrap_or_default();
        if program.is_empty() {
            return Err(RunnerError::invalid("process.args", "it names no program"));
        }
        let env = process.env().as_deref().unwrap_or_default();
        let user = process.user();
        let pipes_owner = match inside {
            Some(mapped) => mapped.host_uid(user.uid()),
            None => Some(user.uid()).filter(|uid| *uid != 0),
        };
        Ok(ProcessPlan {
            candidates: candidates(&program, env)?,
            argv: strings("process.args", args)?,
            env: strings("process.env", env)?,
            program,
            cwd: absolute("process.cwd", process.cwd())?,
            uid: Uid::from_raw(id("process.user.uid", user.uid())?),
            gid: Gid::from_raw(id("process.user.gid", user.gid())?),
            groups: groups(user.additional_gids().as_deref().unwrap_or_default())?,
            umask: Mode::from_raw_mode(user.umask().unwrap_or(0o022) & 0o777),
            caps: capabilities(process, inside.is_some())?,
            pipes_owner: pipes_owner.map(Uid::from_raw),
            no_new_privs: process.no_new_privileges().unwrap_or(false),
            rlimits: rlimits(process)?,
            oom_score_adj: oom_score_adj(process)?,
            scheduler: schedule::scheduler(process.scheduler().as_ref())?,
            io_priority: schedule::io_priority(process.io_priority().as_ref())?,
            affinity: schedule::affinity(process.exec_cpu_affinity().as_ref())?,
            personality: schedule::personality(linux)?,
            console_size: process.console_size().map(|size| {
                let cut = |value: u64| u16::try_from(value).unwrap_or(u16::MAX);
                (cut(size.height()), cut(size.width()))
            }),
            seccomp,
            apparmor: apparmor(process)?,
            selinux: selinux(process)?,
        })
    }
}

/// The flags of `linux.seccomp.flags`; none named means SPEC_ALLOW, as with other runtimes: else each
/// filtered process would pay for the mitigation of speculative store bypass.
pub(crate) fn seccomp_flags(seccomp: &LinuxSeccomp) -> Result<u64, RunnerError> {
    use oci_spec::runtime::LinuxSeccompFilterFlag as Flag;
    let Some(named) = seccomp.flags() else { return Ok(libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW) };
    let mut flags = 0;
    for flag in named {
        flags |= match flag {
            Flag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
            Flag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            // The process has one thread when the filter is loaded.
            Flag::SeccompFilterFlagTsync => 0,
            Flag::SeccompFilterFlagWaitKillableRecv => {
                return Err(RunnerError::unsupported("linux.seccomp.flags", "WAIT_KILLABLE_RECV"));
            }
        };
    }
    Ok(flags)
}

/// A path that is absolute and has no `..`.
pub(crate) fn absolute(field: &str, path: &std::path::Path) -> Result<PathBuf, RunnerError> {
    use std::path::Component;
    if !path.is_absolute() {
        return Err(RunnerError::invalid(field, format!("`{}` is not an absolute path", path.display())));
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(RunnerError::invalid(field, format!("`{}` has a `..`", path.display())));
    }
    if path.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(RunnerError::invalid(field, "it holds a NUL byte"));
    }
    Ok(path.components().collect())
}

fn refuse(process: &Process) -> Result<(), RunnerError> {
    let asked = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let fields = [
        ("process.commandLine", asked(process.command_line())),
        ("process.user.username", asked(process.user().username())),
    ];
    match fields.iter().find(|(_, asked)| *asked) {
        Some((field, _)) => Err(RunnerError::unsupported(*field, "")),
        None => Ok(()),
    }
}

/// A name that is one line and no more than the kernel reads at once.
pub(crate) fn one_line(field: &str, text: &str) -> Result<String, RunnerError> {
    if text.len() > 4000 || text.chars().any(char::is_control) {
        return Err(RunnerError::invalid(field, "it is not one line of at most 4000 bytes"));
    }
    Ok(text.to_owned())
}

fn apparmor(process: &Process) -> Result<Option<String>, RunnerError> {
    match process.apparmor_profile().as_deref() {
        None | Some("" | "unconfined") => Ok(None),
        Some(name) => one_line("process.apparmorProfile", name).map(Some),
    }
}

fn selinux(process: &Process) -> Result<Option<String>, RunnerError> {
    match process.selinux_label().as_deref() {
        None | Some("") => Ok(None),
        Some(label) => {
            let label = one_line("process.selinuxLabel", label)?;
            super::label::wants_selinux("process.selinuxLabel")?;
            Ok(Some(label))
        }
    }
}

fn strings(field: &str, texts: &[String]) -> Result<Strings, RunnerError> {
    let convert = |(at, value): (usize, &String)| {
        let field = format!("{field}[{at}]");
        if value.len() >= MOST_STRING {
            return Err(RunnerError::invalid(field, format!("it is longer than {MOST_STRING} bytes")));
        }
        text(&field, value.as_str())
    };
    texts.iter().enumerate().map(convert).collect::<Result<Vec<_>, _>>().map(Strings::new)
}

/// A name with a slash stands for itself; any other is looked for in `PATH` of the container's environment.
fn candidates(program: &str, env: &[String]) -> Result<Vec<CString>, RunnerError> {
    if program.contains('/') {
        return Ok(vec![text("process.args[0]", program)?]);
    }
    // Of several entries the last counts, as it does for the program itself once libc has read them.
    let path = env.iter().rev().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    path.split(':')
        .map(|dir| if dir.is_empty() { "." } else { dir })
        .map(|dir| text("process.args[0]", format!("{dir}/{program}")))
        .collect()
}

/// -1 means "leave it" to the kernel and is no id.
fn id(field: &str, number: u32) -> Result<u32, RunnerError> {
    if number == u32::MAX { Err(RunnerError::invalid(field, "4294967295 is no id")) } else { Ok(number) }
}

fn groups(numbers: &[u32]) -> Result<Vec<Gid>, RunnerError> {
    if numbers.len() > 65_536 {
        return Err(RunnerError::invalid("process.user.additionalGids", "there are more than 65536"));
    }
    numbers.iter().map(|gid| id("process.user.additionalGids", *gid).map(Gid::from_raw)).collect()
}

fn bits(wanted: Option<&Capabilities>) -> u64 {
    let number = |name: String| caps::number(&name);
    wanted.into_iter().flatten().filter_map(|cap| number(cap.to_string())).fold(0, |sum, at| sum | (1 << at))
}

/// The sets as asked, cut to what this process has itself: more than that nobody can give, and a
/// container that names one more (all of them, say) would else not start at all on such a node. In a user
/// namespace of its own (`inside`) it begins with all that the kernel knows.
fn capabilities(process: &Process, inside: bool) -> Result<caps::Sets, RunnerError> {
    let Some(wanted) = process.capabilities() else { return Ok(caps::Sets::default()) };
    let step = RunnerError::step("read the own capabilities");
    let most = if inside {
        caps::known().map_err(step)?
    } else {
        let own = caps::current().and_then(|sets| Ok((sets.permitted.bits(), caps::bounding()?)));
        let (permitted, bounding) = own.map_err(step)?;
        permitted & bounding
    };
    let bounding = bits(wanted.bounding().as_ref()) & most;
    let permitted = bits(wanted.permitted().as_ref()) & most;
    let inheritable = bits(wanted.inheritable().as_ref()) & most;
    Ok(caps::Sets {
        bounding,
        permitted,
        effective: bits(wanted.effective().as_ref()) & permitted,
        inheritable,
        // The kernel wants each ambient one permitted and inheritable.
        ambient: bits(wanted.ambient().as_ref()) & permitted & inheritable,
    })
}

fn rlimits(process: &Process) -> Result<Vec<(Resource, u64, u64)>, RunnerError> {
    let mut limits: Vec<(Resource, u64, u64)> = Vec::new();
    for (at, wanted) in process.rlimits().iter().flatten().enumerate() {
        let field = format!("process.rlimits[{at}]");
        let name = wanted.typ().to_string();
        let name = if name.starts_with("RLIMIT_") { name } else { format!("RLIMIT_{}", name.to_uppercase()) };
        let Some(resource) = sys::rlimit::by_name(&name) else {
            return Err(RunnerError::unsupported(format!("{field}.type"), name));
        };
        if limits.iter().any(|(seen, ..)| *seen == resource) {
            return Err(RunnerError::invalid(field, format!("{name} is named twice")));
        }
        if wanted.soft() > wanted.hard() {
            return Err(RunnerError::invalid(field, "the soft limit is above the hard one"));
        }
        limits.push((resource, wanted.soft(), wanted.hard()));
    }
    Ok(limits)
}

fn oom_score_adj(process: &Process) -> Result<Option<i32>, RunnerError> {
    match process.oom_score_adj() {
        Some(value) if !(-1000..=1000).contains(&value) => {
            Err(RunnerError::invalid("process.oomScoreAdj", format!("{value} is not between -1000 and 1000")))
        }
        value => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{Capability, LinuxCapabilities, ProcessBuilder, UserBuilder};

    fn process() -> Process {
        ProcessBuilder::default().args(["sh".to_owned()]).cwd("/").build().expect("process")
    }

    #[test]
    fn a_bare_name_is_looked_for_in_the_containers_own_path() {
        let found = candidates("sh", &["PATH=/a::/b".to_owned()]).expect("fine");
        assert!(found.iter().map(AsRef::as_ref).eq([c"/a/sh", c"./sh", c"/b/sh"]), "{found:?}");
        let found = candidates("x/sh", &[]).expect("fine");
        assert!(found.iter().map(AsRef::as_ref).eq([c"x/sh"]), "{found:?}");
        assert_eq!(candidates("sh", &[]).expect("fine").len(), 6);
    }

    #[test]
    fn inheritable_and_ambient_are_empty_unless_asked_for() {
        let mut wanted = process();
        let mut sets = LinuxCapabilities::default();
        let chown = || Some([Capability::Chown].into_iter().collect());
        sets.set_bounding(chown()).set_permitted(chown()).set_effective(chown());
        sets.set_inheritable(None).set_ambient(chown());
        wanted.set_capabilities(Some(sets));
        let plan = ProcessPlan::new(&wanted, None, None, None).expect("plan");
        let expected = caps::Sets { bounding: 1, permitted: 1, effective: 1, inheritable: 0, ambient: 0 };
        assert_eq!(plan.caps, expected);
    }

    #[test]
    fn each_bad_field_is_named() {
        let check = |change: &dyn Fn(&mut Process), field: &str| {
            let mut bad = process();
            change(&mut bad);
            let error = ProcessPlan::new(&bad, None, None, None).expect_err(field).to_string();
            assert!(error.contains(field), "{field}: {error}");
        };
        let user = |uid: u32| UserBuilder::default().uid(uid).gid(0_u32).build().expect("user");
        check(
            &|p| {
                p.set_args(None);
            },
            "process.args",
        );
        check(
            &|p| {
                p.set_args(Some(vec!["a\0b".to_owned()]));
            },
            "process.args[0]",
        );
        check(
            &|p| {
                p.set_env(Some(vec!["A=1".to_owned(), "A=\0".to_owned()]));
            },
            "process.env[1]",
        );
        check(
            &|p| {
                p.set_cwd("etc".into());
            },
            "process.cwd",
        );
        check(
            &|p| {
                p.set_cwd("/a/../b".into());
            },
            "process.cwd",
        );
        check(
            &|p| {
                p.set_user(user(u32::MAX));
            },
            "process.user.uid",
        );
        check(
            &|p| {
                p.set_oom_score_adj(Some(1001));
            },
            "process.oomScoreAdj",
        );
        check(
            &|p| {
                p.set_apparmor_profile(Some("x\nexec y".to_owned()));
            },
            "process.apparmorProfile",
        );
        check(
            &|p| {
                p.set_selinux_label(Some("x\0".to_owned()));
            },
            "process.selinuxLabel",
        );
    }
}
