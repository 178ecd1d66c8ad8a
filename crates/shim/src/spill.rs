//! Bytes that a descriptor did not take: kept until it does, and gone from memory then.

use std::io;
use sys::rustix::fd::AsFd;
use sys::rustix::io::Errno;

/// Bytes that wait; mostly none.
#[derive(Debug, Default)]
pub(crate) struct Spill {
    bytes: Vec<u8>,
    at: usize,
}

impl Spill {
    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Writes `bytes`, and keeps what is not taken. Nothing may wait.
    ///
    /// # Errors
    /// The other end is gone.
    pub(crate) fn write(&mut self, fd: impl AsFd, bytes: &[u8]) -> io::Result<()> {
        debug_assert!(self.is_empty(), "the caller reads nothing while bytes wait");
        let count = write_some(fd, bytes)?;
        self.bytes = bytes[count..].to_vec();
        self.at = 0;
        Ok(())
    }

    /// Writes what waits, as far as it is taken.
    ///
    /// # Errors
    /// The other end is gone.
    pub(crate) fn flush(&mut self, fd: impl AsFd) -> io::Result<()> {
        self.at += write_some(fd, &self.bytes[self.at..])?;
        if self.at == self.bytes.len() {
            *self = Self::default();
        }
        Ok(())
    }

    /// Drops what waits.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Writes until all is taken or the descriptor is full; gives how many bytes.
///
/// # Errors
/// Any but "full".
pub(crate) fn write_some(fd: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    while written < bytes.len() {
        match sys::rustix::io::write(&fd, &bytes[written..]) {
            // A terminal says so when it is full.
            Ok(0) | Err(Errno::AGAIN) => break,
            Ok(count) => written += count,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn what_is_not_taken_waits_in_order_and_leaves_no_memory() {
        let (mut reader, writer) = io::pipe().expect("pipe");
        sys::rustix::io::ioctl_fionbio(&writer, true).expect("non-blocking");
        let bytes: Vec<u8> = (0..=255u8).cycle().take(100_000).collect();
        let mut spill = Spill::default();
        spill.write(&writer, &bytes).expect("open");
        assert!(!spill.is_empty());
        spill.flush(&writer).expect("open");
        let mut got = vec![0; bytes.len()];
        reader.read_exact(&mut got[..50_000]).expect("read");
        spill.flush(&writer).expect("open");
        assert!(spill.is_empty() && spill.bytes.capacity() == 0);
        reader.read_exact(&mut got[50_000..]).expect("read");
        assert_eq!(got, bytes);
        drop(reader);
        assert!(spill.write(&writer, b"x").is_err());
    }
}
