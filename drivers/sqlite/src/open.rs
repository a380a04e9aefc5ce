//! Opening a file: what is refused and why, how a new one is made, how each connection is set, and seeing that the
//! file is still the one that was opened.
//!
//! No part of this opens the database file, or one of those beside it, other than through SQLite: closing such a
//! handle anywhere in the process would drop the locks that SQLite holds on the file.

use std::cell::Cell;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use millstream_core::{Endpoint, Error, ErrorKind, Result};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior, ffi};
use rustix::io::Errno;

use crate::{checkpoint, clock, errors, schema};

/// What happens if the file is not there, or is there and empty.
///
/// An empty file is refused by default: it is more often one that was cut off than a wish for a new database.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Create {
    /// A file that is missing is made; an empty one is refused.
    #[default]
    Missing,
    /// A file that is missing is made, and an empty one is made a database.
    Empty,
    /// The file has to be there.
    Never,
}

// ---- The URL -------------------------------------------------------------------------------------------------

/// The path in a URL: `sqlite://app.db` and `sqlite:app.db` are relative to the working directory,
/// `sqlite:///var/lib/app.db` is absolute.
///
/// # Errors
/// [`InvalidConfig`](ErrorKind::InvalidConfig) if it names no file.
pub(crate) fn path_of(endpoint: &Endpoint) -> Result<PathBuf> {
    let bad = |what: &str, fix: &str| Err(Error::new(ErrorKind::InvalidConfig, what).fix(fix));
    let (host, path) = (endpoint.host(), endpoint.path());
    if endpoint.user().is_some() || endpoint.password().is_some() {
        return bad(
            "a sqlite:// URL has no user and no password",
            "leave them out; a path with an @ is written behind a third slash, as in sqlite:///var/lib/a@b.db",
        );
    }
    if host.is_empty() && matches!(path, "" | "/") {
        return bad(
            "the sqlite:// URL names no file",
            "write sqlite://app.db or sqlite:///var/lib/app.db; memory:// keeps messages in memory",
        );
    }
    if path == ":memory:" || path.ends_with("/:memory:") {
        return bad(
            "the sqlite:// driver keeps nothing in memory",
            "use memory:// for that, or name a file, such as sqlite://app.db",
        );
    }
    if host.contains(['%', ':', '[']) {
        return bad(
            "the first part of the sqlite:// URL cannot be a part of a path",
            "write the path from the root behind a third slash, as in sqlite:///var/lib/app.db, or without any, as \
             in sqlite:app%201.db",
        );
    }
    if path.contains('\0') {
        return bad("the path in the sqlite:// URL has a NUL byte", "take it out");
    }
    if path.ends_with('/') {
        return bad(
            "the sqlite:// URL names a folder",
            "name a file in it, such as sqlite:///var/lib/app.db",
        );
    }
    Ok(PathBuf::from(format!("{host}{path}")))
}

// ---- Before the first connection -----------------------------------------------------------------------------

/// Sees to it that the file is there, is SQLite's, is in WAL mode and has the tables; gives its canonical path.
///
/// # Errors
/// Each names the path and the fix: [`InvalidConfig`](ErrorKind::InvalidConfig) for a path that is none of a
/// database, [`Corrupt`](ErrorKind::Corrupt) for a file that is none or is cut off,
/// [`Denied`](ErrorKind::Denied) without the right to write, [`Unavailable`](ErrorKind::Unavailable) if it is
/// locked for longer than `busy_timeout`, [`Unsupported`](ErrorKind::Unsupported) on a network filesystem and for a
/// newer format, [`Io`](ErrorKind::Io) otherwise.
pub(crate) fn prepare(path: &Path, create: Create, busy_timeout: Duration) -> Result<PathBuf> {
    // Somebody else may make or delete the file between two looks; then look again.
    for _ in 0..16 {
        match std::fs::metadata(path) {
            Ok(found) => {
                let path = &canonical(path)?;
                refuse_remote(path)?;
                refuse_odd(path, &found)?;
                if found.len() == 0 {
                    if wal_size(path) > 0 {
                        return Err(cut_off(path, "is empty, and its write-ahead log is not"));
                    }
                    if create != Create::Empty {
                        return Err(refuse(ErrorKind::InvalidConfig, path, "is empty").fix(
                            "delete it if it may be a new database, or say create=empty; if it had content, restore \
                             a backup",
                        ));
                    }
                }
                bring_up(path, busy_timeout)?;
                return canonical(path);
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if std::fs::symlink_metadata(path).is_ok() {
                    return Err(refuse(
                        ErrorKind::InvalidConfig,
                        path,
                        "is a link to a file that is not there",
                    )
                    .fix("mend the link, or name the file itself"));
                }
                if create == Create::Never {
                    return Err(absent(path).fix("check the path, or let it be made: create=missing"));
                }
                let path = &in_folder(path)?;
                refuse_remote(path)?;
                // Its pages would be taken for the new file's.
                if wal_size(path) > 0 {
                    if path.exists() {
                        continue;
                    }
                    return Err(cut_off(path, "does not exist, and its write-ahead log does"));
                }
                make(path, busy_timeout)?;
            }
            Err(e) => return Err(refuse_io(path, "cannot be looked at", e)),
        }
    }
    Err(refuse(ErrorKind::Unavailable, path, "appears and disappears")
        .fix("find out which program deletes it"))
}

