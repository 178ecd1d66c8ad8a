//! Host ports: from everywhere they shall work, and from nowhere else.

use super::{
    lifecycle::{end_with_neighbour, neighbour},
    *,
};
use crate::{BuiltinError, NetworkError, WorkerError};
use std::net::UdpSocket;

const LAN: [u8; 4] = [192, 0, 2, 1];
const NEIGHBOUR: [u8; 4] = [192, 0, 2, 2];

/// The neighbour's way to everything is the host.
fn route_by_the_host(neighbour: &AttachRequest, to: &str) {
    let to: crate::Cidr = to.parse().expect("cidr");
    in_pod(neighbour, move || {
        let mut session = Session::open(Subsystem::Route).expect("netlink");
        let eth = rtnl::link(&mut session, "eth0").expect("link").expect("there");
        let via = Some(IpAddr::from(LAN));
        let route = rtnl::Route { to, via, link: eth.index, priority: None, mtu: None, advmss: None };
        session.ask(rtnl::add_route(&route)).expect("route");
    });
}

#[test]
fn a_host_port_leads_to_the_pod_from_wherever_one_asks() {
    on_a_fresh_host(|| {
        let node = Node::with(&[]);
        let outside = neighbour(&node, 99, LAN, NEIGHBOUR);
        let a = node.attach(node.request(1, vec![port(8080, 80)]));
        let b = node.pod(2);
        let server = serve(&a.request, 80, 5);
        let seen = ask_from(&outside, (LAN, 8080)).expect("from outside");
        assert_eq!(seen, "192.0.2.2", "the pod sees who asks");
        ask(([127, 0, 0, 1], 8080)).expect("from the host's loopback");
        ask((LAN, 8080)).expect("from the host by its own address");
        ask_from(&a.request, (LAN, 8080)).expect("from the pod itself");
        ask_from(&b.request, (LAN, 8080)).expect("from another pod of the network");
        server.join().expect("server");
        node.remove(&a);
        assert!(ask(([127, 0, 0, 1], 8080)).is_err(), "closed with its pod");
        node.remove(&b);
        end_with_neighbour(node, &outside);
    });
}

#[test]
fn a_host_port_of_one_address_is_not_there_on_another() {
    on_a_fresh_host(|| {
        let node = Node::with(&[]);
        let outside = neighbour(&node, 99, LAN, NEIGHBOUR);
        let local = PortMapping { host_ip: Some([127, 0, 0, 1].into()), ..port(8080, 80) };
        let lan = PortMapping { host_ip: Some(LAN.into()), ..port(8081, 80) };
        let a = node.attach(node.request(1, vec![local, lan]));
        let server = serve(&a.request, 80, 2);
        ask(([127, 0, 0, 1], 8080)).expect("loopback");
        ask_from(&outside, (LAN, 8081)).expect("lan");
        server.join().expect("server");
        assert!(ask_from(&outside, (LAN, 8080)).is_err(), "the loopback's port on the lan");
        assert!(ask(([127, 0, 0, 1], 8081)).is_err(), "the lan's port on the loopback");
        node.remove(&a);
        end_with_neighbour(node, &outside);
    });
}

#[test]
fn what_the_host_only_forwards_is_not_intercepted() {
    on_a_fresh_host(|| {
        let node = Node::with(&[]);
        let outside = neighbour(&node, 99, LAN, NEIGHBOUR);
        let a = node.attach(node.request(1, vec![port(8080, 80)]));
        let b = node.pod(2);
        route_by_the_host(&outside, "10.80.0.0/12");
        // Nobody listens in `a`; a caught connection would be refused.
        let server = serve(&b.request, 8080, 1);
        ask_from(&outside, (b.ip(), 8080)).expect("b itself, not the host port of a");
        server.join().expect("server");
        node.remove(&a);
        node.remove(&b);
        end_with_neighbour(node, &outside);
    });
}

