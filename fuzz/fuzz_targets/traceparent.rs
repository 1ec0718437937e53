#![no_main]

#[allow(dead_code)] // The other targets.
#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::traceparent(data));
