//! The interfaces of pods: counters by netlink, from inside each network namespace.
//!
//! A thread joins a namespace for good, so it is one that does nothing else and ends with the look;
//! no thread of the daemon's own is ever moved. Counters are those of `IFLA_STATS64`, rtnetlink(7).

use std::{
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};
use sys::{
    netlink::{Socket, Subsystem},
    rustix::{
        fs::{CWD, Mode, OFlags, openat},
        io::Errno,
        thread::LinkNameSpaceType,
    },
};

/// How long the kernel may take for an answer; it takes microseconds.
const PATIENCE: Duration = Duration::from_secs(1);
/// Most interfaces of one pod that are told.
const MOST: usize = 256;
/// The name that CNI is asked to give the pod's interface.
const DEFAULT: &str = "eth0";

/// What a pod's interfaces did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodNetwork {
    /// `eth0`, or the first one if there is none of that name.
    pub default: Interface,
    /// The others, without the loopback, in the kernel's order.
    pub others: Vec<Interface>,
}

/// What one interface did since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name inside the pod.
    pub name: String,
    /// Bytes.
    pub rx_bytes: u64,
    /// Packets.
    pub rx_packets: u64,
    /// Broken ones.
    pub rx_errors: u64,
    /// Those for which there was no room, as /proc/net/dev counts them: missed ones too.
    pub rx_dropped: u64,
    /// Bytes.
    pub tx_bytes: u64,
    /// Packets.
    pub tx_packets: u64,
    /// Those that could not be sent for an error.
    pub tx_errors: u64,
    /// Those that were not sent for want of room.
    pub tx_dropped: u64,
}

impl PodNetwork {
    /// All of them, the default one first.
    pub fn all(&self) -> impl Iterator<Item = &Interface> {
        std::iter::once(&self.default).chain(&self.others)
    }

    fn of(mut interfaces: Vec<Interface>) -> Option<PodNetwork> {
        let at = interfaces.iter().position(|interface| interface.name == DEFAULT).unwrap_or(0);
        (at < interfaces.len()).then(|| PodNetwork { default: interfaces.remove(at), others: interfaces })
    }
}

/// Looks into network namespaces, each by the path of its pin. `None`: it is gone, has nothing but
/// a loopback, or cannot be looked at. It blocks.
#[must_use]
pub fn networks(pins: Vec<Option<PathBuf>>) -> Vec<Option<PodNetwork>> {
    let many = pins.len();
    let look = move || -> Vec<Option<PodNetwork>> {
        pins.iter().map(|pin| pin.as_deref().and_then(|pin| inside(pin).ok().flatten())).collect()
    };
    let thread = std::thread::Builder::new().name("pod-network".to_owned()).spawn(look);
    thread.ok().and_then(|thread| thread.join().ok()).unwrap_or_else(|| vec![None; many])
}

/// Moves the calling thread.
fn inside(pin: &Path) -> Result<Option<PodNetwork>, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let netns: OwnedFd = openat(CWD, pin, flags, Mode::empty())?;
    sys::namespace::join(netns.as_fd(), LinkNameSpaceType::Network)?;
    let socket = Socket::open(Subsystem::Route, PATIENCE)?;
    socket.send(&get_links())?;
    let mut buffer = vec![0; 64 << 10];
    let mut interfaces = Vec::new();
    loop {
        let length = socket.receive(&mut buffer)?;
        let end = read_links(buffer.get(..length).unwrap_or_default(), &mut interfaces)?;
        if end || interfaces.len() >= MOST {
            return Ok(PodNetwork::of(interfaces));
        }
    }
}

/// `RTM_GETLINK` for all links.
fn get_links() -> Vec<u8> {
    const RTM_GETLINK: u16 = 18;
    const REQUEST_AND_DUMP: u16 = 0x301;
    const LENGTH: u32 = 32;
    let mut bytes = Vec::with_capacity(32);
    bytes.extend_from_slice(&LENGTH.to_ne_bytes());
    bytes.extend_from_slice(&RTM_GETLINK.to_ne_bytes());
    bytes.extend_from_slice(&REQUEST_AND_DUMP.to_ne_bytes());
    // Sequence 1, the kernel's port, and an ifinfomsg of zeros.
    bytes.extend_from_slice(&1_u32.to_ne_bytes());
    bytes.resize(32, 0);
    bytes
}

