//! Manifests that are taken and manifests that are refused.

use super::*;

/// A pod whose one container has these further lines, each indented by six.
fn container(lines: &str) -> String {
    let lines: String = lines.lines().map(|line| format!("      {line}\n")).collect();
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\nspec:\n  containers:\n    - name: c\n      image: i\n{lines}"
    )
}

/// A pod whose spec has these further lines, each indented by two.
fn spec(lines: &str) -> String {
    let lines: String = lines.lines().map(|line| format!("  {line}\n")).collect();
    container("") + &lines
}

/// A pod with these further top-level lines.
fn top(lines: &str) -> String {
    container("") + lines
}

fn refusal(text: &str) -> String {
    parse(text).expect_err(text).to_string()
}

#[test]
fn the_examples_manifest_is_taken_as_it_is() {
    let pod = parse(include_str!("../../../../../examples/app-with-sidecar/pod.yaml")).expect("taken");
    assert_eq!(
        (pod.name.as_str(), pod.namespace.as_str(), pod.hostname.as_str()),
        ("app-with-sidecar", "default", "app-with-sidecar")
    );
    assert_eq!((pod.restart, pod.grace, pod.host_network), (RestartPolicy::Always, 30, false));
    let [app, sidecar] = &pod.containers[..] else { panic!("two containers") };
    assert_eq!((app.name.as_str(), app.image.as_str(), app.kind), ("app", "myapp:latest", Kind::App));
    assert_eq!(app.ports[0].container_port, 8080);
    assert_eq!(app.pull, PullPolicy::IfNotPresent);
    assert_eq!(sidecar.mounts[0].mount_path, "/var/log/app");
    assert_eq!(pod.volumes[0].source, VolumeSource::EmptyDir);
}

#[test]
fn what_is_listed_is_read() {
    let text = "\
apiVersion: v1
kind: Pod
metadata:
  name: web.1
  namespace: apps
  uid: 0b6c1b6c-0000-4000-8000-000000000000
  creationTimestamp: null
  labels: {app: web}
  annotations: {example.com/Note: 'x y'}
spec:
  restartPolicy: OnFailure
  hostname: w
  dnsPolicy: None
  dnsConfig:
    nameservers: [192.0.2.53]
    searches: [example.com, _tcp.example.com.]
    options: [{name: ndots, value: '2'}, {name: edns0}]
  terminationGracePeriodSeconds: 5
  securityContext:
    runAsUser: 1000
    runAsGroup: 1001
    runAsNonRoot: true
    fsGroup: 2000
    supplementalGroups: [7, 8]
    supplementalGroupsPolicy: Strict
    sysctls: [{name: kernel/shm_rmid_forced, value: '1'}]
    seccompProfile: {type: Unconfined}
    appArmorProfile: {type: Unconfined}
  initContainers:
    - {name: first, image: i, command: [/init]}
    - {name: beside, image: i, restartPolicy: Always}
  containers:
    - name: c
      image: registry.example:5000/x@sha256:1
      imagePullPolicy: Always
      command: [/bin/x, $(A)]
      args: ['-v']
      env: [{name: A, value: a}, {name: EMPTY}]
      workingDir: /w
      terminationMessagePath: /tmp/why
      terminationMessagePolicy: File
      ports: [{name: dns, containerPort: 53, hostPort: 5353, protocol: UDP, hostIP: 127.0.0.1}]
      resources:
        requests: {cpu: 100m}
        limits: {cpu: 0.5, memory: 64Mi}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}
        seccompProfile: {type: RuntimeDefault}
        procMount: Default
      volumeMounts:
        - {name: m, mountPath: /m, readOnly: true}
        - {name: h, mountPath: /h, mountPropagation: HostToContainer}
  volumes:
    - {name: m, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
    - {name: h, hostPath: {path: /srv, type: Directory}}
    - {name: n}
status: {}
";
    let pod = parse(text).expect("taken");
    assert_eq!(pod.uid.as_deref(), Some("0b6c1b6c-0000-4000-8000-000000000000"));
    assert_eq!((pod.restart, pod.grace, pod.hostname.as_str()), (RestartPolicy::OnFailure, 5, "w"));
    assert!(pod.dns.own_only && pod.dns.options[1] == ("edns0".to_owned(), None));
    assert_eq!(pod.security.sysctls["kernel.shm_rmid_forced"], "1");
    assert_eq!(pod.security.groups_policy, Some(GroupsPolicy::Strict));
    assert_eq!(pod.security.fs_group, Some(2000));
    let kinds: Vec<Kind> = pod.containers.iter().map(|c| c.kind).collect();
    assert_eq!(kinds, [Kind::Init, Kind::Sidecar, Kind::App]);
    let c = &pod.containers[2];
    assert_eq!((c.resources.cpu_request, c.resources.cpu_limit), (Some(100), Some(500)));
    // A request that is not said is the limit.
    assert_eq!((c.resources.memory_request, c.resources.memory_limit), (Some(64 << 20), Some(64 << 20)));
    assert!(c.security.no_new_privs && c.security.read_only_root && !c.security.privileged);
    assert_eq!(c.security.seccomp, Some(Seccomp::RuntimeDefault));
    assert_eq!((c.ports[0].host_port, c.ports[0].protocol), (Some(5353), Protocol::Udp));
    assert_eq!(c.env[1], ("EMPTY".to_owned(), String::new()));
    assert_eq!(pod.volumes[0].source, VolumeSource::Memory { limit: Some(1 << 20) });
    assert_eq!(pod.volumes[2].source, VolumeSource::EmptyDir);
}

