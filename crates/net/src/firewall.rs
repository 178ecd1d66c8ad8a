//! This daemon's own nf_tables table: masquerading and host ports.
//!
//! One `inet` table, named after the daemon's root, with fixed chains and maps; a pod is nothing but
//! elements in them, each marked with the pod's id, and goes by deleting its elements. So nothing of
//! a pod can be left in the middle of a chain, and no other program's tables are touched.
//!
//! - `masq4/6`: pod address -> chain of its network, which masquerades what leaves the network.
//! - `ports4/6`: protocol and host port -> pod address and port; `hostports4/6` with the host's
//!   address in front. Only packets to an address of the host itself are looked up (a mapping must
//!   not catch what the host merely forwards, CVE-2025-67499), and behind the usual priority, so
//!   that service rules come first (CVE-2019-9946).
//! - `snat4/6`: pod address, protocol and host port -> chain of its network, which masquerades
//!   what came by a host port from the host's loopback or from the pod's own network: the answer
//!   would not find the way back through the host otherwise.
//! - `guard`: nobody but the host itself sends to or from 127.0.0.0/8, although a bridge has
//!   `route_localnet` for the host ports (CVE-2020-8558).

use crate::{
    builtin::{BuiltinError, netlink},
    cidr::Cidr,
    conntrack,
    nft::{self, Element, Expression, Hook, LOCAL_OUT, Leads, Load, POST_ROUTING, PRE_ROUTING, Part, Target},
    rtnl::ip_bytes,
    session::{Refusal, Session},
    wire::Message,
};
use std::{collections::BTreeSet, net::IpAddr};
use sys::{netlink::Subsystem, rustix::io::Errno};
use types::pod::{PortMapping, Protocol};

const GUARD_PRIORITY: i32 = -300; // raw: before connections are known and addresses rewritten
const DNAT_PRIORITY: i32 = -90; // dstnat is -100
const SNAT_PRIORITY: i32 = 110; // srcnat is 100
const STATUS_DNAT: u32 = 1 << 5; // IPS_DST_NAT
const LOCAL: u32 = 2; // RTN_LOCAL
const LOOPBACK: u32 = 1; // ifindex of lo
const NAME_LIMIT: usize = 31;

/// A family with its names.
#[derive(Clone, Copy, Debug)]
struct Family {
    part: Part,
    proto: u8, // NFPROTO_*
    masq: &'static str,
    ports: &'static str,
    host_ports: &'static str,
    snat: &'static str,
    /// The registers behind an address.
    behind: u32,
    /// First id of the maps within the transaction that makes them.
    ids: u32,
}

const V4: Family = Family {
    part: Part::Ipv4,
    proto: 2,
    masq: "masq4",
    ports: "ports4",
    host_ports: "hostports4",
    snat: "snat4",
    behind: 1,
    ids: 10,
};
const V6: Family = Family {
    part: Part::Ipv6,
    proto: 10,
    masq: "masq6",
    ports: "ports6",
    host_ports: "hostports6",
    snat: "snat6",
    behind: 4,
    ids: 20,
};

fn family(ip: IpAddr) -> Family {
    if ip.is_ipv4() { V4 } else { V6 }
}

impl Family {
    fn maps(&self) -> [&'static str; 4] {
        [self.masq, self.ports, self.host_ports, self.snat]
    }
}

/// A host port that leads to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) protocol: Protocol,
    pub(crate) host_port: u16,
    /// `None` = every address of the host.
    pub(crate) host_ip: Option<IpAddr>,
    pub(crate) pod_ip: IpAddr,
    pub(crate) pod_port: u16,
}

/// Whose packets to a host port are masqueraded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Snat {
    /// Nobody's (`snat: false`).
    Off,
    /// Those from the host's loopback and from the pod's network.
    Near,
    /// Everybody's (`masqAll`).
    All,
}

impl Published {
    fn shown(&self) -> String {
        let protocol = protocol_name(self.protocol);
        match self.host_ip {
            Some(ip) => format!("{ip} {}/{protocol}", self.host_port),
            None => format!("{}/{protocol}", self.host_port),
        }
    }

    /// Key in `ports`: protocol and port.
    fn key(&self) -> Vec<u8> {
        let port = self.host_port.to_be_bytes();
        vec![protocol_number(self.protocol), 0, 0, 0, port[0], port[1], 0, 0]
    }

    /// The map that it goes into, and its key there.
    fn place(&self) -> (&'static str, Vec<u8>) {
        let family = family(self.pod_ip);
        match self.host_ip {
            None => (family.ports, self.key()),
            Some(ip) => (family.host_ports, [ip_bytes(ip), self.key()].concat()),
        }
    }

