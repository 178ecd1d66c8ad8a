//! `peapod logs`, and the following of logs for `peapod run`.

mod follow;
mod line;
mod tail;

pub(crate) use follow::Follower;

use super::{
    client::{Client, told},
    find,
};
use anyhow::{Context as _, bail};
use api::cri::{Container, ContainerState, ContainerStatus, ContainerStatusRequest};
use line::{Joiner, Line};
use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _},
    path::PathBuf,
    time::Duration,
};

/// Show what a pod's containers wrote
///
/// Lines of standard error go to standard error. Without CONTAINER all of the pod's containers are shown,
/// each line with its container's name before it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  peapod logs web\n  peapod logs -f web sidecar\n  \
                        peapod logs --previous web app     of the attempt before the last restart")]
pub(crate) struct Logs {
    /// Name, namespace/name, or id
    #[arg(value_name = "POD")]
    pod: String,
    /// Which container [default: all of them]
    #[arg(value_name = "CONTAINER")]
    container: Option<String>,
    /// Go on as more is written, over rotation, until the container ends
    #[arg(short, long)]
    follow: bool,
    /// Of the attempt before the newest
    #[arg(short, long, conflicts_with = "follow")]
    previous: bool,
    /// Put the time of writing before each line
    #[arg(short, long)]
    timestamps: bool,
}

/// How long to wait between two looks at a file, and at the daemon's states.
pub(crate) const TICK: Duration = Duration::from_millis(100);
const STATE_TICKS: u32 = 5;

pub(crate) async fn logs(args: &Logs, client: &mut Client) -> anyhow::Result<u8> {
    let pods = find::pods(client).await?;
    let pod = find::choose_one(&pods, &args.pod)?;
    let mut containers = match &args.container {
        Some(name) => vec![find::container(pod, name)?],
        None => pod.newest(),
    };
    if args.previous {
        containers =
            containers.into_iter().map(|newest| previous(pod, newest)).collect::<anyhow::Result<_>>()?;
    }
    let prefixed = args.container.is_none() && containers.len() > 1;
    let mut sources = Vec::new();
    for container in containers {
        let status = status(client, &container.id).await?;
        if status.log_path.is_empty() {
            bail!("container {} of {} has no log", find::name(container), pod.full_name());
        }
        let name = prefixed.then(|| find::name(container).to_owned());
        sources.push((name, container.id.clone(), PathBuf::from(status.log_path)));
    }
    if args.follow {
        return follow_to_the_end(client, sources, args.timestamps).await;
    }
    let mut open = Vec::new();
    for (name, _, path) in sources {
        open.push((name, Source::open(path)?));
    }
    merge(open, args.timestamps)?;
    Ok(0)
}

fn previous<'a>(pod: &'a find::Pod, newest: &Container) -> anyhow::Result<&'a Container> {
    let name = find::name(newest);
    let earlier = |c: &&Container| find::name(c) == name && find::attempt(c) < find::attempt(newest);
    let found = pod.containers.iter().filter(earlier).max_by_key(|c| find::attempt(c));
    found.with_context(|| format!("container {name} of {} has no earlier attempt", pod.full_name()))
}

pub(crate) async fn status(client: &mut Client, id: &str) -> anyhow::Result<ContainerStatus> {
    let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
    let answer = client.runtime.container_status(request).await.map_err(|s| told(&s))?;
    answer.into_inner().status.context("the daemon gave no status")
}

async fn follow_to_the_end(
    client: &mut Client,
    sources: Vec<(Option<String>, String, PathBuf)>,
    timestamps: bool,
) -> anyhow::Result<u8> {
    let mut follower = Follower::new(timestamps);
    let mut living = Vec::new();
    for (name, id, path) in sources {
        living.push((follower.add(name, path), id));
    }
    let mut ticks = 0_u32;
    loop {
        let something = follower.pump()?;
        if ticks.is_multiple_of(STATE_TICKS) {
            let mut still = Vec::new();
            for (source, id) in living {
                if ended(client, &id).await? {
                    follower.end(source);
                } else {
                    still.push((source, id));
                }
            }
            living = still;
        }
        ticks = ticks.wrapping_add(1);
        if follower.is_over() {
            return Ok(0);
        }
        if !something {
            tokio::time::sleep(TICK).await;
        }
    }
}

/// Whether nothing more will be written. A daemon that is away for a while knows it when it is back.
async fn ended(client: &mut Client, id: &str) -> anyhow::Result<bool> {
    let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
    match client.runtime.container_status(request).await {
        Ok(answer) => {
            let state = answer.into_inner().status.unwrap_or_default().state();
            Ok(state == ContainerState::ContainerExited)
        }
        Err(status) if status.code() == tonic::Code::NotFound => Ok(true),
        Err(status) if status.code() == tonic::Code::Unavailable => Ok(false),
        Err(status) => Err(told(&status)),
    }
}

/// One log file from its beginning to its end as of now.
struct Source {
    records: BufReader<io::Take<File>>,
    joiner: Joiner,
    ready: VecDeque<Line>,
}

impl Source {
    fn open(path: PathBuf) -> anyhow::Result<Self> {
        let open = || -> io::Result<BufReader<io::Take<File>>> {
            let file = File::open(&path)?;
            // Up to here and no further, however fast the container writes.
            let length = file.metadata()?.len();
            Ok(BufReader::new(file.take(length)))
        };
        let records = open().with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { records, joiner: Joiner::default(), ready: VecDeque::new() })
    }

    /// Looks at the next line, reading on as far as it must.
    fn peek(&mut self) -> io::Result<Option<&Line>> {
        while self.ready.is_empty() {
            let mut record = Vec::new();
            (&mut self.records).take(tail::MOST_RECORD as u64).read_until(b'\n', &mut record)?;
            if record.is_empty() {
                self.ready.extend(self.joiner.rest());
                break;
            }
            record.pop_if(|last| *last == b'\n');
            self.ready.extend(self.joiner.feed(&record));
        }
        Ok(self.ready.front())
    }
}

/// Prints the lines of all sources in the order of their times.
fn merge(mut sources: Vec<(Option<String>, Source)>, timestamps: bool) -> io::Result<()> {
    loop {
        let mut earliest: Option<(usize, (String, String))> = None;
        for (i, (_, source)) in sources.iter_mut().enumerate() {
            let Some(key) = source.peek()?.map(Line::key) else { continue };
            if earliest.as_ref().is_none_or(|(_, least)| key < *least) {
                earliest = Some((i, key));
            }
        }
        let Some((i, _)) = earliest else { return Ok(()) };
        let (name, source) = &mut sources[i];
        if let Some(line) = source.ready.pop_front() {
            follow::print(name.as_deref(), &line, timestamps)?;
        }
    }
}
