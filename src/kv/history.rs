//! The latest changes of the store, in order: what a watcher is told.
//!
//! The history stands beside the state and is no part of it: neither its hash nor its snapshot nor a clone has it. It is
//! bounded by count and by bytes; what falls out of it at the old end is *compacted*, and so is whatever stood before a
//! snapshot that was restored. Watchers pull ([`Kv::changes`](super::Kv::changes)), so nothing is kept for any of them:
//! who is slower than the history is long is told so.
//!
//! Keys and values are shared with the log entries that they came in, so that noting a change copies nothing.

use std::collections::VecDeque;

use bytes::Bytes;

use super::scan::KeyRange;
use crate::raft::LogIndex;

/// The most changes that a store remembers, unless it was told otherwise. At the fastest writing that is still longer than an
/// election, so that a watcher can go on at another node.
pub const MAX_HISTORY_CHANGES: usize = 1 << 16;

/// The most bytes that a store remembers, unless it was told otherwise: keys and values, and [`CHANGE_BYTES`] for each.
pub const MAX_HISTORY_BYTES: usize = 16 << 20;

/// What a change takes besides its key and its value: its place here, and the entry's allocation.
pub const CHANGE_BYTES: usize = 128;

/// The most changes that are looked at for one page: a prefix that is seldom written must not hold up the applier.
const MAX_LOOKED_AT: usize = 4096;

/// One write that changed something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What was written or deleted.
    pub key: Bytes,
    /// What stands there now. `None`: it was deleted.
    pub value: Option<Bytes>,
    /// The log index of the command that did it. No two changes have the same.
    pub revision: LogIndex,
}

/// A page of changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// By rising revision.
    pub changes: Vec<Change>,
    /// The page tells of everything below this: the next one begins here.
    pub next: LogIndex,
    /// Whether there are no later changes yet. Then everything that is applied has been told.
    pub complete: bool,
}

/// The changes that were asked for are no longer, or not all, remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("changes are remembered from revision {oldest} on")]
pub struct Compacted {
    /// The first revision from which on all are.
    pub oldest: LogIndex,
}

/// The latest changes, by rising revision.
pub(super) struct History {
    changes: VecDeque<Change>,
    bytes: usize,
    /// All changes from this revision on are here.
    oldest: LogIndex,
    max_changes: usize,
    max_bytes: usize,
}

impl Change {
    fn bytes(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }

    fn remembered_bytes(&self) -> usize {
        self.bytes() + CHANGE_BYTES
    }
}

impl Default for History {
    fn default() -> Self {
        History::bounded(MAX_HISTORY_CHANGES, MAX_HISTORY_BYTES)
    }
}

impl History {
    /// Of a store that nothing was applied to.
    pub(super) fn bounded(max_changes: usize, max_bytes: usize) -> Self {
        History { changes: VecDeque::new(), bytes: 0, oldest: 1, max_changes, max_bytes }
    }

    /// Empty, with the same bounds: of a store that knows nothing of how it came to be what it was at `applied`.
    pub(super) fn behind(&self, applied: LogIndex) -> Self {
        History { oldest: applied + 1, ..History::bounded(self.max_changes, self.max_bytes) }
    }

    /// Notes a change that is later than all others. It is remembered in any case; the oldest make room for it.
    pub(super) fn note(&mut self, change: Change) {
        let bytes = change.remembered_bytes();
        while self.changes.len() >= self.max_changes || self.bytes.saturating_add(bytes) > self.max_bytes {
            let Some(forgotten) = self.changes.pop_front() else { break };
            self.bytes -= forgotten.remembered_bytes();
            self.oldest = forgotten.revision + 1;
        }
        self.bytes += bytes;
        self.changes.push_back(change);
    }

    pub(super) fn page(
        &self,
        range: &KeyRange,
        from: LogIndex,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Changes, Compacted> {
        let from = from.max(1);
        if from < self.oldest {
            return Err(Compacted { oldest: self.oldest });
        }
        let mut page = Changes { next: from, ..Changes::default() };
        let mut bytes = 0;
        let begin = self.changes.partition_point(|change| change.revision < from);
        for (looked_at, change) in self.changes.range(begin..).enumerate() {
            page.next = change.revision;
            if looked_at == MAX_LOOKED_AT {
                return Ok(page);
            }
            if range.contains(&change.key) {
                bytes += change.bytes();
                let full = page.changes.len() >= limit || bytes > max_bytes;
                if full && !page.changes.is_empty() {
                    return Ok(page);
                }
                page.changes.push(change.clone());
            }
            page.next = change.revision + 1;
        }
        page.complete = true;
        Ok(page)
    }
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