    fn target(&self) -> Target {
        let port = self.pod_port.to_be_bytes();
        Target::Data([ip_bytes(self.pod_ip), vec![port[0], port[1], 0, 0]].concat())
    }

    fn snat_key(&self) -> Vec<u8> {
        [ip_bytes(self.pod_ip), self.key()].concat()
    }
}

pub(crate) fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

pub(crate) fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

/// The table of this daemon in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Firewall {
    session: Session,
    table: String,
}

impl Firewall {
    pub(crate) fn open(table: &str) -> Result<Self, Errno> {
        Ok(Self { session: Session::open(Subsystem::Netfilter)?, table: table.to_owned() })
    }

    fn run(&mut self, requests: Vec<Message>) -> Result<(), Refusal> {
        // The kernel asks to try again when somebody else's change came between; it is rare and short.
        for _ in 0..20 {
            match self.session.transaction(requests.clone()) {
                Err((_, refusal)) if matches!(refusal.errno, Errno::INTR | Errno::AGAIN) => {}
                other => return other.map_err(|(_, refusal)| refusal),
            }
        }
        Err(Refusal { errno: Errno::AGAIN, text: None })
    }

    /// Makes the table if it is not there, or somebody has flushed it away; and the chains of a
    /// network with these subnets.
    fn ensure(&mut self, networks: &[&Chain]) -> Result<(), BuiltinError> {
        let table = self.table.clone();
        if !self.has_chain("guard")? {
            self.run(skeleton(&table)).map_err(netlink("cannot make the nf_tables table"))?;
        }
        for chain in networks {
            if !self.has_chain(&chain.name)? {
                self.run(chain.messages(&table)).map_err(netlink("cannot make a chain of nf_tables"))?;
            }
        }
        Ok(())
    }

    fn has_chain(&mut self, chain: &str) -> Result<bool, BuiltinError> {
        match self.session.ask(nft::get_chain(&self.table, chain)) {
            Ok(found) => Ok(!found.is_empty()),
            Err(refusal) if refusal.errno == Errno::NOENT => Ok(false),
            Err(refusal) => Err(netlink("cannot look at the nf_tables table")(refusal)),
        }
    }

    fn owner(&mut self, map: &str, key: &[u8]) -> Result<Option<Element>, BuiltinError> {
        match self.session.ask(nft::get_element(&self.table, map, key)) {
            Ok(found) => Ok(found.iter().flat_map(nft::elements_of).next()),
            Err(refusal) if refusal.errno == Errno::NOENT => Ok(None),
            Err(refusal) => Err(netlink("cannot look at an nf_tables map")(refusal)),
        }
    }

    fn elements(&mut self, map: &str) -> Result<Vec<Element>, BuiltinError> {
        match self.session.dump(nft::list_elements(&self.table, map)) {
            Ok(found) => Ok(found.iter().flat_map(nft::elements_of).collect()),
            Err(refusal) if refusal.errno == Errno::NOENT => Ok(Vec::new()),
            Err(refusal) => Err(netlink("cannot list an nf_tables map")(refusal)),
        }
    }

    /// Masquerades what these addresses send out of their subnets.
    pub(crate) fn masquerade(
        &mut self,
        pod: &str,
        addresses: &[IpAddr],
        subnets: &BTreeSet<Cidr>,
    ) -> Result<(), BuiltinError> {
        let chain = Chain::outward(subnets);
        self.ensure(&[&chain])?;
        let table = self.table.clone();
        let mut requests = Vec::new();
        for ip in addresses {
            let (map, key) = (family(*ip).masq, ip_bytes(*ip));
            if self.owner(map, &key)?.is_some() {
                // An address is one pod's: what is there is left of a pod that is gone.
                requests.push(nft::delete_element(&table, map, &key));
            }
            let element = Element { key, target: Target::Jump(chain.name.clone()), owner: pod.to_owned() };
            requests.push(nft::add_element(&table, map, &element));
        }
        self.run(requests).map_err(netlink("cannot masquerade the pod's addresses"))
    }

    /// Takes back what [`Firewall::masquerade`] did; nothing to take back is fine. Without the
    /// addresses all that are there are looked through.
    pub(crate) fn unmasquerade(
        &mut self,
        pod: &str,
        addresses: Option<&[IpAddr]>,
    ) -> Result<(), BuiltinError> {
        let Some(addresses) = addresses else {
            return self.drop_where(&[V4.masq, V6.masq], &|owner| owner == pod).map(drop);
        };
        let table = self.table.clone();
        let mut requests = Vec::new();
        for ip in addresses {
            let (map, key) = (family(*ip).masq, ip_bytes(*ip));
            // The address may be another pod's by now.
            if self.owner(map, &key)?.is_some_and(|element| element.owner == pod) {
                requests.push(nft::delete_element(&table, map, &key));
            }
        }
        if requests.is_empty() {
            return Ok(());
        }
        self.run(requests).map_err(netlink("cannot take the masquerading of the pod back"))
    }

