//! The tables, and the settings of the connection that durability rests on.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, Result, config::DbConfig};

use crate::storage::{
    StorageError,
    sqlite::failure::{classify_at_open, corrupt},
};

/// What this program writes, and the newest that it reads.
pub(super) const FORMAT: u32 = 1;

/// Bytes in a page of the database and of its log.
pub(super) const PAGE_SIZE: usize = 4096;

/// `state` and its like hold one row each, whose checksum covers all other columns; `condemned` holds one or none. Numbers are u64 in SQLite's i64.
const TABLES: [&str; 5] = [
    "CREATE TABLE identity (id INTEGER PRIMARY KEY, cluster_id INTEGER NOT NULL, node_id INTEGER NOT NULL, \
     incarnation INTEGER NOT NULL, checksum INTEGER NOT NULL) STRICT",
    "CREATE TABLE base (id INTEGER PRIMARY KEY, last_included_index INTEGER NOT NULL, last_included_term INTEGER NOT NULL, \
     chain INTEGER NOT NULL, membership BLOB NOT NULL, checksum INTEGER NOT NULL) STRICT",
    "CREATE TABLE state (id INTEGER PRIMARY KEY, current_term INTEGER NOT NULL, voted_for INTEGER, \
     last_index INTEGER NOT NULL, chain INTEGER NOT NULL, writes INTEGER NOT NULL, checksum INTEGER NOT NULL) STRICT",
    "CREATE TABLE entries (idx INTEGER PRIMARY KEY, term INTEGER NOT NULL, payload BLOB NOT NULL, \
     chain INTEGER NOT NULL) STRICT",
    "CREATE TABLE condemned (id INTEGER PRIMARY KEY, acknowledged INTEGER NOT NULL, last INTEGER NOT NULL, \
     checksum INTEGER NOT NULL) STRICT",
];

/// Bytes in the header of a database.
pub(super) const HEADER_SIZE: usize = 100;

/// How far the creation of a database came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its first page is not there, or not for certain.
    Unfinished,
    /// It has at least its first page, for good.
    Begun,
}

/// What lies there before SQLite looks: SQLite would roll back by any journal, delete a log without a database, and say
/// of a damaged header no more than that the database is read-only.
///
/// `was_created` is whether a store was ever created, or its log begun: from there on, a journal is none of ours.
pub(super) fn examine(
    header: &[u8],
    has_journal: bool,
    has_log: bool,
    was_created: bool,
) -> Result<Stage, &'static str> {
    if has_journal {
        let stray = "a rollback journal lies beside it, which a store with a log never has";
        return if has_log || was_created { Err(stray) } else { Ok(Stage::Unfinished) };
    }
    if header.is_empty() {
        return if has_log { Err("it is gone, but the log is there") } else { Ok(Stage::Unfinished) };
    }
    // "File format write version" and "read version": 1 while it is created, then 2.
    match header.get(18..20) {
        Some([1 | 2, 1 | 2]) => Ok(Stage::Begun),
        _ => Err("its header is of no known version"),
    }
}

/// Opens the database, or an empty one, with everything set but the tables. Writes nothing to one that exists.
pub(super) fn connect(path: &Path, vfs: Option<&str>, stage: Stage) -> Result<Connection, StorageError> {
    let (connection, mode) = set_up(path, vfs, stage).map_err(|error| classify_at_open(path, &error))?;
    if mode != "wal" {
        return Err(corrupt(path, "the database's header", format!("its journal cannot be a WAL, only {mode}")));
    }
    Ok(connection)
}

fn set_up(path: &Path, vfs: Option<&str>, stage: Stage) -> Result<(Connection, String)> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = match vfs {
        Some(vfs) => Connection::open_with_flags_and_vfs(path, flags, vfs)?,
        None => Connection::open_with_flags(path, flags)?,
    };
    // A checkpoint at close would go on writing and syncing after a failure. Nothing may.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // Before anything reads the log, so that its index is kept in memory and no other process can look in.
    connection.execute_batch("PRAGMA locking_mode = EXCLUSIVE;")?;
    connection.execute_batch("PRAGMA cell_size_check = ON; PRAGMA temp_store = MEMORY; PRAGMA mmap_size = 0;")?;
    if stage == Stage::Unfinished {
        // These two are fixed by the first page. Said to a database that exists, the second one writes to it.
        connection.execute_batch(&format!("PRAGMA page_size = {PAGE_SIZE}; PRAGMA auto_vacuum = INCREMENTAL;"))?;
    }
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    // FULL: a commit is on disk when it returns. NORMAL loses acknowledged writes in a power cut.
    connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA fullfsync = ON; PRAGMA checkpoint_fullfsync = ON;")?;
    // SQLite ignores errors of its own checkpoints, a failed fsync among them; ours are checked.
    connection.execute_batch("PRAGMA wal_autocheckpoint = 0;")?;
    Ok((connection, mode))
}

/// Whether there is a store in the database; an error if it is one that this program cannot read.
pub(super) fn exists(connection: &Connection, path: &Path) -> Result<bool, StorageError> {
    let number = |sql| connection.query_row(sql, [], |row| row.get(0)).map_err(|error| classify_at_open(path, &error));
    let format: u32 = number("PRAGMA user_version")?;
    if format > FORMAT {
        return Err(StorageError::Format { path: path.to_owned(), found: format, known: FORMAT });
    }
    let tables = stored_tables(connection).map_err(|error| classify_at_open(path, &error))?;
    if tables.is_empty() && format == 0 && number("PRAGMA page_count")? <= 1 {
        return Ok(false);
    }
    if format != FORMAT || tables != TABLES {
        return Err(corrupt(path, "the schema", "its tables are not those of a log store"));
    }
    Ok(true)
}

fn stored_tables(connection: &Connection) -> Result<Vec<String>> {
    connection.prepare("SELECT sql FROM sqlite_schema ORDER BY rowid")?.query_map([], |row| row.get(0))?.collect()
}

/// Creates the tables, inside the caller's transaction.
pub(super) fn create(connection: &Connection) -> Result<()> {
    for table in TABLES {
        connection.execute_batch(table)?;
    }
    connection.execute_batch(&format!("PRAGMA user_version = {FORMAT}"))
}
