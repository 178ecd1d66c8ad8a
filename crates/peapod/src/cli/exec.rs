//! `peapod exec`.

use super::{
    client::{Client, told},
    find, output,
};
use anyhow::{Context as _, bail};
use api::cri::{Container, ContainerState, ExecSyncRequest};

/// What `timeout` of coreutils returns too.
const TIMED_OUT: u8 = 124;

/// Run a command in a container and wait for its end
///
/// Its output is shown when it has ended (at most 16 MiB of each stream), and its exit code is this
/// command's. There is no terminal and no standard input.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  peapod exec web -- ls /\n  \
                        peapod exec web -c sidecar --timeout 5 -- /bin/sh -c 'kill -0 1'")]
pub(crate) struct Exec {
    /// Name, namespace/name, or id
    #[arg(value_name = "POD")]
    pod: String,
    /// Which container [default: the first that runs]
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Kill the command after so many seconds, and exit with 124
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
        Err(status) if status.code() == tonic::Code::DeadlineExceeded && args.timeout > 0 => {
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

fn default_container(pod: &find::Pod) -> anyhow::Result<&Container> {
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
