//! Programs are run by an interpreter and compared with an evaluator that reads the profile itself, for
//! every number of every table.

use crate::{
    SeccompError,
    arch::{Abi, Machine, X32_BIT},
    cached, compile,
    compile::{KILL_PROCESS, NO_SUCH_CALL, instructions},
    default::profile_for,
    default_profile,
    emit::{AND, EQUAL, GREATER, GREATER_EQUAL, Insn, JUMP, LOAD, RETURN},
};
use oci_spec::runtime::{Capability, LinuxSeccomp};
use std::collections::{HashMap, HashSet};

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;

/// `struct seccomp_data`.
#[derive(Clone, Copy, Debug)]
struct Data {
    number: u32,
    arch: u32,
    args: [u64; 6],
}

impl Data {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.arch,
            16..=60 if offset.is_multiple_of(4) => {
                let arg = self.args[(offset as usize - 16) / 8];
                u32::try_from(if offset.is_multiple_of(8) { arg & 0xffff_ffff } else { arg >> 32 }).unwrap()
            }
            _ => panic!("load of {offset}"),
        }
    }
}

/// Runs a program as the kernel does.
fn run(program: &[Insn], data: &Data) -> u32 {
    let (mut at, mut a) = (0, 0);
    loop {
        let insn = program[at];
        at += 1;
        let mut jump = |holds: bool| at += usize::from(if holds { insn.jt } else { insn.jf });
        match insn.code {
            LOAD => a = data.word(insn.k),
            AND => a &= insn.k,
            JUMP => at += insn.k as usize,
            EQUAL => jump(a == insn.k),
            GREATER => jump(a > insn.k),
            GREATER_EQUAL => jump(a >= insn.k),
            RETURN => return insn.k,
            code => panic!("instruction {code:#x}"),
        }
    }
}

fn answer(action: &str, errno: Option<u64>) -> u32 {
    let errno = u32::try_from(errno.unwrap_or(1)).unwrap();
    match action {
        "SCMP_ACT_ALLOW" => ALLOW,
        "SCMP_ACT_LOG" => 0x7ffc_0000,
        "SCMP_ACT_TRAP" => 0x0003_0000,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => 0,
        "SCMP_ACT_KILL_PROCESS" => KILL_PROCESS,
        "SCMP_ACT_ERRNO" => 0x0005_0000 | errno,
        "SCMP_ACT_TRACE" => 0x7ff0_0000 | errno,
        other => panic!("{other}"),
    }
}

/// One ABI of a profile, read anew from its JSON without any of the compiler's steps.
struct Naive {
    profile: serde_json::Value,
    abi: Abi,
    names: HashMap<u32, Vec<&'static str>>,
    newest: Option<u32>,
    /// For each name the rules that it is in.
    rules: HashMap<String, Vec<usize>>,
}

impl Naive {
    fn new(profile: &LinuxSeccomp, abi: Abi) -> Naive {
        let numbers = abi.table();
        let mut names: HashMap<u32, Vec<&'static str>> = HashMap::new();
        for (name, number) in &numbers {
            names.entry(*number).or_default().push(name);
        }
        let profile = serde_json::to_value(profile).unwrap();
        let mut rules: HashMap<String, Vec<usize>> = HashMap::new();
        for (at, rule) in profile["syscalls"].as_array().into_iter().flatten().enumerate() {
            for name in rule["names"].as_array().unwrap() {
                rules.entry(name.as_str().unwrap().to_owned()).or_default().push(at);
            }
        }
        let newest = rules.keys().filter_map(|name| numbers.get(name.as_str())).max().copied();
        Naive { profile, abi, names, newest, rules }
    }

    /// Rules of a number, by their place in the profile.
    fn rules(&self, number: u32) -> Vec<usize> {
        let names = self.names.get(&number).into_iter().flatten();
        let mut rules: Vec<usize> =
            names.filter_map(|name| self.rules.get(*name)).flatten().copied().collect();
        rules.sort_unstable();
        rules.dedup();
        rules
    }

