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

/// Runs each case as it is, and those that pass once more for each answer field that they claim; whether each time the
/// spoilt one failed.
///
/// # Errors
/// When the runtime cannot be reached.
pub async fn run(arguments: &Arguments, cases: Vec<Case>) -> Result<bool> {
    let began = Instant::now();
    let endpoint = arguments.endpoint.as_deref().context("no endpoint")?;
    let endpoints = Endpoints::new(endpoint, arguments.image_endpoint.as_deref().unwrap_or(endpoint));
    let dir = arguments.scratch.join(format!("peapod-conformance.{}", std::process::id()));
    let world = World::open(&endpoints, &arguments.registry, &dir).await?;
    let pairs: Vec<(Case, String)> = cases
        .into_iter()
        .filter(|case| !case.alone)
        .flat_map(|case| {
            let claimed: Vec<_> =
                case.fields.iter().filter(|field| cover::is_answer(field)).cloned().collect();
            claimed.into_iter().map(move |field| (case.clone(), field))
        })
        .collect();
    let gate = Arc::new(Semaphore::new(arguments.jobs.max(1)));
    let mut tasks = JoinSet::new();
    for (case, field) in pairs {
        let (world, gate) = (Arc::clone(&world), Arc::clone(&gate));
        tasks.spawn(async move {
            let _place = gate.acquire_owned().await;
            let (plain, _) = one(&world, &case, None).await;
            if plain.outcome != Outcome::Ok {
                return (case.name, field, Err(plain.reason));
            }
            let (spoilt, tap) = one(&world, &case, Some(field.clone())).await;
            (case.name, field, Ok((tap.has_spoilt(), spoilt.outcome, spoilt.reason)))
        });
    }
    let (mut seen, mut unseen, mut skipped) = (0, 0, 0);
    while let Some(done) = tasks.join_next().await {
        let (name, field, result) = done.context("a case's task")?;
        match result {
            Err(reason) => {
                skipped += 1;
                println!("skip  {field} in {name}: it does not pass unspoilt: {reason}");
            }
            Ok((false, _, _)) => {
                skipped += 1;
                println!("skip  {field} in {name}: it is absent, as it must be");
            }
            Ok((true, Outcome::Fail, reason)) => {
                seen += 1;
                println!("ok    {field} in {name}: {reason}");
            }
            Ok((true, Outcome::Ok | Outcome::Skip | Outcome::Known, _)) => {
                unseen += 1;
                println!("FAIL  {field} in {name}: it was spoilt, and nobody noticed");
            }
        }
    }
    crate::host::remove_cgroups(&world.cgroup_top());
    let _ = std::fs::remove_dir(&dir);
    println!("conformance: {:.0} s", began.elapsed().as_secs_f64());
    println!("conformance: {seen} passed, {unseen} failed, {skipped} skipped");
    Ok(unseen == 0)
}