fn absent(path: &Path) -> Error {
    refuse(ErrorKind::InvalidConfig, path, "does not exist")
}

fn refuse_odd(path: &Path, found: &std::fs::Metadata) -> Result<()> {
    if found.is_dir() {
        return Err(refuse(ErrorKind::InvalidConfig, path, "is a folder").fix("name a file in it"));
    }
    if !found.is_file() {
        return Err(refuse(ErrorKind::InvalidConfig, path, "is no regular file")
            .fix("name a regular file, or one that does not exist yet"));
    }
    Ok(())
}

/// Connects to a file to look at it and leave all as it is, also what a crash left in the write-ahead log.
///
/// # Errors
/// As [`prepare`].
pub(crate) fn inspect(path: &Path, busy_timeout: Duration) -> Result<Connection> {
    let found = match std::fs::metadata(path) {
        Ok(found) => found,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(absent(path).fix("check the path")),
        Err(e) => return Err(refuse_io(path, "cannot be looked at", e)),
    };
    refuse_odd(path, &found)?;
    if found.len() == 0 {
        return Err(cut_off(path, "is empty"));
    }
    let path = &canonical(path)?;
    refuse_remote(path)?;
    let connection = plain(path, busy_timeout)?;
    let set = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
    set.and_then(|_| {
        connection
            .execute_batch("PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; PRAGMA query_only = ON")
    })
    .map_err(|e| failed(path, e))?;
    match whole(path, &connection) {
        Err(e) if e.kind() == ErrorKind::Io || e.kind() == ErrorKind::Denied => {
            // Who reads in WAL mode writes into the memory that is shared by all who do.
            let copy = "copy it together with its -wal file into a folder that this user may write, and take the copy";
            Err(refuse(e.kind(), path, "cannot be opened").fix(copy).source(e))
        }
        whole => whole.map(|()| connection),
    }
}

/// The canonical path of a file that is not there yet.
fn in_folder(path: &Path) -> Result<PathBuf> {
    let Some(name) = path.file_name() else {
        return Err(refuse(ErrorKind::InvalidConfig, path, "names no file").fix("name one, such as app.db"));
    };
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    match folder.canonicalize() {
        Ok(folder) => Ok(folder.join(name)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            Err(refuse(ErrorKind::InvalidConfig, path, "cannot be made: its folder does not exist")
                .fix(format!("make the folder {}, or check the path", folder.display())))
        }
        Err(e) => Err(refuse_io(path, "cannot be made", e)),
    }
}

fn canonical(path: &Path) -> Result<PathBuf> {
    path.canonicalize().map_err(|e| refuse_io(path, "cannot be looked at", e))
}

/// Brings a file that is there to WAL mode and to the tables of this version.
fn bring_up(path: &Path, busy_timeout: Duration) -> Result<()> {
    let connection = plain(path, busy_timeout)?;
    // SQLite opens a file for reading only if it may not be written, and says so no earlier than at the first write.
    if connection.is_readonly("main").map_err(|e| failed(path, e))? {
        return Err(refuse(ErrorKind::Denied, path, "cannot be written")
            .fix("give this user the right to write the file, its folder and its mount"));
    }
    whole(path, &connection)?;
    use_wal(path, &connection)?;
    if !schema::is_there(&connection).map_err(|e| failed(path, e))?
        || schema::format(&connection).map_err(|e| named(path, &e))? != schema::FORMAT
    {
        tables(path, &connection)?;
    }
    connection.close().map_err(|(_, e)| failed(path, e))
}

/// Sees whether SQLite takes the file for a database that has all its pages.
fn whole(path: &Path, connection: &Connection) -> Result<()> {
    let failed = |e| failed(path, e);
    // In one read transaction, so that the write-ahead log keeps what belongs to the count of pages.
    let reading = connection.unchecked_transaction().map_err(failed)?;
    reading.query_row("PRAGMA schema_version", [], |_| Ok(())).map_err(failed)?;
    let pragma = |name: &str| reading.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, u64>(0));
    let (pages, size) = (pragma("page_count").map_err(failed)?, pragma("page_size").map_err(failed)?);
    let in_wal = wal_size(path) / (size + FRAME_HEADER);
    let there = std::fs::metadata(path).map_err(|e| refuse_io(path, "cannot be looked at", e))?.len() / size;
    // Pages at the end may still be in the log alone, but no more than it has room for.
    if there + in_wal < pages {
        return Err(cut_off(path, &format!("has {there} of its {pages} pages")));
    }
    Ok(())
}

/// Bytes before each page in the write-ahead log: <https://sqlite.org/fileformat2.html#walformat>.
const FRAME_HEADER: u64 = 24;

fn tables(path: &Path, connection: &Connection) -> Result<()> {
    let failed = |e| failed(path, e);
    let transaction =
        Transaction::new_unchecked(connection, TransactionBehavior::Immediate).map_err(failed)?;
    schema::bring_up(&transaction).map_err(|e| named(path, &e))?;
    transaction.commit().map_err(failed)
}