    fn looks_at_arguments(&self, number: u32) -> bool {
        let args =
            |at: &usize| self.profile["syscalls"][at]["args"].as_array().is_some_and(|args| !args.is_empty());
        self.rules(number).iter().any(args)
    }

    fn evaluate(&self, data: &Data) -> u32 {
        let default_action = self.profile["defaultAction"].as_str().unwrap();
        let default = answer(default_action, self.profile["defaultErrnoRet"].as_u64());
        let passes = ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"].contains(&default_action);
        if !passes && self.newest.is_some_and(|newest| data.number > newest) {
            return NO_SUCH_CALL;
        }
        let mut last = None;
        for at in self.rules(data.number) {
            let rule = &self.profile["syscalls"][at];
            let action = answer(rule["action"].as_str().unwrap(), rule["errnoRet"].as_u64());
            if action == default {
                continue;
            }
            let args = rule["args"].as_array().map_or(&[][..], Vec::as_slice);
            if args.is_empty() {
                last = last.or(Some(action));
                continue;
            }
            let indices: HashSet<u64> = args.iter().map(|arg| arg["index"].as_u64().unwrap()).collect();
            let holds = |arg: &serde_json::Value| self.holds(arg, data);
            let matched =
                if indices.len() == args.len() { args.iter().all(holds) } else { args.iter().any(holds) };
            if matched {
                return action;
            }
        }
        last.unwrap_or(default)
    }

    fn holds(&self, arg: &serde_json::Value, data: &Data) -> bool {
        let cut = |value: u64| match self.abi {
            Abi::X86 | Abi::Arm => value & 0xffff_ffff,
            Abi::X86_64 | Abi::X32 | Abi::Aarch64 => value,
        };
        let is = cut(data.args[usize::try_from(arg["index"].as_u64().unwrap()).unwrap()]);
        let value = cut(arg["value"].as_u64().unwrap());
        let second = cut(arg["valueTwo"].as_u64().unwrap_or(0));
        match arg["op"].as_str().unwrap() {
            "SCMP_CMP_EQ" => is == value,
            "SCMP_CMP_NE" => is != value,
            "SCMP_CMP_LT" => is < value,
            "SCMP_CMP_LE" => is <= value,
            "SCMP_CMP_GT" => is > value,
            "SCMP_CMP_GE" => is >= value,
            "SCMP_CMP_MASKED_EQ" => is & value == second,
            other => panic!("{other}"),
        }
    }
}

/// Values that stand around those that a profile compares with.
fn interesting(profile: &LinuxSeccomp) -> Vec<u64> {
    let mut values = vec![0, 1, 2, 37, 38, 39, 40, 45, 46, 64, 1 << 31, 1 << 32, u64::MAX];
    for arg in profile.syscalls().iter().flatten().filter_map(|rule| rule.args().as_ref()).flatten() {
        for value in [arg.value(), arg.value_two().unwrap_or(0)] {
            values.extend([
                value,
                value.wrapping_add(1),
                value.wrapping_sub(1),
                value | 1 << 32,
                value | 1 << 63,
            ]);
        }
    }
    values.sort_unstable();
    values.dedup();
    values
}

/// Compares program and evaluator over all numbers with arguments from `values`.
fn agree(profile: &LinuxSeccomp, machine: Machine, abis: &[Abi]) {
    let program = instructions(profile, machine).unwrap();
    let values = interesting(profile);
    for abi in abis {
        let naive = Naive::new(profile, *abi);
        let base = if *abi == Abi::X32 { X32_BIT } else { 0 };
        let numbers =
            (base..base + 600).chain([base + 0x1000, base + 0xf_0001, base + 0xf_0005, base + 0xf_ffff]);
        for number in numbers {
            // A few suffice to see that a call without comparisons ignores its arguments.
            let step = if naive.looks_at_arguments(number) { 1 } else { values.len().div_ceil(3) };
            for (at, value) in values.iter().enumerate().step_by(step) {
                // The other arguments run through the values too, out of step.
                let other = |place: usize| values[(at * 7 + place * 3 + number as usize) % values.len()];
                let data = Data {
                    number,
                    arch: abi.audit(),
                    args: [*value, other(1), other(2), other(3), other(4), other(5)],
                };
                let (is, should) = (run(&program, &data), naive.evaluate(&data));
                assert_eq!(is, should, "{abi:?} {:?} {data:x?}", naive.names.get(&number));
            }
        }
    }
}

