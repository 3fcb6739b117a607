//! The store of a real node: a SQLite database, and the snapshots beside it, in the node's directory.
//!
//! ```text
//! LOCK                                 who has the store, and how many writes it acknowledged (`files.rs`)
//! raft.db                              the tables `identity`, `base`, `state`, `entries`, `condemned` (`schema.rs`)
//! raft.db-wal                          SQLite's write-ahead log
//! snapshot-<index>-<term>-<checksum>   the finished snapshot (`snapshots.rs`)
//! snapshot.writing                     one that this node is taking
//! snapshot.receiving                   one that a leader is sending
//! ```
//!
//! `identity` and `base` say whose the log is and what it stands on, `state` has term, vote, and where the log ends;
//! `entries` has a row for each entry, by index. Rows up to the base are no part of the log any more, and are deleted bit
//! by bit (`compaction.rs`). A row in `condemned` says that the store lost entries: it is never opened again. Bytes of
//! snapshots are not in the database; `snapshots.rs` says why.
//!
//! One write is one transaction, and one fsync of SQLite's write-ahead log. What is more than SQLite does by itself:
//! - Its log is examined before SQLite reads it (`sqlite/wal.rs`), all rows carry checksums (`record.rs`, `rows.rs`), and
//!   the acknowledged writes are counted beside it (`files.rs`): damage is an error that says where, never a shorter log.
//! - What an opening returns was checkpointed first. A process that was killed between its write and its fsync leaves
//!   entries that can be read and that a power cut would still take away; nobody may count on those.
//! - Checkpoints are made here, and their results looked at. SQLite's own ignore a failed fsync.
//! - The log keeps its size while the store is open: a sync of a file that grows costs twice one in place.
//! - A store is never closed, only left, as a crash would leave it. There is one way to open it, and it is well trodden.
//!
//! *Architecture invariant: nothing is done with a connection after its first error, except after
//! [`StorageError::Full`], which SQLite has undone.*

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rusqlite::{Connection, Result as SqliteResult, params};

use super::{
    Bootstrap, Identity, Opened, RESTORED, Restoration, Snapshots, Storage, StorageError, Store, assert_continues,
    assert_stands,
};
use crate::raft::{LogIndex, LogPosition, Recovered, Write};
use compaction::Deleted;
use failure::{classify, corrupt};
use files::{Directory, Files, Lock, Note};
use record::{chain, encode_membership, encode_payload};
use recovery::Found;
use rows::{Base, Condemned, Owner, State};
use schema::Stage;
use snapshots::Shelf;
use wal::Scan;

mod compaction;
mod failure;
pub(crate) mod files;
mod record;
mod recovery;
mod rows;
mod schema;
mod snapshots;
mod wal;

const DATABASE: &str = "raft.db";
const DATABASE_LOG: &str = "raft.db-wal";

/// SQLite has one while it makes the database's first page, and never again.
const DATABASE_JOURNAL: &str = "raft.db-journal";

/// From so many pages in its log on, an idle store makes a checkpoint. About 4 MiB.
const IDLE_CHECKPOINT_PAGES: usize = 1_000;

/// From so many pages in its log on, a busy store makes a checkpoint too. About 16 MiB.
const BUSY_CHECKPOINT_PAGES: usize = 4_000;

/// How long SQLite's log is made when the store is opened: as long as it gets before a checkpoint, so that a sync hardly
/// ever has to wait for a file that grows.
const LOG_BYTES: u64 = 17 << 20;

/// A directory with a SQLite database and snapshots. Its clones are the same directory; only they have the snapshots of
/// the store that one of them opened.
///
/// On Linux a commit syncs faster with `fdatasync`, which SQLite uses only when it was built with `HAVE_FDATASYNC`; without
/// it, it uses `fsync`: as safe, and slower. Cargo takes such flags from the workspace that is built, not from its
/// dependencies, so write into the `.cargo/config.toml` of *your* workspace (or export it) and build anew:
///
/// ```toml
/// [env]
/// LIBSQLITE3_FLAGS = "-DHAVE_FDATASYNC"
/// ```
#[derive(Clone)]
pub struct SqliteStorage {
    files: Arc<dyn Files>,
    shelf: Shelf,
}

