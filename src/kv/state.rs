//! The store itself: a persistent map, and what each command does to it.
//!
//! The map is `imbl`'s: a copy of the whole state is one pointer, so snapshots and long reads cost the writers nothing.
//!
//! Beside it stands the history of its latest changes, which is no part of the state.
//!
//! *Architecture invariant: nothing here depends on anything but the commands and their order.*

use std::{fmt, io::Read};

use bytes::Bytes;
use imbl::OrdMap;

use super::{
    command::{
        Command, CompareAndSwap, CompareAndSwapOutcome, Delete, DeleteOutcome, Operation, Outcome, Output, Put,
        PutOutcome,
    },
    hash::StateHash,
    history::{Change, Changes, Compacted, History},
    scan::{self, KeyRange, Page},
    snapshot::{self, KvSnapshot},
    witness::Witness,
};
use crate::{
    raft::LogIndex,
    state_machine::{RestoreError, Snapshot, StateMachine},
};

/// A value, and which entry wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// What was written.
    pub bytes: Bytes,
    /// The log index of the command that wrote it.
    pub revision: LogIndex,
}

/// The key-value store. A clone shares all pairs with its origin and costs next to nothing; its history begins anew.
/// Stores are equal if their pairs are.
#[derive(Default)]
pub struct Kv {
    pairs: OrdMap<Bytes, Value>,
    hash: StateHash,
    /// The last command that it was given.
    applied: LogIndex,
    pub(super) history: History,
    pub(super) witness: Witness,
}

impl Kv {
    /// An empty store that remembers its latest changes within other bounds than [`MAX_HISTORY_CHANGES`] and
    /// [`MAX_HISTORY_BYTES`]; at least the last one in any case.
    ///
    /// [`MAX_HISTORY_CHANGES`]: super::MAX_HISTORY_CHANGES
    /// [`MAX_HISTORY_BYTES`]: super::MAX_HISTORY_BYTES
    pub fn with_history(max_changes: usize, max_bytes: usize) -> Self {
        Kv { history: History::bounded(max_changes, max_bytes), ..Kv::default() }
    }

    /// What stands at `key`.
    pub fn get(&self, key: &[u8]) -> Option<&Value> {
        self.pairs.get(key)
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Every pair, by rising key.
    pub fn iter(&self) -> impl Iterator<Item = (&Bytes, &Value)> {
        self.pairs.iter()
    }

    /// At most `limit` pairs of `range` by rising key, from the key `from` on (empty: from the first), and where to go
    /// on. A page ends early once its keys and values have `max_bytes`, but holds at least one pair if there is one.
    pub fn scan(&self, range: &KeyRange, from: &[u8], limit: usize, max_bytes: usize) -> Page {
        scan::page(&self.pairs, range, from, limit, max_bytes)
    }

    /// The changes of `range` from the revision `from` on, by rising revision: at most `limit`, and no more once their
    /// keys and values have `max_bytes`, but at least one if there is one. A page may end early, even empty, where
    /// there is much to look through; `complete` tells the end, `next` where to go on.
    ///
    /// # Errors
    /// [`Compacted`]: not all of them are remembered.
    pub fn changes(
        &self,
        range: &KeyRange,
        from: LogIndex,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Changes, Compacted> {
        self.history.page(range, from, limit, max_bytes)
    }

    /// The index of the last command that it was given, whatever that one did.
    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    /// A hash of every key, value and revision: equal on all replicas that have applied the same log. It is kept up to
    /// date by each write, so asking for it costs nothing, however large the state.
    ///
    /// It shows that replicas diverged by a fault; it does not withstand somebody who forges states on purpose.
    pub fn hash(&self) -> [u8; 16] {
        self.hash.to_bytes()
    }

    /// As a snapshot keeps it: of what was applied, too.
    pub(super) fn sealed_hash(&self) -> [u8; 16] {
        self.hash.sealed(self.applied)
    }

    pub(super) fn insert(&mut self, key: &Bytes, value: Value) {
        self.hash.add(key, &value);
        if let Some(current) = self.pairs.get_mut(key) {
            self.hash.remove(key, current);
            *current = value;
        } else {
            // The map keeps copies of some keys as separators, longer than the pair itself. A key that is a slice of its
            // log entry would keep the whole entry in memory with it, value and all.
            self.pairs.insert(Bytes::copy_from_slice(key), value);
        }
    }

    /// What a snapshot says: it is the state after the command at `applied`, and how it came to be so is not known.
    pub(super) fn set_applied(&mut self, applied: LogIndex) {
        self.applied = applied;
        self.history = self.history.behind(applied);
    }

    fn put(&mut self, revision: LogIndex, Put { key, value }: Put) -> Outcome {
        self.insert(&key, Value { bytes: value.clone(), revision });
        self.history.note(Change { key, value: Some(value), revision });
        Outcome::Put(PutOutcome { revision })
    }

    fn delete(&mut self, revision: LogIndex, Delete { key }: Delete) -> Outcome {
        let previous = self.pairs.remove(&key);
        if let Some(previous) = &previous {
            self.hash.remove(&key, previous);
            self.history.note(Change { key, value: None, revision });
        }
        let existed = previous.is_some();
        let previous = previous.map(|value| value.bytes).unwrap_or_default();
        Outcome::Delete(DeleteOutcome { existed, previous, revision })
    }

    fn compare_and_swap(&mut self, at: LogIndex, CompareAndSwap { key, expect, set }: CompareAndSwap) -> Outcome {
        let (current, current_revision) = match self.get(&key) {
            Some(value) => (Some(value.bytes.clone()), value.revision),
            None => (None, 0),
        };
        let swapped = current == expect;
        if swapped {
            // Copies: slices of the entry would keep what was expected in memory with them.
            let (key, set) = (Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&set));
            self.insert(&key, Value { bytes: set.clone(), revision: at });
            self.history.note(Change { key, value: Some(set), revision: at });
        }
        let revision = if swapped { at } else { current_revision };
        Outcome::CompareAndSwap(CompareAndSwapOutcome { swapped, current, revision })
    }
}

impl StateMachine for Kv {
    type Command = Command;
    type Output = Output;

    fn apply(&mut self, at: LogIndex, command: Command) -> Output {
        self.applied = at;
        let outcome = command.operation.map(|operation| match operation {
            Operation::Put(put) => self.put(at, put),
            Operation::Delete(delete) => self.delete(at, delete),
            Operation::CompareAndSwap(compare_and_swap) => self.compare_and_swap(at, compare_and_swap),
        });
        self.witness.sees(self);
        Output { outcome }
    }

    fn snapshot(&self) -> impl Snapshot {
        KvSnapshot(self.clone())
    }

    fn restore(&mut self, bytes: impl Read) -> Result<(), RestoreError> {
        let Kv { pairs, hash, applied, history: _, witness: _ } = snapshot::read(bytes)?;
        (self.pairs, self.hash) = (pairs, hash);
        self.set_applied(applied);
        self.witness.sees(self);
        Ok(())
    }
}

impl Clone for Kv {
    fn clone(&self) -> Self {
        let Kv { pairs, hash, applied, history, witness } = self;
        let (pairs, history, witness) = (pairs.clone(), history.behind(*applied), witness.clone());
        Kv { pairs, hash: *hash, applied: *applied, history, witness }
    }
}

impl PartialEq for Kv {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.pairs == other.pairs
    }
}

impl Eq for Kv {}

/// Its size and hash, since the pairs may be millions.
impl fmt::Debug for Kv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kv").field("keys", &self.len()).field("hash", &self.hash).finish()
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
