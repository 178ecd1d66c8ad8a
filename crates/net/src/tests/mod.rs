//! Tests on hosts that are network namespaces of their own: nothing of the machine is touched.

mod faults;
mod foreign;
mod lifecycle;
mod namespaces;
mod ports;

use crate::{
    AttachRequest, Attached, Fallback, Network, NetworkOptions,
    netns::{NsRequest, Pins},
    rtnl,
    session::Session,
    worker::inside,
};
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};
use sys::{
    netlink::Subsystem,
    rustix::{
        mount::{self, MountPropagationFlags, mount_change},
        thread::UnshareFlags,
    },
};
use types::{
    PodId,
    pod::{PortMapping, Protocol},
};

/// Long enough for a machine under load; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory of this test's own.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("peapod-test-net-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).expect("scratch directory");
        Self(path)
    }

    fn dir(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::create_dir_all(&path).expect("directory");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The pins of the failed test are still mounted; its mounts end with its thread.
            let _ = mount::unmount(self.0.join("state/ns"), mount::UnmountFlags::DETACH);
        }
        let removed = sys::tree::remove_path(&self.0);
        assert!(std::thread::panicking() || removed.is_ok(), "{removed:?}");
    }
}

/// Runs a test on a thread whose network and mounts are its own.
fn on_a_fresh_host(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        sys::namespace::unshare(UnshareFlags::NEWNET | UnshareFlags::NEWNS).expect("unshare");
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).expect("private");
        rtnl::loopback_up(&mut Session::open(Subsystem::Route).expect("netlink")).expect("lo");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime").block_on(future)
}

fn pod_id(n: u32) -> PodId {
    PodId::parse(&format!("{n:08x}{}", "0123456789abcdef".repeat(4)[8..].to_owned())).expect("id")
}

/// A daemon's network with what belongs to it.
struct Node {
    network: Network,
    pins: Pins,
    scratch: Scratch,
    /// Addresses and mounts before there was anything.
    mounts: usize,
}

/// A pod that is attached.
struct Pod {
    request: AttachRequest,
    attached: Attached,
}

impl Pod {
    fn ip(&self) -> IpAddr {
        self.attached.ips[0]
    }
}

fn mount_count() -> usize {
    std::fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo").lines().count()
}

impl Node {
    /// With these CNI files; the fallback's bridge where there is none.
    fn with(files: &[(&str, Value)]) -> Self {
        Self::in_scratch(Scratch::new(), files)
    }

    fn in_scratch(scratch: Scratch, files: &[(&str, Value)]) -> Self {
        let mounts = mount_count();
        let conf_dir = scratch.dir("conf");
        for (name, value) in files {
            std::fs::File::create(conf_dir.join(name))
                .expect("file")
                .write_all(value.to_string().as_bytes())
                .expect("conf");
        }
        let options = NetworkOptions {
            conf_dir,
            bin_dir: scratch.dir("bin"),
            fallback: Fallback::Bridge,
            root: scratch.dir("root"),
            state: scratch.dir("state"),
            call_deadline: PATIENCE,
        };
        let pins = Pins::mount(&options.state).expect("pins");
        let network = Network::load(options).expect("network");
        Self { network, pins, scratch, mounts }
    }

    fn request(&self, n: u32, ports: Vec<PortMapping>) -> AttachRequest {
        let pod = pod_id(n);
        let own = NsRequest { net: true, ..NsRequest::default() };
        let namespaces = wait(self.pins.make(&pod, own)).expect("namespaces");
        AttachRequest {
            netns: namespaces.net.expect("net"),
            name: format!("pod-{n}"),
            namespace: "default".to_owned(),
            uid: format!("uid-{n}"),
            conflist: wait(self.network.plan()).expect("plan"),
            port_mappings: ports,
            pod,
        }
    }

    fn attach(&self, request: AttachRequest) -> Pod {
        let attached = wait(self.network.attach(&request)).unwrap_or_else(|e| panic!("{}", chain(&e)));
        Pod { request, attached }
    }

    fn pod(&self, n: u32) -> Pod {
        self.attach(self.request(n, Vec::new()))
    }

