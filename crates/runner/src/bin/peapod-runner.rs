//! The runner's command line as a program of its own.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    runner::front::main(std::env::args_os().collect())
}
