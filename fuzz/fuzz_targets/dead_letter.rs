#![no_main]

use millstream_fuzz::target;

libfuzzer_sys::fuzz_target!(init: target("dead_letter").warm_up(), |data: &[u8]| target("dead_letter").check(data));
