//! Plugins that are programs: what they get, and what happens when they misbehave.

use super::*;
use crate::{
    NetworkError, Status,
    plugin::{PluginError, Verb},
};

/// Says that it speaks every version; for ADD it gives one address; it notes each call.
const GOOD: &str = r#"#!/bin/sh
conf=$(cat)
printf '%s\n' "$CNI_COMMAND" >>"$dir/calls"
env | sort >"$dir/env.$CNI_COMMAND"
printf '%s' "$conf" >"$dir/stdin.$CNI_COMMAND"
case $CNI_COMMAND in
VERSION) echo '{"cniVersion":"1.1.0","supportedVersions":["0.4.0","1.0.0","1.1.0"]}' ;;
ADD) echo '{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","mac":"02:00:00:00:00:01","sandbox":"'"$CNI_NETNS"'"}],"ips":[{"interface":0,"address":"10.7.0.2/24","gateway":"10.7.0.1"}],"own":{"kept":true}}' ;;
esac
"#;

fn program(node: &Node, name: &str, text: &str) {
    let path = node.scratch.0.join("bin").join(name);
    let text = text.replace("$dir", &node.scratch.0.display().to_string());
    // Written by another process: had this one the file open while a test beside it forks, the kernel
    // would call it busy.
    let mut shell = std::process::Command::new("sh")
        .args(["-c", "cat >\"$0\" && chmod 755 \"$0\""])
        .arg(&path)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("sh");
    shell.stdin.take().expect("stdin").write_all(text.as_bytes()).expect("write");
    assert!(shell.wait().expect("sh").success());
}

fn list(version: &str, plugins: Value) -> Value {
    json!({"cniVersion": version, "name": "foreign", "plugins": plugins})
}

fn node(version: &str, plugins: Value, script: &str) -> Node {
    let node = Node::with(&[("10-foreign.conflist", list(version, plugins))]);
    program(&node, "own", script);
    node
}

fn one() -> Value {
    json!([{"type": "own", "capabilities": {"portMappings": true}, "key": [1, 2]}])
}

fn noted(node: &Node, name: &str) -> String {
    std::fs::read_to_string(node.scratch.0.join(name)).unwrap_or_default()
}

fn noted_json(node: &Node, name: &str) -> Value {
    serde_json::from_str(&noted(node, name)).expect("JSON")
}

fn failure(error: &NetworkError) -> &PluginError {
    let NetworkError::Plugin { source, .. } = error else { panic!("{}", chain(error)) };
    source
}

#[test]
fn a_program_gets_what_the_specification_says_and_nothing_else() {
    on_a_fresh_host(|| {
        let node = node("1.1.0", one(), GOOD);
        assert_eq!(wait(node.network.status()), Status::Ready { network: "foreign".to_owned() });
        let pod = node.attach(
            node.request(1, vec![PortMapping { host_ip: Some([127, 0, 0, 1].into()), ..port(8080, 80) }]),
        );
        assert_eq!(pod.ip().to_string(), "10.7.0.2");
        wait(node.network.check(&pod.request, &pod.attached.result)).expect("CHECK");
        wait(node.network.gc(std::slice::from_ref(&pod.request.pod))).expect("GC");
        node.remove(&pod);
        assert_eq!(noted(&node, "calls"), "VERSION\nSTATUS\nADD\nCHECK\nGC\nDEL\n");

        let bin = node.scratch.0.join("bin");
        let expected = format!(
            "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod-1;K8S_POD_INFRA_CONTAINER_ID={id};K8S_POD_UID=uid-1\n\
             CNI_COMMAND=ADD\nCNI_CONTAINERID={id}\nCNI_IFNAME=eth0\nCNI_NETNS={}\nCNI_PATH={}\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nPWD=/\n",
            pod.request.netns.display(),
            bin.display(),
            id = pod.request.pod,
        );
        // PWD is the shell's own.
        assert_eq!(noted(&node, "env.ADD"), expected);

        let mapping = json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1"}]});
        let base = json!({"cniVersion": "1.1.0", "name": "foreign", "type": "own", "key": [1, 2], "runtimeConfig": mapping});
        assert_eq!(noted_json(&node, "stdin.ADD"), base);
        let mut with_result = base.clone();
        with_result["prevResult"] = serde_json::from_str(&pod.attached.result).expect("JSON");
        assert_eq!(with_result["prevResult"]["own"]["kept"], json!(true), "its own keys are handed on");
        assert_eq!(noted_json(&node, "stdin.DEL"), with_result);
        assert_eq!(noted_json(&node, "stdin.CHECK"), with_result);
        let valid = &noted_json(&node, "stdin.GC")["cni.dev/valid-attachments"];
        assert_eq!(*valid, json!([{"containerID": pod.request.pod.as_str(), "ifname": "eth0"}]));
        node.end();
    });
}

