//! Pods that come, talk and go.

use super::*;

#[test]
fn two_pods_have_addresses_of_their_own_and_talk_through_the_bridge() {
    on_a_fresh_host(|| {
        let node = Node::with(&[]);
        let (a, b) = (node.pod(1), node.pod(2));
        assert_ne!(a.ip(), b.ip());
        assert_eq!(node.leases().len(), 2);
        let server = serve(&a.request, 80, 3);
        let seen = ask_from(&b.request, (a.ip(), 80)).expect("b reaches a");
        assert_eq!(seen, b.ip().to_string(), "a sees b's own address");
        ask(SocketAddr::from((a.ip(), 80))).expect("the host reaches a");
        ask_from(&a.request, ([127, 0, 0, 1], 80)).expect("a reaches itself");
        server.join().expect("server");
        assert_eq!(a.attached.switched_on, ["net.ipv4.ip_forward"], "reported by the first pod");
        assert!(b.attached.switched_on.is_empty());
        node.remove(&a);
        node.remove(&b);
        node.end();
        assert_eq!(
            std::fs::read("/proc/sys/net/ipv4/ip_forward").expect("read"),
            b"0\n",
            "switched off again"
        );
    });
}

#[test]
fn a_pod_of_an_ipv4_network_has_no_ipv6_of_its_own_making() {
    on_a_fresh_host(|| {
        let node = Node::with(&[]);
        let pod = node.pod(1);
        let addresses = in_pod(&pod.request, || {
            rtnl::addresses(&mut Session::open(Subsystem::Route).expect("netlink")).expect("addresses")
        });
        let on_eth0: Vec<_> = addresses.iter().filter(|a| a.link != 1).collect();
        assert_eq!(on_eth0.len(), 1, "{on_eth0:?}");
        node.remove(&pod);
        node.end();
    });
}

#[test]
fn a_network_of_both_families_gives_both_and_both_work_at_once() {
    on_a_fresh_host(|| {
        let scratch = Scratch::new();
        let data = scratch.dir("data");
        let node = Node::in_scratch(scratch, &[("10-dual.conflist", dual(&data))]);
        let (a, b) = (node.pod(1), node.pod(2));
        assert_eq!(a.attached.ips.len(), 2);
        let server = serve(&a.request, 80, 2);
        for ip in &a.attached.ips {
            let seen = ask_from(&b.request, (*ip, 80)).expect("b reaches a");
            assert!(b.attached.ips.iter().any(|own| own.to_string() == seen), "{seen}");
        }
        server.join().expect("server");
        wait(node.network.check(&a.request, &a.attached.result)).expect("CHECK");
        // A router's advertisement of one pod changes neither the host nor another pod.
        let accepts = |link: &str| {
            std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{link}/accept_ra")).expect("read")
        };
        assert_eq!(
            (accepts("cni0"), in_pod(&b.request, move || accepts("eth0"))),
            ("0\n".to_owned(), "0\n".to_owned())
        );
        node.remove(&a);
        assert!(wait(node.network.check(&a.request, &a.attached.result)).is_err(), "CHECK of a removed pod");
        node.remove(&b);
        assert_eq!(files_that_are_addresses(&data.join("dual")), Vec::<String>::new());
        // The operator's bridge is not ours to remove.
        assert!(
            rtnl::delete_link(&mut Session::open(Subsystem::Route).expect("netlink"), "cni0")
                .expect("delete")
        );
        node.end();
    });
}

/// A network of a single address.
fn single(data_dir: &Path) -> Value {
    let range = json!([[{"subnet": "10.124.0.0/24", "rangeStart": "10.124.0.9", "rangeEnd": "10.124.0.9"}]]);
    json!({
        "cniVersion": "1.0.0", "name": "single",
        "plugins": [{"type": "bridge", "bridge": "cni0", "isGateway": true,
                     "ipam": {"type": "host-local", "dataDir": data_dir, "ranges": range}}]
    })
}

#[test]
fn a_detached_pod_is_heard_no_more_and_its_address_is_the_next_ones_at_once() {
    on_a_fresh_host(|| {
        let scratch = Scratch::new();
        let data = scratch.dir("data");
        let node = Node::in_scratch(scratch, &[("10-single.conflist", single(&data))]);
        let old = node.pod(1);
        let listener = in_pod(&old.request, || TcpListener::bind("0.0.0.0:80").expect("listen"));
        TcpStream::connect((old.ip(), 80)).expect("the host reaches it, and its bridge knows where it is");
        listener.accept().expect("accept");
        wait(node.network.detach(&old.request, Some(&old.attached.result))).expect("detach");
        // Its namespace is there still, with its link and its process.
        let at = SocketAddr::from((old.ip(), 80));
        TcpStream::connect_timeout(&at, Duration::from_millis(300)).expect_err("it answers");
        let new = node.pod(2);
        assert_eq!(new.ip(), old.ip());
        let server = serve(&new.request, 80, 1);
        ask(at).expect("the host reaches the new one");
        server.join().expect("server");
        listener.set_nonblocking(true).expect("non-blocking");
        let nobody = listener.accept().expect_err("the old one was reached");
        assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
        drop(listener);
        wait(node.network.detach(&old.request, Some(&old.attached.result))).expect("again");
        node.pins.drop_pod(&old.request.pod).expect("drop");
        node.remove(&new);
        let mut session = Session::open(Subsystem::Route).expect("netlink");
        assert!(rtnl::delete_link(&mut session, "cni0").expect("delete"));
        node.end();
    });
}

