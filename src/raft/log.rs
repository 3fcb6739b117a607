//! The replicated log in memory, from the last snapshot on (§5.3). The disk is its durable shadow.
//!
//! Invariants:
//! - Indexes have no gaps: entry *i* stands at `base.index + i + 1`.
//! - Terms never fall along the log.
//!
//! *Architecture invariant: nothing here waits, fails, reads a clock or draws a random number.*

use std::collections::VecDeque;

use super::types::{Entry, LogIndex, LogPosition, Term};

/// Entries behind `base`, which stands in for all that a snapshot replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Log {
    base: LogPosition,
    entries: VecDeque<Entry>,
}

impl Log {
    /// The log as it was recovered.
    pub fn new(base: LogPosition, entries: Vec<Entry>) -> Self {
        let mut log = Log { base, entries: VecDeque::with_capacity(entries.len()) };
        entries.into_iter().for_each(|entry| log.append(entry));
        log
    }

    /// What the log stands on. 0@0 without a snapshot.
    pub fn base(&self) -> LogPosition {
        self.base
    }

    /// The last entry, or `base` where there is none: a log that was compacted away entirely still has its place in
    /// the comparison of §5.4.1.
    pub fn last(&self) -> LogPosition {
        self.entries.back().map_or(self.base, Entry::position)
    }

