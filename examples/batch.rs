//! A handler that takes several events at once, as one wants for a database that likes large inserts.
//!
//! ```sh
//! cargo run -p millstream-examples --example batch
//! ```

use std::sync::{Arc, Mutex, PoisonError};

use millstream::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(topic = "sensor.read", key = "sensor")]
struct Reading {
    sensor: u32,
    celsius: f64,
}

/// Stands for a database: what it stored, insert by insert.
#[derive(Clone, Default)]
struct Database {
    inserts: Arc<Mutex<Vec<Vec<f64>>>>,
}

impl Database {
    /// All rows or none, as a transaction does.
    fn insert(&self, rows: Vec<f64>) -> Result<(), String> {
        if rows.iter().any(|celsius| celsius.is_nan() || *celsius < -273.15) {
            return Err("colder than it can be".into());
        }
        self.inserts.lock().unwrap_or_else(PoisonError::into_inner).push(rows);
        Ok(())
    }
}

/// The batch succeeds or fails as one. If it fails, its events run again one by one, so that a bad one takes no
/// other along.
async fn store(readings: Batch<Reading>, State(database): State<Database>) -> Outcome {
    let rows = readings.iter().map(|reading| reading.celsius).collect();
    database.insert(rows).map_err(Failure::unrecoverable)
}

const READINGS: u32 = 1_000;
/// This one can never be stored.
const BROKEN: u32 = 500;

#[tokio::main]
async fn main() -> millstream::Result<()> {
    let database = Database::default();
    let bus = Bus::connect("memory://").await?;
    let readings: Vec<_> = (0..READINGS)
        .map(|n| Reading { sensor: n % 20, celsius: if n == BROKEN { -1_000.0 } else { f64::from(n % 30) } })
        .collect();
    bus.publish_all(&readings).await?.into_result()?;

    let running = bus
        .with_state(database.clone())
        .subscribe(store.group("database").batch(100, 1.ms()))
        .start()
        .await?;
    let control = running.control();
    while control.counts()[0].handled + control.counts()[0].dead_lettered < READINGS.into() {
        tokio::time::sleep(1.ms()).await;
    }
    running.shutdown().await;

    let inserts = std::mem::take(&mut *database.inserts.lock().unwrap_or_else(PoisonError::into_inner));
    let rows: usize = inserts.iter().map(Vec::len).sum();
    println!("{rows} readings in {} inserts; one was dead-lettered", inserts.len());
    assert_eq!(rows, READINGS as usize - 1);
    Ok(())
}

#[test]
fn it_runs() {
    main().unwrap();
}
