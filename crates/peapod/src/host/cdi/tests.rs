use super::*;
use serde_json::{Value, json};

/// Directories of specifications.
struct Dirs(PathBuf);

impl Dirs {
    fn new(name: &str) -> Dirs {
        let root = std::env::temp_dir().join(format!("peapod-test-cdi-{name}-{}", std::process::id()));
        for dir in ["static", "dynamic"] {
            std::fs::create_dir_all(root.join(dir)).expect("a directory");
        }
        Dirs(root)
    }

    fn put(&self, path: &str, text: &str) {
        let file = File::create(self.0.join(path));
        file.and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes())).expect("written");
    }

    /// A file with one device, `x`, that sets a variable.
    fn variable(&self, path: &str, kind: &str, variable: &str) {
        let edits = json!({ "env": [variable] });
        self.put(path, &described("0.6.0", kind, &edits).to_string());
    }

    fn give(&self, names: &[&str]) -> std::result::Result<Value, String> {
        let names: Vec<_> = names.iter().map(|name| CdiName::parse(name).expect("a name")).collect();
        let dirs = ["static", "absent", "dynamic"].map(|dir| self.0.join(dir));
        let mut spec = spec();
        give(&dirs, &names, &mut spec).map_err(|error| {
            assert_eq!(error.fault, Fault::Invalid(FIELD), "{error}");
            error.to_string()
        })?;
        Ok(serde_json::to_value(spec).expect("JSON"))
    }
}

impl Drop for Dirs {
    fn drop(&mut self) {
        sys::tree::remove_path(&self.0).expect("removed");
    }
}

fn described(version: &str, kind: &str, edits: &Value) -> Value {
    json!({ "cdiVersion": version, "kind": kind, "devices": [{ "name": "x", "containerEdits": edits }] })
}

fn spec() -> OciSpec {
    let spec = json!({
        "ociVersion": "1.2.0",
        "process": {
            "cwd": "/", "args": ["x"], "env": ["PATH=/bin", "A=1"],
            "user": { "uid": 1000, "gid": 7, "additionalGids": [7] },
        },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/a", "type": "bind", "source": "/a", "options": ["rbind"] },
            { "destination": "/a/b/c", "type": "bind", "source": "/c", "options": ["rbind"] },
        ],
        "linux": { "resources": { "devices": [{ "allow": false, "access": "rwm" }] } },
    });
    serde_json::from_value(spec).expect("a specification")
}

#[test]
fn all_edits_are_done_and_those_of_a_file_once() {
    let dirs = Dirs::new("edits");
    let edits = json!({
        "env": ["A=2", "B=3"],
        "deviceNodes": [
            { "path": "/dev/x", "hostPath": "/dev/zero", "permissions": "r" },
            { "path": "/dev/y", "type": "b", "major": 7, "minor": 9, "fileMode": 384, "uid": 5, "gid": 6 },
            { "path": "/dev/p", "type": "p" },
        ],
        "mounts": [{ "hostPath": "/h", "containerPath": "/a/b", "options": ["ro", "bind"] }],
        "hooks": [{ "hookName": "createRuntime", "path": "/bin/true", "args": ["true"], "env": ["C=4"], "timeout": 3 }],
        "additionalGids": [0, 7, 44],
    });
    let text = json!({
        "cdiVersion": "1.0.0", "kind": "v.com/c",
        "devices": [{ "name": "x", "containerEdits": edits }, { "name": "y", "containerEdits": { "env": ["Y=1"] } }],
        "containerEdits": { "additionalGids": [55], "hooks": [{ "hookName": "poststop", "path": "/bin/false" }] },
    });
    dirs.put("static/v.json", &text.to_string());
    let spec = dirs.give(&["v.com/c=x", "v.com/c=y"]).expect("given");
    assert_eq!(spec["process"]["env"], json!(["PATH=/bin", "A=2", "B=3", "Y=1"]));
    assert_eq!(spec["process"]["user"]["additionalGids"], json!([7, 55, 44]));
    let nodes = &spec["linux"]["devices"];
    assert_eq!(
        (&nodes[0]["path"], &nodes[0]["major"], &nodes[0]["minor"]),
        (&json!("/dev/x"), &json!(1), &json!(5))
    );
    assert_eq!((&nodes[0]["uid"], &nodes[0]["gid"]), (&json!(1000), &json!(7)), "whose process it is");
    assert_eq!(
        nodes[1],
        json!({
            "path": "/dev/y", "type": "b", "major": 7, "minor": 9, "fileMode": 384, "uid": 5, "gid": 6,
        })
    );
    assert_eq!(nodes[2]["type"], "p");
    let rules = spec["linux"]["resources"]["devices"].as_array().expect("rules");
    assert_eq!(rules.len(), 3, "a FIFO needs none: {rules:?}");
    assert_eq!((&rules[1]["access"], &rules[2]["access"]), (&json!("r"), &json!("rwm")));
    let mounts = spec["mounts"].as_array().expect("mounts").iter();
    let places: Vec<_> = mounts.map(|mount| mount["destination"].as_str().unwrap_or_default()).collect();
    assert_eq!(places, ["/proc", "/a", "/a/b", "/a/b/c"]);
    assert_eq!(
        spec["hooks"]["createRuntime"],
        json!([
            { "path": "/bin/true", "args": ["true"], "env": ["C=4"], "timeout": 3 },
        ])
    );
    assert_eq!(spec["hooks"]["poststop"].as_array().map(Vec::len), Some(1), "the file's, once");
}

