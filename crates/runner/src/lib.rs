//! OCI runtime spec to a confined process.
