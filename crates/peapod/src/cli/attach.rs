//! `peapod attach`.

use super::{
    client::{Client, told},
    exec::default_container,
    find,
    session::{Manner, hold},
};
use anyhow::Context as _;
use api::cri::AttachRequest;

/// Join a container's own input and output
///
/// Shows what its first process writes from now on, until that ends or you leave: Ctrl-C, or with -it
/// Ctrl-P Ctrl-Q. For what was written before, see `peapod logs`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  peapod attach web\n  peapod attach -it game -c app")]
pub(crate) struct Attach {
    /// Name, namespace/name, or id
    #[arg(value_name = "POD")]
    pod: String,
    /// Which container [default: the first that runs]
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Pass on standard input; the container must have been made with `stdin: true`
    #[arg(short = 'i', long)]
    stdin: bool,
    /// The container has a terminal (`tty: true`): pass on keys and the window's size
    #[arg(short, long)]
    tty: bool,
}

pub(crate) async fn attach(args: Attach, client: &mut Client) -> anyhow::Result<u8> {
    let pods = find::pods(client).await?;
    let pod = find::choose_one(&pods, &args.pod)?;
    let container = match &args.container {
        Some(name) => find::container(pod, name)?,
        None => default_container(pod)?,
    };
    let request = AttachRequest {
        container_id: container.id.clone(),
        stdin: args.stdin,
        tty: args.tty,
        stdout: true,
        stderr: !args.tty,
    };
    let doing = || format!("cannot attach to container {} of {}", find::name(container), pod.full_name());
    let answer = client.runtime.attach(request).await.map_err(|status| told(&status)).with_context(doing)?;
    let manner = Manner { stdin: args.stdin, tty: args.tty, may_leave: args.tty && args.stdin };
    hold(&answer.into_inner().url, manner).await
}
