//! What a caller gives to prove who it is: CRI `AuthConfig`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use std::fmt;

/// CRI `AuthConfig`, field by field.
#[derive(Clone, Default)]
pub struct PullAuth {
    /// With `password`.
    pub username: String,
    /// With `username`.
    pub password: String,
    /// base64 of `username:password`, instead of the two.
    pub auth: String,
    /// The host that all this is for; empty = the image's own registry.
    pub server_address: String,
    /// A refresh token for the registry's token server.
    pub identity_token: String,
    /// A bearer token for the registry itself.
    pub registry_token: String,
}

/// Checked credentials. They show themselves nowhere.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Credentials {
    pub(super) secret: Secret,
    /// `server_address` without scheme and path, if given.
    pub(super) server: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum Secret {
    Basic { username: String, password: String },
    Identity(String),
    Bearer(String),
}

/// An `AuthConfig` that cannot be used; names the field.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("auth.{field} {why}")]
pub struct BadCredentials {
    /// Of `AuthConfig`.
    pub field: &'static str,
    /// What is wrong with it, without its content.
    pub why: &'static str,
}

/// Bound of each field.
const MAX: usize = 64 << 10;

impl PullAuth {
    /// Checks the fields. `None` when they are all empty: an anonymous pull.
    ///
    /// # Errors
    /// [`BadCredentials`] for a malformed `auth` or fields that cannot go into a header. Nothing is ever
    /// sent in place of what could not be read.
    pub fn checked(&self) -> Result<Option<Credentials>, BadCredentials> {
        let fields = [
            ("username", &self.username),
            ("password", &self.password),
            ("auth", &self.auth),
            ("server_address", &self.server_address),
            ("identity_token", &self.identity_token),
            ("registry_token", &self.registry_token),
        ];
        for (field, value) in fields {
            if value.len() > MAX {
                return Err(BadCredentials { field, why: "is longer than 64 KiB" });
            }
            if value.bytes().any(|b| b.is_ascii_control()) {
                return Err(BadCredentials { field, why: "has a control character" });
            }
        }
        let Some(secret) = self.secret()? else { return Ok(None) };
        let server = Some(server(&self.server_address)).filter(|text| !text.is_empty());
        Ok(Some(Credentials { secret, server }))
    }

    fn secret(&self) -> Result<Option<Secret>, BadCredentials> {
        if !self.registry_token.is_empty() {
            return Ok(Some(Secret::Bearer(self.registry_token.clone())));
        }
        if !self.identity_token.is_empty() {
            return Ok(Some(Secret::Identity(self.identity_token.clone())));
        }
        if !self.username.is_empty() || !self.password.is_empty() {
            if self.username.contains(':') {
                return Err(BadCredentials { field: "username", why: "has a colon" });
            }
            let (username, password) = (self.username.clone(), self.password.clone());
            return Ok(Some(Secret::Basic { username, password }));
        }
        if self.auth.is_empty() {
            return Ok(None);
        }
        let bad = BadCredentials { field: "auth", why: "is not base64 of `username:password`" };
        let bytes = STANDARD.decode(self.auth.trim_end_matches('=').to_owned() + padding(&self.auth));
        let text = bytes.ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or(bad.clone())?;
        // Docker's own files may end it with NULs.
        let (username, password) = text.trim_end_matches('\0').split_once(':').ok_or(bad.clone())?;
        if text.trim_end_matches('\0').bytes().any(|b| b.is_ascii_control()) {
            return Err(bad);
        }
        Ok(Some(Secret::Basic { username: username.to_owned(), password: password.to_owned() }))
    }
}

fn padding(text: &str) -> &'static str {
    match text.trim_end_matches('=').len() % 4 {
        2 => "==",
        3 => "=",
        _ => "",
    }
}

/// The host of a server address, which may be a URL (`https://index.docker.io/v1/`).
fn server(address: &str) -> String {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or_default();
    match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        other => other.to_ascii_lowercase(),
    }
}

impl Credentials {
    /// Whether they may be used for images of this registry (the host in a reference).
    pub(super) fn are_for(&self, registry: &str) -> bool {
        self.server.as_deref().is_none_or(|server| server == registry.to_ascii_lowercase())
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(hidden)")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

impl fmt::Debug for PullAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PullAuth(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth(text: &str) -> PullAuth {
        PullAuth { auth: text.to_owned(), ..PullAuth::default() }
    }

    #[test]
    fn each_form_of_credentials_is_understood() {
        assert_eq!(PullAuth::default().checked(), Ok(None));
        let basic = Secret::Basic { username: "user".to_owned(), password: "pa:ss".to_owned() };
        for text in ["dXNlcjpwYTpzcw==", "dXNlcjpwYTpzcw"] {
            assert_eq!(auth(text).checked().expect("good").expect("some").secret, basic);
        }
        let token = PullAuth { identity_token: "t".to_owned(), ..PullAuth::default() };
        assert_eq!(token.checked().expect("good").expect("some").secret, Secret::Identity("t".to_owned()));
    }

    #[test]
    fn malformed_credentials_are_an_error_and_not_an_anonymous_pull() {
        for bad in ["!", "dXNlcg==", "////", "dXNlcjpwYXNzCg=="] {
            assert_eq!(auth(bad).checked().expect_err(bad).field, "auth");
        }
        let newline = PullAuth { password: "a\nb".to_owned(), ..PullAuth::default() };
        assert_eq!(newline.checked().expect_err("newline").field, "password");
    }

    #[test]
    fn a_server_address_limits_where_they_go() {
        let given = |address: &str| {
            let auth = PullAuth { server_address: address.to_owned(), ..auth("dTpw") };
            auth.checked().expect("good").expect("some")
        };
        assert!(given("https://index.docker.io/v1/").are_for("docker.io"));
        assert!(given("").are_for("anything.example"));
        assert!(given("Reg.example:5000").are_for("reg.example:5000"));
        assert!(!given("reg.example").are_for("reg.example:5000"));
        assert!(!given("reg.example").are_for("evil.example"));
    }

    #[test]
    fn credentials_do_not_show_in_debug_output() {
        let all =
            PullAuth { password: "hunter2".to_owned(), username: "u".to_owned(), ..PullAuth::default() };
        let shown = format!("{all:?} {:?}", all.checked());
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
