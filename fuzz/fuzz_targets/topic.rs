#![no_main]

use millstream_fuzz::target;

libfuzzer_sys::fuzz_target!(init: target("topic").warm_up(), |data: &[u8]| target("topic").check(data));
