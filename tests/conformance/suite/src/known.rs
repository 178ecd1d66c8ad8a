//! What other runtimes are known not to do, each with its reason. A case that fails as it is known does not fail the run;
//! one that passes although it is in the table does, so that the table stays true.

/// Beginning of the runtime's name, the case's name, why.
const KNOWN: &[(&str, &str, &str)] = &[];

/// Why this case fails on that runtime.
#[must_use]
pub fn reason(runtime: &str, case: &str) -> Option<&'static str> {
    KNOWN.iter().find(|(name, known, _)| *name == runtime && *known == case).map(|(_, _, why)| *why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_names_a_case() {
        let names: Vec<_> = crate::cases::all().into_iter().map(|case| case.name).collect();
        for (_, case, _) in KNOWN {
            assert!(names.iter().any(|name| name == case), "no case is named {case:?}");
        }
    }
}
