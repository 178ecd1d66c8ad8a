//! From a profile to a program: rules by number, ranges of equal answers, a binary search over them.

use crate::{
    SeccompError,
    arch::{Abi, Machine, X32_BIT},
    emit::{EQUAL, Emitter, GREATER, GREATER_EQUAL, Insn, Label},
};
use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};
use std::collections::BTreeMap;

/// The kernel's BPF_MAXINSNS.
const MAX_INSTRUCTIONS: usize = 4096;
/// Most rules and names of a profile; the default one has some 60 rules and 400 names.
const MAX_RULES: usize = 4096;
/// Most names of one rule.
const MAX_NAMES: usize = 4096;
/// Number of arguments of a call.
const ARGUMENTS: usize = 6;

// Actions, linux/seccomp.h.
pub(crate) const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;
/// The answer to calls that are newer than the profile.
pub(crate) const NO_SUCH_CALL: u32 = ERRNO | 38;
/// Largest errno that the kernel passes on.
const MAX_ERRNO: u32 = 4095;

// Offsets in `struct seccomp_data`, linux/seccomp.h.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

/// A number that tracers write to skip a call; no ABI has it.
const SKIPPED: u32 = u32::MAX;

/// A compiled profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    bytes: Vec<u8>,
}

impl Program {
    /// The instructions as `struct sock_filter` (linux/filter.h), 8 bytes each, in the machine's byte
    /// order: what seccomp(2) takes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn from_bytes(bytes: Vec<u8>) -> Program {
        Program { bytes }
    }

    fn from_instructions(instructions: &[Insn]) -> Program {
        let mut bytes = Vec::with_capacity(instructions.len() * 8);
        for insn in instructions {
            bytes.extend(insn.code.to_ne_bytes());
            bytes.extend([insn.jt, insn.jf]);
            bytes.extend(insn.k.to_ne_bytes());
        }
        Program { bytes }
    }
}

/// Compiles a profile for this machine.
///
/// # Errors
/// [`SeccompError`]; among them SCMP_ACT_NOTIFY, which is not supported.
pub fn compile(profile: &LinuxSeccomp) -> Result<Program, SeccompError> {
    instructions(profile, Machine::native()).map(|program| Program::from_instructions(&program))
}

/// One comparison of an argument.
#[derive(Clone, Copy, Debug)]
struct Comparison {
    /// Index of the argument.
    argument: u32,
    op: LinuxSeccompOperator,
    value: u64,
    second: u64,
}

/// What a profile says about one call.
#[derive(Clone, Debug, Default)]
struct Call {
    /// Rules with comparisons, in order: all must hold for the action.
    rules: Vec<(Vec<Comparison>, u32)>,
    /// The action if none of them holds; absent: the default.
    otherwise: Option<u32>,
}

/// What a range of numbers leads to.
#[derive(Clone, Copy, Debug)]
enum Leaf<'a> {
    Action(u32),
    Call(&'a Call, bool),
}

/// The program as instructions, for any machine.
pub(crate) fn instructions(profile: &LinuxSeccomp, machine: Machine) -> Result<Vec<Insn>, SeccompError> {
    let default = action(profile.default_action(), profile.default_errno_ret(), "defaultAction")?;
    let rules = profile.syscalls().as_deref().unwrap_or_default();
    if rules.len() > MAX_RULES {
        return Err(bad("syscalls", "has more than 4096 rules"));
    }
    let mut abis: Vec<Abi> = vec![machine.own()];
    abis.extend(profile.architectures().iter().flatten().filter_map(|arch| machine.abi(*arch)));
    abis.sort();
    abis.dedup();

    // A default that lets calls pass needs no ENOSYS beyond the newest; a tracer sees to it itself.
    let permissive = match profile.default_action() {
        LinuxSeccompAction::ScmpActAllow
        | LinuxSeccompAction::ScmpActLog
        | LinuxSeccompAction::ScmpActTrace => true,
        LinuxSeccompAction::ScmpActKill
        | LinuxSeccompAction::ScmpActKillThread
        | LinuxSeccompAction::ScmpActKillProcess
        | LinuxSeccompAction::ScmpActTrap
        | LinuxSeccompAction::ScmpActErrno
        | LinuxSeccompAction::ScmpActNotify => false,
    };
    let mut tables: BTreeMap<Abi, (BTreeMap<u32, Call>, Option<u32>)> = BTreeMap::new();
    for abi in &abis {
        tables.insert(*abi, calls(rules, *abi, default)?);
    }

    let mut emitter = Emitter::default();
    let mut next_arch = emitter.give(KILL_PROCESS);
    for abi in abis.iter().rev().filter(|abi| **abi != Abi::X32) {
        let mut ranges = Vec::new();
        let mut add = |abi: Abi, base: u32| {
            let Some((calls, newest)) = tables.get(&abi) else { return };
            ranges.push((base, Leaf::Action(default)));
            for (number, call) in calls {
                let leaf = match call {
                    Call { rules, otherwise } if rules.is_empty() => {
                        Leaf::Action(otherwise.unwrap_or(default))
                    }
                    call => Leaf::Call(call, abi.wide()),
                };
                ranges.push((*number, leaf));
                ranges.push((number + 1, Leaf::Action(default)));
            }
            if let Some(newest) = newest.filter(|_| !permissive) {
                ranges.push((newest + 1, Leaf::Action(NO_SUCH_CALL)));
            }
        };
        add(*abi, 0);
        if *abi == Abi::X86_64 {
            if abis.contains(&Abi::X32) {
                add(Abi::X32, X32_BIT);
            } else {
                ranges.push((X32_BIT, Leaf::Action(KILL_PROCESS)));
            }
            let skipped = if permissive { default } else { NO_SUCH_CALL };
            ranges.push((SKIPPED, Leaf::Action(skipped)));
        }
        let ranges = merged(ranges);
        let search = tree(&mut emitter, &ranges, default);
        let section = emitter.load(NUMBER, search);
        // The arch is still loaded when a section is not taken.
        next_arch = emitter.test(EQUAL, abi.audit(), section, next_arch);
    }
    emitter.load(ARCH, next_arch);
    let program = emitter.finish();
    if program.len() > MAX_INSTRUCTIONS {
        return Err(SeccompError::TooLong { instructions: program.len() });
    }
    Ok(program)
}

