//! How a daemon finds or starts its stream server.

use super::{COMMAND, Places, Setup};
use crate::listen;
use anyhow::Context as _;
use config::Config;
use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::{fs::OpenOptionsExt as _, net::UnixListener},
    path::Path,
    process::Stdio,
};
use stream::Door;

/// A log that has grown beyond it is begun anew by the next server.
const LONGEST_LOG: u64 = 1 << 20;

/// The door to the stream server of this state directory.
///
/// # Errors
/// Its directory cannot be made.
pub(crate) fn door(config: &Config) -> anyhow::Result<Door> {
    let places = Places::of(&config.state);
    listen::own_dir(&places.dir, 0o700)?;
    let streaming = &config.streaming;
    let setup = Setup {
        address: streaming.address,
        tls_cert: streaming.tls_cert.clone(),
        tls_key: streaming.tls_key.clone(),
        idle_timeout: streaming.idle_timeout,
        log_level: config.log_level,
    };
    let setup = serde_json::to_string(&setup).context("the setup of the stream server cannot be written")?;
    let (state, text) = (config.state.clone(), setup.clone());
    Ok(Door::new(places.control(), env!("CARGO_PKG_VERSION"), setup, move || start(&state, &text)))
}

/// Starts one. It listens before it runs, so that nobody has to wait for it.
fn start(state: &Path, setup: &str) -> io::Result<()> {
    let places = Places::of(state);
    let control = places.control();
    match std::fs::remove_file(&control) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    // The directory is ours alone, whatever the socket's mode.
    let listener = UnixListener::bind(&control)?;
    let child = tokio::process::Command::new("/proc/self/exe")
        .arg0("peapod")
        .arg(COMMAND)
        .arg(state)
        .arg(setup)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)))
        .stdout(Stdio::null())
        .stderr(Stdio::from(log(&places.log())?))
        .spawn()?;
    tracing::info!(pid = child.id(), "the stream server is started");
    // It lives on; the runtime reaps it if it ends before us.
    drop(child);
    Ok(())
}

fn log(path: &Path) -> io::Result<File> {
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    if log.metadata()?.len() > LONGEST_LOG {
        log.set_len(0)?;
    }
    Ok(log)
}
