use super::*;
use std::os::unix::fs::symlink;
use types::{
    PodId,
    container::{ContainerSpec, Mount, Security},
    pod::{PodSpec, SandboxSecurity},
};

/// A machine of files.
struct Fake(PathBuf);

impl Fake {
    fn new(name: &str) -> Fake {
        let root = std::env::temp_dir().join(format!("peapod-test-selinux-{name}-{}", std::process::id()));
        fs::create_dir_all(&root).expect("a directory");
        Fake(root)
    }

    fn with_selinux(name: &str) -> Fake {
        let fake = Fake::new(name);
        fake.put("sys/fs/selinux/enforce", "1");
        fake.put("sys/fs/selinux/context", "");
        fake
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::File::create(&path).and_then(|mut file| file.write_all(text.as_bytes())).expect("written");
    }

    fn selinux(&self) -> Selinux {
        Selinux { root: self.0.clone() }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        sys::tree::remove_path(&self.0).expect("removed");
    }
}

fn label(user: &str, kind: &str, level: &str) -> Option<SelinuxLabel> {
    let (user, kind, level) = (user.to_owned(), kind.to_owned(), level.to_owned());
    Some(SelinuxLabel { user, role: String::new(), kind, level })
}

fn pod(selinux: Option<SelinuxLabel>) -> PodPlan {
    let security = SandboxSecurity { selinux, ..SandboxSecurity::default() };
    engine::pod::plan::plan(
        &config::Config::default(),
        PodId::from_random([1; 32]),
        PodSpec { security, ..PodSpec::default() },
        engine::pod::plan::Facts::default(),
        types::Timestamp(1),
    )
    .expect("a plan")
}

fn container(pod: &PodPlan, security: Security, mounts: Vec<Mount>) -> ContainerPlan {
    let spec = ContainerSpec { security, mounts, ..ContainerSpec::default() };
    let id = types::ContainerId::from_random([2; 32]);
    let image = engine::host::ImageFacts::default();
    engine::container::plan::plan(pod, id, spec, image, types::Timestamp(2)).expect("a plan")
}

#[test]
fn without_selinux_labels_mean_nothing() {
    let fake = Fake::new("none");
    let pod = pod(label("", "container_t", "s0:c1,c2"));
    assert_eq!(fake.selinux().of_pod(&pod).expect("fine"), None);
}

#[test]
fn a_pod_has_categories_of_its_own_and_its_containers_have_the_same() {
    let fake = Fake::with_selinux("mcs");
    let plain = pod(None);
    let (first, second) = plain.id.categories();
    let labels = fake.selinux().of_pod(&plain).expect("fine").expect("labels");
    assert_eq!(labels.process, format!("system_u:system_r:container_t:s0:c{first},c{second}"));
    assert_eq!(labels.files, format!("system_u:object_r:container_file_t:s0:c{first},c{second}"));
    let of = |pod: &PodPlan, selinux: Option<SelinuxLabel>, privileged| {
        let plan = container(pod, Security { selinux, privileged, ..Security::default() }, Vec::new());
        fake.selinux().of_container(pod, &plan).expect("fine").map(|labels| labels.process)
    };
    assert_eq!(of(&plain, None, false), Some(labels.process));
    assert_eq!(of(&plain, None, true), None, "a privileged one has none");
    let level = format!("s0:c{first},c{second}");
    assert_eq!(of(&plain, label("", "spc_t", ""), false), Some(format!("system_u:system_r:spc_t:{level}")));
    let asked = pod(label("u", "pod_t", "s0:c7,c8"));
    assert_eq!(of(&asked, None, false).as_deref(), Some("u:system_r:pod_t:s0:c7,c8"));
    assert_eq!(
        of(&asked, label("", "own_t", ""), false).as_deref(),
        Some("system_u:system_r:own_t:s0:c7,c8")
    );
    assert_eq!(
        of(&asked, label("", "own_t", "s0:c9"), false).as_deref(),
        Some("system_u:system_r:own_t:s0:c9")
    );
}

#[test]
fn the_hosts_policy_names_what_the_request_leaves_out() {
    let fake = Fake::with_selinux("policy");
    fake.put("etc/selinux/config", "# SELINUXTYPE=no\nSELINUX=enforcing\nSELINUXTYPE=mine\n");
    fake.put(
        "etc/selinux/mine/contexts/lxc_contexts",
        "process = \"me_u:me_r:box_t:s0\"\nfile = \"me_u:object_r:box_file_t:s0\"\n",
    );
    let labels = fake.selinux().of_pod(&pod(label("", "", "s0:c1"))).expect("fine").expect("labels");
    assert_eq!(
        (labels.process.as_str(), labels.files.as_str()),
        ("me_u:me_r:box_t:s0:c1", "me_u:object_r:box_file_t:s0:c1")
    );
    for bad in ["process = \"a:b\"\n", "file = \"x\"\n"] {
        fake.put("etc/selinux/mine/contexts/lxc_contexts", bad);
        fake.selinux().of_pod(&pod(None)).expect_err(bad);
    }
    fake.put("etc/selinux/config", "SELINUXTYPE=../../x\n");
    fake.selinux().of_pod(&pod(None)).expect_err("it leads elsewhere");
}

#[test]
fn a_label_that_the_kernel_does_not_know_is_refused_by_name() {
    let fake = Fake::with_selinux("unknown");
    // Nothing can be written to it, as to a file of the kernel that refuses.
    fs::remove_file(fake.0.join("sys/fs/selinux/context")).expect("removed");
    fs::create_dir(fake.0.join("sys/fs/selinux/context")).expect("made");
    let error = fake.selinux().of_pod(&pod(None)).expect_err("refused");
    assert_eq!(error.fault, Fault::Invalid(FIELD), "{error}");
}

#[test]
fn only_mounts_that_ask_for_it_are_relabelled_and_no_link_is_followed() {
    let fake = Fake::new("relabel");
    fake.put("volume/dir/file", "");
    fake.put("other/file", "");
    fake.put("secret", "");
    symlink(fake.0.join("secret"), fake.0.join("volume/link")).expect("a link");
    let mount = |name: &str, selinux_relabel| Mount {
        container_path: format!("/{name}"),
        host_path: fake.0.join(name),
        selinux_relabel,
        ..Mount::default()
    };
    let pod = pod(None);
    let met = |mounts| {
        let plan = container(&pod, Security::default(), mounts);
        let mut met = Vec::new();
        let done = relabel_with(&plan, &mut |file| {
            use sys::rustix::fd::AsRawFd as _;
            let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).expect("a path");
            met.push(path.strip_prefix(&fake.0).expect("beneath").display().to_string());
            Ok(())
        });
        met.sort();
        done.map(|()| met).map_err(|error| error.fault)
    };
    assert_eq!(
        met(vec![mount("volume", true), mount("other", false)]),
        Ok(["volume", "volume/dir", "volume/dir/file", "volume/link"].map(str::to_owned).to_vec())
    );
    symlink("/etc", fake.0.join("to-etc")).expect("a link");
    let part_of_the_system = Err(Fault::Invalid("config.mounts.selinux_relabel"));
    assert_eq!(met(vec![mount("to-etc", true)]), part_of_the_system);
}
