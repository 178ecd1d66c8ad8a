//! What a pod's containers need next: a function of what they did so far.
//!
//! ```text
//! init 1 --ends with 0--> init 2 ... --> all apps --all over--> sidecars are stopped, the pod has ended
//!          sidecars are started in their place among them and run beside the rest
//! ```
//!
//! The rules are the kubelet's: restartPolicy for init containers and apps (an init container that fails with
//! Never ends the pod), sidecars are always restarted, and wait for nobody. No IO, no clock.

use super::{
    super::manifest::{Kind, RestartPolicy},
    backoff::Backoff,
};
use std::time::Duration;

/// Where a container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Never made.
    Waiting,
    Running,
    /// With its exit code, and when that was seen.
    Ended {
        code: i32,
        at: Duration,
    },
}

#[derive(Clone, Debug)]
struct Unit {
    kind: Kind,
    phase: Phase,
    /// The number of the attempt that `phase` speaks of.
    attempt: u32,
    /// It ran at least once.
    started: bool,
    backoff: Backoff,
}

/// The containers of a pod, in the order of the manifest: init containers and sidecars, then apps.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    policy: RestartPolicy,
    units: Vec<Unit>,
}

/// What is to be done now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Next {
    /// Make and start these, in this order.
    pub(crate) start: Vec<usize>,
    /// Ask again at this moment, if nothing ends before: a container waits in back-off.
    pub(crate) at: Option<Duration>,
    /// Everything is over: stop the sidecars, in the reverse of their order, and the pod.
    pub(crate) over: bool,
}

impl Machine {
    pub(crate) fn new(policy: RestartPolicy, kinds: impl IntoIterator<Item = Kind>) -> Self {
        let unit = |kind| Unit {
            kind,
            phase: Phase::Waiting,
            attempt: 0,
            started: false,
            backoff: Backoff::default(),
        };
        Self { policy, units: kinds.into_iter().map(unit).collect() }
    }

    pub(crate) fn phase(&self, unit: usize) -> Phase {
        self.units[unit].phase
    }

    /// The number of the attempt that is under way, or would be made next if there was none.
    pub(crate) fn attempt(&self, unit: usize) -> u32 {
        self.units[unit].attempt
    }

    /// When a unit that ended is started again, if it is.
    pub(crate) fn restarts_at(&self, unit: usize) -> Option<Duration> {
        let unit = &self.units[unit];
        let Phase::Ended { code, at } = unit.phase else { return None };
        let again = match unit.kind {
            Kind::Sidecar => true,
            Kind::Init => code != 0 && self.policy != RestartPolicy::Never,
            Kind::App => self.restarts(code),
        };
        again.then(|| unit.backoff.until(at))
    }

    /// Every app ran at least once.
    pub(crate) fn all_started(&self) -> bool {
        self.units.iter().filter(|unit| unit.kind == Kind::App).all(|unit| unit.started)
    }

    /// Counts the next attempt of a unit, which is about to be made.
    pub(crate) fn begin(&mut self, unit: usize, now: Duration) -> u32 {
        let unit = &mut self.units[unit];
        if let Phase::Ended { at, .. } = unit.phase {
            unit.backoff.restarted(at, now);
            unit.attempt += 1;
        }
        unit.attempt
    }

    pub(crate) fn started(&mut self, unit: usize) {
        self.units[unit].started = true;
        self.units[unit].phase = Phase::Running;
    }

    /// It ended, or could not be started.
    pub(crate) fn ended(&mut self, unit: usize, code: i32, at: Duration) {
        self.units[unit].phase = Phase::Ended { code, at };
    }

    pub(crate) fn next(&self, now: Duration) -> Next {
        let mut next = Next::default();
        if self.is_over() {
            next.over = true;
            return next;
        }
        for (i, unit) in self.units.iter().enumerate() {
            match (unit.kind, unit.phase) {
                (Kind::Init, Phase::Ended { code: 0, .. }) => {}
                (Kind::Init | Kind::Sidecar, Phase::Waiting) => {
                    next.start.push(i);
                    return next;
                }
                (Kind::Init, Phase::Running) => return next,
                (Kind::Init, Phase::Ended { at, .. }) => {
                    restart(&mut next, i, unit.backoff.until(at), now);
                    return next;
                }
                (Kind::Sidecar, Phase::Ended { at, .. }) => {
                    restart(&mut next, i, unit.backoff.until(at), now);
                    if !unit.started {
                        return next;
                    }
                }
                (Kind::App, Phase::Waiting) => next.start.push(i),
                (Kind::App, Phase::Ended { code, at }) if self.restarts(code) => {
                    restart(&mut next, i, unit.backoff.until(at), now);
                }
                (Kind::Sidecar | Kind::App, Phase::Running) | (Kind::App, Phase::Ended { .. }) => {}
            }
        }
        next
    }

    /// The code of the container that failed first, of those that will not be restarted; 0 if none did.
    /// Sidecars do not count, as they do not for the pod's phase.
    pub(crate) fn exit_code(&self) -> u8 {
        let failed = |unit: &Unit| match unit.phase {
            Phase::Ended { code, at } if code != 0 && unit.kind != Kind::Sidecar => Some((at, code)),
            Phase::Ended { .. } | Phase::Waiting | Phase::Running => None,
        };
        let first = self.units.iter().filter_map(failed).min_by_key(|(at, _)| *at);
        // A process returns 0 to 255; anything else still is a failure.
        first.map_or(0, |(_, code)| u8::try_from(code).unwrap_or(u8::MAX))
    }