#[test]
fn values_that_ask_for_nothing_pass() {
    for text in [
        top("status: {}\n"),
        top("---\n"),
        spec(
            "hostPID: false\nhostIPC: false\nshareProcessNamespace: false\nautomountServiceAccountToken: false",
        ),
        spec(
            "hostUsers: true\nenableServiceLinks: true\nserviceAccountName: default\nschedulerName: default-scheduler",
        ),
        spec(
            "preemptionPolicy: PreemptLowerPriority\nnodeSelector: {}\ntolerations: []\naffinity: null\npriority:",
        ),
        spec(
            "os: {name: linux}\nsecurityContext: {}\nvolumes: []\ninitContainers: []\ndnsPolicy: ClusterFirst",
        ),
        container("tty: false\nstdin: false\nlivenessProbe: null\nenvFrom: []\nresources: {}"),
        container("securityContext: {seLinuxOptions: {}, privileged: false}\nterminationMessagePath: ''"),
        container("env: [{name: A, valueFrom: null}]"),
        "{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{\"name\":\"p\",\"creationTimestamp\":null},\
          \"spec\":{\"containers\":[{\"name\":\"c\",\"image\":\"i\"}]},\"status\":{}}"
            .to_owned(),
    ] {
        parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    }
}

#[test]
fn fields_that_would_change_something_are_refused_by_their_path() {
    let says = |path: &str| format!("{path} is not supported by peapod run");
    for (text, path) in [
        (container("livenessProbe: {exec: {command: [x]}}"), "spec.containers[0].livenessProbe"),
        (container("readinessProbe: {tcpSocket: {port: 1}}"), "spec.containers[0].readinessProbe"),
        (container("startupProbe: {tcpSocket: {port: 1}}"), "spec.containers[0].startupProbe"),
        (container("lifecycle: {stopSignal: SIGUSR1}"), "spec.containers[0].lifecycle"),
        (container("envFrom: [{configMapRef: {name: x}}]"), "spec.containers[0].envFrom"),
        (container("tty: true"), "spec.containers[0].tty"),
        (container("stdin: true"), "spec.containers[0].stdin"),
        (container("restartPolicy: Never"), "spec.containers[0].restartPolicy"),
        (container("volumeDevices: [{name: x}]"), "spec.containers[0].volumeDevices"),
        (
            container("env: [{name: A, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]"),
            "spec.containers[0].env[0].valueFrom",
        ),
        (
            container("resources: {limits: {ephemeral-storage: 1Gi}}"),
            "spec.containers[0].resources.limits.ephemeral-storage",
        ),
        (container("resources: {claims: [{name: x}]}"), "spec.containers[0].resources.claims"),
        (
            container("volumeMounts: [{name: v, mountPath: /v, subPath: x}]"),
            "spec.containers[0].volumeMounts[0].subPath",
        ),
        (
            container("securityContext: {seLinuxOptions: {level: s0}}"),
            "spec.containers[0].securityContext.seLinuxOptions",
        ),
        (spec("hostPID: true"), "spec.hostPID"),
        (spec("hostIPC: true"), "spec.hostIPC"),
        (spec("shareProcessNamespace: true"), "spec.shareProcessNamespace"),
        (spec("activeDeadlineSeconds: 5"), "spec.activeDeadlineSeconds"),
        (spec("nodeSelector: {a: b}"), "spec.nodeSelector"),
        (spec("runtimeClassName: kata"), "spec.runtimeClassName"),
        (spec("subdomain: x"), "spec.subdomain"),
        (spec("hostAliases: [{ip: 192.0.2.1}]"), "spec.hostAliases"),
        (spec("ephemeralContainers: [{name: x}]"), "spec.ephemeralContainers"),
        (spec("imagePullSecrets: [{name: x}]"), "spec.imagePullSecrets"),
        (
            spec("securityContext: {windowsOptions: {hostProcess: true}}"),
            "spec.securityContext.windowsOptions",
        ),
        (spec("volumes: [{name: v, configMap: {name: x}}]"), "spec.volumes[0].configMap"),
        (spec("volumes: [{name: v, secret: {}}]"), "spec.volumes[0].secret"),
        (
            spec("volumes: [{name: v, emptyDir: {sizeLimit: 1Gi}}]"),
            "spec.volumes[0].emptyDir.sizeLimit without medium Memory",
        ),
        (top("status: {phase: Running}\n"), "status"),
    ] {
        assert_eq!(refusal(&text), says(path));
    }
    for (text, says) in [
        (spec("hostUsers: false"), "spec.hostUsers: `false` is not supported by peapod run"),
        (spec("serviceAccountName: bob"), "spec.serviceAccountName: `bob` is not supported by peapod run"),
        (spec("os: {name: windows}"), "spec.os.name: `windows` is not supported by peapod run"),
        (
            container("terminationMessagePolicy: FallbackToLogsOnError"),
            "spec.containers[0].terminationMessagePolicy: `FallbackToLogsOnError` is not supported by peapod run",
        ),
        (
            spec("securityContext: {seccompProfile: {type: Localhost, localhostProfile: x.json}}"),
            "spec.securityContext.seccompProfile.type: `Localhost` is not supported by peapod run",
        ),
        (
            container("securityContext: {procMount: Unmasked}"),
            "spec.containers[0].securityContext.procMount: `Unmasked` is not supported by peapod run",
        ),
        (
            container("securityContext: {appArmorProfile: {type: RuntimeDefault}}"),
            "spec.containers[0].securityContext.appArmorProfile.type: `RuntimeDefault` is not supported by peapod run",
        ),
    ] {
        assert_eq!(refusal(&text), says);
    }
}

