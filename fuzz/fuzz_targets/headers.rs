#![no_main]

use millstream_fuzz::target;

libfuzzer_sys::fuzz_target!(init: target("headers").warm_up(), |data: &[u8]| target("headers").check(data));
