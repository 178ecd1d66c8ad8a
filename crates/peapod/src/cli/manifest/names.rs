//! What may be a name in Kubernetes.
//!
//! Sources: "Object Names and IDs" and "Labels and Selectors" in the Kubernetes documentation (RFC 1035,
//! RFC 1123, RFC 6335).

/// RFC 1123 label: at most 63 of `a-z0-9-`, no `-` at either end.
pub(crate) fn is_label(text: &str) -> bool {
    let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inside)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// RFC 1123 subdomain: labels with dots between them, at most 253 in all.
pub(crate) fn is_subdomain(text: &str) -> bool {
    let part = |part: &str| {
        let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        !part.is_empty() && part.bytes().all(inside) && !part.starts_with('-') && !part.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(part)
}

/// A key of labels and annotations: an optional `prefix/`, then at most 63 of letters, digits, `-_.`.
pub(crate) fn is_qualified(text: &str) -> bool {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    prefix.is_none_or(is_subdomain) && !name.is_empty() && is_label_value(name)
}

/// The value of a label: empty, or at most 63 of letters, digits, `-_.`, with one of the first two at
/// both ends.
pub(crate) fn is_label_value(text: &str) -> bool {
    let end = |b: Option<u8>| b.is_none_or(|b| b.is_ascii_alphanumeric());
    let inside = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    text.len() <= 63 && text.bytes().all(inside) && end(text.bytes().next()) && end(text.bytes().last())
}

/// The name of a port (RFC 6335): at most 15 of `a-z0-9-`, one letter, no two `-` in a row.
pub(crate) fn is_port_name(text: &str) -> bool {
    is_label(text) && text.len() <= 15 && !text.contains("--") && text.bytes().any(|b| b.is_ascii_lowercase())
}

/// The name of a variable: printable ASCII without `=`, as Kubernetes 1.34 and newer.
pub(crate) fn is_variable(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=')
}

/// A pod's uid: it becomes the name of a directory.
pub(crate) fn is_uid(text: &str) -> bool {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(fine) && !text.starts_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rfcs() {
        let long = "a".repeat(64);
        for good in ["a", "a-b", "1a", &long[..63]] {
            assert!(is_label(good) && is_subdomain(good), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "ä", "a/b", &long] {
            assert!(!is_label(bad), "{bad}");
        }
        assert!(
            is_subdomain("a.b-c.d") && !is_subdomain("a..b") && !is_subdomain(".a") && !is_subdomain("a.-b")
        );
        assert!(!is_subdomain("../x") && !is_subdomain(&"a.".repeat(127)));
        assert!(is_qualified("app") && is_qualified("example.com/My_App.1") && !is_qualified("/x"));
        assert!(!is_qualified("a/b/c") && !is_qualified("example.com/") && !is_qualified("-x"));
        assert!(
            is_label_value("") && is_label_value("V1.2_x") && !is_label_value("a b") && !is_label_value("x-")
        );
        assert!(
            is_port_name("http")
                && !is_port_name("80")
                && !is_port_name("a--b")
                && !is_port_name(&long[..16])
        );
        assert!(is_variable("my.var-1") && !is_variable("a=b") && !is_variable("") && !is_variable("ü"));
        assert!(is_uid("0b6c") && !is_uid("..") && !is_uid("a/b") && !is_uid(""));
    }
}