#[test]
fn fields_that_kubernetes_does_not_know_are_refused() {
    for (text, path) in [
        (container("imagePullPolice: Always"), "spec.containers[0].imagePullPolice"),
        (container("ports: [{containerPort: 80, hostport: 80}]"), "spec.containers[0].ports[0].hostport"),
        (container("securityContext: {runasuser: 1}"), "spec.containers[0].securityContext.runasuser"),
        (spec("replicas: 3"), "spec.replicas"),
        (spec("volumes: [{name: v, emptydir: {}}]"), "spec.volumes[0].emptydir"),
        (top("specs: {}\n"), "specs"),
    ] {
        assert_eq!(refusal(&text), format!("{path} is no field of a Pod"));
    }
}

#[test]
fn wrong_values_are_refused_with_the_path_and_the_reason() {
    let name = |name: &str| container("").replace("name: p", &format!("name: {name}"));
    for (text, says) in [
        (String::new(), "the manifest holds no document"),
        ("# nothing\n".to_owned(), "the manifest holds no document"),
        ("a: [".to_owned(), "the manifest cannot be read as YAML"),
        ("a: 1\na: 2\n".to_owned(), "the manifest cannot be read as YAML"),
        ("[]".to_owned(), "the document: want a mapping, got a list"),
        (
            container("") + "---\n" + &container(""),
            "the manifest holds 2 documents; peapod run takes one Pod",
        ),
        (container("").replace("Pod", "Deployment"), "kind: `Deployment` is not supported: want Pod"),
        (container("").replace("v1", "apps/v1"), "apiVersion: `apps/v1` is not supported: want v1"),
        (name("P"), "metadata.name: want at most 253"),
        (name("../p"), "metadata.name: want at most 253"),
        (name("7"), "metadata.name: want text (quote it), got a number"),
        (container("").replace("image: i", ""), "spec.containers[0].image: is required"),
        (
            container("env: [{name: A, value: 1}]"),
            "spec.containers[0].env[0].value: want text (quote it), got a number",
        ),
        (
            container("env: [{name: 'A=B'}]"),
            "spec.containers[0].env[0].name: want printable ASCII without `=`",
        ),
        (
            container("ports: [{containerPort: 0}]"),
            "spec.containers[0].ports[0].containerPort: 0 is not within 1 to",
        ),
        (
            container("ports: [{containerPort: 1, hostPort: 9}, {containerPort: 2, hostPort: 9}]"),
            "spec.containers[0].ports[1]: hostPort 9 is used twice",
        ),
        (
            container("imagePullPolicy: Sometimes"),
            "spec.containers[0].imagePullPolicy: `Sometimes` is none of",
        ),
        (
            container("volumeMounts: [{name: v, mountPath: /v}]"),
            "spec.containers[0].volumeMounts[0]: there is no volume `v`",
        ),
        (
            container("volumeMounts: [{name: v, mountPath: v}]"),
            "spec.containers[0].volumeMounts[0].mountPath: want an absolute path",
        ),
        (
            container("volumeMounts: [{name: v, mountPath: /v, mountPropagation: Bidirectional}]"),
            "spec.containers[0].volumeMounts[0].mountPropagation: Bidirectional is for privileged containers",
        ),
        (
            container("resources: {requests: {memory: 2Gi}, limits: {memory: 1Gi}}"),
            "spec.containers[0].resources.requests.memory: is more than the limit",
        ),
        (
            container("resources: {limits: {cpu: lots}}"),
            "spec.containers[0].resources.limits.cpu: `lots` is no quantity",
        ),
        (
            container("resources: {limits: {cpu: -1}}"),
            "spec.containers[0].resources.limits.cpu: `-1` is no quantity",
        ),
        (
            container("securityContext: {privileged: true, allowPrivilegeEscalation: false}"),
            "spec.containers[0].securityContext.allowPrivilegeEscalation: cannot be false",
        ),
        (
            container("securityContext: {runAsUser: -1}"),
            "spec.containers[0].securityContext.runAsUser: -1 is not within",
        ),
        (spec("volumes: [{name: v}, {name: v}]"), "spec.volumes[1].name: two volumes are named `v`"),
        (
            spec("volumes: [{name: v, hostPath: {path: /a/../b}}]"),
            "spec.volumes[0].hostPath.path: want an absolute path without `..`",
        ),
        (spec("initContainers: [{name: c, image: i}]"), "spec.containers: two containers are named `c`"),
        (spec("dnsPolicy: None"), "spec.dnsConfig.nameservers: is required with dnsPolicy None"),
        (spec("dnsConfig: {nameservers: [x]}"), "spec.dnsConfig.nameservers: `x` is no IP address"),
        (
            spec("dnsConfig: {options: [{name: 'a\n  nameserver'}]}"),
            "spec.dnsConfig.options: want words without spaces",
        ),
        (spec("restartPolicy: Maybe"), "spec.restartPolicy: `Maybe` is none of Always, OnFailure, Never"),
        (spec("terminationGracePeriodSeconds: -1"), "spec.terminationGracePeriodSeconds: -1 is not within"),
        (spec("hostNetwork: 'true'"), "spec.hostNetwork: want true or false, got text"),
        (
            spec("securityContext: {sysctls: [{name: x, value: '1'}]}"),
            "spec.securityContext.sysctls[0].name: `x` is no name of a sysctl",
        ),
    ] {
        let error = refusal(&text);
        assert!(error.starts_with(says), "want `{says}`, got `{error}`");
    }
}

#[test]
fn aliases_that_grow_without_end_are_refused() {
    let mut text = String::from("a0: &a0 [x]\n");
    for n in 1..40 {
        text += &format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(", "));
    }
    assert!(refusal(&text).starts_with("the manifest cannot be read as YAML"));
}

#[test]
fn a_long_name_is_cut_for_the_hostname() {
    let name = format!("{}.tail", "a".repeat(62));
    let pod = parse(&container("").replace("name: p", &format!("name: {name}"))).expect("taken");
    assert_eq!(pod.hostname, "a".repeat(62));
}
