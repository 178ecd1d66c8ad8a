//! AppArmor profiles of the host. SELinux has a module of its own.
//!
//! | host | asked for | done |
//! |---|---|---|
//! | without AppArmor | RuntimeDefault or nothing | nothing, as with the peers |
//! | | a localhost profile | an error |
//! | with AppArmor | RuntimeDefault or nothing | [`DEFAULT`], which is loaded if it is not |
//! | | a localhost profile | that one; an error if it is not loaded |
//!
//! A privileged container is not confined (CRI comment).

use super::blocking::failed;
use engine::host::{ContainerPlan, Fault, HostError, Result};
use std::{
    fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use types::container::AppArmorProfile;

/// The name of the profile that `RuntimeDefault` stands for.
pub(super) const DEFAULT: &str = "peapod-default";
/// Its text, for apparmor_parser(8).
const TEXT: &str = include_str!("peapod-default.apparmor");
/// Where the parser is; without it nothing is loaded, by nobody.
const PARSERS: [&str; 3] = ["/sbin/apparmor_parser", "/usr/sbin/apparmor_parser", "/usr/bin/apparmor_parser"];
/// The list of loaded profiles, at most.
const LARGEST_LIST: u64 = 16 << 20;

/// The modules of a machine; another root than `/` is a test's.
#[derive(Clone, Debug)]
pub(super) struct Modules {
    root: PathBuf,
}

impl Modules {
    /// Those of this machine.
    pub(super) fn of_the_host() -> Modules {
        Modules { root: PathBuf::from("/") }
    }

    fn has_apparmor(&self) -> bool {
        let enabled = self.root.join("sys/module/apparmor/parameters/enabled");
        fs::read_to_string(enabled).is_ok_and(|text| text.trim() == "Y")
    }

    /// What an administrator should know: `None` = containers are confined.
    pub(super) fn remark(&self) -> Option<&'static str> {
        match (self.has_apparmor(), self.parser()) {
            (true, Some(_)) => None,
            (true, None) => Some("containers are not confined by AppArmor: there is no apparmor_parser"),
            (false, _) => Some("containers are not confined by AppArmor: the kernel has it not enabled"),
        }
    }

    fn parser(&self) -> Option<PathBuf> {
        let beneath = |path: &&str| self.root.join(path.trim_start_matches('/'));
        PARSERS.iter().map(beneath).find(|path| path.is_file())
    }

    /// `name (mode)` in each line of the kernel's list.
    fn is_loaded(&self, name: &str) -> Result<bool> {
        let path = self.root.join("sys/kernel/security/apparmor/profiles");
        let mut text = String::new();
        fs::File::open(&path)
            .and_then(|file| file.take(LARGEST_LIST).read_to_string(&mut text))
            .map_err(failed(format!("cannot read {}", path.display())))?;
        Ok(text.lines().any(|line| line.rsplit_once(" (").is_some_and(|(loaded, _)| loaded == name)))
    }

    /// The profile that the container's processes run under.
    pub(super) fn profile(&self, plan: &ContainerPlan) -> Result<Option<String>> {
        let security = &plan.spec.security;
        if security.privileged {
            return Ok(None);
        }
        match &security.apparmor {
            AppArmorProfile::Unconfined => Ok(None),
            AppArmorProfile::Localhost(name) => self.localhost(name).map(Some),
            AppArmorProfile::RuntimeDefault if self.has_apparmor() => self.default_profile(),
            AppArmorProfile::RuntimeDefault => Ok(None),
        }
    }

    /// A profile that the request names.
    pub(super) fn localhost(&self, name: &str) -> Result<String> {
        const FIELD: &str = "config.linux.security_context.apparmor.localhost_ref";
        let unusable = |why: &str| {
            Err(HostError::new(format!("the AppArmor profile `{name}` {why}"), Fault::Invalid(FIELD)))
        };
        match self.has_apparmor() {
            false => unusable("cannot be used: this node has no AppArmor"),
            true if self.is_loaded(name)? => Ok(name.to_owned()),
            true => unusable("is not loaded on this node"),
        }
    }

    /// Loaded at the first container that wants it, and again if somebody took it away.
    fn default_profile(&self) -> Result<Option<String>> {
        if self.is_loaded(DEFAULT)? {
            return Ok(Some(DEFAULT.to_owned()));
        }
        let Some(parser) = self.parser() else {
            tracing::warn!("no apparmor_parser: containers run without an AppArmor profile");
            return Ok(None);
        };
        load(&parser)?;
        Ok(Some(DEFAULT.to_owned()))
    }
}