/// Makes a file under another name and links it to its own when it is complete: nobody ever sees half a one.
fn make(path: &Path, busy_timeout: Duration) -> Result<()> {
    let new = Temporary::beside(path)?;
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let failed = |e| failed(path, e);
    let connection = Connection::open_with_flags(&new.path, flags).map_err(failed)?;
    connection.busy_handler(Some(patience(busy_timeout))).map_err(failed)?;
    connection.execute_batch("PRAGMA synchronous = FULL").map_err(failed)?;
    use_wal(path, &connection)?;
    tables(path, &connection)?;
    // The last close would do it too, and swallow its errors.
    connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, bool>(0))
        .map_err(failed)
        .and_then(|busy| {
            if !busy {
                return Ok(());
            }
            Err(refuse(ErrorKind::Unavailable, &new.path, "is in use before it is complete")
                .fix("keep other programs from opening files they find"))
        })?;
    connection.close().map_err(|(_, e)| failed(e))?;
    give_name(&new.path, path)?;
    drop(new);
    sync_names(path)
}

/// Makes the names of the file and of those beside it durable. SQLite syncs the folder when it has made a write-ahead
/// log, and swallows the error if that fails: then the log, with all that is committed to it, could be gone after a
/// power cut.
///
/// # Errors
/// As the system has them.
pub(crate) fn sync_names(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    std::fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|e| refuse_io(path, "cannot be made to last", e))
}

/// Links the complete file to its name, unless somebody else was first: that is as well.
fn give_name(new: &Path, path: &Path) -> Result<()> {
    match std::fs::hard_link(new, path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {}
        _ => return Ok(()),
    }
    // A filesystem without links, such as FAT.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        match renameat_with(CWD, new, CWD, path, RenameFlags::NOREPLACE) {
            Ok(()) | Err(Errno::EXIST) => return Ok(()),
            Err(_) => {}
        }
    }
    if std::fs::symlink_metadata(path).is_ok() {
        return Ok(());
    }
    std::fs::rename(new, path).map_err(|e| refuse_io(path, "cannot be made", e))
}

/// A file under a name that nobody looks for; it goes with this.
struct Temporary {
    path: PathBuf,
}

impl Temporary {
    fn beside(path: &Path) -> Result<Self> {
        let Some(name) = path.file_name() else {
            return Err(
                refuse(ErrorKind::InvalidConfig, path, "names no file").fix("name one, such as app.db")
            );
        };
        let name = format!(".{}.{:016x}.new", name.to_string_lossy(), fastrand::u64(..));
        let new = path.with_file_name(name);
        // Not left to SQLite: the operating system says better why it cannot be.
        match std::fs::OpenOptions::new().write(true).create_new(true).open(&new) {
            Ok(_) => Ok(Self { path: new }),
            Err(e) => Err(refuse_io(path, "cannot be made", e)),
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        for end in ["", "-wal", "-shm", "-journal"] {
            let _ = std::fs::remove_file(beside(&self.path, end));
        }
    }
}

// ---- Filesystems ---------------------------------------------------------------------------------------------

#[cfg(any(target_os = "linux", target_os = "android"))]
fn refuse_remote(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(path);
    let found = rustix::fs::statfs(folder).map_err(|e| refuse_io(path, "cannot be looked at", e.into()))?;
    // The kernel's constants have 32 bits; on some machines the field is wider, or has a sign.
    match remote(found.f_type as u32) {
        None => Ok(()),
        Some(name) => {
            Err(refuse(ErrorKind::Unsupported, path, &format!("is on a network filesystem ({name})")).fix(
                "put it on a disk of this machine: the write-ahead log needs memory that all who use the file share",
            ))
        }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn refuse_remote(_: &Path) -> Result<()> {
    Ok(())
}

/// The name of a filesystem that several hosts can have mounted, by its magic number (`linux/magic.h`, `statfs(2)`).
/// FUSE is not among them: most of it is local.
#[cfg(any(target_os = "linux", target_os = "android", test))]
fn remote(f_type: u32) -> Option<&'static str> {
    Some(match f_type {
        0x6969 => "NFS",
        0x517B => "SMB",
        0xFF53_4D42 => "CIFS",
        0xFE53_4D42 => "SMB2",
        0x5346_414F | 0x6B41_4653 => "AFS",
        0x7375_7245 => "Coda",
        0x00C3_6400 => "Ceph",
        0x0BD0_0BD0 => "Lustre",
        0x0102_1997 => "9P",
        0x0116_1970 => "GFS2",
        0x7461_636F => "OCFS2",
        0x4750_4653 => "GPFS",
        0x1983_0326 => "BeeGFS",
        0x2003_0528 => "OrangeFS",
        0x564C => "NCP",
        0xBACB_ACBC => "VMware shared folder",
        0x786F_4256 => "VirtualBox shared folder",
        _ => return None,
    })
}

// ---- Connections ---------------------------------------------------------------------------------------------

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Changes the file.
    Writer,
    /// Only reads.
    Reader,
    /// Moves what is committed from the write-ahead log into the file.
    Checkpointer,
}

/// Statements that a connection keeps: a handful of its own, and some for each topic.
const STATEMENTS: usize = 4_096;

/// Connects to a file that [`prepare`] has seen.
///
/// # Errors
/// As SQLite has them.
pub(crate) fn connect(path: &Path, role: Role, busy_timeout: Duration) -> Result<Connection> {
    let connection = plain(path, busy_timeout)?;
    let failed = |e| failed(path, e);
    // A foreign schema must not make our statements do something else: nothing in it may call what has effects, and
    // cells are looked at before they are believed.
    connection
        .execute_batch(
            "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; PRAGMA temp_store = MEMORY; \
             PRAGMA synchronous = FULL",
        )
        .map_err(failed)?;
    use_wal(path, &connection)?;
    // Checkpoints within a commit would swallow their errors.
    connection.query_row("PRAGMA wal_autocheckpoint = 0", [], |_| Ok(())).map_err(failed)?;
    if role == Role::Writer {
        checkpoint::measure(&connection);
    }
    if role == Role::Reader {
        connection.execute_batch("PRAGMA query_only = ON").map_err(failed)?;
    }
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}

/// Begins to read: from here on nothing changes for this connection, nor does the schema. A statement is prepared anew
/// when that has changed, and gives up in the end where others make one table after the other.
///
/// # Errors
/// As SQLite has them.
pub(crate) fn begin_read(connection: &Connection) -> rusqlite::Result<Transaction<'_>> {
    let transaction = connection.unchecked_transaction()?;
    // A transaction that is begun has not looked yet. This looks, and needs no schema itself.
    transaction.prepare_cached("PRAGMA schema_version")?.query_row([], |_| Ok(()))?;
    Ok(transaction)
}

