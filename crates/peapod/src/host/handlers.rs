//! RuntimeClass handlers on this machine: whether their programs are there, what they can do, and what other
//! people's programs want beside a bundle. Our own runner needs none of it.
//!
//! Such a program wants the root file system mounted at `<bundle>/rootfs`, on the host. It is mounted before the
//! container is made, and goes with it; what the program keeps lies beneath the pod's own directory
//! ([`types::handler::state_root`]), so that nothing of it is left elsewhere, whoever was killed.

use super::{blocking::failed, volumes};
use cgroup::{Cgroup, Mounts, Version};
use config::Config;
use engine::host::{ContainerPlan, Fault, HostError, PodPlan, Result};
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashMap},
    ffi::CString,
    fs::{self, File},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};
use sys::rustix::{
    fd::{AsRawFd as _, OwnedFd},
    fs::{Mode, OFlags, open},
    io::Errno,
    mount::{MountFlags, mount, mount_bind},
    process::{Pid, Signal},
};
use types::handler::{Handler, NAMESPACE, shim_directory, state_root};

/// `features` only prints.
const FEATURES_WITHIN: Duration = Duration::from_secs(5);
/// What `features` prints is some KiB.
const MOST_FEATURES: u64 = 1 << 20;
/// `delete --force` of a container whose processes are killed.
const DELETE_WITHIN: Duration = Duration::from_secs(10);
/// A killed shim ends within.
const KILLED_WITHIN: Duration = Duration::from_secs(5);
/// So much of what a failed program wrote is told.
const MOST_TOLD: u64 = 1024;
/// mount(2) takes one page of options, with its NUL.
const MOST_OPTIONS: usize = 4095;
/// Programs look for others (criu, newuidmap) there.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where runc looks for the v2 hierarchy of such a machine (opencontainers/cgroups:utils.go).
const HYBRID: &str = "/sys/fs/cgroup/unified";
/// What a request names a handler in.
const FIELD: &str = "runtime_handler";
/// The root file system in a bundle.
const ROOTFS: &str = "rootfs";

/// The handlers of the configuration, and what is known of their programs.
#[derive(Debug)]
pub(crate) struct Handlers {
    configured: BTreeMap<String, Handler>,
    known: Mutex<HashMap<PathBuf, (Stamp, Features)>>,
}

/// Which file a program is: its features are asked for again when it is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

/// What matters here of features.md of the runtime specification.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Features {
    /// Mounts that are read-only with all below them. The kernel has that since 5.12, which is less than what
    /// peapod runs on.
    rro: bool,
}

/// What a Status tells of one handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) name: String,
    pub(crate) recursive_read_only_mounts: bool,
    /// Why no pod can have it at present.
    pub(crate) trouble: Option<String>,
}

impl Handlers {
    pub(crate) fn new(config: &Config) -> Handlers {
        Handlers { configured: config.handlers.clone(), known: Mutex::default() }
    }

    /// That the programs of a pod's handler are there.
    pub(super) fn check_pod(&self, name: &str) -> Result<()> {
        let Some(handler) = self.configured.get(name) else { return Ok(()) };
        usable(handler).map_err(|why| {
            HostError::new(
                format!("the runtime_handler `{name}` cannot be used: {why}"),
                Fault::Invalid(FIELD),
            )
        })
    }

    /// That a container asks for nothing that its pod's handler does not do.
    pub(super) fn check_container(&self, pod: &PodPlan, container: &ContainerPlan) -> Result<()> {
        let Some(handler) = &pod.handler else { return Ok(()) };
        let name = &pod.spec.runtime_handler;
        let refused = |field, what: &str| {
            Err(HostError::new(
                format!("the runtime_handler `{name}` does not do {what}"),
                Fault::Invalid(field),
            ))
        };
        if matches!(handler, Handler::Shim { .. }) && container.spec.tty {
            return refused("config.tty", "terminals: its shim keeps them to itself");
        }
        let rro = container.spec.mounts.iter().any(|mount| mount.recursive_readonly);
        if rro && !self.features(handler).is_ok_and(|features| features.rro) {
            return refused(
                "config.mounts.recursive_read_only",
                "mounts that are read-only with all below them",
            );
        }
        Ok(())
    }

    /// Each configured handler. May wait for programs that are asked for the first time.
    pub(crate) fn states(&self) -> Vec<State> {
        let state = |(name, handler): (&String, &Handler)| {
            let features = usable(handler).and_then(|()| self.features(handler));
            State {
                name: name.clone(),
                recursive_read_only_mounts: features.as_ref().is_ok_and(|features| features.rro),
                trouble: features.err(),
            }
        };
        self.configured.iter().map(state).collect()
    }

