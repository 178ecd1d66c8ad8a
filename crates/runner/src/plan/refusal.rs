//! Fields of the specification that this runtime does not do: refused by name, unless their value asks
//! for nothing.

use crate::RunnerError;
use oci_spec::runtime::{Linux, Spec};

/// The first field that asks for what is not done.
pub(crate) fn check(spec: &Spec) -> Result<(), RunnerError> {
    let mut fields = vec![
        ("solaris", spec.solaris().is_some()),
        ("windows", spec.windows().is_some()),
        ("vm", spec.vm().is_some()),
        ("zos", spec.zos().is_some()),
    ];
    if let Some(linux) = spec.linux() {
        fields.extend(linux_fields(linux));
    }
    match fields.iter().find(|(_, asked)| *asked) {
        Some((field, _)) => Err(RunnerError::unsupported(*field, "")),
        None => Ok(()),
    }
}

fn linux_fields(linux: &Linux) -> [(&'static str, bool); 3] {
    [
        ("linux.intelRdt", linux.intel_rdt().is_some()),
        ("linux.memoryPolicy", linux.memory_policy().is_some()),
        ("linux.netDevices", linux.net_devices().as_ref().is_some_and(|list| !list.is_empty())),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_done_is_refused_by_name_and_empty_values_pass() {
        let check_json = |linux: &str| {
            let text = format!(r#"{{"ociVersion":"1.2.0","linux":{linux}}}"#);
            check(&serde_json::from_str(&text).expect("spec")).map_err(|error| error.to_string())
        };
        assert_eq!(check_json(r#"{"uidMappings":[],"mountLabel":""}"#), Ok(()));
        let refused = check_json(r#"{"intelRdt":{}}"#);
        assert_eq!(refused, Err("linux.intelRdt is not supported".to_owned()));
    }
}