    fn restarts(&self, code: i32) -> bool {
        match self.policy {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => code != 0,
            RestartPolicy::Never => false,
        }
    }

    fn is_over(&self) -> bool {
        let never = self.policy == RestartPolicy::Never;
        let init_failed = |unit: &Unit| {
            never && unit.kind == Kind::Init && matches!(unit.phase, Phase::Ended { code, .. } if code != 0)
        };
        let app_over = |unit: &Unit| match unit.phase {
            Phase::Ended { code, .. } => !self.restarts(code),
            Phase::Waiting | Phase::Running => false,
        };
        self.units.iter().any(init_failed) || self.units.iter().filter(|u| u.kind == Kind::App).all(app_over)
    }
}

fn restart(next: &mut Next, unit: usize, at: Duration, now: Duration) {
    if at <= now {
        next.start.push(unit);
    } else {
        next.at = Some(next.at.map_or(at, |earlier| earlier.min(at)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Kind::{App, Init, Sidecar};

    const S: Duration = Duration::from_secs(1);

    fn start(units: &[usize]) -> Next {
        Next { start: units.to_vec(), ..Next::default() }
    }

    fn run(machine: &mut Machine, unit: usize, now: Duration) {
        machine.begin(unit, now);
        machine.started(unit);
    }

    fn over(machine: &Machine, now: Duration) -> bool {
        machine.next(now).over
    }

    #[test]
    fn init_containers_run_in_order_and_sidecars_beside_the_rest() {
        let mut m = Machine::new(RestartPolicy::Never, [Init, Sidecar, Init, App, App]);
        assert_eq!(m.next(S), start(&[0]));
        run(&mut m, 0, S);
        assert_eq!(m.next(S), start(&[]));
        m.ended(0, 0, S);
        assert_eq!(m.next(S), start(&[1]));
        run(&mut m, 1, S);
        assert_eq!(m.next(S), start(&[2]));
        run(&mut m, 2, S);
        // A sidecar is restarted even while an init container runs, and with Never.
        m.ended(1, 1, S);
        assert_eq!(m.next(S), start(&[1]));
        run(&mut m, 1, S);
        m.ended(2, 0, S);
        assert_eq!(m.next(S), start(&[3, 4]));
        run(&mut m, 3, S);
        run(&mut m, 4, S);
        assert!(m.all_started());
        m.ended(3, 0, S);
        assert_eq!(m.next(S), start(&[]));
        m.ended(4, 3, S);
        assert!(over(&m, S));
        assert_eq!(m.exit_code(), 3);
    }

    #[test]
    fn a_failed_init_container_ends_the_pod_only_with_never() {
        for (policy, restarted) in
            [(RestartPolicy::Never, false), (RestartPolicy::OnFailure, true), (RestartPolicy::Always, true)]
        {
            let mut m = Machine::new(policy, [Init, App]);
            run(&mut m, 0, S);
            m.ended(0, 7, S);
            assert_eq!(over(&m, S), !restarted);
            if restarted {
                assert_eq!(m.next(S), start(&[0]));
                assert_eq!(m.begin(0, S), 1);
            } else {
                assert_eq!(m.exit_code(), 7);
            }
        }
    }

    #[test]
    fn apps_are_restarted_as_the_policy_says() {
        for (policy, code, restarted) in [
            (RestartPolicy::Always, 0, true),
            (RestartPolicy::Always, 1, true),
            (RestartPolicy::OnFailure, 0, false),
            (RestartPolicy::OnFailure, 1, true),
            (RestartPolicy::Never, 1, false),
        ] {
            let mut m = Machine::new(policy, [App]);
            run(&mut m, 0, S);
            m.ended(0, code, S);
            assert_eq!((m.next(S) == start(&[0]), over(&m, S)), (restarted, !restarted), "{policy:?} {code}");
        }
    }

    #[test]
    fn a_restart_waits_for_its_time_while_others_go_on() {
        let mut m = Machine::new(RestartPolicy::Always, [App, App]);
        run(&mut m, 0, S);
        run(&mut m, 1, S);
        m.ended(0, 1, S);
        run(&mut m, 0, S);
        m.ended(0, 1, 2 * S);
        m.ended(1, 1, 2 * S);
        assert_eq!(m.next(2 * S), Next { start: vec![1], at: Some(12 * S), over: false });
        run(&mut m, 1, 2 * S);
        assert_eq!(m.next(12 * S), start(&[0]));
        assert_eq!((m.begin(0, 12 * S), m.attempt(0)), (2, 2));
    }

    #[test]
    fn a_sidecar_that_never_ran_holds_the_others_up() {
        let mut m = Machine::new(RestartPolicy::Never, [Sidecar, App]);
        m.begin(0, S);
        m.ended(0, 128, S);
        assert_eq!(m.next(S), start(&[0]));
        m.begin(0, S);
        m.ended(0, 128, S);
        assert_eq!(m.next(S), Next { at: Some(11 * S), ..Next::default() });
    }

    #[test]
    fn the_exit_code_is_that_of_the_first_failure_and_sidecars_do_not_count() {
        let mut m = Machine::new(RestartPolicy::Never, [Sidecar, App, App, App]);
        for unit in 0..4 {
            run(&mut m, unit, S);
        }
        m.ended(3, 0, S);
        m.ended(2, 9, 2 * S);
        m.ended(1, 5, 3 * S);
        assert!(over(&m, 3 * S));
        m.ended(0, 137, 3 * S);
        assert_eq!(m.exit_code(), 9);
        m.ended(2, 300, 2 * S);
        assert_eq!(m.exit_code(), 255);
    }
}
