//! The composition root of the daemon: builds every part in order, then runs them.
//!
//! Building is apart from running: directories, lock, socket and store come first, then the rooms,
//! then the engine, which takes up what the store knows; only then is the first call served.

use crate::{
    host::{LinuxHost, handlers::Handlers, security_remark, systemd_is_running, userns},
    listen, logging, notify, streamer,
};
use anyhow::Context as _;
use api::{
    admin::admin_server::AdminServer,
    cri::{image_service_server::ImageServiceServer, runtime_service_server::RuntimeServiceServer},
};
use config::{CgroupDriver, Config, Overrides};
use cri::{AdminApi, CallLayer, HandlerState, ImageApi, NetworkState, Node, Runtime};
use engine::{Engine, Parts, Probe};
use image::Images;
use net::{Network, NetworkOptions, netns::Pins};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use store::Store;
use stream::{Door, Sessions};
use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
};
use tokio_stream::wrappers::UnixListenerStream;
use types::SystemClock;

/// What a graceful stop waits for calls that are under way.
const GRACE: Duration = Duration::from_secs(10);
/// The shim's program, beside the daemon's own.
const SHIM: &str = "containerd-shim-peapod-v1";

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// When a part cannot be built; the text says which, and what to do.
pub(crate) fn serve(file: Option<&Path>, flags: &Overrides) -> anyhow::Result<()> {
    let config = Config::load(file, flags).context("the configuration cannot be used")?;
    logging::start(config.log_level);
    sys::heap::few_arenas();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(64)
        .thread_stack_size(1 << 20)
        .thread_name("peapod")
        .enable_all()
        .build()
        .context("the runtime cannot be started")?;
    let done = runtime.block_on(run(config));
    // What a blocking thread still does is as after a crash: nobody waits for it.
    runtime.shutdown_timeout(Duration::from_millis(100));
    done
}

/// Parts that outlive a call, and are put away at the end.
struct Built {
    engine: Engine<LinuxHost>,
    images: Arc<Images>,
    network: Arc<Network>,
    pins: Pins,
    streams: Arc<Door>,
    user_namespaces: userns::Support,
    handlers: Arc<Handlers>,
}

async fn run(config: Config) -> anyhow::Result<()> {
    sys::rustix::process::umask(sys::rustix::fs::Mode::from_raw_mode(0o077));
    listen::own_dir(&config.root, 0o700)?;
    listen::own_dir(&config.state, 0o750)?;
    let group = group_id(&config.socket_group)?;
    give_to_group(&config.state, group)?;
    let lock = listen::lock(&config.state)?;
    let listener = listen::bind(config.socket(), Some(group))?;
    let built = build(&config).await?;
    let node = Arc::new(node(&config, &built));
    let stopped = serve_calls(&config, listener, &built, node).await;
    notify::tell("STOPPING=1");
    let finished = tokio::time::timeout(GRACE, built.engine.shutdown()).await;
    if finished.is_err() {
        tracing::warn!("some work was not finished in time; the next start takes it up");
    }
    put_away(&config, built).await;
    // Before the lock goes, so that a daemon that waits for it does not lose a socket of its own.
    remove_quietly(config.socket());
    remove_quietly(&config.state.join("peapod.pid"));
    drop(lock);
    stopped
}

/// The rooms, from the ground up.
async fn build(config: &Config) -> anyhow::Result<Built> {
    let crash = Crash::from_env();
    for name in ["pods", "seccomp"] {
        listen::own_dir(&config.state.join(name), 0o700)?;
    }
    listen::own_dir(&config.root.join("pods"), 0o700)?;
    let mounts = cgroup::Mounts::detect().context("cgroups cannot be used")?;
    if config.cgroup.driver == CgroupDriver::Systemd {
        systemd_is_running().map_err(anyhow::Error::msg).context("cgroup.driver")?;
    }
    let store = Store::open(&config.store()).context("the store cannot be opened")?;
    let setup = image::Setup {
        root: config.root.clone(),
        hosts_dir: Some(config.registry.dir.clone()),
        unpacker: image::Unpacker::this_program(),
        patience: image::Patience { progress: config.registry.progress_timeout(), ..Default::default() },
        points: crash.points(),
    };
    let images = Arc::new(Images::open(store.clone(), setup).await.context("the images cannot be read")?);
    let network = Arc::new(Network::load(network_options(config)).context("the network cannot be set up")?);
    let pins = Pins::mount(&config.state).context("namespaces cannot be pinned")?;
    let program = Arc::new(shimlink::Program::open(&shim_path()?).context("the shim cannot be opened")?);
    let user_namespaces = userns::Support::probe(&config.root, &config.state);
    let host = LinuxHost::new(
        Arc::clone(&images),
        Arc::clone(&network),
        pins.clone(),
        program,
        mounts,
        config,
        user_namespaces.clone(),
    );
    let handlers = host.handlers();
    let engine = Engine::start(Parts {
        host,
        store,
        config: config.clone(),
        clock: Arc::new(SystemClock),
        random: Arc::new(random),
        probe: crash.probe(),
    })
    .await
    .context("the records cannot be taken up")?;
    tidy_up(&engine, &images, &network, &pins).await;
    let streams = Arc::new(streamer::door(config)?);
    Ok(Built { engine, images, network, pins, streams, user_namespaces, handlers })
}

