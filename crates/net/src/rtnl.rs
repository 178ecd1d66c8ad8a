//! Links, addresses and routes: the few rtnetlink(7) requests that the built-in plugins need.

use crate::{
    cidr::Cidr,
    session::{Refusal, Session},
    wire::{self, CREATE, EXCL, Message, Received},
};
use std::net::IpAddr;
use sys::rustix::{
    fd::{AsRawFd, BorrowedFd},
    io::Errno,
};

const NEWLINK: u16 = 16; // RTM_*, linux/rtnetlink.h
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const SETLINK: u16 = 19;
const NEWADDR: u16 = 20;
const DELADDR: u16 = 21;
const GETADDR: u16 = 22;
const NEWROUTE: u16 = 24;
const GETROUTE: u16 = 26;

const IFLA_ADDRESS: u16 = 1; // linux/if_link.h
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_STATE: u16 = 1;
const IFLA_BRPORT_MODE: u16 = 4; // hairpin
const IFLA_BRPORT_FLUSH: u16 = 24;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const BR_STATE_DISABLED: u8 = 0; // linux/if_bridge.h
const VETH_INFO_PEER: u16 = 1; // linux/veth.h

const IFA_ADDRESS: u16 = 1; // linux/if_addr.h
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_F_NODAD: u8 = 0x02;

const RTA_DST: u16 = 1; // linux/rtnetlink.h
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_METRICS: u16 = 8;
const RTAX_MTU: u16 = 2;
const RTAX_ADVMSS: u16 = 8;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;

const IFF_UP: u32 = 0x1;
const IFF_PROMISC: u32 = 0x100;

const AF_INET: u8 = 2;
const AF_BRIDGE: u8 = 7;
const AF_INET6: u8 = 10;

/// A hardware address.
pub(crate) type Mac = [u8; 6];

/// `02:..` as CNI results show it.
pub(crate) fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

pub(crate) fn family_of(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    }
}

pub(crate) fn ip_bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn ip_of(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// struct ifinfomsg
fn link_head(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut head = [0; 16];
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    head[8..12].copy_from_slice(&flags.to_ne_bytes());
    head[12..].copy_from_slice(&change.to_ne_bytes());
    head
}

/// What the kernel says of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// `bridge`, `veth`, ...; empty for hardware.
    pub(crate) kind: String,
    pub(crate) alias: String,
    pub(crate) mac: Mac,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
    pub(crate) promiscuous: bool,
    /// Index of the bridge that it is a port of, or 0.
    pub(crate) master: u32,
}

fn link_of(message: &Received) -> Option<Link> {
    let head = message.payload.get(..16)?;
    let flags = wire::number(&head[8..])?;
    let mut link = Link {
        index: wire::number(&head[4..])?,
        up: flags & IFF_UP != 0,
        promiscuous: flags & IFF_PROMISC != 0,
        ..Link::default()
    };
    for (kind, payload) in wire::attrs(&message.payload[16..]) {
        match kind {
            IFLA_IFNAME => link.name = wire::text(payload),
            IFLA_IFALIAS => link.alias = wire::text(payload),
            IFLA_MTU => link.mtu = wire::number(payload)?,
            IFLA_MASTER => link.master = wire::number(payload)?,
            IFLA_ADDRESS => link.mac = payload.try_into().unwrap_or_default(),
            IFLA_LINKINFO => {
                link.kind = wire::attr(payload, IFLA_INFO_KIND).map(wire::text).unwrap_or_default();
            }
            _ => {}
        }
    }
    Some(link)
}

/// A veth pair to be made: its host end a port of a bridge, its peer already in another namespace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Veth<'a> {
    pub(crate) host_name: &'a str,
    pub(crate) host_mac: Mac,
    pub(crate) bridge: u32,
    pub(crate) peer_name: &'a str,
    pub(crate) peer_mac: Mac,
    pub(crate) netns: BorrowedFd<'a>,
    pub(crate) mtu: Option<u32>,
    pub(crate) hairpin: bool,
    pub(crate) isolated: bool,
}

/// A route to be added.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    pub(crate) to: Cidr,
    pub(crate) via: Option<IpAddr>,
    pub(crate) link: u32,
    pub(crate) priority: Option<u32>,
    pub(crate) mtu: Option<u32>,
    pub(crate) advmss: Option<u32>,
}

/// An address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) link: u32,
    pub(crate) net: Cidr,
}

fn absent<T>(refusal: Refusal) -> Result<Option<T>, Refusal> {
    if refusal.errno == Errno::NODEV { Ok(None) } else { Err(refusal) }
}

pub(crate) fn link(session: &mut Session, name: &str) -> Result<Option<Link>, Refusal> {
    match session.ask(Message::new(GETLINK, 0, &link_head(0, 0, 0)).text(IFLA_IFNAME, name)) {
        Ok(found) => Ok(found.iter().find_map(link_of)),
        Err(refusal) => absent(refusal),
    }
}

