//! The network of a bare machine: a bridge of this daemon's own, where no CNI configuration is.
//!
//! Names and subnet follow from the daemon's root, so two daemons never meet: the bridge has the
//! root's path as its alias, the subnet is one that no link or route of the host touches, and the
//! address files lie beneath the root. The chosen subnet is kept in `<root>/network/subnet`.

use crate::{
    builtin::{Builtin, BuiltinError, bridge::BridgeConf, errno, netlink},
    cidr::Cidr,
    conflist::NetworkList,
    rtnl::{self, Address},
    worker::Hands,
};
use serde_json::json;
use std::{
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};
use sys::rustix::{fs::Mode, io::Errno};

/// Subnets are /20 (4093 pods) out of 10.80.0.0/12.
const FIRST: u32 = u32::from_be_bytes([10, 80, 0, 0]);
const PREFIX: u8 = 20;
const COUNT: u32 = 1 << (20 - 12);
/// The longest alias of a link that the kernel takes, without the NUL.
const LONGEST_ALIAS: usize = 255;

/// FNV-1a of 64 bits: short names that must stay the same from release to release.
pub(crate) fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Names that follow from a daemon's root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    root: PathBuf,
    hash: u32,
}

impl Names {
    pub(crate) fn of(root: &Path) -> Self {
        let hash = fnv(root.as_os_str().as_encoded_bytes());
        let folded = u32::try_from((hash ^ (hash >> 32)) & u64::from(u32::MAX)).unwrap_or(u32::MAX);
        Self { root: root.to_owned(), hash: folded }
    }

    /// Of the nf_tables table.
    pub(crate) fn table(&self) -> String {
        format!("peapod_{:08x}", self.hash)
    }

    /// Of the network.
    pub(crate) fn network(&self) -> String {
        format!("peapod-{:08x}", self.hash)
    }

    pub(crate) fn bridge(&self) -> String {
        format!("peapod{:08x}", self.hash)
    }

    fn alias(&self) -> String {
        let mut alias = format!("peapod {}", self.root.display());
        while alias.len() > LONGEST_ALIAS {
            alias.pop();
        }
        alias
    }

    fn dir(&self) -> PathBuf {
        self.root.join("network")
    }

    fn subnet_file(&self) -> PathBuf {
        self.dir().join("subnet")
    }

    fn list(&self, subnet: Cidr) -> Result<NetworkList, BuiltinError> {
        let text = json!({
            "cniVersion": "1.0.0",
            "name": self.network(),
            "plugins": [
                {
                    "type": "bridge", "bridge": self.bridge(), "_alias": self.alias(),
                    "isGateway": true, "ipMasq": true, "hairpinMode": true,
                    "ipam": {
                        "type": "host-local", "dataDir": self.dir(),
                        "ranges": [[{"subnet": subnet}]], "routes": [{"dst": "0.0.0.0/0"}],
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": true}},
            ],
        });
        NetworkList::parse(&text.to_string(), true).map_err(|e| BuiltinError::Missing(e.to_string()))
    }

    fn candidate(&self, n: u32) -> Cidr {
        let number = (self.hash.wrapping_add(n)) % COUNT;
        let ip = Ipv4Addr::from(FIRST + (number << (32 - u32::from(PREFIX))));
        Cidr::new(IpAddr::V4(ip), PREFIX).expect("20 fits")
    }

    /// The subnet of an earlier run.
    fn kept(&self) -> Option<Cidr> {
        std::fs::read_to_string(self.subnet_file())
            .ok()?
            .trim()
            .parse()
            .ok()
            .filter(|c: &Cidr| c.prefix() == PREFIX)
    }

    fn keep(&self, subnet: Cidr) -> Result<(), BuiltinError> {
        let path = self.subnet_file();
        let failed = |e: &std::io::Error| {
            errno(format!("cannot write `{}`", path.display()))(Errno::from_io_error(e).unwrap_or(Errno::IO))
        };
        std::fs::create_dir_all(self.dir()).map_err(|e| failed(&e))?;
        sys::file::replace_path(&path, subnet.to_string().as_bytes(), Mode::RUSR | Mode::WUSR)
            .map_err(|e| failed(&e))
    }
}

/// Takes a subnet by giving its first address to the bridge; the network is then ready.
pub(crate) fn reserve(hands: &mut Hands, names: &Names) -> Result<NetworkList, BuiltinError> {
    let kept = names.kept();
    let candidates = kept.into_iter().chain((0..COUNT).map(|n| names.candidate(n)));
    for subnet in candidates {
        let list = names.list(subnet)?;
        let Some(conf) = bridge_of(&list) else { break };
        if in_use(hands, &names.bridge(), subnet)? {
            continue;
        }
        let bridge = conf.ensure_bridge(&mut hands.route)?;
        let gateway = gateway(bridge.index, subnet);
        conf.give_gateway(&mut hands.route, gateway)?;
        // Another daemon may have taken it at the same moment: both let go, both look on.
        if in_use(hands, &names.bridge(), subnet)? {
            hands.route.ask(rtnl::delete_address(gateway)).map_err(netlink("cannot let go of a subnet"))?;
            continue;
        }
        if kept != Some(subnet) {
            names.keep(subnet)?;
        }
        return Ok(list);
    }
    Err(BuiltinError::Exhausted(
        "10.80.0.0/12: every /20 of it touches a link or a route of the host".to_owned(),
    ))
}

fn bridge_of(list: &NetworkList) -> Option<BridgeConf> {
    match Builtin::of(list.plugins.first()?, list) {
        Ok(Builtin::Bridge(conf)) => Some(*conf),
        Ok(Builtin::Loopback | Builtin::Portmap(_) | Builtin::Foreign) | Err(_) => None,
    }
}

fn gateway(link: u32, subnet: Cidr) -> Address {
    let first = crate::cidr::from_number(subnet.ip(), crate::cidr::number(subnet.network()) + 1);
    Address { link, net: Cidr::new(first, subnet.prefix()).expect("the subnet's own prefix") }
}

/// Whether any link but the bridge has an address in the subnet, or a route leads into it.
fn in_use(hands: &mut Hands, bridge: &str, subnet: Cidr) -> Result<bool, BuiltinError> {
    let look = || netlink("cannot look at the links and routes of the host");
    let own = rtnl::link(&mut hands.route, bridge).map_err(look())?.map_or(0, |link| link.index);
    let addresses = rtnl::addresses(&mut hands.route).map_err(look())?;
    let routes = rtnl::destinations(&mut hands.route).map_err(look())?;
    Ok(addresses.iter().any(|a| a.link != own && a.net.overlaps(&subnet))
        || routes.iter().any(|(to, link)| *link != own && to.prefix() > 0 && to.overlaps(&subnet)))
}

/// Removes the bridge, unless it is not this daemon's.
pub(crate) fn remove(hands: &mut Hands, names: &Names) -> Result<(), BuiltinError> {
    let name = names.bridge();
    let failed = || netlink(format!("cannot remove the bridge `{name}`"));
    let found = rtnl::link(&mut hands.route, &name).map_err(failed())?;
    if found.is_some_and(|link| link.kind == "bridge" && link.alias == names.alias()) {
        rtnl::delete_link(&mut hands.route, &name).map_err(failed())?;
    }
    Ok(())
}
