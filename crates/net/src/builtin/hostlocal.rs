//! `host-local`: addresses out of configured ranges, one file for each that is taken.
//!
//! The state is that of containernetworking/plugins `host-local`, byte for byte, so that it and this
//! may share a directory: `<dataDir>/<network>/<address>` holds `<container id>\r\n<interface>`,
//! `last_reserved_ip.<set>` the address given last, and `lock` is held by flock(2) meanwhile.
//! A file is created with O_EXCL: whoever makes it has the address.

use super::{BuiltinError, errno};
use crate::{
    cidr::{self, Cidr},
    conflist::BadConf,
    fields::Fields,
    result::Route,
};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::{
    collections::HashMap,
    net::IpAddr,
    path::{Path, PathBuf},
};
use sys::rustix::{
    fd::{AsFd, OwnedFd},
    fs::{self, AtFlags, CWD, Dir, FlockOperation, Mode, OFlags, XattrFlags},
    io::Errno,
};

const DEFAULT_DIR: &str = "/var/lib/cni/networks";
const LOCK: &str = "lock";
const LAST: &str = "last_reserved_ip.";
/// What this daemon puts on the files that it makes, so that it collects no one else's.
const MARK: &str = "trusted.peapod";
/// The most range sets and ranges of one network.
const MOST_RANGES: usize = 64;
/// The content is an id and an interface's name.
const LONGEST_CONTENT: usize = 1024;

/// A range of addresses, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) subnet: Cidr,
    start: IpAddr,
    end: IpAddr,
    gateway: IpAddr,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawRange {
    subnet: Cidr,
    range_start: Option<IpAddr>,
    range_end: Option<IpAddr>,
    gateway: Option<IpAddr>,
}

impl RawRange {
    fn check(self) -> Result<Range, BadConf> {
        let subnet = self.subnet;
        if subnet.network() != subnet.ip() {
            return Err(BadConf::new("subnet", format!("{subnet} has host bits set")));
        }
        let (first, last) = (cidr::number(subnet.network()), cidr::number(subnet.last()));
        if last - first < 3 {
            return Err(BadConf::new("subnet", format!("{subnet} has no addresses to give")));
        }
        // IPv4's last address is its broadcast.
        let last = if subnet.ip().is_ipv4() { last - 1 } else { last };
        let at = |n| cidr::from_number(subnet.ip(), n);
        let inside = |key: &str, ip: Option<IpAddr>, or: u128| match ip {
            None => Ok(at(or)),
            Some(ip) if subnet.contains(ip) => Ok(ip),
            Some(ip) => Err(BadConf::new(key, format!("{ip} is not in {subnet}"))),
        };
        let start = inside("rangeStart", self.range_start, first + 1)?;
        let end = inside("rangeEnd", self.range_end, last)?;
        if cidr::number(start) > cidr::number(end) {
            return Err(BadConf::new("rangeStart", format!("{start} is behind the end, {end}")));
        }
        let gateway = self.gateway.unwrap_or_else(|| at(first + 1));
        if gateway.is_ipv4() != subnet.ip().is_ipv4() {
            return Err(BadConf::new("gateway", format!("{gateway} is of another family than {subnet}")));
        }
        Ok(Range { subnet, start, end, gateway })
    }
}

impl Range {
    fn contains(&self, ip: IpAddr) -> bool {
        let n = cidr::number(ip);
        ip.is_ipv4() == self.start.is_ipv4()
            && (cidr::number(self.start)..=cidr::number(self.end)).contains(&n)
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.start) || other.contains(self.start)
    }
}

/// The `ipam` object of a `host-local`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HostLocalConf {
    /// One address of each set is given to a pod.
    pub(crate) sets: Vec<Vec<Range>>,
    pub(crate) routes: Vec<Route>,
    /// `<dataDir>/<network>`
    dir: PathBuf,
}

