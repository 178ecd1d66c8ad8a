//! gRPC types of everything that peapod serves, generated from `proto/` at build time: messages,
//! servers (for the daemon) and clients (for the command line, which is a CRI client like any other).
//!
//! The comments on messages and fields are in the `.proto` files and come along as documentation.
//! Maps are `BTreeMap`, `bytes` are `Vec<u8>`; enum fields are `i32`, because a peer may send a
//! number that this version does not know: reading one is `cri::NamespaceMode::try_from(n)`.

#![forbid(unsafe_code)]

/// The Kubernetes Container Runtime Interface, `runtime.v1`, as of Kubernetes 1.37.
///
/// `runtime_service_server`, `image_service_server` and their `_client` twins hold the services.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, clippy::restriction)]
#[allow(rustdoc::all)]
pub mod cri {
    tonic::include_proto!("runtime.v1");
}

/// peapod's own additions to the CRI, `peapod.admin.v1`, on the same socket.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, clippy::restriction)]
#[allow(rustdoc::all)]
pub mod admin {
    tonic::include_proto!("peapod.admin.v1");
}