    fn remove(&self, pod: &Pod) {
        wait(self.network.detach(&pod.request, Some(&pod.attached.result))).expect("detach");
        self.pins.drop_pod(&pod.request.pod).expect("drop");
    }

    /// The address files that are there.
    fn leases(&self) -> Vec<String> {
        let dir = self
            .scratch
            .0
            .join("root/network")
            .join(crate::fallback::Names::of(&self.scratch.0.join("root")).network());
        files_that_are_addresses(&dir)
    }

    /// Everything is gone once the daemon leaves the machine.
    fn end(self) {
        assert_eq!(self.leases(), Vec::<String>::new(), "addresses are left");
        wait(self.network.remove()).expect("remove");
        self.pins.unmount().expect("unmount");
        assert_eq!(mount_count(), self.mounts, "mounts are left");
        let mut session = Session::open(Subsystem::Route).expect("netlink");
        until("the links are gone", || {
            rtnl::links(&mut session)
                .expect("links")
                .iter()
                .all(|link| link.kind != "veth" && link.kind != "bridge")
        });
        assert_eq!(chains(), Vec::<(String, String)>::new(), "nf_tables are left");
    }
}

fn files_that_are_addresses(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let names = entries.map(|entry| entry.expect("entry").file_name().into_string().expect("text"));
    let mut found: Vec<String> = names.filter(|name| name.parse::<IpAddr>().is_ok()).collect();
    found.sort();
    found
}

/// Every nf_tables chain of this network namespace.
fn chains() -> Vec<(String, String)> {
    let mut session = Session::open(Subsystem::Netfilter).expect("netlink");
    session.dump(crate::nft::list_chains()).expect("chains").iter().filter_map(crate::nft::chain_of).collect()
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// Polls what only the kernel's own time brings about.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let (_keep, never) = std::sync::mpsc::channel::<()>();
    for _ in 0..3000 {
        if is_so() {
            return;
        }
        let _ = never.recv_timeout(Duration::from_millis(10));
    }
    panic!("never: {what}");
}

/// Runs on a thread in the pod's network namespace.
fn in_pod<T: Send + 'static>(pod: &AttachRequest, work: impl FnOnce() -> T + Send + 'static) -> T {
    in_namespace(&pod.netns, work)
}

fn in_namespace<T: Send + 'static>(netns: &Path, work: impl FnOnce() -> T + Send + 'static) -> T {
    let netns = crate::netns::open_netns(netns).expect("netns");
    let thread = std::thread::spawn(move || inside(&netns, work).expect("inside"));
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A server in the pod that tells each of `clients` callers the address it sees them by.
fn serve(pod: &AttachRequest, port: u16, clients: usize) -> std::thread::JoinHandle<()> {
    let any: SocketAddr = format!("[::]:{port}").parse().expect("address");
    let v4: SocketAddr = format!("0.0.0.0:{port}").parse().expect("address");
    let listener =
        in_pod(pod, move || TcpListener::bind(any).or_else(|_| TcpListener::bind(v4)).expect("listen"));
    std::thread::spawn(move || {
        for _ in 0..clients {
            let (mut client, peer) = listener.accept().expect("accept");
            client.write_all(peer.ip().to_canonical().to_string().as_bytes()).expect("write");
        }
    })
}

/// What [`serve`] tells somebody who calls from the current namespace.
fn ask(to: impl Into<SocketAddr>) -> Result<String, std::io::Error> {
    let mut stream = TcpStream::connect_timeout(&to.into(), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}

fn ask_from(pod: &AttachRequest, to: impl Into<SocketAddr>) -> Result<String, std::io::Error> {
    let to = to.into();
    in_pod(pod, move || ask(to))
}

fn port(host: u16, pod: u16) -> PortMapping {
    PortMapping { protocol: Protocol::Tcp, container_port: pod, host_port: host, host_ip: None }
}

/// A usual file: bridge with both families, and host ports.
fn dual(data_dir: &Path) -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "dual",
        "plugins": [
            {"type": "loopback"},
            {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
             "ipam": {"type": "host-local", "dataDir": data_dir,
                      "ranges": [[{"subnet": "10.123.0.0/24"}], [{"subnet": "fd00:123::/64"}]],
                      "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
            {"type": "portmap", "capabilities": {"portMappings": true}}
        ]
    })
}
