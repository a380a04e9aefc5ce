#![no_main]

use millstream_fuzz::target;

libfuzzer_sys::fuzz_target!(init: target("protobuf").warm_up(), |data: &[u8]| target("protobuf").check(data));
