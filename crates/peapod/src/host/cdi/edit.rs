//! The edits of a device, done to a container's specification, as CDI's own library does them.

use super::{failed, format, invalid};
use crate::host::devices::{self, Node};
use engine::host::{Fault, HostError, OciSpec, Result};
use format::{DeviceNode, Edits, HookName};
use oci_spec::runtime::{Hook, HookBuilder, Hooks, LinuxDeviceType, Mount, MountBuilder};
use std::fs;

/// Adds to the specification what the edits say; what it has of the same name is replaced.
pub(super) fn apply(edits: &Edits, spec: &mut OciSpec) -> Result<()> {
    if edits.intel_rdt.is_some() {
        return Err(invalid("the device wants intelRdt, which this version of peapod does not set"));
    }
    if edits.net_devices.as_ref().is_some_and(|all| !all.is_empty()) {
        return Err(invalid("the device wants netDevices, which this version of peapod does not move"));
    }
    add_variables(edits, spec);
    add_nodes(edits, spec)?;
    add_mounts(edits, spec)?;
    add_hooks(edits, spec)?;
    add_groups(edits, spec);
    Ok(())
}

fn add_variables(edits: &Edits, spec: &mut OciSpec) {
    let Some(process) = spec.process_mut() else { return };
    let mut env = process.env().clone().unwrap_or_default();
    for variable in edits.env.iter().flatten() {
        let name = variable.split_inclusive('=').next().unwrap_or_default();
        match env.iter_mut().find(|known| known.starts_with(name)) {
            Some(known) => known.clone_from(variable),
            None => env.push(variable.clone()),
        }
    }
    process.set_env(Some(env));
}

fn add_nodes(edits: &Edits, spec: &mut OciSpec) -> Result<()> {
    // A process that is not root owns the nodes for which nobody else is named.
    let user = spec.process().as_ref().map(|process| (process.user().uid(), process.user().gid()));
    let (uid, gid) = user.unwrap_or_default();
    let nodes = edits.device_nodes.iter().flatten().map(|asked| {
        let mut node = node(asked)?;
        node.uid = node.uid.or(Some(uid).filter(|id| *id > 0));
        node.gid = node.gid.or(Some(gid).filter(|id| *id > 0));
        node.given(asked.permissions.as_deref().filter(|access| !access.is_empty()).unwrap_or("rwm"))
    });
    devices::add(spec, nodes.collect::<Result<Vec<_>>>()?);
    Ok(())
}

/// What the file leaves out is that of the host's node.
fn node(asked: &DeviceNode) -> Result<Node<'_>> {
    let kind = match asked.kind.as_deref() {
        Some("b") => Some(LinuxDeviceType::B),
        Some("c") => Some(LinuxDeviceType::C),
        Some("u") => Some(LinuxDeviceType::U),
        Some("p") => Some(LinuxDeviceType::P),
        _ => None,
    };
    let numbers = (asked.major.unwrap_or(0), asked.minor.unwrap_or(0));
    let mut node = Node {
        path: &asked.path,
        kind: kind.unwrap_or(LinuxDeviceType::C),
        major: numbers.0,
        minor: numbers.1,
        mode: asked.file_mode,
        uid: asked.uid,
        gid: asked.gid,
    };
    if kind.is_some() && (numbers.0 != 0 || kind == Some(LinuxDeviceType::P)) {
        return Ok(node);
    }
    let host = asked.host_path.as_deref().filter(|path| !path.as_os_str().is_empty()).unwrap_or(&asked.path);
    let found = fs::metadata(host).map_err(|error| {
        HostError::because(
            format!("the device is {}, which cannot be looked at", host.display()),
            Fault::Invalid(super::FIELD),
            error,
        )
    })?;
    let found = Node::of(&found, &asked.path)
        .ok_or_else(|| invalid(format!("the device is {}, which is none", host.display())))?;
    let same = |wanted: LinuxDeviceType| {
        wanted == found.kind || (wanted == LinuxDeviceType::U && found.kind == LinuxDeviceType::C)
    };
    if !kind.is_none_or(same) {
        return Err(invalid(format!("{} is not of the type that the device has", host.display())));
    }
    (node.kind, node.major, node.minor) = (kind.unwrap_or(found.kind), found.major, found.minor);
    Ok(node)
}

