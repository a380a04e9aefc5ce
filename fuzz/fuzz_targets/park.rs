#![no_main]

use millstream_fuzz::target;

libfuzzer_sys::fuzz_target!(init: target("park").warm_up(), |data: &[u8]| target("park").check(data));
