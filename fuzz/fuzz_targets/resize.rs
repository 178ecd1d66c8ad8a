//! See `fuzz::stream_targets::resize`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::stream_targets::resize(data));