impl SqliteStorage {
    /// A store in this directory, which the first opening creates.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self::on(Arc::new(Directory(data_dir.into())))
    }

    /// A store on a disk that need not be real.
    pub(crate) fn on(files: Arc<dyn Files>) -> Self {
        SqliteStorage { shelf: Shelf::new(files.clone()), files }
    }

    /// Looks at what SQLite would not report: a damaged log, files that do not belong together.
    fn examine(&self, path: &Path, acknowledged: u64) -> Result<Stage, StorageError> {
        let read = |name, limit| self.files.read(name, limit).map_err(|error| unreadable(path, &error));
        let log = read(DATABASE_LOG, usize::MAX)?.unwrap_or_default();
        let has_log = match wal::scan(&log, schema::PAGE_SIZE) {
            Scan::Sound { frames } => frames > 0,
            Scan::Damaged { place, cause } => return Err(corrupt(&path.with_file_name(DATABASE_LOG), place, cause)),
        };
        let header = read(DATABASE, schema::HEADER_SIZE)?.unwrap_or_default();
        // One that begins with 0 has been dealt with.
        let has_journal = read(DATABASE_JOURNAL, 1)?.is_some_and(|first| first.first().is_some_and(|byte| *byte != 0));
        schema::examine(&header, has_journal, has_log, acknowledged > 0)
            .map_err(|cause| corrupt(path, "the database", cause))
    }
}

impl Storage for SqliteStorage {
    fn owner(&self) -> Result<Option<Identity>, StorageError> {
        let path = self.files.database();
        let lock = self.files.lock()?;
        let acknowledged = Note::of_line(lock.found()).map_or(0, |note| note.writes);
        let stage = self.examine(&path, acknowledged)?;
        if stage == Stage::Unfinished {
            return Ok(None);
        }
        let connection = schema::connect(&path, self.files.vfs(), stage)?;
        if !schema::exists(&connection, &path)? {
            return Ok(None);
        }
        recovery::owner(&connection, &path).map(Some)
    }

    fn open(&self, bootstrap: &Bootstrap) -> Result<(Box<dyn Store>, Opened), StorageError> {
        let path = self.files.database();
        let lock = self.files.lock()?;
        let acknowledged = Note::of_line(lock.found()).map_or(0, |note| note.writes);
        let stage = self.examine(&path, acknowledged)?;
        let connection = schema::connect(&path, self.files.vfs(), stage)?;
        if !schema::exists(&connection, &path)? {
            if acknowledged > 0 {
                return Err(writes_are_missing(&path, 0, acknowledged));
            }
            // A journal that a power cut brings back would undo what is written from here on.
            self.files.sync_directory().map_err(|error| unreadable(&path, &error))?;
            create(&connection, bootstrap).map_err(|error| classify(&path, "creation", &error))?;
        }
        let Found { mut opened, owner, base, state } = recovery::read(&connection, &path, &bootstrap.identity)?;
        if state.writes < acknowledged {
            return Err(writes_are_missing(&path, state.writes, acknowledged));
        }
        let snapshots::Found { snapshot, receiving } = self.shelf.recover(base.position)?;
        opened.recovered = Recovered { snapshot, receiving, ..opened.recovered };
        let mut store = SqliteStore {
            connection,
            lock,
            path,
            owner,
            base,
            state,
            has_remains: false,
            log_pages: 0,
            poison: None,
            files: self.files.clone(),
        };
        store.has_remains = store.find_remains().map_err(|error| classify(&store.path, "open", &error))?;
        store.make_durable()?;
        store.lengthen_log()?;
        self.files.sync_directory().map_err(|error| unreadable(&store.path, &error))?;
        store.acknowledge();
        Ok((Box::new(store), opened))
    }

    fn restoration(&self) -> Result<Option<Restoration>, StorageError> {
        let path = self.files.database().with_file_name(RESTORED);
        let line = self.files.read(RESTORED, 4 << 10).map_err(|error| unreadable(&path, &error))?;
        let read = |line: Vec<u8>| {
            Restoration::of_line(&line).ok_or_else(|| corrupt(&path, "its line", "it does not fit its checksum"))
        };
        line.map(read).transpose()
    }

    fn snapshots(&self) -> Arc<dyn Snapshots> {
        Arc::new(self.shelf.clone())
    }

    fn blocks(&self) -> bool {
        self.files.vfs().is_none()
    }
}