impl HostLocalConf {
    pub(crate) fn parse(ipam: &Map<String, Value>, network: &str) -> Result<Self, BadConf> {
        let mut fields = Fields::of(ipam);
        let data_dir: PathBuf = fields.take("dataDir")?.unwrap_or_else(|| DEFAULT_DIR.into());
        if !data_dir.is_absolute() {
            return Err(BadConf::new("dataDir", "want an absolute path"));
        }
        // The pod's resolver comes by the CRI; what a CNI result says of it is not read.
        fields.ignore("resolvConf");
        let routes = parse_routes(fields.take::<Vec<Value>>("routes")?.unwrap_or_default())?;
        let mut raw_sets: Vec<Vec<RawRange>> = fields.take("ranges")?.unwrap_or_default();
        if let Some(subnet) = fields.take("subnet")? {
            let (range_start, range_end) = (fields.take("rangeStart")?, fields.take("rangeEnd")?);
            let gateway = fields.take("gateway")?;
            raw_sets.insert(0, vec![RawRange { subnet, range_start, range_end, gateway }]);
        }
        fields.end()?;
        let count: usize = raw_sets.iter().map(Vec::len).sum();
        if raw_sets.is_empty() || count > MOST_RANGES || raw_sets.iter().any(Vec::is_empty) {
            return Err(BadConf::new("ranges", format!("want 1 to {MOST_RANGES} ranges of addresses")));
        }
        let sets = raw_sets
            .into_iter()
            .map(|set| set.into_iter().map(RawRange::check).collect())
            .collect::<Result<Vec<Vec<Range>>, _>>()
            .map_err(|e| e.under("ranges"))?;
        check_sets(&sets)?;
        Ok(Self { sets, routes, dir: data_dir.join(network) })
    }

    /// The subnets of all ranges.
    pub(crate) fn subnets(&self) -> impl Iterator<Item = Cidr> + '_ {
        self.sets.iter().flatten().map(|range| range.subnet)
    }
}

fn parse_routes(raw: Vec<Value>) -> Result<Vec<Route>, BadConf> {
    let one = |value: Value| {
        let object = value.as_object().ok_or_else(|| BadConf::new("routes", "want objects"))?;
        let mut fields = Fields::of(object);
        fields.refuse("table", "routes go to the main table")?;
        fields.refuse("scope", "it follows from the gateway")?;
        let dst = fields.take("dst")?.ok_or_else(|| BadConf::new("dst", "missing"))?;
        let route = Route {
            dst,
            gw: fields.take("gw")?,
            mtu: fields.take("mtu")?,
            advmss: fields.take("advmss")?,
            priority: fields.take("priority")?,
        };
        if route.gw.is_some_and(|gw| gw.is_ipv4() != route.dst.ip().is_ipv4()) {
            return Err(BadConf::new("gw", "is of another family than dst"));
        }
        fields.end().map(|()| route)
    };
    raw.into_iter()
        .enumerate()
        .map(|(n, value)| one(value).map_err(|e| e.under(format!("routes[{n}]"))))
        .collect()
}

fn check_sets(sets: &[Vec<Range>]) -> Result<(), BadConf> {
    for set in sets {
        if set.iter().any(|range| range.subnet.ip().is_ipv4() != set[0].subnet.ip().is_ipv4()) {
            return Err(BadConf::new("ranges", "a set mixes IPv4 and IPv6"));
        }
    }
    let all: Vec<&Range> = sets.iter().flatten().collect();
    for (n, range) in all.iter().enumerate() {
        if let Some(other) = all[..n].iter().find(|other| other.overlaps(range)) {
            return Err(BadConf::new("ranges", format!("{} and {} overlap", other.subnet, range.subnet)));
        }
    }
    Ok(())
}

/// An address that was given to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) address: Cidr,
    pub(crate) gateway: IpAddr,
}

/// What is known of a directory: whose the addresses are. Read whole once, and again when somebody
/// else changed it.
#[derive(Debug, Default)]
struct Known {
    stamp: Option<(u64, i64, i64)>,
    by_holder: HashMap<String, Vec<IpAddr>>,
}

