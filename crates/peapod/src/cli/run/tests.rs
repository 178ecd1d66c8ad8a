//! `peapod run` against a daemon that is none.
