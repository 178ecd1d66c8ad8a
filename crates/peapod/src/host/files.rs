//! The files that all containers of a pod share: /etc/hosts, /etc/hostname, /etc/resolv.conf.

use std::{fmt::Write as _, net::IpAddr};
use types::pod::Dns;

/// Where systemd-resolved keeps the servers behind its loopback stub.
pub(super) const BEHIND_THE_STUB: &str = "/run/systemd/resolve/resolv.conf";

/// /etc/hosts of a pod with a network of its own. The addresses are those of the pod, known after
/// it was attached; the kubelet mounts a file of its own over this one.
pub(super) fn hosts(hostname: &str, ips: &[IpAddr]) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    for ip in ips {
        writeln!(text, "{ip}\t{hostname}").expect("a String takes every write");
    }
    text
}

/// /etc/resolv.conf, resolv.conf(5): what the request says, else the host's. A pod with a network of
/// its own cannot reach a resolver on the host's loopback: `behind` is what stands behind such a
/// stub, if anything is known of it.
pub(super) fn resolv_conf(dns: Option<&Dns>, host: &str, behind: Option<&str>, own_network: bool) -> String {
    if let Some(dns) = dns {
        let mut text = String::new();
        if !dns.searches.is_empty() {
            writeln!(text, "search {}", dns.searches.join(" ")).expect("a String takes every write");
        }
        for server in &dns.servers {
            writeln!(text, "nameserver {server}").expect("a String takes every write");
        }
        if !dns.options.is_empty() {
            writeln!(text, "options {}", dns.options.join(" ")).expect("a String takes every write");
        }
        return text;
    }
    if !own_network || !host.lines().any(is_loopback_server) {
        return host.to_owned();
    }
    let reachable = |text: &str| text.lines().any(|l| server(l).is_some() && !is_loopback_server(l));
    match behind {
        Some(behind) if !reachable(host) && reachable(behind) => without_stub(behind),
        Some(_) | None => without_stub(host),
    }
}

fn without_stub(text: &str) -> String {
    text.lines().filter(|line| !is_loopback_server(line)).map(|line| format!("{line}\n")).collect()
}

fn server(line: &str) -> Option<IpAddr> {
    let mut words = line.split_whitespace();
    if words.next() != Some("nameserver") {
        return None;
    }
    // A zone (`fe80::1%eth0`) is no part of the address.
    words.next().and_then(|ip| ip.split('%').next()).and_then(|ip| ip.parse().ok())
}

fn is_loopback_server(line: &str) -> bool {
    server(line).is_some_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_wins_over_the_host() {
        let dns = Dns {
            servers: vec!["10.0.0.10".to_owned()],
            searches: vec!["a.svc".to_owned(), "b".to_owned()],
            options: vec!["ndots:5".to_owned()],
        };
        let text = resolv_conf(Some(&dns), "nameserver 1.1.1.1\n", None, true);
        assert_eq!(text, "search a.svc b\nnameserver 10.0.0.10\noptions ndots:5\n");
    }

    #[test]
    fn a_loopback_stub_is_replaced_by_what_stands_behind_it() {
        let stub = "nameserver 127.0.0.53\noptions edns0\n";
        let behind = "nameserver 192.168.1.1\nsearch home\n";
        assert_eq!(resolv_conf(None, stub, Some(behind), true), behind);
        assert_eq!(resolv_conf(None, stub, None, true), "options edns0\n");
        assert_eq!(resolv_conf(None, stub, Some(behind), false), stub, "the node's network reaches it");
        let mixed = "nameserver 127.0.0.1\nnameserver 9.9.9.9\n";
        assert_eq!(resolv_conf(None, mixed, Some(behind), true), "nameserver 9.9.9.9\n");
    }

    #[test]
    fn the_pod_knows_its_own_name() {
        let text = hosts("web", &["10.88.0.2".parse().expect("an address")]);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n") && text.ends_with("10.88.0.2\tweb\n"), "{text}");
    }
}