/// What belongs to pods that are not there any more: a crash may have left it.
async fn tidy_up(engine: &Engine<LinuxHost>, images: &Images, network: &Network, pins: &Pins) {
    let living: Vec<_> =
        engine.pods(&engine::PodFilter::default()).iter().map(|pod| pod.plan.id.clone()).collect();
    if let Err(error) = pins.gc(&living) {
        tracing::warn!(%error, "pins of lost pods are left");
    }
    if let Err(error) = network.gc(&living).await {
        tracing::warn!(%error, "addresses or rules of lost pods are left");
    }
    if let Err(error) = images.collect().await {
        tracing::warn!(%error, "layers that nobody needs are left");
    }
}

async fn serve_calls(
    config: &Config,
    listener: std::os::unix::net::UnixListener,
    built: &Built,
    node: Arc<Node>,
) -> anyhow::Result<()> {
    let limit = config.limits.max_message;
    let images = ImageApi::new(Arc::clone(&built.images), handler_names(config));
    let admin = AdminServer::new(AdminApi::new(images.clone(), config.to_toml()))
        .max_decoding_message_size(limit)
        .max_encoding_message_size(limit);
    let sessions: Arc<dyn Sessions> = Arc::clone(&built.streams) as _;
    let runtime = RuntimeServiceServer::new(Runtime::new(built.engine.clone(), node, sessions))
        .max_decoding_message_size(limit)
        .max_encoding_message_size(limit);
    let images =
        ImageServiceServer::new(images).max_decoding_message_size(limit).max_encoding_message_size(limit);
    let incoming =
        UnixListenerStream::new(UnixListener::from_std(listener).context("the socket cannot be served")?);
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be handled")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be handled")?;
    let (stopping, stop) = tokio::sync::oneshot::channel::<()>();
    let server = tonic::transport::Server::builder()
        .concurrency_limit_per_connection(config.limits.max_concurrent_calls)
        .layer(CallLayer)
        .add_service(runtime)
        .add_service(images)
        .add_service(admin)
        .serve_with_incoming_shutdown(incoming, async {
            // A sender that is gone means the same.
            let _ = stop.await;
        });
    tokio::pin!(server);
    tracing::info!(socket = %config.socket().display(), pid = std::process::id(), "serving");
    notify::tell("READY=1");
    tokio::select! {
        ended = &mut server => return ended.context("the server ended"),
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
        _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
    }
    // A server ends when its streams have ended.
    built.engine.end_events();
    // Dropping it is the word.
    drop(stopping);
    match tokio::time::timeout(GRACE, server).await {
        Ok(ended) => ended.context("the server ended"),
        Err(_) => {
            tracing::warn!("some calls were not finished in time");
            Ok(())
        }
    }
}

/// A daemon that leaves no pod behind takes its network, its pins and its directories along.
async fn put_away(config: &Config, built: Built) {
    let Built { engine, images, network, pins, streams, .. } = built;
    let left = has_pods(config);
    drop((engine, images));
    if left {
        return;
    }
    streams.end().await;
    if let Err(error) = network.remove().await {
        tracing::warn!(%error, "something of the pod network is left");
    }
    if let Err(error) = pins.unmount() {
        tracing::warn!(%error, "the mount for pins is left");
    }
    for name in ["pods", "seccomp", "groups", "ns", "streams", "switched-on"] {
        let path = config.state.join(name);
        if let Err(error) = sys::tree::remove_path(&path) {
            tracing::warn!(%error, path = %path.display(), "cannot be removed");
        }
    }
}

/// By the directories, as records may be gone already.
fn has_pods(config: &Config) -> bool {
    let any = |path: PathBuf| std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some());
    any(config.state.join("pods")) || any(config.root.join("pods"))
}

fn remove_quietly(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, path = %path.display(), "cannot be removed");
    }
}

fn network_options(config: &Config) -> NetworkOptions {
    NetworkOptions {
        conf_dir: config.network.conf_dir.clone(),
        bin_dir: plugins_dir(&config.network.bin_dirs),
        fallback: match config.network.fallback {
            config::Fallback::None => net::Fallback::None,
            config::Fallback::Bridge => net::Fallback::Bridge,
        },
        ..NetworkOptions::new(&config.root, &config.state)
    }
}

/// The first of the directories that is there.
fn plugins_dir(dirs: &[PathBuf]) -> PathBuf {
    dirs.iter().find(|dir| dir.is_dir()).or(dirs.first()).cloned().unwrap_or_default()
}