fn caps(list: &[Capability]) -> HashSet<Capability> {
    list.iter().copied().collect()
}

fn profile(json: &str) -> LinuxSeccomp {
    serde_json::from_str(json).unwrap()
}

const X86: &[Abi] = &[Abi::X86_64, Abi::X86, Abi::X32];

#[test]
fn the_default_profile_means_what_it_says_for_every_number() {
    for capabilities in
        [caps(&[]), caps(&[Capability::SysAdmin]), caps(&[Capability::SysChroot, Capability::SysTime])]
    {
        agree(&profile_for(Machine::X86_64, &capabilities), Machine::X86_64, X86);
        agree(&profile_for(Machine::Aarch64, &capabilities), Machine::Aarch64, &[Abi::Aarch64, Abi::Arm]);
    }
}

#[test]
fn every_operator_and_action_means_what_it_says() {
    let mut rules = Vec::new();
    let operators = ["EQ", "NE", "LT", "LE", "GT", "GE", "MASKED_EQ"];
    let actions = ["ALLOW", "LOG", "TRAP", "KILL", "KILL_THREAD", "KILL_PROCESS", "ERRNO", "TRACE"];
    let names = ["read", "write", "open", "close", "stat", "fstat", "lstat", "poll", "lseek", "mmap"];
    let values: [u64; 5] = [0, 5, 0xffff_ffff, 0x1_0000_0000, 0x1234_5678_9abc_def0];
    for (at, value) in (0..).zip(values.iter().cycle().take(35)) {
        let (op, action, name) = (operators[at % 7], actions[at % 8], names[at % 10]);
        rules.push(format!(
            r#"{{"names":["{name}"],"action":"SCMP_ACT_{action}","errnoRet":{},"args":[
                {{"index":{},"value":{value},"valueTwo":{},"op":"SCMP_CMP_{op}"}},
                {{"index":{},"value":7,"op":"SCMP_CMP_{}"}}]}}"#,
            at % 3 + 1,
            at % 6,
            value & 0xff00_0000_00ff,
            (at + 1 + at / 7) % 6,
            operators[(at + 3) % 7],
        ));
    }
    rules.push(r#"{"names":["read","fstat"],"action":"SCMP_ACT_LOG"}"#.to_owned());
    rules.push(r#"{"names":["fstat"],"action":"SCMP_ACT_TRAP"}"#.to_owned());
    for default in ["ERRNO", "ALLOW", "KILL_PROCESS", "LOG"] {
        let json = format!(
            r#"{{"defaultAction":"SCMP_ACT_{default}","defaultErrnoRet":9,"architectures":["SCMP_ARCH_X86","SCMP_ARCH_X32"],
                "syscalls":[{}]}}"#,
            rules.join(",")
        );
        agree(&profile(&json), Machine::X86_64, X86);
    }
}

#[test]
fn jumps_over_more_than_255_instructions_arrive() {
    let many: Vec<String> = (0..300)
        .map(|value| {
            format!(r#"{{"names":["ioctl"],"action":"SCMP_ACT_ALLOW","args":[{{"index":1,"value":{value},"op":"SCMP_CMP_EQ"}}]}}"#)
        })
        .collect();
    let json = format!(r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{}]}}"#, many.join(","));
    let profile = profile(&json);
    assert!(instructions(&profile, Machine::X86_64).unwrap().len() > 900);
    agree(&profile, Machine::X86_64, &[Abi::X86_64]);
}

