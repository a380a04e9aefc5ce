#![no_main]

use millstream_fuzz::target;

libfuzzer_sys::fuzz_target!(init: target("moment").warm_up(), |data: &[u8]| target("moment").check(data));
