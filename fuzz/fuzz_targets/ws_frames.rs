//! See `fuzz::stream_targets::ws_frames`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::stream_targets::ws_frames(data));
