//! `peapod config default|show`.

use super::{
    client::{Client, told},
    output,
};
use api::admin::ConfigShowRequest;

/// Show the daemon's configuration
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "Example:\n  peapod config default >/etc/peapod/config.toml")]
pub(crate) enum Config {
    /// Print a commented configuration with every default; needs no daemon
    Default,
    /// Print what the daemon runs with: defaults, files and flags, merged
    Show,
}

pub(crate) fn default() -> anyhow::Result<u8> {
    output::print(::config::Config::default_toml())?;
    Ok(0)
}

pub(crate) async fn show(client: &mut Client) -> anyhow::Result<u8> {
    let answer = client.admin.config_show(ConfigShowRequest {}).await.map_err(|s| told(&s))?;
    output::print(&answer.into_inner().toml)?;
    Ok(0)
}
