//! `bridge`: a veth pair between the pod and a bridge of the host.
//!
//! Configuration of containernetworking/plugins `bridge`. The pair is made by one message, its peer
//! already in the pod and its host end already in the bridge; nothing here deletes a link that a pod
//! uses: it goes with the pod's namespace.

use super::{BuiltinError, errno, hostlocal::HostLocalConf, netlink};
use crate::{
    cidr::Cidr,
    conflist::{BadConf, check_type},
    fields::Fields,
    firewall::Firewall,
    result::{CniResult, Route},
    rtnl::{self, Address, Link, Mac, Veth, mac_text},
    session::Session,
    sysctl::Proc,
};
use serde_json::{Map, Value};
use std::{collections::BTreeSet, io::Write, net::IpAddr, path::Path};
use sys::rustix::{
    fd::{AsFd, OwnedFd},
    io::Errno,
};

/// `IFNAMSIZ` with its NUL.
const LONGEST_LINK_NAME: usize = 15;

/// Where a bridge's pods get their addresses from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Ipam {
    HostLocal(HostLocalConf),
    /// A program to be executed, with the plugin's whole configuration.
    Foreign(String),
}

/// A checked `bridge` configuration.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BridgeConf {
    pub(crate) bridge: String,
    /// Text that the bridge's alias has if this daemon made it for itself; checked before use.
    pub(crate) alias: Option<String>,
    is_gateway: bool,
    is_default_gateway: bool,
    ip_masq: bool,
    hairpin: bool,
    promiscuous: bool,
    isolated: bool,
    detect_duplicates: bool,
    mtu: Option<u32>,
    pub(crate) ipam: Ipam,
}

impl BridgeConf {
    pub(crate) fn parse(raw: &Map<String, Value>, network: &str) -> Result<Self, BadConf> {
        let mut fields = Fields::of(raw);
        fields.refuse("forceAddress", "an address of the bridge is not taken away from it")?;
        fields.refuse("vlan", "VLANs of a bridge are not there yet")?;
        fields.refuse("vlanTrunk", "VLANs of a bridge are not there yet")?;
        fields.ignore("preserveDefaultVlan"); // means something only with a VLAN
        fields.refuse("macspoofchk", "not there yet")?;
        fields.refuse("disableContainerInterface", "a pod without an interface has no address")?;
        fields.refuse("uplinkInterface", "not there yet")?;
        fields.refuse("args", "a hardware address of one's own is not there yet")?;
        match fields.take::<String>("ipMasqBackend")?.as_deref() {
            None | Some("" | "nftables") => {}
            Some(other) => {
                let why = format!("`{other}` is not supported: the rules are nf_tables'");
                return Err(BadConf::new("ipMasqBackend", why));
            }
        }
        let is_default_gateway = fields.flag("isDefaultGateway")?;
        let conf = Self {
            bridge: fields
                .take("bridge")?
                .filter(|b: &String| !b.is_empty())
                .unwrap_or_else(|| "cni0".into()),
            alias: fields.take("_alias")?,
            is_gateway: fields.flag("isGateway")? || is_default_gateway,
            is_default_gateway,
            ip_masq: fields.flag("ipMasq")?,
            hairpin: fields.flag("hairpinMode")?,
            promiscuous: fields.flag("promiscMode")?,
            isolated: fields.flag("portIsolation")?,
            detect_duplicates: fields.flag("enabledad")?,
            mtu: fields.take::<u32>("mtu")?.filter(|mtu| *mtu != 0),
            ipam: parse_ipam(fields.take("ipam")?, network)?,
        };
        fields.end()?;
        check_link_name(&conf.bridge)?;
        if conf.hairpin && conf.promiscuous {
            return Err(BadConf::new("hairpinMode", "and promiscMode exclude each other"));
        }
        if conf.mtu.is_some_and(|mtu| !(68..=65535).contains(&mtu)) {
            return Err(BadConf::new("mtu", "want 68 to 65535"));
        }
        Ok(conf)
    }
}

