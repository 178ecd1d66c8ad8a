//! The walls of the house, as tests: which crate may depend on which, which file may say what.
//!
//! Nothing is here but `tests/`; this file only makes the package a library.