pub(crate) fn links(session: &mut Session) -> Result<Vec<Link>, Refusal> {
    let found = session.dump(Message::new(GETLINK, 0, &link_head(0, 0, 0)))?;
    Ok(found.iter().filter_map(link_of).collect())
}

/// Every address of the namespace.
pub(crate) fn addresses(session: &mut Session) -> Result<Vec<Address>, Refusal> {
    let found = session.dump(Message::new(GETADDR, 0, &[0; 8]))?;
    Ok(found.iter().filter_map(address_of).collect())
}

fn address_of(message: &Received) -> Option<Address> {
    let head = message.payload.get(..8)?;
    let rest = &message.payload[8..];
    let own = wire::attr(rest, IFA_LOCAL).or_else(|| wire::attr(rest, IFA_ADDRESS))?;
    Some(Address { link: wire::number(&head[4..])?, net: Cidr::new(ip_of(own)?, head[1])? })
}

/// The destinations of the main table's routes but for default ones, with the link that they lead to.
pub(crate) fn destinations(session: &mut Session) -> Result<Vec<(Cidr, u32)>, Refusal> {
    let found = session.dump(Message::new(GETROUTE, 0, &[0; 12]))?;
    Ok(found.iter().filter_map(destination_of).collect())
}

fn destination_of(message: &Received) -> Option<(Cidr, u32)> {
    let head = message.payload.get(..12)?;
    if head[4] != RT_TABLE_MAIN || head[7] != RTN_UNICAST {
        return None;
    }
    let rest = &message.payload[12..];
    let to = Cidr::new(ip_of(wire::attr(rest, RTA_DST)?)?, head[1])?;
    Some((to, wire::attr(rest, RTA_OIF).and_then(wire::number).unwrap_or(0)))
}

/// Makes a bridge that is up and keeps its hardware address whatever ports it gets; EEXIST if there is one.
pub(crate) fn add_bridge(
    session: &mut Session,
    name: &str,
    mac: Mac,
    mtu: Option<u32>,
    alias: Option<&str>,
) -> Result<(), Refusal> {
    let mut message = Message::new(NEWLINK, CREATE | EXCL, &link_head(0, IFF_UP, IFF_UP))
        .text(IFLA_IFNAME, name)
        .attr(IFLA_ADDRESS, &mac)
        .nest(IFLA_LINKINFO, |m| m.text(IFLA_INFO_KIND, "bridge"));
    if let Some(mtu) = mtu {
        message = message.u32(IFLA_MTU, mtu);
    }
    session.ask(message)?;
    if let Some(alias) = alias {
        // Not taken from the request that creates the link.
        let named = Message::new(SETLINK, 0, &link_head(0, 0, 0)).text(IFLA_IFNAME, name);
        session.ask(named.attr(IFLA_IFALIAS, alias.as_bytes()))?;
    }
    Ok(())
}

/// Makes the pair in one message: a link that is moved into a namespace later costs 30 ms more.
pub(crate) fn add_veth(session: &mut Session, veth: &Veth<'_>) -> Result<(), Refusal> {
    let netns = veth.netns.as_raw_fd().cast_unsigned();
    let mtu = |m: Message| match veth.mtu {
        Some(mtu) => m.u32(IFLA_MTU, mtu),
        None => m,
    };
    let create = mtu(Message::new(NEWLINK, CREATE | EXCL, &link_head(0, IFF_UP, IFF_UP)))
        .text(IFLA_IFNAME, veth.host_name)
        .attr(IFLA_ADDRESS, &veth.host_mac)
        .u32(IFLA_MASTER, veth.bridge)
        .nest(IFLA_LINKINFO, |m| {
            m.text(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |m| {
                m.nest_after(VETH_INFO_PEER, &link_head(0, 0, 0), |m| {
                    mtu(m)
                        .text(IFLA_IFNAME, veth.peer_name)
                        .attr(IFLA_ADDRESS, &veth.peer_mac)
                        .u32(IFLA_NET_NS_FD, netns)
                })
            })
        });
    let mut requests = vec![create];
    if veth.hairpin || veth.isolated {
        requests.push(bridge_port(veth));
    }
    session.all(requests)?.into_iter().collect()
}

/// RTM_NEWLINK of a link that is there: RTM_SETLINK takes no notice of a port's settings.
fn bridge_port(veth: &Veth<'_>) -> Message {
    Message::new(NEWLINK, 0, &link_head(0, 0, 0)).text(IFLA_IFNAME, veth.host_name).nest(IFLA_LINKINFO, |m| {
        m.text(IFLA_INFO_SLAVE_KIND, "bridge").nest(IFLA_INFO_SLAVE_DATA, |m| {
            m.u8(IFLA_BRPORT_MODE, u8::from(veth.hairpin)).u8(IFLA_BRPORT_ISOLATED, u8::from(veth.isolated))
        })
    })
}

