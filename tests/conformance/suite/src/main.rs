//! conformance: what a CRI runtime must do, field by field, tried on any endpoint over its socket.
//!
//! Each case makes its own pods, looks at the effect from inside the container, from the host and in the status, and
//! names the source that says it must be so. The program runs on the runtime's machine, in its network namespace, as root.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "cases write and look at paths that they made themselves")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a program that reports")]
#![allow(clippy::large_futures, reason = "a story is boxed once")]
#![allow(deprecated, reason = "fields of the CRI that are deprecated are fields of the CRI")]
#![allow(unreachable_pub, reason = "a program of several modules")]

mod call;
mod case;
mod cases;
mod cover;
mod doc;
mod host;
mod image;
mod known;
mod registry;
mod run;
mod socket;
mod spoil;
mod story;
mod tap;
mod wire;
mod world;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use std::{path::PathBuf, process::ExitCode};

/// Tries a CRI runtime field by field. Closing line: `conformance: P passed, F failed, S skipped`; the exit code is 1
/// when something failed.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Arguments {
    /// The runtime's socket, `unix:///run/...`.
    #[arg(long, required_unless_present_any = ["list", "doc"])]
    endpoint: Option<String>,
    /// The image service's socket, if it is another.
    #[arg(long)]
    image_endpoint: Option<String>,
    /// Only cases whose name or field contains this; `|` separates alternatives.
    #[arg(long, default_value = "")]
    filter: String,
    /// Print names, sources and fields, and run nothing.
    #[arg(long)]
    list: bool,
    /// How many cases run at a time.
    #[arg(long, default_value_t = 8)]
    jobs: usize,
    /// Wait this many times as long for what does not come: for slow machines.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    patience: u32,
    /// Write the results there.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Test the suite itself: spoil each answer field that a case claims to check, and expect the case to fail.
    #[arg(long)]
    spoil: bool,
    /// Write the page of all calls and fields there, from the results given, and run nothing.
    #[arg(long, requires = "results")]
    doc: Option<PathBuf>,
    /// Results of --json: peapod's, then the peer's.
    #[arg(long, num_args = 2)]
    results: Vec<PathBuf>,
    /// Where the suite's registry listens. The runtime must be told that it speaks plain HTTP.
    #[arg(long, default_value = "127.0.0.1:5001")]
    registry: String,
    /// A directory for what the cases need on the host, on a file system that can be mounted and idmapped.
    #[arg(long, default_value = "/var/tmp")]
    scratch: PathBuf,
}

fn main() -> ExitCode {
    match start() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("conformance: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn start() -> Result<bool> {
    let arguments = Arguments::parse();
    if let Some(page) = &arguments.doc {
        doc::write(page, &arguments.results)?;
        return Ok(true);
    }
    let chosen: Vec<_> =
        cases::all().into_iter().filter(|case| run::chosen(case, &arguments.filter)).collect();
    if chosen.is_empty() {
        bail!("no case has {:?} in its name or fields", arguments.filter);
    }
    story::be_patient(arguments.patience);
    if arguments.list {
        for case in &chosen {
            println!("{}\n    {}\n    {}", case.name, case.source, case.fields.join(" "));
        }
        println!("conformance: {} cases", chosen.len());
        return Ok(true);
    }
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("a runtime")?
        .block_on(async {
            if arguments.spoil {
                spoil::run(&arguments, chosen).await
            } else {
                run::run(&arguments, chosen).await
            }
        })
}
