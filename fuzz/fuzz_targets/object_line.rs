#![no_main]

use millstream_fuzz::target;

libfuzzer_sys::fuzz_target!(init: target("object_line").warm_up(), |data: &[u8]| target("object_line").check(data));
