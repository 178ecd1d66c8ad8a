//! `linux.uidMappings`, `linux.gidMappings` and the user namespaces that stand for mappings.

use super::namespaces::{Namespaces, User};
use crate::RunnerError;
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType, Spec};
use std::rc::Rc;
use sys::{rustix::fd::OwnedFd, userns::Line};

/// The user namespace of a container, and whom it maps.
#[derive(Debug)]
pub(crate) struct UserPlan {
    pub(crate) uids: Vec<Line>,
    pub(crate) gids: Vec<Line>,
    /// The one to join; one that is new is made last, before the child.
    pub(crate) fd: Option<Rc<OwnedFd>>,
}

impl UserPlan {
    /// `None` for a container in its caller's own.
    pub(crate) fn new(linux: &Linux, namespaces: &mut Namespaces) -> Result<Option<Self>, RunnerError> {
        let user = namespaces.user.take();
        let Some(mut plan) = Self::of_mappings(linux, user.is_some())? else { return Ok(None) };
        plan.fd = match user {
            Some(User::Joined(fd)) => Some(Rc::new(fd)),
            Some(User::New) | None => None,
        };
        Ok(Some(plan))
    }

    /// That of a container which is there: for the ids only.
    pub(crate) fn of(spec: &Spec) -> Result<Option<Self>, RunnerError> {
        let Some(linux) = spec.linux() else { return Ok(None) };
        let mut named = linux.namespaces().iter().flatten();
        Self::of_mappings(linux, named.any(|namespace| namespace.typ() == LinuxNamespaceType::User))
    }

    fn of_mappings(linux: &Linux, is_own: bool) -> Result<Option<Self>, RunnerError> {
        let (uids, gids) = (lines(linux.uid_mappings()), lines(linux.gid_mappings()));
        for (field, lines) in [("linux.uidMappings", &uids), ("linux.gidMappings", &gids)] {
            match (is_own, lines.is_empty()) {
                (true, true) => {
                    return Err(RunnerError::invalid(field, "a user namespace needs a mapping"));
                }
                (false, false) => {
                    return Err(RunnerError::invalid(field, "linux.namespaces has no user namespace"));
                }
                (true, false) | (false, true) => {}
            }
            if is_own && host(lines, 0).is_none() {
                return Err(RunnerError::unsupported(field, "a mapping without id 0"));
            }
        }
        Ok(is_own.then_some(UserPlan { uids, gids, fd: None }))
    }

    pub(crate) fn host_uid(&self, inside: u32) -> Option<u32> {
        host(&self.uids, inside)
    }

    pub(crate) fn host_gid(&self, inside: u32) -> Option<u32> {
        host(&self.gids, inside)
    }

    /// Whether a process can have these ids.
    pub(crate) fn check(&self, user: &oci_spec::runtime::User) -> Result<(), RunnerError> {
        let unmapped = |field: &str, id: u32| {
            RunnerError::invalid(field, format!("the user namespace does not map {id}"))
        };
        if self.host_uid(user.uid()).is_none() {
            return Err(unmapped("process.user.uid", user.uid()));
        }
        if self.host_gid(user.gid()).is_none() {
            return Err(unmapped("process.user.gid", user.gid()));
        }
        let groups = user.additional_gids().as_deref().unwrap_or_default();
        match groups.iter().find(|gid| self.host_gid(**gid).is_none()) {
            Some(gid) => Err(unmapped("process.user.additionalGids", *gid)),
            None => Ok(()),
        }
    }
}

pub(crate) fn host(lines: &[Line], inside: u32) -> Option<u32> {
    lines.iter().find_map(|line| line.outside_of(inside))
}

/// The lines of a mapping of the specification.
pub(crate) fn lines(list: &Option<Vec<LinuxIdMapping>>) -> Vec<Line> {
    let line = |line: &LinuxIdMapping| Line {
        inside: line.container_id(),
        outside: line.host_id(),
        length: line.size(),
    };
    list.iter().flatten().map(line).collect()
}

/// The namespaces that were made for mappings, each once.
#[derive(Debug, Default)]
pub(crate) struct Made(Vec<(Vec<Line>, Vec<Line>, Rc<OwnedFd>)>);

impl Made {
    /// Takes in one that is there.
    pub(crate) fn add(&mut self, uids: &[Line], gids: &[Line], userns: &Rc<OwnedFd>) {
        self.0.push((uids.to_vec(), gids.to_vec(), Rc::clone(userns)));
    }

    /// The one for these lines; `what` needs it.
    pub(crate) fn of(
        &mut self,
        what: &str,
        uids: &[Line],
        gids: &[Line],
    ) -> Result<Rc<OwnedFd>, RunnerError> {
        if let Some((.., userns)) = self.0.iter().find(|(u, g, _)| u == uids && g == gids) {
            return Ok(Rc::clone(userns));
        }
        let step = format!("{what}: make a user namespace of its mapping");
        let userns = sys::userns::with_mappings(uids, gids).map_err(RunnerError::step(step))?;
        let userns = Rc::new(userns);
        self.add(uids, gids, &userns);
        Ok(userns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(linux: &str) -> Result<Option<UserPlan>, String> {
        let text = format!(r#"{{"ociVersion":"1.2.0","linux":{linux}}}"#);
        UserPlan::of(&serde_json::from_str(&text).expect("spec")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_mapping_goes_with_a_user_namespace_and_has_a_root() {
        let map = r#"[{"containerID":0,"hostID":1000,"size":10}]"#;
        let own = r#""namespaces":[{"type":"user"}]"#;
        let fine = check(&format!(r#"{{{own},"uidMappings":{map},"gidMappings":{map}}}"#));
        let plan = fine.expect("fine").expect("a namespace");
        assert_eq!((plan.host_uid(9), plan.host_gid(10)), (Some(1009), None));
        assert!(check(r#"{"uidMappings":[]}"#).expect("fine").is_none());
        for (linux, why) in [
            (format!(r#"{{"uidMappings":{map}}}"#), "linux.uidMappings is invalid: linux.namespaces has no"),
            (
                format!(r#"{{{own},"uidMappings":{map}}}"#),
                "linux.gidMappings is invalid: a user namespace needs",
            ),
            (
                format!(
                    r#"{{{own},"uidMappings":[{{"containerID":1,"hostID":1,"size":1}}],"gidMappings":{map}}}"#
                ),
                "linux.uidMappings is not supported: a mapping without id 0",
            ),
        ] {
            let error = check(&linux).expect_err(why);
            assert!(error.starts_with(why), "{error}");
        }
    }

    #[test]
    fn an_id_that_is_not_mapped_is_named() {
        let line = || vec![Line { inside: 0, outside: 1000, length: 10 }];
        let plan = UserPlan { uids: line(), gids: line(), fd: None };
        for (user, field) in [
            (r#"{"uid":10,"gid":0}"#, "process.user.uid"),
            (r#"{"uid":0,"gid":10}"#, "process.user.gid"),
            (r#"{"uid":0,"gid":0,"additionalGids":[1,70]}"#, "process.user.additionalGids"),
        ] {
            let error = plan.check(&serde_json::from_str(user).expect("user")).expect_err(field).to_string();
            assert!(error.starts_with(field), "{error}");
        }
    }
}
