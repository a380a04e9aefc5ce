//! Times and rates as a user writes them on a command line.

use std::time::{Duration, SystemTime};

use millstream::{Position, Start};

/// A time: RFC 3339, or how long ago, such as `-10m`.
///
/// # Errors
/// What is wrong with it, for clap.
pub(crate) fn time(text: &str) -> Result<SystemTime, String> {
    let unreadable = || "write a time as 2026-11-24T12:00:00Z, or how long ago as -10m or -1h30m".to_owned();
    if let Some(ago) = text.strip_prefix('-') {
        let ago = humantime::parse_duration(ago).map_err(|e| format!("{e}: {}", unreadable()))?;
        return SystemTime::now().checked_sub(ago).ok_or_else(|| "that is too long ago".to_owned());
    }
    let (local, offset) = split_offset(text).ok_or_else(unreadable)?;
    let at = humantime::parse_rfc3339_weak(local).map_err(|_| unreadable())?;
    let shifted = match offset {
        Offset::East(offset) => at.checked_sub(offset),
        Offset::West(offset) => at.checked_add(offset),
    };
    shifted.ok_or_else(unreadable)
}

/// How far a local time is from UTC.
enum Offset {
    East(Duration),
    West(Duration),
}

/// Takes the offset off a time; one without is UTC.
fn split_offset(text: &str) -> Option<(&str, Offset)> {
    let utc = Offset::East(Duration::ZERO);
    let Some(at) = text.len().checked_sub(6).filter(|at| *at >= "2026-11-24T12:00:00".len()) else {
        return Some((text, utc));
    };
    let Some((local, offset)) = text.split_at_checked(at) else { return Some((text, utc)) };
    let (east, offset) = match offset.split_at_checked(1)? {
        ("+", offset) => (true, offset),
        ("-", offset) => (false, offset),
        _ => return Some((text, utc)),
    };
    let (hours, minutes) = offset.split_once(':')?;
    let (hours, minutes): (u64, u64) = (hours.parse().ok()?, minutes.parse().ok()?);
    let offset = Duration::from_secs((hours * 60 + minutes) * 60);
    let offset = if east { Offset::East(offset) } else { Offset::West(offset) };
    (hours < 24 && minutes < 60).then_some((local, offset))
}

/// Where to start reading: `earliest`, `latest`, a time, or a position.
///
/// # Errors
/// What is wrong with it, for clap.
pub(crate) fn start(text: &str) -> Result<Start, String> {
    match text {
        "earliest" => Ok(Start::Earliest),
        "latest" => Ok(Start::Latest),
        _ => match text.parse() {
            Ok(position) => Ok(Start::Position(Position(position))),
            Err(_) => {
                time(text).map(Start::Time).map_err(|e| format!("{e}; or earliest, latest, a position"))
            }
        },
    }
}

/// So many in so long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rate {
    /// From one to the next.
    pub(crate) every: Duration,
}

/// A rate: `50/s`, `10/m`, `500/h`; a number alone is a second's.
///
/// # Errors
/// What is wrong with it, for clap.
pub(crate) fn rate(text: &str) -> Result<Rate, String> {
    let unreadable = || "write a rate as 50/s, 10/m or 500/h".to_owned();
    let (number, unit) = text.split_once('/').unwrap_or((text, "s"));
    let seconds = match unit {
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        _ => return Err(unreadable()),
    };
    let number: f64 = number.parse().map_err(|_| unreadable())?;
    if !(number > 0.0 && number <= 1e6) {
        return Err("the rate must be more than 0 and at most 1,000,000".to_owned());
    }
    let every = Duration::try_from_secs_f64(seconds / number).map_err(|_| unreadable())?;
    if every > Duration::from_secs(24 * 3_600) {
        return Err("the rate must be at least one a day".to_owned());
    }
    Ok(Rate { every })
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn a_time_is_read_with_its_offset_and_without_one_it_is_utc() {
        let noon = UNIX_EPOCH + Duration::from_secs(1_795_521_600);
        for text in [
            "2026-11-24T12:00:00Z",
            "2026-11-24 12:00:00",
            "2026-11-24T13:30:00+01:30",
            "2026-11-24T07:00:00.000-05:00",
        ] {
            assert_eq!(time(text), Ok(noon), "{text}");
        }
    }

    #[test]
    fn a_time_may_be_said_as_how_long_ago() {
        let before = SystemTime::now();
        let ago = time("-1h30m").unwrap() + Duration::from_secs(5_400);
        assert!((before..=SystemTime::now()).contains(&ago), "{ago:?}");
    }

    #[test]
    fn what_is_no_time_says_how_to_write_one() {
        for text in [
            "",
            "-",
            "-10",
            "yesterday",
            "2026-13-24T12:00:00Z",
            "2026-11-24T12:00:00+25:00",
            "ä-ä-ä-ä-ä-ä-ä-ä",
        ] {
            assert!(time(text).unwrap_err().contains("-10m"), "{text}");
        }
    }

    #[test]
    fn a_start_is_a_word_a_position_or_a_time() {
        assert_eq!(start("earliest"), Ok(Start::Earliest));
        assert_eq!(start("latest"), Ok(Start::Latest));
        assert_eq!(start("42"), Ok(Start::Position(Position(42))));
        assert!(matches!(start("-10m"), Ok(Start::Time(_))));
        assert!(start("oldest").unwrap_err().contains("earliest"));
    }

    #[test]
    fn rates_are_by_second_minute_or_hour() {
        let every = |text| rate(text).map(|rate| rate.every);
        assert_eq!(every("50/s"), Ok(Duration::from_millis(20)));
        assert_eq!(every("50"), Ok(Duration::from_millis(20)));
        assert_eq!(every("10/m"), Ok(Duration::from_secs(6)));
        assert_eq!(every("3600/h"), Ok(Duration::from_secs(1)));
        for text in ["0/s", "-1/s", "fast", "5/d", "inf", "NaN", "2e-16/h"] {
            assert!(every(text).is_err(), "{text}");
        }
    }
}
