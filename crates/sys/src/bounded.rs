//! A reader of untrusted bytes that cannot fill the memory.

use std::io::{self, Read};

/// Reads at most `limit` bytes of `inner` and fails, rather than ends, when there are more.
///
/// A plain [`Read::take`] cuts the data silently; a cut manifest or passwd file may mean something
/// else than the whole one.
#[derive(Debug)]
pub struct Bounded<R> {
    inner: R,
    left: u64,
    limit: u64,
}

impl<R: Read> Bounded<R> {
    /// Wraps `inner`; `limit` in bytes.
    pub fn new(inner: R, limit: u64) -> Self {
        Self { inner, left: limit, limit }
    }

    /// The whole content.
    ///
    /// # Errors
    /// That of the reader, or `FileTooLarge` when it holds more than the limit.
    pub fn read_all(mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// The whole content as UTF-8 text.
    ///
    /// # Errors
    /// As [`Bounded::read_all`], and `InvalidData` when it is not UTF-8.
    pub fn read_text(self) -> io::Result<String> {
        String::from_utf8(self.read_all()?).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }

    /// The reader itself, wherever it stands.
    pub fn into_inner(self) -> R {
        self.inner
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        if self.left == 0 {
            // One byte more tells "exactly full" from "too much".
            let mut probe = [0_u8; 1];
            if self.inner.read(&mut probe)? == 0 {
                return Ok(0);
            }
            let why = format!("more than {} bytes", self.limit);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        let got = self.inner.read(&mut buf[..most])?;
        self.left -= got as u64;
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_limit_is_read_and_one_byte_more_is_an_error() {
        assert_eq!(Bounded::new(&b"12345"[..], 5).read_all().expect("fits"), b"12345");
        let error = Bounded::new(&b"123456"[..], 5).read_all().expect_err("too much");
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn an_endless_source_ends_at_the_limit() {
        let error = Bounded::new(io::repeat(7), 1 << 20).read_all().expect_err("endless");
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }
}
