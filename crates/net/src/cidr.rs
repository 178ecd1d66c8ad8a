//! An address with the length of its network's prefix, as CNI writes it: `10.88.0.5/16`.

use serde::{Deserialize, Serialize};
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
};

/// Text that is not an address and a prefix length.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not an address with a prefix length, like 10.88.0.0/16", .0.chars().take(80).flat_map(char::escape_default).collect::<String>())]
pub struct BadCidr(String);

/// An address and a prefix length that fits its family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    ip: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// `None` if the prefix is longer than the address.
    pub(crate) fn new(ip: IpAddr, prefix: u8) -> Option<Self> {
        (prefix <= bits(ip)).then_some(Self { ip, prefix })
    }

    /// The address as it stands, host part and all.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// Length of the network's prefix in bits.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The address with its host part cleared.
    #[must_use]
    pub fn network(&self) -> IpAddr {
        from_number(self.ip, number(self.ip) & self.mask())
    }

    /// The last address of the network.
    pub(crate) fn last(&self) -> IpAddr {
        from_number(self.ip, number(self.ip) | self.host_mask())
    }

    fn host_mask(&self) -> u128 {
        let host_bits = bits(self.ip) - self.prefix;
        if host_bits == 128 { u128::MAX } else { (1 << host_bits) - 1 }
    }

    fn mask(&self) -> u128 {
        let all = if bits(self.ip) == 128 { u128::MAX } else { u128::from(u32::MAX) };
        all & !self.host_mask()
    }

    /// Whether the address lies in the network.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.ip.is_ipv4() == ip.is_ipv4() && number(ip) & self.mask() == number(self.ip) & self.mask()
    }

    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.network()) || other.contains(self.network())
    }

    /// The broadcast address of an IPv4 network that has one.
    pub(crate) fn broadcast(&self) -> Option<Ipv4Addr> {
        match (self.last(), self.prefix) {
            (IpAddr::V4(last), 0..=30) => Some(last),
            (IpAddr::V4(_) | IpAddr::V6(_), _) => None,
        }
    }

    /// Every address of the family: `0.0.0.0/0` or `::/0`.
    pub(crate) fn everything(like: IpAddr) -> Self {
        Self { ip: from_number(like, 0), prefix: 0 }
    }
}

fn bits(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// The address as a number, for counting through a range.
pub(crate) fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

/// Back from [`number`], in the family of `like`.
pub(crate) fn from_number(like: IpAddr, number: u128) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(u32::try_from(number & u128::from(u32::MAX)).unwrap_or(u32::MAX).into()),
        IpAddr::V6(_) => IpAddr::V6(number.into()),
    }
}

impl FromStr for Cidr {
    type Err = BadCidr;

    fn from_str(text: &str) -> Result<Self, BadCidr> {
        let bad = || BadCidr(text.to_owned());
        let (ip, prefix) = text.split_once('/').ok_or_else(bad)?;
        let digits = !prefix.is_empty() && prefix.len() <= 3 && prefix.bytes().all(|b| b.is_ascii_digit());
        let prefix: u8 = if digits { prefix.parse().map_err(|_| bad())? } else { return Err(bad()) };
        Self::new(ip.parse().map_err(|_| bad())?, prefix).ok_or_else(bad)
    }
}

impl TryFrom<String> for Cidr {
    type Error = BadCidr;
    fn try_from(text: String) -> Result<Self, BadCidr> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> String {
        cidr.to_string()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().expect(text)
    }

    #[test]
    fn networks_begin_and_end_where_they_should() {
        assert_eq!(cidr("10.88.3.5/16").network().to_string(), "10.88.0.0");
        assert_eq!(cidr("10.88.3.5/16").last().to_string(), "10.88.255.255");
        assert_eq!(cidr("0.0.0.0/0").last().to_string(), "255.255.255.255");
        assert_eq!(cidr("::/0").last().to_string(), "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
        assert_eq!(cidr("fd00::5/64").network().to_string(), "fd00::");
        assert_eq!(cidr("10.0.0.1/32").broadcast(), None);
        assert_eq!(cidr("10.0.0.1/30").broadcast(), Some(Ipv4Addr::new(10, 0, 0, 3)));
    }

    #[test]
    fn an_address_is_in_a_network_of_its_own_family_only() {
        assert!(cidr("10.88.0.0/16").contains("10.88.9.9".parse().expect("ip")));
        assert!(!cidr("10.88.0.0/16").contains("10.89.0.1".parse().expect("ip")));
        assert!(!cidr("0.0.0.0/0").contains("::1".parse().expect("ip")));
        assert!(cidr("10.88.0.0/16").overlaps(&cidr("10.0.0.0/8")));
        assert!(!cidr("10.88.0.0/16").overlaps(&cidr("10.89.0.0/16")));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for bad in [
            "",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/+8",
            "10.0.0.0/008 ",
            "x/8",
            "10.0.0/8",
        ] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }
}
