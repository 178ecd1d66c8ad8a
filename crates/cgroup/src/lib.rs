//! cgroup v1 and v2: create, limit, freeze, kill, read, watch.