/// Cuts a link off its bridge, which forgets whom it reached there; one that is gone or in none is fine.
/// Unlike deleting the link or taking it down, this does not wait for the network stack. It holds until
/// the other end's carrier changes.
pub(crate) fn cut_off(session: &mut Session, name: &str) -> Result<(), Refusal> {
    let Some(port) = link(session, name)?.filter(|link| link.master != 0) else { return Ok(()) };
    let mut head = link_head(port.index, 0, 0);
    head[0] = AF_BRIDGE;
    // Not by RTM_NEWLINK as above: that tells the bridge of a change of the link, which it takes for its
    // coming back.
    let cut = Message::new(SETLINK, 0, &head)
        .nest(IFLA_PROTINFO, |m| m.u8(IFLA_BRPORT_STATE, BR_STATE_DISABLED).attr(IFLA_BRPORT_FLUSH, &[]));
    let done = match session.ask(cut) {
        // A spanning tree of the kernel keeps the states of its ports to itself.
        Err(refusal) if refusal.errno == Errno::BUSY => session.ask(down(port.index)),
        other => other,
    };
    done.map(drop).or_else(|refusal| absent::<()>(refusal).map(drop))
}

pub(crate) fn up(link: u32) -> Message {
    Message::new(SETLINK, 0, &link_head(link, IFF_UP, IFF_UP))
}

/// Waits for the network stack (tens of milliseconds).
pub(crate) fn down(link: u32) -> Message {
    Message::new(SETLINK, 0, &link_head(link, 0, IFF_UP))
}

pub(crate) fn promiscuous(link: u32) -> Message {
    Message::new(SETLINK, 0, &link_head(link, IFF_PROMISC, IFF_PROMISC))
}

/// Deletes a link; `true` if it was there. Waits for the network stack (tens of milliseconds).
pub(crate) fn delete_link(session: &mut Session, name: &str) -> Result<bool, Refusal> {
    match session.ask(Message::new(DELLINK, 0, &link_head(0, 0, 0)).text(IFLA_IFNAME, name)) {
        Ok(_) => Ok(true),
        Err(refusal) => absent::<()>(refusal).map(|_| false),
    }
}

fn address(kind: u16, flags: u16, to: Address, detect_duplicates: bool) -> Message {
    let ip = to.net.ip();
    let nodad = if ip.is_ipv6() && !detect_duplicates { IFA_F_NODAD } else { 0 };
    let mut head = [family_of(ip), to.net.prefix(), nodad, SCOPE_UNIVERSE, 0, 0, 0, 0];
    head[4..].copy_from_slice(&to.link.to_ne_bytes());
    let message =
        Message::new(kind, flags, &head).attr(IFA_LOCAL, &ip_bytes(ip)).attr(IFA_ADDRESS, &ip_bytes(ip));
    match to.net.broadcast() {
        Some(broadcast) => message.attr(IFA_BROADCAST, &broadcast.octets()),
        None => message,
    }
}

/// Adds an address; EEXIST if the link has it.
pub(crate) fn add_address(to: Address, detect_duplicates: bool) -> Message {
    address(NEWADDR, CREATE | EXCL, to, detect_duplicates)
}

pub(crate) fn delete_address(from: Address) -> Message {
    address(DELADDR, 0, from, true)
}

pub(crate) fn add_route(route: &Route) -> Message {
    let scope = if route.via.is_some() { SCOPE_UNIVERSE } else { SCOPE_LINK };
    let family = family_of(route.to.ip());
    let head = [family, route.to.prefix(), 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, scope, RTN_UNICAST, 0, 0, 0, 0];
    let mut message = Message::new(NEWROUTE, CREATE | EXCL, &head).u32(RTA_OIF, route.link);
    if route.to.prefix() > 0 {
        message = message.attr(RTA_DST, &ip_bytes(route.to.network()));
    }
    if let Some(via) = route.via {
        message = message.attr(RTA_GATEWAY, &ip_bytes(via));
    }
    if let Some(priority) = route.priority {
        message = message.u32(RTA_PRIORITY, priority);
    }
    if route.mtu.is_none() && route.advmss.is_none() {
        return message;
    }
    message.nest(RTA_METRICS, |mut m| {
        if let Some(mtu) = route.mtu {
            m = m.u32(RTAX_MTU, mtu);
        }
        if let Some(advmss) = route.advmss {
            m = m.u32(RTAX_ADVMSS, advmss);
        }
        m
    })
}

/// The link by which packets to that address leave.
pub(crate) fn link_towards(session: &mut Session, to: IpAddr) -> Result<Option<Link>, Refusal> {
    let full = if to.is_ipv4() { 32 } else { 128 };
    let head = [family_of(to), full, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let found = session.ask(Message::new(GETROUTE, 0, &head).attr(RTA_DST, &ip_bytes(to)))?;
    let index = found.iter().find_map(|m| wire::number(wire::attr(m.payload.get(12..)?, RTA_OIF)?));
    let Some(index) = index else { return Ok(None) };
    match session.ask(Message::new(GETLINK, 0, &link_head(index, 0, 0))) {
        Ok(found) => Ok(found.iter().find_map(link_of)),
        Err(refusal) => absent(refusal),
    }
}

/// Brings the namespace's loopback up.
pub(crate) fn loopback_up(session: &mut Session) -> Result<(), Refusal> {
    session.ask(up(1)).map(drop)
}
