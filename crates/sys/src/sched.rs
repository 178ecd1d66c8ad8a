//! How the kernel schedules the calling thread, its input and output, and which system it shows it.

use rustix::io::Errno;

/// The kernel's `struct sched_attr`, version 0 (sched_setattr(2)). All zero is SCHED_OTHER with nice 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    size: u32,
    /// `SCHED_*`
    pub policy: u32,
    /// `SCHED_FLAG_*`
    pub flags: u64,
    /// For SCHED_OTHER and SCHED_BATCH.
    pub nice: i32,
    /// For SCHED_FIFO and SCHED_RR.
    pub priority: u32,
    /// For SCHED_DEADLINE, as the next two; nanoseconds.
    pub runtime: u64,
    /// Nanoseconds.
    pub deadline: u64,
    /// Nanoseconds.
    pub period: u64,
}

/// Sets policy and priority of the calling thread.
///
/// # Errors
/// Of sched_setattr(2): EPERM without CAP_SYS_NICE, EINVAL for what does not fit the policy.
pub fn set(attributes: &Attributes) -> Result<(), Errno> {
    let sized =
        Attributes { size: u32::try_from(size_of::<Attributes>()).map_err(|_| Errno::INVAL)?, ..*attributes };
    // SAFETY: `sized` lives across the call and is as large as it says; the kernel writes its own size back into
    // `size` on E2BIG only, which is ours to be written.
    let returned =
        unsafe { libc::syscall(libc::SYS_sched_setattr, 0, std::ptr::from_ref(&sized).cast_mut(), 0) };
    crate::check(returned).map(drop)
}

/// Sets class (1 real time, 2 best effort, 3 idle) and priority (0 to 7) of the calling thread's input and output.
///
/// # Errors
/// Of ioprio_set(2).
pub fn set_io_priority(class: u16, priority: u16) -> Result<(), Errno> {
    const WHO_PROCESS: libc::c_int = 1;
    let value = libc::c_int::from(class) << 13 | libc::c_int::from(priority);
    // SAFETY: three numbers; 0 is the calling thread.
    let returned = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, value) };
    crate::check(returned).map(drop)
}

/// The execution domain of the calling process, `PER_*` of personality(2).
///
/// # Errors
/// Of personality(2).
pub fn set_personality(domain: u32) -> Result<(), Errno> {
    // SAFETY: a number, which changes no memory of this process.
    let returned = unsafe { libc::personality(libc::c_ulong::from(domain)) };
    crate::check(returned.into()).map(drop)
}
