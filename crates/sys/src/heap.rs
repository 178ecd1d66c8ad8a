//! The allocator's own size, where many small processes count each page.

/// Gives back to the kernel what the heap holds and nobody uses (malloc_trim(3)).
pub fn trim() {
    // SAFETY: the call takes no pointer and is allowed at any time.
    unsafe {
        libc::malloc_trim(0);
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
