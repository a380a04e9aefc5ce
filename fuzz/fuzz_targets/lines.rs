#![no_main]

use millstream_fuzz::target;

libfuzzer_sys::fuzz_target!(init: target("lines").warm_up(), |data: &[u8]| target("lines").check(data));
