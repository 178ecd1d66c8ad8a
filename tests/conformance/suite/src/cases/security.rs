//! Confinement: capabilities, privileged, no new privileges, masked and read-only paths, seccomp, AppArmor, SELinux.

use crate::{
    case::{Case, case, differs, has, holds, is, lacks, refused, skip},
    host,
    story::{Config as _, Container, ContainerWords as _, Test, map, number, put, words},
};
use anyhow::{Context as _, Result};
use api::cri::{self, LinuxContainerSecurityContext, security_profile::ProfileType};
use serde_json::json;

/// All capabilities by number.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];
/// The fourteen that both peers and Docker give.
const DEFAULT: u64 = 0xa804_25fb;

/// The cases.
pub fn cases() -> Vec<Case> {
    [capabilities(), each_capability(), privileged(), paths(), seccomp(), modules(), sandbox()].concat()
}

fn capabilities() -> Vec<Case> {
    const SOURCE: &str = "CRI Capability; critest Security Context bucket";
    vec![
        capable("security: the default capabilities", SOURCE, "", &[], &[], DEFAULT),
        capable(
            "security: all capabilities dropped",
            SOURCE,
            "sc.capabilities.drop_capabilities",
            &[],
            &["ALL"],
            0,
        ),
        capable(
            "security: all capabilities added",
            SOURCE,
            "sc.capabilities.add_capabilities",
            &["ALL"],
            &[],
            u64::MAX,
        ),
        capable(
            "security: all dropped, then some added",
            "contract B.2: drop ALL, then adds",
            "sc.capabilities.add_capabilities sc.capabilities.drop_capabilities",
            &["NET_ADMIN", "SYS_PTRACE"],
            &["ALL"],
            1 << 12 | 1 << 19,
        ),
        capable(
            "security: all added, some dropped",
            "contract B.2",
            "sc.capabilities.add_capabilities sc.capabilities.drop_capabilities",
            &["ALL"],
            &["CHOWN"],
            !1,
        ),
        case(
            "security: a capability by its kernel name is that one, or refused",
            "CRI Capability: nothing is ignored",
            "sc.capabilities.add_capabilities",
            |t: Test| async move {
                let pod = t.pod().await?;
                match pod.try_run(|c| c.sc().capabilities = some(&["CAP_NET_ADMIN"], &["ALL"])).await {
                    Err(_) => Ok(()),
                    Ok(c) => is("CapEff", mask(c.pid().await?, "CapEff")?, 1 << 12),
                }
            },
        ),
        case(
            "security: an unknown capability is refused",
            "CRI Capability: nothing is ignored",
            "sc.capabilities.add_capabilities",
            |t: Test| async move {
                let pod = t.pod().await?;
                let tried = pod.try_run(|c| c.sc().capabilities = some(&["NO_SUCH_THING"], &[])).await;
                refused("the container", tried, &[]).map(|_| ())
            },
        ),
        case(
            "security: a user other than root has no capabilities in effect",
            "capabilities(7); OCI process.capabilities",
            "sc.run_as_user.value",
            |t: Test| async move {
                let c = t.container(|c| c.sc().run_as_user = number(1000)).await?;
                let pid = c.pid().await?;
                is("CapEff", mask(pid, "CapEff")?, 0)?;
                is("CapPrm", mask(pid, "CapPrm")?, 0)?;
                is("CapBnd", mask(pid, "CapBnd")?, DEFAULT & bounding()?)?;
                is(
                    "CapEff of an exec",
                    c.sh("grep CapEff /proc/self/status").await?,
                    "CapEff:\t0000000000000000",
                )
            },
        ),
        case("security: capabilities are not inheritable", "CVE-2022-24769", "", |t: Test| async move {
            let c = t.container(|_| {}).await?;
            is("CapInh", mask(c.pid().await?, "CapInh")?, 0)?;
            is("CapAmb", mask(c.pid().await?, "CapAmb")?, 0)
        }),
        case(
            "security: ambient capabilities reach a user other than root",
            "KEP-2763; CRI Capability.add_ambient_capabilities",
            "sc.capabilities.add_ambient_capabilities",
            ambient,
        ),
    ]
}

