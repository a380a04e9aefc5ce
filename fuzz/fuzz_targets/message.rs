#![no_main]

use millstream_fuzz::target;

libfuzzer_sys::fuzz_target!(init: target("message").warm_up(), |data: &[u8]| target("message").check(data));
