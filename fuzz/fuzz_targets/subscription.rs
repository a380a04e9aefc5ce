#![no_main]

use millstream_fuzz::target;

libfuzzer_sys::fuzz_target!(init: target("subscription").warm_up(), |data: &[u8]| target("subscription").check(data));
