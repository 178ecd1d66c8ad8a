//! What is run: argv, environment, directory, identity.

use crate::{Input, SpecError, security::Sets};
use oci_spec::runtime::{LinuxCapabilitiesBuilder, Process, UserBuilder};
use std::path::PathBuf;

/// What a shell would search without a PATH of the image.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(crate) fn of(input: &Input<'_>, capabilities: &Sets) -> Result<Process, SpecError> {
    let container = input.container;
    let user = UserBuilder::default()
        .uid(input.user.uid)
        .gid(input.user.gid)
        .additional_gids(input.user.groups.clone())
        .build()
        .expect("every field has a default");
    let sets = LinuxCapabilitiesBuilder::default()
        .bounding(capabilities.bounding.clone())
        .effective(capabilities.bounding.clone())
        .permitted(capabilities.bounding.clone())
        .inheritable(capabilities.ambient.clone())
        .ambient(capabilities.ambient.clone())
        .build()
        .expect("every field has a default");
    let mut process = Process::default();
    process
        .set_terminal(container.tty.then_some(true))
        .set_user(user)
        .set_args(Some(arguments(input)?))
        .set_env(Some(environment(input)?))
        .set_cwd(directory(input)?)
        .set_capabilities(Some(sets))
        // The node's limits hold: Kubernetes has no field for others.
        .set_rlimits(None)
        .set_no_new_privileges(Some(container.security.no_new_privs))
        .set_oom_score_adj(Some(oom_score(input)));
    Ok(process)
}

/// Docker's rules: a command of the request replaces the image's entrypoint and cmd; arguments alone
/// replace the cmd.
fn arguments(input: &Input<'_>) -> Result<Vec<String>, SpecError> {
    let (container, image) = (input.container, input.image);
    let mut all = Vec::new();
    if container.command.is_empty() {
        all.extend(image.entrypoint.iter().cloned());
        let rest = if container.args.is_empty() { &image.cmd } else { &container.args };
        all.extend(rest.iter().cloned());
    } else {
        all.extend(container.command.iter().chain(&container.args).cloned());
    }
    if all.is_empty() {
        return Err(SpecError::NoCommand);
    }
    if all.iter().any(|word| word.contains('\0')) {
        return Err(SpecError::bad("command", "an argument contains a NUL"));
    }
    Ok(all)
}

/// Later variables replace earlier ones in their place.
fn environment(input: &Input<'_>) -> Result<Vec<String>, SpecError> {
    let mut all: Vec<(String, String)> = Vec::new();
    let mut set = |name: &str, value: &str| match all.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) => value.clone_into(old),
        None => all.push((name.to_owned(), value.to_owned())),
    };
    set("PATH", PATH);
    set("HOME", input.user.home.as_deref().unwrap_or("/"));
    if input.container.tty {
        set("TERM", "xterm");
    }
    let hostname = &input.pod.hostname;
    set("HOSTNAME", if hostname.is_empty() { &input.host.hostname } else { hostname });
    for variable in &input.image.env {
        // One without `=` is no variable; images have them nevertheless.
        if let Some((name, value)) = variable.split_once('=').filter(|(name, _)| !name.is_empty()) {
            set(name, value);
        }
    }
    for (name, value) in &input.container.envs {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(SpecError::bad("envs", format!("{name:?} is not the name of a variable")));
        }
        let value = str::from_utf8(value).map_err(|_| SpecError::NotUtf8 { name: name.clone() })?;
        set(name, value);
    }
    if let Some((name, _)) = all.iter().find(|(_, value)| value.contains('\0')) {
        return Err(SpecError::bad("envs", format!("the value of {name:?} contains a NUL")));
    }
    Ok(all.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
}

fn directory(input: &Input<'_>) -> Result<PathBuf, SpecError> {
    let asked = &input.container.working_dir;
    let (field, directory) = match (asked.is_empty(), input.image.working_dir.is_empty()) {
        (false, _) => ("working_dir", asked),
        (true, false) => ("working directory of the image", &input.image.working_dir),
        (true, true) => return Ok(PathBuf::from("/")),
    };
    if !directory.starts_with('/') || directory.contains('\0') {
        return Err(SpecError::bad(field, format!("{directory:?} is not an absolute path")));
    }
    Ok(PathBuf::from(directory))
}

/// As asked, but not below what the daemon may set: refusing would refuse every system-critical pod.
fn oom_score(input: &Input<'_>) -> i32 {
    let asked = input.container.resources.oom_score_adj.clamp(-1000, 1000);
    if input.host.may_raise_limits { asked } else { asked.max(input.host.oom_score_adj) }
}