    /// The term at `index`: 0 for index 0; `None` where the log has no entry, or a snapshot replaced it.
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.base.index { Some(self.base.term) } else { self.get(index).map(|entry| entry.term) }
    }

    /// The entry before `index + 1`, which is here or the base.
    pub fn position_at(&self, index: LogIndex) -> LogPosition {
        let Some(term) = self.term_at(index) else {
            panic!("entry {index} is not between {} and {}", self.base, self.last())
        };
        LogPosition { term, index }
    }

    /// The entry at `index`, if it is here.
    pub fn get(&self, index: LogIndex) -> Option<&Entry> {
        let offset = index.checked_sub(self.base.index + 1)?;
        self.entries.get(usize::try_from(offset).ok()?)
    }

    /// Appends the entry behind the last.
    pub fn append(&mut self, entry: Entry) {
        let last = self.last();
        assert!(
            entry.index == last.index + 1 && entry.term >= last.term,
            "entry {} cannot follow {last}: a log has no gaps and its terms never fall",
            entry.position()
        );
        self.entries.push_back(entry);
    }

    /// Removes every entry from `index` on.
    pub fn truncate_from(&mut self, index: LogIndex) {
        assert!(index > self.base.index, "entry {index} is in the snapshot at {}: it is committed", self.base);
        self.entries.truncate((index - self.base.index - 1) as usize);
    }

    /// Lets the log stand on `base`: what a snapshot replaced goes. Where the entry there is missing or of another term, all
    /// of it does, since nothing behind it is known to follow (N02).
    pub fn stand_on(&mut self, base: LogPosition) {
        assert!(base.index > self.base.index, "the log stands on {} already, not on {base}", self.base);
        if self.term_at(base.index) == Some(base.term) {
            self.entries.drain(..(base.index - self.base.index) as usize);
        } else {
            self.entries.clear();
        }
        self.base = base;
    }

    /// The first index that has the same term as the entry at `index`, among what is here (§5.3).
    pub fn first_index_of_term_at(&self, index: LogIndex) -> LogIndex {
        let Some(term) = self.term_at(index) else { return index };
        // Terms never fall, so that the entries before this term are a prefix.
        self.base.index + 1 + self.entries.partition_point(|entry| entry.term < term) as LogIndex
    }

    /// The last index whose term is `term` or earlier.
    pub fn last_index_up_to_term(&self, term: Term) -> LogIndex {
        self.base.index + self.entries.partition_point(|entry| entry.term <= term) as LogIndex
    }

    /// The entries from `from` to `to`, both included, but no more than the limits allow; always at least one, if
    /// there is one: an entry that alone exceeds `max_bytes` travels alone. Payloads are shared, not copied.
    pub fn slice(&self, from: LogIndex, to: LogIndex, max_entries: usize, max_bytes: usize) -> Vec<Entry> {
        assert!(from > self.base.index, "entry {from} is in the snapshot at {}", self.base);
        let start = ((from - self.base.index - 1) as usize).min(self.entries.len());
        let end = (to.saturating_sub(self.base.index) as usize).min(self.entries.len()).max(start);
        let end = end.min(start.saturating_add(max_entries.max(1)));
        let mut bytes = 0;
        let count = self
            .entries
            .range(start..end)
            .take_while(|entry| {
                let first = bytes == 0;
                bytes += entry.size().max(1);
                first || bytes <= max_bytes
            })
            .count();
        self.entries.range(start..start + count).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::raft::Payload;

    fn entry(index: LogIndex, term: Term) -> Entry {
        Entry { index, term, payload: Payload::Command(Bytes::from(vec![7; (index % 5) as usize])) }
    }

    /// A log with rising terms behind a base, and the same as a plain list: the naive model.
    fn logs() -> impl Strategy<Value = (Log, Vec<Entry>)> {
        (0_u64..4, prop::collection::vec(0_u64..3, 0..30)).prop_map(|(base, steps)| {
            let mut term = 1;
            let base = LogPosition { index: base, term: u64::from(base > 0) };
            let entries: Vec<_> = (base.index + 1..)
                .zip(steps)
                .map(|(index, step)| {
                    term += step;
                    entry(index, term)
                })
                .collect();
            (Log::new(base, entries.clone()), entries)
        })
    }

    proptest! {
        #[test]
        fn lookups_agree_with_a_list((log, list) in logs(), index in 0_u64..40, term in 0_u64..40) {
            let found = list.iter().find(|entry| entry.index == index);
            prop_assert_eq!(log.get(index), found);
            prop_assert_eq!(log.last(), list.last().map_or(log.base(), Entry::position));
            if let Some(found) = found {
                let first = list.iter().find(|entry| entry.term == found.term).map(|entry| entry.index);
                prop_assert_eq!(Some(log.first_index_of_term_at(index)), first);
            }
            let last = list.iter().rev().find(|entry| entry.term <= term).map_or(log.base().index, |entry| entry.index);
            prop_assert_eq!(log.last_index_up_to_term(term), last);
        }

        /// Fails when: a limit of no entries is taken at its word: a leader would then send nothing, for ever.
        #[test]
        fn slices_agree_with_a_list((log, list) in logs(), from in 1_u64..40, to in 0_u64..40, count in 0_usize..6, bytes in 0_usize..12) {
            prop_assume!(from > log.base().index);
            let mut left = bytes;
            let mut naive = Vec::new();
            for entry in list.iter().filter(|entry| (from..=to).contains(&entry.index)).take(count.max(1)) {
                let size = entry.size().max(1);
                if !naive.is_empty() && size > left {
                    break;
                }
                left = left.saturating_sub(size);
                naive.push(entry.clone());
            }
            prop_assert_eq!(log.slice(from, to, count, bytes), naive);
        }

        #[test]
        fn a_new_base_agrees_with_a_list((mut log, mut list) in logs(), index in 1_u64..40, term in 1_u64..6) {
            prop_assume!(index > log.base().index);
            let base = LogPosition { index, term };
            let matches = list.iter().any(|entry| entry.position() == base);
            log.stand_on(base);
            list.retain(|entry| matches && entry.index > index);
            prop_assert_eq!(log, Log::new(base, list));
        }

        #[test]
        fn truncation_agrees_with_a_list((mut log, mut list) in logs(), index in 1_u64..40) {
            prop_assume!(index > log.base().index);
            log.truncate_from(index);
            list.retain(|entry| entry.index < index);
            prop_assert_eq!(log.clone(), Log::new(log.base(), list));
        }
    }
}
