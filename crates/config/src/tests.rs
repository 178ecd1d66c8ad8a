use crate::*;
use std::{
    error::Error as _,
    fs::File,
    io::Write as _,
    sync::atomic::{AtomicU64, Ordering},
};

/// A directory with a configuration, removed with the value.
struct Dir(PathBuf, Vec<PathBuf>);

impl Dir {
    fn with(files: &[(&str, &str)]) -> Dir {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("peapod-config-{}-{number}", std::process::id()));
        std::fs::create_dir(&dir).expect("a new directory");
        std::fs::create_dir(dir.join("conf.d")).expect("a new directory");
        let mut made = Vec::new();
        for (name, text) in files {
            let path = dir.join(name);
            File::create(&path).expect("a file").write_all(text.as_bytes()).expect("written");
            made.push(path);
        }
        Dir(dir, made)
    }

    fn load(&self, flags: &Overrides) -> Result<Config, ConfigError> {
        Config::load(Some(&self.0.join("config.toml")), flags)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        for file in &self.1 {
            let _ = std::fs::remove_file(file);
        }
        let _ = std::fs::remove_dir(self.0.join("conf.d"));
        let _ = std::fs::remove_dir(&self.0);
    }
}

fn told(error: &ConfigError) -> String {
    let source = error.source().map(ToString::to_string).unwrap_or_default();
    format!("{error}: {source}")
}

#[test]
fn the_default_file_says_what_the_defaults_are_with_a_comment_for_each_key() {
    let parsed: Config = toml::from_str(Config::default_toml()).expect("parses");
    assert_eq!(parsed, Config::default());
    parsed.check().expect("the defaults are valid");
    let lines: Vec<&str> = Config::default_toml().lines().collect();
    for line in Config::default().to_toml().lines().filter(|line| line.contains(" = ")) {
        let key = line.split(" = ").next().expect("a key");
        let at = lines.iter().position(|shown| shown.starts_with(&format!("{key} = ")));
        let at = at.unwrap_or_else(|| panic!("`{key}` is not in the default file"));
        assert!(lines[at - 1].starts_with('#'), "`{key}` has no comment");
    }
}

#[test]
fn what_is_shown_reads_back_as_the_same() {
    let config = Config { log_level: LogLevel::Trace, ..Config::default() };
    assert_eq!(toml::from_str::<Config>(&config.to_toml()), Ok(config));
}

#[test]
fn drop_ins_win_in_the_order_of_their_names_and_flags_win_over_them() {
    let dir = Dir::with(&[
        ("config.toml", "root = '/a'\nlog_level = 'warn'\n[exec]\ndrain = 5\n"),
        ("conf.d/10-x.toml", "root = '/b'\n[exec]\noutput_cap = 4096\n[network]\nbin_dirs = ['/x']\n"),
        ("conf.d/20-y.toml", "root = '/c'\nstate = '/s'\n"),
        ("conf.d/30-z.toml.off", "root = 5\n"),
    ]);
    let config = dir.load(&Overrides::default()).expect("loads");
    assert_eq!(config.root, Path::new("/c"));
    assert_eq!((config.exec.drain, config.exec.output_cap), (5, 4096));
    assert_eq!(config.network.bin_dirs, [Path::new("/x")]);
    assert_eq!(config.log_level, LogLevel::Warn);
    let flags = Overrides {
        root: Some("/d".into()),
        listen: Some("unix:///d/s.sock".to_owned()),
        cni_bin_dir: Some("/bin-d".into()),
        fallback_network: Some(Fallback::Bridge),
        ..Overrides::default()
    };
    let config = dir.load(&flags).expect("loads");
    assert_eq!((config.root.as_path(), config.state.as_path()), (Path::new("/d"), Path::new("/s")));
    assert_eq!(config.socket(), Path::new("/d/s.sock"));
    assert_eq!(config.network.bin_dirs, [Path::new("/bin-d")]);
    assert_eq!(config.network.fallback, Fallback::Bridge);
}

#[test]
fn an_unknown_key_is_refused_by_its_name_and_file() {
    for (text, named) in [
        ("rot = '/a'\n", "rot"),
        ("[exec]\ndrian = 5\n", "drian"),
        ("[nope]\nx = 1\n", "nope"),
        ("[cgroup]\ndriver = 'systemdfs'\n", "systemdfs"),
        ("root = 5\n", "root"),
        ("root = \n", "config.toml"),
    ] {
        let dir = Dir::with(&[("config.toml", text)]);
        let error = dir.load(&Overrides::default()).expect_err(text);
        assert!(told(&error).contains(named), "{text:?}: {}", told(&error));
        assert!(told(&error).contains("config.toml"), "{}", told(&error));
        let dir = Dir::with(&[("config.toml", ""), ("conf.d/9.toml", text)]);
        let error = dir.load(&Overrides::default()).expect_err(text);
        assert!(told(&error).contains("9.toml"), "{}", told(&error));
    }
}