    /// Publishes a pod's ports, all or none.
    pub(crate) fn publish(
        &mut self,
        pod: &str,
        ports: &[Published],
        snat: Snat,
        subnets: &BTreeSet<Cidr>,
    ) -> Result<(), BuiltinError> {
        let chain = match snat {
            Snat::Off => None,
            Snat::Near => Some(Chain::near(subnets)),
            Snat::All => Some(Chain::all()),
        };
        self.ensure(&chain.iter().collect::<Vec<_>>())?;
        for port in ports {
            self.refuse_taken(pod, port)?;
        }
        let table = self.table.clone();
        let mut requests = Vec::new();
        let mut seen = BTreeSet::new();
        for port in ports {
            let (map, key) = port.place();
            requests.push(nft::add_element(
                &table,
                map,
                &Element { key, target: port.target(), owner: pod.to_owned() },
            ));
            let Some(chain) = &chain else { continue };
            let (map, key) = (family(port.pod_ip).snat, port.snat_key());
            if seen.insert(key.clone()) {
                let target = Target::Jump(chain.name.clone());
                requests.push(nft::add_element(&table, map, &Element { key, target, owner: pod.to_owned() }));
            }
        }
        self.run(requests).map_err(netlink("cannot publish the pod's ports"))
    }

    /// A port of all addresses and one of a single address exclude each other.
    fn refuse_taken(&mut self, pod: &str, port: &Published) -> Result<(), BuiltinError> {
        let (map, key) = port.place();
        let mut found = self.owner(map, &key)?;
        let family = family(port.pod_ip);
        if found.is_none() && port.host_ip.is_some() {
            found = self.owner(family.ports, &port.key())?;
        } else if found.is_none() {
            let all = self.elements(family.host_ports)?;
            found = all.into_iter().find(|e| e.key.ends_with(&port.key()));
        }
        match found {
            // The pod's own, of a mapping to each address and one to a single one.
            Some(element) if element.owner == pod && element.key != key => Ok(()),
            Some(element) => Err(BuiltinError::HostPortTaken { port: port.shown(), owner: element.owner }),
            None => Ok(()),
        }
    }

    /// Takes a pod's ports back; nothing to take back is fine.
    pub(crate) fn unpublish(&mut self, pod: &str) -> Result<(), BuiltinError> {
        let maps = [V4, V6].map(|f| [f.ports, f.host_ports, f.snat]).concat();
        self.drop_where(&maps, &|owner| owner == pod).map(drop)
    }

    /// Forgets the UDP connections to these ports: they would go on to where they went before.
    pub(crate) fn forget_connections(
        &mut self,
        mappings: &[PortMapping],
        own: &[IpAddr],
    ) -> Result<(), BuiltinError> {
        for mapping in mappings.iter().filter(|m| m.protocol == Protocol::Udp) {
            let asked = mapping.host_ip.filter(|ip| !ip.is_unspecified());
            let is_ours = |ip: IpAddr| match asked {
                Some(asked) => ip == asked,
                None => ip.is_loopback() || own.contains(&ip),
            };
            for v4 in [true, false] {
                if mapping.host_ip.is_none_or(|ip| ip.is_ipv4() == v4) {
                    conntrack::forget_udp(&mut self.session, mapping.host_port, v4, &is_ours)?;
                }
            }
        }
        Ok(())
    }

    /// CHECK: whether all of a pod's ports are published.
    pub(crate) fn check(&mut self, pod: &str, ports: &[Published]) -> Result<(), BuiltinError> {
        for port in ports {
            let (map, key) = port.place();
            let there = self.owner(map, &key)?;
            if there.is_none_or(|e| e.owner != pod || e.target != port.target()) {
                return Err(BuiltinError::Missing(format!("host port {}", port.shown())));
            }
        }
        Ok(())
    }

    /// CHECK: whether the pod's addresses are masqueraded.
    pub(crate) fn check_masquerade(&mut self, pod: &str, addresses: &[IpAddr]) -> Result<(), BuiltinError> {
        for ip in addresses {
            if self.owner(family(*ip).masq, &ip_bytes(*ip))?.is_none_or(|e| e.owner != pod) {
                return Err(BuiltinError::Missing(format!("masquerading of {ip}")));
            }
        }
        Ok(())
    }

