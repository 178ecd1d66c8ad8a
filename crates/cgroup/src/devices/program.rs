//! The policy as an eBPF program (linux/bpf.h, `struct bpf_cgroup_dev_ctx`): 1 allows, 0 denies.

use super::{ALL, Exception, Kind, MKNOD, Policy, READ, WRITE};
use crate::{CgroupError, node::Node};
use sys::{
    bpf::{Insn, attach_device, detach_device, device_programs, load_device_program},
    rustix::{fs::OFlags, io::Errno},
};

// Operations, linux/bpf.h and linux/bpf_common.h.
const LOAD_WORD: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
const MOVE_IMM: u8 = 0xb4; // BPF_ALU | BPF_MOV | BPF_K
const MOVE_REG: u8 = 0xbc; // BPF_ALU | BPF_MOV | BPF_X
const AND_IMM: u8 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const SHIFT_RIGHT: u8 = 0x74; // BPF_ALU | BPF_RSH | BPF_K
const JUMP_NOT_EQUAL: u8 = 0x55; // BPF_JMP | BPF_JNE | BPF_K
const EXIT: u8 = 0x95; // BPF_JMP | BPF_EXIT

// BPF_DEVCG_*; the access bits are in the upper half of access_type.
const DEV_BLOCK: i32 = 1;
const DEV_CHAR: i32 = 2;
const ACC_MKNOD: i32 = 1;
const ACC_READ: i32 = 2;
const ACC_WRITE: i32 = 4;

/// Registers: context, type, access, major, minor, scratch.
const CONTEXT: u8 = 1;
const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;
const RESULT: u8 = 0;

fn insn(code: u8, destination: u8, source: u8, off: i16, imm: i32) -> Insn {
    #[cfg(target_endian = "little")]
    let regs = destination | source << 4;
    #[cfg(target_endian = "big")]
    let regs = destination << 4 | source;
    Insn { code, regs, off, imm }
}

/// The whole program.
pub(super) fn compile(policy: &Policy) -> Vec<Insn> {
    let mut program = vec![
        insn(LOAD_WORD, TYPE, CONTEXT, 0, 0),
        insn(MOVE_REG, ACCESS, TYPE, 0, 0),
        insn(AND_IMM, TYPE, 0, 0, 0xffff),
        insn(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        insn(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        insn(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for exception in &policy.exceptions {
        program.extend(block(policy.allow, exception));
    }
    program.push(insn(MOVE_IMM, RESULT, 0, 0, i32::from(policy.allow)));
    program.push(insn(EXIT, 0, 0, 0, 0));
    program
}

/// The checks of one exception; each jumps behind the block when it does not match.
fn block(default: bool, exception: &Exception) -> Vec<Insn> {
    let kind = match exception.kind {
        Kind::Block => DEV_BLOCK,
        Kind::Char => DEV_CHAR,
    };
    let bits = [(READ, ACC_READ), (WRITE, ACC_WRITE), (MKNOD, ACC_MKNOD)]
        .iter()
        .filter(|(ours, _)| exception.access & ours != 0)
        .fold(0, |bits, (_, theirs)| bits | theirs);
    // (register, value that it must have); made into jumps below.
    let mut block = vec![insn(JUMP_NOT_EQUAL, TYPE, 0, 0, kind)];
    if exception.access != ALL {
        block.push(insn(MOVE_REG, SCRATCH, ACCESS, 0, 0));
        if default {
            // A denial strikes if any of the access is denied: skip if none is.
            block.push(insn(AND_IMM, SCRATCH, 0, 0, bits));
            block.push(insn(JUMP_EQUAL, SCRATCH, 0, 0, 0));
        } else {
            // A permission must cover all of the access.
            block.push(insn(AND_IMM, SCRATCH, 0, 0, !bits & 7));
            block.push(insn(JUMP_NOT_EQUAL, SCRATCH, 0, 0, 0));
        }
    }
    for (register, value) in [(MAJOR, exception.major), (MINOR, exception.minor)] {
        if let Some(value) = value {
            let value = i32::try_from(value).expect("device numbers are below 2^20");
            block.push(insn(JUMP_NOT_EQUAL, register, 0, 0, value));
        }
    }
    block.push(insn(MOVE_IMM, RESULT, 0, 0, i32::from(!default)));
    block.push(insn(EXIT, 0, 0, 0, 0));
    let end = block.len();
    for (at, instruction) in block.iter_mut().enumerate() {
        if matches!(instruction.code, JUMP_NOT_EQUAL | JUMP_EQUAL) {
            instruction.off = i16::try_from(end - at - 1).expect("a block has at most ten instructions");
        }
    }
    block
}

const JUMP_EQUAL: u8 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K

/// Attaches the policy to the group in place of what was attached before: first the new program
/// (with both in place the stricter holds), then the old ones go.
pub(super) fn attach(node: &Node<'_>, policy: &Policy) -> Result<(), CgroupError> {
    let failed = |doing: &'static str| {
        move |source: Errno| CgroupError::Bpf { path: format!("/{}", node.path), doing, source }
    };
    let directory =
        node.open("", OFlags::RDONLY | OFlags::DIRECTORY).map_err(|errno| node.error("", "open", errno))?;
    let old = device_programs(&directory).map_err(failed("list the programs"))?;
    let new = load_device_program(&compile(policy)).map_err(failed("load the program"))?;
    attach_device(&directory, &new).map_err(failed("attach the program"))?;
    for program in old {
        match detach_device(&directory, &program) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed("detach the older program")(errno)),
        }
    }
    Ok(())
}