#[test]
fn a_chain_hands_each_result_on_and_is_undone_backwards() {
    on_a_fresh_host(|| {
        let plugins = json!([{"type": "own", "n": 1}, {"type": "second", "n": 2}]);
        let node = node("1.0.0", plugins, GOOD);
        let second = GOOD
            .replace("\"$CNI_COMMAND\" >>", "\"second $CNI_COMMAND\" >>")
            .replace("$dir/stdin.", "$dir/second.");
        program(&node, "second", &second);
        let pod = node.pod(1);
        assert_eq!(noted_json(&node, "second.ADD")["prevResult"]["ips"][0]["address"], json!("10.7.0.2/24"));
        node.remove(&pod);
        assert_eq!(noted(&node, "calls"), "ADD\nsecond ADD\nsecond DEL\nDEL\n");
        node.end();
    });
}

#[test]
fn an_error_object_is_told_and_all_are_asked_to_undo() {
    on_a_fresh_host(|| {
        let plugins = json!([{"type": "own"}, {"type": "bad"}]);
        let node = node("1.0.0", plugins, GOOD);
        program(
            &node,
            "bad",
            "#!/bin/sh\necho \"bad $CNI_COMMAND\" >>\"$dir/calls\"\n[ $CNI_COMMAND = DEL ] && exit 0\necho '{\"cniVersion\":\"1.0.0\",\"code\":11,\"msg\":\"try later\",\"details\":\"busy\"}'\nexit 1\n",
        );
        let request = node.request(1, Vec::new());
        let error = wait(node.network.attach(&request)).expect_err("bad");
        assert!(
            matches!(failure(&error), PluginError::Answered { code: 11, message, details } if message == "try later" && details == "busy")
        );
        assert!(chain(&error).contains("network plugin bad, ADD"), "{}", chain(&error));
        assert_eq!(noted(&node, "calls"), "ADD\nbad ADD\nbad DEL\nDEL\n");
        node.pins.drop_pod(&request.pod).expect("drop");
        node.end();
    });
}

#[test]
fn a_program_that_hangs_is_killed_with_all_its_children() {
    on_a_fresh_host(|| {
        let mut node = node(
            "1.0.0",
            one(),
            "#!/bin/sh\ntrap '' TERM\nsleep 1000 &\necho $! >\"$dir/child\"\nwait\nsleep 1000\n",
        );
        let request = node.request(1, Vec::new());
        let options =
            crate::NetworkOptions { call_deadline: Duration::from_secs(2), ..node.network.options.clone() };
        node.network = Network::load(options).expect("network");
        let error = wait(node.network.attach(&request)).expect_err("hangs");
        assert!(matches!(failure(&error), PluginError::Deadline(_)), "{}", chain(&error));
        let child: i32 = noted(&node, "child").trim().parse().expect("pid");
        until("the child is gone", || {
            // A zombie that nobody has reaped yet runs no more either.
            let state = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            state.is_empty() || state.contains(") Z ")
        });
        node.pins.drop_pod(&request.pod).expect("drop");
        node.end();
    });
}

#[test]
fn output_without_end_is_cut_and_garbage_is_no_result() {
    on_a_fresh_host(|| {
        let node = node("1.0.0", one(), "#!/bin/sh\nyes\n");
        let request = node.request(1, Vec::new());
        let error = wait(node.network.attach(&request)).expect_err("endless");
        assert!(matches!(failure(&error), PluginError::TooMuchOutput), "{}", chain(&error));
        for garbage in ["", "no JSON", "[]", r#"{"ips":[{"address":"1.2.3.4/99"}]}"#] {
            program(&node, "own", &format!("#!/bin/sh\necho '{garbage}'\n"));
            let error = wait(node.network.attach(&request)).expect_err("garbage");
            assert!(matches!(failure(&error), PluginError::NotJson(_)), "{garbage}: {}", chain(&error));
        }
        program(&node, "own", "#!/bin/sh\necho '{\"cniVersion\":\"1.0.0\"}'\n");
        let error = wait(node.network.attach(&request)).expect_err("no address");
        assert!(matches!(error, NetworkError::NoAddress(_)), "{}", chain(&error));
        program(&node, "own", "#!/bin/sh\nyes | head -c 300000 >&2\necho broken >&2\nexit 3\n");
        let error = wait(node.network.attach(&request)).expect_err("exit 3");
        assert!(
            matches!(failure(&error), PluginError::Failed { status, .. } if status.code() == Some(3)),
            "{}",
            chain(&error)
        );
        node.pins.drop_pod(&request.pod).expect("drop");
        node.end();
    });
}

#[test]
fn a_program_that_is_missing_makes_the_network_not_ready() {
    on_a_fresh_host(|| {
        let node = Node::with(&[("10-foreign.conflist", list("1.0.0", json!([{"type": "absent"}])))]);
        match wait(node.network.status()) {
            Status::NotReady { reason, .. } => assert!(reason.contains("no program `absent`"), "{reason}"),
            Status::Ready { .. } => panic!("ready"),
        }
        program(&node, "absent", &GOOD.replace("\"1.0.0\",", ""));
        match wait(node.network.status()) {
            Status::NotReady { reason, .. } => {
                assert!(reason.contains("does not speak version 1.0.0"), "{reason}")
            }
            Status::Ready { .. } => panic!("ready"),
        }
        node.end();
    });
}