/// The calls of one ABI that a profile names, and the newest of them.
fn calls(
    rules: &[LinuxSyscall],
    abi: Abi,
    default: u32,
) -> Result<(BTreeMap<u32, Call>, Option<u32>), SeccompError> {
    let table = abi.table();
    let mut calls: BTreeMap<u32, Call> = BTreeMap::new();
    let mut newest = None;
    for (at, rule) in rules.iter().enumerate() {
        let field = |name: &str| format!("syscalls[{at}].{name}");
        let action = action(rule.action(), rule.errno_ret(), &field("action"))?;
        let alternatives = alternatives(rule.args().as_deref().unwrap_or_default(), &field("args"))?;
        if rule.names().len() > MAX_NAMES {
            return Err(bad(&field("names"), "has more than 4096 names"));
        }
        for name in rule.names() {
            if name.is_empty() {
                return Err(bad(&field("names"), "has an empty name"));
            }
            let Some(number) = table.get(name.as_str()) else { continue };
            newest = newest.max(Some(*number));
            if action == default {
                continue;
            }
            let call = calls.entry(*number).or_default();
            if alternatives.is_empty() {
                call.otherwise.get_or_insert(action);
            }
            call.rules.extend(alternatives.iter().map(|comparisons| (comparisons.clone(), action)));
        }
    }
    // Alternatives that all end as the last resort does need no comparing.
    for call in calls.values_mut() {
        let otherwise = call.otherwise.unwrap_or(default);
        while call.rules.last().is_some_and(|(_, action)| *action == otherwise) {
            call.rules.pop();
        }
    }
    Ok((calls, newest))
}

/// The comparisons of a rule as lists that are alternatives; none: the rule always holds.
fn alternatives(args: &[LinuxSeccompArg], field: &str) -> Result<Vec<Vec<Comparison>>, SeccompError> {
    let mut seen = [false; ARGUMENTS];
    let mut twice = false;
    let mut all = Vec::new();
    for arg in args.iter().take(MAX_RULES) {
        let index = arg.index();
        let Some(seen) = seen.get_mut(index) else {
            return Err(bad(field, "has an index above 5"));
        };
        twice |= *seen;
        *seen = true;
        all.push(Comparison {
            argument: u32::try_from(index).map_err(|_| bad(field, "has an index above 5"))?,
            op: arg.op(),
            value: arg.value(),
            second: arg.value_two().unwrap_or(0),
        });
    }
    if all.is_empty() {
        Ok(Vec::new())
    } else if twice {
        Ok(all.into_iter().map(|one| vec![one]).collect())
    } else {
        Ok(vec![all])
    }
}

/// What the filter returns for an action.
fn action(action: LinuxSeccompAction, errno: Option<u32>, field: &str) -> Result<u32, SeccompError> {
    let data = |errno: Option<u32>| {
        let errno = errno.unwrap_or(1); // EPERM
        if errno > MAX_ERRNO {
            return Err(bad(field, &format!("has an errno above {MAX_ERRNO}")));
        }
        Ok(errno)
    };
    Ok(match action {
        LinuxSeccompAction::ScmpActAllow => ALLOW,
        LinuxSeccompAction::ScmpActLog => LOG,
        LinuxSeccompAction::ScmpActTrap => TRAP,
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => KILL_THREAD,
        LinuxSeccompAction::ScmpActKillProcess => KILL_PROCESS,
        LinuxSeccompAction::ScmpActErrno => ERRNO | data(errno)?,
        LinuxSeccompAction::ScmpActTrace => TRACE | data(errno)?,
        LinuxSeccompAction::ScmpActNotify => {
            return Err(SeccompError::Unsupported {
                field: field.to_owned(),
                what: "SCMP_ACT_NOTIFY".to_owned(),
            });
        }
    })
}

