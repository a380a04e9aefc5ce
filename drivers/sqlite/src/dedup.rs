//! Remembering in the file which messages were handled.

use std::sync::Arc;
use std::time::Duration;

use millstream_core::{
    DedupKey, DedupScope, DedupStore, Effect, Error, ErrorKind, Reservation, Reserve, Result,
};
use rusqlite::{Connection, OptionalExtension, params};

use crate::effects::SqlEffect;
use crate::hub::Hub;
use crate::{clock, errors, retention};

/// Remembers in a [`SqliteStore`](crate::SqliteStore) which messages were handled: every process that uses the file
/// knows it, also after a crash. Cloning shares it.
///
/// With a reader of the same file an id is confirmed in the transaction that acknowledges its message, so that a handler
/// whose effects are in that transaction too has each effect once. An id that was handled is remembered for the window,
/// and then until it is removed, some seconds later. A reservation ends with its lease, or when its process has ended.
#[derive(Debug, Clone)]
pub struct SqliteDedupStore {
    hub: Arc<Hub>,
    window: Duration,
    /// Names this process to others, so that they see when it is gone.
    process: Arc<str>,
}

impl SqliteDedupStore {
    pub(crate) fn new(hub: Arc<Hub>, window: Duration) -> Self {
        Self { hub, window, process: clock::this_process().into() }
    }
}

impl DedupStore for SqliteDedupStore {
    fn scope(&self) -> DedupScope {
        DedupScope::Host
    }

    fn window(&self) -> Option<Duration> {
        Some(self.window)
    }

    async fn reserve(&self, keys: Vec<DedupKey>, lease: Duration) -> Result<Vec<Reserve>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let process = Arc::clone(&self.process);
        let wanted: Vec<Name> = keys.into_iter().map(Name::new).collect();
        let mut unheard = Unheard { hub: Arc::clone(&self.hub), names: wanted.clone() };
        let answers = self
            .hub
            .write(move |connection| {
                wanted.into_iter().map(|one| reserve(connection, one, lease, &process)).collect()
            })
            .await;
        if answers.is_ok() {
            unheard.names.clear();
        }
        answers
    }

    async fn confirm(&self, done: &[Reservation]) -> Result<Vec<bool>> {
        let (done, window) = (names(done), self.window);
        if done.is_empty() {
            return Ok(Vec::new());
        }
        self.hub
            .write(move |connection| {
                done.iter()
                    .map(|one| {
                        confirm(connection, one, window)
                            .map_err(|e| failed("the id cannot be confirmed", e, &one.key))
                    })
                    .collect()
            })
            .await
    }

    async fn release(&self, failed: Vec<Reservation>) -> Result<()> {
        if failed.is_empty() {
            return Ok(());
        }
        let failed = names(&failed);
        self.hub.write(move |connection| failed.iter().try_for_each(|one| release(connection, one))).await
    }

    async fn contains(&self, key: &DedupKey) -> Result<bool> {
        let key = key.clone();
        self.hub.read(move |connection| contains(connection, &key)).await
    }

    fn confirm_as_effect(&self, reservation: &Reservation) -> Option<Effect> {
        let (one, window) = (name(reservation), self.window);
        let effect = SqlEffect::own(move |connection| {
            if confirm(connection, &one, window)? {
                return Ok(());
            }
            // Somebody else may have run the same message meanwhile: this run's effects must not be added.
            Err(Error::new(
                ErrorKind::LeaseLost,
                "the message's deduplication entry was taken over by another run",
            )
            .group(&one.key.group)
            .fix("give the handler less to do at a time, or the subscription a longer lease")
            .into())
        });
        Some(effect.into_effect())
    }
}

/// A reservation as it is named in the file; it cannot be copied itself, so that nobody confirms what he gave back.
#[derive(Debug, Clone)]
struct Name {
    key: DedupKey,
    owner: i64,
}

impl Name {
    /// One that nobody has yet.
    fn new(key: DedupKey) -> Self {
        Self { key, owner: fastrand::i64(1..=i64::MAX) }
    }
}

/// Reservations whose answer is not there yet: if nobody waits for it any more, or it is an error, they are given back.
struct Unheard {
    hub: Arc<Hub>,
    names: Vec<Name>,
}

