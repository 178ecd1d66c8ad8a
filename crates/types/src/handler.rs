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
    /// A shim of containerd's runtime v2, behind our own.
    Shim {
        /// The shim's program, absolute.
        path: PathBuf,
        /// The OCI program that the shim shall run (`BinaryName` of runc's options), absolute; `None` leaves it
        /// to the shim, which then gets no options.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        runtime: Option<PathBuf>,
    },
}

impl Handler {
    /// Its program.
    #[must_use]
    pub fn program(&self) -> &Path {
        match self {
            Handler::Oci { path } | Handler::Shim { path, .. } => path,
        }
    }

    /// The OCI program that can be asked what it supports (`features`); `None`: nobody can.
    #[must_use]
    pub fn runtime(&self) -> Option<&Path> {
        match self {
            Handler::Oci { path } => Some(path),
            Handler::Shim { runtime, .. } => runtime.as_deref(),
        }
    }
}

/// Where the state of an OCI program is, beneath a pod's own directory: its `--root`.
#[must_use]
pub fn state_root(pod: &Path) -> PathBuf {
    pod.join("oci")
}

/// Where a pod's foreign shim has its socket and its own bundle, beneath the pod's own directory.
#[must_use]
pub fn shim_directory(pod: &Path) -> PathBuf {
    pod.join("v2")
}

/// containerd's namespace that foreign shims are told.
pub const NAMESPACE: &str = "peapod";

/// What a shim's `start` gets on its standard input since containerd 2.3
/// (containerd:api/runtime/bootstrap/v1/bootstrap.proto), as far as there is something to say.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct BootstrapParams {
    /// As on the command line.
    #[prost(string, tag = "1")]
    pub instance_id: String,
    /// As on the command line.
    #[prost(string, tag = "2")]
    pub namespace: String,
    /// For its log.
    #[prost(string, tag = "4")]
    pub containerd_version: String,
    /// Where its socket shall be.
    #[prost(string, optional, tag = "9")]
    pub socket_dir: Option<String>,
}

/// What it prints then.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct BootstrapResult {
    /// Of the Task API: 2 or 3.
    #[prost(int32, tag = "1")]
    pub version: i32,
    /// `unix://` and a path, among others.
    #[prost(string, tag = "2")]
    pub address: String,
    /// `ttrpc` or `grpc`.
    #[prost(string, tag = "3")]
    pub protocol: String,
}

/// Options of a shim that runs OCI programs (containerd:api/types/runc/options/oci.proto); cgroups are made by the
/// program itself unless it is told otherwise.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RuncOptions {
    /// The OCI program.
    #[prost(string, tag = "6")]
    pub binary_name: String,
    /// Its `--root`, to which the shim adds the namespace.
    #[prost(string, tag = "7")]
    pub root: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handler_is_read_as_it_was_written() {
        let oci = Handler::Oci { path: "/usr/bin/crun".into() };
        let shim = Handler::Shim { path: "/s".into(), runtime: Some("/r".into()) };
        let bare = Handler::Shim { path: "/s".into(), runtime: None };
        for (handler, text) in [
            (oci, r#"{"type":"oci","path":"/usr/bin/crun"}"#),
            (shim, r#"{"type":"shim","path":"/s","runtime":"/r"}"#),
            (bare, r#"{"type":"shim","path":"/s"}"#),
        ] {
            assert_eq!(serde_json::to_string(&handler).expect("JSON"), text);
            assert_eq!(serde_json::from_str::<Handler>(text).expect("a handler"), handler);
        }
        for bad in
            [r#"{"type":"vm","path":"/s"}"#, r#"{"type":"oci"}"#, r#"{"type":"oci","path":"/a","x":1}"#]
        {
            assert!(serde_json::from_str::<Handler>(bad).is_err(), "{bad}");
        }
    }
}
