//! The closing report: the toolkit's counts beside the ledger's verdict, as JSON or as a table.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use millstream::SubscriptionReport;
use serde::Serialize;

use super::latency::Latency;
use super::ledger::{Group, Verdict};
use crate::text::grouped;

/// What happened in a run. Its JSON is the document that `--json` prints; docs/cli.md says what each field is.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    ok: bool,
    published: u64,
    orders: u64,
    copies: u64,
    handled: u64,
    retried: u64,
    duplicates_suppressed: u64,
    dead_lettered: DeadLettered,
    lost: u64,
    throughput: f64,
    latency: Latency,
    subscriptions: Vec<Subscription>,
    invoices: u64,
    problems: Vec<String>,
    seed: u64,
    url: String,
    elapsed_s: f64,
}

#[derive(Debug, Default, Serialize)]
struct DeadLettered {
    total: u64,
    reasons: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize)]
struct Subscription {
    group: &'static str,
    handled: u64,
    retried: u64,
    duplicates_suppressed: u64,
    dead_lettered: DeadLettered,
    lost: u64,
    out_of_order: u64,
    ended_twice: u64,
    latency: Latency,
}

/// What a report is made of, beside counts and verdict.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) orders: u32,
    pub(crate) copies: u64,
    pub(crate) seed: u64,
    /// Without password and parameters' values.
    pub(crate) url: String,
    pub(crate) elapsed: Duration,
    /// What went wrong beside the messages themselves.
    pub(crate) problems: Vec<String>,
}

impl Report {
    /// Puts together what the toolkit counted, in the order of [`Group::ALL`], and what the ledger found.
    pub(crate) fn new(run: Run, counts: &[SubscriptionReport; 3], verdict: Verdict) -> Self {
        let mut problems = run.problems;
        problems.extend(contradictions(counts, &verdict));
        let sum = |of: fn(&SubscriptionReport) -> u64| counts.iter().map(of).sum();
        let mut dead = DeadLettered { total: sum(|c| c.dead_lettered), ..DeadLettered::default() };
        for (class, count) in verdict.groups.iter().flat_map(|group| &group.dead_by_class) {
            *dead.reasons.entry(class.clone()).or_default() += count;
        }
        let seconds = run.elapsed.as_secs_f64();
        Self {
            ok: problems.is_empty(),
            published: verdict.acknowledged,
            orders: run.orders.into(),
            copies: run.copies,
            handled: sum(|c| c.handled),
            retried: sum(|c| c.retried),
            duplicates_suppressed: sum(|c| c.duplicates),
            dead_lettered: dead,
            lost: verdict.lost,
            throughput: if seconds > 0.0 { (verdict.acknowledged as f64 / seconds).round() } else { 0.0 },
            latency: verdict.latency,
            invoices: verdict.invoices,
            subscriptions: Group::ALL
                .into_iter()
                .zip(counts)
                .zip(verdict.groups)
                .map(|((group, count), found)| Subscription {
                    group: group.name(),
                    handled: count.handled,
                    retried: count.retried,
                    duplicates_suppressed: count.duplicates,
                    dead_lettered: DeadLettered { total: count.dead_lettered, reasons: found.dead_by_class },
                    lost: found.lost,
                    out_of_order: found.out_of_order,
                    ended_twice: found.twice,
                    latency: found.latency,
                })
                .collect(),
            problems,
            seed: run.seed,
            url: run.url,
            elapsed_s: seconds,
        }
    }

    /// Whether the run went as it must.
    pub(crate) fn is_ok(&self) -> bool {
        self.ok
    }
}

