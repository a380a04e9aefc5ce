//! Which dead letters a command line means, on letters with any headers: only such as there are, each once, in order,
//! and all of them if nothing was asked for.

use clap::Parser as _;
use millstream::Message;

use super::dead_letter::as_letter;
use super::letters::Store;
use super::{Target, wait};
use crate::input::{Input, Seed};
use crate::ours::filter::{Filter, Walk};

pub(super) const TARGET: Target = Target::new("filter", run, seeds);

#[derive(Debug, clap::Parser)]
struct Line {
    #[command(flatten)]
    filter: Filter,
}

/// Letters, numbered from 1.
const LETTERS: u64 = 3;

fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let arguments = input.text();
    let message = input.message();
    let line = ["ls"].into_iter().chain(arguments.split('\n').filter(|argument| !argument.is_empty()));
    let Ok(Line { filter }) = Line::try_parse_from(line) else { return };
    let store = Store::new([Message::new("t.dlq", "x"), message, as_letter(Message::new("t", "{}"))]);
    let letters = store.open("t");
    let found = wait(async {
        let mut walk = Walk::new(&letters, &filter);
        let mut found = Vec::new();
        while let Some((id, letter)) = walk.next().await.expect("the store answers") {
            assert_eq!(letter.id, Some(id));
            found.push(id);
        }
        assert!(walk.seen() <= LETTERS && walk.seen() >= found.len() as u64);
        found
    });
    assert!(
        found.is_sorted_by(|a, b| a < b) && found.iter().all(|id| (1..=LETTERS).contains(id)),
        "{found:?}"
    );
    if let Some(limit) = filter.limit() {
        assert!(found.len() as u64 <= limit);
    } else if filter.means_all() && !arguments.contains("--af") {
        assert_eq!(found, [1, 2, 3]);
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let letter = as_letter(Message::new("t", "{}").with_key("customer-1"));
    [
        "",
        "--id\n2\n--id\n3",
        "--class\nexhausted\n--group\nbilling\n--key\ncustomer-1",
        "--error\nDISK",
        "--since\n2026-11-24T12:00:00Z\n--before\n2026-11-24T12:00:01+01:00",
        "--since\n-10m\n--min-attempts\n3",
        "--after\n1\n--limit\n1",
        "--id=0\n--after=18446744073709551615",
    ]
    .into_iter()
    .map(|line| Seed::new().bytes(line).message(&letter).done())
    .collect()
}