/// All directories that this daemon gives addresses from.
#[derive(Debug)]
pub(crate) struct Leases {
    /// Value of the mark: the name of this daemon's root.
    mark: String,
    known: HashMap<PathBuf, Known>,
}

/// An open, locked directory. The lock goes with its descriptor.
#[derive(Debug)]
struct Locked {
    dir: OwnedFd,
    _lock: OwnedFd,
}

fn failed(what: &str, dir: &Path) -> impl FnOnce(Errno) -> BuiltinError {
    errno(format!("host-local: cannot {what} `{}`", dir.display()))
}

impl Locked {
    fn open(path: &Path) -> Result<Option<Self>, Errno> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = match fs::openat(CWD, path, flags, Mode::empty()) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(e),
        };
        let flags = OFlags::CREATE | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let lock = fs::openat(&dir, LOCK, flags, Mode::RUSR | Mode::WUSR)?;
        sys::rustix::io::retry_on_intr(|| fs::flock(&lock, FlockOperation::LockExclusive))?;
        Ok(Some(Self { dir, _lock: lock }))
    }

    fn stamp(&self) -> Result<(u64, i64, i64), Errno> {
        let stat = fs::fstat(&self.dir)?;
        Ok((stat.st_ino, stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0)))
    }

    fn content(&self, name: &str) -> Result<Option<Vec<u8>>, Errno> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = match fs::openat(&self.dir, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::LOOP) => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut bytes = vec![0; LONGEST_CONTENT];
        let length = sys::rustix::io::read(&file, &mut *bytes)?;
        bytes.truncate(length);
        Ok(Some(bytes))
    }

    /// Each address that is taken, with the content of its file.
    fn entries(&self) -> Result<Vec<(IpAddr, String)>, Errno> {
        let mut found = Vec::new();
        for entry in Dir::read_from(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy();
            let Ok(ip) = name.parse::<IpAddr>() else { continue };
            if let Some(content) = self.content(&name)? {
                found.push((ip, String::from_utf8_lossy(&content).trim().to_owned()));
            }
        }
        Ok(found)
    }

    fn last_reserved(&self, set: usize) -> Result<Option<IpAddr>, Errno> {
        let content = self.content(&format!("{LAST}{set}"))?;
        // A broken one only loses the place in the round.
        Ok(content.and_then(|bytes| String::from_utf8(bytes).ok()).and_then(|text| text.trim().parse().ok()))
    }

    fn set_last_reserved(&self, set: usize, ip: IpAddr) -> Result<(), Errno> {
        let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = fs::openat(&self.dir, format!("{LAST}{set}"), flags, Mode::RUSR | Mode::WUSR)?;
        sys::rustix::io::write(&file, ip.to_string().as_bytes()).map(drop)
    }

    /// Takes an address; `false` if it is taken already.
    fn reserve(&self, ip: IpAddr, holder: &str, mark: &str) -> Result<bool, Errno> {
        let name = ip.to_string();
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = match fs::openat(&self.dir, name.as_str(), flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => file,
            Err(Errno::EXIST) => return Ok(false),
            Err(e) => return Err(e),
        };
        let written = sys::rustix::io::write(&file, holder.as_bytes());
        match written {
            Ok(n) if n == holder.len() => {}
            other => {
                fs::unlinkat(&self.dir, name.as_str(), AtFlags::empty())?;
                return Err(other.err().unwrap_or(Errno::NOSPC));
            }
        }
        // A file system without such attributes: then nothing of ours is collected there.
        let _ = fs::fsetxattr(&file, MARK, mark.as_bytes(), XattrFlags::empty());
        Ok(true)
    }

    fn release(&self, ip: IpAddr) -> Result<(), Errno> {
        match fs::unlinkat(&self.dir, ip.to_string(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e),
        }
    }

    fn is_marked(&self, ip: IpAddr, mark: &str) -> bool {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let Ok(file) = fs::openat(&self.dir, ip.to_string(), flags, Mode::empty()) else {
            return false;
        };
        let mut value = [0; 256];
        fs::fgetxattr(file.as_fd(), MARK, &mut value[..]).is_ok_and(|n| &value[..n] == mark.as_bytes())
    }
}

