//! The unpacking child by itself, for the tests: what `peapod unpack-layer` is in the daemon.

fn main() -> std::process::ExitCode {
    image::unpack_child_main()
}
