//! Attaching that fails, or is killed, behind each of its steps; files that others share.

use super::*;
use crate::{builtin::bridge::Step, conflist::NetworkList};

const STEPS: [Step; 6] =
    [Step::Bridge, Step::Veth, Step::Inside, Step::Gateway, Step::Forwarding, Step::Masquerade];

impl Node {
    fn stop_behind(&self, step: Option<Step>) {
        *self.network.stop_behind.lock().expect("lock") = step;
    }

    /// Elements of the daemon's maps that are marked with this pod.
    fn elements_of(&self, pod: &PodId) -> usize {
        let table = crate::fallback::Names::of(&self.scratch.0.join("root")).table();
        let mut session = Session::open(Subsystem::Netfilter).expect("netlink");
        let maps = ["masq4", "masq6", "ports4", "ports6", "hostports4", "hostports6", "snat4", "snat6"];
        let mut all = Vec::new();
        for map in maps {
            match session.dump(crate::nft::list_elements(&table, map)) {
                Ok(found) => all.extend(found.iter().flat_map(crate::nft::elements_of)),
                Err(refusal) => assert_eq!(refusal.errno, sys::rustix::io::Errno::NOENT, "no table yet"),
            }
        }
        all.iter().filter(|element| element.owner == pod.as_str()).count()
    }
}

#[test]
fn a_failure_behind_any_step_leaves_nothing() {
    on_a_fresh_host(|| {
        let node = Node::with(&[]);
        for (n, step) in (0..).zip(STEPS) {
            let request = node.request(n, vec![port(8080, 80)]);
            node.stop_behind(Some(step));
            let error = wait(node.network.attach(&request)).expect_err("stopped");
            assert!(chain(&error).contains(&format!("{step:?}")), "{}", chain(&error));
            node.stop_behind(None);
            assert_eq!(node.leases(), Vec::<String>::new(), "behind {step:?}");
            assert_eq!(node.elements_of(&request.pod), 0, "behind {step:?}");
            node.pins.drop_pod(&request.pod).expect("drop");
        }
        node.end();
    });
}

#[test]
fn a_daemon_killed_behind_any_step_is_cleaned_up_by_the_next() {
    on_a_fresh_host(|| {
        let mut node = Node::with(&[]);
        for (n, step) in (0..).zip(STEPS) {
            let request = node.request(n, vec![port(8080, 80)]);
            let list = NetworkList::parse(&request.conflist, true).expect("list");
            node.stop_behind(Some(step));
            // Not `attach`: nobody is there any more to take back what was done.
            wait(node.network.add_all(&list, &request)).expect_err("killed");
            assert_eq!(node.leases().len(), 1, "behind {step:?}");
            // Another daemon of the same root, which knows only the plan.
            node.network = Network::load(node.network.options.clone()).expect("restart");
            wait(node.network.detach(&request, None)).expect("detach");
            wait(node.network.detach(&request, None)).expect("detach again");
            assert_eq!(node.leases(), Vec::<String>::new(), "behind {step:?}");
            assert_eq!(node.elements_of(&request.pod), 0, "behind {step:?}");
            node.pins.drop_pod(&request.pod).expect("drop");
        }
        node.end();
    });
}

#[test]
fn a_pod_whose_namespace_is_gone_is_detached_all_the_same_and_twice() {
    on_a_fresh_host(|| {
        let node = Node::with(&[]);
        for result_is_known in [true, false] {
            let pod = node.attach(node.request(u32::from(result_is_known), vec![port(8080, 80)]));
            assert_eq!(node.elements_of(&pod.request.pod), 3);
            node.pins.drop_pod(&pod.request.pod).expect("drop");
            let result = result_is_known.then_some(pod.attached.result.as_str());
            wait(node.network.detach(&pod.request, result)).expect("detach");
            wait(node.network.detach(&pod.request, result)).expect("detach again");
            assert_eq!(node.elements_of(&pod.request.pod), 0);
        }
        node.end();
    });
}

