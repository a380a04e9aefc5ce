#![no_main]

use millstream_fuzz::target;

libfuzzer_sys::fuzz_target!(init: target("filter").warm_up(), |data: &[u8]| target("filter").check(data));