#[test]
fn a_value_that_cannot_be_is_refused_by_its_key() {
    let long = format!("state = '/{}'", "s".repeat(MAX_STATE_PATH));
    let long_socket = format!("listen = 'unix:///{}'", "s".repeat(107));
    for (text, key) in [
        ("root = 'var/lib'", "root"),
        ("root = '/'", "root"),
        ("root = '/var/../etc'", "root"),
        ("root = '/run/peapod/x'", "state"),
        ("state = '/var/lib/peapod'", "state"),
        (&long, "state"),
        ("listen = '/run/x.sock'", "listen"),
        ("listen = 'tcp://1.2.3.4:5'", "listen"),
        ("listen = 'unix://x.sock'", "listen"),
        (&long_socket, "listen"),
        ("socket_group = 'a b'", "socket_group"),
        ("cgroup.parent = 'peapod'", "cgroup.parent"),
        ("cgroup.parent = '/a/../b'", "cgroup.parent"),
        ("cgroup.parent = '/a//b'", "cgroup.parent"),
        ("cgroup.parent = '/a.slice'", "cgroup.parent"),
        ("cgroup = { driver = 'systemd', parent = '/a' }", "cgroup.parent"),
        ("cgroup = { driver = 'systemd', parent = 'a/b.slice' }", "cgroup.parent"),
        ("network.bin_dirs = ['bin']", "network.bin_dirs"),
        ("exec.output_cap = 0", "exec.output_cap"),
        ("streaming.idle_timeout = 0", "streaming.idle_timeout"),
        ("streaming.tls_cert = '/c.pem'", "streaming.tls_key"),
        ("streaming.tls_key = '/k.pem'", "streaming.tls_key"),
        ("streaming.tls_cert = 'c.pem'\nstreaming.tls_key = '/k.pem'", "streaming.tls_cert"),
        ("exec.output_cap = 16777217", "exec.output_cap"),
        ("container.max_log_line = 255", "container.max_log_line"),
        ("container.max_log_line = 1048577", "container.max_log_line"),
        ("container.seccomp_profile = 'x.json'", "container.seccomp_profile"),
        ("limits.max_pods = 0", "limits.max_pods"),
        ("limits.max_message = 1", "limits.max_message"),
    ] {
        let dir = Dir::with(&[("config.toml", text)]);
        match dir.load(&Overrides::default()) {
            Err(ConfigError::Invalid { key: named, .. }) => assert_eq!(named, key, "{text}"),
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn the_parent_of_pods_without_one_goes_with_the_cgroup_driver() {
    for (text, parent) in [
        ("", "/peapod"),
        ("cgroup.parent = '/a'", "/a"),
        ("cgroup.driver = 'systemd'", "peapod.slice"),
        ("cgroup = { driver = 'systemd', parent = 'a-b.slice' }", "a-b.slice"),
    ] {
        let config = Dir::with(&[("config.toml", text)]).load(&Overrides::default()).expect(text);
        assert_eq!(config.cgroup.parent(), parent, "{text}");
    }
}

#[test]
fn a_file_that_is_named_must_be_there_and_may_not_be_huge() {
    let missing = Config::load(Some(Path::new("/nonexistent/c.toml")), &Overrides::default());
    assert!(matches!(missing, Err(ConfigError::Read { .. })));
    let dir = Dir::with(&[("config.toml", &"#\n".repeat(600_000))]);
    assert!(matches!(dir.load(&Overrides::default()), Err(ConfigError::Read { .. })));
}

#[test]
fn levels_and_fallbacks_parse_by_name_alone() {
    assert_eq!("debug".parse(), Ok(LogLevel::Debug));
    assert_eq!("bridge".parse(), Ok(Fallback::Bridge));
    assert!("loud".parse::<LogLevel>().is_err() && "".parse::<Fallback>().is_err());
}

#[test]
fn handlers_are_tables_by_name_and_our_own_runner_is_none_of_them() {
    let text = "[handlers.runc]\ntype = 'oci'\npath = '/usr/bin/runc'\n[handlers.r2]\ntype = 'shim'\npath = '/s'\nruntime = '/r'\n";
    let config = Dir::with(&[("config.toml", text)]).load(&Overrides::default()).expect("loads");
    assert_eq!(config.handler_names().collect::<Vec<_>>(), ["", "peapod", "r2", "runc"]);
    assert_eq!((config.handler(""), config.handler("peapod")), (Ok(None), Ok(None)));
    let runc = Handler::Oci { path: "/usr/bin/runc".into() };
    assert_eq!(config.handler("runc"), Ok(Some(&runc)));
    let refused = config.handler("kata").expect_err("not there");
    assert_eq!(refused, "`kata` is not configured; this node has ``, `peapod`, `r2`, `runc`");
    assert_eq!(toml::from_str::<Config>(&config.to_toml()), Ok(config));
}

#[test]
fn a_handler_that_cannot_be_is_refused_by_its_name() {
    for (table, named) in [
        ("[handlers.peapod]\ntype = 'oci'\npath = '/r'", "`peapod`"),
        ("[handlers.'']\ntype = 'oci'\npath = '/r'", "``"),
        ("[handlers.Runc]\ntype = 'oci'\npath = '/r'", "`Runc`"),
        ("[handlers.-a]\ntype = 'oci'\npath = '/r'", "`-a`"),
        ("[handlers.'a.b']\ntype = 'oci'\npath = '/r'", "`a.b`"),
        ("[handlers.runc]\ntype = 'oci'\npath = 'usr/bin/runc'", "`runc` with a `path`"),
        ("[handlers.runc]\ntype = 'oci'\npath = '/r'\nruntime = '/r'", "runtime"),
        ("[handlers.runc]\ntype = 'shim'\npath = '/s'\nruntime = 'runc'", "`runc` with a `runtime`"),
        ("[handlers.runc]\ntype = 'vm'\npath = '/r'", "vm"),
        ("[handlers.runc]\ntype = 'oci'", "path"),
        ("[handlers.runc]\npath = '/r'", "type"),
    ] {
        let dir = Dir::with(&[("config.toml", table)]);
        let error = dir.load(&Overrides::default()).expect_err(table);
        assert!(told(&error).contains(named), "{table:?}: {}", told(&error));
    }
}