fn parse_ipam(ipam: Option<Map<String, Value>>, network: &str) -> Result<Ipam, BadConf> {
    let ipam = ipam.unwrap_or_default();
    match ipam.get("type").and_then(Value::as_str) {
        Some("host-local") => {
            HostLocalConf::parse(&ipam, network).map(Ipam::HostLocal).map_err(|e| e.under("ipam"))
        }
        Some(kind) => check_type(kind).map(|()| Ipam::Foreign(kind.to_owned())).map_err(|e| e.under("ipam")),
        None => Err(BadConf::new("ipam", "missing: a pod needs an address")),
    }
}

fn check_link_name(name: &str) -> Result<(), BadConf> {
    let fine = name.len() <= LONGEST_LINK_NAME
        && !matches!(name, "." | ".." | "all" | "default")
        && name.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'%'));
    if fine {
        Ok(())
    } else {
        Err(BadConf::new("bridge", format!("`{}` is no link's name", name.escape_default())))
    }
}

/// The pod's end of things: its namespace, its interface, and the result of its `ipam`.
#[derive(Debug)]
pub(crate) struct Pod<'a> {
    pub(crate) id: &'a str,
    pub(crate) interface: &'a str,
    pub(crate) netns_path: &'a Path,
    pub(crate) netns: &'a OwnedFd,
}

/// The host's end: its sockets.
#[derive(Debug)]
pub(crate) struct Host<'a> {
    pub(crate) route: &'a mut Session,
    pub(crate) firewall: &'a mut Firewall,
    /// Where it is noted which sysctls were switched on.
    pub(crate) switched_on: &'a Path,
}

/// What ADD did to the host besides.
#[derive(Debug, Default)]
pub(crate) struct Added {
    pub(crate) result: CniResult,
    /// Sysctls of the host that were switched on for it.
    pub(crate) switched_on: Vec<String>,
}

/// The steps of ADD, in their order; a test stops behind each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Bridge,
    Veth,
    Inside,
    Gateway,
    Forwarding,
    Masquerade,
}

impl BridgeConf {
    /// ADD. `enter` runs its work with the calling thread in the pod's network namespace.
    pub(crate) fn add(
        &self,
        host: &mut Host<'_>,
        pod: &Pod<'_>,
        addresses: &CniResult,
        reached: &mut dyn FnMut(Step) -> Result<(), BuiltinError>,
    ) -> Result<Added, BuiltinError> {
        if addresses.ips.is_empty() {
            return Err(BuiltinError::Missing("an address in the result of ipam".to_owned()));
        }
        let bridge = self.ensure_bridge(host.route)?;
        reached(Step::Bridge)?;
        let host_end = veth_name(pod.id);
        let (host_mac, pod_mac) = (host_mac(pod.id), pod_mac(addresses, pod.id));
        let veth = Veth {
            host_name: &host_end,
            host_mac,
            bridge: bridge.index,
            peer_name: pod.interface,
            peer_mac: pod_mac,
            netns: pod.netns.as_fd(),
            mtu: self.mtu,
            hairpin: self.hairpin,
            isolated: self.isolated,
        };
        rtnl::add_veth(host.route, &veth)
            .map_err(netlink(format!("cannot make the veth pair `{host_end}`")))?;
        reached(Step::Veth)?;

        let mut added = Added::default();
        let result = &mut added.result;
        result.add_interface(&bridge.name, &mac_text(bridge.mac), None);
        result.add_interface(&host_end, &mac_text(host_mac), None);
        let inside = result.add_interface(pod.interface, &mac_text(pod_mac), Some(pod.netns_path));
        for ip in &addresses.ips {
            let gateway = ip.gateway.or_else(|| self.is_gateway.then(|| first_of(ip.address)).flatten());
            result.add_ip(inside, ip.address, gateway);
        }
        result.routes = self.routes(addresses, result);
        self.configure_inside(pod, result)?;
        reached(Step::Inside)?;
        if self.is_gateway {
            self.be_gateway(host.route, &bridge, result)?;
            reached(Step::Gateway)?;
            added.switched_on = switch_forwarding_on(&added.result, host.switched_on)?;
            reached(Step::Forwarding)?;
        }
        if self.ip_masq {
            let ips: Vec<IpAddr> = added.result.ips.iter().map(|ip| ip.address.ip()).collect();
            host.firewall.masquerade(pod.id, &ips, &self.subnets(&added.result))?;
            reached(Step::Masquerade)?;
        }
        Ok(added)
    }

