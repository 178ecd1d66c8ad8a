//! A container in a user namespace of its own: the child between.
//!
//! ```text
//! creator ── clone ─> outside: cgroup, joins, sources, layers, nodes ─> joins the user namespace ── clone ─> inside
//! ```
//! It has the host's rights, makes what wants them (an overlay of mapped layers, device nodes, copies of what is
//! mounted) and leaves it as descriptors to the container's first process, which is born inside the user namespace
//! and so has the new namespaces owned by it. That one is the creator's child, too; this one then ends.

use super::{
    Init, Mounted, confine, console, devices, enter_cgroup, furnish, go_on, join_namespaces,
    make_cgroup_namespace,
    mounts::{self, Sources, attach},
    root::{self, Bench},
    set_names,
};
use crate::{
    Gate, Stdio,
    failure::{Failure, Message, Step},
    hooks::Hooks,
    plan::Plan,
};
use std::{convert::Infallible, rc::Rc};
use sys::{
    clone::{self, Child, Clone},
    namespace,
    root::RootFd,
    rustix::{
        self,
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        fs::{CWD, Mode},
        io::Errno,
        thread::LinkNameSpaceType,
    },
    socket,
};

/// What is left to the one inside.
struct Inside {
    plan: Plan,
    stdio: Stdio,
    gate: Gate,
    channel: OwnedFd,
    hooks: Option<Rc<Hooks>>,
    prepared: Prepared,
}

/// Mounts that are attached nowhere.
struct Prepared {
    root: OwnedFd,
    sources: Vec<Sources>,
    nodes: Vec<OwnedFd>,
}

impl Inside {
    /// All that it takes over; what it drops must still be open.
    fn descriptors(&self) -> Vec<RawFd> {
        let mut all = super::of_streams(&self.stdio, &self.channel);
        let Prepared { root, sources, nodes } = &self.prepared;
        all.push(root.as_raw_fd());
        all.extend(sources.iter().flat_map(Sources::descriptors).chain(nodes).map(AsRawFd::as_raw_fd));
        if let Gate::Listener(listener) = &self.gate {
            all.push(listener.as_raw_fd());
        }
        all
    }
}

/// Prepares, bears the one inside, and ends.
pub(crate) fn prepare(init: Init) -> Infallible {
    let Init { mut plan, stdio, entry, gate, channel, hooks } = init;
    let prepared = (|| {
        rustix::process::umask(Mode::empty());
        enter_cgroup(entry)?;
        confine::reset_affinity();
        // While /proc is still the host's, and with the host's rights.
        confine::set_oom_score_adj(&plan.process)?;
        confine::raise_limits(&plan.process)?;
        console::give_pipes(&stdio, &plan.process)?;
        join_namespaces(&plan.namespaces)?;
        let prepared = mounts_of_the_host(&plan)?;
        enter(&mut plan)?;
        Ok(prepared)
    })();
    let prepared = match prepared {
        Ok(prepared) => prepared,
        Err(failure) => fail(&channel, failure),
    };
    // Another descriptor for this process' own word: the first goes to the one inside.
    match rustix::io::fcntl_dupfd_cloexec(&channel, 3) {
        Ok(own) => bear(Inside { plan, stdio, gate, channel, hooks, prepared }, &own),
        Err(errno) => fail(&channel, Failure { step: "copy a descriptor".to_owned(), errno }),
    }
}

fn mounts_of_the_host(plan: &Plan) -> Result<Prepared, Failure> {
    let sources = mounts::open_sources(&plan.mounts)?;
    let bound = root::open_bound(&plan.root)?;
    root::make_private()?;
    let bench = Bench::new(&plan.root)?;
    let root = bench.root(&plan.root, bound)?;
    let nodes = devices::make_outside(bench.dir(), &plan.devices)?;
    bench.leave()?;
    Ok(Prepared { root, sources, nodes })
}

/// Into the user namespace, and for the child into the PID namespace that it shall share.
fn enter(plan: &mut Plan) -> Result<(), Failure> {
    // Before: the right to join one that belongs to the node is not to be had inside.
    if let Some(pid) = plan.namespaces.join_pid.take() {
        namespace::join(&pid, LinkNameSpaceType::ProcessID).step("join the pid namespace")?;
    }
    let user = plan.user.as_mut().and_then(|user| user.fd.take()).ok_or(Errno::INVAL);
    user.and_then(|user| sys::userns::join(user.as_fd())).step("join the user namespace")?;
    // What stands for mappings is done with: the one inside takes over no descriptor of it.
    for mount in &mut plan.mounts {
        mount.idmap = None;
    }
    plan.root.forget_map();
    plan.namespaces.join.clear();
    Ok(())
}

fn bear(inside: Inside, channel: &OwnedFd) -> Infallible {
    let keep = inside.descriptors();
    let wanted = Clone { flags: inside.plan.namespaces.new, cgroup: None, keep: &keep, sibling: true };
    let mut inside = Some(inside);
    let born = clone::clone(&wanted, || match inside.take() {
        Some(inside) => first(inside),
        None => clone::leave(super::FAILED),
    });
    match born {
        Ok(Child { pid, pidfd }) => {
            let pid = pid.as_raw_nonzero().get().unsigned_abs();
            // Without a word the parent gives up, and kills what it does not know by the cgroup.
            let _ = socket::send(channel, &Message::Born(pid).to_bytes(), &[pidfd.as_fd()]);
            clone::leave(0)
        }
        Err(errno) => fail(channel, Failure { step: "clone into the user namespace".to_owned(), errno }),
    }
}

fn fail(channel: &OwnedFd, failure: Failure) -> ! {
    // The parent sees the end of this process in any case.
    let _ = socket::send(channel, &Message::Failed(failure).to_bytes(), &[]);
    clone::leave(super::FAILED)
}

/// The container's first process, with all rights in its user namespace and none outside.
fn first(inside: Inside) -> Infallible {
    let Inside { plan, stdio, gate, channel, hooks, prepared } = inside;
    let ready = set_up(&plan, stdio, prepared, hooks.as_deref(), &channel);
    go_on(&plan, gate, channel, hooks.as_deref(), ready)
}

fn set_up(
    plan: &Plan,
    stdio: Stdio,
    prepared: Prepared,
    hooks: Option<&Hooks>,
    channel: &OwnedFd,
) -> Result<Option<OwnedFd>, Message> {
    let Prepared { root, sources, nodes } = prepared;
    make_cgroup_namespace(&plan.namespaces)?;
    rustix::process::setsid().step("setsid")?;
    set_names(plan)?;
    // The working directory is where the root shall be: by its path it could not be reached from inside.
    attach(&root, CWD).step("attach the root")?;
    let made = Mounted { root: RootFd::from(root), sources, nodes: devices::Source::Bound(nodes) };
    furnish(plan, &stdio, made, hooks, channel)
}
