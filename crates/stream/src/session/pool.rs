//! Buffers for reading, held only while there is data: an idle session has none.

use std::{
    ops::{Deref, DerefMut},
    sync::{Mutex, PoisonError},
};

/// As much as a pipe holds (pipe(7)).
pub(crate) const SIZE: usize = 64 << 10;
/// Buffers kept for the next reader; more than the threads that can read at the same time, since a
/// reader also holds its own while its client is slow.
const KEPT: usize = 4;

static FREE: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());

/// 64 KiB with old bytes in it.
pub(crate) struct Buffer(Box<[u8]>);

impl Buffer {
    pub(crate) fn take() -> Buffer {
        let free = FREE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Buffer(free.unwrap_or_else(|| vec![0; SIZE].into_boxed_slice()))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < KEPT {
            free.push(std::mem::take(&mut self.0));
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_few_buffers_are_kept() {
        let many: Vec<Buffer> = (0..4 * KEPT).map(|_| Buffer::take()).collect();
        assert!(many.iter().all(|buffer| buffer.len() == SIZE));
        drop(many);
        assert!(FREE.lock().expect("lock").len() <= KEPT);
    }
}
