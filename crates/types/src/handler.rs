//! RuntimeClass handlers: what makes the containers of a pod instead of our own runner.

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Names of our own runner in `RunPodSandboxRequest.runtime_handler`.
pub const OWN: [&str; 2] = ["", "peapod"];

/// One handler, as it is configured; kept in the plans of its pods, so that they are torn down with the
/// program that made them whatever the configuration says by then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum Handler {
    /// A program with runc's command line: runc, crun, youki.
    Oci {
        /// The program, absolute.
        path: PathBuf,
    },
}

impl Handler {
    /// Its program.
    #[must_use]
    pub fn program(&self) -> &Path {
        match self {
            Handler::Oci { path } => path,
        }
    }

    /// The OCI program that can be asked what it supports (`features`); `None`: nobody can.
    #[must_use]
    pub fn runtime(&self) -> Option<&Path> {
        match self {
            Handler::Oci { path } => Some(path),
        }
    }
}

/// Where the state of an OCI program is, beneath a pod's own directory: its `--root`.
#[must_use]
pub fn state_root(pod: &Path) -> PathBuf {
    pod.join("oci")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handler_is_read_as_it_was_written() {
        let oci = Handler::Oci { path: "/usr/bin/crun".into() };
        let text = r#"{"type":"oci","path":"/usr/bin/crun"}"#;
        assert_eq!(serde_json::to_string(&oci).expect("JSON"), text);
        assert_eq!(serde_json::from_str::<Handler>(text).expect("a handler"), oci);
        for bad in
            [r#"{"type":"vm","path":"/s"}"#, r#"{"type":"oci"}"#, r#"{"type":"oci","path":"/a","x":1}"#]
        {
            assert!(serde_json::from_str::<Handler>(bad).is_err(), "{bad}");
        }
    }
}