fn some(add: &[&str], drop: &[&str]) -> Option<cri::Capability> {
    Some(cri::Capability {
        add_capabilities: words(add),
        drop_capabilities: words(drop),
        add_ambient_capabilities: Vec::new(),
    })
}

fn capable(
    name: &'static str,
    source: &'static str,
    fields: &'static str,
    add: &'static [&str],
    drop: &'static [&str],
    expected: u64,
) -> Case {
    case(name, source, fields, move |t: Test| async move {
        let c = t.container(|c| c.sc().capabilities = some(add, drop)).await?;
        let expected = expected & bounding()?;
        let pid = c.pid().await?;
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            is(set, format!("{:x}", mask(pid, set)?), format!("{expected:x}"))?;
        }
        let exec = host::field(&c.sh("cat /proc/self/status").await?, "CapEff")?;
        is("CapEff of an exec", exec, format!("{expected:016x}"))
    })
}

fn each_capability() -> Vec<Case> {
    let one = |(number, name): (usize, &'static str)| {
        case(
            format!("security: capability {name} added alone, and dropped alone"),
            "CRI Capability.add_capabilities, drop_capabilities",
            "sc.capabilities.add_capabilities sc.capabilities.drop_capabilities",
            move |t: Test| async move {
                let bit = 1_u64 << number;
                if bounding()? & bit == 0 {
                    return skip(format!("the suite itself has no {name}"));
                }
                let pod = t.pod().await?;
                let with = pod.run(|c| c.sc().capabilities = some(&[name], &["ALL"])).await?;
                is("added", mask(with.pid().await?, "CapEff")?, bit)?;
                let without = pod.run(|c| c.sc().capabilities = some(&[], &[name])).await?;
                is("dropped", mask(without.pid().await?, "CapEff")?, DEFAULT & bounding()? & !bit)
            },
        )
    };
    CAPABILITIES.into_iter().enumerate().map(one).collect()
}

fn mask(pid: u32, set: &str) -> Result<u64> {
    Ok(u64::from_str_radix(&host::status_line(pid, set)?, 16)?)
}

/// The capabilities that the suite, and so the runtime, may give.
fn bounding() -> Result<u64> {
    mask(std::process::id(), "CapBnd")
}

async fn ambient(t: Test) -> Result<()> {
    let c = t
        .container(|c| {
            c.sc().run_as_user = number(1000);
            c.sc().capabilities = Some(cri::Capability {
                add_ambient_capabilities: words(&["NET_BIND_SERVICE"]),
                ..Default::default()
            });
        })
        .await?;
    let pid = c.pid().await?;
    for set in ["CapAmb", "CapEff", "CapPrm", "CapInh"] {
        is(set, mask(pid, set)? & 1 << 10, 1 << 10)?;
    }
    is("a program's", host::field(&c.sh("cat /proc/self/status").await?, "CapEff")?, "0000000000000400")
}

