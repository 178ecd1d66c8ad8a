//! Who a container runs as: the request, the image's USER, and the image's /etc/passwd and /etc/group.
//!
//! CRI `LinuxContainerSecurityContext.run_as_user`, KEP-3619. A number is always a number: it is never
//! looked up as a name, never wraps, and what only looks like one is an error (CVE-2016-3697,
//! CVE-2024-40635).

use crate::{
    images::{ImageUser, Resolved},
    stacked::{StackError, Stacked},
};
use std::collections::BTreeSet;
use sys::bounded::Bounded;
use types::container::{GroupsPolicy, ResolvedUser, RunAs};

/// Bound of /etc/passwd and /etc/group, bytes.
const MAX_FILE: u64 = 10 << 20;
/// Largest id that an image may name: beyond, 32-bit signed readers see a negative one.
const MAX_ID: u32 = i32::MAX.unsigned_abs();

/// What the request says about the user.
#[derive(Clone, Copy, Debug, Default)]
pub struct UserRequest<'a> {
    /// `run_as_user` or `run_as_username`; without one the image's USER counts.
    pub run_as: Option<&'a RunAs>,
    /// `run_as_group`.
    pub group: Option<u32>,
    /// `supplemental_groups`.
    pub supplemental: &'a [u32],
    /// Whether the image's /etc/group counts.
    pub policy: GroupsPolicy,
}

/// Why the user cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// Neither a plain number nor a name.
    #[error("user `{0}` is neither a number from 0 to 2147483647 nor a name")]
    Malformed(String),
    /// /etc/passwd does not have it.
    #[error("user `{0}` is not in the image's /etc/passwd")]
    UnknownUser(String),
    /// /etc/group does not have it.
    #[error("group `{0}` is not in the image's /etc/group")]
    UnknownGroup(String),
    /// A file of the image cannot be used.
    #[error(transparent)]
    Stack(#[from] StackError),
    /// A file of the image cannot be read, or is too large.
    #[error("`{path}` in the image cannot be read")]
    Read {
        /// Inside the image.
        path: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// One half of a USER: `name`, `7`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Who {
    Id(u32),
    Name(String),
}

impl Who {
    fn parse(text: &str) -> Result<Self, UserError> {
        let malformed = || UserError::Malformed(shown(text));
        let first = text.bytes().next().ok_or_else(malformed)?;
        if first.is_ascii_digit() {
            let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || first != b'0');
            let id = text.parse::<u32>().ok().filter(|id| plain && *id <= MAX_ID);
            return id.map(Who::Id).ok_or_else(malformed);
        }
        // useradd(8): a letter or underscore first; no separators, signs or spaces.
        let fine = |b: u8| b.is_ascii_alphanumeric() || b"_.-@\\$".contains(&b) || b >= 0x80;
        let start = first.is_ascii_alphabetic() || first == b'_' || first >= 0x80;
        if start && text.len() <= 256 && text.bytes().all(fine) {
            Ok(Who::Name(text.to_owned()))
        } else {
            Err(malformed())
        }
    }
}

/// What the CRI's `Image` says about a USER: a number only if it is one that would be used.
pub(crate) fn image_user(user: &str) -> ImageUser {
    let name = user.split(':').next().unwrap_or_default();
    match Who::parse(name) {
        _ if user.is_empty() => ImageUser::Unsaid,
        Ok(Who::Id(uid)) => ImageUser::Uid(uid),
        Ok(Who::Name(name)) => ImageUser::Name(name),
        // Never empty, so that runAsNonRoot does not take it for fine.
        Err(_) => ImageUser::Name(user.to_owned()),
    }
}

