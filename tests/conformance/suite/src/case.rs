//! What a case is, and the words in which it says what must be true.

use crate::story::Test;
use anyhow::{Result, bail};
use std::{fmt::Debug, pin::Pin, sync::Arc};

type Story = Arc<dyn Fn(Test) -> Pin<Box<dyn Future<Output = Result<()>> + Send>> + Send + Sync>;

/// One thing that a runtime must do.
#[derive(Clone)]
pub struct Case {
    /// `subject: a sentence`.
    pub name: String,
    /// Where it is written that it must be so.
    pub source: &'static str,
    /// The fields that it covers, as full paths: those that it sets and those whose answer it checks.
    pub fields: Vec<String>,
    /// Whether it needs the runtime for itself.
    pub alone: bool,
    /// What happens.
    pub story: Story,
}

impl Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Case").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A case; `fields` separated by white space.
pub fn case<F, R>(name: impl Into<String>, source: &'static str, fields: &str, story: F) -> Case
where
    F: Fn(Test) -> R + Send + Sync + 'static,
    R: Future<Output = Result<()>> + Send + 'static,
{
    Case {
        name: name.into(),
        source,
        fields: fields.split_whitespace().map(full).collect(),
        alone: false,
        story: Arc::new(move |test| Box::pin(story(test))),
    }
}

impl Case {
    /// The same case with the runtime for itself.
    #[must_use]
    pub fn alone(self) -> Case {
        Case { alone: true, ..self }
    }
}

/// The tables' short forms: the beginnings that most paths have.
const SHORT: &[(&str, &str)] = &[
    ("sc.", "ContainerConfig.linux.security_context."),
    ("res.", "ContainerConfig.linux.resources."),
    ("psc.", "PodSandboxConfig.linux.security_context."),
    ("c.", "ContainerConfig."),
    ("p.", "PodSandboxConfig."),
    ("cs.", "ContainerStatus."),
    ("ps.", "PodSandboxStatus."),
];

fn full(path: &str) -> String {
    for (short, long) in SHORT {
        if let Some(rest) = path.strip_prefix(short) {
            return format!("{long}{rest}");
        }
    }
    path.to_owned()
}

/// The machine or the runtime lacks what the case stands on.
#[derive(Debug)]
pub struct Skip(pub String);

impl std::fmt::Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// Ends the case as skipped, with the reason.
///
/// # Errors
/// Always.
pub fn skip<T>(reason: impl Into<String>) -> Result<T> {
    Err(Skip(reason.into()).into())
}

/// They are equal.
///
/// # Errors
/// When they are not.
pub fn is<A: Debug + PartialEq<B>, B: Debug>(what: &str, got: A, expected: B) -> Result<()> {
    if got == expected {
        return Ok(());
    }
    bail!("{what}: expected {expected:?}, got {got:?}")
}

/// It is not so.
///
/// # Errors
/// When they are equal.
pub fn differs<A: Debug + PartialEq<B>, B: Debug>(what: &str, got: A, other: B) -> Result<()> {
    if got != other {
        return Ok(());
    }
    bail!("{what}: both are {got:?}")
}

/// The condition holds.
///
/// # Errors
/// When it does not.
pub fn holds(what: &str, condition: bool) -> Result<()> {
    if condition { Ok(()) } else { bail!("not true: {what}") }
}

/// The text contains the part.
///
/// # Errors
/// When it does not.
pub fn has(what: &str, text: &str, part: &str) -> Result<()> {
    if text.contains(part) {
        return Ok(());
    }
    bail!("{what}: no {part:?} in {text:?}")
}

/// The text does not contain the part.
///
/// # Errors
/// When it does.
pub fn lacks(what: &str, text: &str, part: &str) -> Result<()> {
    if !text.contains(part) {
        return Ok(());
    }
    bail!("{what}: {part:?} is in {text:?}")
}

/// The number lies between the two, both included.
///
/// # Errors
/// When it does not.
pub fn between<T: PartialOrd + Debug>(what: &str, got: T, low: T, high: T) -> Result<()> {
    if got >= low && got <= high {
        return Ok(());
    }
    bail!("{what}: expected {low:?} to {high:?}, got {got:?}")
}

/// The call failed, with one of these codes if any are given; the error's text.
///
/// # Errors
/// When it succeeded, or failed with another code.
pub fn refused<T>(what: &str, result: Result<T, tonic::Status>, codes: &[tonic::Code]) -> Result<String> {
    match result {
        Ok(_) => bail!("{what}: was accepted"),
        Err(status) if codes.is_empty() || codes.contains(&status.code()) => Ok(status.message().to_owned()),
        Err(status) => bail!("{what}: expected {codes:?}, got {:?}: {}", status.code(), status.message()),
    }
}
