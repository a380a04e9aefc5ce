//! Subjects against the clock: each in a fresh process, one after the other, round by round, so that whatever else
//! the machine does hits all of them.

use bench_harness::Outcome;

use crate::Result;
use crate::subject::Subject;

/// How often each of them runs.
pub(crate) const ROUNDS: usize = 5;

/// What a subject came to in all rounds, best first.
#[derive(Debug)]
pub(crate) struct Runs {
    messages: usize,
    outcomes: Vec<Outcome>,
}

impl Runs {
    pub(crate) fn of(messages: usize, mut outcomes: Vec<Outcome>) -> Self {
        outcomes.sort_by_key(|outcome| outcome.took.wall);
        Self { messages, outcomes }
    }

    pub(crate) fn median(&self) -> &Outcome {
        &self.outcomes[self.outcomes.len() / 2]
    }

    /// Nanoseconds a message, of the median round.
    pub(crate) fn nanos(&self) -> f64 {
        self.per_message(self.median())
    }

    /// Messages a second, of the median round.
    pub(crate) fn rate(&self) -> f64 {
        1e9 / self.nanos()
    }

    /// Best, median and worst, in nanoseconds a message.
    pub(crate) fn spread(&self) -> String {
        let nanos = |outcome: Option<&Outcome>| outcome.map_or(f64::NAN, |outcome| self.per_message(outcome));
        format!(
            "{:.0}/{:.0}/{:.0} ns",
            nanos(self.outcomes.first()),
            self.nanos(),
            nanos(self.outcomes.last())
        )
    }

    /// Nanoseconds a message, of the slowest round.
    pub(crate) fn slowest_nanos(&self) -> f64 {
        self.outcomes.last().map_or(f64::NAN, |outcome| self.per_message(outcome))
    }

    /// Nanoseconds of CPU a message, of the round in the middle by that.
    pub(crate) fn cpu_nanos(&self) -> f64 {
        let cpu = self.cpu();
        cpu.get(cpu.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// Least, median and most CPU, in nanoseconds a message.
    pub(crate) fn cpu_spread(&self) -> String {
        let cpu = self.cpu();
        let (least, most) = (cpu.first().unwrap_or(&f64::NAN), cpu.last().unwrap_or(&f64::NAN));
        format!("{least:.0}/{:.0}/{most:.0} ns", self.cpu_nanos())
    }

    fn cpu(&self) -> Vec<f64> {
        let each = |outcome: &Outcome| outcome.took.cpu.as_nanos() as f64 / self.messages as f64;
        let mut cpu: Vec<_> = self.outcomes.iter().map(each).collect();
        cpu.sort_by(f64::total_cmp);
        cpu
    }

    /// The median round's latency, in words.
    pub(crate) fn latency(&self) -> String {
        self.median().latency.map_or_else(String::new, |latency| {
            let micros = |nanos: u64| nanos as f64 / 1e3;
            format!(
                "p50 {:.0} µs, p99 {:.0} µs, max {:.0} µs",
                micros(latency.p50),
                micros(latency.p99),
                micros(latency.max)
            )
        })
    }

    /// The median round's peak memory, in words.
    pub(crate) fn memory(&self) -> String {
        format!("{} MiB", self.median().peak_kib.div_ceil(1 << 10))
    }

    fn per_message(&self, outcome: &Outcome) -> f64 {
        outcome.took.wall.as_nanos() as f64 / self.messages as f64
    }
}

/// Runs them in turn.
pub(crate) fn interleaved<const N: usize>(subjects: [Subject; N], messages: usize) -> Result<[Runs; N]> {
    let mut all = subjects.map(|_| Runs { messages, outcomes: Vec::new() });
    for _ in 0..ROUNDS {
        for (subject, runs) in subjects.into_iter().zip(&mut all) {
            runs.outcomes.push(serde_json::from_slice(&subject.run(messages)?.stdout)?);
        }
    }
    Ok(all.map(|runs| Runs::of(runs.messages, runs.outcomes)))
}
