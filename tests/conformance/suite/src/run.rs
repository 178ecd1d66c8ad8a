//! Runs cases, many at a time, and reports.

use crate::{
    Arguments,
    call::Endpoints,
    case::{Case, Skip},
    known,
    story::{Test, patience},
    tap::Tap,
    world::World,
};
use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, sync::Arc, time::Instant};
use tokio::{sync::Semaphore, task::JoinSet};

/// Seconds. No case needs longer, or it hangs.
const LONGEST: u64 = 120;

/// How a case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// All was as it must be.
    Ok,
    /// Something was not.
    Fail,
    /// Machine or runtime lack what it stands on.
    Skip,
    /// It failed, as the table of that runtime says.
    Known,
}

/// One case's result.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The case's name.
    pub name: String,
    /// Its source.
    pub source: String,
    /// Its fields.
    pub fields: Vec<String>,
    /// How it ended.
    pub outcome: Outcome,
    /// Why, unless it passed.
    pub reason: String,
    /// How long it took.
    pub seconds: f64,
}

/// A whole run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Run {
    /// The runtime's name and version.
    pub runtime: String,
    /// All cases.
    pub cases: Vec<Report>,
    /// Every answer field that any answer has filled.
    pub answered: BTreeSet<String>,
}

/// Whether a case is among those that the filter names.
#[must_use]
pub fn chosen(case: &Case, filter: &str) -> bool {
    filter
        .split('|')
        .any(|part| case.name.contains(part) || case.fields.iter().any(|field| field.contains(part)))
}

/// Runs the cases; whether none failed.
///
/// # Errors
/// When the runtime cannot be reached, or the results cannot be written.
pub async fn run(arguments: &Arguments, cases: Vec<Case>) -> Result<bool> {
    let began = Instant::now();
    let endpoint = arguments.endpoint.as_deref().context("no endpoint")?;
    let endpoints = Endpoints::new(endpoint, arguments.image_endpoint.as_deref().unwrap_or(endpoint));
    let dir = arguments.scratch.join(format!("peapod-conformance.{}", std::process::id()));
    let world = World::open(&endpoints, &arguments.registry, &dir).await?;
    println!(
        "conformance: {} {}, {} cases, {} at a time",
        world.runtime_name,
        world.runtime_version,
        cases.len(),
        arguments.jobs
    );
    let mut run = Run {
        runtime: format!("{} {}", world.runtime_name, world.runtime_version),
        cases: Vec::new(),
        answered: BTreeSet::new(),
    };
    let (alone, together): (Vec<_>, Vec<_>) = cases.into_iter().partition(|case| case.alone);
    let gate = Arc::new(Semaphore::new(arguments.jobs.max(1)));
    let mut tasks = JoinSet::new();
    for case in together {
        let (world, gate) = (Arc::clone(&world), Arc::clone(&gate));
        tasks.spawn(async move {
            let _place = gate.acquire_owned().await;
            one(&world, &case, None).await
        });
    }
    while let Some(done) = tasks.join_next().await {
        note(&mut run, done.context("a case's task")?);
    }
    for case in alone {
        let done = one(&world, &case, None).await;
        note(&mut run, done);
    }
    crate::host::remove_cgroups(&world.cgroup_top());
    // Where a runtime goes that lets a pod's cgroup lead elsewhere.
    crate::host::remove_cgroups("/escaped");
    // Empty unless a case could not clean up, and then it stays for a look.
    let _ = std::fs::remove_dir(&dir);
    if let Some(path) = &arguments.json {
        run.cases.sort_by(|a, b| a.name.cmp(&b.name));
        std::fs::write(path, serde_json::to_vec_pretty(&run)?).with_context(|| path.display().to_string())?;
    }
    let count = |outcome| run.cases.iter().filter(|report| report.outcome == outcome).count();
    let known = count(Outcome::Known);
    if known > 0 {
        println!("conformance: {known} failed as it is known of {}", world.runtime_name);
    }
    println!("conformance: {:.0} s", began.elapsed().as_secs_f64());
    let failed = count(Outcome::Fail);
    println!("conformance: {} passed, {failed} failed, {} skipped", count(Outcome::Ok), count(Outcome::Skip));
    Ok(failed == 0)
}

