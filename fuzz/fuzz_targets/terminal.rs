#![no_main]

use millstream_fuzz::target;

libfuzzer_sys::fuzz_target!(init: target("terminal").warm_up(), |data: &[u8]| target("terminal").check(data));