#[test]
fn a_pod_does_not_reach_the_loopback_of_the_host() {
    on_a_fresh_host(|| {
        let node = Node::with(&[]);
        // Its host port opens route_localnet on the bridge.
        let a = node.attach(node.request(1, vec![port(8080, 80)]));
        let gateway: Value = serde_json::from_str(&a.attached.result).expect("result");
        let gateway: IpAddr = gateway["ips"][0]["gateway"].as_str().expect("gateway").parse().expect("ip");
        let secret = UdpSocket::bind("127.0.0.9:5000").expect("bind");
        secret.set_read_timeout(Some(PATIENCE)).expect("timeout");
        let down = "127.0.0.9/32".parse::<crate::Cidr>().expect("cidr");
        in_pod(&a.request, move || {
            let mut session = Session::open(Subsystem::Route).expect("netlink");
            // Without its own loopback's routes the pod sends such packets out.
            session.ask(rtnl::down(1)).expect("lo down");
            let eth = rtnl::link(&mut session, "eth0").expect("link").expect("there");
            let route = rtnl::Route {
                to: down,
                via: Some(gateway),
                link: eth.index,
                priority: None,
                mtu: None,
                advmss: None,
            };
            session.ask(rtnl::add_route(&route)).expect("route");
        });
        let send = |what: &'static [u8]| {
            let from = (a.ip(), 0);
            in_pod(&a.request, move || {
                UdpSocket::bind(from).expect("bind").send_to(what, "127.0.0.9:5000").expect("send");
            });
        };
        send(b"guarded");
        // Without the guard it arrives: so it was the guard.
        wait(node.network.worker.run(|hands| hands.firewall.remove())).expect("table");
        send(b"unguarded");
        let mut said = [0; 16];
        let (length, _) = secret.recv_from(&mut said).expect("receive");
        assert_eq!(&said[..length], b"unguarded");
        node.remove(&a);
        node.end();
    });
}

#[test]
fn a_port_that_another_pod_has_is_refused_and_stays_with_it() {
    on_a_fresh_host(|| {
        let node = Node::with(&[]);
        let a = node.attach(node.request(1, vec![port(8080, 80)]));
        let one_address = PortMapping { host_ip: Some([127, 0, 0, 1].into()), ..port(8080, 81) };
        for (n, mapping) in [(2, port(8080, 81)), (3, one_address.clone())] {
            let request = node.request(n, vec![port(9000, 90), mapping]);
            let error = wait(node.network.attach(&request)).expect_err("taken");
            let NetworkError::Builtin { source: WorkerError::Failed(taken), .. } = &error else {
                panic!("{}", chain(&error));
            };
            assert!(error.is_conflict() && !error.is_bad_input());
            let BuiltinError::HostPortTaken { port, owner } = taken else { panic!("{taken}") };
            assert!(port.contains("8080/tcp"), "{port}");
            assert_eq!(*owner, a.request.pod.to_string());
            wait(node.network.detach(&request, None)).expect("again");
            node.pins.drop_pod(&request.pod).expect("drop");
        }
        assert_eq!(node.leases().len(), 1, "the refused ones have given their addresses back");
        let server = serve(&a.request, 80, 1);
        ask(([127, 0, 0, 1], 8080)).expect("still the first pod's");
        server.join().expect("server");
        // Another protocol is another port, and the first one's is free when it has gone.
        let udp =
            node.attach(node.request(4, vec![PortMapping { protocol: Protocol::Udp, ..port(8080, 80) }]));
        node.remove(&a);
        let later = node.attach(node.request(5, vec![one_address]));
        let error = wait(node.network.attach(&node.request(6, vec![port(8080, 80)]))).expect_err("taken");
        assert!(chain(&error).contains("8080/tcp"), "{}", chain(&error));
        node.pins.drop_pod(&pod_id(6)).expect("drop");
        node.remove(&udp);
        node.remove(&later);
        node.end();
    });
}

#[test]
fn udp_and_sctp_ports_are_published_too() {
    on_a_fresh_host(|| {
        let node = Node::with(&[]);
        let udp = PortMapping { protocol: Protocol::Udp, ..port(5300, 53) };
        let sctp = PortMapping { protocol: Protocol::Sctp, ..port(5300, 53) };
        let a = node.attach(node.request(1, vec![udp, sctp]));
        let server = in_pod(&a.request, || UdpSocket::bind("0.0.0.0:53").expect("bind"));
        server.set_read_timeout(Some(PATIENCE)).expect("timeout");
        let client = UdpSocket::bind("127.0.0.1:0").expect("bind");
        client.set_read_timeout(Some(PATIENCE)).expect("timeout");
        client.send_to(b"question", "127.0.0.1:5300").expect("send");
        let mut said = [0; 16];
        let (length, peer) = server.recv_from(&mut said).expect("receive");
        assert_eq!(&said[..length], b"question");
        server.send_to(b"answer", peer).expect("send");
        let (length, _) = client.recv_from(&mut said).expect("the answer finds its way back");
        assert_eq!(&said[..length], b"answer");
        drop(server); // it holds the pod's namespace
        node.remove(&a);
        node.end();
    });
}