#[test]
fn two_comparisons_of_one_argument_are_alternatives() {
    let json = r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["ioctl"],"action":"SCMP_ACT_ALLOW",
        "args":[{"index":1,"value":3,"op":"SCMP_CMP_EQ"},{"index":1,"value":5,"op":"SCMP_CMP_EQ"}]}]}"#;
    let program = instructions(&profile(json), Machine::X86_64).unwrap();
    let ask =
        |value| run(&program, &Data { number: 16, arch: Abi::X86_64.audit(), args: [0, value, 0, 0, 0, 0] });
    assert_eq!([ask(3), ask(4), ask(5)], [ALLOW, EPERM, ALLOW]);
}

#[test]
fn architectures_that_are_not_listed_are_killed() {
    let json = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_MIPS"]}"#;
    let program = instructions(&profile(json), Machine::X86_64).unwrap();
    let ask = |number, arch| run(&program, &Data { number, arch, args: [0; 6] });
    assert_eq!(ask(0, Abi::X86_64.audit()), ALLOW);
    assert_eq!(ask(X32_BIT, Abi::X86_64.audit()), KILL_PROCESS);
    assert_eq!(ask(u32::MAX, Abi::X86_64.audit()), ALLOW, "a call that a tracer skips");
    for other in [Abi::X86.audit(), Abi::Arm.audit(), 0, u32::MAX] {
        assert_eq!(ask(0, other), KILL_PROCESS, "{other:#x}");
    }
}

#[test]
fn only_the_listed_socket_domains_can_be_opened() {
    let program = instructions(&profile_for(Machine::X86_64, &caps(&[])), Machine::X86_64).unwrap();
    for (abi, number) in [(Abi::X86_64, 41), (Abi::X86, 359), (Abi::X32, X32_BIT + 41)] {
        for domain in (0..=64).chain([1 << 31, 1 << 32 | 2, u64::MAX]) {
            let data = Data { number, arch: abi.audit(), args: [domain, 1, 0, 0, 0, 0] };
            let cut = if abi == Abi::X86 { domain & 0xffff_ffff } else { domain };
            let open = cut <= 45 && cut != 38 && cut != 40;
            assert_eq!(run(&program, &data), if open { ALLOW } else { EPERM }, "{abi:?} {domain:#x}");
        }
    }
}

#[test]
fn what_the_default_profile_must_refuse_it_refuses() {
    let table = Abi::X86_64.table();
    let program = instructions(&profile_for(Machine::X86_64, &caps(&[])), Machine::X86_64).unwrap();
    let ask =
        |name: &str, args| run(&program, &Data { number: table[name], arch: Abi::X86_64.audit(), args });
    for name in [
        "keyctl",
        "add_key",
        "request_key",
        "bpf",
        "userfaultfd",
        "io_uring_setup",
        "io_uring_enter",
        "io_uring_register",
        "mount",
        "umount2",
        "unshare",
        "setns",
        "perf_event_open",
        "init_module",
        "finit_module",
        "delete_module",
        "kexec_load",
        "open_by_handle_at",
        "pivot_root",
        "swapon",
        "reboot",
        "settimeofday",
        "clock_settime",
        "acct",
        "quotactl",
        "move_pages",
        "mbind",
        "chroot",
        "syslog",
        "nfsservctl",
    ] {
        assert_eq!(ask(name, [0; 6]), EPERM, "{name}");
    }
    assert_eq!(ask("clone3", [0; 6]), NO_SUCH_CALL);
    assert_eq!(ask("clone", [0x11, 0, 0, 0, 0, 0]), ALLOW);
    for flag in [0x2_0000, 0x200_0000, 0x400_0000, 0x800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000] {
        assert_eq!(ask("clone", [flag | 0x11, 0, 0, 0, 0, 0]), EPERM, "{flag:#x}");
    }
    // The newest call that the profile names is removexattrat, 466.
    assert_eq!(run(&program, &Data { number: 467, arch: Abi::X86_64.audit(), args: [0; 6] }), NO_SUCH_CALL);
    for name in ["mseal", "statmount", "listmount", "lsm_get_self_attr", "setxattrat", "uretprobe", "ptrace"]
    {
        assert_eq!(ask(name, [0; 6]), ALLOW, "{name}");
    }
}

