//! The output of a command that is captured: kept up to a cap, read and dropped beyond it. All
//! captures of a pod share one budget of memory.

use crate::output::{Progress, Scratch};
use sys::rustix::buffer::spare_capacity;
use sys::rustix::fd::OwnedFd;
use sys::rustix::io::Errno;

/// Bytes that all captures of one shim may hold together.
pub(crate) const BUDGET: usize = 128 << 20;

/// One stream.
#[derive(Debug)]
pub(crate) struct Capture {
    fd: Option<OwnedFd>,
    /// What was kept.
    pub(crate) bytes: Vec<u8>,
    cap: usize,
}

impl Capture {
    /// Reads from `fd`, which must not block, and keeps `cap` bytes.
    pub(crate) fn new(fd: OwnedFd, cap: usize) -> Self {
        Self { fd: Some(fd), bytes: Vec::new(), cap }
    }

    /// Reads once; `spent` counts what all captures hold.
    pub(crate) fn read(&mut self, scratch: &mut Scratch, spent: &mut usize) -> Progress {
        let Some(fd) = &self.fd else { return Progress::Ended };
        let buffer = scratch.read();
        match sys::rustix::io::read(fd, spare_capacity(buffer)) {
            Ok(0) => Progress::Ended,
            Ok(count) => {
                let room = (self.cap - self.bytes.len()).min(BUDGET.saturating_sub(*spent));
                let kept = count.min(room);
                *spent += kept;
                self.bytes.extend_from_slice(&buffer[..kept]);
                Progress::More
            }
            Err(Errno::AGAIN) => Progress::Empty,
            Err(Errno::INTR) => Progress::More,
            Err(_) => Progress::Ended,
        }
    }

    /// The descriptor, while it is open.
    pub(crate) fn fd(&self) -> Option<&OwnedFd> {
        self.fd.as_ref()
    }

    /// Closes the pipe. Whoever still writes to it gets SIGPIPE.
    pub(crate) fn close(&mut self) {
        self.fd = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn captured(cap: usize, spent: &mut usize, chunks: usize) -> Vec<u8> {
        let (reader, mut writer) = std::io::pipe().expect("pipe");
        sys::rustix::io::ioctl_fionbio(&reader, true).expect("non-blocking");
        let mut capture = Capture::new(reader.into(), cap);
        let mut scratch = Scratch::default();
        for _ in 0..chunks {
            writer.write_all(&[b'y'; 4096]).expect("write");
            while capture.read(&mut scratch, spent) == Progress::More {}
        }
        drop(writer);
        assert_eq!(capture.read(&mut scratch, spent), Progress::Ended);
        capture.bytes
    }

    #[test]
    fn what_exceeds_the_cap_is_read_and_dropped() {
        let mut spent = 0;
        assert_eq!(captured(10_000, &mut spent, 100).len(), 10_000);
        assert_eq!(captured(1 << 20, &mut spent, 3).len(), 3 * 4096);
        assert_eq!(captured(0, &mut spent, 3).len(), 0);
        assert_eq!(spent, 10_000 + 3 * 4096);
    }

    #[test]
    fn all_captures_share_one_budget() {
        let mut spent = BUDGET - 5;
        assert_eq!(captured(1 << 20, &mut spent, 2).len(), 5);
        assert_eq!(spent, BUDGET);
    }
}
