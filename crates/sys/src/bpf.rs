//! eBPF programs of type `BPF_PROG_TYPE_CGROUP_DEVICE`: load, attach to a cgroup v2, list, detach.
//!
//! bpf(2). The attribute structures are written out field by field as linux/bpf.h has them; the
//! kernel takes a shorter structure as one whose rest is zero.

use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_DETACH: libc::c_long = 9;
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_PROG_QUERY: libc::c_long = 16;

const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 1 << 1;

/// How many programs of one cgroup [`device_programs`] can list; the kernel allows 64.
const MAX_PROGRAMS: usize = 64;

/// One eBPF instruction in the kernel's layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Insn {
    /// Operation.
    pub code: u8,
    /// Destination register in the low four bits, source in the high ones (little endian hosts).
    pub regs: u8,
    /// Jump or memory offset.
    pub off: i16,
    /// Immediate.
    pub imm: i32,
}

#[repr(C)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

#[repr(C)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

#[repr(C)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    pad: u32,
}

#[repr(C)]
struct IdAttr {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// A descriptor number as the kernel's structures want it.
fn number(fd: impl AsFd) -> u32 {
    u32::try_from(fd.as_fd().as_raw_fd()).expect("an open descriptor is not negative")
}

/// One bpf(2) call; `attr` may be written to.
fn call<T>(command: libc::c_long, attr: &mut T) -> Result<libc::c_long, Errno> {
    // SAFETY: `attr` is a live, exclusively borrowed structure of the size that is passed, and the
    // addresses within it are of live buffers at least as long as the counts beside them (each
    // caller in this module keeps them alive over the call).
    crate::check(unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) })
}

/// Takes over the descriptor that a call returned.
fn owned(result: libc::c_long) -> Result<OwnedFd, Errno> {
    let raw = i32::try_from(result).map_err(|_| Errno::OVERFLOW)?;
    // SAFETY: the kernel has just made this descriptor (close-on-exec, as all of bpf(2)'s) for us,
    // and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Loads a program of type cgroup device.
///
/// # Errors
/// What bpf(2) says: EPERM without CAP_BPF or CAP_SYS_ADMIN, EINVAL or EACCES if the verifier
/// refuses it.
pub fn load_device_program(program: &[Insn]) -> Result<OwnedFd, Errno> {
    let license = c"Apache-2.0";
    let mut attr = LoadAttr {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).map_err(|_| Errno::TOOBIG)?,
        insns: program.as_ptr().addr() as u64,
        license: license.as_ptr().addr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
    };
    owned(call(BPF_PROG_LOAD, &mut attr)?)
}

/// Attaches a device program to a cgroup v2 directory, beside those that are there.
///
/// # Errors
/// What bpf(2) says.
pub fn attach_device(cgroup: impl AsFd, program: impl AsFd) -> Result<(), Errno> {
    let mut attr = AttachAttr {
        target_fd: number(cgroup),
        attach_bpf_fd: number(program),
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI,
    };
    call(BPF_PROG_ATTACH, &mut attr).map(drop)
}

/// Detaches one device program from a cgroup v2 directory.
///
/// # Errors
/// What bpf(2) says; ENOENT if it is not attached.
pub fn detach_device(cgroup: impl AsFd, program: impl AsFd) -> Result<(), Errno> {
    let mut attr = AttachAttr {
        target_fd: number(cgroup),
        attach_bpf_fd: number(program),
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: 0,
    };
    call(BPF_PROG_DETACH, &mut attr).map(drop)
}

/// The device programs that are attached to this very cgroup (not to its ancestors).
///
/// # Errors
/// What bpf(2) says.
pub fn device_programs(cgroup: impl AsFd) -> Result<Vec<OwnedFd>, Errno> {
    let mut ids = [0u32; MAX_PROGRAMS];
    let mut attr = QueryAttr {
        target_fd: number(cgroup),
        attach_type: BPF_CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr().addr() as u64,
        prog_cnt: 64,
        pad: 0,
    };
    call(BPF_PROG_QUERY, &mut attr)?;
    let count = usize::try_from(attr.prog_cnt).map_err(|_| Errno::OVERFLOW)?.min(MAX_PROGRAMS);
    let mut programs = Vec::with_capacity(count);
    for id in &ids[..count] {
        let mut by_id = IdAttr { id: *id, next_id: 0, open_flags: 0 };
        match call(BPF_PROG_GET_FD_BY_ID, &mut by_id) {
            Ok(fd) => programs.push(owned(fd)?),
            Err(Errno::NOENT) => {} // detached meanwhile
            Err(errno) => return Err(errno),
        }
    }
    Ok(programs)
}
