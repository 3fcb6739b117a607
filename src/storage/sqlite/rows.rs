//! The tables of one row: whose store it is, what its log stands on, where it is now; and whether it lost entries.
//!
//! Each row carries a checksum over all of its columns. The state row moves with every write; it says where the log
//! ends and with which checksum, so that a log that lost its end is told from one that never had it.

use rusqlite::{Connection, Error, OptionalExtension, Result, Row, params};

use super::record::{chain, row_checksum};
use crate::{
    raft::{HardState, LogIndex, LogPosition},
    storage::Identity,
};

/// The row that moves with every write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// Term and vote.
    pub(super) hard_state: HardState,
    /// Where the log ends.
    pub(super) last_index: LogIndex,
    /// The checksum of the last entry, or of the base if there is none.
    pub(super) chain: u32,
    /// How many writes there were, the creation included.
    pub(super) writes: u64,
}

/// The row that is written once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) identity: Identity,
    pub(super) incarnation: u64,
}

/// The row that changes when the log is compacted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Base {
    /// The last entry that is not in the log any more.
    pub(super) position: LogPosition,
    /// Its checksum, from which the chain goes on; a seed of the store's own if there never was such an entry.
    pub(super) chain: u32,
    /// Who belonged to the cluster then, encoded.
    pub(super) membership: Vec<u8>,
}

/// The row that ends a store: it had acknowledged more than it has. As a rule there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condemned {
    /// The last entry that it had acknowledged.
    pub(super) acknowledged: LogIndex,
    /// The last entry that it had.
    pub(super) last: LogIndex,
}

/// Why a row could not be had.
pub(super) enum RowError {
    Sqlite(Error),
    /// It is not there, or does not fit its checksum.
    Damaged(&'static str),
}

impl From<Error> for RowError {
    fn from(error: Error) -> Self {
        RowError::Sqlite(error)
    }
}

impl State {
    fn checksum(&self) -> u32 {
        let State { hard_state: HardState { current_term, voted_for }, last_index, chain, writes } = *self;
        let numbers = [Some(current_term), voted_for, Some(last_index), Some(chain.into()), Some(writes)];
        row_checksum("state", &numbers, &[])
    }

    pub(super) fn write(&self, connection: &Connection) -> Result<()> {
        let State { hard_state: HardState { current_term, voted_for }, last_index, chain, writes } = *self;
        connection.prepare_cached("REPLACE INTO state VALUES (0, ?1, ?2, ?3, ?4, ?5, ?6)")?.execute(params![
            current_term.cast_signed(),
            voted_for.map(u64::cast_signed),
            last_index.cast_signed(),
            chain,
            writes.cast_signed(),
            self.checksum(),
        ])?;
        Ok(())
    }

    pub(super) fn read(connection: &Connection) -> Result<State, RowError> {
        read(connection, "SELECT current_term, voted_for, last_index, chain, writes, checksum FROM state", |row| {
            let voted_for = row.get::<_, Option<i64>>(1)?.map(i64::cast_unsigned);
            let state = State {
                hard_state: HardState { current_term: number(row, 0)?, voted_for },
                last_index: number(row, 2)?,
                chain: row.get(3)?,
                writes: number(row, 4)?,
            };
            Ok((state.checksum() == row.get::<_, u32>(5)?).then_some(state))
        })
    }
}

impl Owner {
    fn checksum(&self) -> u32 {
        let Owner { identity: Identity { cluster_id, node_id }, incarnation } = *self;
        row_checksum("identity", &[Some(cluster_id), Some(node_id), Some(incarnation)], &[])
    }

    /// Where the chain of a log begins that stands on `base`, if it never had that entry: a chain of this store's own,
    /// into which an entry of another store, or of an earlier log, does not fit.
    pub(super) fn seed(&self, base: LogPosition) -> u32 {
        chain(self.checksum(), base, &[])
    }

    pub(super) fn write(&self, connection: &Connection) -> Result<()> {
        let Owner { identity: Identity { cluster_id, node_id }, incarnation } = *self;
        let numbers = [cluster_id, node_id, incarnation].map(u64::cast_signed);
        let [cluster_id, node_id, incarnation] = numbers;
        let row = params![cluster_id, node_id, incarnation, self.checksum()];
        connection.execute("INSERT INTO identity VALUES (0, ?1, ?2, ?3, ?4)", row)?;
        Ok(())
    }

    pub(super) fn read(connection: &Connection) -> Result<Owner, RowError> {
        read(connection, "SELECT cluster_id, node_id, incarnation, checksum FROM identity", |row| {
            let identity = Identity { cluster_id: number(row, 0)?, node_id: number(row, 1)? };
            let owner = Owner { identity, incarnation: number(row, 2)? };
            Ok((owner.checksum() == row.get::<_, u32>(3)?).then_some(owner))
        })
    }
}

impl Base {
    fn checksum(&self) -> u32 {
        let numbers = [Some(self.position.index), Some(self.position.term), Some(self.chain.into())];
        row_checksum("base", &numbers, &self.membership)
    }

    pub(super) fn write(&self, connection: &Connection) -> Result<()> {
        let LogPosition { term, index } = self.position;
        let row = params![index.cast_signed(), term.cast_signed(), self.chain, self.membership, self.checksum()];
        connection.execute("REPLACE INTO base VALUES (0, ?1, ?2, ?3, ?4, ?5)", row)?;
        Ok(())
    }

