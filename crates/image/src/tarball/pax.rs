//! PAX extended headers: `LENGTH KEY=VALUE\n` records that override fields of the next member.

use super::{Entry, TarError};

const XATTR: &[u8] = b"SCHILY.xattr.";

/// The records that we know; a key that comes twice counts the last time.
#[derive(Debug, Default)]
pub(super) struct Records {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    uid: Option<i64>,
    gid: Option<i64>,
    size: Option<i64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Records {
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self, TarError> {
        let mut records = Self::default();
        while !bytes.is_empty() {
            let (key, value, rest) = record(bytes)?;
            records.take(key, value)?;
            bytes = rest;
        }
        Ok(records)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        let named = || if value.contains(&0) { Err(BAD) } else { Ok(given(value)) };
        match key {
            b"path" => self.path = named()?,
            b"linkpath" => self.link = named()?,
            b"uname" | b"gname" => drop(named()?),
            b"uid" => self.uid = decimal(value)?,
            b"gid" => self.gid = decimal(value)?,
            b"size" => self.size = decimal(value)?,
            b"mtime" => self.mtime = time(value)?,
            b"atime" | b"ctime" => drop(time(value)?),
            _ if key.contains(&0) => return Err(BAD),
            _ if key.starts_with(b"GNU.sparse.") => return Err(TarError::Unsupported("a sparse file")),
            _ => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    self.xattrs.retain(|(known, _)| known != name);
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }

    /// Puts the records over what the header says.
    pub(super) fn apply(self, entry: &mut Entry, size: &mut u64) -> Result<(), TarError> {
        if let Some(path) = self.path {
            entry.name = path;
        }
        if let Some(link) = self.link {
            entry.link = link;
        }
        entry.uid = self.uid.unwrap_or(entry.uid);
        entry.gid = self.gid.unwrap_or(entry.gid);
        entry.mtime = self.mtime.unwrap_or(entry.mtime);
        if let Some(larger) = self.size {
            *size = u64::try_from(larger).map_err(|_| BAD)?;
        }
        entry.xattrs = self.xattrs;
        Ok(())
    }
}

const BAD: TarError = TarError::Malformed("a PAX record");

/// An empty value gives the field back to the header.
fn given(value: &[u8]) -> Option<Vec<u8>> {
    (!value.is_empty()).then(|| value.to_vec())
}

/// Key, value and what follows.
type Record<'a> = (&'a [u8], &'a [u8], &'a [u8]);

/// Splits off the first record.
fn record(bytes: &[u8]) -> Result<Record<'_>, TarError> {
    let space = bytes.iter().take(20).position(|byte| *byte == b' ').ok_or(BAD)?;
    let length = decimal(&bytes[..space])?.and_then(|n| usize::try_from(n).ok()).ok_or(BAD)?;
    if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
        return Err(BAD);
    }
    let body = &bytes[space + 1..length - 1];
    let equals = body.iter().position(|byte| *byte == b'=').filter(|at| *at > 0).ok_or(BAD)?;
    Ok((&body[..equals], &body[equals + 1..], &bytes[length..]))
}

/// Decimal digits without a sign; empty = not given.
fn decimal(value: &[u8]) -> Result<Option<i64>, TarError> {
    if value.is_empty() {
        return Ok(None);
    }
    if !value.iter().all(u8::is_ascii_digit) {
        return Err(BAD);
    }
    let text = std::str::from_utf8(value).map_err(|_| BAD)?;
    text.parse().map(Some).map_err(|_| BAD)
}

/// Seconds with an optional fraction, cut to nanoseconds; times before 1970 have a sign.
fn time(value: &[u8]) -> Result<Option<(i64, u32)>, TarError> {
    if value.is_empty() {
        return Ok(None);
    }
    let text = std::str::from_utf8(value).map_err(|_| BAD)?;
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if seconds.is_empty() || !text.bytes().all(|b| b.is_ascii_digit() || b == b'.') || fraction.contains('.')
    {
        return Err(BAD);
    }
    let seconds: i64 = seconds.parse().map_err(|_| BAD)?;
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanos: u32 = digits.parse().map_err(|_| BAD)?;
    Ok(Some(match (negative, nanos) {
        (false, nanos) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        (true, nanos) => (-seconds - 1, 1_000_000_000 - nanos),
    }))
}
