//! Plan to OCI runtime spec, a pure function.