    pub(super) fn read(connection: &Connection) -> Result<Base, RowError> {
        let columns = "SELECT last_included_index, last_included_term, chain, membership, checksum FROM base";
        read(connection, columns, |row| {
            let position = LogPosition { index: number(row, 0)?, term: number(row, 1)? };
            let base = Base { position, chain: row.get(2)?, membership: row.get(3)? };
            Ok((base.checksum() == row.get::<_, u32>(4)?).then_some(base))
        })
    }
}

impl Condemned {
    fn checksum(&self) -> u32 {
        row_checksum("condemned", &[Some(self.acknowledged), Some(self.last)], &[])
    }

    pub(super) fn write(&self, connection: &Connection) -> Result<()> {
        let row = params![self.acknowledged.cast_signed(), self.last.cast_signed(), self.checksum()];
        connection.execute("REPLACE INTO condemned VALUES (0, ?1, ?2, ?3)", row)?;
        Ok(())
    }

    pub(super) fn read(connection: &Connection) -> Result<Option<Condemned>, RowError> {
        read_if_any(connection, "SELECT acknowledged, last, checksum FROM condemned", |row| {
            let condemned = Condemned { acknowledged: number(row, 0)?, last: number(row, 1)? };
            Ok((condemned.checksum() == row.get::<_, u32>(2)?).then_some(condemned))
        })
    }
}

/// The one row that `select` finds; `of_row` gives `None` where it does not fit its checksum.
fn read<T>(
    connection: &Connection,
    select: &str,
    of_row: impl FnOnce(&Row<'_>) -> Result<Option<T>>,
) -> Result<T, RowError> {
    read_if_any(connection, select, of_row)?.ok_or(RowError::Damaged("it is not there"))
}

fn read_if_any<T>(
    connection: &Connection,
    select: &str,
    of_row: impl FnOnce(&Row<'_>) -> Result<Option<T>>,
) -> Result<Option<T>, RowError> {
    match connection.query_row(select, [], of_row).optional()? {
        Some(None) => Err(RowError::Damaged("it does not fit its checksum")),
        found => Ok(found.flatten()),
    }
}

fn number(row: &Row<'_>, column: usize) -> Result<u64> {
    row.get::<_, i64>(column).map(i64::cast_unsigned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::storage::sqlite::schema;

    /// What is read of each row, the owner's first; `None` for one that is refused.
    fn all(connection: &Connection) -> (Option<Owner>, Option<Base>, Option<State>, Option<Option<Condemned>>) {
        let (owner, base) = (Owner::read(connection).ok(), Base::read(connection).ok());
        (owner, base, State::read(connection).ok(), Condemned::read(connection).ok())
    }

    const COLUMNS: [(&str, &str); 16] = [
        ("identity", "cluster_id"),
        ("identity", "node_id"),
        ("identity", "incarnation"),
        ("identity", "checksum"),
        ("base", "last_included_index"),
        ("base", "last_included_term"),
        ("base", "chain"),
        ("base", "checksum"),
        ("state", "current_term"),
        ("state", "voted_for"),
        ("state", "last_index"),
        ("state", "chain"),
        ("state", "writes"),
        ("state", "checksum"),
        ("condemned", "acknowledged"),
        ("condemned", "last"),
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Fails when: a checksum leaves a column out, or a row is read as another than it was written as.
        #[test]
        fn a_row_is_read_as_it_was_written_or_refused(
            numbers in any::<[u64; 10]>(), voted_for in any::<Option<u64>>(), chains in any::<[u32; 2]>(),
            membership in prop::collection::vec(any::<u8>(), 0..20), bit in 0..64_u32,
        ) {
            let [cluster_id, node_id, incarnation, index, term, current_term, last_index, writes, acknowledged, last] = numbers;
            let connection = Connection::open_in_memory().expect("memory");
            schema::create(&connection).expect("there is room");
            let owner = Owner { identity: Identity { cluster_id, node_id }, incarnation };
            let base = Base { position: LogPosition { index, term }, chain: chains[0], membership };
            let hard_state = HardState { current_term, voted_for };
            let state = State { hard_state, last_index, chain: chains[1], writes };
            let condemned = Condemned { acknowledged, last };
            owner.write(&connection).expect("there is room");
            base.write(&connection).expect("there is room");
            state.write(&connection).expect("there is room");
            condemned.write(&connection).expect("there is room");
            let written = (Some(owner), Some(base), Some(state), Some(Some(condemned)));
            prop_assert_eq!(all(&connection), written.clone());
            for (table, column) in COLUMNS {
                let flip = format!("UPDATE {table} SET {column} = ({column} | ?1) - ({column} & ?1) WHERE {column} IS NOT NULL");
                let mask = 1_i64.wrapping_shl(if column == "chain" || column == "checksum" { bit % 32 } else { bit });
                let flipped = mask != i64::MIN && connection.execute(&flip, [mask]).expect("there is room") > 0;
                let mut expected = written.clone();
                match table {
                    _ if !flipped => {}
                    "identity" => expected.0 = None,
                    "base" => expected.1 = None,
                    "state" => expected.2 = None,
                    _ => expected.3 = None,
                }
                prop_assert_eq!(all(&connection), expected, "{} of {}, bit {}", column, table, bit);
                if flipped {
                    connection.execute(&flip, [mask]).expect("there is room");
                }
            }
        }
    }
}
