//! One 512-byte header block: checksum, numbers in octal or base-256, names.

use super::{BLOCK, Entry, Kind, TarError};

/// Which of the formats a block is written in; they differ in what follows the first 257 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    V7,
    Ustar,
    Star,
    Gnu,
}

/// A block whose checksum is right.
#[derive(Debug)]
pub(super) struct Block {
    bytes: [u8; BLOCK],
    format: Format,
}

impl Block {
    /// Verifies the checksum, which old writers computed over signed bytes.
    pub(super) fn checked(bytes: [u8; BLOCK]) -> Result<Self, TarError> {
        let declared = number(&bytes[148..156])?;
        let counted = |at: usize, byte: u8| if (148..156).contains(&at) { b' ' } else { byte };
        let unsigned: i64 = bytes.iter().enumerate().map(|(at, b)| i64::from(counted(at, *b))).sum();
        let signed: i64 =
            bytes.iter().enumerate().map(|(at, b)| i64::from(counted(at, *b).cast_signed())).sum();
        if declared != unsigned && declared != signed {
            return Err(TarError::Malformed("a header with a wrong checksum"));
        }
        let format = match (&bytes[257..263], &bytes[263..265]) {
            (b"ustar\0", _) if &bytes[508..512] == b"tar\0" => Format::Star,
            (b"ustar\0", _) => Format::Ustar,
            (b"ustar ", b" \0") => Format::Gnu,
            _ => Format::V7,
        };
        Ok(Self { bytes, format })
    }

    pub(super) fn typeflag(&self) -> u8 {
        self.bytes[156]
    }

    /// The declared size; negative ones are refused.
    pub(super) fn size(&self) -> Result<u64, TarError> {
        u64::try_from(number(&self.bytes[124..136])?).map_err(|_| TarError::Malformed("a negative size"))
    }

    /// All but the size and the kind, which extended headers may change.
    pub(super) fn entry(&self) -> Result<Entry, TarError> {
        let b = &self.bytes;
        let device =
            if self.format == Format::V7 { (0, 0) } else { (number(&b[329..337])?, number(&b[337..345])?) };
        let mode = u32::try_from(number(&b[100..108])? & 0o7777).expect("twelve bits fit");
        Ok(Entry {
            name: self.name()?,
            link: text(&b[157..257]),
            kind: Kind::File,
            mode,
            uid: number(&b[108..116])?,
            gid: number(&b[116..124])?,
            mtime: (number(&b[136..148])?, 0),
            device,
            size: 0,
            xattrs: Vec::new(),
        })
    }

    fn name(&self) -> Result<Vec<u8>, TarError> {
        let b = &self.bytes;
        let name = text(&b[..100]);
        let prefix = match self.format {
            Format::V7 => Vec::new(),
            Format::Ustar => text(&b[345..500]),
            Format::Star => text(&b[345..476]),
            Format::Gnu => {
                // Times, where ustar has the prefix. Go before 1.8 wrote names there; its reader
                // guesses, we refuse.
                for time in [&b[345..357], &b[357..369]] {
                    number(time).map_err(|_| TarError::Malformed("a GNU header with a prefix"))?;
                }
                Vec::new()
            }
        };
        if prefix.is_empty() { Ok(name) } else { Ok([&prefix, b"/" as &[u8], &name].concat()) }
    }
}

/// A text field: up to its first NUL.
pub(super) fn text(field: &[u8]) -> Vec<u8> {
    field.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}

/// The kind that a type flag means.
pub(super) fn kind(typeflag: u8, name: &[u8]) -> Result<Kind, TarError> {
    match typeflag {
        // V7 had no flag for directories.
        b'\0' if name.ends_with(b"/") => Ok(Kind::Directory),
        b'0' | b'\0' | b'7' => Ok(Kind::File),
        b'1' => Ok(Kind::HardLink),
        b'2' => Ok(Kind::Symlink),
        b'3' => Ok(Kind::Character),
        b'4' => Ok(Kind::Block),
        b'5' => Ok(Kind::Directory),
        b'6' => Ok(Kind::Fifo),
        b'S' => Err(TarError::Unsupported("a sparse file")),
        _ => Err(TarError::Unsupported("a member of unknown type")),
    }
}

/// A number field: octal text, or base-256 two's complement when the first bit is set.
pub(super) fn number(field: &[u8]) -> Result<i64, TarError> {
    const BAD: TarError = TarError::Malformed("a header with a number out of range");
    if field.first().is_some_and(|first| first & 0x80 != 0) {
        let negative = field[0] & 0x40 != 0;
        let fill = if negative { 0xff } else { 0 };
        let first = if negative { field[0] | 0x80 } else { field[0] & 0x7f };
        let wide = field.len().saturating_sub(8);
        let mut value = [fill; 8];
        for (at, byte) in field.iter().enumerate() {
            let byte = if at == 0 { first } else { *byte };
            if at >= wide {
                value[8 - (field.len() - at)] = byte;
            } else if byte != fill {
                return Err(BAD);
            }
        }
        let value = i64::from_be_bytes(value);
        return if (value < 0) == negative { Ok(value) } else { Err(BAD) };
    }
    let is_fill = |byte: &u8| matches!(byte, b' ' | b'\0');
    let start = field.iter().position(|byte| !is_fill(byte)).unwrap_or(field.len());
    let end = field.iter().rposition(|byte| !is_fill(byte)).map_or(start, |last| last + 1);
    let mut value: i64 = 0;
    for byte in &field[start..end] {
        let digit = match byte {
            b'0'..=b'7' => i64::from(byte - b'0'),
            _ => return Err(TarError::Malformed("a header with a number that is not octal")),
        };
        value = value.checked_mul(8).and_then(|v| v.checked_add(digit)).ok_or(BAD)?;
    }
    Ok(value)
}
