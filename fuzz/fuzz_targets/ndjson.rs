#![no_main]

use millstream_fuzz::target;

libfuzzer_sys::fuzz_target!(init: target("ndjson").warm_up(), |data: &[u8]| target("ndjson").check(data));