#[test]
fn detaching_a_pod_that_was_never_attached_takes_nothing_from_the_one_that_has_its_address() {
    on_a_fresh_host(|| {
        let node = Node::with(&[]);
        let a = node.attach(node.request(1, vec![port(8080, 80)]));
        let other = AttachRequest { pod: pod_id(2), ..a.request.clone() };
        wait(node.network.detach(&other, Some(&a.attached.result))).expect("detach");
        wait(node.network.check(&a.request, &a.attached.result)).expect("whole");
        node.remove(&a);
        node.end();
    });
}

#[test]
fn address_files_are_those_of_host_local() {
    on_a_fresh_host(|| {
        let scratch = Scratch::new();
        let data = scratch.dir("data");
        let node = Node::in_scratch(scratch, &[("10-dual.conflist", dual(&data))]);
        let dir = data.join("dual");
        let content = |name: &str| std::fs::read_to_string(dir.join(name)).expect("file");
        let a = node.pod(1);
        assert_eq!(content("10.123.0.2"), format!("{}\r\neth0", a.request.pod));
        assert_eq!(content("fd00:123::2"), format!("{}\r\neth0", a.request.pod));
        assert_eq!(
            (content("last_reserved_ip.0"), content("last_reserved_ip.1")),
            ("10.123.0.2".to_owned(), "fd00:123::2".to_owned())
        );
        assert_eq!(content("lock"), "");
        // What the usual plugin wrote meanwhile is respected, and the round goes on behind the last one.
        for (name, text) in [("10.123.0.4", "other\r\neth0"), ("last_reserved_ip.0", "10.123.0.3")] {
            std::fs::File::create(dir.join(name)).expect("file").write_all(text.as_bytes()).expect("write");
        }
        let b = node.pod(2);
        assert_eq!(b.ip().to_string(), "10.123.0.5");
        // Its own DEL finds the entry of ours by its content, and ours an entry of its.
        std::fs::remove_file(dir.join("10.123.0.5")).expect("released by the other");
        std::fs::File::create(dir.join("10.123.0.9"))
            .expect("file")
            .write_all(format!("{}\r\neth0", b.request.pod).as_bytes())
            .expect("write");
        node.remove(&b);
        node.remove(&a);
        assert_eq!(files_that_are_addresses(&dir), ["10.123.0.4"]);
        rtnl::delete_link(&mut Session::open(Subsystem::Route).expect("netlink"), "cni0").expect("delete");
        node.end();
    });
}

#[test]
fn a_range_is_given_round_and_round_until_it_is_empty() {
    on_a_fresh_host(|| {
        let scratch = Scratch::new();
        let data = scratch.dir("data");
        let small = json!({"cniVersion": "1.1.0", "name": "small", "plugins": [
            {"type": "bridge", "bridge": "cni0", "isDefaultGateway": true,
             "ipam": {"type": "host-local", "dataDir": data, "subnet": "10.9.0.0/29", "rangeStart": "10.9.0.3"}}]});
        let node = Node::in_scratch(scratch, &[("10-small.conflist", small)]);
        let pods: Vec<Pod> = (0..4).map(|n| node.pod(n)).collect();
        let ips: Vec<String> = pods.iter().map(|pod| pod.ip().to_string()).collect();
        assert_eq!(ips, ["10.9.0.3", "10.9.0.4", "10.9.0.5", "10.9.0.6"]);
        let request = node.request(9, Vec::new());
        let error = wait(node.network.attach(&request)).expect_err("full");
        assert!(chain(&error).contains("no address is left in 10.9.0.3-10.9.0.6"), "{}", chain(&error));
        node.pins.drop_pod(&request.pod).expect("drop");
        let server = serve(&pods[0].request, 80, 1);
        let route: Value = serde_json::from_str(&pods[1].attached.result).expect("result");
        assert_eq!(route["routes"], json!([{"dst": "0.0.0.0/0", "gw": "10.9.0.1"}]), "isDefaultGateway");
        ask_from(&pods[1].request, (pods[0].ip(), 80)).expect("reached");
        server.join().expect("server");
        node.remove(&pods[2]);
        assert_eq!(node.pod(5).ip().to_string(), "10.9.0.5", "the one that came free");
        for pod in [&pods[0], &pods[1], &pods[3]] {
            node.remove(pod);
        }
        wait(node.network.gc(&[])).expect("the last by collecting");
        node.pins.drop_pod(&pod_id(5)).expect("drop");
        assert_eq!(files_that_are_addresses(&data.join("small")), Vec::<String>::new());
        rtnl::delete_link(&mut Session::open(Subsystem::Route).expect("netlink"), "cni0").expect("delete");
        node.end();
    });
}

