//! docs/cri-conformance.md, from the results of two runs: what each runtime does with every call and field.

use crate::{
    run::{Outcome, Report, Run},
    wire::{Call, SCHEMA},
};
use anyhow::{Context as _, Result, ensure};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::{Path, PathBuf},
};

/// Messages that have a section of their own.
const MESSAGES: &[(&str, &str)] = &[
    ("PodSandboxConfig", "what a pod is asked to be"),
    ("ContainerConfig", "what a container is asked to be"),
    ("PodSandboxStatus", "in PodSandboxStatus and events"),
    ("PodSandbox", "in lists"),
    ("ContainerStatus", "in ContainerStatus and events"),
    ("Container", "in lists"),
    ("Image", "in ImageStatus and lists"),
    ("ContainerStats", "in statistics of containers and pods"),
    ("PodSandboxStats", "in statistics of pods"),
    ("MetricDescriptor", "in ListMetricDescriptors"),
    ("PodSandboxMetrics", "in metrics"),
    ("Metric", "in metrics"),
];

/// Writes the page from the results of the runs, peapod's first.
///
/// # Errors
/// When a result cannot be read or the page cannot be written.
pub fn write(page: &Path, results: &[PathBuf]) -> Result<()> {
    ensure!(results.len() == 2, "two results are needed: peapod's, then the peer's");
    let read = |path: &PathBuf| -> Result<Run> {
        let text = std::fs::read(path).with_context(|| path.display().to_string())?;
        serde_json::from_slice(&text).with_context(|| path.display().to_string())
    };
    let runs = [read(&results[0])?, read(&results[1])?];
    std::fs::write(page, text(&runs)?).with_context(|| page.display().to_string())
}

fn text(runs: &[Run; 2]) -> Result<String> {
    let mut out = String::new();
    writeln!(out, "# Every call and field of the CRI\n")?;
    writeln!(
        out,
        "Written by `tests/conformance/run --doc` from two runs of the same suite on one machine; do not edit. `yes`: each case \
         of the field passed; `2 of 3`: so many did; `no`: none; `-`: this machine cannot show it. An answer's field that no \
         case checks is `filled` when any answer had it, else `empty`.\n"
    )?;
    writeln!(out, "| | {} | {} |\n| --- | --- | --- |", runs[0].runtime, runs[1].runtime)?;
    let count =
        |run: &Run, outcomes: &[Outcome]| run.cases.iter().filter(|c| outcomes.contains(&c.outcome)).count();
    for (word, outcomes) in [
        ("cases passed", &[Outcome::Ok][..]),
        ("failed", &[Outcome::Fail, Outcome::Known][..]),
        ("not possible on this machine", &[Outcome::Skip][..]),
    ] {
        writeln!(out, "| {word} | {} | {} |", count(&runs[0], outcomes), count(&runs[1], outcomes))?;
    }
    let tables = [Table::new(&runs[0]), Table::new(&runs[1])];
    calls(&mut out, &tables)?;
    for (message, what) in MESSAGES {
        writeln!(out, "\n## {message}: {what}\n")?;
        rows(&mut out, &tables, SCHEMA.own_paths(message).into_iter())?;
    }
    failures(&mut out, runs)?;
    Ok(out)
}

fn calls(out: &mut String, tables: &[Table<'_>; 2]) -> Result<()> {
    for service in ["RuntimeService", "ImageService"] {
        writeln!(out, "\n## {service}\n")?;
        let own = |(_, call): &(&String, &Call)| call.service == service;
        for (name, call) in SCHEMA.calls.iter().filter(own) {
            let stream = if call.stream { ", a stream" } else { "" };
            writeln!(out, "### {name}{stream}\n")?;
            let both = [SCHEMA.own_paths(&call.request), SCHEMA.own_paths(&call.response)].concat();
            rows(out, tables, both.into_iter())?;
            writeln!(out)?;
        }
    }
    Ok(())
}

fn rows(out: &mut String, tables: &[Table<'_>; 2], paths: impl Iterator<Item = String>) -> Result<()> {
    writeln!(
        out,
        "| field | {} | {} | cases |\n| --- | --- | --- | --- |",
        tables[0].name(),
        tables[1].name()
    )?;
    for path in paths.filter(|path| !path.contains(".windows")) {
        let cases = tables[0].cases.get(path.as_str()).map_or(0, Vec::len);
        writeln!(out, "| {path} | {} | {} | {cases} |", tables[0].word(&path), tables[1].word(&path))?;
    }
    Ok(())
}

fn failures(out: &mut String, runs: &[Run; 2]) -> Result<()> {
    for run in runs {
        writeln!(out, "\n## What {} does not\n", run.runtime)?;
        let failed = |report: &&Report| matches!(report.outcome, Outcome::Fail | Outcome::Known);
        for report in run.cases.iter().filter(failed) {
            // The reason in the table, without what this one run said.
            let why = report.reason.split(" [").next().unwrap_or_default();
            let why = if report.outcome == Outcome::Known { format!(": {why}") } else { String::new() };
            writeln!(out, "- {}{why} ({})", report.name, report.source)?;
        }
        writeln!(out, "\nNot possible on this machine:\n")?;
        for report in run.cases.iter().filter(|report| report.outcome == Outcome::Skip) {
            writeln!(out, "- {}: {}", report.name, report.reason)?;
        }
    }
    Ok(())
}

struct Table<'a> {
    run: &'a Run,
    cases: BTreeMap<&'a str, Vec<Outcome>>,
    answers: BTreeSet<String>,
}

impl<'a> Table<'a> {
    fn new(run: &'a Run) -> Table<'a> {
        let mut cases: BTreeMap<&str, Vec<Outcome>> = BTreeMap::new();
        for report in &run.cases {
            for field in &report.fields {
                cases.entry(field).or_default().push(report.outcome);
            }
        }
        let answers = SCHEMA.calls.values().flat_map(|call| SCHEMA.paths(&call.response)).collect();
        Table { run, cases, answers }
    }

    fn name(&self) -> &str {
        self.run.runtime.split(' ').next().unwrap_or_default()
    }

    fn word(&self, path: &str) -> String {
        let count = |wanted: &[Outcome]| {
            self.cases
                .get(path)
                .map_or(0, |all| all.iter().filter(|outcome| wanted.contains(outcome)).count())
        };
        let (passed, failed, skipped) =
            (count(&[Outcome::Ok]), count(&[Outcome::Fail, Outcome::Known]), count(&[Outcome::Skip]));
        match (passed, failed, skipped) {
            (0, 0, 0) if !self.answers.contains(path) => "not tried".to_owned(),
            (0, 0, 0) if self.run.answered.contains(path) => "filled".to_owned(),
            (0, 0, 0) => "empty".to_owned(),
            (0, 0, _) => "-".to_owned(),
            (0, _, _) => "**no**".to_owned(),
            (_, 0, _) => "yes".to_owned(),
            (passed, failed, _) => format!("{passed} of {}", passed + failed),
        }
    }
}