#[test]
fn the_default_profile_is_small() {
    let length = instructions(&profile_for(Machine::X86_64, &caps(&[])), Machine::X86_64).unwrap().len();
    assert!(length < 1500, "{length} instructions");
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    let error = |json: &str| compile(&profile(json)).unwrap_err();
    let notify = error(r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#);
    assert_eq!(notify.to_string(), "defaultAction: SCMP_ACT_NOTIFY is not supported");
    let rule =
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_NOTIFY"}]}"#;
    assert_eq!(error(rule).to_string(), "syscalls[0].action: SCMP_ACT_NOTIFY is not supported");
    assert!(matches!(
        error(r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":4096}"#),
        SeccompError::BadValue { .. }
    ));
    let index = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_KILL",
        "args":[{"index":6,"value":1,"op":"SCMP_CMP_EQ"}]}]}"#;
    assert_eq!(error(index).to_string(), "syscalls[0].args: has an index above 5");
    let many: Vec<String> = (0..2500)
        .map(|value| {
            format!(r#"{{"names":["ioctl"],"action":"SCMP_ACT_ALLOW","args":[{{"index":1,"value":{value},"op":"SCMP_CMP_EQ"}}]}}"#)
        })
        .collect();
    let json = format!(r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{}]}}"#, many.join(","));
    assert!(matches!(error(&json), SeccompError::TooLong { .. }));
}

#[test]
fn names_that_no_table_knows_are_skipped() {
    let json = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["no_such_call","read"],"action":"SCMP_ACT_KILL"}]}"#;
    let program = instructions(&profile(json), Machine::X86_64).unwrap();
    assert_eq!(run(&program, &Data { number: 0, arch: Abi::X86_64.audit(), args: [0; 6] }), 0);
}

#[test]
fn a_cached_program_is_the_compiled_one_also_after_damage() {
    let dir = std::env::temp_dir().join(format!("peapod-test-{}-seccomp", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    let profile = default_profile(&caps(&[]));
    let compiled = compile(&profile).unwrap();
    assert_eq!(cached(&dir, &profile).unwrap(), compiled);
    let files = || std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let [file] = files().try_into().unwrap();
    let whole = std::fs::read(&file).unwrap();
    assert_eq!(cached(&dir, &profile).unwrap(), compiled);

    let mut changed = whole.clone();
    changed[100] ^= 1;
    for damaged in [&changed[..], &whole[..whole.len() - 8], &whole[..10], &[]] {
        std::fs::File::create(&file).unwrap();
        std::io::Write::write_all(&mut std::fs::File::create(&file).unwrap(), damaged).unwrap();
        assert_eq!(cached(&dir, &profile).unwrap(), compiled);
        assert_eq!(std::fs::read(&file).unwrap(), whole);
    }
    // Another profile has another file.
    cached(&dir, &default_profile(&caps(&[Capability::SysTime]))).unwrap();
    assert_eq!(files().len(), 2);
    for file in files() {
        std::fs::remove_file(file).unwrap();
    }
    std::fs::remove_dir(&dir).unwrap();
    assert!(matches!(cached(&dir, &profile), Err(SeccompError::Cache { .. })));
}

#[test]
fn the_kernel_takes_the_default_profile() {
    // A thread of its own keeps the filter to itself.
    let program = compile(&default_profile(&caps(&[]))).unwrap();
    std::thread::spawn(move || {
        sys::seccomp::load(program.bytes(), 0).unwrap();
        let alg = sys::rustix::net::socket(
            sys::rustix::net::AddressFamily::from_raw(38),
            sys::rustix::net::SocketType::SEQPACKET,
            None,
        );
        assert_eq!(alg.unwrap_err(), sys::rustix::io::Errno::PERM);
        sys::rustix::net::socket(
            sys::rustix::net::AddressFamily::UNIX,
            sys::rustix::net::SocketType::STREAM,
            None,
        )
        .unwrap();
    })
    .join()
    .unwrap();
}
