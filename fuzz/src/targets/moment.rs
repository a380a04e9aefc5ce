//! Times, starts and rates as a user writes them: what is read can be written and read again, and is something that
//! the clock can wait for.

use std::time::{Duration, Instant, SystemTime};

use millstream::Start;

use super::Target;
use crate::moment;

pub(super) const TARGET: Target = Target::new("moment", run, seeds);

fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match moment::time(text) {
        Ok(at) if !text.starts_with('-') => {
            if at >= SystemTime::UNIX_EPOCH
                && at < SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_800)
            {
                let written = humantime::format_rfc3339_nanos(at).to_string();
                assert_eq!(moment::time(&written), Ok(at), "{text} is {written}");
            }
        }
        Ok(at) => assert!(at <= SystemTime::now(), "{text} ago is past"),
        Err(why) => assert!(!why.is_empty()),
    }
    match moment::start(text) {
        Ok(Start::Position(position)) => assert_eq!(text.trim_start_matches('+').parse(), Ok(position.0)),
        Ok(Start::Earliest) => assert_eq!(text, "earliest"),
        Ok(Start::Latest) => assert_eq!(text, "latest"),
        Ok(_) => assert!(moment::time(text).is_ok()),
        Err(why) => assert!(why.contains("earliest"), "{why}"),
    }
    if let Ok(rate) = moment::rate(text) {
        assert!(rate.every >= Duration::from_micros(1), "{text}: {rate:?}");
        assert!(Instant::now().checked_add(rate.every).is_some(), "nobody can wait for {text}: {rate:?}");
    }
}

fn seeds() -> Vec<Vec<u8>> {
    [
        "2026-11-24T12:00:00Z",
        "2026-11-24 12:00:00.123456789",
        "2026-11-24T13:30:00+01:30",
        "1970-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59",
        "-1h30m",
        "-584942417355y",
        "earliest",
        "latest",
        "42",
        "50/s",
        "0.5/h",
        "1e-9/m",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
