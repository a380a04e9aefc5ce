#![no_main]

use millstream_fuzz::target;

libfuzzer_sys::fuzz_target!(init: target("sqlite_row").warm_up(), |data: &[u8]| target("sqlite_row").check(data));
