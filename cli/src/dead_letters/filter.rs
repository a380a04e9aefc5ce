//! Which dead letters are meant, and reading them in order.

use std::collections::{BTreeSet, VecDeque};
use std::time::SystemTime;

use clap::Args;
use millstream::{DeadLetter, DeadLetters, Error, ErrorKind, Result};

use crate::moment;

/// Letters asked for at once.
const PAGE: usize = 100;

/// Which dead letters are meant: those for which all that is given holds.
#[derive(Debug, Args)]
#[command(next_help_heading = "Which dead letters")]
pub(crate) struct Filter {
    /// The letter of this number, as `ls` shows it; may be given several times
    #[arg(long, value_name = "ID")]
    id: Vec<u64>,
    /// Of this class, such as exhausted or decode; may be given several times
    #[arg(long)]
    class: Vec<String>,
    /// Of this group
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// Of this routing key
    #[arg(long)]
    key: Option<String>,
    /// Whose errors contain this, in letters of any case
    #[arg(long, value_name = "TEXT")]
    error: Option<String>,
    /// That failed last at this time or later: 2026-11-24T12:00:00Z, or how long ago, such as -10m
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = moment::time)]
    since: Option<SystemTime>,
    /// That failed last before this time
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = moment::time)]
    before: Option<SystemTime>,
    /// Whose handler ran so often or more
    #[arg(long, value_name = "N")]
    min_attempts: Option<u32>,
    /// Behind the letter of this number: to go on
    #[arg(long, value_name = "ID")]
    after: Option<u64>,
    /// So many at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

impl Filter {
    /// Whether it means all letters that there are.
    pub(crate) fn means_all(&self) -> bool {
        let Self { id, class, group, key, error, since, before, min_attempts, after: _, limit: _ } = self;
        id.is_empty()
            && class.is_empty()
            && [group, key, error].iter().all(|text| text.is_none())
            && [since, before].iter().all(|time| time.is_none())
            && min_attempts.is_none()
    }

    fn wants(&self, id: u64, letter: &DeadLetter) -> bool {
        let failed = letter.last_failure.or(letter.first_failure).unwrap_or(letter.message.time);
        (self.id.is_empty() || self.id.contains(&id))
            && (self.class.is_empty() || self.class.iter().any(|class| Some(class) == letter.class.as_ref()))
            && self.group.as_ref().is_none_or(|group| letter.group.as_deref() == Some(group))
            && self.key.as_ref().is_none_or(|key| letter.key.as_deref() == Some(key.as_bytes()))
            && self.error.as_ref().is_none_or(|text| says(letter, text))
            && self.since.is_none_or(|since| failed >= since)
            && self.before.is_none_or(|before| failed < before)
            && self.min_attempts.is_none_or(|least| letter.attempts.unwrap_or(0) >= least)
    }

    /// What is not what was asked for.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) for letters that were named and are not there.
    pub(crate) fn expect_named(&self, topic: &str, seen: &BTreeSet<u64>) -> Result<()> {
        let missing: Vec<_> = self.id.iter().filter(|id| !seen.contains(id)).map(u64::to_string).collect();
        if missing.is_empty() || self.limit.is_some() {
            return Ok(());
        }
        let missing = missing.join(", ");
        Err(Error::new(ErrorKind::NotFound, format!("there is no dead letter {missing} that is meant"))
            .topic(topic)
            .fix("see which there are with `ls`; it may have been redriven or discarded already"))
    }

    /// Whether this letter was named by its number.
    pub(crate) fn names(&self, id: u64) -> bool {
        self.id.contains(&id)
    }

    /// How many are meant at most.
    pub(crate) fn limit(&self) -> Option<u64> {
        self.limit
    }
}

fn says(letter: &DeadLetter, text: &str) -> bool {
    let text = text.to_lowercase();
    [&letter.error, &letter.error_type]
        .into_iter()
        .flatten()
        .any(|error| error.to_lowercase().contains(&text))
}

