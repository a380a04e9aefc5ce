//! Publishing while messages that have expired are deleted.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use millstream_core::{OpenRequest, Reader, Start};
use millstream_sqlite::{Retention, SqliteStore};
use rusqlite::{Connection, OpenFlags};

use super::load::{self, Load, Stop};
use super::reading::fill;
use super::{GROUP, Scale, folder};
use crate::Result;
use crate::row::{Goal, Row};

const PUBLISHERS: usize = 16;
const AGE: Duration = Duration::from_secs(3_600);
const OLD: Duration = Duration::from_secs(7_200);
/// Longer than the deleting can take.
const TOO_LONG: Duration = Duration::from_secs(600);

pub(super) async fn run(scale: Scale) -> Result<Vec<Row>> {
    let folder = folder()?;
    let file = folder.path().join("app.db");
    let expired = scale.expired();
    let without = {
        let store = open(&file, None).await?;
        fill(&store.writer(), "load", expired, expired, SystemTime::now() - OLD).await?;
        // A group that has finished all of it.
        drop(store.reader().open(OpenRequest::new("load").group("g").start(Start::Latest)).await?);
        publish(&store, during(scale.turn())).await?
    };
    let store = open(&file, Some(AGE)).await?;
    wait_for(&file, |first| first > 1).await?;
    let (begun, stop) = (Instant::now(), Stop::default());
    let (with, gone) = tokio::join!(publish(&store, stop.clone()), async {
        let gone = wait_for(&file, move |first| first > expired).await;
        stop.now();
        gone
    });
    gone?;
    let (with, took) = (with?, begun.elapsed());
    let name = format!("{PUBLISHERS} publishers while {expired} expired messages are deleted");
    let detail = format!(
        "256 B; {:.1} s, {:.0} deleted and {:.0} acknowledged a second, {}; without deleting {:.0} a second, {}",
        took.as_secs_f64(),
        expired as f64 / took.as_secs_f64(),
        with.rate(),
        with.waits(),
        without.rate(),
        without.waits()
    );
    Ok(vec![
        Row::new(GROUP, format!("{name}, p99"), with.wait(0.99), "ms")
            .beside("without deleting", without.wait(0.99))
            .goal(Goal::AtMost(1.2))
            .detail(detail),
        Row::new(GROUP, format!("{name}, longest"), with.longest(), "ms").goal(Goal::AtMost(20.0)),
    ])
}

async fn open(file: &Path, age: Option<Duration>) -> Result<SqliteStore> {
    let retention = Retention { age, ..Retention::default() };
    Ok(SqliteStore::builder(file).private().retention(retention).open().await?)
}

/// Stops after a time.
fn during(time: Duration) -> Stop {
    let stop = Stop::default();
    let later = stop.clone();
    tokio::spawn(async move {
        tokio::time::sleep(time).await;
        later.now();
    });
    stop
}

async fn publish(store: &SqliteStore, stop: Stop) -> Result<Load> {
    let writer = store.writer();
    load::until(&stop, PUBLISHERS, move |publisher| {
        let message = load::message(publisher, 256).with_time(SystemTime::now());
        load::write(writer.clone(), message)
    })
    .await
}

/// Looks at the number of the first message there is, until it fits.
async fn wait_for(file: &Path, fits: impl Fn(u64) -> bool) -> Result {
    let connection = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let begun = Instant::now();
    while begun.elapsed() < TOO_LONG {
        let first: u64 =
            connection.query_row("SELECT min(seq) FROM millstream_log_1", [], |row| row.get(0))?;
        if fits(first) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err("the expired messages are still there".into())
}
