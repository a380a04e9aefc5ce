#![no_main]

use millstream_fuzz::target;

libfuzzer_sys::fuzz_target!(init: target("cloudevents").warm_up(), |data: &[u8]| target("cloudevents").check(data));