    /// From the last time, or asked for.
    fn features(&self, handler: &Handler) -> std::result::Result<Features, String> {
        let Some(program) = handler.runtime() else { return Ok(Features::default()) };
        let stamp = Stamp::of(program)?;
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, features)) = known().get(program).filter(|(then, _)| *then == stamp) {
            return Ok(*features);
        }
        let features = ask(program)?;
        known().insert(program.to_owned(), (stamp, features));
        Ok(features)
    }
}

impl Stamp {
    fn of(program: &Path) -> std::result::Result<Stamp, String> {
        let found = fs::metadata(program).map_err(|error| format!("{}: {error}", program.display()))?;
        let changed = (found.mtime(), found.mtime_nsec());
        Ok(Stamp { device: found.dev(), inode: found.ino(), size: found.size(), changed })
    }
}

/// That all programs which a handler names are files that can be executed.
fn usable(handler: &Handler) -> std::result::Result<(), String> {
    for program in [Some(handler.program()), handler.runtime()].into_iter().flatten() {
        let found = fs::metadata(program).map_err(|error| format!("{}: {error}", program.display()))?;
        if !found.is_file() || found.permissions().mode() & 0o111 == 0 {
            return Err(format!("{} is not a program", program.display()));
        }
    }
    Ok(())
}

/// Asks a program for its features.
fn ask(program: &Path) -> std::result::Result<Features, String> {
    let said = run(program, &["features".as_ref()], FEATURES_WITHIN, MOST_FEATURES)?;
    features(&said).ok_or_else(|| format!("{} features: it prints no features", program.display()))
}

fn features(said: &[u8]) -> Option<Features> {
    let said: Value = serde_json::from_slice(said).ok()?;
    // Absent where a program does not say: then nothing is promised.
    said.get("ociVersionMin")?;
    let options = said.get("mountOptions").and_then(Value::as_array);
    Some(Features { rro: options.is_some_and(|options| options.iter().any(|option| option == "rro")) })
}

/// Runs a program to its end and gives what it printed; an error is what it said.
fn run(
    program: &Path,
    words: &[&std::ffi::OsStr],
    limit: Duration,
    most: u64,
) -> std::result::Result<Vec<u8>, String> {
    let told = |error: &dyn std::fmt::Display| {
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        format!("{} {}: {error}", program.display(), words.join(" "))
    };
    let memory = |most| sys::program::memory(most).map_err(|e| told(&e));
    let (mut out, mut err) = (memory(most)?, memory(MOST_TOLD)?);
    let copy = |file: &File| file.try_clone().map_err(|e| told(&e));
    let mut command = Command::new(program);
    command.args(words).env_clear().env("PATH", PATH).current_dir("/");
    command.stdin(Stdio::null()).stdout(copy(&out)?).stderr(copy(&err)?);
    let status = sys::program::run_within(command, limit).map_err(|e| told(&e))?;
    match status {
        Some(status) if status.success() => sys::program::written(&mut out).map_err(|e| told(&e)),
        Some(status) => {
            let said = sys::program::written(&mut err).unwrap_or_default();
            Err(told(&format!("{status}: {}", String::from_utf8_lossy(&said).trim())))
        }
        None => Err(told(&format!("it took longer than {} s and was killed", limit.as_secs()))),
    }
}

/// Mounts the root file system where the handler's program looks for it; nothing to do for our own runner, whose
/// containers mount theirs themselves. `label`: of SELinux.
pub(super) fn mount_root(pod: &PodPlan, plan: &ContainerPlan, label: Option<&str>) -> Result<()> {
    if pod.handler.is_none() {
        return Ok(());
    }
    let at = plan.bundle.join(ROOTFS);
    let doing = || format!("cannot mount the root file system at {}", at.display());
    // What a try before left.
    volumes::take_away(&at)?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&at).map_err(|e| failed(doing())(e))?;
    let mounted = directory(&at).and_then(|place| {
        let place = format!("/proc/self/fd/{}", place.as_raw_fd());
        let upper = plan.rootfs.join("upper");
        if plan.image.layers.is_empty() {
            return mount_bind(&upper, place.as_str());
        }
        let (options, _held) = overlay(plan, label)?;
        mount("overlay", place.as_str(), "overlay", MountFlags::empty(), options.as_c_str())
    });
    mounted.map_err(|e| failed(doing())(e))
}