    /// The networks whose pods are reached without the gateway.
    fn subnets(&self, result: &CniResult) -> BTreeSet<Cidr> {
        let of_result = || {
            let nets = result.ips.iter().map(|ip| ip.address);
            nets.filter_map(|net| Cidr::new(net.network(), net.prefix())).collect()
        };
        match &self.ipam {
            Ipam::HostLocal(conf) => conf.subnets().collect(),
            Ipam::Foreign(_) => of_result(),
        }
    }

    /// The routes of ipam, and the default one that `isDefaultGateway` asks for.
    fn routes(&self, addresses: &CniResult, result: &CniResult) -> Vec<Route> {
        let mut routes = addresses.routes.clone();
        if !self.is_default_gateway {
            return routes;
        }
        for gateway in result.ips.iter().filter_map(|ip| ip.gateway) {
            let dst = Cidr::everything(gateway);
            if !routes.iter().any(|route| route.dst == dst) {
                routes.push(Route { dst, gw: Some(gateway), mtu: None, advmss: None, priority: None });
            }
        }
        routes
    }

    /// DEL: what the host has of the pod. `addresses` = those that it had, if known. Its link goes with
    /// its namespace, which the kernel destroys later: until then nobody hears the pod any more, whose
    /// addresses may be another's at once.
    pub(crate) fn del(
        &self,
        route: &mut Session,
        firewall: &mut Firewall,
        pod: &str,
        addresses: Option<&[IpAddr]>,
    ) -> Result<(), BuiltinError> {
        let host_end = veth_name(pod);
        rtnl::cut_off(route, &host_end)
            .map_err(netlink(format!("cannot cut `{host_end}` off its bridge")))?;
        if self.ip_masq { firewall.unmasquerade(pod, addresses) } else { Ok(()) }
    }

    /// CHECK: link, addresses, masquerading.
    pub(crate) fn check(
        &self,
        host: &mut Host<'_>,
        inside: &mut Session,
        pod: &Pod<'_>,
        previous: &CniResult,
    ) -> Result<(), BuiltinError> {
        let missing = |what: String| BuiltinError::Missing(what);
        let looked = |name: &str| netlink(format!("cannot look at `{name}`"));
        let bridge = rtnl::link(host.route, &self.bridge).map_err(looked(&self.bridge))?;
        let bridge = bridge.ok_or_else(|| missing(format!("bridge `{}`", self.bridge)))?;
        let host_end = veth_name(pod.id);
        let port = rtnl::link(host.route, &host_end).map_err(looked(&host_end))?;
        if port.is_none_or(|port| port.master != bridge.index) {
            return Err(missing(format!("`{host_end}` in bridge `{}`", self.bridge)));
        }
        let eth = rtnl::link(inside, pod.interface).map_err(looked(pod.interface))?;
        let Some(eth) = eth.filter(|eth| eth.up) else {
            return Err(missing(format!("`{}`, up, in the pod", pod.interface)));
        };
        let has = rtnl::addresses(inside).map_err(looked(pod.interface))?;
        let wanted = previous.addresses_of(pod.interface);
        for ip in &wanted {
            if !has.iter().any(|a| a.link == eth.index && a.net.ip() == *ip) {
                return Err(missing(format!("address {ip} in the pod")));
            }
        }
        if self.ip_masq { host.firewall.check_masquerade(pod.id, &wanted) } else { Ok(()) }
    }