    /// Drops the elements of every pod that is not alive, then chains that nothing leads to.
    pub(crate) fn gc(&mut self, is_alive: &dyn Fn(&str) -> bool) -> Result<usize, BuiltinError> {
        let maps = [V4.maps(), V6.maps()].concat();
        let dropped = self.drop_where(&maps, &|owner| !is_alive(owner))?;
        let chains =
            self.session.dump(nft::list_chains()).map_err(netlink("cannot list nf_tables chains"))?;
        for (table, chain) in chains.iter().filter_map(nft::chain_of) {
            if table == self.table && chain.starts_with("net_") {
                let request = vec![nft::delete_chain(&table, &chain)];
                match self.run(request) {
                    Ok(()) => {}
                    Err(refusal) if matches!(refusal.errno, Errno::BUSY | Errno::NOENT) => {}
                    Err(refusal) => return Err(netlink("cannot delete an nf_tables chain")(refusal)),
                }
            }
        }
        Ok(dropped)
    }

    fn drop_where(&mut self, maps: &[&str], unwanted: &dyn Fn(&str) -> bool) -> Result<usize, BuiltinError> {
        let table = self.table.clone();
        let mut requests = Vec::new();
        for map in maps {
            for element in self.elements(map)?.into_iter().filter(|e| unwanted(&e.owner)) {
                requests.push(nft::delete_element(&table, map, &element.key));
            }
        }
        let count = requests.len();
        if count > 0 {
            self.run(requests).map_err(netlink("cannot drop elements of nf_tables maps"))?;
        }
        Ok(count)
    }

    /// Deletes the table with all in it.
    pub(crate) fn remove(&mut self) -> Result<(), BuiltinError> {
        match self.run(vec![nft::delete_table(&self.table)]) {
            Ok(()) => Ok(()),
            Err(refusal) if refusal.errno == Errno::NOENT => Ok(()),
            Err(refusal) => Err(netlink("cannot delete the nf_tables table")(refusal)),
        }
    }
}

/// A chain that belongs to networks of the same subnets.
#[derive(Debug)]
struct Chain {
    name: String,
    /// Masquerade what goes to none of these (outward), or what comes from one of these (near).
    subnets: Vec<Cidr>,
    kind: ChainKind,
}

#[derive(Clone, Copy, Debug)]
enum ChainKind {
    Outward,
    Near,
    All,
}

impl Chain {
    fn named(kind: ChainKind, label: &str, subnets: &BTreeSet<Cidr>) -> Self {
        let text: Vec<String> = subnets.iter().map(Cidr::to_string).collect();
        let name = format!("net_{label}_{:016x}", crate::fallback::fnv(text.join(",").as_bytes()));
        debug_assert!(name.len() <= NAME_LIMIT);
        Self { name, subnets: subnets.iter().copied().collect(), kind }
    }

    fn outward(subnets: &BTreeSet<Cidr>) -> Self {
        Self::named(ChainKind::Outward, "out", subnets)
    }

    fn near(subnets: &BTreeSet<Cidr>) -> Self {
        Self::named(ChainKind::Near, "near", subnets)
    }

    fn all() -> Self {
        Self { name: "net_all".to_owned(), subnets: Vec::new(), kind: ChainKind::All }
    }

    fn messages(&self, table: &str) -> Vec<Message> {
        let mut all = vec![nft::add_chain(table, &self.name, None)];
        let mut rule = |parts: Vec<Expression<'_>>| all.push(nft::add_rule(table, &self.name, &parts));
        match self.kind {
            ChainKind::All => rule(vec![Expression::Masquerade]),
            ChainKind::Outward => {
                let multicast = ["224.0.0.0/4", "ff00::/8"].map(|m| m.parse().expect("a network"));
                for subnet in self.subnets.iter().chain(&multicast) {
                    rule([to_or_from(*subnet, Load::Destination), vec![Expression::Return]].concat());
                }
                rule(vec![Expression::Masquerade]);
            }
            ChainKind::Near => {
                let loopback = ["127.0.0.0/8".parse().expect("a network")];
                for subnet in self.subnets.iter().chain(&loopback) {
                    rule([to_or_from(*subnet, Load::Source), vec![Expression::Masquerade]].concat());
                }
            }
        }
        all
    }
}

/// Packets of the subnet's family whose address lies in it.
fn to_or_from(subnet: Cidr, which: impl Fn(Part) -> Load) -> Vec<Expression<'static>> {
    let family = family(subnet.ip());
    let ones = Cidr::new(crate::cidr::from_number(subnet.ip(), u128::MAX), subnet.prefix());
    let mask = ip_bytes(ones.expect("the prefix is the subnet's own").network());
    vec![
        Expression::Load(0, Load::Family),
        Expression::Equal(0, vec![family.proto]),
        Expression::Load(0, which(family.part)),
        Expression::Mask(0, mask),
        Expression::Equal(0, ip_bytes(subnet.network())),
    ]
}