/// Takes the links of one datagram; `true` after the last one.
fn read_links(mut bytes: &[u8], interfaces: &mut Vec<Interface>) -> Result<bool, Errno> {
    const NLMSG_ERROR: u16 = 2;
    const NLMSG_DONE: u16 = 3;
    const RTM_NEWLINK: u16 = 16;
    while let Some(length) = u32_at(bytes, 0).and_then(|n| usize::try_from(n).ok()) {
        let Some(message) = bytes.get(..length).filter(|message| message.len() >= 16) else {
            return Err(Errno::BADMSG);
        };
        match u16_at(message, 4) {
            Some(NLMSG_DONE) => return Ok(true),
            Some(NLMSG_ERROR) => return Err(Errno::IO),
            Some(RTM_NEWLINK) => interfaces.extend(message.get(16..).and_then(interface)),
            Some(_) | None => {}
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// An ifinfomsg with its attributes; `None` for a loopback.
fn interface(message: &[u8]) -> Option<Interface> {
    const IFF_LOOPBACK: u32 = 0x8;
    const IFLA_IFNAME: u16 = 3;
    const IFLA_STATS64: u16 = 23;
    if u32_at(message, 8)? & IFF_LOOPBACK != 0 {
        return None;
    }
    let mut found = Interface::default();
    let mut rest = message.get(16..)?;
    while let (Some(length), Some(kind)) = (u16_at(rest, 0), u16_at(rest, 2)) {
        let Some(payload) = rest.get(4..usize::from(length)) else { break };
        match kind {
            IFLA_IFNAME => {
                let name = payload.split(|byte| *byte == 0).next().unwrap_or_default();
                found.name = String::from_utf8_lossy(name).into_owned();
            }
            IFLA_STATS64 => counters(payload, &mut found),
            _ => {}
        }
        rest = rest.get(usize::from(length).next_multiple_of(4)..).unwrap_or_default();
    }
    (!found.name.is_empty()).then_some(found)
}

/// struct rtnl_link_stats64, linux/if_link.h.
fn counters(payload: &[u8], found: &mut Interface) {
    let at = |index: usize| {
        let bytes = payload.get(index * 8..index * 8 + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u64::from_ne_bytes).unwrap_or(0)
    };
    (found.rx_packets, found.tx_packets) = (at(0), at(1));
    (found.rx_bytes, found.tx_bytes) = (at(2), at(3));
    (found.rx_errors, found.tx_errors) = (at(4), at(5));
    (found.rx_dropped, found.tx_dropped) = (at(6).saturating_add(at(15)), at(7));
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sys::rustix::{
        mount::{MountFlags, UnmountFlags},
        thread::UnshareFlags,
    };

    /// One link as the kernel tells it.
    fn link(name: &str, flags: u32, counters: &[u64]) -> Vec<u8> {
        let mut message = vec![0; 16];
        message[8..12].copy_from_slice(&flags.to_ne_bytes());
        let mut attribute = |kind: u16, payload: &[u8]| {
            message.extend_from_slice(&u16::try_from(payload.len() + 4).unwrap().to_ne_bytes());
            message.extend_from_slice(&kind.to_ne_bytes());
            message.extend_from_slice(payload);
            message.resize(message.len().next_multiple_of(4), 0);
        };
        attribute(3, format!("{name}\0").as_bytes());
        attribute(23, &counters.iter().flat_map(|n| n.to_ne_bytes()).collect::<Vec<_>>());
        let mut all = Vec::new();
        all.extend_from_slice(&u32::try_from(message.len() + 16).unwrap().to_ne_bytes());
        all.extend_from_slice(&16_u16.to_ne_bytes());
        all.extend_from_slice(&[0; 10]);
        all.extend_from_slice(&message);
        all
    }

    #[test]
    fn links_are_read_without_the_loopback_and_the_default_one_comes_apart() {
        let counters: Vec<u64> = (1..=24).collect();
        let datagram =
            [link("lo", 0x9, &counters), link("net1", 1, &counters), link("eth0", 1, &counters)].concat();
        let mut found = Vec::new();
        assert_eq!(read_links(&datagram, &mut found), Ok(false));
        let network = PodNetwork::of(found).unwrap();
        assert_eq!(network.default.name, "eth0");
        assert_eq!(network.others.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(), ["net1"]);
        let eth0 = network.default;
        assert_eq!((eth0.rx_packets, eth0.tx_packets, eth0.rx_bytes, eth0.tx_bytes), (1, 2, 3, 4));
        assert_eq!((eth0.rx_errors, eth0.tx_errors, eth0.rx_dropped, eth0.tx_dropped), (5, 6, 7 + 16, 8));
        assert_eq!(PodNetwork::of(Vec::new()), None);
    }

    #[test]
    fn broken_messages_are_errors_and_no_panic() {
        let whole = link("eth0", 1, &[1, 2]);
        for cut in 1..whole.len() {
            let mut found = Vec::new();
            let _ = read_links(&whole[..cut], &mut found);
        }
        assert_eq!(read_links(&[8, 0, 0, 0, 16, 0, 0, 0], &mut Vec::new()), Err(Errno::BADMSG));
        let done = [16_u32.to_ne_bytes(), [3, 0, 0, 0], [0; 4], [0; 4]].concat();
        assert_eq!(read_links(&done, &mut Vec::new()), Ok(true));
    }

    #[test]
    fn a_namespace_is_looked_into_and_the_caller_stays_where_it_is() {
        let dir = std::env::temp_dir().join(format!("peapod-test-{}-netns", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let pin = dir.join("net");
        std::fs::File::create(&pin).unwrap();
        let place = pin.clone();
        // A namespace with a veth pair in it, both ends called what a pod would call them.
        std::thread::spawn(move || {
            sys::namespace::unshare(UnshareFlags::NEWNET).unwrap();
            let made = std::process::Command::new("ip")
                .args(["link", "add", "eth0", "type", "veth", "peer", "name", "net1"])
                .status()
                .unwrap();
            assert!(made.success());
            sys::rustix::mount::mount("/proc/thread-self/ns/net", &place, "", MountFlags::BIND, None)
                .unwrap();
        })
        .join()
        .unwrap();
        let home = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let seen = networks(vec![Some(pin.clone()), None, Some(dir.join("gone")), Some(pin.clone())]);
        sys::rustix::mount::unmount(&pin, UnmountFlags::DETACH).unwrap();
        sys::tree::remove_path(&dir).unwrap();
        assert_eq!(std::fs::read_link("/proc/thread-self/ns/net").unwrap(), home);
        assert_eq!(seen.len(), 4);
        let network = seen[0].as_ref().expect("two interfaces");
        assert_eq!(network.all().map(|i| i.name.as_str()).collect::<Vec<_>>(), ["eth0", "net1"]);
        assert_eq!((&seen[1], &seen[2], &seen[3]), (&None, &None, &seen[0]));
    }
}