    /// Finds the bridge, or makes it.
    pub(crate) fn ensure_bridge(&self, route: &mut Session) -> Result<Link, BuiltinError> {
        let name = &self.bridge;
        let find = |route: &mut Session| {
            rtnl::link(route, name).map_err(netlink(format!("cannot look at the bridge `{name}`")))
        };
        let mut found = find(route)?;
        if found.is_none() {
            let made = rtnl::add_bridge(route, name, host_mac(name), self.mtu, self.alias.as_deref());
            match made {
                Ok(()) => {}
                Err(refusal) if refusal.errno == Errno::EXIST => {} // somebody else was faster
                Err(refusal) => return Err(netlink(format!("cannot make the bridge `{name}`"))(refusal)),
            }
            // A router's advertisement from a pod must not give the host a route (CVE-2020-10749).
            refuse_advertisements(name)?;
            found = find(route)?;
        }
        let wrong = |what: &str| BuiltinError::Link { name: name.clone(), what: what.to_owned() };
        let bridge = found.ok_or_else(|| wrong("vanished while it was made"))?;
        if bridge.kind != "bridge" {
            return Err(wrong("is not a bridge"));
        }
        if self.alias.as_ref().is_some_and(|alias| *alias != bridge.alias) {
            return Err(wrong("is not this daemon's"));
        }
        let mut changes = Vec::new();
        if !bridge.up {
            changes.push(rtnl::up(bridge.index));
        }
        if self.promiscuous && !bridge.promiscuous {
            changes.push(rtnl::promiscuous(bridge.index));
        }
        if !changes.is_empty() {
            let done = route.all(changes).and_then(|all| all.into_iter().collect::<Result<Vec<()>, _>>());
            done.map_err(netlink(format!("cannot bring the bridge `{name}` up")))?;
        }
        Ok(bridge)
    }

    /// Addresses and routes inside.
    fn configure_inside(&self, pod: &Pod<'_>, result: &CniResult) -> Result<(), BuiltinError> {
        let name = pod.interface;
        let has_v6 = result.ips.iter().any(|ip| ip.address.ip().is_ipv6());
        let mut session = crate::worker::inside(pod.netns, || {
            prepare_ipv6(name, has_v6, self.detect_duplicates)?;
            Session::open(sys::netlink::Subsystem::Route)
                .map_err(errno("cannot open a netlink socket in the pod"))
        })??;
        let session = &mut session;
        let eth = rtnl::link(session, name).map_err(netlink(format!("cannot look at the pod's `{name}`")))?;
        let eth = eth.ok_or_else(|| BuiltinError::Missing(format!("`{name}` in the pod")))?;
        let mut steps = vec![("cannot bring the pod's interface up".to_owned(), rtnl::up(eth.index))];
        for ip in &result.ips {
            let what = format!("cannot give {} to the pod", ip.address);
            let address = Address { link: eth.index, net: ip.address };
            steps.push((what, rtnl::add_address(address, self.detect_duplicates)));
        }
        for route in &result.routes {
            let family = route.dst.ip().is_ipv4();
            let of_family = result.ips.iter().filter_map(|ip| ip.gateway).find(|gw| gw.is_ipv4() == family);
            let route = rtnl::Route {
                to: route.dst,
                via: route.gw.or(of_family),
                link: eth.index,
                priority: route.priority,
                mtu: route.mtu,
                advmss: route.advmss,
            };
            steps.push((format!("cannot add the pod's route to {}", route.to), rtnl::add_route(&route)));
        }
        let (names, messages): (Vec<String>, Vec<_>) = steps.into_iter().unzip();
        let said = session.all(messages).map_err(netlink("cannot configure the pod's interface"))?;
        for (name, said) in names.into_iter().zip(said) {
            said.map_err(netlink(name))?;
        }
        Ok(())
    }

