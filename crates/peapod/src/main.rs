//! peapod: the daemon and its command line.
#![forbid(unsafe_code)]

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main(serve)
}

/// `peapod serve`.
fn serve(args: cli::Serve) -> anyhow::Result<()> {
    let (file, flags) = args.into_parts();
    config::Config::load(file.as_deref(), &flags)?;
    anyhow::bail!("this build has no daemon")
}
