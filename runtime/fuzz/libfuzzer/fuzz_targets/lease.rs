#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| thaw_fuzz::run("lease", data));