    /// The bridge has each gateway's address.
    fn be_gateway(&self, route: &mut Session, bridge: &Link, result: &CniResult) -> Result<(), BuiltinError> {
        let gateways = result.ips.iter().filter_map(|ip| {
            Some(Address { link: bridge.index, net: Cidr::new(ip.gateway?, ip.address.prefix())? })
        });
        for gateway in gateways {
            self.give_gateway(route, gateway)?;
        }
        Ok(())
    }

    pub(crate) fn give_gateway(&self, route: &mut Session, gateway: Address) -> Result<(), BuiltinError> {
        let what = format!("cannot give {} to the bridge `{}`", gateway.net, self.bridge);
        match route.ask(rtnl::add_address(gateway, false)) {
            Err(refusal) if refusal.errno == Errno::EXIST => return Ok(()),
            Err(refusal) => return Err(netlink(what)(refusal)),
            Ok(_) => {}
        }
        // Newly given: no other of that network may be there.
        let all = rtnl::addresses(route).map_err(netlink("cannot list the addresses of the host"))?;
        let other = all
            .into_iter()
            .find(|a| a.link == gateway.link && a.net != gateway.net && a.net.overlaps(&gateway.net));
        let Some(other) = other else { return Ok(()) };
        route.ask(rtnl::delete_address(gateway)).map_err(netlink(what))?;
        let what = format!("has {} already, where the network wants {}", other.net, gateway.net);
        Err(BuiltinError::Link { name: self.bridge.clone(), what })
    }
}

fn first_of(net: Cidr) -> Option<IpAddr> {
    let first = crate::cidr::from_number(net.ip(), crate::cidr::number(net.network()) + 1);
    net.contains(first).then_some(first)
}

/// The host's end of a pod's link: fits `IFNAMSIZ`, follows from the pod.
pub(crate) fn veth_name(pod: &str) -> String {
    format!("veth{}", &pod[..pod.len().min(8)])
}

/// A hardware address of the locally administered kind that follows from a text.
fn host_mac(of: &str) -> Mac {
    let hash = crate::fallback::fnv(of.as_bytes()).to_be_bytes();
    [0x02, hash[3], hash[4], hash[5], hash[6], hash[7]]
}

/// The pod's hardware address follows from its IPv4 address: when an address comes round again, what
/// the neighbours remember is still right.
fn pod_mac(addresses: &CniResult, id: &str) -> Mac {
    let v4 = addresses.ips.iter().find_map(|ip| match ip.address.ip() {
        IpAddr::V4(v4) => Some(v4.octets()),
        IpAddr::V6(_) => None,
    });
    match v4 {
        Some([a, b, c, d]) => [0x0a, 0x58, a, b, c, d],
        None => host_mac(&format!("{id}/peer")),
    }
}

