//! What runs, as whom, with which environment.

use crate::{Input, SpecError, capabilities};
use oci_spec::runtime::{Process, ProcessBuilder, UserBuilder};
use std::collections::BTreeMap;

/// Docker's and containerd's default, for an image that says nothing.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(crate) fn process(input: &Input<'_>) -> Result<Process, SpecError> {
    let container = input.container;
    let user = UserBuilder::default()
        .uid(input.user.uid)
        .gid(input.user.gid)
        .additional_gids(input.user.groups.clone())
        .build()
        .map_err(SpecError::builder)?;
    let cwd = [container.working_dir.as_str(), input.image.working_dir.as_str(), "/"]
        .into_iter()
        .find(|dir| !dir.is_empty())
        .unwrap_or("/");
    if !cwd.starts_with('/') {
        return Err(SpecError::new("config.working_dir", format!("the image's `{cwd}` is not absolute")));
    }
    ProcessBuilder::default()
        .terminal(container.tty)
        .user(user)
        .args(args(input)?)
        .env(env(input)?)
        .cwd(cwd)
        .capabilities(capabilities::sets(&container.security)?)
        .no_new_privileges(container.security.no_new_privs)
        .oom_score_adj(container.resources.oom_score_adj)
        .rlimits(Vec::new())
        .build()
        .map_err(SpecError::builder)
}

/// Docker's rules: a command replaces the image's entrypoint and its cmd, args replace the cmd alone.
fn args(input: &Input<'_>) -> Result<Vec<String>, SpecError> {
    let (container, image) = (input.container, input.image);
    let mut argv = Vec::new();
    if container.command.is_empty() {
        argv.extend(image.entrypoint.iter().cloned());
        argv.extend(if container.args.is_empty() { image.cmd.clone() } else { container.args.clone() });
    } else {
        argv.extend(container.command.iter().chain(&container.args).cloned());
    }
    if argv.is_empty() {
        return Err(SpecError::new(
            "config.command",
            "is empty, and the image has neither entrypoint nor cmd",
        ));
    }
    Ok(argv)
}

/// The image's variables, then the request's over them, each name once, in the order of first
/// mention; the host name, a terminal's type, PATH and HOME where nothing else gives them.
fn env(input: &Input<'_>) -> Result<Vec<String>, SpecError> {
    let mut order: Vec<String> = Vec::new();
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    let mut set = |name: &str, value: String| {
        if values.insert(name.to_owned(), value).is_none() {
            order.push(name.to_owned());
        }
    };
    if let Some((name, value)) = PATH.split_once('=') {
        set(name, value.to_owned());
    }
    if !input.pod.hostname.is_empty() {
        set("HOSTNAME", input.pod.hostname.clone());
    }
    if input.container.tty {
        set("TERM", "xterm".to_owned());
    }
    if let Some(home) = &input.user.home {
        set("HOME", home.clone());
    }
    for variable in &input.image.env {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        if name.is_empty() || variable.contains('\0') {
            return Err(SpecError::new(
                "config.image",
                "its configuration has a malformed environment variable",
            ));
        }
        set(name, value.to_owned());
    }
    for (name, value) in &input.container.envs {
        let value = std::str::from_utf8(value).map_err(|_| {
            SpecError::new(
                "config.envs",
                format!("the value of `{name}` is not UTF-8, which an OCI spec cannot hold"),
            )
        })?;
        set(name, value.to_owned());
    }
    Ok(order.into_iter().map(|name| format!("{name}={}", values[&name])).collect())
}