fn privileged() -> Vec<Case> {
    const SOURCE: &str = "CRI LinuxContainerSecurityContext.privileged; critest Security Context bucket";
    vec![
        case(
            "security: privileged has all capabilities and no filter",
            SOURCE,
            "sc.privileged psc.privileged",
            |t: Test| async move {
                let c = privileged_container(&t, |sc| sc.seccomp = profile(ProfileType::RuntimeDefault, ""))
                    .await?;
                let pid = c.pid().await?;
                is("CapEff", mask(pid, "CapEff")?, bounding()?)?;
                is("Seccomp", host::status_line(pid, "Seccomp")?, "0")
            },
        ),
        case(
            "security: privileged can write /proc/sys and /sys",
            SOURCE,
            "sc.privileged",
            |t: Test| async move {
                let c = privileged_container(&t, |_| {}).await?;
                c.sh("cat /proc/sys/kernel/shm_rmid_forced >/tmp/v && cat /tmp/v >/proc/sys/kernel/shm_rmid_forced").await?;
                lacks("/sys", &c.sh("grep ' /sys sysfs ' /proc/mounts").await?, " ro,")
            },
        ),
        case("security: privileged can mount", SOURCE, "sc.privileged", |t: Test| async move {
            let c = privileged_container(&t, |_| {}).await?;
            c.sh("mount -t tmpfs none /mnt && touch /mnt/file && umount /mnt").await.map(|_| ())
        }),
        case("security: privileged has the host's devices", SOURCE, "sc.privileged", |t: Test| async move {
            let c = privileged_container(&t, |_| {}).await?;
            let inside = c.sh("ls /dev").await?;
            for device in ["kmsg", "loop-control"] {
                if std::path::Path::new("/dev").join(device).try_exists()? {
                    has("its /dev", &inside, device)?;
                }
            }
            // An unlisted device may be made and opened.
            let minor = host::odd_device()?;
            c.sh(&format!("mknod /tmp/odd c 10 {minor} && : </tmp/odd")).await.map(|_| ())
        }),
        case(
            "security: privileged masks nothing",
            SOURCE,
            "sc.privileged sc.masked_paths sc.readonly_paths",
            |t: Test| async move {
                let c = privileged_container(&t, |sc| {
                    sc.masked_paths = words(&["/etc/passwd"]);
                    sc.readonly_paths = words(&["/tmp"]);
                })
                .await?;
                has("passwd", &c.sh("cat /etc/passwd").await?, "alice")?;
                c.sh("touch /tmp/x").await.map(|_| ())
            },
        ),
        case("security: not privileged cannot mount", SOURCE, "", |t: Test| async move {
            let c = t.container(|_| {}).await?;
            c.sh_fails("mount -t tmpfs none /mnt").await.map(|_| ())
        }),
        case("security: not privileged has only the usual devices", SOURCE, "", |t: Test| async move {
            let c = t.container(|_| {}).await?;
            let inside = c.sh("ls /dev").await?;
            for device in
                ["null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "stdin", "fd"]
            {
                holds(&format!("/dev/{device} in {inside:?}"), inside.lines().any(|line| line == device))?;
            }
            for device in ["kmsg", "mem", "loop-control"] {
                holds(&format!("no /dev/{device}"), !inside.lines().any(|line| line == device))?;
            }
            let minor = host::odd_device()?;
            c.sh_fails(&format!("mknod /tmp/odd c 10 {minor} && : </tmp/odd")).await.map(|_| ())
        }),
        case("security: /sys is read-only", "CRI; OCI runtime defaults", "", |t: Test| async move {
            let c = t.container(|_| {}).await?;
            has("/sys", &c.sh("grep ' /sys sysfs ' /proc/mounts").await?, "ro,")?;
            c.sh_fails("mkdir /sys/kernel/x").await.map(|_| ())
        }),
        case(
            "security: a privileged container needs a privileged pod",
            "CRI LinuxSandboxSecurityContext.privileged",
            "sc.privileged",
            |t: Test| async move {
                let pod = t.pod().await?;
                refused("the container", pod.try_run(|c| c.sc().privileged = true).await, &[]).map(|_| ())
            },
        ),
    ]
}

async fn privileged_container(
    t: &Test,
    change: impl FnOnce(&mut LinuxContainerSecurityContext),
) -> Result<Container> {
    t.both(
        |p| p.sc().privileged = true,
        |c| {
            c.sc().privileged = true;
            change(c.sc());
        },
    )
    .await
}

fn paths() -> Vec<Case> {
    const MASKED: &str = "CRI masked_paths; critest MaskedPaths";
    vec![
        case(
            "security: a setuid program gains rights",
            "CRI no_new_privs; critest NoNewPrivs",
            "",
            |t: Test| async move {
                let c = t.container(|c| c.sc().run_as_user = number(1000)).await?;
                is("NoNewPrivs", host::status_line(c.pid().await?, "NoNewPrivs")?, "0")?;
                is("the effective user", c.exec(&["/bin/suid"], 10).await?.exit_code, 0)
            },
        ),
        case(
            "security: with no_new_privs a setuid program gains none",
            "CRI no_new_privs; critest NoNewPrivs",
            "sc.no_new_privs",
            |t: Test| async move {
                let c = t
                    .container(|c| {
                        c.sc().run_as_user = number(1000);
                        c.sc().no_new_privs = true;
                    })
                    .await?;
                is("NoNewPrivs", host::status_line(c.pid().await?, "NoNewPrivs")?, "1")?;
                is("the effective user modulo 256", c.exec(&["/bin/suid"], 10).await?.exit_code, 1000 % 256)
            },
        ),
        case(
            "security: masked files are empty, masked directories too",
            MASKED,
            "sc.masked_paths",
            |t: Test| async move {
                let c = t
                    .container(|c| {
                        c.sc().masked_paths =
                            words(&["/proc/timer_list", "/proc/kcore", "/etc/passwd", "/home", "/no/such"]);
                    })
                    .await?;
                for file in ["/proc/timer_list", "/proc/kcore", "/etc/passwd"] {
                    is(
                        file,
                        c.sh(&format!("[ -e {file} ] || exit 0; head -c 1 {file} | wc -c"))
                            .await?
                            .trim_start_matches('0'),
                        "",
                    )?;
                }
                is("/home", c.sh("ls -A /home").await?, "")?;
                c.sh_fails("touch /home/x").await.map(|_| ())
            },
        ),
        case(
            "security: read-only paths cannot be written",
            "CRI readonly_paths; critest ReadonlyPaths",
            "sc.readonly_paths",
            |t: Test| async move {
                let c = t
                    .container(|c| c.sc().readonly_paths = words(&["/proc/sys", "/tmp", "/no/such"]))
                    .await?;
                c.sh_fails("touch /tmp/x").await?;
                c.sh_fails("echo 1 >/proc/sys/kernel/shm_rmid_forced").await?;
                c.sh("touch /home/x && head -c 1 /proc/sys/kernel/shm_rmid_forced").await.map(|_| ())
            },
        ),
        case(
            "security: empty lists mask nothing",
            "KEP-4265: procMount Unmasked",
            "",
            |t: Test| async move {
                let c = t.container(|_| {}).await?;
                let mounts = c.sh("cut -d' ' -f5 /proc/self/mountinfo").await?;
                let over: Vec<_> = mounts.lines().filter(|point| point.starts_with("/proc/")).collect();
                is("mounts over /proc", over, Vec::<&str>::new())
            },
        ),
        case(
            "security: a read-only root cannot be written",
            "CRI readonly_rootfs; critest ReadOnlyRootfs",
            "sc.readonly_rootfs",
            |t: Test| async move {
                let c = t.container(|c| c.sc().readonly_rootfs = true).await?;
                has("its root", &c.sh_fails("touch /x").await?, "Read-only")?;
                c.sh("echo x >/dev/shm/x && echo x >/dev/null").await.map(|_| ())
            },
        ),
        case("security: a root can be written", "critest ReadOnlyRootfs", "", |t: Test| async move {
            t.container(|_| {}).await?.sh("touch /x && rm /x").await.map(|_| ())
        }),
        case(
            "security: only the three standard descriptors are open",
            "CVE-2024-21626",
            "",
            |t: Test| async move {
                let c = t.container(|_| {}).await?;
                is("its descriptors", c.sh("ls /proc/1/fd | tr '\\n' ' '").await?.trim(), "0 1 2")?;
                let exec = c.sh("ls -l /proc/self/fd").await?;
                lacks("an exec's", &exec, "/sys/fs/cgroup")?;
                lacks("an exec's", &exec, "/run/")
            },
        ),
        case(
            "security: the working directory cannot be a descriptor of the runtime",
            "CVE-2024-21626",
            "c.working_dir",
            |t: Test| async move {
                let pod = t.pod().await?;
                for fd in [7, 8, 9] {
                    let tried = pod
                        .try_run(|c| {
                            c.working_dir = format!("/proc/self/fd/{fd}");
                            c.script("ls ../../../../etc/hostname ../../../etc/debian_version && sleep 1000; exit 0");
                        })
                        .await;
                    if let Ok(c) = tried {
                        c.ended().await?;
                        lacks("what it sees", &c.log().await?, "debian_version\n")?;
                        lacks("what it sees", &c.log().await?, "../debian_version")?;
                    }
                }
                Ok(())
            },
        ),
    ]
}

fn profile(kind: ProfileType, reference: &str) -> Option<cri::SecurityProfile> {
    Some(cri::SecurityProfile { profile_type: kind.into(), localhost_ref: reference.to_owned() })
}

fn seccomp() -> Vec<Case> {
    const SOURCE: &str = "KEP-135; CRI SecurityProfile; critest Seccomp";
    let mut all = vec![
        case("security: without a profile there is no filter", SOURCE, "", |t: Test| async move {
            filter_is(&t.container(|_| {}).await?, "0").await
        }),
        case(
            "security: seccomp Unconfined is no filter",
            SOURCE,
            "sc.seccomp.profile_type",
            |t: Test| async move {
                let c = t.container(|c| c.sc().seccomp = profile(ProfileType::Unconfined, "")).await?;
                filter_is(&c, "0").await
            },
        ),
        case("security: seccomp RuntimeDefault is a filter", SOURCE, "", |t: Test| async move {
            let c = t.container(|c| c.sc().seccomp = profile(ProfileType::RuntimeDefault, "")).await?;
            filter_is(&c, "2").await?;
            c.sh_fails("unshare -U true").await.map(|_| ())
        }),
        case(
            "security: the default filter opens with a capability",
            "Docker's default profile: CAP_SYS_ADMIN",
            "",
            |t: Test| async move {
                let c = t
                    .container(|c| {
                        c.sc().seccomp = profile(ProfileType::RuntimeDefault, "");
                        c.sc().capabilities = some(&["SYS_ADMIN"], &[]);
                    })
                    .await?;
                filter_is(&c, "2").await?;
                c.sh("hostname another").await.map(|_| ())
            },
        ),
        case(
            "security: seccomp Localhost is the profile of that path",
            SOURCE,
            "sc.seccomp.profile_type sc.seccomp.localhost_ref",
            |t: Test| async move {
                let path = profile_file(&t, &blocking_mkdir())?;
                let c = t.container(|c| c.sc().seccomp = profile(ProfileType::Localhost, &path)).await?;
                mkdir_blocked(&c).await
            },
        ),
        case(
            "security: a profile can look at arguments",
            "OCI linux.seccomp.syscalls.args",
            "sc.seccomp.localhost_ref",
            |t: Test| async move {
                // kill(pid, SIGUSR1) alone is forbidden.
                let profile_json = json!({
                    "defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [{
                        "names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
                        "args": [{ "index": 1, "value": 10, "op": "SCMP_CMP_EQ" }],
                    }],
                });
                let path = profile_file(&t, &profile_json)?;
                let c = t.container(|c| c.sc().seccomp = profile(ProfileType::Localhost, &path)).await?;
                has("SIGUSR1", &c.sh_fails("sleep 5 & kill -USR1 $!").await?, "not permitted")?;
                c.sh("sleep 5 & kill -USR2 $!").await.map(|_| ())
            },
        ),
        case(
            "security: a profile can be read through its architectures",
            "OCI linux.seccomp.architectures",
            "sc.seccomp.localhost_ref",
            |t: Test| async move {
                let mut profile_json = blocking_mkdir();
                profile_json["architectures"] = json!([
                    "SCMP_ARCH_X86_64",
                    "SCMP_ARCH_X86",
                    "SCMP_ARCH_X32",
                    "SCMP_ARCH_AARCH64",
                    "SCMP_ARCH_ARM"
                ]);
                let path = profile_file(&t, &profile_json)?;
                let c = t.container(|c| c.sc().seccomp = profile(ProfileType::Localhost, &path)).await?;
                mkdir_blocked(&c).await
            },
        ),
        case(
            "security: a profile that does not exist is refused",
            SOURCE,
            "sc.seccomp.localhost_ref",
            |t: Test| async move { bad_profile(&t, "/no/such/profile.json").await },
        ),
        case(
            "security: a profile that is no profile is refused",
            SOURCE,
            "sc.seccomp.localhost_ref",
            |t: Test| async move {
                let dir = t.host_dir("profiles", &[("bad.json", "{ not json")])?;
                bad_profile(&t, &format!("{dir}/bad.json")).await
            },
        ),
        case(
            "security: a relative profile is refused",
            "CRI SecurityProfile.localhost_ref: full path",
            "sc.seccomp.localhost_ref",
            |t: Test| async move { bad_profile(&t, "profiles/relative.json").await },
        ),
        case(
            "security: Localhost without a profile is refused",
            SOURCE,
            "sc.seccomp.profile_type",
            |t: Test| async move { bad_profile(&t, "").await },
        ),
        case(
            "security: a filter holds for an exec too",
            SOURCE,
            "sc.seccomp.localhost_ref",
            |t: Test| async move {
                let path = profile_file(&t, &blocking_mkdir())?;
                let c = t.container(|c| c.sc().seccomp = profile(ProfileType::Localhost, &path)).await?;
                is("Seccomp", host::field(&c.sh("cat /proc/self/status").await?, "Seccomp")?, "2")
            },
        ),
    ];
    for (value, expected) in [("unconfined", "0"), ("runtime/default", "2"), ("docker/default", "2")] {
        all.push(case(
            format!("security: the deprecated seccomp profile {value}"),
            "CRI LinuxContainerSecurityContext.seccomp_profile_path",
            "sc.seccomp_profile_path",
            move |t: Test| async move {
                let c = t.container(|c| c.sc().seccomp_profile_path = value.to_owned()).await?;
                filter_is(&c, expected).await
            },
        ));
    }
    all.push(case(
        "security: the deprecated seccomp profile localhost/PATH",
        "CRI LinuxContainerSecurityContext.seccomp_profile_path",
        "sc.seccomp_profile_path",
        |t: Test| async move {
            let path = profile_file(&t, &blocking_mkdir())?;
            let c = t.container(|c| c.sc().seccomp_profile_path = format!("localhost/{path}")).await?;
            mkdir_blocked(&c).await
        },
    ));
    all
}

