#![no_main]

use millstream_fuzz::target;

libfuzzer_sys::fuzz_target!(init: target("url").warm_up(), |data: &[u8]| target("url").check(data));