fn holder(id: &str, interface: &str) -> String {
    format!("{id}\r\n{interface}")
}

impl Leases {
    pub(crate) fn new(mark: &str) -> Self {
        Self { mark: mark.to_owned(), known: HashMap::new() }
    }

    fn known<'a>(
        known: &'a mut HashMap<PathBuf, Known>,
        path: &Path,
        locked: &Locked,
    ) -> Result<&'a mut Known, Errno> {
        let stamp = locked.stamp()?;
        let entry = known.entry(path.to_owned()).or_default();
        if entry.stamp != Some(stamp) {
            entry.by_holder.clear();
            for (ip, content) in locked.entries()? {
                entry.by_holder.entry(content).or_default().push(ip);
            }
            entry.stamp = Some(stamp);
        }
        Ok(entry)
    }

    /// ADD: one address of each set.
    pub(crate) fn add(
        &mut self,
        conf: &HostLocalConf,
        id: &str,
        interface: &str,
    ) -> Result<Vec<Lease>, BuiltinError> {
        std::fs::create_dir_all(&conf.dir)
            .map_err(|e| failed("make", &conf.dir)(Errno::from_io_error(&e).unwrap_or(Errno::IO)))?;
        let locked = Locked::open(&conf.dir)
            .and_then(|locked| locked.ok_or(Errno::NOENT))
            .map_err(failed("lock", &conf.dir))?;
        let holder = holder(id, interface);
        let mut leases = Vec::new();
        for (set, ranges) in conf.sets.iter().enumerate() {
            match self.add_one(conf, &locked, (set, ranges), &holder) {
                Ok(lease) => leases.push(lease),
                Err(e) => {
                    for lease in &leases {
                        self.give_back(conf, &locked, lease.address.ip(), &holder);
                    }
                    return Err(e);
                }
            }
        }
        Ok(leases)
    }

    fn add_one(
        &mut self,
        conf: &HostLocalConf,
        locked: &Locked,
        (set, ranges): (usize, &[Range]),
        holder: &str,
    ) -> Result<Lease, BuiltinError> {
        let known = Self::known(&mut self.known, &conf.dir, locked).map_err(failed("read", &conf.dir))?;
        let has = known.by_holder.get(holder).into_iter().flatten();
        if let Some(ip) = has.copied().find(|ip| ranges.iter().any(|range| range.contains(*ip))) {
            return Err(BuiltinError::Duplicate { address: ip });
        }
        let last = locked.last_reserved(set).map_err(failed("read", &conf.dir))?;
        for (ip, range) in Round::after(ranges, last) {
            if !locked.reserve(ip, holder, &self.mark).map_err(failed("write to", &conf.dir))? {
                continue;
            }
            let noted = locked.set_last_reserved(set, ip).and_then(|()| locked.stamp());
            known.by_holder.entry(holder.to_owned()).or_default().push(ip);
            known.stamp = Some(noted.map_err(failed("write to", &conf.dir))?);
            let address = Cidr::new(ip, range.subnet.prefix()).expect("the prefix is of the same family");
            return Ok(Lease { address, gateway: range.gateway });
        }
        let shown: Vec<String> = ranges.iter().map(|r| format!("{}-{}", r.start, r.end)).collect();
        Err(BuiltinError::Exhausted(shown.join(", ")))
    }

    fn give_back(&mut self, conf: &HostLocalConf, locked: &Locked, ip: IpAddr, holder: &str) {
        if let Err(e) = locked.release(ip) {
            tracing::warn!(%ip, error = %e, "an address could not be given back");
        }
        if let Some(known) = self.known.get_mut(&conf.dir) {
            known.by_holder.remove(holder);
            known.stamp = locked.stamp().ok();
        }
    }

    /// DEL: gives back every address of the pod's interface; nothing to give back is fine.
    pub(crate) fn del(
        &mut self,
        conf: &HostLocalConf,
        id: &str,
        interface: &str,
    ) -> Result<(), BuiltinError> {
        let Some(locked) = Locked::open(&conf.dir).map_err(failed("lock", &conf.dir))? else {
            return Ok(());
        };
        let known = Self::known(&mut self.known, &conf.dir, &locked).map_err(failed("read", &conf.dir))?;
        // Older versions of the plugin wrote the id alone.
        for holder in [holder(id, interface), id.to_owned()] {
            for ip in known.by_holder.get(&holder).into_iter().flatten() {
                locked.release(*ip).map_err(failed("write to", &conf.dir))?;
            }
            known.by_holder.remove(&holder);
        }
        known.stamp = Some(locked.stamp().map_err(failed("read", &conf.dir))?);
        Ok(())
    }

    /// CHECK
    pub(crate) fn check(
        &mut self,
        conf: &HostLocalConf,
        id: &str,
        interface: &str,
    ) -> Result<(), BuiltinError> {
        let missing = || BuiltinError::Missing(format!("an address of this pod in `{}`", conf.dir.display()));
        let locked = Locked::open(&conf.dir).map_err(failed("lock", &conf.dir))?.ok_or_else(missing)?;
        let known = Self::known(&mut self.known, &conf.dir, &locked).map_err(failed("read", &conf.dir))?;
        if known.by_holder.contains_key(&holder(id, interface)) { Ok(()) } else { Err(missing()) }
    }

    /// GC: gives back what this daemon took for pods that are not alive; never another's.
    pub(crate) fn gc(
        &mut self,
        conf: &HostLocalConf,
        is_alive: &dyn Fn(&str) -> bool,
    ) -> Result<usize, BuiltinError> {
        let Some(locked) = Locked::open(&conf.dir).map_err(failed("lock", &conf.dir))? else {
            return Ok(0);
        };
        let mut collected = 0;
        for (ip, content) in locked.entries().map_err(failed("read", &conf.dir))? {
            let id = content.split("\r\n").next().unwrap_or_default();
            if !is_alive(id) && locked.is_marked(ip, &self.mark) {
                locked.release(ip).map_err(failed("write to", &conf.dir))?;
                collected += 1;
            }
        }
        self.known.remove(&conf.dir);
        Ok(collected)
    }
}