fn profile_file(t: &Test, profile: &serde_json::Value) -> Result<String> {
    let dir = t.host_dir("profiles", &[])?;
    let path = format!("{dir}/profile.json");
    put(std::path::Path::new(&path), &profile.to_string())?;
    Ok(path)
}

fn blocking_mkdir() -> serde_json::Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 122 }],
    })
}

async fn mkdir_blocked(c: &Container) -> Result<()> {
    filter_is(c, "2").await?;
    // 122 is EDQUOT, which nothing else here would say.
    has("mkdir", &c.sh_fails("mkdir /tmp/d").await?.to_lowercase(), "quota")?;
    c.sh("touch /tmp/f").await.map(|_| ())
}

async fn filter_is(c: &Container, expected: &str) -> Result<()> {
    is("Seccomp", host::status_line(c.pid().await?, "Seccomp")?, expected)
}

async fn bad_profile(t: &Test, path: &str) -> Result<()> {
    let pod = t.pod().await?;
    let tried = pod.try_run(|c| c.sc().seccomp = profile(ProfileType::Localhost, path)).await;
    refused("the container", tried, &[]).map(|_| ())
}

fn apparmor() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.trim() == "Y")
}

fn selinux() -> bool {
    std::path::Path::new("/sys/fs/selinux/enforce").try_exists().unwrap_or(false)
}

