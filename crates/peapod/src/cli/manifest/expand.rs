//! `$(VAR)` in commands, arguments and values of the environment.
//!
//! Kubernetes' rules (the field comments of `Container.command` and `EnvVar.value`): `$(NAME)` is the
//! variable's value; one that is not known stays as it is written; `$$` is one `$`, so that `$$(NAME)`
//! comes out as `$(NAME)`; any other `$` stands for itself, and so does a `$(` that is never closed.

use std::collections::BTreeMap;

/// `text` with each reference to a variable of `known` replaced. Values are not expanded again.
pub(crate) fn expand(text: &str, known: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        rest = if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            after
        } else if let Some((name, after)) = after.strip_prefix('(').and_then(|open| open.split_once(')')) {
            match known.get(name) {
                Some(value) => out.push_str(value),
                None => out.extend(["$(", name, ")"]),
            }
            after
        } else {
            out.push('$');
            after
        };
    }
    out.push_str(rest);
    out
}

/// The environment as a container gets it: each value may refer to the variables before it.
pub(crate) fn environment(env: &[(String, String)]) -> (Vec<(String, String)>, BTreeMap<String, String>) {
    let mut known = BTreeMap::new();
    let mut all = Vec::with_capacity(env.len());
    for (name, value) in env {
        let value = expand(value, &known);
        known.insert(name.clone(), value.clone());
        all.push((name.clone(), value));
    }
    (all, known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> BTreeMap<String, String> {
        let pairs = [("VAR_A", "A"), ("VAR_B", "B"), ("VAR_REF", "$(VAR_A)"), ("VAR_EMPTY", "")];
        pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).into()
    }

    #[test]
    fn references_are_replaced_as_kubernetes_does_it() {
        for (text, want) in [
            ("$(VAR_A)", "A"),
            ("___$(VAR_B)___", "___B___"),
            ("___$(VAR_B)", "___B"),
            ("$(VAR_A)_1", "A_1"),
            ("$(VAR_A)$(VAR_B)", "AB"),
            ("f000-$(VAR_A)-$(VAR_B)-$(NO)", "f000-A-B-$(NO)"),
            // Values are not looked into.
            ("$(VAR_REF)", "$(VAR_A)"),
            ("foo$(VAR_EMPTY)bar", "foobar"),
            // Escapes.
            ("$$(VAR_A)", "$(VAR_A)"),
            ("$$$(VAR_A)", "$A"),
            ("$$$$(VAR_A)", "$$(VAR_A)"),
            ("$$$$$(VAR_A)", "$$A"),
            ("foo-$$(VAR_A)_bar", "foo-$(VAR_A)_bar"),
            ("$$", "$"),
            ("$$$", "$$"),
            // Not references.
            ("$", "$"),
            ("end$", "end$"),
            ("$VAR_A", "$VAR_A"),
            ("${VAR_A}", "${VAR_A}"),
            ("$(VAR_A", "$(VAR_A"),
            ("$($(VAR_A", "$($(VAR_A"),
            ("$(VAR_A-$(VAR_B)", "$(VAR_A-$(VAR_B)"),
            ("$()", "$()"),
            ("$(VAR_A))", "A)"),
            ("$(($(VAR_A)", "$(($(VAR_A)"),
            ("$é", "$é"),
            ("\n$(VAR_A)\n", "\nA\n"),
        ] {
            assert_eq!(expand(text, &known()), want, "{text}");
        }
    }

    #[test]
    fn a_variable_sees_those_before_it_and_the_later_of_two_wins() {
        let env = [("A", "1"), ("B", "$(A)$(C)"), ("C", "3"), ("A", "$(A)2"), ("D", "$(A)")];
        let (all, known) = environment(&env.map(|(k, v)| (k.to_owned(), v.to_owned())));
        let values: Vec<&str> = all.iter().map(|(_, v)| v.as_str()).collect();
        assert_eq!(values, ["1", "1$(C)", "3", "12", "12"]);
        assert_eq!(known["A"], "12");
    }
}
