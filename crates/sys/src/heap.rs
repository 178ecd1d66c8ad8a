//! The allocator's own size, where many small processes count each page.

/// Gives back to the kernel what the heap holds and nobody uses (malloc_trim(3)).
pub fn trim() {
    // SAFETY: the call takes no pointer and is allowed at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// How much of the unused stack is given back: less than the 1 MiB that the kernel keeps free below a
/// main thread's stack (`stack_guard_gap`), so that it holds no other mapping.
const STACK_BELOW: usize = 512 << 10;
/// What stays below the caller's frame, for the frames of the calls below.
const STACK_KEPT: usize = 8 << 10;

/// Gives back the pages below the main thread's stack pointer that deeper calls have used (a recursive
/// parser, say). On any other thread it does nothing.
pub fn trim_stack() {
    if rustix::thread::gettid() != rustix::process::getpid() {
        return;
    }
    let here = 0u8;
    // SAFETY: sysconf takes a number and gives one.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(STACK_BELOW);
    let end = (std::ptr::addr_of!(here).addr() - STACK_KEPT) / page * page;
    let start = std::ptr::without_provenance_mut(end - STACK_BELOW);
    // SAFETY: the range is below this frame and those of the calls that it makes, in the main thread's
    // stack or the gap beneath it: no live object is there. A part that is not mapped is ENOMEM, and
    // the rest is done.
    unsafe {
        libc::madvise(start, STACK_BELOW, libc::MADV_DONTNEED);
    }
}

/// Bounds the allocator to two arenas (mallopt(3)), for a process whose many threads allocate little:
/// each further arena keeps pages of its own. Call it before threads are started.
pub fn few_arenas() {
    // SAFETY: the call takes no pointer and is allowed at any time.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_is_not_the_main_one_keeps_its_stack_and_its_neighbours() {
        // Tests run on threads of their own, whose stacks have other mappings below them.
        let below = vec![7u8; 1 << 20];
        trim_stack();
        trim();
        assert!(below.iter().all(|byte| *byte == 7));
    }
}