impl Resolved {
    /// Who a container of this image runs as. Reads files of the layers: call it where that may block.
    ///
    /// # Errors
    /// [`UserError`]; never another user than asked.
    pub fn resolve_user(&self, request: &UserRequest<'_>) -> Result<ResolvedUser, UserError> {
        let image_user = self.defaults.user.as_str();
        let (user, group) = match request.run_as {
            Some(RunAs::Uid(uid)) => (Who::Id(*uid), None),
            Some(RunAs::Name(name)) => (Who::parse(name)?, None),
            None if image_user.is_empty() => (Who::Id(0), None),
            None => match image_user.split_once(':') {
                Some((user, group)) => (Who::parse(user)?, Some(Who::parse(group)?)),
                None => (Who::parse(image_user)?, None),
            },
        };
        let files = Files(Stacked::open(&self.layers)?);
        let account = files.account(&user)?;
        let uid = match (&user, &account) {
            (Who::Id(uid), _) => *uid,
            (Who::Name(_), Some(account)) => account.uid,
            (Who::Name(name), None) => return Err(UserError::UnknownUser(shown(name))),
        };
        let gid = match (request.group, group) {
            (Some(gid), _) | (None, Some(Who::Id(gid))) => gid,
            (None, Some(Who::Name(name))) => files.group(&name)?,
            (None, None) => account.as_ref().map_or(0, |account| account.gid),
        };
        let mut groups: BTreeSet<u32> = request.supplemental.iter().copied().collect();
        groups.insert(gid);
        if let (GroupsPolicy::Merge, Some(account)) = (request.policy, &account) {
            groups.extend(files.groups_of(&account.name)?);
        }
        let home = account.map(|account| account.home).filter(|home| !home.is_empty());
        Ok(ResolvedUser { uid, gid, groups: groups.into_iter().collect(), home })
    }
}

struct Account {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

struct Files(Stacked);

impl Files {
    fn text(&self, path: &'static str) -> Result<Vec<u8>, UserError> {
        let Some(file) = self.0.file(path)? else { return Ok(Vec::new()) };
        Bounded::new(file, MAX_FILE).read_all().map_err(|source| UserError::Read { path, source })
    }

    /// The first line of /etc/passwd for this user, passwd(5).
    fn account(&self, who: &Who) -> Result<Option<Account>, UserError> {
        let text = self.text("/etc/passwd")?;
        Ok(lines(&text).find_map(|line| {
            let fields: Vec<&str> = line.splitn(8, ':').collect();
            let [name, _, uid, gid, rest @ ..] = fields.as_slice() else { return None };
            let account = Account {
                name: (*name).to_owned(),
                uid: id(uid)?,
                gid: id(gid)?,
                home: rest.get(1).map_or_else(String::new, |home| (*home).to_owned()),
            };
            let is_it = match who {
                Who::Id(uid) => account.uid == *uid,
                Who::Name(wanted) => account.name == *wanted,
            };
            is_it.then_some(account)
        }))
    }

    fn group(&self, wanted: &str) -> Result<u32, UserError> {
        let text = self.text("/etc/group")?;
        let found = groups(&text).find(|(name, _, _)| *name == wanted).map(|(_, gid, _)| gid);
        found.ok_or_else(|| UserError::UnknownGroup(shown(wanted)))
    }

    fn groups_of(&self, user: &str) -> Result<BTreeSet<u32>, UserError> {
        let text = self.text("/etc/group")?;
        let has_user = |members: &str| members.split(',').any(|member| member == user);
        Ok(groups(&text).filter(|(_, _, members)| has_user(members)).map(|(_, gid, _)| gid).collect())
    }
}

fn lines(text: &[u8]) -> impl Iterator<Item = &str> {
    text.split(|byte| *byte == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok())
        .filter(|line| !line.chars().any(char::is_control))
}

/// Name, id and members of each line of group(5).
fn groups(text: &[u8]) -> impl Iterator<Item = (&str, u32, &str)> {
    lines(text).filter_map(|line| {
        let fields: Vec<&str> = line.splitn(5, ':').collect();
        let [name, _, gid, members, ..] = fields.as_slice() else { return None };
        Some((*name, id(gid)?, *members))
    })
}

/// An id in a file: digits alone, as large as the kernel takes them (2^32-1 is none).
fn id(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|id| digits && *id != u32::MAX)
}

fn shown(text: &str) -> String {
    text.chars().take(100).flat_map(char::escape_default).collect()
}

#[cfg(test)]
mod tests;
