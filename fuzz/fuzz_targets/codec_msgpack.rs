#![no_main]

use millstream_fuzz::target;

libfuzzer_sys::fuzz_target!(init: target("codec_msgpack").warm_up(), |data: &[u8]| target("codec_msgpack").check(data));
