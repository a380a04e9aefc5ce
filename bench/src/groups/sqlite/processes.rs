//! The same publishers in several processes on one file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use millstream_sqlite::SqliteStore;
use serde::{Deserialize, Serialize};

use super::child::{self, Process};
use super::load::{self, PUBLISHERS};
use super::{GROUP, Scale, folder, median, spread};
use crate::Result;
use crate::row::{Goal, Row};

const BYTES: usize = 256;
/// Processes, and what part of one process's rate is wanted.
const MANY: [(usize, f64); 2] = [(2, 0.45), (4, 0.22)];
/// The longest that a publisher may wait, in milliseconds.
const LONGEST: f64 = 100.0;

/// What a process has to tell.
#[derive(Debug, Serialize, Deserialize)]
struct Told {
    count: u64,
    /// Milliseconds.
    longest: f64,
}

pub(super) fn run(scale: Scale) -> Result<Vec<Row>> {
    let folder = folder()?;
    let mut one = Vec::new();
    let mut many = MANY.map(|_| Vec::new());
    for turn in 0..scale.rounds() {
        let file = |processes: usize| folder.path().join(format!("{processes}-{turn}.db"));
        one.push(together(&file(1), 1, scale.turn())?.0);
        for ((processes, _), turns) in MANY.iter().zip(&mut many) {
            turns.push(together(&file(*processes), *processes, scale.turn())?);
        }
    }
    let mut rows = Vec::new();
    for ((processes, goal), turns) in MANY.into_iter().zip(many) {
        let (rates, longest): (Vec<f64>, Vec<f64>) = turns.into_iter().unzip();
        let detail = format!("256 B; turns {} beside {}", spread(&rates), spread(&one));
        rows.push(
            Row::new(
                GROUP,
                format!("64 publishers in {processes} processes"),
                median(rates),
                "acknowledged a second",
            )
            .beside("one process", median(one.clone()))
            .goal(Goal::AtLeast(goal))
            .detail(detail),
        );
        let most = longest.iter().copied().fold(0.0, f64::max);
        rows.push(
            Row::new(GROUP, format!("longest wait of a publisher in {processes} processes"), most, "ms")
                .goal(Goal::AtMost(LONGEST))
                .detail(format!("turns {} ms", spread(&longest))),
        );
    }
    Ok(rows)
}

/// All at once; gives acknowledgements a second, and the longest wait.
fn together(file: &Path, processes: usize, time: Duration) -> Result<(f64, f64)> {
    let arguments = [(PUBLISHERS / processes).to_string(), time.as_millis().to_string()];
    let mut all =
        (0..processes).map(|_| Process::start("publish", file, &arguments)).collect::<Result<Vec<_>>>()?;
    for process in &mut all {
        process.line()?;
    }
    for process in &mut all {
        process.go()?;
    }
    let (mut count, mut longest) = (0, 0.0f64);
    for process in &mut all {
        let told: Told = serde_json::from_str(&process.line()?)?;
        count += told.count;
        longest = longest.max(told.longest);
    }
    Ok((count as f64 / time.as_secs_f64(), longest))
}

/// One of the processes.
pub(super) async fn publish(file: PathBuf, publishers: usize, time: Duration) -> Result {
    let store = SqliteStore::open(file).await?;
    println!("ready");
    child::await_go()?;
    let writer = store.writer();
    let load = load::during(time, publishers, move |publisher| {
        load::write(writer.clone(), load::message(publisher, BYTES))
    });
    let load = load.await?;
    println!("{}", serde_json::to_string(&Told { count: load.count(), longest: load.longest() })?);
    Ok(())
}