/// Writes down whose store it is, and that its log is empty.
fn create(connection: &Connection, bootstrap: &Bootstrap) -> SqliteResult<()> {
    let owner = Owner { identity: bootstrap.identity.clone(), incarnation: bootstrap.incarnation };
    let membership = encode_membership(&bootstrap.membership);
    let position = LogPosition::default();
    let base = Base { position, chain: owner.seed(position), membership };
    let state = State { hard_state: Default::default(), last_index: 0, chain: base.chain, writes: 1 };
    let transaction = connection.unchecked_transaction()?;
    schema::create(&transaction)?;
    owner.write(&transaction)?;
    base.write(&transaction)?;
    state.write(&transaction)?;
    transaction.commit()
}

fn unreadable(path: &Path, error: &std::io::Error) -> StorageError {
    StorageError::Failed { path: path.to_owned(), call: "open", cause: error.to_string() }
}

fn writes_are_missing(path: &Path, found: u64, acknowledged: u64) -> StorageError {
    let cause = format!(
        "{acknowledged} writes were acknowledged, {found} are there; a file was damaged, deleted, or put back from a copy"
    );
    corrupt(path, format!("write {}", found + 1), cause)
}

/// What a transaction left behind.
struct Committed {
    /// If it moved.
    base: Option<Base>,
    state: State,
    deleted: Deleted,
}

/// Fields are dropped in this order: the connection first, the lock when nothing is touched any more, the files last.
struct SqliteStore {
    connection: Connection,
    lock: Box<dyn Lock>,
    path: PathBuf,
    owner: Owner,
    /// As of the last commit.
    base: Base,
    /// As of the last commit.
    state: State,
    /// Whether there may be rows up to the base, which wait to be deleted.
    has_remains: bool,
    /// About how many pages SQLite's log holds that are not in the database.
    log_pages: usize,
    /// The first error, for ever after.
    poison: Option<StorageError>,
    /// The disk must outlive SQLite's use of it.
    files: Arc<dyn Files>,
}

