//! `peapod version`.

use super::{
    client::{Address, Client, told},
    output::{self, Format},
    table::table,
};
use api::cri::VersionRequest;

/// Show the versions of this program and of the daemon
///
/// Fails if no daemon answers.
#[derive(Debug, clap::Args)]
pub(crate) struct Version {
    /// How to show them
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

pub(crate) async fn version(args: &Version, address: &Address) -> anyhow::Result<u8> {
    let client = env!("CARGO_PKG_VERSION");
    let server = match Client::connect(address).await {
        Ok(mut connected) => {
            let request = VersionRequest { version: "0.1.0".to_owned() };
            connected.runtime.version(request).await.map(tonic::Response::into_inner).map_err(|s| told(&s))
        }
        Err(error) => Err(error),
    };
    match args.output {
        Format::Json => {
            let server = server.as_ref().ok().map(|server| {
                serde_json::json!({
                    "name": server.runtime_name,
                    "version": server.runtime_version,
                    "apiVersion": server.runtime_api_version,
                })
            });
            output::print_json(&serde_json::json!({ "client": { "version": client }, "server": server }))?;
        }
        Format::Table => {
            let mut rows = vec![["client".to_owned(), "peapod".to_owned(), client.to_owned(), String::new()]];
            if let Ok(server) = &server {
                rows.push([
                    "daemon".to_owned(),
                    server.runtime_name.clone(),
                    server.runtime_version.clone(),
                    format!("CRI {}", server.runtime_api_version),
                ]);
            }
            output::print(&table(["", "NAME", "VERSION", "INTERFACE"], &rows))?;
        }
    }
    server.map(|_| 0)
}
