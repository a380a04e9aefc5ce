//! The long form: messages and sums in one file, two processes that handle them, and somebody who kills both again
//! and again.
//!
//! The handler's SQL commits together with the acknowledgement, so that a process which dies in between leaves
//! neither: each flight is added once.

use std::error::Error;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use millstream::MessageId;
use millstream::prelude::*;
use millstream::sqlite::{SqliteStore, Transaction, rusqlite};

use crate::{Expected, Flight, Sum, Sums, fails_first, publish};

/// The environment variable that makes this program one of the two processes, and names their file.
pub(crate) const WORKER: &str = "MILLSTREAM_FLIGHTS_WORKER";

const WORKERS: usize = 2;
const TABLE: &str =
    "CREATE TABLE sums(distance INTEGER PRIMARY KEY, flights INTEGER NOT NULL, delay INTEGER NOT NULL)";
/// How long a file without progress is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

// ---- One of the two ------------------------------------------------------------------------------------------

/// Adds a flight to the sum of its distance, in the transaction that acknowledges it.
async fn add(
    flight: Flight,
    MessageId(id): MessageId,
    Attempt(attempt): Attempt,
    transaction: Transaction,
) -> Outcome {
    transaction.execute(
        "INSERT INTO sums VALUES(?1, 1, ?2)
         ON CONFLICT DO UPDATE SET flights = flights + 1, delay = delay + excluded.delay",
        (flight.distance, flight.delay),
    )?;
    if attempt == 1 && fails_first(&id) {
        // What was queued is dropped with the attempt.
        return Err(Failure::retry("the tower does not answer"));
    }
    Ok(())
}

/// Handles what is in the file until stdin ends.
pub(crate) async fn work(file: PathBuf) -> Result<(), Box<dyn Error>> {
    let store = SqliteStore::open(file).await?;
    Bus::from_connection(store.connection())
        .subscribe(
            add.group("sums")
                .concurrency(16)
                .retry(Retry::exponential(1.ms(), 10.ms()).attempts(3))
                // In the same file: an id and its effect commit together, too.
                .deduplicate(store.dedup_store(Duration::from_secs(3_600)))
                // They are killed far more often than any message is to blame for.
                .max_deliveries(1_000),
        )
        .run_until(tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())))
        .await?;
    Ok(())
}

// ---- Who starts and kills them -------------------------------------------------------------------------------

/// One of the two processes. Dropping it kills it.
struct Worker(Child);

impl Worker {
    fn start(mut command: Command, file: &Path) -> std::io::Result<Self> {
        command.env(WORKER, file).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().map(Self)
    }

    /// Kills it (on Unix with signal 9) and waits for its end.
    fn kill(&mut self) -> std::io::Result<()> {
        self.0.kill()?;
        self.0.wait().map(drop)
    }

    /// Ends it in order.
    fn end(mut self) -> Result<(), Box<dyn Error>> {
        drop(self.0.stdin.take());
        let status = self.0.wait()?;
        if status.success() { Ok(()) } else { Err(format!("a worker ended with {status}").into()) }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// Who publishes the flights.
pub(crate) enum Source {
    /// This program, with copies and poison in between.
    Itself(Vec<Flight>),
    /// The program `millstream`, from lines of JSON.
    Program { program: PathBuf, lines: Vec<u8>, count: u64 },
}

impl Source {
    fn count(&self) -> u64 {
        match self {
            Self::Itself(flights) => flights.len() as u64,
            Self::Program { count, .. } => *count,
        }
    }

    async fn publish(self, bus: Publisher, url: String) -> Result<Expected, Box<dyn Error + Send + Sync>> {
        match self {
            Self::Itself(flights) => Ok(publish(&bus, &flights).await?),
            Self::Program { program, lines, count } => {
                let piping = move || -> Result<Expected, Box<dyn Error + Send + Sync>> {
                    let mut publishing = Command::new(program)
                        .args(["publish", &url, "flights", "--key-field", "distance"])
                        .stdin(Stdio::piped())
                        .spawn()?;
                    if let Some(mut input) = publishing.stdin.take() {
                        input.write_all(&lines)?;
                    }
                    let status = publishing.wait()?;
                    if !status.success() {
                        return Err(format!("the program ended with {status}").into());
                    }
                    Ok(Expected { handled: count, ..Expected::default() })
                };
                tokio::task::spawn_blocking(piping).await?
            }
        }
    }
}

/// Runs the flights through a file; gives the sums, and whether all else is as it must be. `program` is this one.
pub(crate) async fn compare(
    source: Source,
    url: Option<&str>,
    kills: u32,
    program: impl Fn() -> Command + Send,
) -> Result<(Sums, bool), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let (url, file) = match url {
        Some(url) => (url.to_owned(), file_of(url)?),
        None => {
            let file = folder.path().join("flights.db");
            (format!("sqlite://{}", file.display()), file)
        }
    };
    let bus = Bus::connect(&url).await?;
    let mut sums = rusqlite::Connection::open(&file)?;
    sums.execute_batch(TABLE).map_err(|e| format!("{}: {e}; name a new file", file.display()))?;

    let begun = Instant::now();
    let total = source.count();
    let publishing = tokio::spawn(source.publish(bus.publisher().clone(), url));
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        workers.push(Worker::start(program(), &file)?);
    }
    for kill in 0..u64::from(kills) * WORKERS as u64 {
        // Spread over the way, so that there is work before and behind each.
        let after = total * (kill + 1) / (u64::from(kills) * WORKERS as u64 + 1);
        added(&mut sums, after).await?;
        let worker = &mut workers[kill as usize % WORKERS];
        worker.kill()?;
        *worker = Worker::start(program(), &file)?;
    }
    let expected = publishing.await?.map_err(|error| error.to_string())?;
    drained(&bus).await?;
    let took = begun.elapsed();
    for worker in workers {
        worker.end()?;
    }