/// Reads the letters that are meant, oldest first.
pub(crate) struct Walk<'a> {
    letters: &'a DeadLetters,
    filter: &'a Filter,
    after: Option<u64>,
    /// Behind this one nothing is read.
    last: Option<u64>,
    left: u64,
    page: VecDeque<DeadLetter>,
    /// Letters looked at, also those that are not meant.
    seen: u64,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(letters: &'a DeadLetters, filter: &'a Filter) -> Self {
        let before_named = filter.id.iter().min().map(|id| id.saturating_sub(1)).filter(|id| *id > 0);
        Self {
            letters,
            filter,
            after: filter.after.max(before_named),
            last: filter.id.iter().max().copied(),
            left: filter.limit.unwrap_or(u64::MAX),
            page: VecDeque::new(),
            seen: 0,
        }
    }

    /// Up to this letter at most: what dies meanwhile lies behind it.
    pub(crate) fn up_to(mut self, last: u64) -> Self {
        self.last = Some(last);
        self
    }

    /// The next one that is meant.
    pub(crate) async fn next(&mut self) -> Result<Option<(u64, DeadLetter)>> {
        while self.left > 0 {
            let Some(letter) = self.page.pop_front() else {
                if self.last.is_some_and(|last| self.after >= Some(last)) {
                    return Ok(None);
                }
                self.page = self.letters.list(self.after, PAGE).await?.into();
                match self.page.back().and_then(|letter| letter.id) {
                    Some(last) => self.after = Some(last),
                    None => return Ok(None),
                }
                continue;
            };
            let Some(id) = letter.id else { continue };
            if self.last.is_some_and(|last| id > last) {
                return Ok(None);
            }
            self.seen += 1;
            if self.filter.wants(id, &letter) {
                self.left -= 1;
                return Ok(Some((id, letter)));
            }
        }
        Ok(None)
    }

    /// Whether the next letter has to be asked for.
    pub(crate) fn is_at_page_end(&self) -> bool {
        self.page.is_empty()
    }

    /// Letters looked at so far, also those that are not meant.
    pub(crate) fn seen(&self) -> u64 {
        self.seen
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use clap::Parser as _;
    use millstream::{Message, names};

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        filter: Filter,
    }

    fn filter(args: &[&str]) -> Filter {
        Line::parse_from(["ls"].iter().chain(args)).filter
    }

    fn letter() -> DeadLetter {
        DeadLetter::parse(
            Message::new("orders.dlq", "{}")
                .with_header(names::DL_CLASS, "exhausted")
                .with_header(names::DL_GROUP, "billing")
                .with_header(names::DL_KEY, "customer-1")
                .with_header(names::DL_ATTEMPTS, "10")
                .with_header(names::DL_LAST_FAILURE, "2026-11-24T12:00:00Z")
                .with_header(names::DL_ERROR, "it failed\nConnection refused"),
        )
    }

    #[test]
    fn a_letter_is_meant_if_all_that_is_given_holds() {
        for args in [
            &[][..],
            &["--id", "6", "--id", "7"],
            &["--class", "decode", "--class", "exhausted"],
            &["--group", "billing", "--key", "customer-1"],
            &["--error", "connection REFUSED"],
            &["--since", "2026-11-24T12:00:00Z", "--before", "2026-11-24T12:00:01Z"],
            &["--min-attempts", "10"],
        ] {
            assert!(filter(args).wants(7, &letter()), "{args:?}");
        }
        for args in [
            &["--id", "6"][..],
            &["--class", "decode"],
            &["--group", "billing", "--key", "customer-2"],
            &["--error", "time-out"],
            &["--since", "-10m", "--before", "2026-11-24T12:00:00Z"],
            &["--min-attempts", "11"],
        ] {
            assert!(!filter(args).wants(7, &letter()), "{args:?}");
        }
    }

    #[test]
    fn a_letter_of_another_program_counts_by_the_time_of_its_message() {
        let foreign = DeadLetter::parse(
            Message::new("t", "x").with_time(UNIX_EPOCH + Duration::from_secs(1_795_521_600)),
        );
        assert!(filter(&["--since", "2026-11-24T12:00:00Z"]).wants(1, &foreign));
        assert!(!filter(&["--before", "2026-11-24T12:00:00Z"]).wants(1, &foreign));
    }

    #[test]
    fn a_limit_and_a_place_to_go_on_from_still_mean_all() {
        assert!(filter(&["--limit", "5", "--after", "3"]).means_all());
        assert!(!filter(&["--class", "decode"]).means_all());
        assert!(!filter(&["--before", "-1h"]).means_all());
    }
}
