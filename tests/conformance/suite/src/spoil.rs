//! The suite's own test: each answer field that a case claims to check is spoilt between runtime and case, and the case
//! must fail. One that passes does not look.

use crate::{
    Arguments,
    call::Endpoints,
    case::Case,
    cover,
    run::{Outcome, one},
    world::World,
};
use anyhow::{Context as _, Result};
use std::{sync::Arc, time::Instant};
use tokio::{sync::Semaphore, task::JoinSet};

/// What came of one field of one case.
enum Seen {
    /// The case failed, and says this.
    Noticed(String),
    /// This says nothing about the case, and must not be.
    Wrong(String),
    /// The machine cannot show the case.
    Skipped(String),
}

/// Runs each case as it is, and those that pass once more for each answer field that they claim; whether each time the
/// field was there to be spoilt, and the case failed.
///
/// # Errors
/// When the runtime cannot be reached.
pub async fn run(arguments: &Arguments, cases: Vec<Case>) -> Result<bool> {
    let began = Instant::now();
    let endpoint = arguments.endpoint.as_deref().context("no endpoint")?;
    let endpoints = Endpoints::new(endpoint, arguments.image_endpoint.as_deref().unwrap_or(endpoint));
    let dir = arguments.scratch.join(format!("peapod-conformance.{}", std::process::id()));
    let world = World::open(&endpoints, &arguments.registry, &dir).await?;
    let (alone, together): (Vec<_>, Vec<_>) =
        cases.into_iter().filter(|case| !claimed(case).is_empty()).partition(|case| case.alone);
    let gate = Arc::new(Semaphore::new(arguments.jobs.max(1)));
    let mut tasks = JoinSet::new();
    for case in together {
        let (world, gate) = (Arc::clone(&world), Arc::clone(&gate));
        tasks.spawn(async move {
            let _place = gate.acquire_owned().await;
            each_field(&world, case).await
        });
    }
    let mut tally = Tally::default();
    while let Some(done) = tasks.join_next().await {
        tally.note(done.context("a case's task")?);
    }
    for case in alone {
        tally.note(each_field(&world, case).await);
    }
    crate::host::remove_cgroups(&world.cgroup_top());
    let _ = std::fs::remove_dir(&dir);
    println!("conformance: {:.0} s", began.elapsed().as_secs_f64());
    println!("conformance: {} passed, {} failed, {} skipped", tally.noticed, tally.wrong, tally.skipped);
    Ok(tally.wrong == 0)
}

fn claimed(case: &Case) -> Vec<String> {
    case.fields.iter().filter(|field| cover::is_answer(field)).cloned().collect()
}

/// A case as it is, and then with each of its fields spoilt, one after the other: a case that pulls and removes images
/// would be in its own way.
async fn each_field(world: &Arc<World>, case: Case) -> (Case, Vec<(String, Seen)>) {
    let (plain, _) = one(world, &case, None).await;
    let mut all = Vec::new();
    for field in claimed(&case) {
        let seen = match plain.outcome {
            Outcome::Ok => spoilt(world, &case, &field).await,
            Outcome::Skip | Outcome::Known => Seen::Skipped(plain.reason.clone()),
            Outcome::Fail => Seen::Wrong(format!("it does not pass unspoilt: {}", plain.reason)),
        };
        all.push((field, seen));
    }
    (case, all)
}

async fn spoilt(world: &Arc<World>, case: &Case, field: &str) -> Seen {
    let (report, tap) = one(world, case, Some(field.to_owned())).await;
    match (tap.has_spoilt(), report.outcome) {
        (true, Outcome::Fail) => Seen::Noticed(report.reason),
        (true, _) => Seen::Wrong("it was spoilt, and nobody noticed".to_owned()),
        (false, _) => Seen::Wrong(format!("no answer has it {}", report.reason)),
    }
}

#[derive(Default)]
struct Tally {
    noticed: usize,
    wrong: usize,
    skipped: usize,
}

impl Tally {
    fn note(&mut self, (case, fields): (Case, Vec<(String, Seen)>)) {
        for (field, seen) in fields {
            let (count, word, reason) = match seen {
                Seen::Noticed(reason) => (&mut self.noticed, "ok   ", reason),
                Seen::Wrong(reason) => (&mut self.wrong, "FAIL ", reason),
                Seen::Skipped(reason) => (&mut self.skipped, "skip ", reason),
            };
            *count += 1;
            println!("{word} {field} in {}: {reason}", case.name);
        }
    }
}
