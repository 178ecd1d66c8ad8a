//! `loopback`: the pod's own 127.0.0.1 is up.
//!
//! It is brought up when the namespace is made; a list that names the plugin gets its result.

use super::{BuiltinError, errno, netlink};
use crate::{result::CniResult, rtnl, session::Session};
use std::{net::IpAddr, path::Path};

/// ADD: up, with the addresses that the kernel gives to it.
pub(crate) fn add(inside: &mut Session, netns: &Path) -> Result<CniResult, BuiltinError> {
    rtnl::loopback_up(inside).map_err(netlink("cannot bring the pod's loopback up"))?;
    let addresses = rtnl::addresses(inside).map_err(netlink("cannot list the pod's addresses"))?;
    let mut result = CniResult::default();
    let at = result.add_interface("lo", "00:00:00:00:00:00", Some(netns));
    for address in addresses.into_iter().filter(|a| a.link == 1) {
        result.add_ip(at, address.net, None::<IpAddr>);
    }
    Ok(result)
}

/// CHECK
pub(crate) fn check(inside: &mut Session) -> Result<(), BuiltinError> {
    let lo = rtnl::link(inside, "lo").map_err(netlink("cannot look at the pod's loopback"))?;
    match lo {
        Some(link) if link.up => Ok(()),
        Some(_) | None => Err(errno("the pod's loopback is not up")(sys::rustix::io::Errno::NETDOWN)),
    }
}