/// The shim lies beside the daemon, wherever that is installed.
fn shim_path() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("the daemon does not know its own path")?;
    let path = own.parent().unwrap_or(Path::new("/")).join(SHIM);
    anyhow::ensure!(
        path.is_file(),
        "{} is missing: it is built and installed beside peapod (make build)",
        path.display()
    );
    Ok(path)
}

/// Ids come from the kernel.
fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    let mut filled = 0;
    while filled < bytes.len() {
        // Interrupted, or early at boot: it is asked again.
        if let Ok(more) =
            sys::rustix::rand::getrandom(&mut bytes[filled..], sys::rustix::rand::GetRandomFlags::empty())
        {
            filled += more;
        }
    }
    bytes
}

/// Where a daemon under test ends itself; nowhere in any other.
#[cfg(feature = "crash-points")]
struct Crash(Arc<crate::crash::CrashPoints>);

#[cfg(feature = "crash-points")]
impl Crash {
    fn from_env() -> Crash {
        Crash(Arc::new(crate::crash::CrashPoints::from_env()))
    }

    fn probe(&self) -> Probe {
        let points = Arc::clone(&self.0);
        Probe::new(move |point| {
            points.passed(point);
            engine::Go::On
        })
    }

    fn points(&self) -> image::Points {
        let points = Arc::clone(&self.0);
        image::Points::new(move |point| points.passed(point))
    }
}

/// Where a daemon under test ends itself; nowhere in any other.
#[cfg(not(feature = "crash-points"))]
struct Crash;

#[cfg(not(feature = "crash-points"))]
impl Crash {
    fn from_env() -> Crash {
        Crash
    }

    fn probe(&self) -> Probe {
        Probe::none()
    }

    fn points(&self) -> image::Points {
        image::Points::default()
    }
}

fn handler_names(config: &Config) -> cri::Handlers {
    cri::Handlers::new(config.handlers.keys().map(String::as_str))
}

/// What the configured handlers can do; a program that is asked for the first time may take its time.
async fn handler_states(handlers: Arc<Handlers>) -> Vec<HandlerState> {
    let states = tokio::task::spawn_blocking(move || handlers.states()).await.unwrap_or_default();
    let state = |found: crate::host::handlers::State| HandlerState {
        name: found.name,
        recursive_read_only_mounts: found.recursive_read_only_mounts,
        trouble: found.trouble,
    };
    states.into_iter().map(state).collect()
}

fn node(config: &Config, built: &Built) -> Node {
    let (network, handlers) = (Arc::clone(&built.network), Arc::clone(&built.handlers));
    let settings = serde_json::json!({
        "stateDir": config.state,
        "rootDir": config.root,
        "cgroupDriver": config.cgroup.driver,
        "fallbackNetwork": config.network.fallback,
        "registryDir": config.registry.dir,
        "createMissingMountSources": config.container.create_missing_mount_sources,
        "deviceOwnershipFromSecurityContext": config.container.device_ownership_from_security_context,
        "cdiSpecDirs": config.cdi.spec_dirs,
        "handlers": config.handlers,
    });
    let mut remarks: Vec<String> = security_remark().map(str::to_owned).into_iter().collect();
    remarks.extend(built.user_namespaces.remark());
    if config.container.create_missing_mount_sources {
        remarks.push(
            "missing sources of mounts are made as directories (create_missing_mount_sources)".to_owned(),
        );
    }
    Node {
        network: Box::new(move || {
            let network = Arc::clone(&network);
            Box::pin(async move {
                match network.status().await {
                    net::Status::Ready { .. } => NetworkState::Ready,
                    net::Status::NotReady { reason, advice } => {
                        NetworkState::NotReady { message: format!("{reason}: {advice}") }
                    }
                }
            })
        }),
        info: BTreeMap::from([("config".to_owned(), settings.to_string())]),
        remarks,
        systemd: config.cgroup.driver == CgroupDriver::Systemd,
        user_namespaces: built.user_namespaces.is_there(),
        handlers: handler_names(config),
        handler_states: Box::new(move || {
            let handlers = Arc::clone(&handlers);
            Box::pin(async move { handler_states(handlers).await })
        }),
        statuses_in_pod_status: config.events.in_pod_status,
        stats: stats::Reader::new(),
    }
}

/// A group by its number or its name in /etc/group.
fn group_id(group: &str) -> anyhow::Result<u32> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    let file = std::fs::read_to_string("/etc/group").context("cannot read /etc/group")?;
    file.lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            (fields.next() == Some(group)).then(|| fields.nth(1)).flatten()
        })
        .find_map(|number| number.parse().ok())
        .with_context(|| format!("socket_group: there is no group `{group}` in /etc/group"))
}

fn give_to_group(path: &Path, group: u32) -> anyhow::Result<()> {
    let group = sys::rustix::fs::Gid::from_raw(group);
    sys::rustix::fs::chown(path, None, Some(group))
        .with_context(|| format!("cannot give {} to its group", path.display()))
}
