//! `peapod exec`.

use super::{
    client::{Client, told},
    find, output,
    session::{Manner, hold},
};
use anyhow::{Context as _, bail};
use api::cri::{Container, ContainerState, ExecRequest, ExecSyncRequest};

/// What `timeout` of coreutils returns too.
const TIMED_OUT: u8 = 124;

/// Run a command in a container
///
/// Its output is shown as it comes, and its exit code is this command's. With -it it is a shell: keys,
/// Ctrl-C and the window's size are the container's.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  peapod exec web -- ls /\n  peapod exec -it web -- sh\n  \
                        tar c . | peapod exec -i web -- tar x -C /srv\n  \
                        peapod exec web -c sidecar --timeout 5 -- /bin/sh -c 'kill -0 1'")]
pub(crate) struct Exec {
    /// Name, namespace/name, or id
    #[arg(value_name = "POD")]
    pod: String,
    /// Which container [default: the first that runs]
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Pass on standard input
    #[arg(short = 'i', long, conflicts_with = "timeout")]
    stdin: bool,
    /// Give the command a terminal
    #[arg(short, long, conflicts_with = "timeout")]
    tty: bool,
    /// Kill the command with all that it started after so many seconds, and exit with 124; its output is
    /// then shown when it has ended, at most 16 MiB of each stream
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=86_400))]
    timeout: u32,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

pub(crate) async fn exec(args: Exec, client: &mut Client) -> anyhow::Result<u8> {
    let pods = find::pods(client).await?;
    let pod = find::choose_one(&pods, &args.pod)?;
    let container = match &args.container {
        Some(name) => find::container(pod, name)?,
        None => default_container(pod)?,
    };
    if args.timeout == 0 {
        return session(args, client, pod, container).await;
    }
    let request = ExecSyncRequest {
        container_id: container.id.clone(),
        cmd: args.command,
        timeout: i64::from(args.timeout),
    };
    match client.runtime.exec_sync(request).await {
        Ok(answer) => {
            let answer = answer.into_inner();
            output::write(&answer.stdout)?;
            // Nobody can be told of a broken standard error.
            let _ = std::io::Write::write_all(&mut std::io::stderr(), &answer.stderr);
            // A process returns 0 to 255.
            Ok(u8::try_from(answer.exit_code).unwrap_or(u8::MAX))
        }
        Err(status) if status.code() == tonic::Code::DeadlineExceeded => {
            output::complain(&format!(
                "peapod: the command did not end within {} s and was killed",
                args.timeout
            ));
            Ok(TIMED_OUT)
        }
        Err(status) => {
            let name = find::name(container).to_owned();
            Err(told(&status))
                .with_context(|| format!("cannot run a command in container {name} of {}", pod.full_name()))
        }
    }
}

async fn session(
    args: Exec,
    client: &mut Client,
    pod: &find::Pod,
    container: &Container,
) -> anyhow::Result<u8> {
    let request = ExecRequest {
        container_id: container.id.clone(),
        cmd: args.command,
        tty: args.tty,
        stdin: args.stdin,
        stdout: true,
        stderr: !args.tty,
    };
    let doing =
        || format!("cannot run a command in container {} of {}", find::name(container), pod.full_name());
    let answer = client.runtime.exec(request).await.map_err(|status| told(&status)).with_context(doing)?;
    let manner = Manner { stdin: args.stdin, tty: args.tty, may_leave: false };
    hold(&answer.into_inner().url, manner).await
}

pub(crate) fn default_container(pod: &find::Pod) -> anyhow::Result<&Container> {
    let newest = pod.newest();
    let Some(first) = newest.iter().find(|c| c.state() == ContainerState::ContainerRunning) else {
        bail!("no container of pod {} runs", pod.full_name());
    };
    if newest.len() > 1 {
        let names: Vec<&str> = newest.iter().map(|c| find::name(c)).collect();
        output::complain(&format!("peapod: in container {} (of {})", find::name(first), names.join(", ")));
    }
    Ok(first)
}
