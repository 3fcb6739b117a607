//! The store itself: a persistent map, and what each command does to it.
//!
//! The map is `imbl`'s: a copy of the whole state is one pointer, so snapshots and long reads cost the writers nothing.
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
    scan::{self, KeyRange, Page},
    snapshot::{self, KvSnapshot},
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

/// The key-value store. A clone shares everything with its origin and costs next to nothing.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Kv {
    pairs: OrdMap<Bytes, Value>,
    hash: StateHash,
}

impl Kv {
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

    /// A hash of every key, value and revision: equal on all replicas that have applied the same log. It is kept up to
    /// date by each write, so asking for it costs nothing, however large the state.
    ///
    /// It shows that replicas diverged by a fault; it does not withstand somebody who forges states on purpose.
    pub fn hash(&self) -> [u8; 16] {
        self.hash.to_bytes()
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

    fn put(&mut self, revision: LogIndex, Put { key, value }: Put) -> Outcome {
        self.insert(&key, Value { bytes: value, revision });
        Outcome::Put(PutOutcome { revision })
    }

    fn delete(&mut self, revision: LogIndex, Delete { key }: Delete) -> Outcome {
        let previous = self.pairs.remove(&key);
        if let Some(previous) = &previous {
            self.hash.remove(&key, previous);
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
            self.insert(&key, Value { bytes: set, revision: at });
        }
        let revision = if swapped { at } else { current_revision };
        Outcome::CompareAndSwap(CompareAndSwapOutcome { swapped, current, revision })
    }
}

impl StateMachine for Kv {
    type Command = Command;
    type Output = Output;

    fn apply(&mut self, at: LogIndex, command: Command) -> Output {
        let outcome = command.operation.map(|operation| match operation {
            Operation::Put(put) => self.put(at, put),
            Operation::Delete(delete) => self.delete(at, delete),
            Operation::CompareAndSwap(compare_and_swap) => self.compare_and_swap(at, compare_and_swap),
        });
        Output { outcome }
    }

    fn snapshot(&self) -> impl Snapshot {
        KvSnapshot(self.clone())
    }

    fn restore(&mut self, bytes: impl Read) -> Result<(), RestoreError> {
        *self = snapshot::read(bytes)?;
        Ok(())
    }
}

/// Its size and hash, since the pairs may be millions.
impl fmt::Debug for Kv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kv").field("keys", &self.len()).field("hash", &self.hash).finish()
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
