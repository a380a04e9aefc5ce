#![no_main]

use millstream_fuzz::target;

libfuzzer_sys::fuzz_target!(init: target("attribute").warm_up(), |data: &[u8]| target("attribute").check(data));