#[test]
fn files_may_be_yaml_and_the_later_directory_counts() {
    let dirs = Dirs::new("dirs");
    dirs.variable("static/a.json", "v.com/c", "A=static");
    dirs.put(
        "dynamic/a.yaml",
        "cdiVersion: 0.5.0\nkind: v.com/c\ndevices:\n- name: x\n  containerEdits:\n    env:\n    - A=dynamic\n",
    );
    dirs.variable("dynamic/other.txt", "v.com/c", "A=no");
    let spec = dirs.give(&["v.com/c=x"]).expect("given");
    assert_eq!(spec["process"]["env"][1], "A=dynamic");
}

#[test]
fn a_device_that_is_nowhere_or_twice_is_refused_by_name() {
    let dirs = Dirs::new("conflict");
    dirs.variable("static/a.json", "v.com/c", "A=1");
    dirs.variable("static/b.json", "v.com/c", "A=2");
    dirs.variable("static/c.json", "v.com/d", "A=3");
    let error = dirs.give(&["v.com/c=x"]).expect_err("two say what it is");
    assert!(error.contains("v.com/c=x") && error.contains("a.json") && error.contains("b.json"), "{error}");
    let error = dirs.give(&["v.com/d=y"]).expect_err("there is none");
    assert!(error.contains("no specification has the device v.com/d=y"), "{error}");
    // A directory that counts more settles it.
    dirs.variable("dynamic/a.json", "v.com/c", "A=4");
    assert_eq!(dirs.give(&["v.com/c=x"]).expect("given")["process"]["env"][1], "A=4");
}

#[test]
fn a_file_that_cannot_be_read_costs_no_other_its_use_and_is_named() {
    let dirs = Dirs::new("malformed");
    dirs.variable("static/good.json", "v.com/c", "A=1");
    dirs.put("static/bad.json", "{");
    dirs.put("static/bad.yaml", "cdiVersion: [");
    let fifo = dirs.0.join("static/fifo.json");
    let mode = Mode::from_raw_mode(0o600);
    sys::rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, mode, 0).expect("a FIFO");
    let large = File::create(dirs.0.join("static/large.json")).expect("a file");
    large.set_len(LARGEST + 1).expect("as large");
    dirs.give(&["v.com/c=x"]).expect("the good one is as good as before");
    let error = dirs.give(&["v.com/d=x"]).expect_err("it may be in a bad one");
    for told in ["not usable are 4", "static/bad.json", "static/bad.yaml", "static/fifo.json"] {
        assert!(error.contains(told), "no {told} in {error}");
    }
}

#[test]
fn what_is_malformed_too_new_for_its_version_or_not_done_is_refused() {
    let dirs = Dirs::new("refused");
    let refused = |text: &Value| {
        dirs.put("static/v.json", &text.to_string());
        dirs.give(&["v.com/c=x"]).expect_err("refused")
    };
    let edits = |version: &str, edits: Value| described(version, "v.com/c", &edits);
    let node = |node: Value| edits("1.1.0", json!({ "deviceNodes": [node] }));
    for (text, told) in [
        (edits("0.2.0", json!({})), "cdiVersion: `0.2.0` is not known"),
        (edits("1.1.0", json!({ "evn": [] })), "unknown field `evn`"),
        (edits("1.1.0", json!({ "env": ["A"] })), "`A` is no variable"),
        (edits("0.6.0", json!({ "additionalGids": [1] })), "`additionalGids` is of 0.7.0"),
        (edits("0.4.0", json!({ "deviceNodes": [{ "path": "/dev/x", "hostPath": "/dev/x" }] })), "of 0.5.0"),
        (edits("1.0.0", json!({ "netDevices": [{ "hostInterfaceName": "a", "name": "b" }] })), "of 1.1.0"),
        (
            edits("1.1.0", json!({ "netDevices": [{ "hostInterfaceName": "a", "name": "b" }] })),
            "wants netDevices",
        ),
        (edits("1.1.0", json!({ "intelRdt": { "closID": "a" } })), "wants intelRdt"),
        (
            edits("1.1.0", json!({ "hooks": [{ "hookName": "never", "path": "/x" }] })),
            "unknown variant `never`",
        ),
        (
            edits("1.1.0", json!({ "hooks": [{ "hookName": "prestart", "path": "x" }] })),
            "not an absolute path",
        ),
        (
            edits("1.1.0", json!({ "mounts": [{ "hostPath": "/x", "containerPath": "/a/../b" }] })),
            "not an absolute",
        ),
        (node(json!({ "path": "/dev/x", "permissions": "rwx" })), "not of r, w, m"),
        (node(json!({ "path": "/dev/x", "type": "a" })), "not b, c, u or p"),
        (node(json!({ "path": "/dev/x", "hostPath": "/etc/passwd" })), "/etc/passwd, which is none"),
        (node(json!({ "path": "/dev/x", "hostPath": "/dev/zero", "type": "b" })), "not of the type"),
        (node(json!({ "path": "/dev/x", "hostPath": "/dev/no-such" })), "cannot be looked at"),
        (json!({ "cdiVersion": "1.0.0", "kind": "v.com", "devices": [] }), "not a kind"),
        (
            json!({ "cdiVersion": "1.0.0", "kind": "v.com/c", "devices": [{ "name": "x" }, { "name": "x" }] }),
            "it is there twice",
        ),
    ] {
        let error = refused(&text);
        assert!(error.contains(told), "no {told:?} in {error}");
    }
}
