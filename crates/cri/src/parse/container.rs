//! `ContainerConfig` to [`ContainerSpec`].

use super::{Bad, Handlers, mount, resources::resources, security, text};
use api::cri;
use std::collections::BTreeSet;
use types::{cdi::CdiName, container::ContainerSpec, signal::Signal};

/// Mounts or devices of one container.
const MOST_MOUNTS: usize = 10_000;
/// argv and environment together; the kernel's own bound is a quarter of the stack limit (execve(2)).
const LARGEST_ARGS: usize = 2 << 20;

/// Checks the whole configuration.
pub(crate) fn container(
    config: Option<&cri::ContainerConfig>,
    handlers: &Handlers,
) -> Result<ContainerSpec, Bad> {
    let config = config.ok_or_else(|| Bad::field("config", "is missing"))?;
    let metadata = config.metadata.as_ref().ok_or_else(|| Bad::field("config.metadata", "is missing"))?;
    let image = config.image.clone().unwrap_or_default();
    if config.windows.is_some() {
        return Err(Bad::field("config.windows", "this is a Linux node"));
    }
    handlers.check("config.image.runtime_handler", &image.runtime_handler)?;
    let linux = config.linux.clone().unwrap_or_default();
    let context = linux.security_context.clone().unwrap_or_default();
    Ok(ContainerSpec {
        name: text::name("config.metadata.name", &metadata.name)?,
        attempt: metadata.attempt,
        image: text::name("config.image.image", &image.image)?,
        user_specified_image: text::bounded(
            "config.image.user_specified_image",
            &image.user_specified_image,
            4096,
        )?,
        command: argv("config.command", &config.command)?,
        args: argv("config.args", &config.args)?,
        working_dir: match config.working_dir.as_str() {
            "" => String::new(),
            path => text::absolute("config.working_dir", path)?,
        },
        envs: envs(&config.envs)?,
        mounts: each("config.mounts", &config.mounts, |at, asked| mount::mount(at, asked, handlers))?,
        devices: each("config.devices", &config.devices, mount::device)?,
        cdi_devices: cdi_devices(&config.cdi_devices)?,
        labels: text::labels("config.labels", &config.labels)?,
        annotations: text::labels("config.annotations", &config.annotations)?,
        log_path: log_path(&config.log_path)?,
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        tty: config.tty,
        resources: linux
            .resources
            .as_ref()
            .map(|r| resources("config.linux.resources", r))
            .transpose()?
            .unwrap_or_default(),
        security: security::container("config.linux.security_context", &context)?,
        stop_signal: stop_signal(config.stop_signal)?,
    })
}

fn each<A, B>(field: &str, asked: &[A], parse: impl Fn(&str, &A) -> Result<B, Bad>) -> Result<Vec<B>, Bad> {
    if asked.len() > MOST_MOUNTS {
        return Err(Bad::field(field, format!("are {}, at most {MOST_MOUNTS} are taken", asked.len())));
    }
    asked.iter().enumerate().map(|(index, item)| parse(&format!("{field}[{index}]"), item)).collect()
}

/// The same one twice is one: kubelets have sent that (kubernetes#140274).
fn cdi_devices(asked: &[cri::CdiDevice]) -> Result<Vec<CdiName>, Bad> {
    let parse = |field: &str, device: &cri::CdiDevice| {
        CdiName::parse(&device.name).map_err(|bad| Bad::field(format!("{field}.name"), bad.to_string()))
    };
    let mut seen = BTreeSet::new();
    let mut all = each("config.CDI_devices", asked, parse)?;
    all.retain(|name| seen.insert(name.clone()));
    Ok(all)
}

fn argv(field: &str, asked: &[String]) -> Result<Vec<String>, Bad> {
    if asked.iter().map(|a| a.len() + 1).sum::<usize>() > LARGEST_ARGS {
        return Err(Bad::field(field, format!("is longer than {LARGEST_ARGS} bytes")));
    }
    if asked.iter().any(|a| a.contains('\0')) {
        return Err(Bad::field(field, "holds a NUL"));
    }
    Ok(asked.to_vec())
}

fn envs(asked: &[cri::KeyValue]) -> Result<Vec<(String, Vec<u8>)>, Bad> {
    if asked.iter().map(|e| e.key.len() + e.value.len() + 2).sum::<usize>() > LARGEST_ARGS {
        return Err(Bad::field("config.envs", format!("are longer than {LARGEST_ARGS} bytes")));
    }
    asked
        .iter()
        .enumerate()
        .map(|(index, env)| {
            if env.key.is_empty() || env.key.contains(['=', '\0']) {
                return Err(Bad::field(
                    format!("config.envs[{index}].key"),
                    format!("`{}` is not the name of a variable", text::short(&env.key)),
                ));
            }
            if env.value.contains(&0) {
                return Err(Bad::field(format!("config.envs[{index}].value"), "holds a NUL"));
            }
            Ok((env.key.clone(), env.value.clone()))
        })
        .collect()
}

/// Relative to the pod's log directory, and beneath it.
fn log_path(path: &str) -> Result<String, Bad> {
    if path.starts_with('/') || path.ends_with('/') {
        return Err(Bad::field(
            "config.log_path",
            format!("`{}` is not a file relative to log_directory", text::short(path)),
        ));
    }
    text::beneath("config.log_path", path)
}

/// The enum's names are SIGNAL_ and the signal's name; RUNTIME_DEFAULT means the image's.
fn stop_signal(asked: i32) -> Result<Option<Signal>, Bad> {
    let bad = || Bad::field("config.stop_signal", format!("{asked} is no signal"));
    let signal = cri::Signal::try_from(asked).map_err(|_| bad())?;
    match signal.as_str_name().trim_start_matches("SIGNAL_") {
        "RUNTIME_DEFAULT" => Ok(None),
        name => Signal::parse(name).map(Some).map_err(|_| bad()),
    }
}