/// The table with its fixed chains and maps, in one transaction. The table itself may be there.
fn skeleton(table: &str) -> Vec<Message> {
    let base = |name: &str, kind, number, priority| {
        nft::add_chain(table, name, Some(Hook { kind, number, priority }))
    };
    let mut all = vec![
        nft::add_table(table),
        base("guard", "filter", PRE_ROUTING, GUARD_PRIORITY),
        base("prerouting", "nat", PRE_ROUTING, DNAT_PRIORITY),
        base("output", "nat", LOCAL_OUT, DNAT_PRIORITY),
        base("postrouting", "nat", POST_ROUTING, SNAT_PRIORITY),
    ];
    for family in [V4, V6] {
        let ip = family.part;
        let port = [Part::Protocol, Part::Port];
        let ip_port = [ip, Part::Protocol, Part::Port];
        let to = Leads::Data(&[ip, Part::Port]);
        all.push(nft::add_map(table, family.masq, &[ip], Leads::Chain, family.ids));
        all.push(nft::add_map(table, family.ports, &port, to, family.ids + 1));
        all.push(nft::add_map(table, family.host_ports, &ip_port, to, family.ids + 2));
        all.push(nft::add_map(table, family.snat, &ip_port, Leads::Chain, family.ids + 3));
    }
    for family in [V4, V6] {
        for chain in ["prerouting", "output"] {
            all.push(nft::add_rule(table, chain, &dnat(family, true)));
            all.push(nft::add_rule(table, chain, &dnat(family, false)));
        }
        all.push(nft::add_rule(table, "postrouting", &snat(family)));
        all.push(nft::add_rule(table, "postrouting", &masq(family)));
    }
    for which in [Load::Destination as fn(Part) -> Load, Load::Source] {
        let mut rule = vec![
            Expression::Load(0, Load::InputLink),
            Expression::Differs(0, LOOPBACK.to_ne_bytes().to_vec()),
        ];
        rule.extend(to_or_from("127.0.0.0/8".parse().expect("a network"), which));
        rule.push(Expression::Drop);
        all.push(nft::add_rule(table, "guard", &rule));
    }
    all
}

fn of_family(family: Family) -> Vec<Expression<'static>> {
    vec![Expression::Load(0, Load::Family), Expression::Equal(0, vec![family.proto])]
}

fn dnat(family: Family, with_host_ip: bool) -> Vec<Expression<'static>> {
    let mut rule = of_family(family);
    rule.push(Expression::Load(0, Load::DestinationType));
    rule.push(Expression::Equal(0, LOCAL.to_ne_bytes().to_vec()));
    if family.proto == V6.proto {
        // The answer of a packet from ::1 could not come back; IPv4 has `route_localnet` for that.
        rule.push(Expression::Load(0, Load::Destination(Part::Ipv6)));
        rule.push(Expression::Differs(0, ip_bytes(IpAddr::V6(std::net::Ipv6Addr::LOCALHOST))));
    }
    let first = if with_host_ip {
        rule.push(Expression::Load(0, Load::Destination(family.part)));
        family.behind
    } else {
        0
    };
    rule.push(Expression::Load(first, Load::Protocol));
    rule.push(Expression::Load(first + 1, Load::DestinationPort));
    rule.push(if with_host_ip {
        Expression::Map(family.host_ports, family.ids + 2)
    } else {
        Expression::Map(family.ports, family.ids + 1)
    });
    rule.push(Expression::Dnat(family.part, family.behind));
    rule
}

fn snat(family: Family) -> Vec<Expression<'static>> {
    let mut rule = of_family(family);
    rule.extend([
        Expression::Load(0, Load::ConnectionStatus),
        Expression::Mask(0, STATUS_DNAT.to_ne_bytes().to_vec()),
        Expression::Differs(0, vec![0; 4]),
        Expression::Load(0, Load::Destination(family.part)),
        Expression::Load(family.behind, Load::Protocol),
        Expression::Load(family.behind + 1, Load::OriginalPort),
        Expression::JumpBy(family.snat, family.ids + 3),
    ]);
    rule
}

fn masq(family: Family) -> Vec<Expression<'static>> {
    let mut rule = of_family(family);
    rule.push(Expression::Load(0, Load::Source(family.part)));
    rule.push(Expression::JumpBy(family.masq, family.ids));
    rule
}