/// apparmor_parser(8): replaces what is there, reads no cache, which may be of another machine's features.
fn load(parser: &Path) -> Result<()> {
    const DOING: &str = "cannot load the default AppArmor profile";
    let mut child = Command::new(parser)
        .args(["--replace", "--skip-cache"])
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed(DOING))?;
    let written = child.stdin.take().map(|mut stdin| stdin.write_all(TEXT.as_bytes()));
    let output = child.wait_with_output().map_err(failed(DOING))?;
    if output.status.success() {
        return written.unwrap_or(Ok(())).map_err(failed(DOING));
    }
    let said: String = String::from_utf8_lossy(&output.stderr).chars().take(500).collect();
    Err(HostError::new(format!("{DOING}: {}: {}", output.status, said.trim()), Fault::Internal))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use types::container::{ContainerSpec, Security};

    /// A machine of files.
    struct Fake(PathBuf);

    impl Fake {
        fn new(name: &str) -> Fake {
            let root = std::env::temp_dir().join(format!("peapod-test-lsm-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&root).expect("a directory");
            Fake(root)
        }

        fn put(&self, path: &str, text: &str) {
            let path = self.0.join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            fs::File::create(&path).and_then(|mut file| file.write_all(text.as_bytes())).expect("written");
        }

        fn with_apparmor(name: &str) -> Fake {
            let fake = Fake::new(name);
            fake.put("sys/module/apparmor/parameters/enabled", "Y\n");
            fake.put("sys/kernel/security/apparmor/profiles", "own (enforce)\na b (complain)\n");
            fake
        }

        fn profile(
            &self,
            asked: AppArmorProfile,
            privileged: bool,
        ) -> std::result::Result<Option<String>, String> {
            let security = Security { apparmor: asked, privileged, ..Security::default() };
            let modules = Modules { root: self.0.clone() };
            modules.profile(&plan(security)).map_err(|error| error.to_string())
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            sys::tree::remove_path(&self.0).expect("removed");
        }
    }

    fn plan(security: Security) -> ContainerPlan {
        let pod = engine::pod::plan::plan(
            &config::Config::default(),
            types::PodId::from_random([1; 32]),
            types::pod::PodSpec::default(),
            engine::pod::plan::Facts::default(),
            types::Timestamp(1),
        );
        let spec = ContainerSpec { security, ..ContainerSpec::default() };
        let id = types::ContainerId::from_random([2; 32]);
        let image = engine::host::ImageFacts::default();
        engine::container::plan::plan(&pod.expect("a plan"), id, spec, image, types::Timestamp(2))
            .expect("a plan")
    }

    fn localhost(name: &str) -> AppArmorProfile {
        AppArmorProfile::Localhost(name.to_owned())
    }

    #[test]
    fn without_apparmor_the_default_is_nothing_and_a_named_profile_is_an_error() {
        let fake = Fake::new("none");
        assert_eq!(fake.profile(AppArmorProfile::RuntimeDefault, false), Ok(None));
        assert_eq!(fake.profile(AppArmorProfile::Unconfined, false), Ok(None));
        let error = fake.profile(localhost("own"), false).expect_err("no AppArmor");
        assert!(error.contains("this node has no AppArmor"), "{error}");
        fake.put("sys/module/apparmor/parameters/enabled", "N\n");
        assert_eq!(fake.profile(AppArmorProfile::RuntimeDefault, false), Ok(None));
    }

    #[test]
    fn with_apparmor_a_profile_that_is_loaded_is_used_and_another_is_an_error() {
        let fake = Fake::with_apparmor("some");
        assert_eq!(fake.profile(localhost("own"), false), Ok(Some("own".to_owned())));
        assert_eq!(fake.profile(localhost("a b"), false), Ok(Some("a b".to_owned())));
        for absent in ["ow", "own (enforce)", "a", "b", "own/../own"] {
            let error = fake.profile(localhost(absent), false).expect_err(absent);
            assert!(error.contains("is not loaded"), "{error}");
        }
        assert_eq!(fake.profile(AppArmorProfile::Unconfined, false), Ok(None));
        assert_eq!(fake.profile(localhost("own"), true), Ok(None), "a privileged one is not confined");
    }

    #[test]
    fn the_default_profile_is_loaded_once_by_the_parser() {
        let fake = Fake::with_apparmor("load");
        let program = |script: &str| {
            fake.put("sbin/apparmor_parser", script);
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(fake.0.join("sbin/apparmor_parser"), mode).expect("a mode");
        };
        let list = fake.0.join("sys/kernel/security/apparmor/profiles").display().to_string();
        assert_eq!(fake.profile(AppArmorProfile::RuntimeDefault, false), Ok(None), "there is no parser");
        let remark = || Modules { root: fake.0.clone() }.remark();
        assert!(remark().is_some_and(|remark| remark.ends_with("there is no apparmor_parser")));
        program("#!/bin/sh\necho broken >&2\nexit 3\n");
        let error = fake.profile(AppArmorProfile::RuntimeDefault, false).expect_err("it failed");
        assert!(error.contains("broken"), "{error}");
        program(&format!(
            "#!/bin/sh\ntest \"$*\" = '--replace --skip-cache' || exit 9\n\
             name=$(sed -n 's/^profile \\([a-z-]*\\) .*/\\1/p')\necho \"$name (enforce)\" >>{list}\n"
        ));
        assert_eq!(remark(), None);
        let default = Ok(Some(DEFAULT.to_owned()));
        assert_eq!(fake.profile(AppArmorProfile::RuntimeDefault, false), default);
        program("#!/bin/sh\nexit 1\n");
        assert_eq!(fake.profile(AppArmorProfile::RuntimeDefault, false), default, "it is there already");
        assert_eq!(fake.profile(localhost(DEFAULT), false), default);
    }
}
