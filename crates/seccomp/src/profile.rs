//! Profile files of the host, which Kubernetes calls `Localhost`.
//!
//! The format is the OCI `linux.seccomp` (runtime-spec config-linux.md), and what Docker's profiles add
//! to it: `archMap` in place of `architectures`, `name` beside `names`, and rules that hold for certain
//! architectures, kernels or capabilities only (`includes`, `excludes`). Within a rule an unknown key is
//! an error: a misspelt `args` would let every call pass.

use crate::{SeccompError, arch::Machine, compile};
use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompBuilder, LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};
use serde::Deserialize;
use std::{collections::HashSet, io, path::Path};
use sys::{
    bounded::Bounded,
    rustix::{
        fs::{CWD, FileType, Mode, OFlags, fstat, openat},
        system::uname,
    },
};

/// Largest profile file; Docker's default one has 20 KiB.
const LARGEST: u64 = 1 << 20;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    architectures: Option<Vec<Arch>>,
    arch_map: Option<Vec<ArchMap>>,
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    listener_path: Option<String>,
    syscalls: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ArchMap {
    architecture: Arch,
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    name: Option<String>,
    names: Option<Vec<String>>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    /// The name of `errnoRet`, as Podman's profiles have it beside the number.
    errno: Option<String>,
    args: Option<Vec<Argument>>,
    includes: Option<Filter>,
    excludes: Option<Filter>,
    /// For people.
    #[serde(rename = "comment")]
    _comment: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Argument {
    index: usize,
    value: u64,
    value_two: Option<u64>,
    op: LinuxSeccompOperator,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Filter {
    caps: Option<Vec<String>>,
    /// As Go calls them: `amd64`.
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// Reads a profile for a process with this bounding set and proves that it can be compiled. A path of the
/// host's own administrator: links are followed.
///
/// # Errors
/// [`SeccompError`]: the file is missing, is no regular file, is larger than 1 MiB or no profile; or asks
/// for what is not supported, such as SCMP_ACT_NOTIFY.
pub fn read_profile(path: &Path, bounding: &HashSet<Capability>) -> Result<LinuxSeccomp, SeccompError> {
    let text = read(path).map_err(|source| SeccompError::Profile { path: path.to_owned(), source })?;
    let profile = parse(&text, Machine::native(), bounding)?;
    compile(&profile)?;
    Ok(profile)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    // A FIFO must not stop us before it is seen to be one.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = openat(CWD, path, flags, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&fd)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    Bounded::new(std::fs::File::from(fd), LARGEST).read_all()
}

pub(crate) fn parse(
    text: &[u8],
    machine: Machine,
    bounding: &HashSet<Capability>,
) -> Result<LinuxSeccomp, SeccompError> {
    let file: File = serde_json::from_slice(text)
        .map_err(|error| bad("the profile", &format!("is not in the format of seccomp profiles: {error}")))?;
    if file.listener_path.as_ref().is_some_and(|path| !path.is_empty()) {
        return Err(unsupported("listenerPath", "a listener"));
    }
    let flags = file.flags.unwrap_or_default();
    if flags.contains(&LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv) {
        return Err(unsupported("flags", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"));
    }
    let mut rules = Vec::new();
    for (at, rule) in file.syscalls.into_iter().flatten().enumerate() {
        if let Some(rule) = one(&format!("syscalls[{at}]"), rule, machine, bounding)? {
            rules.push(rule);
        }
    }
    let mut builder = LinuxSeccompBuilder::default()
        .default_action(file.default_action)
        .architectures(architectures(file.architectures, file.arch_map, machine)?)
        .syscalls(rules);
    if let Some(errno) = file.default_errno_ret {
        builder = builder.default_errno_ret(errno);
    }
    if !flags.is_empty() {
        builder = builder.flags(flags);
    }
    builder.build().map_err(|error| bad("the profile", &error.to_string()))
}

fn architectures(
    listed: Option<Vec<Arch>>,
    map: Option<Vec<ArchMap>>,
    machine: Machine,
) -> Result<Vec<Arch>, SeccompError> {
    let (listed, map) = (listed.unwrap_or_default(), map.unwrap_or_default());
    if !listed.is_empty() && !map.is_empty() {
        return Err(bad("archMap", "is given beside architectures: want one of them"));
    }
    let own = map.into_iter().filter(|entry| machine.abi(entry.architecture) == Some(machine.own()));
    let mapped = own.flat_map(|entry| {
        std::iter::once(entry.architecture).chain(entry.sub_architectures.unwrap_or_default())
    });
    Ok(listed.into_iter().chain(mapped).collect())
}

/// A rule, if it holds on this machine and for these capabilities.
fn one(
    field: &str,
    rule: Rule,
    machine: Machine,
    bounding: &HashSet<Capability>,
) -> Result<Option<LinuxSyscall>, SeccompError> {
    let names: Vec<String> = rule.name.into_iter().chain(rule.names.unwrap_or_default()).collect();
    if names.is_empty() {
        return Err(bad(&format!("{field}.names"), "is empty"));
    }
    if rule.errno.is_some() && rule.errno_ret.is_none() {
        return Err(bad(&format!("{field}.errno"), "is given without errnoRet, the number"));
    }
    let included = rule.includes.unwrap_or_default();
    let excluded = rule.excludes.unwrap_or_default();
    let holds = arches(&included).is_none_or(|mut all| all.any(|arch| arch == machine.go_name()))
        && included.caps.iter().flatten().all(|name| has(bounding, name))
        && match &included.min_kernel {
            Some(least) => kernel_is_at_least(&format!("{field}.includes.minKernel"), least)?,
            None => true,
        };
    let fails = arches(&excluded).is_some_and(|mut all| all.any(|arch| arch == machine.go_name()))
        || excluded.caps.iter().flatten().any(|name| has(bounding, name))
        || match &excluded.min_kernel {
            Some(least) => kernel_is_at_least(&format!("{field}.excludes.minKernel"), least)?,
            None => false,
        };
    if !holds || fails {
        return Ok(None);
    }
    let args = rule.args.unwrap_or_default().iter().map(argument).collect::<Result<Vec<_>, _>>()?;
    let mut builder = LinuxSyscallBuilder::default().names(names).action(rule.action).args(args);
    if let Some(errno) = rule.errno_ret {
        builder = builder.errno_ret(errno);
    }
    builder.build().map(Some).map_err(|error| bad(field, &error.to_string()))
}

/// The architectures that a filter names, if it names any.
fn arches(filter: &Filter) -> Option<impl Iterator<Item = &str>> {
    filter.arches.as_deref().filter(|all| !all.is_empty()).map(|all| all.iter().map(String::as_str))
}

fn has(bounding: &HashSet<Capability>, name: &str) -> bool {
    bounding.iter().any(|capability| {
        let own = capability.to_string();
        own.trim_start_matches("CAP_") == name.trim_start_matches("CAP_")
    })
}

fn argument(asked: &Argument) -> Result<LinuxSeccompArg, SeccompError> {
    let mut builder = LinuxSeccompArgBuilder::default().index(asked.index).value(asked.value).op(asked.op);
    if let Some(second) = asked.value_two {
        builder = builder.value_two(second);
    }
    builder.build().map_err(|error| bad("args", &error.to_string()))
}

/// `4.8`: major and minor.
fn kernel_is_at_least(field: &str, least: &str) -> Result<bool, SeccompError> {
    let two = |text: &str| -> Option<(u32, u32)> {
        let mut parts = text.split(|c: char| !c.is_ascii_digit());
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    };
    let least = two(least).ok_or_else(|| bad(field, "is not a version such as 4.8"))?;
    let running = two(&uname().release().to_string_lossy());
    Ok(running.is_none_or(|running| running >= least))
}

fn bad(field: &str, why: &str) -> SeccompError {
    SeccompError::BadValue { field: field.to_owned(), why: why.to_owned() }
}

fn unsupported(field: &str, what: &str) -> SeccompError {
    SeccompError::Unsupported { field: field.to_owned(), what: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<LinuxSeccomp, String> {
        let bounding = [Capability::NetAdmin].into_iter().collect();
        parse(text.as_bytes(), Machine::X86_64, &bounding).map_err(|error| error.to_string())
    }

    fn names(profile: &LinuxSeccomp) -> Vec<&str> {
        let rules = profile.syscalls().iter().flatten();
        rules.flat_map(|rule| rule.names().iter().map(String::as_str)).collect()
    }

    #[test]
    fn a_profile_as_go_writes_it_is_read_whole() {
        let profile = read_text(
            r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,
                "architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86"],
                "flags":["SECCOMP_FILTER_FLAG_LOG"],"listenerPath":"","listenerMetadata":"",
                "syscalls":[{"names":["read","socket"],"action":"SCMP_ACT_ALLOW","errnoRet":null,"args":null},
                {"names":["personality"],"action":"SCMP_ACT_ALLOW",
                 "args":[{"index":0,"value":8,"valueTwo":0,"op":"SCMP_CMP_EQ"}]}]}"#,
        )
        .expect("a profile");
        assert_eq!(profile.default_errno_ret(), Some(38));
        assert_eq!(profile.architectures().as_deref(), Some(&[Arch::ScmpArchX86_64, Arch::ScmpArchX86][..]));
        assert_eq!(names(&profile), ["read", "socket", "personality"]);
        let args = profile.syscalls().as_ref().and_then(|all| all[1].args().clone()).expect("arguments");
        assert_eq!((args[0].index(), args[0].value(), args[0].value_two()), (0, 8, Some(0)));
        compile(&profile).expect("a program");
    }

    #[test]
    fn dockers_conditions_choose_the_rules_of_this_machine() {
        let rule = |name: &str, condition: &str| {
            format!(r#"{{"name":"{name}","action":"SCMP_ACT_ALLOW","args":[],"comment":"x",{condition}}}"#)
        };
        let rules = [
            rule("getpid", r#""includes":{},"excludes":{}"#),
            rule("mount", r#""includes":{"caps":["CAP_SYS_ADMIN"]}"#),
            rule("sethostname", r#""includes":{"caps":["CAP_NET_ADMIN"]}"#),
            rule("clone", r#""excludes":{"caps":["CAP_NET_ADMIN"]}"#),
            rule("arch_prctl", r#""includes":{"arches":["amd64","x32"]}"#),
            rule("breakpoint", r#""includes":{"arches":["arm"]}"#),
            rule("ptrace", r#""includes":{"minKernel":"4.8"}"#),
            rule("uname", r#""includes":{"minKernel":"99.0"}"#),
        ];
        let text = format!(
            r#"{{"defaultAction":"SCMP_ACT_ERRNO","archMap":[
                {{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]}},
                {{"architecture":"SCMP_ARCH_AARCH64","subArchitectures":["SCMP_ARCH_ARM"]}}],
                "syscalls":[{}]}}"#,
            rules.join(",")
        );
        let profile = read_text(&text).expect("a profile");
        assert_eq!(names(&profile), ["getpid", "sethostname", "arch_prctl", "ptrace"]);
        assert_eq!(profile.architectures().as_deref(), Some(&[Arch::ScmpArchX86_64, Arch::ScmpArchX86][..]));
    }

    #[test]
    fn what_is_no_profile_is_refused_with_the_reason() {
        let rule = |text: &str| format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{text}]}}"#);
        for (text, why) in [
            (String::new(), "EOF"),
            ("{}".to_owned(), "defaultAction"),
            ("[]".to_owned(), "the profile"),
            (r#"{"defaultAction":"SCMP_ACT_NOTHING"}"#.to_owned(), "SCMP_ACT_NOTHING"),
            (rule(r#"{"action":"SCMP_ACT_KILL"}"#), "syscalls[0].names"),
            (rule(r#"{"names":["read"],"action":"SCMP_ACT_KILL","arg":[]}"#), "unknown field `arg`"),
            (rule(r#"{"names":["read"],"action":"SCMP_ACT_KILL","errno":"EPERM"}"#), "syscalls[0].errno"),
            (
                rule(r#"{"names":["read"],"action":"SCMP_ACT_KILL","includes":{"minKernel":"new"}}"#),
                "syscalls[0].includes.minKernel",
            ),
            (r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/x"}"#.to_owned(), "listenerPath"),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}"#
                    .to_owned(),
                "WAIT_KILLABLE_RECV",
            ),
        ] {
            let error = read_text(&text).expect_err(&text);
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_file_that_is_missing_endless_or_asks_for_a_listener_is_refused() {
        let none = HashSet::new();
        let refused = |path: &str| {
            read_profile(Path::new(path), &none).map_err(|error| {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                cause.unwrap_or_else(|| error.to_string())
            })
        };
        assert!(refused("/no/such/profile.json").expect_err("missing").contains("No such file"));
        for path in ["/dev/zero", "/proc"] {
            assert!(refused(path).expect_err(path).contains("no regular file"), "{path}");
        }
        let dir = std::env::temp_dir().join(format!("peapod-test-seccomp-{}", std::process::id()));
        std::fs::create_dir(&dir).expect("a directory");
        let path = dir.join("p.json");
        let sparse = std::fs::File::create(&path).expect("a file");
        sparse.set_len(4 << 30).expect("a sparse file");
        let large = refused(&path.display().to_string());
        std::fs::File::create(&path).and_then(|mut file| std::io::Write::write_all(&mut file,
            br#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_NOTIFY"}]}"#,
        ))
        .expect("written");
        let notify = refused(&path.display().to_string());
        sys::tree::remove_path(&dir).expect("removed");
        assert!(large.expect_err("large").contains("more than 1048576 bytes"));
        assert!(notify.expect_err("notify").contains("SCMP_ACT_NOTIFY is not supported"));
    }
}
