//! The suite is in `tests/`; this file only makes the package a library.
