//! Results of CNI plugins: SPEC.md 1.1, section 5.

use crate::{cidr::Cidr, conflist::Version};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{net::IpAddr, path::Path};

/// The result of ADD as far as this runtime reads it. Unknown keys of a foreign plugin's result are
/// kept elsewhere: its JSON is handed on as it came.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct CniResult {
    #[serde(default)]
    pub(crate) interfaces: Vec<Interface>,
    #[serde(default)]
    pub(crate) ips: Vec<Ip>,
    #[serde(default)]
    pub(crate) routes: Vec<Route>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Interface {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) mac: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) sandbox: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ip {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) interface: Option<usize>,
    pub(crate) address: Cidr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gateway: Option<IpAddr>,
}

/// A route of the pod, in a result and in `ipam.routes`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Route {
    pub(crate) dst: Cidr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gw: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mtu: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) advmss: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) priority: Option<u32>,
}

impl CniResult {
    pub(crate) fn add_interface(&mut self, name: &str, mac: &str, netns: Option<&Path>) -> usize {
        let sandbox = netns.map(|p| p.display().to_string()).unwrap_or_default();
        self.interfaces.push(Interface { name: name.to_owned(), mac: mac.to_owned(), sandbox });
        self.interfaces.len() - 1
    }

    pub(crate) fn add_ip(&mut self, interface: usize, address: Cidr, gateway: Option<IpAddr>) {
        self.ips.push(Ip { interface: Some(interface), address, gateway });
    }

    /// Reads a plugin's or an earlier result.
    pub(crate) fn read(value: &Value) -> Result<Self, serde_json::Error> {
        Self::deserialize(value)
    }

    /// The JSON of that version of the specification.
    pub(crate) fn to_json(&self, version: Version, dns: Option<&Value>) -> Value {
        let mut value = serde_json::to_value(self).expect("plain data becomes JSON");
        value["cniVersion"] = version.text().into();
        value["dns"] = dns.cloned().unwrap_or_else(|| Value::Object(serde_json::Map::new()));
        if version < Version::V100 {
            for (n, ip) in self.ips.iter().enumerate() {
                value["ips"][n]["version"] = if ip.address.ip().is_ipv4() { "4" } else { "6" }.into();
            }
        }
        value
    }

    /// The addresses on the pod's interface of that name, in the result's order.
    pub(crate) fn addresses_of(&self, interface: &str) -> Vec<IpAddr> {
        let is_inside = |ip: &&Ip| match ip.interface {
            None => true,
            Some(n) => self.interfaces.get(n).is_some_and(|i| i.name == interface && !i.sandbox.is_empty()),
        };
        self.ips.iter().filter(is_inside).map(|ip| ip.address.ip()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_addresses_of_the_pods_own_interface_count() {
        let value = json!({"cniVersion": "1.0.0",
            "interfaces": [{"name": "cni0", "mac": "x"}, {"name": "eth0", "mac": "y", "sandbox": "/ns"}, {"name": "eth1", "sandbox": "/ns"}],
            "ips": [{"interface": 0, "address": "10.0.0.1/24"}, {"interface": 1, "address": "10.0.0.2/24", "gateway": "10.0.0.1"},
                    {"interface": 2, "address": "10.1.0.2/24"}, {"interface": 9, "address": "10.2.0.2/24"}, {"address": "fd00::2/64"}],
            "routes": [{"dst": "0.0.0.0/0"}], "dns": {}});
        let result = CniResult::read(&value).expect("result");
        assert_eq!(
            result.addresses_of("eth0"),
            ["10.0.0.2".parse::<IpAddr>().expect("ip"), "fd00::2".parse().expect("ip")]
        );
    }

    #[test]
    fn older_versions_get_the_family_of_each_address() {
        let mut result = CniResult::default();
        let at = result.add_interface("eth0", "m", Some(Path::new("/ns")));
        result.add_ip(at, "10.0.0.2/24".parse().expect("cidr"), None);
        result.add_ip(at, "fd00::2/64".parse().expect("cidr"), None);
        let old = result.to_json(Version::V040, None);
        assert_eq!((&old["ips"][0]["version"], &old["ips"][1]["version"]), (&json!("4"), &json!("6")));
        assert_eq!(result.to_json(Version::V100, None)["ips"][0].get("version"), None);
    }
}
