//! Pins: what is made, what is refused, what a crash leaves.

use super::*;
use crate::{netns::NetnsError, sysctl::SysctlError};
use std::collections::BTreeMap;
use sys::rustix::system::uname;

fn sysctls(all: &[(&str, &str)]) -> BTreeMap<String, String> {
    all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn whole(hostname: &str, set: &[(&str, &str)]) -> NsRequest {
    NsRequest {
        net: true,
        ipc: true,
        uts: true,
        hostname: hostname.to_owned(),
        sysctls: sysctls(set),
        user: None,
    }
}

/// Pins alone, on a host of their own.
fn with_pins(test: impl FnOnce(&Pins, &Scratch) + Send + 'static) {
    on_a_fresh_host(|| {
        let scratch = Scratch::new();
        let before = mount_count();
        let pins = Pins::mount(&scratch.0).expect("mount");
        test(&pins, &scratch);
        pins.unmount().expect("unmount");
        assert_eq!(mount_count(), before, "mounts are left");
    });
}

fn read_in(netns: &Path, sysctl: &str) -> String {
    let path = format!("/proc/sys/{}", sysctl.replace('.', "/"));
    in_namespace(netns, move || {
        std::fs::read_to_string(path).expect("sysctl").split_whitespace().collect::<Vec<_>>().join(" ")
    })
}

#[test]
fn a_pods_namespaces_have_their_name_their_sysctls_and_a_loopback() {
    with_pins(|pins, _| {
        let set =
            [("net.core.somaxconn", "77"), ("kernel.shm_rmid_forced", "1"), ("fs.mqueue.msg_max", "11")];
        let made = wait(pins.make(&pod_id(1), whole("pod-1", &set))).expect("make");
        let net = made.net.clone().expect("net");
        assert_eq!(read_in(&net, "net.core.somaxconn"), "77");
        assert_eq!(read_in(&net, "net.ipv4.ip_unprivileged_port_start"), "0", "as containerd has it");
        assert_eq!(read_in(&net, "net.ipv4.ping_group_range"), "0 2147483647");
        in_namespace(&net, || drop(TcpListener::bind("127.0.0.1:0").expect("the loopback is up")));
        let (ipc, uts) = (made.ipc.clone().expect("ipc"), made.uts.clone().expect("uts"));
        let seen = std::thread::spawn(move || {
            let join = |path: &Path, kind| {
                sys::namespace::join(std::fs::File::open(path).expect("pin"), kind).expect("join");
            };
            join(&ipc, sys::rustix::thread::LinkNameSpaceType::InterProcessCommunication);
            join(&uts, sys::rustix::thread::LinkNameSpaceType::HostNameAndNISDomainName);
            let read = |path: &str| std::fs::read_to_string(path).expect("sysctl");
            let name = uname().nodename().to_string_lossy().into_owned();
            (name, read("/proc/sys/kernel/shm_rmid_forced"), read("/proc/sys/fs/mqueue/msg_max"))
        });
        let seen = seen.join().expect("thread");
        assert_eq!(seen, ("pod-1".to_owned(), "1\n".to_owned(), "11\n".to_owned()));
        assert_ne!(uname().nodename().to_string_lossy(), "pod-1", "the host keeps its name");
        assert_eq!(pins.find(&pod_id(1)).expect("find"), made);
        pins.drop_pod(&pod_id(1)).expect("drop");
        pins.drop_pod(&pod_id(1)).expect("drop again");
        assert_eq!(pins.find(&pod_id(1)).expect("find"), crate::netns::PodNamespaces::default());
    });
}

#[test]
fn a_user_namespace_owns_the_others_and_all_are_set_as_without_one() {
    with_pins(|pins, scratch| {
        let mapping = types::pod::UserMapping { first_uid: 100_000, first_gid: 200_000, length: 65_536 };
        let set = [("net.ipv4.ip_forward", "1"), ("kernel.shm_rmid_forced", "1")];
        let request = NsRequest { user: Some(mapping), ..whole("pod-1", &set) };
        let made = wait(pins.make(&pod_id(1), request)).expect("make");
        let net = made.net.clone().expect("net");
        assert_eq!(read_in(&net, "net.ipv4.ip_forward"), "1");
        in_namespace(&net, || drop(TcpListener::bind("127.0.0.1:0").expect("the loopback is up")));
        let user = made.user.clone().expect("user");
        let inode = |file: std::fs::File| {
            use std::os::unix::fs::MetadataExt as _;
            file.metadata().expect("stat").ino()
        };
        let open = |path: &Path| std::fs::File::open(path).expect("pin");
        for other in [&made.net, &made.ipc, &made.uts] {
            let owner = sys::namespace::owner(open(other.as_deref().expect("pinned"))).expect("owner");
            assert_eq!(inode(owner.into()), inode(open(&user)), "{other:?}");
        }
        // A pod in the node's network has the user namespace all the same.
        let alone = NsRequest { user: Some(mapping), ..NsRequest::default() };
        let alone = wait(pins.make(&pod_id(2), alone)).expect("make");
        assert!(alone.user.is_some() && alone.net.is_none() && alone.uts.is_none());
        // Of one that cannot be nothing is left.
        let beyond = types::pod::UserMapping { first_uid: u32::MAX - 1, first_gid: 0, length: 10 };
        let refused = NsRequest { user: Some(beyond), ..NsRequest::default() };
        wait(pins.make(&pod_id(3), refused)).expect_err("no such ids");
        assert!(!scratch.0.join("ns").join(pod_id(3).short()).is_dir());
        for number in [1, 2] {
            assert!(pins.find(&pod_id(number)).expect("find").user.is_some());
            pins.drop_pod(&pod_id(number)).expect("drop");
            assert_eq!(pins.find(&pod_id(number)).expect("find"), crate::netns::PodNamespaces::default());
        }
    });
}

#[test]
fn the_pods_own_value_stands_before_a_default() {
    with_pins(|pins, _| {
        let set = [("net.ipv4.ip_unprivileged_port_start", "1000")];
        let made = wait(pins.make(&pod_id(1), whole("", &set))).expect("make");
        assert_eq!(read_in(&made.net.expect("net"), "net.ipv4.ip_unprivileged_port_start"), "1000");
        pins.drop_pod(&pod_id(1)).expect("drop");
    });
}

#[test]
fn only_what_is_asked_for_is_made() {
    with_pins(|pins, _| {
        let made =
            wait(pins.make(&pod_id(1), NsRequest { ipc: true, ..NsRequest::default() })).expect("make");
        assert!(made.net.is_none() && made.uts.is_none() && made.ipc.is_some());
        pins.drop_pod(&pod_id(1)).expect("drop");
        let none = wait(pins.make(&pod_id(2), NsRequest::default())).expect("make");
        assert_eq!(none, crate::netns::PodNamespaces::default());
    });
}

#[test]
fn a_refused_request_leaves_no_pin_and_no_host_sysctl() {
    with_pins(|pins, scratch| {
        let before = std::fs::read_to_string("/proc/sys/kernel/core_pattern").expect("read");
        for (set, bad) in [
            (("kernel.core_pattern", "|/x"), true),
            (("net.core.somaxconn", "1\nkernel.core_pattern=|/x"), true),
            (("net.ipv4.conf.eth0/../../../kernel/core_pattern", "x"), true),
            (("net.no.such.key", "1"), true),
            (("net.core.somaxconn", "+kernel.core_pattern=|/x"), true),
        ] {
            let error = wait(pins.make(&pod_id(1), whole("h", &[set]))).expect_err(set.0);
            let NetnsError::Sysctl(error) = error else { panic!("{error}") };
            assert_eq!(error.is_bad_input(), bad, "{error}");
            assert!(scratch.0.join("ns").read_dir().expect("ns").next().is_none(), "a pin is left");
        }
        assert_eq!(std::fs::read_to_string("/proc/sys/kernel/core_pattern").expect("read"), before);
        let long = wait(pins.make(&pod_id(1), whole(&"h".repeat(65), &[]))).expect_err("long");
        assert!(matches!(long, NetnsError::Hostname(65)));
        let host_net =
            NsRequest { ipc: true, sysctls: sysctls(&[("net.core.somaxconn", "1")]), ..NsRequest::default() };
        let error = wait(pins.make(&pod_id(1), host_net)).expect_err("host network");
        assert!(matches!(error, NetnsError::Sysctl(SysctlError::HostNamespace { .. })));
    });
}

#[test]
fn what_a_crash_left_is_replaced_and_what_is_no_namespace_is_an_error() {
    with_pins(|pins, scratch| {
        let dir = scratch.0.join("ns").join(pod_id(1).short());
        std::fs::create_dir(&dir).expect("dir");
        std::fs::File::create(dir.join("net")).expect("half-made pin");
        assert!(matches!(pins.find(&pod_id(1)), Err(NetnsError::NotPinned(_))));
        let first = wait(pins.make(&pod_id(1), whole("a", &[]))).expect("replaced");
        let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).expect("pin"));
        let net = first.net.expect("net");
        let before = inode(&net);
        // The daemon dies behind the pins and makes them again.
        let hold = std::fs::File::open(&net).expect("so that its number is not given again");
        wait(pins.make(&pod_id(1), whole("a", &[]))).expect("again");
        assert_ne!(inode(&net), before, "a new namespace");
        drop(hold);
        // The next daemon finds mount and pins.
        let next = Pins::mount(&scratch.0).expect("mounted already");
        assert!(next.find(&pod_id(1)).expect("find").net.is_some());
        assert_eq!(next.gc(&[pod_id(1)]).expect("gc"), 0);
        assert_eq!(next.gc(&[]).expect("gc"), 1);
    });
}

#[test]
fn the_place_of_the_pins_is_unbindable_and_private() {
    with_pins(|_, scratch| {
        let info = std::fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo");
        let place = scratch.0.join("ns").display().to_string();
        let lines: Vec<&str> = info.lines().filter(|line| line.split(' ').nth(4) == Some(&place)).collect();
        assert_eq!(lines.len(), 1);
        assert!(lines[0].contains(" unbindable ") && !lines[0].contains("shared:"), "{}", lines[0]);
    });
}

#[test]
fn sysctls_of_the_interface_are_written_once_it_is_there() {
    on_a_fresh_host(|| {
        let node = Node::with(&[]);
        let pod = node.pod(1);
        let set = sysctls(&[("net.ipv4.conf.eth0.arp_notify", "1"), ("net.core.somaxconn", "5")]);
        wait(node.pins.write_late_sysctls(&pod.request.pod, set)).expect("late");
        assert_eq!(read_in(&pod.request.netns, "net.ipv4.conf.eth0.arp_notify"), "1");
        assert_ne!(read_in(&pod.request.netns, "net.core.somaxconn"), "5", "that one is written early");
        node.remove(&pod);
        node.end();
    });
}
