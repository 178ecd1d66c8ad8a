//! The allocator's own size, where many small processes count each page.

/// Gives back to the kernel what the heap holds and nobody uses (malloc_trim(3)).
pub fn trim() {
    // SAFETY: the call takes no pointer and is allowed at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}
