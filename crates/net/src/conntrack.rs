//! Connections that the kernel remembers: UDP clients that never pause would stay with a pod that is
//! gone, because their "connection" keeps its old destination.

use crate::{
    builtin::{BuiltinError, netlink},
    session::Session,
    wire::{Message, Received, attr},
};
use std::net::IpAddr;
use sys::rustix::io::Errno;

const SUBSYSTEM: u16 = 1 << 8; // NFNL_SUBSYS_CTNETLINK, linux/netfilter/nfnetlink.h
const GET: u16 = SUBSYSTEM | 1; // IPCTNL_MSG_CT_GET
const DELETE: u16 = SUBSYSTEM | 2;
const TUPLE_ORIG: u16 = 1; // CTA_*, linux/netfilter/nfnetlink_conntrack.h
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
const FILTER_ORIG_FLAGS: u16 = 1;
const FILTER_REPLY_FLAGS: u16 = 2;
const FILTER_BY_PROTOCOL: u32 = 1 << 3;
const FILTER_BY_DESTINATION_PORT: u32 = 1 << 5;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const IP_V4_DST: u16 = 2;
const IP_V6_DST: u16 = 4;
const PROTO_NUM: u16 = 1;
const PROTO_DST_PORT: u16 = 3;
const UDP: u8 = 17;

fn head(v4: bool) -> [u8; 4] {
    [if v4 { 2 } else { 10 }, 0, 0, 0]
}

/// Forgets the UDP connections to that port of those addresses of the host.
pub(crate) fn forget_udp(
    session: &mut Session,
    port: u16,
    v4: bool,
    is_ours: &dyn Fn(IpAddr) -> bool,
) -> Result<(), BuiltinError> {
    let failed = || netlink("cannot look through the connections of the host");
    let filter = Message::new(GET, 0, &head(v4))
        .nest(TUPLE_ORIG, |m| {
            m.nest(TUPLE_PROTO, |m| m.u8(PROTO_NUM, UDP).attr(PROTO_DST_PORT, &port.to_be_bytes()))
        })
        .nest(FILTER, |m| {
            m.u32(FILTER_ORIG_FLAGS, FILTER_BY_PROTOCOL | FILTER_BY_DESTINATION_PORT)
                .u32(FILTER_REPLY_FLAGS, 0)
        });
    let found = session.dump(filter).map_err(failed())?;
    for connection in found.iter().filter(|c| leads_to(c, port).is_some_and(is_ours)) {
        match session.ask(delete(connection, v4)) {
            Ok(_) => {}
            Err(refusal) if refusal.errno == Errno::NOENT => {}
            Err(refusal) => return Err(netlink("cannot forget a connection")(refusal)),
        }
    }
    Ok(())
}

/// The address that a UDP connection to that port was opened to.
fn leads_to(connection: &Received, port: u16) -> Option<IpAddr> {
    let tuple = attr(connection.payload.get(4..)?, TUPLE_ORIG)?;
    let proto = attr(tuple, TUPLE_PROTO)?;
    if attr(proto, PROTO_NUM)? != [UDP] || attr(proto, PROTO_DST_PORT)? != port.to_be_bytes() {
        return None;
    }
    let ip = attr(tuple, TUPLE_IP)?;
    match (attr(ip, IP_V4_DST), attr(ip, IP_V6_DST)) {
        (Some(v4), _) => <[u8; 4]>::try_from(v4).ok().map(IpAddr::from),
        (None, Some(v6)) => <[u8; 16]>::try_from(v6).ok().map(IpAddr::from),
        (None, None) => None,
    }
}

fn delete(connection: &Received, v4: bool) -> Message {
    let rest = connection.payload.get(4..).unwrap_or_default();
    [TUPLE_ORIG, ID, ZONE].into_iter().fold(Message::new(DELETE, 0, &head(v4)), |m, kind| {
        match (attr(rest, kind), kind) {
            (Some(payload), TUPLE_ORIG) => m.nest(kind, |m| m.raw(payload)),
            (Some(payload), _) => m.attr(kind, payload),
            (None, _) => m,
        }
    })
}
