//! See `fuzz::stream_targets::spdy_headers`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::stream_targets::spdy_headers(data));
