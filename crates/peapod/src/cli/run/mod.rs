//! `peapod run`: what the kubelet does for a pod, for one manifest.

mod backoff;
mod bring_up;
mod dns;
mod images;
mod machine;
mod places;
mod plan;
mod qos;
mod signals;
mod supervise;
#[cfg(test)]
mod tests;

pub(crate) use places::Places;
pub(crate) use plan::{GRACE, KIND};

use super::{client::Client, find, manifest, output};
use anyhow::Context as _;
use bring_up::BroughtUp;
use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};
use supervise::{Outcome, Supervisor};

/// Run the pod of a manifest
///
/// In the foreground it shows what the containers write, restarts them by the pod's restartPolicy as the
/// kubelet does (at once, then after 10 s, 20 s, ... 5 min), and Ctrl-C stops the pod. The exit code is that
/// of the first container that failed. The pod stays listed, with its logs, until `peapod rm` or the next
/// run; an ended pod of the same name is replaced, a living one is not.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  peapod run pod.yaml\n  peapod run -d pod.yaml\n  kubectl run web --image nginx \
                        --dry-run=client -o yaml | peapod run -\n\n\
                        Fields of a Pod that peapod run does not obey are refused by their name.\n\
                        Without imagePullPolicy an image is pulled only if it is not there, `:latest` too.\n\
                        Without seccompProfile a container gets RuntimeDefault."
)]
pub(crate) struct Run {
    /// Return when the containers run; nothing restarts them then
    #[arg(short, long)]
    detach: bool,
    #[command(flatten)]
    places: Places,
    /// A Pod, YAML or JSON; `-` is standard input
    #[arg(value_name = "POD.yaml")]
    manifest: PathBuf,
}

pub(crate) async fn run(args: Run, mut client: Client) -> anyhow::Result<u8> {
    let text = read(&args.manifest).with_context(|| format!("cannot read {}", args.manifest.display()))?;
    let pod = manifest::parse(&text).with_context(|| args.manifest.display().to_string())?;
    let name = format!("{}/{}", pod.namespace, pod.name);
    let short_name = if pod.namespace == "default" { pod.name.clone() } else { name.clone() };
    // A living pod is told before anything is pulled for a new one.
    bring_up::replaceable(&find::pods(&mut client).await?, &pod, &args.places)?;
    let up = bring_up::bring_up(&client, pod, &args.places).await?;
    let BroughtUp { plan, id, sandbox, images, ip, hold } = up;
    let mut supervisor = Supervisor::new(client, plan, id, sandbox, images, args.detach)?;
    let told = if ip.is_empty() { String::new() } else { format!(", IP {ip}") };
    if !args.detach {
        output::complain(&format!("peapod: pod {name}{told}; Ctrl-C stops it"));
    }
    let outcome = match supervisor.run().await {
        Ok(outcome) => outcome,
        Err(error) => {
            // Half a pod is of no use. The first error is the one to be told.
            let _ = supervisor.remove(&args.places).await;
            return Err(error);
        }
    };
    drop(hold);
    match outcome {
        Outcome::Detached => {
            output::print(&format!(
                "pod {name} runs{told}\nNothing restarts its containers now. Follow them with `peapod logs -f \
                 {short_name}`, remove the pod with `peapod rm {short_name}`.\n"
            ))?;
            Ok(0)
        }
        Outcome::Ended(code) => Ok(code),
    }
}

fn read(path: &Path) -> io::Result<String> {
    let reader: Box<dyn io::Read> =
        if path == Path::new("-") { Box::new(io::stdin()) } else { Box::new(File::open(path)?) };
    let mut text = String::new();
    reader.take(manifest::MOST_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > manifest::MOST_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is longer than 1 MiB"));
    }
    Ok(text)
}