impl Store for SqliteStore {
    fn persist(&mut self, write: &Write) -> Result<(), StorageError> {
        self.expect_sound()?;
        assert_stands(self.base.position.index, write);
        if self.log_pages >= BUSY_CHECKPOINT_PAGES {
            match self.checkpoint("PASSIVE") {
                // The log may still have room for this write.
                Ok(_) | Err(StorageError::Full { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let committed = self.commit(write).map_err(|error| self.fail("persist", &error))?;
        let Committed { base, state, deleted } = committed;
        if let Some(base) = base {
            self.base = base;
        }
        self.state = state;
        self.count(deleted);
        let bytes: usize = write.entries.iter().map(|entry| entry.size() + 32).sum();
        self.log_pages += 3 + bytes / schema::PAGE_SIZE;
        self.acknowledge();
        Ok(())
    }

    fn condemn(&mut self, acknowledged: LogIndex, last: LogIndex) -> Result<(), StorageError> {
        self.expect_sound()?;
        let state = State { writes: self.state.writes + 1, ..self.state };
        let commit = || {
            self.execute("BEGIN IMMEDIATE")?;
            Condemned { acknowledged, last }.write(&self.connection)?;
            state.write(&self.connection)?;
            self.execute("COMMIT")
        };
        commit().map_err(|error| self.fail("condemn", &error))?;
        self.state = state;
        self.acknowledge();
        Ok(())
    }

    fn tidy(&mut self) -> Result<bool, StorageError> {
        self.expect_sound()?;
        if self.log_pages >= IDLE_CHECKPOINT_PAGES {
            let left = self.checkpoint("PASSIVE")?;
            let has_pages = self.has_pages_to_give_back().map_err(|error| self.fail("compaction", &error))?;
            return Ok(self.has_remains || has_pages || left >= IDLE_CHECKPOINT_PAGES);
        }
        if self.has_remains {
            let deleted = self.delete_remains(compaction::ROWS).map_err(|error| self.fail("compaction", &error))?;
            self.count(deleted);
            return Ok(true);
        }
        let has_pages = self.has_pages_to_give_back().map_err(|error| self.fail("compaction", &error))?;
        if has_pages {
            self.give_back_pages().map_err(|error| self.fail("compaction", &error))?;
            self.log_pages += compaction::PAGES;
        }
        Ok(has_pages)
    }
}

impl SqliteStore {
    fn expect_sound(&self) -> Result<(), StorageError> {
        self.poison.clone().map_or(Ok(()), Err)
    }

    /// One transaction, durable when it returns. What it left behind.
    fn commit(&self, write: &Write) -> SqliteResult<Committed> {
        self.execute("BEGIN IMMEDIATE")?;
        let mut state = self.state;
        state.writes += 1;
        if let Some(hard_state) = write.hard_state {
            state.hard_state = hard_state;
        }
        if let Some(from) = write.truncate_from.filter(|from| *from <= state.last_index) {
            self.delete_from(from)?;
            state.last_index = from - 1;
            state.chain = self.chain_at(from - 1)?;
        }
        let base = write.base.as_ref().map(|base| self.move_base(base, &mut state)).transpose()?;
        assert_continues(state.last_index, &write.entries);
        let mut insert = self.connection.prepare_cached("INSERT INTO entries VALUES (?1, ?2, ?3, ?4)")?;
        let mut stored = Vec::new();
        for entry in &write.entries {
            encode_payload(&entry.payload, &mut stored);
            state.chain = chain(state.chain, entry.position(), &stored);
            state.last_index = entry.index;
            insert.execute(params![entry.index.cast_signed(), entry.term.cast_signed(), stored, state.chain])?;
        }
        drop(insert);
        state.write(&self.connection)?;
        let mut deleted = Deleted::default();
        if base.is_some() || self.has_remains {
            // More than are added, so that it comes to an end even if the store is never tidied.
            let rows = if base.is_some() { compaction::ROWS } else { 64 + 2 * write.entries.len() };
            let end = base.as_ref().unwrap_or(&self.base).position.index;
            deleted = self.delete_up_to(end, rows.min(compaction::ROWS))?;
        }
        self.execute("COMMIT")?;
        Ok(Committed { base, state, deleted })
    }

    /// The checksum of the entry at `index`, which is in the log or the last one before it.
    fn chain_at(&self, index: LogIndex) -> SqliteResult<u32> {
        if index == self.base.position.index {
            return Ok(self.base.chain);
        }
        let mut select = self.connection.prepare_cached("SELECT chain FROM entries WHERE idx = ?1")?;
        select.query_row([index.cast_signed()], |row| row.get(0))
    }

    fn execute(&self, sql: &str) -> SqliteResult<()> {
        self.connection.prepare_cached(sql)?.execute([]).map(drop)
    }

    /// What an error means for the store: it is undone, or it is final.
    fn fail(&mut self, call: &'static str, error: &rusqlite::Error) -> StorageError {
        let mut error = classify(&self.path, call, error);
        if matches!(error, StorageError::Full { .. }) {
            // As a rule SQLite has undone it already.
            let undone = if self.connection.is_autocommit() { Ok(()) } else { self.execute("ROLLBACK") };
            match undone {
                Ok(()) => return error,
                Err(cause) => {
                    error =
                        StorageError::Failed { path: self.path.clone(), call: "rollback", cause: cause.to_string() };
                }
            }
        }
        self.poison.insert(error).clone()
    }

    /// Copies what is in SQLite's log into the database, and syncs it. About how many pages are left.
    fn checkpoint(&mut self, mode: &str) -> Result<usize, StorageError> {
        let sql = format!("PRAGMA wal_checkpoint({mode})");
        let result = self.connection.query_row(&sql, [], |row| {
            let (busy, in_log, copied): (bool, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            Ok((busy, in_log - copied))
        });
        match result {
            Ok((false, left)) => {
                self.log_pages = usize::try_from(left).unwrap_or(0);
                Ok(self.log_pages)
            }
            Ok((true, _)) => {
                let cause = "another connection has the database".to_owned();
                let error = StorageError::Failed { path: self.path.clone(), call: "checkpoint", cause };
                Err(self.poison.insert(error).clone())
            }
            Err(error) => Err(self.fail("checkpoint", &error)),
        }
    }

    /// Nothing that was read is left where a power cut would take it away.
    fn make_durable(&mut self) -> Result<(), StorageError> {
        self.checkpoint("TRUNCATE").map(drop)
    }

    /// Gives SQLite's log, which is empty now, its full size. Where there is no room for that, it grows as it must.
    fn lengthen_log(&self) -> Result<(), StorageError> {
        match self.files.lengthen(DATABASE_LOG, LOG_BYTES) {
            Err(error) if error.kind() != std::io::ErrorKind::StorageFull => {
                let (path, cause) = (self.path.with_file_name(DATABASE_LOG), error.to_string());
                Err(StorageError::Failed { path, call: "lengthening", cause })
            }
            _ => Ok(()),
        }
    }

    /// Counts the writes that are on disk. It is a guard, not a promise: without it, less damage is noticed.
    fn acknowledge(&mut self) {
        let note = Note { process: std::process::id(), writes: self.state.writes };
        let _ = self.lock.note(&note.to_line());
    }
}