fn note(run: &mut Run, (report, tap): (Report, Arc<Tap>)) {
    let word = match report.outcome {
        Outcome::Ok => "ok   ",
        Outcome::Fail => "FAIL ",
        Outcome::Skip => "skip ",
        Outcome::Known => "known",
    };
    let reason = if report.reason.is_empty() { String::new() } else { format!(": {}", report.reason) };
    println!("{word} {} ({:.2} s){reason}", report.name, report.seconds);
    run.answered.extend(tap.answered());
    run.cases.push(report);
}

/// Runs one case, with one field of the answers spoilt if that is asked for.
pub async fn one(world: &Arc<World>, case: &Case, spoil: Option<String>) -> (Report, Arc<Tap>) {
    let began = Instant::now();
    let spoils = spoil.is_some();
    let tap = Arc::new(Tap::new(spoil));
    let result = told(world, case, &tap).await;
    let sent = tap.sent();
    let (mut outcome, mut reason) = match result {
        Ok(()) => match unset(case, &sent) {
            Some(field) if !spoils => {
                (Outcome::Fail, format!("the case never sets {field}, which it claims"))
            }
            Some(_) | None => (Outcome::Ok, String::new()),
        },
        Err(error) if error.downcast_ref::<Skip>().is_some() => (Outcome::Skip, format!("{error:#}")),
        Err(error) => (Outcome::Fail, one_line(&format!("{error:#}"))),
    };
    if !spoils && let Some(why) = known::reason(&world.runtime_name, &case.name) {
        match outcome {
            Outcome::Fail => (outcome, reason) = (Outcome::Known, format!("{why} [{reason}]")),
            Outcome::Ok => (outcome, reason) = (Outcome::Fail, format!("passes, but the table says: {why}")),
            Outcome::Skip | Outcome::Known => {}
        }
    }
    if outcome == Outcome::Fail
        && !spoils
        && let Some(why) = known::sometimes(&world.runtime_name, &case.name)
    {
        (outcome, reason) = (Outcome::Known, format!("{why} [{reason}]"));
    }
    let report = Report {
        name: case.name.clone(),
        source: case.source.to_owned(),
        fields: case.fields.clone(),
        outcome,
        reason,
        seconds: began.elapsed().as_secs_f64(),
    };
    (report, tap)
}

async fn told(world: &Arc<World>, case: &Case, tap: &Arc<Tap>) -> Result<()> {
    let test = Test::begin(world, Arc::clone(tap))?;
    let story = (case.story)(test.clone());
    // A story of its own task: what panics there is a failure here.
    let mut task = tokio::spawn(story);
    let longest = patience(LONGEST);
    let result = match tokio::time::timeout(longest, &mut task).await {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => Err(anyhow::anyhow!("panicked: {panic}")),
        Err(_) => {
            task.abort();
            Err(anyhow::anyhow!("did not end within {} s", longest.as_secs()))
        }
    };
    let end = match tokio::time::timeout(longest, test.end()).await {
        Ok(end) => end,
        Err(_) => Err(anyhow::anyhow!("clean-up did not end within {} s", longest.as_secs())),
    };
    // The first failure is the story's.
    result.and(end)
}

/// A request's field that the case claims and did not send.
fn unset<'a>(case: &'a Case, sent: &BTreeSet<String>) -> Option<&'a String> {
    case.fields.iter().find(|field| crate::cover::is_request(field) && !sent.contains(*field))
}

fn one_line(text: &str) -> String {
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.len() > 600 {
        let cut = (0..=600).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
        line.truncate(cut);
        line.push_str("...");
    }
    line
}
