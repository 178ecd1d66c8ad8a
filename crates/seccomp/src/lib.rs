//! seccomp profiles: JSON to BPF, cached.
