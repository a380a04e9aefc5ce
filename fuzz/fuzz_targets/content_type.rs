#![no_main]

use millstream_fuzz::target;

libfuzzer_sys::fuzz_target!(init: target("content_type").warm_up(), |data: &[u8]| target("content_type").check(data));