impl Drop for Unheard {
    fn drop(&mut self) {
        let names = std::mem::take(&mut self.names);
        if !names.is_empty() {
            // Behind the wish itself, if that was sent at all.
            drop(
                self.hub
                    .hand_over(move |connection| names.iter().try_for_each(|one| release(connection, one))),
            );
        }
    }
}

fn name(reservation: &Reservation) -> Name {
    // Owners are below 2^63: this loses nothing.
    Name { key: reservation.key.clone(), owner: i64::from_ne_bytes(reservation.owner.to_ne_bytes()) }
}

fn names(reservations: &[Reservation]) -> Vec<Name> {
    reservations.iter().map(name).collect()
}

fn failed(what: &str, error: rusqlite::Error, key: &DedupKey) -> Error {
    errors::sqlite(what, error).group(&key.group)
}

// In a row, `process` is who has reserved the id, `until` his lease's end since boot. Without a process it was handled:
// then `until` is in wall-clock nanoseconds, and how long it is remembered.

fn reserve(connection: &Connection, wanted: Name, lease: Duration, process: &str) -> Result<Reserve> {
    let Name { key, owner } = wanted;
    let reserved = |key| Reserve::Reserved(Reservation { key, owner: owner.unsigned_abs() });
    let (now, until) = (clock::since_boot(), clock::after(lease));
    let take = |condition: &str| -> rusqlite::Result<bool> {
        // A reservation whose lease is over goes to who asks.
        let sql = format!(
            "INSERT INTO millstream_dedup(grp, id, owner, until, at, process) VALUES(?1, ?2, ?3, ?4, ?5, ?6) \
             ON CONFLICT DO UPDATE SET owner = excluded.owner, until = excluded.until, at = excluded.at, \
             process = excluded.process WHERE process IS NOT NULL AND {condition}"
        );
        let taken = connection.prepare_cached(&sql)?.execute(params![
            &*key.group,
            &*key.id,
            owner,
            until,
            clock::wall(),
            process,
            now
        ])?;
        Ok(taken == 1)
    };
    let work = || -> rusqlite::Result<Option<Duration>> {
        if take("until <= ?7")? {
            return Ok(None);
        }
        let held: Option<(i64, Option<String>)> = connection
            .prepare_cached("SELECT until, process FROM millstream_dedup WHERE grp = ?1 AND id = ?2")?
            .query_row(params![&*key.group, &*key.id], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((until, Some(holder))) = held else { return Ok(Some(Duration::MAX)) };
        if clock::is_gone(&holder) && take("?7 = ?7")? {
            return Ok(None);
        }
        let left = u64::try_from(until - now).unwrap_or(0).max(1);
        Ok(Some(Duration::from_millis(left)))
    };
    match work() {
        Ok(None) => Ok(reserved(key)),
        Ok(Some(Duration::MAX)) => Ok(Reserve::Duplicate),
        Ok(Some(left)) => Ok(Reserve::Busy(left)),
        Err(e) => Err(failed("the id cannot be reserved", e, &key)),
    }
}

/// Says whether it is confirmed by this reservation: now, or already before.
fn confirm(connection: &Connection, one: &Name, window: Duration) -> rusqlite::Result<bool> {
    let now = retention::now();
    let until = now.saturating_add(i64::try_from(window.as_nanos()).unwrap_or(i64::MAX));
    let confirmed = connection
        .prepare_cached(
            "UPDATE millstream_dedup SET process = NULL, at = ?4, until = ?5 WHERE grp = ?1 AND id = ?2 AND owner = ?3",
        )?
        .execute(params![&*one.key.group, &*one.key.id, one.owner, now, until])?;
    Ok(confirmed == 1)
}

fn release(connection: &Connection, one: &Name) -> Result<()> {
    connection
        .prepare_cached(
            "DELETE FROM millstream_dedup WHERE grp = ?1 AND id = ?2 AND owner = ?3 AND process IS NOT NULL",
        )
        .and_then(|mut s| s.execute(params![&*one.key.group, &*one.key.id, one.owner]))
        .map(drop)
        .map_err(|e| failed("the id cannot be given back", e, &one.key))
}

fn contains(connection: &Connection, key: &DedupKey) -> Result<bool> {
    connection
        .prepare_cached(
            "SELECT EXISTS(SELECT 1 FROM millstream_dedup WHERE grp = ?1 AND id = ?2 AND process IS NULL)",
        )
        .and_then(|mut s| s.query_row(params![&*key.group, &*key.id], |row| row.get(0)))
        .map_err(|e| failed("the id cannot be looked up", e, key))
}

/// Forgets ids whose window is over, at most so many; says how many.
///
/// # Errors
/// As SQLite has them.
pub(crate) fn expire(connection: &Connection, limit: usize) -> Result<usize> {
    expire_before(connection, retention::now(), limit)
}

fn expire_before(connection: &Connection, now: i64, limit: usize) -> Result<usize> {
    connection
        .prepare_cached(
            "DELETE FROM millstream_dedup WHERE (grp, id) IN (SELECT grp, id FROM millstream_dedup \
             WHERE process IS NULL AND until < ?1 ORDER BY until LIMIT ?2)",
        )
        .and_then(|mut s| s.execute(params![now, limit]))
        .map_err(|e| errors::sqlite("handled ids cannot be forgotten", e))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::open::{self, Create, Role};

    const LEASE: Duration = Duration::from_secs(60);
    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn file() -> (TempDir, Connection) {
        let folder = TempDir::new().unwrap();
        let path = open::prepare(&folder.path().join("app.db"), Create::Missing, LEASE).unwrap();
        let connection = open::connect(&path, Role::Writer, LEASE).unwrap();
        (folder, connection)
    }

    fn key(id: &'static str) -> DedupKey {
        DedupKey { group: "g".into(), id: id.into() }
    }

    fn ask(connection: &Connection, id: &'static str) -> Reserve {
        reserve(connection, Name::new(key(id)), LEASE, &clock::this_process()).unwrap()
    }

    fn take(connection: &Connection, id: &'static str) -> Reservation {
        match ask(connection, id) {
            Reserve::Reserved(reservation) => reservation,
            other => panic!("{other:?}"),
        }
    }

    fn confirmed(connection: &Connection, reservation: &Reservation) -> bool {
        confirm(connection, &name(reservation), DAY).unwrap()
    }

    #[test]
    fn an_id_is_reserved_once_then_handled_and_then_a_duplicate() {
        let (_folder, connection) = file();
        let first = take(&connection, "1");
        let Reserve::Busy(wait) = ask(&connection, "1") else { panic!("it was given twice") };
        assert!(wait <= LEASE && wait > LEASE / 2);
        assert!(!contains(&connection, &key("1")).unwrap());

        assert!(confirmed(&connection, &first));

        assert_eq!(ask(&connection, "1"), Reserve::Duplicate);
        assert!(contains(&connection, &key("1")).unwrap());
        // another group has not handled it
        let other = DedupKey { group: "h".into(), id: "1".into() };
        assert!(matches!(reserve(&connection, Name::new(other), LEASE, "").unwrap(), Reserve::Reserved(_)));
    }

    #[test]
    fn confirming_twice_is_fine_and_confirming_what_another_confirmed_is_not() {
        let (_folder, connection) = file();
        let first = take(&connection, "1");
        connection.execute("UPDATE millstream_dedup SET until = 0", []).unwrap();
        let second = take(&connection, "1");
        assert!(confirmed(&connection, &second));
        assert!(confirmed(&connection, &second));
        assert!(!confirmed(&connection, &first));
    }

    #[test]
    fn what_is_released_is_free_and_what_is_confirmed_stays() {
        let (_folder, connection) = file();
        let first = take(&connection, "1");
        release(&connection, &name(&first)).unwrap();
        let second = take(&connection, "1");
        // a reservation that has ended gives nothing back
        release(&connection, &name(&first)).unwrap();
        assert!(matches!(ask(&connection, "1"), Reserve::Busy(_)));
        assert!(confirmed(&connection, &second));
        release(&connection, &name(&second)).unwrap();
        assert_eq!(ask(&connection, "1"), Reserve::Duplicate);
    }

    #[test]
    fn a_reservation_whose_lease_is_over_is_good_until_another_takes_it() {
        let (_folder, connection) = file();
        let (first, second) = (take(&connection, "1"), take(&connection, "2"));
        connection.execute("UPDATE millstream_dedup SET until = 0", []).unwrap();
        assert!(confirmed(&connection, &first));
        let taken = take(&connection, "2");
        assert!(!confirmed(&connection, &second));
        assert!(confirmed(&connection, &taken));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_reservation_of_a_process_that_ended_is_free() {
        let (_folder, connection) = file();
        let mut gone = clock::this_process();
        gone.push('0');
        assert!(matches!(
            reserve(&connection, Name::new(key("1")), LEASE, &gone).unwrap(),
            Reserve::Reserved(_)
        ));
        let _ = take(&connection, "1");
    }

    #[test]
    fn a_key_that_comes_twice_in_a_batch_is_reserved_once() {
        let (_folder, connection) = file();
        let _first = take(&connection, "1");
        assert!(matches!(ask(&connection, "1"), Reserve::Busy(_)));
    }

    #[test]
    fn ids_are_forgotten_after_their_window_the_oldest_first_and_reservations_never() {
        let (_folder, connection) = file();
        for id in ["1", "2", "3"] {
            let reservation = take(&connection, id);
            assert!(confirmed(&connection, &reservation));
        }
        let short = take(&connection, "short");
        assert!(confirm(&connection, &name(&short), Duration::ZERO).unwrap());
        let _running = take(&connection, "running");
        let now = retention::now() + 1;

        assert_eq!(expire_before(&connection, now, 10).unwrap(), 1);
        assert!(!contains(&connection, &key("short")).unwrap());

        let later = now + i64::try_from(DAY.as_nanos()).unwrap();
        assert_eq!(expire_before(&connection, later, 2).unwrap(), 2);
        assert!(contains(&connection, &key("3")).unwrap());
        assert_eq!(expire_before(&connection, later, 2).unwrap(), 1);
        assert!(matches!(ask(&connection, "running"), Reserve::Busy(_)));
    }

    #[test]
    fn a_boot_frees_what_was_reserved_in_the_one_before() {
        let (_folder, connection) = file();
        let _lost = reserve(&connection, Name::new(key("1")), LEASE, "").unwrap();
        let handled = take(&connection, "2");
        assert!(confirmed(&connection, &handled));
        open::new_boot(&connection).unwrap();
        let _ = take(&connection, "1");
        assert_eq!(ask(&connection, "2"), Reserve::Duplicate);
    }

    #[tokio::test]
    async fn a_store_answers_in_the_batchs_order_and_its_effect_fails_once_another_took_the_id() {
        let folder = TempDir::new().unwrap();
        let store = crate::SqliteStore::open(folder.path().join("app.db")).await.unwrap();
        let dedup = store.dedup_store(DAY);
        let mut answers = dedup.reserve(vec![key("1"), key("2"), key("1")], LEASE).await.unwrap();
        assert!(matches!(answers.pop(), Some(Reserve::Busy(_))));
        let (Some(Reserve::Reserved(two)), Some(Reserve::Reserved(one))) = (answers.pop(), answers.pop())
        else {
            panic!("{answers:?}")
        };
        assert_eq!((&*one.key.id, &*two.key.id), ("1", "2"));
        let connection = open::connect(store.path(), Role::Writer, LEASE).unwrap();
        let run = |reservation: &Reservation| {
            let effect = dedup.confirm_as_effect(reservation).unwrap().downcast::<SqlEffect>().unwrap();
            effect.run(&connection)
        };

        run(&one).unwrap();
        assert!(dedup.contains(&key("1")).await.unwrap());
        assert_eq!(dedup.confirm(&[one]).await.unwrap(), [true]);

        connection.execute("UPDATE millstream_dedup SET owner = owner - 1 WHERE id = '2'", []).unwrap();
        let error = run(&two).unwrap_err().downcast::<Error>().unwrap();
        assert_eq!(error.kind(), ErrorKind::LeaseLost);
        assert_eq!(dedup.confirm(&[two]).await.unwrap(), [false]);
    }
}
