//! Lets the log stand on a later base, and deletes what that replaces bit by bit.
//!
//! A base that moves costs one small row: entries up to it are not part of the log from then on, whatever is left of
//! their rows. Those are deleted later, so many at a time, with the writes that follow and whenever the store is tidied.
//! No row is ever inserted where one of them stands: a log only grows behind its base.
//!
//! Where the log does not have the base's entry, all of it goes. What stands behind the base then, if anything, was never
//! committed; it is little, and is deleted at once.

use rusqlite::{OptionalExtension, Result};

use super::{
    SqliteStore,
    record::encode_membership,
    rows::{self, State},
};
use crate::raft::{Base, LogIndex, LogPosition};

/// Rows that are deleted in one step, at most.
pub(super) const ROWS: usize = 1_000;

/// Bytes of payload that are deleted in one step; it is left behind by one entry at most.
const BYTES: i64 = 4 << 20;

/// From so many free pages on, if they are more than half of all, the database is made shorter. 16 MiB.
const FREE_PAGES: i64 = 4_096;

/// Pages that are given back in one step.
pub(super) const PAGES: usize = 256;

/// What a step deleted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Deleted {
    rows: usize,
    /// Whether there is more to delete.
    more: bool,
}

impl SqliteStore {
    /// Writes the new base down, and changes `state` where the log does not go on behind it.
    pub(super) fn move_base(&self, base: &Base, state: &mut State) -> Result<rows::Base> {
        let position = base.position;
        let membership = encode_membership(&base.membership);
        let known = self.chain_of(position, state)?;
        let chain = known.unwrap_or_else(|| self.owner.seed(position));
        if known.is_none() {
            self.delete_from(position.index + 1)?;
            state.last_index = position.index;
            state.chain = chain;
        }
        let base = rows::Base { position, chain, membership };
        base.write(&self.connection)?;
        Ok(base)
    }

    /// The checksum of the entry at `position`, if it is in the log that `state` tells the end of.
    fn chain_of(&self, position: LogPosition, state: &State) -> Result<Option<u32>> {
        if position.index > state.last_index {
            return Ok(None);
        }
        let mut select = self.connection.prepare_cached("SELECT chain FROM entries WHERE idx = ?1 AND term = ?2")?;
        select.query_row([position.index.cast_signed(), position.term.cast_signed()], |row| row.get(0)).optional()
    }

    pub(super) fn delete_from(&self, index: LogIndex) -> Result<()> {
        let mut delete = self.connection.prepare_cached("DELETE FROM entries WHERE idx >= ?1")?;
        delete.execute([index.cast_signed()]).map(drop)
    }

    /// Whether a crash left rows that wait to be deleted.
    pub(super) fn find_remains(&self) -> Result<bool> {
        let end = self.base.position.index.cast_signed();
        self.connection.query_row("SELECT EXISTS (SELECT 1 FROM entries WHERE idx <= ?1)", [end], |row| row.get(0))
    }

    /// A step in a transaction of its own. A power cut may undo it: nobody counts on it.
    pub(super) fn delete_remains(&self, rows: usize) -> Result<Deleted> {
        self.delete_up_to(self.base.position.index, rows)
    }

    /// Deletes the first rows up to `end`, bounded by number and by bytes.
    pub(super) fn delete_up_to(&self, end: LogIndex, rows: usize) -> Result<Deleted> {
        let mut select = self
            .connection
            .prepare_cached("SELECT idx, length(payload) FROM entries WHERE idx <= ?1 ORDER BY idx LIMIT ?2")?;
        let mut found = select.query([end.cast_signed(), rows as i64])?;
        let (mut count, mut bytes, mut last) = (0, 0, None);
        while bytes < BYTES
            && let Some(row) = found.next()?
        {
            last = Some(row.get::<_, i64>(0)?);
            bytes += row.get::<_, i64>(1)?;
            count += 1;
        }
        drop(found);
        let Some(last) = last else { return Ok(Deleted::default()) };
        self.connection.prepare_cached("DELETE FROM entries WHERE idx <= ?1")?.execute([last])?;
        Ok(Deleted { rows: count, more: count == rows || bytes >= BYTES })
    }

    /// Takes down what a step deleted: pages that change go to SQLite's log.
    pub(super) fn count(&mut self, deleted: Deleted) {
        self.has_remains = deleted.more;
        self.log_pages += deleted.rows / 16;
    }

    /// Whether far more of the database is free than a log of its size needs.
    pub(super) fn has_pages_to_give_back(&self) -> Result<bool> {
        let number =
            |pragma: &str| self.connection.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get::<_, i64>(0));
        let (free, all) = (number("freelist_count")?, number("page_count")?);
        Ok(free >= FREE_PAGES && free * 2 > all)
    }

    /// Makes the database a little shorter; its file gets so at the next checkpoint.
    pub(super) fn give_back_pages(&self) -> Result<()> {
        self.connection.execute_batch(&format!("PRAGMA incremental_vacuum({PAGES})"))
    }
}
