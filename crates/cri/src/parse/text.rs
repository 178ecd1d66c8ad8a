//! Checks of single values that many fields share.

use super::Bad;
use types::Labels;

/// Longest name, namespace or uid. Kubernetes' own are at most 253 bytes (RFC 1123 subdomains).
const LONGEST_NAME: usize = 1024;
/// All labels or annotations of one object together, keys and values; Kubernetes' own bound for
/// annotations is 256 KiB.
const LARGEST_LABELS: usize = 1 << 20;

/// A name that must be there: printable, bounded.
pub(super) fn name(field: &str, text: &str) -> Result<String, Bad> {
    if text.is_empty() {
        return Err(Bad::field(field, "must not be empty"));
    }
    bounded(field, text, LONGEST_NAME)
}

/// A value of at most `longest` bytes without control characters; may be empty.
pub(super) fn bounded(field: &str, text: &str, longest: usize) -> Result<String, Bad> {
    if text.len() > longest {
        return Err(Bad::field(field, format!("is {} bytes long, at most {longest} are taken", text.len())));
    }
    if text.chars().any(char::is_control) {
        return Err(Bad::field(field, "holds a control character"));
    }
    Ok(text.to_owned())
}

/// Labels or annotations: kept as they are, bounded as a whole.
pub(super) fn labels(field: &str, labels: &Labels) -> Result<Labels, Bad> {
    let size: usize = labels.iter().map(|(key, value)| key.len() + value.len()).sum();
    if size > LARGEST_LABELS {
        return Err(Bad::field(
            field,
            format!("are {size} bytes together, at most {LARGEST_LABELS} are taken"),
        ));
    }
    Ok(labels.clone())
}

/// An absolute path without NUL and `..`, at most PATH_MAX.
pub(super) fn absolute(field: &str, path: &str) -> Result<String, Bad> {
    if !path.starts_with('/') {
        return Err(Bad::field(field, format!("`{}` is not an absolute path", short(path))));
    }
    beneath(field, path)
}

/// A path without NUL and `..`, at most PATH_MAX.
pub(super) fn beneath(field: &str, path: &str) -> Result<String, Bad> {
    if path.len() > 4095 {
        return Err(Bad::field(field, format!("is {} bytes long, a path has at most 4095", path.len())));
    }
    if path.contains('\0') || path.contains('\n') {
        return Err(Bad::field(field, "holds a NUL or a line break"));
    }
    if path.split('/').any(|part| part == "..") {
        return Err(Bad::field(field, format!("`{}` goes up with `..`", short(path))));
    }
    Ok(path.to_owned())
}

/// The start of a value, for an error text.
pub(super) fn short(text: &str) -> String {
    text.chars().take(100).flat_map(char::escape_default).collect()
}