#[test]
fn what_leaves_the_network_is_masqueraded_and_what_stays_is_not() {
    on_a_fresh_host(|| {
        let node = Node::with(&[]);
        let (a, b) = (node.pod(1), node.pod(2));
        // The host's neighbour: a namespace behind a veth of the host, which knows no route to pods.
        let neighbour = neighbour(&node, 99, [192, 0, 2, 1], [192, 0, 2, 2]);
        let server = serve(&neighbour, 80, 1);
        let seen = ask_from(&a.request, ([192, 0, 2, 2], 80)).expect("a reaches the neighbour");
        assert_eq!(seen, "192.0.2.1", "by the host's address");
        server.join().expect("server");
        let server = serve(&b.request, 80, 1);
        assert_eq!(ask_from(&a.request, (b.ip(), 80)).expect("a reaches b"), a.ip().to_string());
        server.join().expect("server");
        node.remove(&a);
        node.remove(&b);
        end_with_neighbour(node, &neighbour);
    });
}

#[test]
fn two_daemons_side_by_side_do_not_meet() {
    on_a_fresh_host(|| {
        let (one, two) = (Node::with(&[]), Node::with(&[]));
        let (a, b) = (one.pod(1), two.pod(1 << 20));
        let server = serve(&a.request, 80, 1);
        ask_from(&b.request, (a.ip(), 80)).expect("routed by the host");
        server.join().expect("server");
        assert_ne!(a.request.conflist, b.request.conflist);
        one.remove(&a);
        // The first leaves the machine, the second does not notice.
        wait(one.network.gc(&[])).expect("gc");
        wait(one.network.remove()).expect("remove");
        assert_eq!(two.leases().len(), 1);
        assert!(
            chains()
                .iter()
                .all(|(table, _)| *table == crate::fallback::Names::of(&two.scratch.0.join("root")).table())
        );
        wait(two.network.check(&b.request, &b.attached.result)).expect("the other's pod is whole");
        two.remove(&b);
        wait(two.network.remove()).expect("remove");
        two.pins.clone().unmount().expect("unmount");
        one.end();
    });
}

#[test]
fn the_fallback_keeps_off_networks_of_the_host_and_keeps_to_its_own() {
    on_a_fresh_host(|| {
        let node = Node::with(&[]);
        let names = crate::fallback::Names::of(&node.scratch.0.join("root"));
        let mut session = Session::open(Subsystem::Route).expect("netlink");
        rtnl::add_bridge(&mut session, "other", [2, 0, 0, 0, 0, 1], None, None).expect("bridge");
        let other = rtnl::link(&mut session, "other").expect("link").expect("there");
        // The host has the upper half of what the fallback could take, and what it would take first.
        let half = "10.88.0.1/13".parse().expect("cidr");
        session
            .ask(rtnl::add_address(rtnl::Address { link: other.index, net: half }, false))
            .expect("address");
        let first = subnet_of(&wait(node.network.plan()).expect("plan"));
        assert!(!first.overlaps(&half), "{first}");
        wait(node.network.remove()).expect("remove");
        assert_eq!(subnet_of(&wait(node.network.plan()).expect("plan")), first, "the same again");
        // Now the host takes it.
        wait(node.network.remove()).expect("remove");
        session
            .ask(rtnl::add_address(rtnl::Address { link: other.index, net: first }, false))
            .expect("address");
        let second = subnet_of(&wait(node.network.plan()).expect("plan"));
        assert!(!second.overlaps(&first) && !second.overlaps(&half), "{second}");
        rtnl::delete_link(&mut session, "other").expect("delete");
        assert_eq!(names.bridge().len(), 14);
        node.end();
    });
}

fn subnet_of(conflist: &str) -> crate::Cidr {
    let value: Value = serde_json::from_str(conflist).expect("JSON");
    value["plugins"][0]["ipam"]["ranges"][0][0]["subnet"].as_str().expect("subnet").parse().expect("cidr")
}

