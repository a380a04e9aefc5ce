#![no_main]

use millstream_fuzz::target;

libfuzzer_sys::fuzz_target!(init: target("sqs_message").warm_up(), |data: &[u8]| target("sqs_message").check(data));
