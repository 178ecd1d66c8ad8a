//! Loading a seccomp filter, seccomp(2).

use rustix::io::Errno;

/// The most instructions that the kernel takes, linux/bpf_common.h BPF_MAXINSNS.
pub const MOST_INSTRUCTIONS: usize = 4096;

/// Loads a classic BPF program, given as the bytes of its `struct sock_filter`s (8 each, native order),
/// as a filter of the calling thread. It needs no_new_privs or CAP_SYS_ADMIN.
///
/// # Errors
/// EINVAL for bytes that are no such program, and those of seccomp(2).
pub fn load(program: &[u8], flags: u64) -> Result<(), Errno> {
    let (filters, rest) = program.as_chunks::<8>();
    if !rest.is_empty() || filters.is_empty() || filters.len() > MOST_INSTRUCTIONS {
        return Err(Errno::INVAL);
    }
    let mut filters: Vec<libc::sock_filter> = filters
        .iter()
        .map(|&[c0, c1, jt, jf, k0, k1, k2, k3]| libc::sock_filter {
            code: u16::from_ne_bytes([c0, c1]),
            jt,
            jf,
            k: u32::from_ne_bytes([k0, k1, k2, k3]),
        })
        .collect();
    let program = libc::sock_fprog {
        len: u16::try_from(filters.len()).map_err(|_| Errno::INVAL)?,
        filter: filters.as_mut_ptr(),
    };
    // SAFETY: `program` points to `len` instructions, which live across the call; the kernel copies
    // and checks them.
    let returned = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, std::ptr::from_ref(&program))
    };
    crate::check(returned).map(drop)
}
