//! TOML to a validated configuration.
