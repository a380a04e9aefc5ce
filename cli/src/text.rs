//! Text for people: times, bytes of any kind, tables. What comes from a message is escaped, so that it can neither
//! break a line nor steer a terminal.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

/// A time as RFC 3339 in UTC with milliseconds.
pub(crate) fn time(at: SystemTime) -> String {
    said(at, humantime::format_rfc3339_millis).unwrap_or_else(|| "?".to_owned())
}

/// The same for a machine: as exact as the time is, and nothing if it cannot be said.
pub(crate) fn exact_time(at: SystemTime) -> Option<String> {
    said(at, humantime::format_rfc3339)
}

/// Times before 1970 and behind the year 9999, which a foreign message may have, have no such text.
fn said(at: SystemTime, format: fn(SystemTime) -> humantime::Rfc3339Timestamp) -> Option<String> {
    let mut text = String::new();
    (at >= SystemTime::UNIX_EPOCH && write!(text, "{}", format(at)).is_ok()).then_some(text)
}

/// How long something took or lies back, to two units.
pub(crate) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let two = |big: u64, unit: &str, small: u64, sub: &str| match small {
        0 => format!("{big}{unit}"),
        _ => format!("{big}{unit} {small}{sub}"),
    };
    match seconds {
        0 => format!("{}ms", span.as_millis()),
        1..60 => format!("{seconds}s"),
        60..3_600 => two(seconds / 60, "m", seconds % 60, "s"),
        3_600..86_400 => two(seconds / 3_600, "h", seconds % 3_600 / 60, "m"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    }
}

/// Bytes in one line: text as it is, control characters and what is not UTF-8 escaped.
pub(crate) fn line(bytes: &[u8]) -> String {
    escaped(bytes, "")
}

/// Text of several lines, in which all but line ends and tabs is escaped.
pub(crate) fn lines(bytes: &[u8]) -> String {
    escaped(bytes, "\n\t")
}

fn escaped(bytes: &[u8], allowed: &str) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if is_harmless(c) || allowed.contains(c) {
                text.push(c);
            } else {
                text.extend(c.escape_default());
            }
        }
        for byte in chunk.invalid() {
            // Writing to a string cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// Neither a control character nor one that turns the direction of what follows.
fn is_harmless(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The first `limit` characters of a line.
pub(crate) fn cut(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}…", &text[..at]),
    }
}

/// A number and what it counts: `1 message`, `2,000 messages`.
pub(crate) fn count(number: u64, one: &str) -> String {
    format!("{} {one}{}", grouped(number), if number == 1 { "" } else { "s" })
}

/// A number with commas between its thousands.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Which side of its column a cell is set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Left,
    Right,
}

/// Lines whose cells stand below each other. Widths only grow, so that a long list can be printed in parts.
#[derive(Debug)]
pub(crate) struct Table<const N: usize> {
    columns: [(&'static str, Side); N],
    widths: [usize; N],
    headed: bool,
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub(crate) fn new(columns: [(&'static str, Side); N]) -> Self {
        let widths = columns.map(|(name, _)| name.chars().count());
        Self { columns, widths, headed: false, rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: [String; N]) {
        for (width, cell) in self.widths.iter_mut().zip(&cells) {
            *width = cell.chars().count().max(*width);
        }
        self.rows.push(cells);
    }

    /// The lines added since it was last asked, the first time with the columns' names.
    pub(crate) fn take(&mut self) -> Vec<String> {
        let mut lines = Vec::with_capacity(self.rows.len() + 1);
        let rows = std::mem::take(&mut self.rows);
        if !self.headed && !rows.is_empty() {
            self.headed = true;
            lines.push(self.set(self.columns.map(|(name, _)| name)));
        }
        lines.extend(rows.iter().map(|row| self.set(row.each_ref().map(String::as_str))));
        lines
    }

    fn set(&self, cells: [&str; N]) -> String {
        let mut line = String::new();
        for ((cell, width), (_, side)) in cells.into_iter().zip(self.widths).zip(self.columns) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            // Writing to a string cannot fail.
            let _ = match side {
                Side::Left => write!(line, "{cell:<width$}"),
                Side::Right => write!(line, "{cell:>width$}"),
            };
        }
        line.truncate(line.trim_end().len());
        line
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn a_message_can_neither_break_a_line_nor_steer_a_terminal() {
        assert_eq!(line("né {\"a\": 1}".as_bytes()), "né {\"a\": 1}");
        assert_eq!(line(b"a\nb\x1b[2J\xff\0"), "a\\nb\\u{1b}[2J\\xff\\u{0}");
        assert_eq!(line("\u{202e}x".as_bytes()), "\\u{202e}x");
        assert_eq!(lines(b"a\n\tb\r"), "a\n\tb\\r");
    }

    #[test]
    fn a_time_that_has_no_text_does_not_break_the_list() {
        assert_eq!(time(UNIX_EPOCH), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(UNIX_EPOCH - Duration::from_secs(1)), "?");
        assert_eq!(exact_time(UNIX_EPOCH - Duration::from_secs(1)), None);
        assert_eq!(exact_time(UNIX_EPOCH + Duration::from_secs(1 << 40)), None);
    }

    #[test]
    fn spans_are_said_in_two_units() {
        let of = |seconds| span(Duration::from_secs(seconds));
        assert_eq!([of(9), of(60), of(243), of(7_260), of(200_000)], ["9s", "1m", "4m 3s", "2h 1m", "2d 7h"]);
        assert_eq!(span(Duration::from_millis(7)), "7ms");
    }

    #[test]
    fn cells_stand_below_each_other_also_in_parts() {
        let mut table = Table::new([("NAME", Side::Left), ("N", Side::Right)]);
        table.row(["a".into(), "1,000".into()]);
        assert_eq!(table.take(), ["NAME      N", "a     1,000"]);
        table.row(["b".into(), "2".into()]);
        assert_eq!(table.take(), ["b         2"]);
    }

    #[test]
    fn thousands_are_grouped_and_one_is_singular() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([count(1, "line"), count(2_000, "line")], ["1 line", "2,000 lines"]);
    }
}