fn plain(path: &Path, busy_timeout: Duration) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(|e| failed(path, e))?;
    connection.busy_handler(Some(patience(busy_timeout))).map_err(|e| failed(path, e))?;
    Ok(connection)
}

/// Switches the file to WAL mode, or sees that it is in it.
fn use_wal(path: &Path, connection: &Connection) -> Result<()> {
    let mode: String = connection
        .query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))
        .map_err(|e| failed(path, e))?;
    if mode.eq_ignore_ascii_case("wal") {
        return Ok(());
    }
    Err(refuse(
        ErrorKind::Unsupported,
        path,
        &format!("stays in journal mode {mode}, and WAL mode is needed"),
    )
    .fix("put it on a filesystem with shared memory, and close other programs on it"))
}

/// Waits a moment, or says that it was long enough; is told how often it was asked before.
type Wait = fn(i32) -> bool;

/// How long a lock may take: the times there are, in milliseconds. SQLite's handler is a bare function that is told
/// nothing of its connection, so each of them has one of its own.
const PATIENCE: [(u64, Wait); 16] = [
    (1, wait::<1>),
    (2, wait::<2>),
    (5, wait::<5>),
    (10, wait::<10>),
    (20, wait::<20>),
    (50, wait::<50>),
    (100, wait::<100>),
    (200, wait::<200>),
    (500, wait::<500>),
    (1_000, wait::<1_000>),
    (2_000, wait::<2_000>),
    (5_000, wait::<5_000>),
    (10_000, wait::<10_000>),
    (20_000, wait::<20_000>),
    (60_000, wait::<60_000>),
    (300_000, wait::<300_000>),
];

/// What waits for a lock that long: rounded up to the next of 1, 2, 5, 10 … ms, at most five minutes.
fn patience(timeout: Duration) -> Wait {
    let found = PATIENCE.iter().find(|(ms, _)| Duration::from_millis(*ms) >= timeout);
    found.map_or(wait::<300_000>, |(_, wait)| *wait)
}

thread_local! {
    /// When this thread began to wait for the lock that it waits for.
    static SINCE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Looks in short steps, and how long they are: a commit is over soon, and until the next one begins the disk does nothing.
const SHORT_STEPS: i32 = 20;
const SHORT: Duration = Duration::from_micros(50);
/// After that somebody else keeps the lock for long.
const LONG: Duration = Duration::from_micros(250);

/// Waits for a lock a moment. SQLite's own handler sleeps ever longer, up to 100 ms, so that one process may wait more
/// than a second while others come and go; short even steps are fair, and cost little.
fn wait<const MS: u64>(attempt: i32) -> bool {
    let now = Instant::now();
    let since = if attempt == 0 { None } else { SINCE.get() };
    let since = since.unwrap_or_else(|| {
        SINCE.set(Some(now));
        now
    });
    if now.duration_since(since) >= Duration::from_millis(MS) {
        return false;
    }
    std::thread::sleep(if attempt < SHORT_STEPS { SHORT } else { LONG });
    true
}

// ---- The boot ------------------------------------------------------------------------------------------------

/// Ends every lease of another boot: their times are of a clock that has started again.
///
/// # Errors
/// As SQLite has them.
pub(crate) fn new_boot(connection: &Connection) -> Result<()> {
    let failed = |e| errors::sqlite("the leases of the boot before cannot be ended", e);
    let boot = clock::boot();
    let transaction =
        Transaction::new_unchecked(connection, TransactionBehavior::Immediate).map_err(failed)?;
    if schema::fact(&transaction, "boot").map_err(failed)?.as_deref() != Some(&boot) {
        transaction
            .execute_batch(
                "DELETE FROM millstream_member; \
                 UPDATE millstream_slot SET owner = NULL WHERE owner IS NOT NULL; \
                 DELETE FROM millstream_dedup WHERE process IS NOT NULL",
            )
            .map_err(failed)?;
        schema::set_fact(&transaction, "boot", &boot).map_err(failed)?;
    }
    transaction.commit().map_err(failed)
}

// ---- The same file -------------------------------------------------------------------------------------------

/// Which file it is that was opened: SQLite goes on writing into one that was deleted or replaced, and all of it is
/// lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    path: PathBuf,
    wal: PathBuf,
    file: Number,
    log: Number,
}