#[test]
fn a_link_of_the_fallbacks_name_that_is_not_ours_is_left_alone() {
    on_a_fresh_host(|| {
        let node = Node::with(&[]);
        let bridge = crate::fallback::Names::of(&node.scratch.0.join("root")).bridge();
        let mut session = Session::open(Subsystem::Route).expect("netlink");
        rtnl::add_bridge(&mut session, &bridge, [2, 0, 0, 0, 0, 1], None, Some("somebody's"))
            .expect("bridge");
        let error = wait(node.network.plan()).expect_err("not ours");
        assert!(chain(&error).contains("is not this daemon's"), "{}", chain(&error));
        wait(node.network.remove()).expect("remove");
        assert!(rtnl::delete_link(&mut session, &bridge).expect("delete"), "still there");
        node.end();
    });
}

#[test]
fn two_hundred_pods_leave_nothing() {
    on_a_fresh_host(|| {
        let node = Node::with(&[]);
        for n in 0..200 {
            let pod = node.attach(node.request(n, vec![port(8080, 80)]));
            node.remove(&pod);
        }
        assert!(node.scratch.0.join("state/ns").read_dir().expect("ns").next().is_none(), "pins are left");
        node.end();
    });
}

#[test]
fn what_is_left_of_pods_that_are_gone_is_collected_and_nothing_else() {
    on_a_fresh_host(|| {
        let scratch = Scratch::new();
        let data = scratch.dir("data");
        let node = Node::in_scratch(scratch, &[("10-dual.conflist", dual(&data))]);
        let living = node.attach(node.request(1, vec![port(8001, 80)]));
        let dead = node.attach(node.request(2, vec![port(8002, 80)]));
        node.pins.drop_pod(&dead.request.pod).expect("drop");
        // Somebody else's container in the same directory.
        let foreign = data.join("dual/10.123.0.200");
        std::fs::File::create(&foreign).expect("file").write_all(b"another\r\neth0").expect("write");
        wait(node.network.gc(std::slice::from_ref(&living.request.pod))).expect("gc");
        let left = files_that_are_addresses(&data.join("dual"));
        assert_eq!(left.len(), 3, "two of the living pod and the foreign one: {left:?}");
        wait(node.network.check(&living.request, &living.attached.result)).expect("the living pod is whole");
        // The dead pod's port is free.
        let next = node.attach(node.request(3, vec![port(8002, 80)]));
        node.remove(&next);
        node.remove(&living);
        std::fs::remove_file(&foreign).expect("still there");
        rtnl::delete_link(&mut Session::open(Subsystem::Route).expect("netlink"), "cni0").expect("delete");
        node.end();
    });
}

/// The neighbour leaves, then the node.
pub(super) fn end_with_neighbour(node: Node, neighbour: &AttachRequest) {
    node.pins.drop_pod(&neighbour.pod).expect("drop");
    assert!(
        rtnl::delete_link(&mut Session::open(Subsystem::Route).expect("netlink"), "lan0").expect("delete")
    );
    node.end();
}

/// Somebody beside the host, on a veth pair with these addresses; not a pod.
pub(super) fn neighbour(node: &Node, n: u32, host: [u8; 4], theirs: [u8; 4]) -> AttachRequest {
    let request = node.request(n, Vec::new());
    let netns = crate::netns::open_netns(&request.netns).expect("netns");
    let mut session = Session::open(Subsystem::Route).expect("netlink");
    rtnl::add_bridge(&mut session, "lan0", [2, 0, 0, 0, 0, 9], None, None).expect("bridge");
    let lan = rtnl::link(&mut session, "lan0").expect("link").expect("there");
    let net = |ip: [u8; 4]| crate::Cidr::new(ip.into(), 24).expect("cidr");
    session
        .ask(rtnl::add_address(rtnl::Address { link: lan.index, net: net(host) }, false))
        .expect("address");
    let veth = rtnl::Veth {
        host_name: "lanport0",
        host_mac: [2, 0, 0, 0, 0, 10],
        bridge: lan.index,
        peer_name: "eth0",
        peer_mac: [2, 0, 0, 0, 0, 11],
        netns: std::os::fd::AsFd::as_fd(&netns),
        mtu: None,
        hairpin: false,
        isolated: false,
    };
    rtnl::add_veth(&mut session, &veth).expect("veth");
    in_pod(&request, move || {
        let mut session = Session::open(Subsystem::Route).expect("netlink");
        let eth = rtnl::link(&mut session, "eth0").expect("link").expect("there");
        let address = rtnl::Address { link: eth.index, net: net(theirs) };
        let said = session.all(vec![rtnl::up(eth.index), rtnl::add_address(address, false)]).expect("sent");
        assert!(said.iter().all(Result::is_ok), "{said:?}");
    });
    request
}