fn directory(path: &Path) -> std::result::Result<OwnedFd, Errno> {
    open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// The options of the overlay. The layers by their paths, which people can read in the table of mounts; so many that
/// these do not fit, by descriptors. `volatile`: what a crash leaves of it is never mounted again.
fn overlay(plan: &ContainerPlan, label: Option<&str>) -> std::result::Result<(CString, Vec<OwnedFd>), Errno> {
    let text = |lower: Vec<String>| {
        let context = label.map(|label| format!(",context=\"{label}\"")).unwrap_or_default();
        let (upper, work) = (plan.rootfs.join("upper"), plan.rootfs.join("work"));
        let (upper, work) = (upper.display(), work.display());
        // overlay wants the highest first.
        let lower = lower.into_iter().rev().collect::<Vec<_>>().join(":");
        format!("lowerdir={lower},upperdir={upper},workdir={work},volatile{context}")
    };
    let plain = text(plan.image.layers.iter().map(|layer| layer.display().to_string()).collect());
    if plain.len() <= MOST_OPTIONS {
        return CString::new(plain).map(|text| (text, Vec::new())).map_err(|_| Errno::INVAL);
    }
    let held =
        plan.image.layers.iter().map(|layer| directory(layer)).collect::<std::result::Result<Vec<_>, _>>()?;
    let short = text(held.iter().map(|fd| format!("/proc/self/fd/{}", fd.as_raw_fd())).collect());
    if short.len() > MOST_OPTIONS {
        return Err(Errno::TOOBIG);
    }
    CString::new(short).map(|text| (text, held)).map_err(|_| Errno::INVAL)
}

/// What a handler's program has of a container whose processes are killed: its state and the root file system's
/// mount. Idempotent, and without a shim.
pub(super) fn drop_container(pod: &PodPlan, plan: &ContainerPlan) -> Result<()> {
    let Some(handler) = &pod.handler else { return Ok(()) };
    forget(&pod.paths.dir, handler, plan.id.as_str())?;
    volumes::take_away(&plan.bundle.join(ROOTFS))
}

/// The same for whatever is left beneath a pod's directory.
pub(super) fn drop_pod(pod: &PodPlan) -> Result<()> {
    let Some(handler) = &pod.handler else { return Ok(()) };
    for place in names(&place_of(&pod.paths.dir, handler))? {
        forget(&pod.paths.dir, handler, &place)?;
    }
    let bundles = pod.paths.dir.join("c");
    names(&bundles)?.iter().try_for_each(|name| volumes::take_away(&bundles.join(name).join(ROOTFS)))
}

/// The groups that runc makes in the v2 hierarchy of a machine whose controllers are in v1, which nobody else of ours
/// uses. What is in use, by another pod of the same `cgroup_parent`, goes with that.
pub(super) fn drop_groups(mounts: &Mounts, pod: &PodPlan) -> Result<()> {
    if pod.handler.is_none() || pod.cgroup.scope.is_some() || mounts.version() == Version::V2 {
        return Ok(());
    }
    let Ok(hybrid) = Mounts::unified_at(Path::new(HYBRID)) else { return Ok(()) };
    for path in std::iter::once(&pod.cgroup.path).chain(&pod.cgroup.made) {
        let group = Cgroup::at(&hybrid, &super::pod::cgroup_path(path)?);
        if group.processes().is_ok_and(|left| left.is_empty()) {
            group.remove().map_err(failed(format!("cannot remove {path} of {HYBRID}")))?;
        }
    }
    Ok(())
}

/// The `--root` of the program: shims put containerd's namespace below what they are told.
fn place_of(dir: &Path, handler: &Handler) -> PathBuf {
    match handler {
        Handler::Oci { .. } => state_root(dir),
        Handler::Shim { .. } => state_root(dir).join(NAMESPACE),
    }
}

/// Ends a foreign shim that its pod's own shim did not end: all that works in its directory, as shims do.
pub(super) fn drop_shim(pod: &PodPlan) -> Result<()> {
    const DOING: &str = "cannot end the shim of the pod's handler";
    let Some(Handler::Shim { .. }) = &pod.handler else { return Ok(()) };
    let place = shim_directory(&pod.paths.dir).join(pod.id.as_str());
    let gone = sys::wait::until(KILLED_WITHIN, || {
        let found = super::processes::working_in(&place);
        found.iter().filter_map(|pid| Pid::from_raw(*pid)).try_for_each(|pid| {
            match sys::pidfd::open(pid).and_then(|process| {
                // Looked at anew: the number may have become another's meanwhile.
                let still = super::processes::working_in(&place).contains(&pid.as_raw_pid());
                if still { sys::pidfd::send_signal(&process, Signal::KILL).map(drop) } else { Ok(()) }
            }) {
                Err(Errno::SRCH) => Ok(()),
                other => other,
            }
        })?;
        Ok::<_, Errno>(found.is_empty())
    });
    match gone.map_err(failed(DOING))? {
        true => Ok(()),
        false => Err(HostError::new(format!("{DOING}: it does not end"), Fault::Deadline)),
    }
}

fn names(dir: &Path) -> Result<Vec<String>> {
    let doing = || format!("cannot read {}", dir.display());
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(doing())(error)),
    };
    let name = |entry: std::io::Result<fs::DirEntry>| {
        entry.map(|entry| entry.file_name().to_string_lossy().into_owned()).map_err(failed(doing()))
    };
    entries.map(name).collect()
}