/// Device and inode; where there are none, only that the file is there.
#[cfg(unix)]
type Number = (u64, u64);
#[cfg(not(unix))]
type Number = ();

impl Identity {
    /// Of the file and its write-ahead log, which a connection has opened.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io) if one of them is not there.
    pub(crate) fn of(path: &Path) -> Result<Self> {
        let wal = beside(path, "-wal");
        let look = |at: &Path| number(at).map_err(|e| changed(at, &e.to_string()).source(e));
        Ok(Self { path: path.to_owned(), file: look(path)?, log: look(&wal)?, wal })
    }

    /// Whether both are still the same: to be asked before anything is acknowledged.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io) if one was replaced or deleted.
    pub(crate) fn check(&self) -> Result<()> {
        for (path, opened) in [(&self.path, &self.file), (&self.wal, &self.log)] {
            match number(path) {
                Ok(now) if now == *opened => {}
                Ok(_) => return Err(changed(path, "is another one now")),
                Err(e) => return Err(changed(path, &e.to_string()).source(e)),
            }
        }
        Ok(())
    }
}

fn number(path: &Path) -> io::Result<Number> {
    let found = std::fs::metadata(path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        Ok((found.dev(), found.ino()))
    }
    #[cfg(not(unix))]
    {
        let _ = found;
        Ok(())
    }
}

fn changed(path: &Path, how: &str) -> Error {
    refuse(ErrorKind::Io, path, &format!("was replaced or deleted while open: {how}")).fix(
        "stop all programs on it, put back the file together with its -wal file, or restore a backup, and start again",
    )
}

/// The bytes of the write-ahead log; none if it is not there.
pub(crate) fn wal_size(path: &Path) -> u64 {
    std::fs::metadata(beside(path, "-wal")).map_or(0, |found| found.len())
}

/// The path of one of the files that SQLite keeps beside the database.
fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    PathBuf::from(name)
}

// ---- Errors --------------------------------------------------------------------------------------------------

fn refuse(kind: ErrorKind, path: &Path, what: &str) -> Error {
    Error::new(kind, format!("{} {what}", path.display()))
}

fn refuse_io(path: &Path, what: &str, error: io::Error) -> Error {
    let (kind, fix) = match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            (ErrorKind::Denied, "give this user the right to read and write the file and its folder")
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename | io::ErrorKind::InvalidInput => {
            (ErrorKind::InvalidConfig, "check the path")
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            (ErrorKind::Io, "free space on the disk")
        }
        _ if matches!(Errno::from_io_error(&error), Some(Errno::MFILE | Errno::NFILE)) => {
            (ErrorKind::Io, "raise the limit of open files (`ulimit -n`), or close some")
        }
        _ => (ErrorKind::Io, "look at the disk: the operating system's log says more"),
    };
    refuse(kind, path, &format!("{what}: {error}")).fix(fix).source(error)
}

fn cut_off(path: &Path, what: &str) -> Error {
    refuse(ErrorKind::Corrupt, path, what).fix(
        "put back the file together with its -wal file, or restore a backup; delete what is left of it only if \
         nothing of it is needed",
    )
}

fn failed(path: &Path, error: rusqlite::Error) -> Error {
    let what = match error {
        rusqlite::Error::SqliteFailure(e, _) => match e.extended_code & 0xff {
            ffi::SQLITE_NOTADB => "is no SQLite database",
            ffi::SQLITE_CORRUPT => "is damaged or cut off",
            ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED => "is locked",
            ffi::SQLITE_READONLY => "cannot be written",
            _ => "cannot be opened",
        },
        _ => "cannot be opened",
    };
    errors::sqlite(&format!("{} {what}", path.display()), error)
}