#[test]
fn a_bridge_with_another_address_of_the_network_is_refused() {
    on_a_fresh_host(|| {
        let scratch = Scratch::new();
        let data = scratch.dir("data");
        let node = Node::in_scratch(scratch, &[("10-dual.conflist", dual(&data))]);
        let mut session = Session::open(Subsystem::Route).expect("netlink");
        rtnl::add_bridge(&mut session, "cni0", [2, 0, 0, 0, 0, 1], None, None).expect("bridge");
        let bridge = rtnl::link(&mut session, "cni0").expect("link").expect("there");
        let other = rtnl::Address { link: bridge.index, net: "10.123.0.77/24".parse().expect("cidr") };
        session.ask(rtnl::add_address(other, false)).expect("address");
        let request = node.request(1, Vec::new());
        let error = wait(node.network.attach(&request)).expect_err("another address");
        assert!(chain(&error).contains("10.123.0.77/24"), "{}", chain(&error));
        let left = rtnl::addresses(&mut session).expect("addresses");
        assert!(!left.iter().any(|a| a.net.ip().to_string() == "10.123.0.1"), "its own is taken back");
        assert_eq!(files_that_are_addresses(&data.join("dual")), Vec::<String>::new());
        node.pins.drop_pod(&request.pod).expect("drop");
        rtnl::delete_link(&mut session, "cni0").expect("delete");
        node.end();
    });
}

#[test]
fn a_link_that_is_no_bridge_is_not_taken_for_one() {
    on_a_fresh_host(|| {
        let scratch = Scratch::new();
        let data = scratch.dir("data");
        let mut conf = dual(&data);
        conf["plugins"][1]["bridge"] = "lo".into();
        let node = Node::in_scratch(scratch, &[("10-dual.conflist", conf)]);
        let request = node.request(1, Vec::new());
        let error = wait(node.network.attach(&request)).expect_err("lo");
        assert!(chain(&error).contains("is not a bridge"), "{}", chain(&error));
        node.pins.drop_pod(&request.pod).expect("drop");
        node.end();
    });
}

#[test]
fn isolated_ports_do_not_reach_each_other_but_the_host() {
    on_a_fresh_host(|| {
        let scratch = Scratch::new();
        let data = scratch.dir("data");
        let mut conf = dual(&data);
        conf["plugins"][1]["portIsolation"] = true.into();
        let node = Node::in_scratch(scratch, &[("10-dual.conflist", conf)]);
        let (a, b) = (node.pod(1), node.pod(2));
        let server = serve(&a.request, 80, 1);
        let to = SocketAddr::from((a.ip(), 80));
        let from_b =
            in_pod(&b.request, move || TcpStream::connect_timeout(&to, Duration::from_millis(300)).is_ok());
        assert!(!from_b, "b reached a");
        ask(to).expect("the host does");
        server.join().expect("server");
        node.remove(&a);
        node.remove(&b);
        rtnl::delete_link(&mut Session::open(Subsystem::Route).expect("netlink"), "cni0").expect("delete");
        node.end();
    });
}

#[test]
fn a_job_that_panics_does_not_take_the_network_with_it() {
    on_a_fresh_host(|| {
        let node = Node::with(&[]);
        let died =
            wait(node.network.worker.run(|_| -> Result<(), crate::BuiltinError> { panic!("on purpose") }));
        assert!(matches!(died, Err(crate::WorkerError::Died)));
        let pod = node.pod(1);
        node.remove(&pod);
        node.end();
    });
}