/// Has the program delete what it still knows of a container, so that it also runs the hooks that come after. A
/// program that cannot is told of; its state goes all the same.
fn forget(dir: &Path, handler: &Handler, id: &str) -> Result<()> {
    let root = place_of(dir, handler);
    let state = root.join(id);
    match fs::symlink_metadata(&state) {
        Ok(found) if found.is_dir() => {}
        // Programs keep other files there, of no container.
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(format!("cannot look at {}", state.display()))(error)),
    }
    if let Some(program) = handler.runtime() {
        let words = ["--root".as_ref(), root.as_os_str(), "delete".as_ref(), "--force".as_ref(), id.as_ref()];
        if let Err(error) = run(program, &words, DELETE_WITHIN, 0) {
            tracing::warn!(container = id, error, "a handler's program does not delete a container");
        }
    }
    sys::tree::remove_path(&state).map_err(failed(format!("cannot remove {}", state.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(name: &str, text: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("peapod-test-handler-{}-{name}", std::process::id()));
        let mode = Mode::from_raw_mode(0o755);
        sys::file::replace_path(&path, text.as_bytes(), mode).expect("a script");
        path
    }

    fn handlers(name: &str, handler: Handler) -> Handlers {
        Handlers { configured: BTreeMap::from([(name.to_owned(), handler)]), known: Mutex::default() }
    }

    #[test]
    fn features_are_asked_for_once_and_again_when_the_program_is_another() {
        let rro = |options: &str| {
            format!(
                "#!/bin/sh\necho x >>$0.asked\necho '{{\"ociVersionMin\":\"1.0.0\",\"mountOptions\":[{options}]}}'\n"
            )
        };
        let path = script("asked", &rro("\"ro\",\"rro\""));
        let asked = path.with_file_name(format!("{}.asked", path.file_name().expect("name").display()));
        let handlers = handlers("x", Handler::Oci { path: path.clone() });
        let state = |rro| State { name: "x".to_owned(), recursive_read_only_mounts: rro, trouble: None };
        assert_eq!((handlers.states(), handlers.states()), (vec![state(true)], vec![state(true)]));
        assert_eq!(fs::read_to_string(&asked).expect("asked"), "x\n");
        script("asked", &rro("\"ro\""));
        assert_eq!(handlers.states(), [state(false)]);
        fs::remove_file(&path).expect("remove");
        fs::remove_file(&asked).expect("remove");
        let gone = handlers.states();
        assert!(gone[0].trouble.as_deref().is_some_and(|why| why.contains("No such file")), "{gone:?}");
        assert!(!gone[0].recursive_read_only_mounts);
    }

    #[test]
    fn a_program_that_prints_garbage_or_fails_promises_nothing_and_says_why() {
        for (name, text, why) in [
            ("garbage", "#!/bin/sh\necho nonsense\n", "prints no features"),
            ("fails", "#!/bin/sh\necho oh no >&2\nexit 3\n", "exit status: 3: oh no"),
        ] {
            let path = script(name, text);
            let states = handlers("x", Handler::Oci { path: path.clone() }).states();
            assert!(states[0].trouble.as_deref().is_some_and(|said| said.contains(why)), "{states:?}");
            fs::remove_file(&path).expect("remove");
        }
    }

    #[test]
    fn a_pod_is_refused_a_handler_whose_program_is_none() {
        for (path, why) in [
            ("/nonexistent/runc", "No such file"),
            ("/etc/passwd", "is not a program"),
            ("/", "is not a program"),
        ] {
            let error = handlers("x", Handler::Oci { path: path.into() }).check_pod("x").expect_err(path);
            assert_eq!(error.fault, Fault::Invalid(FIELD));
            assert!(error.to_string().contains(why) && error.to_string().contains("`x`"), "{error}");
        }
        let shim = Handler::Shim { path: "/bin/sh".into(), runtime: Some("/nonexistent".into()) };
        assert!(handlers("x", shim).check_pod("x").is_err());
        assert!(handlers("x", Handler::Oci { path: "/bin/sh".into() }).check_pod("x").is_ok());
        assert!(handlers("x", Handler::Oci { path: "/nonexistent".into() }).check_pod("").is_ok());
    }
}
