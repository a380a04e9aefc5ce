#![no_main]

use millstream_fuzz::target;

libfuzzer_sys::fuzz_target!(init: target("ids").warm_up(), |data: &[u8]| target("ids").check(data));
