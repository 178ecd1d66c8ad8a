//! A reader of tar streams: headers and extended headers in, checked [`Entry`]s out.
//!
//! It understands what Go's archive/tar understands (the reader of every other container runtime) in
//! the same way, or refuses the archive: two readers that disagree about where an entry ends is how
//! files are smuggled past a scanner. Formats: V7, ustar, GNU (long names), PAX. Sparse files are
//! refused by name. POSIX.1-2017 pax "Interchange Format"; tar(5).

mod header;
mod pax;

use header::Block;
use pax::Records;
use std::io::{self, BufRead};

pub(crate) const BLOCK: usize = 512;
/// Bound of one extended header (PAX records, a GNU long name), bytes; Go's own bound.
pub(crate) const MAX_EXTENDED: u64 = 1 << 20;

/// Why an archive cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// Of the stream beneath.
    #[error("the archive cannot be read")]
    Io(#[from] io::Error),
    /// It is cut.
    #[error("the archive ends in the middle of {0}")]
    Truncated(&'static str),
    /// It is no tar, or a broken one.
    #[error("malformed archive: {0}")]
    Malformed(&'static str),
    /// A header that would fill the memory.
    #[error("an extended header of {0} bytes is above the bound of {MAX_EXTENDED}")]
    ExtendedTooLarge(u64),
    /// What is refused by name.
    #[error("the archive holds {0}, which is not supported")]
    Unsupported(&'static str),
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    Character,
    Block,
    Directory,
    Fifo,
}

/// One member, as declared. Nothing about its names is checked here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    /// Permission and set-id bits.
    pub(crate) mode: u32,
    pub(crate) uid: i64,
    pub(crate) gid: i64,
    /// Seconds and nanoseconds since the epoch.
    pub(crate) mtime: (i64, u32),
    /// Major and minor number, as written.
    pub(crate) device: (i64, i64),
    /// Bytes of content that follow; 0 for all but files.
    pub(crate) size: u64,
    /// `SCHILY.xattr.` records: name and value.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads the members one by one; their content may be taken or left.
#[derive(Debug)]
pub(crate) struct Reader<R> {
    inner: R,
    /// Content of the current entry that was not taken yet, and the zeros that fill its last block.
    left: u64,
    padding: u64,
    position: u64,
}

impl<R: BufRead> Reader<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, left: 0, padding: 0, position: 0 }
    }

    /// Where in the stream the next unread byte is: after [`Reader::next`], where the content starts.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The stream, to read what follows the archive's end.
    pub(crate) fn into_inner(self) -> R {
        self.inner
    }

    /// The next member, or `None` at the end of the archive.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, TarError> {
        let mut records = Records::default();
        let mut long_name = None;
        let mut long_link = None;
        loop {
            let rest = self.left + self.padding;
            self.skip(rest)?;
            (self.left, self.padding) = (0, 0);
            let Some(block) = self.block()? else { return Ok(None) };
            match block.typeflag() {
                b'x' => records = Records::parse(&self.extended(&block)?)?,
                // Global records are checked and then ignored, as by Go: nothing that a member means
                // may hang on a header far before it.
                b'g' => drop(Records::parse(&self.extended(&block)?)?),
                b'L' => long_name = Some(header::text(&self.extended(&block)?)),
                b'K' => long_link = Some(header::text(&self.extended(&block)?)),
                _ => {
                    let entry = self.entry(&block, records, long_name, long_link)?;
                    return Ok(Some(entry));
                }
            }
        }
    }

    /// Gives the rest of the current member's content to `take`, piece by piece.
    pub(crate) fn content(&mut self, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> Result<(), TarError> {
        while self.left > 0 {
            let piece = self.inner.fill_buf()?;
            if piece.is_empty() {
                return Err(TarError::Truncated("a file's content"));
            }
            let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(piece.len());
            take(&piece[..most])?;
            self.inner.consume(most);
            self.left -= most as u64;
            self.position += most as u64;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        block: &Block,
        records: Records,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, TarError> {
        let mut entry = block.entry()?;
        let mut size = block.size()?;
        records.apply(&mut entry, &mut size)?;
        if let Some(name) = long_name.filter(|name| !name.is_empty()) {
            entry.name = name;
        }
        if let Some(link) = long_link.filter(|link| !link.is_empty()) {
            entry.link = link;
        }
        entry.kind = header::kind(block.typeflag(), &entry.name)?;
        entry.size = if entry.kind == Kind::File { size } else { 0 };
        self.left = entry.size;
        self.padding = padding(entry.size);
        Ok(entry)
    }

    /// The content of an extended header.
    fn extended(&mut self, block: &Block) -> Result<Vec<u8>, TarError> {
        let size = block.size()?;
        if size > MAX_EXTENDED {
            return Err(TarError::ExtendedTooLarge(size));
        }
        (self.left, self.padding) = (size, padding(size));
        let mut bytes = Vec::new();
        self.content(|piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(bytes)
    }

    /// The next header block; `None` at the end, which is two blocks of zeros or the stream's end.
    fn block(&mut self) -> Result<Option<Block>, TarError> {
        let Some(block) = self.raw_block()? else { return Ok(None) };
        if block.iter().any(|byte| *byte != 0) {
            return Block::checked(block).map(Some);
        }
        match self.raw_block()? {
            Some(second) if second.iter().any(|byte| *byte != 0) => {
                Err(TarError::Malformed("a single block of zeros within it"))
            }
            Some(_) | None => Ok(None),
        }
    }

    fn raw_block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let piece = self.inner.fill_buf()?;
            if piece.is_empty() {
                break;
            }
            let most = piece.len().min(BLOCK - filled);
            block[filled..filled + most].copy_from_slice(&piece[..most]);
            self.inner.consume(most);
            filled += most;
        }
        self.position += filled as u64;
        match filled {
            0 => Ok(None),
            BLOCK => Ok(Some(block)),
            _ => Err(TarError::Truncated("a header")),
        }
    }

    fn skip(&mut self, mut bytes: u64) -> Result<(), TarError> {
        self.position += bytes;
        while bytes > 0 {
            let piece = self.inner.fill_buf()?;
            if piece.is_empty() {
                return Err(TarError::Truncated("a member"));
            }
            let most = usize::try_from(bytes).unwrap_or(usize::MAX).min(piece.len());
            self.inner.consume(most);
            bytes -= most as u64;
        }
        Ok(())
    }
}

/// Zeros that fill the last block of `size` bytes.
fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

#[cfg(test)]
mod tests;
