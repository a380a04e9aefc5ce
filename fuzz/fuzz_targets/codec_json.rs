#![no_main]

use millstream_fuzz::target;

libfuzzer_sys::fuzz_target!(init: target("codec_json").warm_up(), |data: &[u8]| target("codec_json").check(data));