/// A kernel without IPv6 has no such files.
fn unless_absent(done: Result<(), Errno>) -> Result<(), Errno> {
    match done {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

fn refuse_advertisements(link: &str) -> Result<(), BuiltinError> {
    let done = Proc::open()?.set_path(&format!("net/ipv6/conf/{link}/accept_ra"), "0");
    unless_absent(done).map_err(errno(format!("cannot switch accept_ra off for `{link}`")))
}

/// Before the pod's interface comes up: no IPv6 of its own making where the network gives none.
fn prepare_ipv6(link: &str, wanted: bool, detect_duplicates: bool) -> Result<(), BuiltinError> {
    let proc = Proc::open()?;
    let set = |key: &str, value: &str| {
        let done = proc.ensure_path(&format!("net/ipv6/conf/{link}/{key}"), value);
        unless_absent(done).map_err(errno(format!("cannot set {key} of the pod's `{link}`")))
    };
    if !wanted {
        return set("disable_ipv6", "1");
    }
    set("disable_ipv6", "0")?;
    set("accept_ra", "0")?;
    if detect_duplicates { Ok(()) } else { set("accept_dad", "0") }
}

/// What has to be on where packets go on to pods; `true` = of IPv4.
pub(crate) const FORWARDING: [(bool, &str); 2] =
    [(true, "net/ipv4/ip_forward"), (false, "net/ipv6/conf/all/forwarding")];

/// Switches forwarding on for each family that the pod has; says what was off before, and notes it
/// first, so that it can be switched off again.
fn switch_forwarding_on(result: &CniResult, note: &Path) -> Result<Vec<String>, BuiltinError> {
    let proc = Proc::open()?;
    let mut switched = Vec::new();
    for (v4, path) in FORWARDING {
        let failed = || errno(format!("cannot set {path}"));
        let wanted = result.ips.iter().any(|ip| ip.address.ip().is_ipv4() == v4);
        if !wanted || proc.has_path(path, "1").map_err(failed())? {
            continue;
        }
        append_line(note, path).map_err(|e| {
            errno(format!("cannot write `{}`", note.display()))(Errno::from_io_error(&e).unwrap_or(Errno::IO))
        })?;
        proc.set_path(path, "1").map_err(failed())?;
        switched.push(path.replace('/', "."));
    }
    Ok(switched)
}

fn append_line(file: &Path, line: &str) -> std::io::Result<()> {
    let mut file = std::fs::File::options().create(true).append(true).open(file)?;
    file.write_all(format!("{line}\n").as_bytes())
}

/// Lets packets of 127.0.0.0/8 go out by the bridge, for host ports that are used on the host itself.
/// [`Firewall`] keeps everybody else's away.
pub(crate) fn route_localnet(link: &str) -> Result<(), BuiltinError> {
    let path = format!("net/ipv4/conf/{link}/route_localnet");
    Proc::open()?.ensure_path(&path, "1").map_err(errno(format!("cannot set {path}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn conf(mut value: Value) -> Result<BridgeConf, BadConf> {
        let object = value.as_object_mut().expect("object");
        object.entry("ipam").or_insert_with(|| json!({"type": "host-local", "subnet": "10.88.0.0/16"}));
        BridgeConf::parse(object, "n")
    }

    #[test]
    fn a_usual_configuration_passes_whatever_the_case_of_its_keys() {
        let conf = conf(
            json!({"type": "bridge", "bridge": "cni0", "isGateWay": true, "ipMasq": true, "promiscMode": true,
            "vlan": 0, "macspoofchk": false, "_note": "comment"}),
        )
        .expect("usual");
        assert!(conf.is_gateway && conf.ip_masq && conf.promiscuous && !conf.is_default_gateway);
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (value, name) in [
            (json!({"vlan": 5}), "vlan"),
            (json!({"vlanTrunk": [{"id": 1}]}), "vlanTrunk"),
            (json!({"macspoofchk": true}), "macspoofchk"),
            (json!({"forceAddress": true}), "forceAddress"),
            (json!({"disableContainerInterface": true}), "disableContainerInterface"),
            (json!({"uplinkInterface": "eth0"}), "uplinkInterface"),
            (json!({"ipMasqBackend": "iptables"}), "ipMasqBackend"),
            (json!({"args": {"cni": {"mac": "aa:bb:cc:dd:ee:ff"}}}), "args"),
            (json!({"isGatway": true}), "isGatway"),
            (json!({"mtu": 10}), "mtu"),
            (json!({"mtu": -1}), "mtu"),
            (json!({"hairpinMode": true, "promiscMode": true}), "hairpinMode"),
            (json!({"bridge": "a/b"}), "bridge"),
            (json!({"bridge": "sixteen-letters-"}), "bridge"),
            (json!({"ipam": {}}), "ipam"),
            (json!({"ipam": {"type": "../x"}}), "ipam.type"),
            (json!({"ipam": {"type": "host-local"}}), "ipam.ranges"),
        ] {
            let error = conf(value.clone()).expect_err(name).to_string();
            assert!(error.starts_with(&format!("{name}:")), "{value}: {error}");
        }
    }

    #[test]
    fn hardware_addresses_are_unicast_and_local() {
        for mac in [host_mac("cni0"), host_mac("x")] {
            assert_eq!(mac[0] & 3, 2);
        }
    }
}