/// The label that a security module gives the process.
async fn label(c: Container) -> Result<String> {
    let text = host::proc_file(c.pid().await?, "attr/current")?;
    Ok(text.trim_end_matches(['\0', '\n']).to_owned())
}

/// AppArmor and SELinux: with the module and without.
fn modules() -> Vec<Case> {
    const APPARMOR: &str = "KEP-24; CRI SecurityProfile; critest AppArmor";
    vec![
        case("security: AppArmor RuntimeDefault confines", APPARMOR, "", move |t: Test| async move {
            if !apparmor() {
                return skip("the machine has no AppArmor");
            }
            let c = t.container(|c| c.sc().apparmor = profile(ProfileType::RuntimeDefault, "")).await?;
            has("its label", &label(c).await?, "(enforce)")
        }),
        case(
            "security: AppArmor Unconfined does not",
            APPARMOR,
            "sc.apparmor.profile_type",
            move |t: Test| async move {
                let c = t.container(|c| c.sc().apparmor = profile(ProfileType::Unconfined, "")).await?;
                if !apparmor() {
                    return skip("the machine has no AppArmor; the profile did no harm");
                }
                is("its label", label(c).await?, "unconfined")
            },
        ),
        case(
            "security: an AppArmor profile that is not loaded is refused",
            "contract B.2: unloaded AppArmor profile -> error",
            "sc.apparmor.profile_type sc.apparmor.localhost_ref",
            |t: Test| async move {
                let pod = t.pod().await?;
                let tried = pod
                    .try_run(|c| c.sc().apparmor = profile(ProfileType::Localhost, "peapod-test-not-loaded"))
                    .await;
                refused("the container", tried, &[]).map(|_| ())
            },
        ),
        case(
            "security: the deprecated AppArmor profile that is not loaded is refused",
            "CRI LinuxContainerSecurityContext.apparmor_profile",
            "sc.apparmor_profile",
            |t: Test| async move {
                let pod = t.pod().await?;
                let tried = pod
                    .try_run(|c| c.sc().apparmor_profile = "localhost/peapod-test-not-loaded".to_owned())
                    .await;
                refused("the container", tried, &[]).map(|_| ())
            },
        ),
        case(
            "security: the deprecated AppArmor profile unconfined",
            "CRI LinuxContainerSecurityContext.apparmor_profile",
            "sc.apparmor_profile",
            |t: Test| async move {
                t.container(|c| c.sc().apparmor_profile = "unconfined".to_owned()).await.map(|_| ())
            },
        ),
        case(
            "security: SELinux options label the process",
            "CRI SELinuxOption; critest SELinux",
            "sc.selinux_options.user sc.selinux_options.role sc.selinux_options.type sc.selinux_options.level",
            move |t: Test| async move {
                let c = t
                    .container(|c| {
                        c.sc().selinux_options = Some(cri::SeLinuxOption {
                            user: "system_u".to_owned(),
                            role: "system_r".to_owned(),
                            r#type: "container_t".to_owned(),
                            level: "s0:c4,c5".to_owned(),
                        });
                    })
                    .await?;
                if !selinux() {
                    return skip("the machine has no SELinux; the options did no harm");
                }
                is("its label", label(c).await?, "system_u:system_r:container_t:s0:c4,c5")
            },
        ),
        case(
            "security: SELinux options of the sandbox are taken",
            "CRI LinuxSandboxSecurityContext.selinux_options",
            "psc.selinux_options.user psc.selinux_options.role psc.selinux_options.type psc.selinux_options.level",
            |t: Test| async move {
                let options = cri::SeLinuxOption {
                    user: "system_u".to_owned(),
                    role: "system_r".to_owned(),
                    r#type: "container_t".to_owned(),
                    level: "s0:c7,c8".to_owned(),
                };
                let c = t.both(|p| p.sc().selinux_options = Some(options), |_| {}).await?;
                if !selinux() {
                    return skip("the machine has no SELinux; the options did no harm");
                }
                has("its label", &label(c).await?, "s0:c7,c8")
            },
        ),
    ]
}