    let letters = bus.admin().ok_or("the driver has no administration")?.topics().await?;
    let dead: u64 =
        letters.iter().filter(|topic| topic.name == "flights").map(|topic| topic.dead_letters).sum();
    println!(
        "{} messages in {:.1} s, {WORKERS} processes, each killed {kills} times; dead-lettered {dead}",
        expected.messages(),
        took.as_secs_f64()
    );
    if dead != expected.dead_lettered {
        println!("DIFFERENT: {dead} dead letters, expected {}", expected.dead_lettered);
    }
    Ok((read(&mut sums)?, dead == expected.dead_lettered))
}

fn file_of(url: &str) -> Result<PathBuf, String> {
    let path = url.strip_prefix("sqlite://").filter(|path| !path.is_empty() && !path.contains('?'));
    path.map(PathBuf::from)
        .ok_or_else(|| format!("--url takes sqlite://FILE without parameters, not {url:?}"))
}

/// Waits until so many flights are added.
async fn added(sums: &mut rusqlite::Connection, wanted: u64) -> Result<(), Box<dyn Error>> {
    let (mut last, mut moved) = (0, Instant::now());
    loop {
        let now: u64 = sums.query_row("SELECT coalesce(sum(flights), 0) FROM sums", [], |row| row.get(0))?;
        if now >= wanted {
            return Ok(());
        }
        if now > last {
            (last, moved) = (now, Instant::now());
        }
        if moved.elapsed() > PATIENCE {
            return Err(format!("{now} flights were added, and for {PATIENCE:?} no more").into());
        }
        tokio::time::sleep(2.ms()).await;
    }
}

/// Waits until the group has nothing left.
async fn drained(bus: &Bus) -> Result<(), Box<dyn Error>> {
    let admin = bus.admin().ok_or("the driver has no administration")?;
    let (mut last, mut moved) = (u64::MAX, Instant::now());
    loop {
        let left: u64 = admin.groups("flights").await?.iter().map(|g| g.lag + g.in_flight + g.parked).sum();
        if left == 0 {
            return Ok(());
        }
        if left < last {
            (last, moved) = (left, Instant::now());
        }
        if moved.elapsed() > PATIENCE {
            return Err(format!("{left} messages are left, and for {PATIENCE:?} none was handled").into());
        }
        tokio::time::sleep(5.ms()).await;
    }
}

fn read(connection: &mut rusqlite::Connection) -> rusqlite::Result<Sums> {
    let mut statement = connection.prepare("SELECT distance, flights, delay FROM sums")?;
    let rows =
        statement.query_map([], |row| Ok((row.get(0)?, Sum { flights: row.get(1)?, delay: row.get(2)? })))?;
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{independent, testing};

    /// One of the processes of the test below.
    #[tokio::test]
    #[ignore = "run by the test below, in a process of its own"]
    async fn worker() {
        if let Ok(file) = std::env::var(WORKER) {
            work(file.into()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn sums_are_those_of_the_file_in_spite_of_killed_processes() {
        let json = testing::json(2_500);
        let flights: Vec<Flight> = serde_json::from_slice(&json).unwrap();
        let this = std::env::current_exe().unwrap();
        let program = || {
            let mut command = Command::new(&this);
            command.args(["--exact", "killed::tests::worker", "--ignored", "--nocapture"]);
            command
        };
        let (sums, counted) = compare(Source::Itself(flights), None, 2, program).await.unwrap();
        assert_eq!(sums, independent::sums(&json).unwrap());
        assert!(counted, "every poison message is a dead letter");
    }
}