#[test]
fn a_udp_client_that_goes_on_asking_reaches_the_next_pod_of_the_port() {
    on_a_fresh_host(|| {
        let node = Node::with(&[]);
        let udp = PortMapping { protocol: Protocol::Udp, ..port(5300, 53) };
        let client = UdpSocket::bind("127.0.0.1:0").expect("bind");
        client.set_read_timeout(Some(PATIENCE)).expect("timeout");
        for n in 1..3 {
            let pod = node.attach(node.request(n, vec![udp.clone()]));
            let server = in_pod(&pod.request, || UdpSocket::bind("0.0.0.0:53").expect("bind"));
            server.set_read_timeout(Some(PATIENCE)).expect("timeout");
            client.send_to(b"question", "127.0.0.1:5300").expect("send");
            server.recv_from(&mut [0; 16]).expect("the living pod gets it");
            node.remove(&pod);
        }
        node.end();
    });
}

#[test]
fn ipv6_has_host_ports_and_hairpins_as_well() {
    on_a_fresh_host(|| {
        let scratch = Scratch::new();
        let data = scratch.dir("data");
        let node = Node::in_scratch(scratch, &[("10-dual.conflist", dual(&data))]);
        let outside = neighbour(&node, 99, LAN, NEIGHBOUR);
        let net = |ip: &str| ip.parse::<crate::Cidr>().expect("cidr");
        let give = |link: &str, to: crate::Cidr| {
            let mut session = Session::open(Subsystem::Route).expect("netlink");
            let link = rtnl::link(&mut session, link).expect("link").expect("there").index;
            session.ask(rtnl::add_address(rtnl::Address { link, net: to }, false)).expect("address");
        };
        give("lan0", net("fd00:9::1/64"));
        in_pod(&outside, move || give("eth0", net("fd00:9::2/64")));
        let a = node.attach(node.request(1, vec![port(8080, 80)]));
        let b = node.pod(2);
        let server = serve(&a.request, 80, 3);
        let host: SocketAddr = "[fd00:9::1]:8080".parse().expect("address");
        assert_eq!(ask_from(&outside, host).expect("from outside"), "fd00:9::2");
        ask_from(&a.request, host).expect("from the pod itself");
        ask_from(&b.request, host).expect("from another pod");
        server.join().expect("server");
        assert!(a.attached.switched_on.contains(&"net.ipv6.conf.all.forwarding".to_owned()));
        node.remove(&a);
        node.remove(&b);
        rtnl::delete_link(&mut Session::open(Subsystem::Route).expect("netlink"), "cni0").expect("delete");
        end_with_neighbour(node, &outside);
    });
}

#[test]
fn a_table_that_somebody_flushed_away_is_made_again_for_the_next_pod() {
    on_a_fresh_host(|| {
        let node = Node::with(&[]);
        let a = node.attach(node.request(1, vec![port(8080, 80)]));
        wait(node.network.worker.run(|hands| hands.firewall.remove())).expect("flush");
        assert!(wait(node.network.check(&a.request, &a.attached.result)).is_err(), "CHECK notices");
        let b = node.attach(node.request(2, vec![port(8081, 80)]));
        let server = serve(&b.request, 80, 1);
        ask(([127, 0, 0, 1], 8081)).expect("b");
        server.join().expect("server");
        node.remove(&a);
        node.remove(&b);
        node.end();
    });
}

#[test]
fn our_chains_come_behind_those_of_services() {
    let text = std::process::Command::new("nft");
    on_a_fresh_host(move || {
        let mut text = text;
        let node = Node::with(&[]);
        let a = node.attach(node.request(1, vec![port(8080, 80)]));
        let shown = text.args(["list", "ruleset"]).output().expect("nft");
        let shown = String::from_utf8(shown.stdout).expect("text");
        assert!(shown.contains("hook prerouting priority dstnat + 10"), "{shown}");
        assert!(shown.contains(&a.request.pod.to_string()), "the owner is shown: {shown}");
        node.remove(&a);
        node.end();
    });
}
