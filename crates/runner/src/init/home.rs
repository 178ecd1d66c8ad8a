//! `HOME` of a process whose environment has none: what `/etc/passwd` of the container says of its user, else `/`, as
//! with runc (libcontainer/env.go). The file is the container's: it is read within its root, if it is a regular
//! one, and not to its end if that is far.

use crate::plan::process::ProcessPlan;
use std::ffi::{CStr, CString};
use sys::{
    exec::Strings,
    rustix::{
        self,
        fs::{self, FileType, Mode, OFlags, ResolveFlags},
        io::Errno,
    },
};

/// So much of the file is read.
const MOST: usize = 1 << 20;
/// Where a user is at home that has no entry.
const NOWHERE: &CStr = c"/";

/// The environment with `HOME`; none if it has that already.
pub(super) fn environment(process: &ProcessPlan) -> Option<Strings> {
    let mut all = process.env.as_slice().to_vec();
    if all.iter().any(|variable| variable.as_bytes().starts_with(b"HOME=")) {
        return None;
    }
    let passwd = read().unwrap_or_default();
    let home = home_of(process.uid.as_raw(), &passwd).unwrap_or(NOWHERE.to_bytes());
    all.push(CString::new([b"HOME=", home].concat()).ok()?);
    Some(Strings::new(all))
}

fn read() -> Result<Vec<u8>, Errno> {
    let root = fs::open(c"/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    // A FIFO in its place is opened without waiting, and not read.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = fs::openat2(&root, c"etc/passwd", flags, Mode::empty(), how)?;
    if FileType::from_raw_mode(fs::fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(Errno::INVAL);
    }
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    while bytes.len() < MOST {
        match rustix::io::read(&file, &mut part) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&part[..count]),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

/// The sixth field of the first line whose third is `uid` (passwd(5)); only a path without a NUL counts.
fn home_of(uid: u32, passwd: &[u8]) -> Option<&[u8]> {
    passwd.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let number = str::from_utf8(fields.nth(2)?).ok()?.parse::<u32>().ok()?;
        let home = fields.nth(2).filter(|home| home.starts_with(b"/") && !home.contains(&0))?;
        (number == uid).then_some(home)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_whole_entry_of_a_user_counts() {
        let passwd = b"root:x:0:0:root:/root:/bin/sh\nbroken:5\n:x:7:7::relative:\n:x:7:7::/home/a:/bin/sh\n\
            b:x:7:7::/home/b:\nlast:x:8:8::/home/last";
        assert_eq!(home_of(0, passwd), Some(&b"/root"[..]));
        assert_eq!(home_of(7, passwd), Some(&b"/home/a"[..]));
        assert_eq!(home_of(8, passwd), Some(&b"/home/last"[..]));
        assert_eq!((home_of(5, passwd), home_of(9, passwd), home_of(0, b"")), (None, None, None));
    }
}
