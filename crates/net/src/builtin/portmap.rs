//! `portmap`: ports of the host that lead to the pod.
//!
//! Configuration of containernetworking/plugins `portmap`; the rules are elements in the maps of
//! [`crate::firewall`]. Refused by name: `conditionsV4/V6` and `markMasqBit`-like switches of iptables
//! that would change what is matched, and the backend `iptables`.

use super::BuiltinError;
use crate::{
    cidr::Cidr,
    conflist::BadConf,
    fields::Fields,
    firewall::{Firewall, Published, Snat},
    result::CniResult,
};
use serde_json::{Map, Value};
use std::{collections::BTreeSet, net::IpAddr};
use types::pod::PortMapping;

/// A checked `portmap` configuration.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PortmapConf {
    snat: Snat,
}

impl PortmapConf {
    pub(crate) fn parse(raw: &Map<String, Value>) -> Result<Self, BadConf> {
        let mut fields = Fields::of(raw);
        let snat = fields.take("snat")?.unwrap_or(true);
        let all = fields.flag("masqAll")?;
        fields.refuse("conditionsV4", "they are arguments of iptables")?;
        fields.refuse("conditionsV6", "they are arguments of iptables")?;
        // No packet is marked: what shall be masqueraded is found by its connection.
        fields.ignore("markMasqBit");
        fields.ignore("externalSetMarkChain");
        match fields.take::<String>("backend")?.as_deref() {
            None | Some("" | "nftables") => {}
            Some(other) => {
                return Err(BadConf::new(
                    "backend",
                    format!("`{other}` is not supported: the rules are nf_tables'"),
                ));
            }
        }
        fields.end()?;
        let snat = match (snat, all) {
            (false, _) => Snat::Off,
            (true, false) => Snat::Near,
            (true, true) => Snat::All,
        };
        Ok(Self { snat })
    }

    /// ADD: publishes each mapping for each of the pod's addresses of its family.
    pub(crate) fn add(
        &self,
        firewall: &mut Firewall,
        pod: &str,
        mappings: &[PortMapping],
        previous: &CniResult,
        interface: &str,
    ) -> Result<(), BuiltinError> {
        let ports = published(mappings, &previous.addresses_of(interface))?;
        if ports.is_empty() {
            return Ok(());
        }
        let subnets: BTreeSet<Cidr> = previous
            .ips
            .iter()
            .filter_map(|ip| Cidr::new(ip.address.network(), ip.address.prefix()))
            .collect();
        firewall.publish(pod, &ports, self.snat, &subnets)
    }

    /// DEL
    pub(crate) fn del(
        firewall: &mut Firewall,
        pod: &str,
        mappings: &[PortMapping],
    ) -> Result<(), BuiltinError> {
        if mappings.is_empty() { Ok(()) } else { firewall.unpublish(pod) }
    }

    /// CHECK
    pub(crate) fn check(
        firewall: &mut Firewall,
        pod: &str,
        mappings: &[PortMapping],
        previous: &CniResult,
        interface: &str,
    ) -> Result<(), BuiltinError> {
        firewall.check(pod, &published(mappings, &previous.addresses_of(interface))?)
    }

    /// Whether packets from 127.0.0.1 shall reach the pod, which takes `route_localnet` on its bridge.
    pub(crate) fn reaches_from_loopback(&self) -> bool {
        self.snat != Snat::Off
    }
}

/// The first address of each family is the one that host ports lead to.
fn published(mappings: &[PortMapping], addresses: &[IpAddr]) -> Result<Vec<Published>, BuiltinError> {
    let v4 = addresses.iter().copied().find(IpAddr::is_ipv4);
    let v6 = addresses.iter().copied().find(IpAddr::is_ipv6);
    let mut ports = Vec::new();
    for mapping in mappings {
        let host_ip = mapping.host_ip.filter(|ip| !ip.is_unspecified());
        let wanted: Vec<IpAddr> = match mapping.host_ip {
            None => [v4, v6].into_iter().flatten().collect(),
            Some(IpAddr::V4(_)) => v4.into_iter().collect(),
            Some(IpAddr::V6(_)) => v6.into_iter().collect(),
        };
        if wanted.is_empty() {
            let ip = mapping.host_ip.map(|ip| ip.to_string()).unwrap_or_default();
            return Err(BuiltinError::Mapping(format!(
                "host_ip `{ip}`: the pod has no address of that family"
            )));
        }
        ports.extend(wanted.into_iter().map(|pod_ip| Published {
            protocol: mapping.protocol,
            host_port: mapping.host_port,
            host_ip,
            pod_ip,
            pod_port: mapping.container_port,
        }));
    }
    for (n, port) in ports.iter().enumerate() {
        let same = |p: &&Published| {
            (p.protocol, p.host_port, p.host_ip, p.pod_ip)
                == (port.protocol, port.host_port, port.host_ip, port.pod_ip)
        };
        if ports[..n].iter().any(|p| same(&p)) {
            return Err(BuiltinError::Mapping(format!("host port {} is asked for twice", port.host_port)));
        }
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use types::pod::Protocol;

    fn conf(value: &Value) -> Result<PortmapConf, BadConf> {
        PortmapConf::parse(value.as_object().expect("object"))
    }

    #[test]
    fn what_a_usual_configuration_says_passes() {
        let usual = json!({"type": "portmap", "capabilities": {"portMappings": true}, "externalSetMarkChain": "KUBE-MARK-MASQ", "snat": true});
        assert_eq!(conf(&usual), Ok(PortmapConf { snat: Snat::Near }));
        assert_eq!(conf(&json!({"masqAll": true})), Ok(PortmapConf { snat: Snat::All }));
        assert_eq!(conf(&json!({"snat": false})), Ok(PortmapConf { snat: Snat::Off }));
    }

    #[test]
    fn what_would_change_the_rules_is_refused_by_name() {
        for (value, name) in [
            (json!({"conditionsV4": ["-s", "1.2.3.4"]}), "conditionsV4"),
            (json!({"conditionsV6": ["x"]}), "conditionsV6"),
            (json!({"backend": "iptables"}), "backend"),
            (json!({"sant": true}), "sant"),
            (json!({"snat": 1}), "snat"),
        ] {
            assert!(conf(&value).expect_err(name).to_string().starts_with(name));
        }
    }

    #[test]
    fn a_mapping_is_for_each_family_that_both_sides_have() {
        let map = |host_ip: Option<&str>| PortMapping {
            protocol: Protocol::Tcp,
            container_port: 80,
            host_port: 8080,
            host_ip: host_ip.map(|ip| ip.parse().expect("ip")),
        };
        let both = ["10.0.0.2".parse().expect("ip"), "fd00::2".parse().expect("ip")];
        assert_eq!(published(&[map(None)], &both).expect("both").len(), 2);
        assert_eq!(published(&[map(Some("0.0.0.0"))], &both).expect("v4")[0].host_ip, None);
        assert_eq!(published(&[map(Some("::1"))], &both).expect("v6")[0].pod_ip, both[1]);
        assert!(published(&[map(Some("::"))], &both[..1]).is_err(), "no IPv6 address");
        assert!(published(&[map(None), map(None)], &both).is_err(), "twice");
        assert!(published(&[map(None), map(Some("10.9.9.9"))], &both).is_ok(), "one address more closely");
    }
}