#[test]
fn one_status_that_fails_among_good_ones_changes_nothing() {
    on_a_fresh_host(|| {
        let flaky = GOOD.replace("case $CNI_COMMAND in", "if [ $CNI_COMMAND = STATUS ] && ! [ -e \"$dir/failed\" ]; then touch \"$dir/failed\"; exit 1; fi\ncase $CNI_COMMAND in");
        let node = node("1.1.0", one(), &flaky);
        assert_eq!(wait(node.network.status()), Status::Ready { network: "foreign".to_owned() });
        assert!(node.scratch.0.join("failed").is_file(), "it did fail once");
        program(
            &node,
            "own",
            &GOOD
                .replace("case $CNI_COMMAND in", "[ $CNI_COMMAND = STATUS ] && exit 1\ncase $CNI_COMMAND in"),
        );
        assert!(matches!(wait(node.network.status()), Status::NotReady { .. }));
        node.end();
    });
}

#[test]
fn a_bridge_takes_addresses_from_a_program_too() {
    on_a_fresh_host(|| {
        let plugins = json!([{"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "ipam": {"type": "own", "k": 1}}]);
        let node = node("1.0.0", plugins, &GOOD.replace("\"interface\":0,", ""));
        let pod = node.pod(1);
        assert_eq!(pod.ip().to_string(), "10.7.0.2");
        assert_eq!(
            noted_json(&node, "stdin.ADD")["ipam"]["k"],
            json!(1),
            "the whole configuration of the bridge"
        );
        let server = serve(&pod.request, 80, 1);
        ask(SocketAddr::from((pod.ip(), 80))).expect("the host reaches it");
        server.join().expect("server");
        node.remove(&pod);
        assert_eq!(noted(&node, "calls"), "ADD\nDEL\n");
        rtnl::delete_link(&mut Session::open(Subsystem::Route).expect("netlink"), "cni0").expect("delete");
        node.end();
    });
}

#[test]
fn to_undo_the_namespace_need_not_be_there() {
    on_a_fresh_host(|| {
        let node = node("1.0.0", one(), GOOD);
        let pod = node.pod(1);
        node.pins.drop_pod(&pod.request.pod).expect("drop");
        wait(node.network.detach(&pod.request, None)).expect("detach");
        assert!(noted(&node, "env.DEL").contains("CNI_NETNS=\n"), "empty, as the specification has it");
        assert!(noted_json(&node, "stdin.DEL").get("prevResult").is_none());
        node.end();
    });
}

#[test]
fn names_that_would_forge_arguments_are_refused() {
    on_a_fresh_host(|| {
        let node = node("1.0.0", one(), GOOD);
        let mut request = node.request(1, Vec::new());
        request.name = "a;K8S_POD_UID=other".to_owned();
        let error = wait(node.network.attach(&request)).expect_err("forged");
        assert!(
            matches!(&error, NetworkError::Request { field: "metadata.name", .. }) && error.is_bad_input()
        );
        assert_eq!(noted(&node, "calls"), "", "nobody was asked");
        node.pins.drop_pod(&request.pod).expect("drop");
        node.end();
    });
}

#[test]
fn the_first_valid_file_is_the_network_and_bad_ones_are_told() {
    on_a_fresh_host(|| {
        let node = Node::with(&[
            ("00-broken.conflist", json!("no object")),
            ("05-escape.conf", json!({"cniVersion": "1.0.0", "name": "escape", "type": "../../bin/sh"})),
            ("99-late.conflist", list("1.0.0", json!([{"type": "own"}]))),
            ("50-single.json", json!({"cniVersion": "1.0.0", "name": "single", "type": "own"})),
            ("01-ignored.txt", json!({"cniVersion": "1.0.0", "name": "ignored", "type": "own"})),
        ]);
        program(&node, "own", GOOD);
        assert_eq!(wait(node.network.status()), Status::Ready { network: "single".to_owned() });
        for name in ["50-single.json", "99-late.conflist"] {
            std::fs::remove_file(node.scratch.0.join("conf").join(name)).expect("remove");
        }
        match wait(node.network.status()) {
            Status::NotReady { reason, .. } => {
                assert!(
                    reason.contains("00-broken.conflist")
                        && reason.contains("05-escape.conf: plugins[0].type"),
                    "{reason}"
                );
            }
            Status::Ready { network } => panic!("{network}"),
        }
        node.end();
    });
}

#[test]
fn without_a_file_and_without_a_fallback_there_is_advice() {
    on_a_fresh_host(|| {
        let mut node = Node::with(&[]);
        let options = crate::NetworkOptions { fallback: Fallback::None, ..node.network.options.clone() };
        node.network = Network::load(options).expect("network");
        match wait(node.network.status()) {
            Status::NotReady { reason, advice } => {
                assert!(
                    reason.contains("no network configuration")
                        && advice.contains("--fallback-network bridge")
                );
            }
            Status::Ready { .. } => panic!("ready"),
        }
        assert!(matches!(wait(node.network.plan()), Err(NetworkError::NotReady { .. })));
        assert_eq!(Verb::Gc.text(), "GC");
        node.end();
    });
}
