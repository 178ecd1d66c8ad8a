//! The pod's resolver: the host's, with what the manifest adds.

use super::super::manifest::Dns;
use api::cri::DnsConfig;
use std::{fs::File, io::Read as _, net::IpAddr};

/// systemd-resolved's list of the real servers behind its stub at 127.0.0.53.
const BEHIND_STUB: &str = "/run/systemd/resolve/resolv.conf";
const MOST_BYTES: u64 = 64 << 10;

/// What to ask of the runtime; `None` leaves all to it, which copies the host's own file.
pub(crate) fn config(dns: &Dns) -> Option<DnsConfig> {
    if !dns.own_only && *dns == Dns::default() {
        return None;
    }
    let host = if dns.own_only {
        DnsConfig::default()
    } else {
        host(&read("/etc/resolv.conf"), || read(BEHIND_STUB))
    };
    Some(merged(host, dns))
}

fn read(path: &str) -> String {
    let mut text = String::new();
    // Without a resolver the pod has only what the manifest names.
    let _ = File::open(path).and_then(|file| file.take(MOST_BYTES).read_to_string(&mut text));
    text
}

/// The host's configuration, but never a server of its loopback, which a pod cannot reach.
fn host(text: &str, behind_stub: impl FnOnce() -> String) -> DnsConfig {
    let config = parse(text);
    let loopback = |server: &String| server.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let mut config = if !config.servers.is_empty() && config.servers.iter().all(loopback) {
        parse(&behind_stub())
    } else {
        config
    };
    config.servers.retain(|server| !loopback(server));
    config
}

/// resolv.conf(5): the last `search` and `options` count, each `nameserver` adds one.
fn parse(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => config.servers.extend(words.next()),
            Some("search") => config.searches = words.collect(),
            Some("options") => config.options = words.collect(),
            Some(_) | None => {}
        }
    }
    config
}

fn merged(mut host: DnsConfig, dns: &Dns) -> DnsConfig {
    for server in &dns.servers {
        if !host.servers.contains(server) {
            host.servers.push(server.clone());
        }
    }
    for search in &dns.searches {
        if !host.searches.contains(search) {
            host.searches.push(search.clone());
        }
    }
    for (name, value) in &dns.options {
        // The manifest's value of an option wins over the host's.
        host.options.retain(|option| option.split(':').next() != Some(name));
        host.options.push(match value {
            Some(value) if !value.is_empty() => format!("{name}:{value}"),
            Some(_) | None => name.clone(),
        });
    }
    // resolv.conf(5) has room for three.
    host.servers.truncate(3);
    host.searches.truncate(32);
    host
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_adds_to_the_hosts_resolver() {
        let text = "# x\nnameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch a b\nsearch example.com\noptions ndots:5 edns0\n";
        let dns = Dns {
            own_only: false,
            servers: vec!["192.0.2.2".into(), "192.0.2.3".into(), "192.0.2.4".into()],
            searches: vec!["example.com".into(), "example.org".into()],
            options: vec![("ndots".into(), Some("2".into())), ("rotate".into(), None)],
        };
        let config = merged(host(text, String::new), &dns);
        assert_eq!(config.servers, ["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
        assert_eq!(config.searches, ["example.com", "example.org"]);
        assert_eq!(config.options, ["edns0", "ndots:2", "rotate"]);
    }

    #[test]
    fn a_stub_of_the_hosts_loopback_is_not_handed_to_a_pod() {
        let behind = || "nameserver 192.0.2.9\n".to_owned();
        assert_eq!(host("nameserver 127.0.0.53\n", behind).servers, ["192.0.2.9"]);
        assert_eq!(host("nameserver ::1\nnameserver 192.0.2.1\n", behind).servers, ["192.0.2.1"]);
        assert_eq!(host("nameserver 127.0.0.53\n", String::new).servers, [""; 0]);
    }

    #[test]
    fn policy_none_has_nothing_of_the_host_and_no_config_leaves_it_to_the_runtime() {
        assert_eq!(config(&Dns::default()), None);
        let dns = Dns { own_only: true, servers: vec!["192.0.2.1".into()], ..Dns::default() };
        let config = config(&dns).expect("asked for");
        assert_eq!((config.servers, config.searches), (vec!["192.0.2.1".to_owned()], vec![]));
    }
}
