#![no_main]

use millstream_fuzz::target;

libfuzzer_sys::fuzz_target!(init: target("sqlite_url").warm_up(), |data: &[u8]| target("sqlite_url").check(data));