/// All that is not as it must be, a sentence each.
fn contradictions(counts: &[SubscriptionReport; 3], verdict: &Verdict) -> Vec<String> {
    let found = |count: u64, what: &str| (count > 0).then(|| format!("{count} {what}"));
    let mut all = vec![
        found(verdict.ghosts, "effects, invoices or dead letters belong to no order that was sent"),
        found(verdict.dead_without_reason, "dead letters do not say why"),
        found(verdict.wrong_invoices, "orders have not just the invoice they should have"),
    ];
    for ((group, count), books) in Group::ALL.into_iter().zip(counts).zip(&verdict.groups) {
        let name = group.name();
        let found = |count: u64, what: &str| found(count, &format!("orders {what} in {name}"));
        let differ = |what: &str, counted: u64, seen: u64| {
            (counted != seen)
                .then(|| format!("{name}: the toolkit counts {counted} {what}, the ledger {seen}"))
        };
        let ended = count.handled + count.duplicates + count.dead_lettered + count.discarded;
        all.extend([
            found(books.lost, "were acknowledged and ended nowhere"),
            found(books.twice, "ended twice"),
            found(books.out_of_order, "took effect behind a later one of their customer"),
            differ("handled", count.handled, books.effects),
            differ("dead-lettered", count.dead_lettered, books.dead_lettered),
            differ("ended messages", ended, verdict.acknowledged),
        ]);
    }
    all.into_iter().flatten().collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "An order pipeline over {}, seed {}", self.url, self.seed)?;
        writeln!(f)?;
        write!(f, "{:22}", "")?;
        for subscription in &self.subscriptions {
            write!(f, "{:>12}", subscription.group)?;
        }
        writeln!(f, "{:>12}", "all")?;
        self.counts(f, "handled", self.handled, |s| s.handled)?;
        self.counts(f, "retried", self.retried, |s| s.retried)?;
        self.counts(f, "duplicates suppressed", self.duplicates_suppressed, |s| s.duplicates_suppressed)?;
        self.counts(f, "dead-lettered", self.dead_lettered.total, |s| s.dead_lettered.total)?;
        for (class, count) in &self.dead_lettered.reasons {
            let of = |s: &Subscription| s.dead_lettered.reasons.get(class).copied().unwrap_or(0);
            self.counts(f, &format!("  {class}"), *count, of)?;
        }
        self.counts(f, "lost", self.lost, |s| s.lost)?;
        self.times(f, "latency p50", |l| l.p50_ms)?;
        self.times(f, "latency p99", |l| l.p99_ms)?;
        writeln!(f)?;
        writeln!(
            f,
            "{} messages published ({} orders, {} of them sent twice) in {:.2} s: {} a second.",
            grouped(self.published),
            grouped(self.orders),
            grouped(self.copies),
            self.elapsed_s,
            grouped(self.throughput as u64),
        )?;
        writeln!(f, "{} invoices came out of billing.", grouped(self.invoices))?;
        if self.problems.is_empty() {
            return write!(
                f,
                "The ledger found each order once in a known place of each group, each customer's in their order."
            );
        }
        write!(f, "The ledger found problems:")?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  - {problem}"))
    }
}

impl Report {
    fn counts(
        &self,
        f: &mut fmt::Formatter<'_>,
        what: &str,
        all: u64,
        of: impl Fn(&Subscription) -> u64,
    ) -> fmt::Result {
        self.row(f, what, |s| grouped(of(s)), &grouped(all))
    }

    fn times(&self, f: &mut fmt::Formatter<'_>, what: &str, of: fn(&Latency) -> f64) -> fmt::Result {
        let text = |latency: &Latency| format!("{:.1} ms", of(latency));
        self.row(f, what, |s| text(&s.latency), &text(&self.latency))
    }

    fn row(
        &self,
        f: &mut fmt::Formatter<'_>,
        what: &str,
        of: impl Fn(&Subscription) -> String,
        all: &str,
    ) -> fmt::Result {
        write!(f, "{what:22}")?;
        for subscription in &self.subscriptions {
            write!(f, "{:>12}", of(subscription))?;
        }
        writeln!(f, "{all:>12}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> Run {
        let elapsed = Duration::from_secs(2);
        Run { orders: 1_000, copies: 20, seed: 7, url: "memory://".into(), elapsed, problems: Vec::new() }
    }

    /// 1,020 messages, of which each group handled 998 orders, suppressed 20 and dead-lettered 2.
    fn fine() -> ([SubscriptionReport; 3], Verdict) {
        let mut verdict = Verdict { acknowledged: 1_020, invoices: 998, ..Verdict::default() };
        let counts = [(); 3].map(|()| {
            let mut count = SubscriptionReport::default();
            (count.handled, count.duplicates, count.dead_lettered, count.retried) = (998, 20, 2, 50);
            count
        });
        for group in &mut verdict.groups {
            (group.effects, group.dead_lettered) = (998, 2);
            group.dead_by_class.insert("decode".into(), 2);
        }
        (counts, verdict)
    }

    #[test]
    fn a_run_in_which_all_agree_is_ok_and_adds_up() {
        let (counts, verdict) = fine();
        let report = Report::new(run(), &counts, verdict);
        assert!(report.is_ok(), "{report}");
        assert_eq!((report.handled, report.dead_lettered.total, report.throughput), (2_994, 6, 510.0));
        assert_eq!(report.dead_lettered.reasons["decode"], 6);
    }

    #[test]
    fn a_lost_order_is_a_problem_with_the_group_named() {
        let (counts, mut verdict) = fine();
        (verdict.lost, verdict.groups[1].lost) = (1, 1);
        let report = Report::new(run(), &counts, verdict);
        assert!(!report.is_ok());
        assert_eq!(report.problems, ["1 orders were acknowledged and ended nowhere in stock"]);
    }

    #[test]
    fn a_count_that_contradicts_the_ledger_is_a_problem() {
        let (mut counts, verdict) = fine();
        counts[2].handled = 997;
        counts[2].duplicates = 21;
        let report = Report::new(run(), &counts, verdict);
        assert_eq!(report.problems, ["mail: the toolkit counts 997 handled, the ledger 998"]);
    }

    #[test]
    fn the_table_shows_each_reason_and_each_group() {
        let (counts, verdict) = fine();
        let text = Report::new(run(), &counts, verdict).to_string();
        assert!(
            text.contains("                           billing       stock        mail         all\n"),
            "{text}"
        );
        assert!(
            text.contains("  decode                         2           2           2           6\n"),
            "{text}"
        );
        assert!(
            text.contains("1,020 messages published (1,000 orders, 20 of them sent twice) in 2.00 s"),
            "{text}"
        );
    }
}
