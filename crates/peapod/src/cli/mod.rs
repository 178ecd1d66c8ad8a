//! The command line: `peapod serve` is the daemon, everything else is a client of its socket.
//!
//! The clients speak the CRI, as the kubelet does, and so they show what any client would see. Only
//! `load`, `config show` and the progress of a pull use peapod's own small service beside it.

mod attach;
mod client;
mod config;
mod exec;
mod find;
mod images;
mod load;
mod logs;
mod manifest;
mod output;
mod port_forward;
mod ps;
mod pull;
mod run;
mod serve;
mod session;
mod stop;
mod table;
mod terminal;
mod version;

pub(crate) use serve::Serve;

use clap::{Parser, Subcommand};
use client::Client;
use std::process::ExitCode;

/// The failure of a client's command, unless the command has codes of its own.
const FAILED: u8 = 1;

#[derive(Debug, Parser)]
#[command(
    name = "peapod",
    version,
    about = "peapod: a Kubernetes container runtime",
    after_help = "Begin with:\n  peapod serve --fallback-network bridge     the daemon (root)\n  \
                  peapod run POD.yaml                        a pod of a manifest\n  \
                  peapod ps                                  what runs\n\n\
                  A kubelet takes the same socket: --container-runtime-endpoint unix:///run/peapod/peapod.sock"
)]
struct Cli {
    /// The daemon's socket [env: PEAPOD_ADDRESS] [default: unix:///run/peapod/peapod.sock]
    #[arg(long, global = true, value_name = "unix://PATH")]
    address: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Run(run::Run),
    Ps(ps::Ps),
    Logs(logs::Logs),
    Exec(exec::Exec),
    Attach(attach::Attach),
    PortForward(port_forward::PortForward),
    Stop(stop::Stop),
    Rm(stop::Rm),
    Images(images::Images),
    Pull(pull::Pull),
    Load(load::Load),
    Version(version::Version),
    #[command(subcommand)]
    Config(config::Config),
}

/// Parses the arguments and does what they ask; `daemon` is `peapod serve`.
pub(crate) fn main(daemon: impl FnOnce(Serve) -> anyhow::Result<()>) -> ExitCode {
    let cli = Cli::parse();
    let address = cli.address;
    let done = match cli.command {
        Command::Serve(serve) => daemon(serve).map(|()| 0),
        Command::Config(config::Config::Default) => config::default(),
        command @ (Command::Run(_)
        | Command::Ps(_)
        | Command::Logs(_)
        | Command::Exec(_)
        | Command::Attach(_)
        | Command::PortForward(_)
        | Command::Stop(_)
        | Command::Rm(_)
        | Command::Images(_)
        | Command::Pull(_)
        | Command::Load(_)
        | Command::Version(_)
        | Command::Config(config::Config::Show)) => on_one_thread(async move {
            let address = client::Address::choose(address)?;
            dispatch(command, &address).await
        }),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        // `peapod logs ... | head`: who reads no more has not failed us.
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&format!("peapod: {error:#}"));
            ExitCode::from(FAILED)
        }
    }
}

async fn dispatch(command: Command, address: &client::Address) -> anyhow::Result<u8> {
    if let Command::Version(version) = command {
        return version::version(&version, address).await;
    }
    let mut client = Client::connect(address).await?;
    match command {
        Command::Run(run) => Box::pin(run::run(run, client)).await,
        Command::Ps(ps) => ps::ps(&ps, &mut client).await,
        Command::Logs(logs) => logs::logs(&logs, &mut client).await,
        Command::Exec(exec) => Box::pin(exec::exec(exec, &mut client)).await,
        Command::Attach(attach) => Box::pin(attach::attach(attach, &mut client)).await,
        Command::PortForward(ports) => Box::pin(port_forward::port_forward(ports, &mut client)).await,
        Command::Stop(stop) => stop::stop(&stop, &mut client).await,
        Command::Rm(rm) => stop::rm(&rm, &mut client).await,
        Command::Images(images) => images::images(&images, &mut client).await,
        Command::Pull(pull) => pull::pull(&pull, &mut client).await,
        Command::Load(load) => load::load(&load, &mut client).await,
        Command::Config(config::Config::Show) => config::show(&mut client).await,
        Command::Serve(_) | Command::Version(_) | Command::Config(config::Config::Default) => Ok(0),
    }
}

/// A client needs one thread only.
fn on_one_thread(work: impl Future<Output = anyhow::Result<u8>>) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(work);
    // A blocked read of a pipe must not keep the program.
    runtime.shutdown_background();
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_commands_of_the_readme_parse() {
        for line in [
            "serve --config /c --root /r --state /s --listen unix:///s/p.sock --cni-conf-dir /n --cni-bin-dir /b \
             --registry-dir /d --fallback-network bridge --log-level debug",
            "run pod.yaml",
            "run -d pod.yaml",
            "ps -o json --all",
            "logs -f pod app",
            "exec pod -c app -- /bin/sh -c true",
            "exec pod -- ls -l --color",
            "exec -it pod -- sh",
            "exec -i pod -c app -- tar x",
            "attach -it pod -c app",
            "port-forward pod 8080:80 :90 100 --bind 127.0.0.1",
            "stop pod other",
            "rm pod",
            "rm --all",
            "images -o json",
            "pull docker.io/library/busybox:latest",
            "load a.tar b.tar",
            "version -o json --address unix:///x.sock",
            "--address unix:///x.sock version",
            "config default",
            "config show",
        ] {
            let words = std::iter::once("peapod").chain(line.split_whitespace());
            Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        for line in [
            "rm",
            "rm --all pod",
            "stop",
            "exec pod",
            "serve --fallback-network mesh",
            "frobnicate",
            "port-forward pod",
            "port-forward pod 0",
            "exec -it --timeout 5 pod -- sh",
        ] {
            let words = std::iter::once("peapod").chain(line.split_whitespace());
            assert!(Cli::try_parse_from(words).is_err(), "{line}");
        }
    }
}
