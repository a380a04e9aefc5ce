//! What the program prints of a message: no bytes break a line or steer a terminal.

use super::Target;
use crate::input::{Input, Seed};
use crate::text;

pub(super) const TARGET: Target = Target::new("terminal", run, seeds);

fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let limit = usize::from(input.byte());
    let bytes = input.rest();
    let line = text::line(bytes);
    assert_harmless(&line, "");
    assert_harmless(&text::lines(bytes), "\n\t");
    if let Ok(plain) = std::str::from_utf8(bytes)
        && is_harmless(plain, "")
    {
        assert_eq!(line, plain, "what does no harm is shown as it is");
    }
    let cut = text::cut(&line, limit);
    assert!(cut.chars().count() <= limit + 1 && (cut == line || cut.ends_with('…')), "{cut:?}");
    let mut table = text::Table::new([("A", text::Side::Left), ("B", text::Side::Right)]);
    table.row([line.clone(), cut]);
    for printed in table.take() {
        assert_harmless(&printed, "");
    }
}

/// Fails if a text has characters that are not for eyes, other than those allowed.
pub(super) fn assert_harmless(text: &str, allowed: &str) {
    assert!(is_harmless(text, allowed), "{text:?}");
}

fn is_harmless(text: &str, allowed: &str) -> bool {
    let turns = |c: char| matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().all(|c| allowed.contains(c) || !(c.is_control() || turns(c)))
}

fn seeds() -> Vec<Vec<u8>> {
    ["né {\"a\": 1}", "a\nb\x1b[2J\0", "\u{202e}x\u{2066}", "🦀👩‍👩‍👧\u{85}"]
        .into_iter()
        .map(|text| Seed::new().byte(5).rest(text))
        .chain([vec![1, 0xff, 0xc0, 0x80]])
        .collect()
}
