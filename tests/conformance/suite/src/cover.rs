//! Which fields the cases cover. A field of a request or an answer that has neither a case nor a reason why not fails the
//! build's tests.

use crate::wire::SCHEMA;
use std::{collections::BTreeSet, sync::LazyLock};

static REQUESTS: LazyLock<BTreeSet<String>> =
    LazyLock::new(|| SCHEMA.calls.values().flat_map(|call| SCHEMA.paths(&call.request)).collect());

static ANSWERS: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    SCHEMA
        .calls
        .values()
        .flat_map(|call| SCHEMA.paths(&call.response))
        .filter(|path| path.contains('.'))
        .collect()
});

/// Whether the path is a field of an answer.
#[must_use]
pub fn is_answer(path: &str) -> bool {
    ANSWERS.contains(path)
}

/// Whether the path is a field of a request, or a request without fields.
#[must_use]
pub fn is_request(path: &str) -> bool {
    REQUESTS.contains(path)
}

/// Fields that no case sets or looks at: the beginning of the path, and why.
#[cfg(test)]
const NOT_COVERED: &[(&str, &str)] = &[
    ("PodSandboxConfig.windows.", "Windows alone"),
    ("ContainerConfig.windows.", "Windows alone"),
    ("UpdateContainerResourcesRequest.windows.", "Windows alone"),
    ("ContainerStatus.resources.windows.", "Windows alone"),
    ("PodSandboxStats.windows.", "Windows alone"),
    ("StatusResponse.status.conditions.reason", "words for people"),
    ("StatusResponse.status.conditions.message", "words for people"),
    ("MetricDescriptor.help", "words for people"),
    ("RestorePodResponse.", "neither runtime restores pods"),
    ("Image.spec.", "an image need not tell its specification, and neither runtime does"),
    ("ContainerStatus.mounts.image.annotations", "the request's own, of which nothing need be told"),
    ("ContainerStatus.mounts.image.runtime_handler", "the request's own, of which nothing need be told"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn answers() -> BTreeSet<String> {
        SCHEMA.calls.values().flat_map(|call| SCHEMA.paths(&call.response)).collect()
    }

    fn claimed() -> BTreeSet<String> {
        crate::cases::all().into_iter().flat_map(|case| case.fields).collect()
    }

    #[test]
    fn each_request_field_has_a_case_or_a_reason() {
        let claimed = claimed();
        let bare: Vec<_> = REQUESTS
            .iter()
            .filter(|path| !claimed.contains(*path))
            .filter(|path| !NOT_COVERED.iter().any(|(start, _)| path.starts_with(start)))
            .collect();
        assert!(bare.is_empty(), "{} fields without a case:\n{bare:#?}", bare.len());
    }

    #[test]
    fn each_answer_field_has_a_case_or_a_reason() {
        let claimed = claimed();
        let bare: Vec<_> = ANSWERS
            .iter()
            .filter(|path| !claimed.contains(*path))
            .filter(|path| !NOT_COVERED.iter().any(|(start, _)| path.starts_with(start)))
            .collect();
        assert!(bare.is_empty(), "{} fields without a case:\n{bare:#?}", bare.len());
    }

    #[test]
    fn each_claimed_path_is_a_field() {
        let answers = answers();
        let wrong: Vec<_> = claimed()
            .into_iter()
            .filter(|path| !REQUESTS.contains(path) && !answers.contains(path))
            .collect();
        assert!(wrong.is_empty(), "no such fields: {wrong:#?}");
    }

    #[test]
    fn each_reason_is_needed() {
        let claimed = claimed();
        for (start, _) in NOT_COVERED {
            let mut all = REQUESTS.union(&ANSWERS).filter(|path| path.starts_with(start)).peekable();
            assert!(all.peek().is_some(), "{start} is no field");
            assert!(all.all(|path| !claimed.contains(path)), "{start} has a case");
        }
    }

    #[test]
    fn names_are_of_one_case_each() {
        let mut seen = BTreeSet::new();
        for case in crate::cases::all() {
            assert!(seen.insert(case.name.clone()), "two cases are named {:?}", case.name);
            assert!(case.name.contains(": "), "{:?} has no subject", case.name);
        }
    }
}
