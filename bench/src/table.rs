//! Rows as people read them.

use std::collections::HashSet;

use crate::row::Row;

/// Prints the rows of a group, each with its detail below unless that was said before.
pub(crate) fn print(rows: &[Row]) {
    let mut said = HashSet::new();
    for row in rows {
        println!("{}", Line(row));
        if !row.detail.is_empty() && said.insert(&row.detail) {
            println!("         {}", row.detail);
        }
    }
}

/// How many goals are met, and which are not.
pub(crate) fn summary(rows: &[Row]) -> String {
    let wanted: Vec<_> = rows.iter().filter(|row| row.goal.is_some()).collect();
    let missed: Vec<_> = wanted.iter().filter(|row| row.met != Some(true)).collect();
    let mut text =
        format!("{} rows, {} of {} goals met", rows.len(), wanted.len() - missed.len(), wanted.len());
    for row in rows.iter().filter(|row| row.ours.is_none()) {
        text.push_str(&format!("\n  {}: {}", Line(row), row.detail));
    }
    for row in missed {
        text.push_str(&format!("\n  missed: {}", Line(row)));
    }
    text
}

struct Line<'a>(&'a Row);

impl std::fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let row = self.0;
        let Some(ours) = row.ours else {
            return write!(f, "LEFT OUT {}: {}", row.group, row.name);
        };
        let verdict = match row.met {
            Some(true) => "met     ",
            Some(false) => "MISSED  ",
            None => "        ",
        };
        write!(f, "{verdict} {}: {}: {} {}", row.group, row.name, Figure(ours), row.unit)?;
        if let (Some(peer), Some(name), Some(ratio)) = (row.peer, &row.peer_name, row.ratio) {
            write!(f, "; {name} {}; ratio {ratio:.2}", Figure(peer))?;
        }
        match row.goal {
            Some(goal) => write!(f, " (goal {goal})"),
            None => Ok(()),
        }
    }
}

/// A number, not negative, with as many digits as it is worth.
struct Figure(f64);

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let figure = self.0;
        if figure < 10.0 {
            return write!(f, "{figure:.2}");
        }
        let digits = format!("{figure:.0}");
        let length = digits.len();
        for (at, digit) in digits.chars().enumerate() {
            if at > 0 && (length - at).is_multiple_of(3) {
                f.write_str(",")?;
            }
            write!(f, "{digit}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Goal;

    #[test]
    fn what_is_missed_or_left_out_is_named_in_the_summary() {
        let rows = [
            Row::new("a", "fast", 10.0, "ns").beside("peer 1", 20.0).goal(Goal::AtMost(0.7)),
            Row::new("a", "slow", 19.0, "ns").beside("peer 1", 20.0).goal(Goal::AtMost(0.7)),
            Row::new("a", "plain", 1.0, "ns"),
            Row::left_out("a", "counts", "no valgrind"),
        ];
        let text = summary(&rows);
        assert!(text.starts_with("4 rows, 1 of 2 goals met"), "{text}");
        assert!(text.contains("LEFT OUT a: counts: no valgrind"), "{text}");
        assert!(text.contains("slow") && !text.contains("fast"), "{text}");
    }

    #[test]
    fn large_figures_are_grouped_by_thousands_and_small_ones_keep_two_digits() {
        assert_eq!(Figure(1_234_567.4).to_string(), "1,234,567");
        assert_eq!(Figure(999.6).to_string(), "1,000");
        assert_eq!(Figure(0.126).to_string(), "0.13");
    }
}