/// The sandbox's own security context: what it says holds for the process that holds its namespaces, if there is one.
fn sandbox() -> Vec<Case> {
    const SOURCE: &str = "CRI LinuxSandboxSecurityContext";
    type Change = fn(&mut cri::LinuxSandboxSecurityContext);
    let accepted = |name: &'static str, fields: &'static str, change: Change| {
        case(name, SOURCE, fields, move |t: Test| async move {
            let pod = t
                .pod_with(|p| {
                    change(p.sc());
                    // A process of the sandbox's own, to which it applies.
                    p.sc().namespace_options.get_or_insert_default().pid = cri::NamespaceMode::Pod.into();
                })
                .await?;
            let c = pod.run(|c| c.labels = map(&[])).await?;
            is("a container of it", c.sh("echo works").await?, "works")?;
            is("its user is the container's own", c.sh("id -u").await?, "0")
        })
    };
    let refuses = |name: &'static str, fields: &'static str, change: Change| {
        case(name, SOURCE, fields, move |t: Test| async move {
            refused("the pod", t.try_pod(|p| change(p.sc())).await, &[]).map(|_| ())
        })
    };
    vec![
        accepted(
            "security: a sandbox's user and group",
            "psc.run_as_user.value psc.run_as_group.value",
            |sc| {
                (sc.run_as_user, sc.run_as_group) = (number(1000), number(1000));
            },
        ),
        refuses("security: a sandbox's group without a user is refused", "psc.run_as_group.value", |sc| {
            sc.run_as_group = number(1000);
        }),
        accepted(
            "security: a sandbox's supplemental groups",
            "psc.supplemental_groups psc.supplemental_groups_policy",
            |sc| {
                sc.supplemental_groups = vec![1234];
                sc.supplemental_groups_policy = cri::SupplementalGroupsPolicy::Strict.into();
            },
        ),
        accepted("security: a sandbox's read-only root", "psc.readonly_rootfs", |sc| {
            sc.readonly_rootfs = true
        }),
        accepted("security: a sandbox's seccomp profile", "psc.seccomp.profile_type", |sc| {
            sc.seccomp = profile(ProfileType::Unconfined, "");
        }),
        refuses(
            "security: a sandbox's seccomp profile that does not exist is refused",
            "psc.seccomp.localhost_ref",
            |sc| sc.seccomp = profile(ProfileType::Localhost, "/no/such/profile.json"),
        ),
        accepted("security: a sandbox's deprecated seccomp profile", "psc.seccomp_profile_path", |sc| {
            sc.seccomp_profile_path = "unconfined".to_owned();
        }),
        accepted("security: a sandbox's AppArmor profile", "psc.apparmor.profile_type", |sc| {
            sc.apparmor = profile(ProfileType::Unconfined, "");
        }),
        case(
            "security: a sandbox's AppArmor profile that is not loaded is refused",
            SOURCE,
            "psc.apparmor.localhost_ref",
            |t: Test| async move {
                let tried = t
                    .try_pod(|p| p.sc().apparmor = profile(ProfileType::Localhost, "peapod-test-not-loaded"))
                    .await;
                if !apparmor() {
                    return skip("the machine has no AppArmor");
                }
                refused("the pod", tried, &[]).map(|_| ())
            },
        ),
        case(
            "security: a privileged sandbox's ordinary container is confined",
            SOURCE,
            "psc.privileged",
            |t: Test| async move {
                let c = t.both(|p| p.sc().privileged = true, |_| {}).await?;
                is("CapEff", mask(c.pid().await?, "CapEff")?, DEFAULT & bounding()?)?;
                differs("the host's user", c.sh("ls /dev").await.context("ls")?, String::new())
            },
        ),
    ]
}
