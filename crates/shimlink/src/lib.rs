//! The daemon's end of any shim v2: spawn, dial, reconnect, wait.