/// Among the binds by depth, so that none hides one that was mounted before it.
fn add_mounts(edits: &Edits, spec: &mut OciSpec) -> Result<()> {
    if edits.mounts.as_ref().is_none_or(Vec::is_empty) {
        return Ok(());
    }
    let mut all = spec.mounts().clone().unwrap_or_default();
    for asked in edits.mounts.iter().flatten() {
        let mount = mount(asked)?;
        all.retain(|known| known.destination() != mount.destination());
        all.push(mount);
    }
    let kernels = all.iter().position(is_bind).unwrap_or(all.len());
    if let Some(binds) = all.get_mut(kernels..) {
        binds.sort_by_key(|mount| mount.destination().components().count());
    }
    spec.set_mounts(Some(all));
    Ok(())
}

fn mount(asked: &format::Mount) -> Result<Mount> {
    let kind = asked.kind.as_deref().filter(|kind| !kind.is_empty()).unwrap_or("bind");
    let mut options = asked.options.clone().unwrap_or_default();
    if options.is_empty() {
        options = ["rbind", "rprivate"].map(str::to_owned).to_vec();
    }
    MountBuilder::default()
        .source(asked.host_path.as_path())
        .destination(asked.container_path.components().collect::<std::path::PathBuf>())
        .typ(kind)
        .options(options)
        .build()
        .map_err(failed("a mount cannot be described"))
}

fn is_bind(mount: &Mount) -> bool {
    let options = mount.options().iter().flatten();
    mount.typ().as_deref() == Some("bind")
        || options.into_iter().any(|option| option == "bind" || option == "rbind")
}

fn add_hooks(edits: &Edits, spec: &mut OciSpec) -> Result<()> {
    if edits.hooks.as_ref().is_none_or(Vec::is_empty) {
        return Ok(());
    }
    let mut hooks = spec.hooks().clone().unwrap_or_default();
    for asked in edits.hooks.iter().flatten() {
        let hook = hook(asked)?;
        let add = |known: &Option<Vec<Hook>>| Some(known.iter().flatten().cloned().chain([hook]).collect());
        add_hook(&mut hooks, asked.hook_name, add);
    }
    spec.set_hooks(Some(hooks));
    Ok(())
}

fn add_hook(hooks: &mut Hooks, name: HookName, add: impl FnOnce(&Option<Vec<Hook>>) -> Option<Vec<Hook>>) {
    match name {
        HookName::Prestart => hooks.set_prestart(add(hooks.prestart())),
        HookName::CreateRuntime => hooks.set_create_runtime(add(hooks.create_runtime())),
        HookName::CreateContainer => hooks.set_create_container(add(hooks.create_container())),
        HookName::StartContainer => hooks.set_start_container(add(hooks.start_container())),
        HookName::Poststart => hooks.set_poststart(add(hooks.poststart())),
        HookName::Poststop => hooks.set_poststop(add(hooks.poststop())),
    };
}

fn hook(asked: &format::Hook) -> Result<Hook> {
    let mut hook = HookBuilder::default().path(asked.path.as_path());
    if let Some(args) = &asked.args {
        hook = hook.args(args.clone());
    }
    if let Some(env) = &asked.env {
        hook = hook.env(env.clone());
    }
    if let Some(timeout) = asked.timeout {
        hook = hook.timeout(timeout);
    }
    hook.build().map_err(failed("a hook cannot be described"))
}

fn add_groups(edits: &Edits, spec: &mut OciSpec) {
    let Some(process) = spec.process_mut() else { return };
    let mut user = process.user().clone();
    let mut groups = user.additional_gids().clone().unwrap_or_default();
    for gid in edits.additional_gids.iter().flatten() {
        // Root's group is not given away so.
        if *gid != 0 && !groups.contains(gid) {
            groups.push(*gid);
        }
    }
    user.set_additional_gids(Some(groups));
    process.set_user(user);
}
