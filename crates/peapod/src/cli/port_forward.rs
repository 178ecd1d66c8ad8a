//! `peapod port-forward`.

use super::{
    client::{Client, told},
    find, output,
};
use anyhow::{Context as _, bail};
use api::cri::PortForwardRequest;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use stream::client::{Authorities, forward};
use tokio::net::{TcpListener, TcpStream};

/// Reach ports of a pod on this machine
///
/// Listens on LOCAL (any free port for `:REMOTE`) and passes each connection on to REMOTE on the pod's
/// localhost, until Ctrl-C. A daemon that is restarted meanwhile is not noticed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  peapod port-forward web 8080:80\n  \
                        peapod port-forward web 5432 :9090      5432 here is 5432 there; any port for 9090")]
pub(crate) struct PortForward {
    /// Name, namespace/name, or id
    #[arg(value_name = "POD")]
    pod: String,
    /// Which port here leads to which port of the pod
    #[arg(required = true, value_name = "[LOCAL:]REMOTE", value_parser = parse)]
    ports: Vec<Ports>,
    /// Where to listen; who can connect there reaches the pod
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    bind: IpAddr,
}

/// A port here (0 = any that is free) and one of the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ports {
    local: u16,
    remote: u16,
}

fn parse(text: &str) -> Result<Ports, String> {
    let number =
        |text: &str| text.parse::<u16>().map_err(|_| format!("`{text}` is no port: want 1 to 65535"));
    let (local, remote) = match text.split_once(':') {
        None => (number(text)?, number(text)?),
        Some(("", remote)) => (0, number(remote)?),
        Some((local, remote)) => (number(local)?, number(remote)?),
    };
    match remote {
        0 => Err("0 is no port: want 1 to 65535".to_owned()),
        _ => Ok(Ports { local, remote }),
    }
}

pub(crate) async fn port_forward(args: PortForward, client: &mut Client) -> anyhow::Result<u8> {
    let pods = find::pods(client).await?;
    let pod = find::choose_one(&pods, &args.pod)?;
    if !pod.ready {
        bail!("pod {} does not run", pod.full_name());
    }
    // A first session tells what is wrong with the pod before anybody connects.
    for ports in &args.ports {
        url(client.clone(), &pod.id, ports.remote).await?;
    }
    let mut listening = tokio::task::JoinSet::new();
    for ports in args.ports {
        let here = SocketAddr::from((args.bind, ports.local));
        let listener = TcpListener::bind(here).await.with_context(|| format!("cannot listen on {here}"))?;
        let here = listener.local_addr().context("the port that was taken is not known")?;
        output::print(&format!("{here} leads to port {} of {}\n", ports.remote, pod.full_name()))?;
        listening.spawn(listen(listener, client.clone(), pod.id.clone(), ports.remote));
    }
    while let Some(ended) = listening.join_next().await {
        ended.context("a listener ended")??;
    }
    Ok(0)
}

async fn listen(listener: TcpListener, client: Client, pod: String, remote: u16) -> anyhow::Result<()> {
    loop {
        let (connection, _) = listener.accept().await.context("no more connections can be taken")?;
        let (client, pod) = (client.clone(), pod.clone());
        tokio::spawn(async move {
            if let Err(error) = pass_on(connection, client, &pod, remote).await {
                output::complain(&format!("peapod: a connection to port {remote}: {error:#}"));
            }
        });
    }
}

async fn pass_on(connection: TcpStream, client: Client, pod: &str, remote: u16) -> anyhow::Result<()> {
    let url = url(client, pod, remote).await?;
    Ok(forward(&url, &Authorities::System, connection).await?)
}

/// A session for one connection.
async fn url(mut client: Client, pod: &str, port: u16) -> anyhow::Result<String> {
    let request = PortForwardRequest { pod_sandbox_id: pod.to_owned(), port: vec![i32::from(port)] };
    let answer = client.runtime.port_forward(request).await.map_err(|status| told(&status))?;
    Ok(answer.into_inner().url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_the_same_on_both_sides() {
        for (text, local, remote) in [("80", 80, 80), ("8080:80", 8080, 80), (":80", 0, 80), ("0:80", 0, 80)]
        {
            assert_eq!(parse(text), Ok(Ports { local, remote }), "{text}");
        }
        for bad in ["", "0", "65536", "-1", "80:", ":", "80:0", "80:90:100", "x:80", "http"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
