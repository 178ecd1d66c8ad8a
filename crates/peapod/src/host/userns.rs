//! Whether this node can give pods user namespaces of their own (KEP-127).

use engine::host::{Fault, HostError, PodPlan, Result};
use std::path::Path;
use sys::{
    rustix::{fs::CWD, io::Errno, mount::OpenTreeFlags},
    userns::Line,
};

/// What was found when the daemon started.
#[derive(Clone, Debug)]
pub(crate) struct Support(std::result::Result<(), String>);

impl Support {
    /// Tries it: a user namespace, and the file systems of layers and of the pods' own files shown with its ids.
    pub(crate) fn probe(root: &Path, state: &Path) -> Support {
        let line = [Line { inside: 0, outside: 65_536, length: 65_536 }];
        let tried = sys::userns::with_mappings(&line, &line)
            .map_err(|error| format!("no user namespace can be made: {error}"))
            .and_then(|userns| {
                for place in [root, state] {
                    map(place, &userns).map_err(|error| {
                        format!("the file system of {} cannot be idmapped: {error}", place.display())
                    })?;
                }
                Ok(())
            });
        Support(tried)
    }

    /// Whether it can.
    pub(crate) fn is_there(&self) -> bool {
        self.0.is_ok()
    }

    /// Why not, for the administrator.
    pub(crate) fn remark(&self) -> Option<String> {
        self.0.as_ref().err().map(|why| format!("pods cannot have user namespaces: {why}"))
    }

    /// Refuses a pod that wants what cannot be.
    pub(super) fn check(&self, plan: &PodPlan) -> Result<()> {
        match (&self.0, plan.spec.namespaces.user_mapping()) {
            (Err(why), Some(_)) => Err(HostError::because(
                "this node has no user namespaces for pods",
                Fault::Invalid("config.linux.security_context.namespace_options.userns_options"),
                why.as_str(),
            )),
            (Ok(()), _) | (Err(_), None) => Ok(()),
        }
    }
}

fn map(place: &Path, userns: &sys::rustix::fd::OwnedFd) -> std::result::Result<(), Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    sys::mount::map_ids(sys::rustix::mount::open_tree(CWD, place, flags)?, false, userns)
}