/// All addresses of a set, beginning behind the one given last, without the gateways.
#[derive(Debug)]
struct Round<'a> {
    ranges: &'a [Range],
    range: usize,
    next: u128,
    left: u128,
}

impl<'a> Round<'a> {
    fn after(ranges: &'a [Range], last: Option<IpAddr>) -> Self {
        let left = ranges
            .iter()
            .map(|r| (cidr::number(r.end) - cidr::number(r.start)).saturating_add(1))
            .fold(0, u128::saturating_add);
        let begun = last.and_then(|ip| Some((ranges.iter().position(|r| r.contains(ip))?, cidr::number(ip))));
        match begun {
            Some((range, last)) => {
                let mut round = Self { ranges, range, next: last, left };
                round.step();
                round
            }
            None => Self { ranges, range: 0, next: cidr::number(ranges[0].start), left },
        }
    }

    fn step(&mut self) {
        if self.next == cidr::number(self.ranges[self.range].end) {
            self.range = (self.range + 1) % self.ranges.len();
            self.next = cidr::number(self.ranges[self.range].start);
        } else {
            self.next += 1;
        }
    }
}

impl<'a> Iterator for Round<'a> {
    type Item = (IpAddr, &'a Range);

    fn next(&mut self) -> Option<Self::Item> {
        while self.left > 0 {
            self.left -= 1;
            let range = &self.ranges[self.range];
            let ip = cidr::from_number(range.start, self.next);
            self.step();
            if ip != range.gateway {
                return Some((ip, range));
            }
        }
        None
    }
}