/// An error that names the path.
fn named(path: &Path, error: &Error) -> Error {
    let context = error.context();
    let named = Error::new(error.kind(), format!("{}: {}", path.display(), context.message));
    match &context.fix {
        Some(fix) => named.fix(fix),
        None => named,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::mpsc;

    use tempfile::TempDir;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn folder() -> TempDir {
        TempDir::new().unwrap()
    }

    fn parsed(url: &str) -> Result<PathBuf> {
        path_of(&Endpoint::parse(url).unwrap())
    }

    #[track_caller]
    fn refused(result: Result<PathBuf>, kind: ErrorKind, what: &str) {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(what), "{error}");
        assert!(error.context().fix.is_some(), "{error}");
    }

    fn names(folder: &TempDir) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    // ---- URLs

    #[test]
    fn a_url_names_a_path_relative_or_from_the_root() {
        assert_eq!(parsed("sqlite://app.db").unwrap(), Path::new("app.db"));
        assert_eq!(parsed("sqlite://dir/app.db").unwrap(), Path::new("dir/app.db"));
        assert_eq!(parsed("sqlite:///abs/app.db").unwrap(), Path::new("/abs/app.db"));
        assert_eq!(parsed("sqlite:app.db").unwrap(), Path::new("app.db"));
        assert_eq!(parsed("sqlite://./app.db?create=never").unwrap(), Path::new("./app.db"));
        assert_eq!(parsed("sqlite:///my%20data/a:b.db").unwrap(), Path::new("/my data/a:b.db"));
    }

    #[test]
    fn a_url_that_names_no_file_is_refused_with_the_fix() {
        for (url, what) in [
            ("sqlite://", "memory://"),
            ("sqlite:///", "names no file"),
            ("sqlite://ann:secret@app.db", "no user"),
            ("sqlite::memory:", "memory://"),
            ("sqlite:///:memory:", "memory://"),
            ("sqlite://my%20data/app.db", "third slash"),
            ("sqlite://host:80/app.db", "third slash"),
            ("sqlite:///a%00b", "NUL"),
            ("sqlite:///var/lib/", "folder"),
        ] {
            let error = parsed(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{url}: {error}");
            assert!(error.to_string().contains(what), "{url}: {error}");
            assert!(!error.to_string().contains("secret"));
        }
    }

    // ---- Making

    #[test]
    fn a_missing_file_is_made_complete_and_nothing_else_is_left() {
        let folder = folder();
        let path = prepare(&folder.path().join("app.db"), Create::Missing, SECOND).unwrap();

        assert_eq!(names(&folder), ["app.db"]);
        let connection = connect(&path, Role::Writer, SECOND).unwrap();
        assert_eq!(schema::format(&connection).unwrap(), schema::FORMAT);
        assert_eq!(path, folder.path().canonicalize().unwrap().join("app.db"));
        assert_eq!(prepare(&path, Create::Never, SECOND).unwrap(), path);
    }

    #[test]
    fn many_who_make_the_same_file_get_the_same_file() {
        let folder = folder();
        let path = folder.path().join("app.db");
        let wins = std::thread::scope(|scope| {
            let one = || {
                let path = prepare(&path, Create::Missing, Duration::from_secs(20)).unwrap();
                let connection = connect(&path, Role::Writer, Duration::from_secs(20)).unwrap();
                schema::set_fact(&connection, &format!("{:x}", fastrand::u64(..)), "was here").unwrap();
            };
            (0..8)
                .map(|_| scope.spawn(one))
                .collect::<Vec<_>>()
                .into_iter()
                .map(|t| t.join().unwrap())
                .count()
        });
        let connection = connect(&path, Role::Reader, SECOND).unwrap();
        let count = "SELECT count(*) FROM millstream_meta WHERE value = 'was here'";
        assert_eq!(connection.query_row(count, [], |row| row.get::<_, usize>(0)).unwrap(), wins);
        assert!(!names(&folder).iter().any(|name| name.ends_with(".new")));
    }

    #[test]
    fn a_name_is_never_taken_from_a_file_that_has_it() {
        let folder = folder();
        let (new, path) = (folder.path().join("new"), folder.path().join("app.db"));
        fs::write(&new, "new").unwrap();
        fs::write(&path, "theirs").unwrap();
        give_name(&new, &path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "theirs");
    }

    #[test]
    fn a_users_own_database_gets_the_tables_and_keeps_its_own() {
        let folder = folder();
        let path = folder.path().join("app.db");
        let theirs = Connection::open(&path).unwrap();
        theirs.execute_batch("CREATE TABLE users(name); INSERT INTO users VALUES('Ada')").unwrap();
        drop(theirs);

        let path = prepare(&path, Create::Never, SECOND).unwrap();

        let connection = connect(&path, Role::Reader, SECOND).unwrap();
        assert!(schema::is_there(&connection).unwrap());
        let name: String = connection.query_row("SELECT name FROM users", [], |row| row.get(0)).unwrap();
        assert_eq!(name, "Ada");
    }

    // ---- Refusals

    #[test]
    fn what_is_no_database_is_refused_with_the_fix() {
        let folder = folder();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("empty.db"), "").unwrap();
        fs::write(at("tiny.db"), "hello").unwrap();
        fs::write(at("text.db"), "no database at all\n".repeat(500)).unwrap();
        std::os::unix::fs::symlink(at("nowhere"), at("link.db")).unwrap();
        let prepare = |path: &Path, create| prepare(path, create, SECOND);

        refused(prepare(folder.path(), Create::Missing), ErrorKind::InvalidConfig, "is a folder");
        refused(prepare(&at("empty.db"), Create::Missing), ErrorKind::InvalidConfig, "create=empty");
        refused(prepare(&at("empty.db"), Create::Never), ErrorKind::InvalidConfig, "is empty");
        refused(prepare(&at("none.db"), Create::Never), ErrorKind::InvalidConfig, "does not exist");
        refused(prepare(&at("no/app.db"), Create::Missing), ErrorKind::InvalidConfig, "make the folder");
        refused(prepare(&at("text.db/app.db"), Create::Missing), ErrorKind::InvalidConfig, "app.db");
        refused(prepare(&at("tiny.db"), Create::Empty), ErrorKind::Corrupt, "no SQLite database");
        refused(prepare(&at("text.db"), Create::Missing), ErrorKind::Corrupt, "no SQLite database");
        refused(prepare(&at("link.db"), Create::Missing), ErrorKind::InvalidConfig, "link");
        refused(prepare(Path::new("/dev/null"), Create::Empty), ErrorKind::InvalidConfig, "no regular file");
        assert_eq!(fs::read_to_string(at("tiny.db")).unwrap(), "hello");
        assert!(prepare(&at("empty.db"), Create::Empty).is_ok());
    }

    #[test]
    fn a_file_that_is_cut_off_is_refused() {
        let folder = folder();
        let path = prepare(&folder.path().join("app.db"), Create::Missing, SECOND).unwrap();
        let size = fs::metadata(&path).unwrap().len();
        let whole = fs::read(&path).unwrap();
        for cut in [size - 1, size - 4096, 4096, 1000, 100] {
            fs::write(&path, &whole[..cut as usize]).unwrap();
            refused(prepare(&path, Create::Missing, SECOND), ErrorKind::Corrupt, "");
        }
    }

    #[test]
    fn a_file_that_is_cut_off_beside_its_log_is_refused() {
        // Given a file whose log has one page that the file has not yet
        let folder = folder();
        let path = prepare(&folder.path().join("app.db"), Create::Missing, SECOND).unwrap();
        let connection = connect(&path, Role::Writer, SECOND).unwrap();
        schema::set_fact(&connection, "a", "b").unwrap();
        prepare(&path, Create::Missing, SECOND).unwrap();
        let copy = folder.path().join("copy.db");
        fs::write(beside(&copy, "-wal"), fs::read(beside(&path, "-wal")).unwrap()).unwrap();
        drop(connection);
        let whole = fs::read(&path).unwrap();

        // When more of it is cut off than the log has
        fs::write(&copy, &whole[..4 * 4096]).unwrap();

        refused(prepare(&copy, Create::Missing, SECOND), ErrorKind::Corrupt, "copy.db");
    }

    #[test]
    fn a_log_without_its_file_is_not_given_to_a_new_one() {
        let folder = folder();
        let path = folder.path().join("app.db");
        fs::write(beside(&path, "-wal"), "left").unwrap();
        refused(prepare(&path, Create::Missing, SECOND), ErrorKind::Corrupt, "write-ahead log");
        fs::write(&path, "").unwrap();
        refused(prepare(&path, Create::Empty, SECOND), ErrorKind::Corrupt, "write-ahead log");
    }

    #[test]
    fn a_file_that_somebody_holds_locked_is_refused_after_the_timeout() {
        let folder = folder();
        let path = folder.path().join("app.db");
        let other = Connection::open(&path).unwrap();
        other.execute_batch("CREATE TABLE t(a); BEGIN EXCLUSIVE").unwrap();

        let start = Instant::now();
        refused(
            prepare(&path, Create::Missing, Duration::from_millis(50)),
            ErrorKind::Unavailable,
            "is locked",
        );

        assert!(start.elapsed() >= Duration::from_millis(50));
    }

    #[test]
    fn a_file_of_a_newer_format_is_refused_by_name() {
        let folder = folder();
        let path = prepare(&folder.path().join("app.db"), Create::Missing, SECOND).unwrap();
        let connection = connect(&path, Role::Writer, SECOND).unwrap();
        connection.execute_batch("UPDATE millstream_meta SET value = 99 WHERE name = 'format'").unwrap();
        refused(prepare(&path, Create::Missing, SECOND), ErrorKind::Unsupported, "app.db");
    }

    /// Root may write what is read-only: these say what can be said to others alone.
    fn may_write(path: &Path) -> bool {
        fs::OpenOptions::new().write(true).open(path).is_ok()
    }

    #[test]
    fn a_file_that_may_not_be_written_is_refused() {
        let folder = folder();
        let path = prepare(&folder.path().join("app.db"), Create::Missing, SECOND).unwrap();
        let mut rights = fs::metadata(&path).unwrap().permissions();
        rights.set_readonly(true);
        fs::set_permissions(&path, rights).unwrap();
        if !may_write(&path) {
            refused(prepare(&path, Create::Missing, SECOND), ErrorKind::Denied, "app.db cannot be written");
        }
    }

    #[test]
    fn a_folder_that_may_not_be_written_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = folder();
        let path = prepare(&folder.path().join("app.db"), Create::Missing, SECOND).unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o500)).unwrap();
        if fs::write(folder.path().join("probe"), "").is_err() {
            for name in [&path, &folder.path().join("new.db")] {
                let error = prepare(name, Create::Missing, SECOND).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
                assert!(error.to_string().contains("folder"), "{error}");
            }
        }
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    }

    #[test]
    fn network_filesystems_are_known_and_local_ones_are_not_taken_for_them() {
        for magic in [0x6969, 0xFF53_4D42, 0xFE53_4D42, 0x517B, 0x0102_1997, 0x00C3_6400, 0x0BD0_0BD0] {
            assert!(remote(magic).is_some(), "{magic:x}");
        }
        // ext4, XFS, Btrfs, tmpfs, overlayfs, ZFS, F2FS, FUSE
        for magic in [
            0xEF53,
            0x5846_5342,
            0x9123_683E,
            0x0102_1994,
            0x794C_7630,
            0x2FC1_2FC1,
            0xF2F5_2010,
            0x6573_5546,
        ] {
            assert_eq!(remote(magic), None, "{magic:x}");
        }
    }

    // ---- Connections

    #[test]
    fn a_connection_is_set_for_its_role() {
        let folder = folder();
        let path = prepare(&folder.path().join("app.db"), Create::Missing, SECOND).unwrap();
        for role in [Role::Writer, Role::Reader, Role::Checkpointer] {
            let connection = connect(&path, role, SECOND).unwrap();
            let pragma = |name: &str| -> i64 {
                connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0)).unwrap()
            };
            let mode: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
            assert_eq!(mode, "wal");
            let all =
                ["synchronous", "wal_autocheckpoint", "cell_size_check", "trusted_schema", "temp_store"];
            assert_eq!(all.map(pragma), [2, 0, 1, 0, 2]);
            let refused = schema::set_fact(&connection, "x", "y").is_err();
            assert_eq!(refused, role == Role::Reader, "{role:?}");
        }
    }

    #[test]
    fn who_has_begun_to_read_sees_no_table_that_others_make() {
        let folder = folder();
        let path = prepare(&folder.path().join("app.db"), Create::Missing, SECOND).unwrap();
        let [reader, writer] = [Role::Reader, Role::Writer].map(|role| connect(&path, role, SECOND).unwrap());

        let reading = begin_read(&reader).unwrap();
        writer.execute_batch("CREATE TABLE later(a)").unwrap();

        let there = |connection: &Connection| -> bool {
            let sql = "SELECT EXISTS(SELECT 1 FROM sqlite_schema WHERE name = 'later')";
            connection.query_row(sql, [], |row| row.get(0)).unwrap()
        };
        assert!(!there(&reading) && there(&writer));
    }

    #[test]
    fn a_connection_does_not_make_a_file() {
        let folder = folder();
        assert!(connect(&folder.path().join("app.db"), Role::Writer, SECOND).is_err());
        assert!(names(&folder).is_empty());
    }

    #[test]
    fn a_lock_is_waited_for_as_long_as_was_said() {
        let folder = folder();
        let path = prepare(&folder.path().join("app.db"), Create::Missing, SECOND).unwrap();
        let first = connect(&path, Role::Writer, SECOND).unwrap();
        let (impatient, patient) = (Duration::from_millis(20), Duration::from_secs(20));
        first.execute_batch("BEGIN IMMEDIATE").unwrap();

        let second = connect(&path, Role::Writer, impatient).unwrap();
        let start = Instant::now();
        assert!(second.execute_batch("BEGIN IMMEDIATE").is_err());
        assert!((impatient..SECOND).contains(&start.elapsed()), "{:?}", start.elapsed());

        let (said, hear) = mpsc::channel();
        let third = std::thread::spawn(move || {
            let third = connect(&path, Role::Writer, patient).unwrap();
            said.send(()).unwrap();
            third.execute_batch("BEGIN IMMEDIATE; COMMIT")
        });
        hear.recv().unwrap();
        first.execute_batch("COMMIT").unwrap();
        third.join().unwrap().unwrap();
    }

    #[test]
    fn patience_is_rounded_up_and_has_an_end() {
        let index = |timeout| {
            let wait = patience(timeout);
            PATIENCE.iter().position(|(_, one)| std::ptr::fn_addr_eq(*one, wait)).map(|at| PATIENCE[at].0)
        };
        assert_eq!(index(Duration::ZERO), Some(1));
        assert_eq!(index(Duration::from_millis(3)), Some(5));
        assert_eq!(index(Duration::from_secs(5)), Some(5_000));
        assert_eq!(index(Duration::MAX), Some(300_000));
    }

    // ---- The boot, and the same file

    #[test]
    fn leases_of_another_boot_are_over_and_those_of_this_one_are_not() {
        let folder = folder();
        let path = prepare(&folder.path().join("app.db"), Create::Missing, SECOND).unwrap();
        let connection = connect(&path, Role::Writer, SECOND).unwrap();
        let lease = "INSERT INTO millstream_member VALUES(1, 7, 0, 9000000000000000, 0, ''); \
                     INSERT OR REPLACE INTO millstream_slot VALUES(1, 0, 7, 3, 10, x'', 0, 0);";
        let left = |connection: &Connection| -> (i64, i64) {
            let sql =
                "SELECT (SELECT count(*) FROM millstream_member), (SELECT count(owner) FROM millstream_slot)";
            connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
        };
        connection.execute_batch(lease).unwrap();
        schema::set_fact(&connection, "boot", "another").unwrap();

        new_boot(&connection).unwrap();
        assert_eq!(left(&connection), (0, 0));

        connection.execute_batch(lease).unwrap();
        new_boot(&connection).unwrap();
        assert_eq!(left(&connection), (1, 1));
    }

    #[test]
    fn a_file_or_log_that_was_replaced_or_deleted_is_noticed() {
        let change: [fn(&Path); 3] = [
            |path| fs::remove_file(path).unwrap(),
            |path| fs::remove_file(beside(path, "-wal")).unwrap(),
            |path| {
                let other = path.with_file_name("other");
                fs::write(&other, "x").unwrap();
                fs::rename(other, path).unwrap();
            },
        ];
        for change in change {
            let folder = folder();
            let path = prepare(&folder.path().join("app.db"), Create::Missing, SECOND).unwrap();
            let connection = connect(&path, Role::Writer, SECOND).unwrap();
            new_boot(&connection).unwrap();
            let identity = Identity::of(&path).unwrap();
            identity.check().unwrap();
            assert!(wal_size(&path) > 0);

            change(&path);

            let error = identity.check().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Io);
            assert!(error.to_string().contains("was replaced or deleted while open"), "{error}");
        }
    }
}
