#![no_main]

use millstream_fuzz::target;

libfuzzer_sys::fuzz_target!(init: target("wire_json").warm_up(), |data: &[u8]| target("wire_json").check(data));