/// Sorts ranges by their first number (of two with the same one the later wins) and joins neighbours
/// with the same action.
fn merged(ranges: Vec<(u32, Leaf<'_>)>) -> Vec<(u32, Leaf<'_>)> {
    let ranges: BTreeMap<u32, Leaf<'_>> = ranges.into_iter().collect();
    let mut merged: Vec<(u32, Leaf<'_>)> = Vec::with_capacity(ranges.len());
    for (first, leaf) in ranges {
        if let (Some((_, Leaf::Action(before))), Leaf::Action(action)) = (merged.last(), leaf)
            && *before == action
        {
            continue;
        }
        merged.push((first, leaf));
    }
    merged
}

/// A binary search for the range of the loaded number. The first range begins at 0.
fn tree(emitter: &mut Emitter, ranges: &[(u32, Leaf<'_>)], default: u32) -> Label {
    match ranges {
        [] => emitter.give(default),
        [(_, Leaf::Action(action))] => emitter.give(*action),
        [(_, Leaf::Call(call, wide))] => checks(emitter, call, *wide, default),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let middle = high.first().map_or(0, |(first, _)| *first);
            let high = tree(emitter, high, default);
            let low = tree(emitter, low, default);
            emitter.test(GREATER_EQUAL, middle, high, low)
        }
    }
}

/// The rules of one call, in order.
fn checks(emitter: &mut Emitter, call: &Call, wide: bool, default: u32) -> Label {
    let mut next = emitter.give(call.otherwise.unwrap_or(default));
    for (comparisons, action) in call.rules.iter().rev() {
        let mut holds = emitter.give(*action);
        for comparison in comparisons.iter().rev() {
            holds = compare(emitter, comparison, wide, holds, next);
        }
        next = holds;
    }
    next
}

/// One comparison; in two halves where arguments have 64 bits.
fn compare(emitter: &mut Emitter, comparison: &Comparison, wide: bool, yes: Label, no: Label) -> Label {
    match comparison.op {
        LinuxSeccompOperator::ScmpCmpEq => {
            equal(emitter, comparison, u64::MAX, comparison.value, wide, yes, no)
        }
        LinuxSeccompOperator::ScmpCmpNe => {
            equal(emitter, comparison, u64::MAX, comparison.value, wide, no, yes)
        }
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            equal(emitter, comparison, comparison.value, comparison.second, wide, yes, no)
        }
        LinuxSeccompOperator::ScmpCmpGt => above(emitter, comparison, GREATER, wide, yes, no),
        LinuxSeccompOperator::ScmpCmpGe => above(emitter, comparison, GREATER_EQUAL, wide, yes, no),
        LinuxSeccompOperator::ScmpCmpLt => above(emitter, comparison, GREATER_EQUAL, wide, no, yes),
        LinuxSeccompOperator::ScmpCmpLe => above(emitter, comparison, GREATER, wide, no, yes),
    }
}

/// Lower and upper half.
fn halves(value: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
}

/// Offsets of the lower and the upper half of an argument.
fn offsets(argument: u32) -> (u32, u32) {
    let at = FIRST_ARGUMENT + 8 * argument;
    if cfg!(target_endian = "little") { (at, at + 4) } else { (at + 4, at) }
}

fn equal(
    emitter: &mut Emitter,
    comparison: &Comparison,
    mask: u64,
    value: u64,
    wide: bool,
    yes: Label,
    no: Label,
) -> Label {
    let (low_at, high_at) = offsets(comparison.argument);
    let ((low, high), (low_mask, high_mask)) = (halves(value), halves(mask));
    let mut half = |at: u32, value: u32, mask: u32, yes: Label| {
        let test = emitter.test(EQUAL, value, yes, no);
        let masked = if mask == u32::MAX { test } else { emitter.and(mask, test) };
        emitter.load(at, masked)
    };
    let lower = half(low_at, low, low_mask, yes);
    // A half without a bit in the mask and the value is equal whatever it is.
    if wide && (high_mask != 0 || high != 0) { half(high_at, high, high_mask, lower) } else { lower }
}

/// Whether the argument is above the value: `code` decides about the lower half.
fn above(
    emitter: &mut Emitter,
    comparison: &Comparison,
    code: u16,
    wide: bool,
    yes: Label,
    no: Label,
) -> Label {
    let (low_at, high_at) = offsets(comparison.argument);
    let (low, high) = halves(comparison.value);
    let test = emitter.test(code, low, yes, no);
    let lower = emitter.load(low_at, test);
    if !wide {
        return lower;
    }
    let same = emitter.test(EQUAL, high, lower, no);
    let upper = emitter.test(GREATER, high, yes, same);
    emitter.load(high_at, upper)
}

fn bad(field: &str, why: &str) -> SeccompError {
    SeccompError::BadValue { field: field.to_owned(), why: why.to_owned() }
}
