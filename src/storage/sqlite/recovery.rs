//! Reads a store back, and believes nothing that does not fit its checksum.

use std::path::Path;

use rusqlite::Connection;

use super::{
    failure::{classify_at_open, corrupt},
    record::{chain, decode_membership, decode_payload},
    rows::{Base, Condemned, Owner, RowError, State},
};
use crate::{
    raft::{Entry, LogPosition, Recovered},
    storage::{Identity, Opened, StorageError},
};

/// What is in the database, and the rows that the store goes on from.
pub(super) struct Found {
    /// Without snapshots: those are not in the database.
    pub(super) opened: Opened,
    pub(super) owner: Owner,
    pub(super) base: Base,
    pub(super) state: State,
}

/// Reads whose store it is.
pub(super) fn owner(connection: &Connection, path: &Path) -> Result<Identity, StorageError> {
    let owner = Owner::read(connection).map_err(|error| match error {
        RowError::Sqlite(error) => classify_at_open(path, &error),
        RowError::Damaged(cause) => corrupt(path, "the identity", cause),
    })?;
    Ok(owner.identity)
}

/// Reads and verifies everything.
pub(super) fn read(connection: &Connection, path: &Path, opener: &Identity) -> Result<Found, StorageError> {
    let damaged = |place: &'static str| {
        move |error| match error {
            RowError::Sqlite(error) => classify_at_open(path, &error),
            RowError::Damaged(cause) => corrupt(path, place, cause),
        }
    };
    let owner = Owner::read(connection).map_err(damaged("the identity"))?;
    owner.identity.expect_same(opener, path)?;
    let condemned = Condemned::read(connection).map_err(damaged("the mark of lost entries"))?;
    if let Some(Condemned { acknowledged, last }) = condemned {
        return Err(StorageError::LostEntries { path: path.to_owned(), acknowledged, last });
    }
    let base = Base::read(connection).map_err(damaged("the log's base"))?;
    let state = State::read(connection).map_err(damaged("term and vote"))?;
    let membership = decode_membership(&base.membership)
        .map_err(|cause| corrupt(path, "the membership of the log's base", cause))?;
    let entries = read_entries(connection, path, &base, &state)?;
    check_structure(connection, path)?;
    let recovered = Recovered {
        hard_state: state.hard_state,
        base: base.position,
        membership,
        entries,
        snapshot: None,
        receiving: None,
    };
    Ok(Found { opened: Opened { incarnation: owner.incarnation, recovered }, owner, base, state })
}

/// Reads the log and follows its chain from the base to the end that the state row names. Rows up to the base wait to be
/// deleted.
fn read_entries(connection: &Connection, path: &Path, base: &Base, state: &State) -> Result<Vec<Entry>, StorageError> {
    let failed = |error: rusqlite::Error| classify_at_open(path, &error);
    let mut entries = Vec::new();
    let mut last_index = base.position.index;
    let mut last_chain = base.chain;
    let mut statement = connection
        .prepare("SELECT idx, term, payload, chain FROM entries WHERE idx > ?1 ORDER BY idx")
        .map_err(failed)?;
    let mut rows = statement.query([base.position.index.cast_signed()]).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        let expected = last_index + 1;
        let place = || format!("entry {expected}");
        let index = row.get::<_, i64>(0).map_err(failed)?.cast_unsigned();
        if index != expected {
            return Err(corrupt(path, place(), format!("entry {index} stands in its place")));
        }
        let term = row.get::<_, i64>(1).map_err(failed)?.cast_unsigned();
        let stored = row.get_ref(2).map_err(failed)?;
        let stored = stored.as_blob().map_err(|error| corrupt(path, place(), error.to_string()))?;
        let found_chain: u32 = row.get(3).map_err(|error| corrupt(path, place(), error.to_string()))?;
        last_chain = chain(last_chain, LogPosition { term, index }, stored);
        if last_chain != found_chain {
            return Err(corrupt(path, place(), "it does not fit its checksum"));
        }
        let payload = decode_payload(stored).map_err(|cause| corrupt(path, place(), cause))?;
        entries.push(Entry { index, term, payload });
        last_index = index;
    }
    if (last_index, last_chain) != (state.last_index, state.chain) {
        let cause = format!("the log should end at entry {}, and ends at {last_index}", state.last_index);
        return Err(corrupt(path, format!("entry {}", last_index + 1), cause));
    }
    Ok(entries)
}

/// What the checksums do not cover is the order among the pages: a page that is both free and in use reads well today
/// and is overwritten tomorrow.
fn check_structure(connection: &Connection, path: &Path) -> Result<(), StorageError> {
    let finding: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|error| classify_at_open(path, &error))?;
    if finding == "ok" { Ok(()) } else { Err(corrupt(path, "the database", finding)) }
}
