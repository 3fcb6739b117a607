//! Which configuration is in force: always the latest in the log, committed or not (§6). A truncation therefore brings
//! the one before it back.
//!
//! *Architecture invariant: nothing here waits, fails, reads a clock or draws a random number.*

use std::sync::Arc;

use super::types::{Entry, LogIndex, Membership, Payload};

/// The configurations of the log, by rising index.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MembershipHistory {
    /// The configuration as of the log's base. Never truncated: what stands there is committed.
    base: Arc<Membership>,
    later: Vec<(LogIndex, Arc<Membership>)>,
}

impl MembershipHistory {
    /// As of a recovered log.
    pub fn new<'a>(base: Arc<Membership>, entries: impl IntoIterator<Item = &'a Entry>) -> Self {
        let mut history = MembershipHistory { base, later: Vec::new() };
        entries.into_iter().for_each(|entry| history.appended(entry));
        history
    }

    /// The configuration in force.
    pub fn current(&self) -> &Arc<Membership> {
        self.later.last().map_or(&self.base, |(_, membership)| membership)
    }

    /// The configuration that was in force at `index`, which is in the log or its base.
    pub fn at(&self, index: LogIndex) -> &Arc<Membership> {
        self.later.iter().rev().find(|(at, _)| *at <= index).map_or(&self.base, |(_, membership)| membership)
    }

    /// The configuration that was in force at `index`, and all that came after it.
    pub fn since(&self, index: LogIndex) -> impl Iterator<Item = &Arc<Membership>> {
        let later = self.later.iter().filter(move |(at, _)| *at > index).map(|(_, membership)| membership);
        std::iter::once(self.at(index)).chain(later)
    }

    /// Where the configuration in force stands in the log. 0: at its base, or before it.
    pub fn current_index(&self) -> LogIndex {
        self.later.last().map_or(0, |(index, _)| *index)
    }

    /// The log stands on `index` now, as of which `membership` was in force, and begins behind it.
    pub fn stand_on(&mut self, index: LogIndex, membership: Arc<Membership>) {
        self.base = membership;
        self.later.retain(|(at, _)| *at > index);
    }

    /// Takes note of an entry behind all the others.
    pub fn appended(&mut self, entry: &Entry) {
        if let Payload::Membership(membership) = &entry.payload {
            self.later.push((entry.index, membership.clone()));
        }
    }

    /// Forgets what stood at `index` and behind it.
    pub fn truncated_from(&mut self, index: LogIndex) {
        self.later.retain(|(at, _)| *at < index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ids: &[u64]) -> Membership {
        Membership::of_voters(ids.iter().map(|id| (*id, "")))
    }

    /// Entries 3, 5 and 7 are configurations, of one voter more each.
    fn history() -> (MembershipHistory, Vec<Entry>) {
        let entry =
            |(index, ids): (LogIndex, &[u64])| Entry { index, term: 1, payload: Payload::Membership(of(ids).into()) };
        let entries: Vec<_> = [(3, &[1, 2][..]), (5, &[1, 2, 3]), (7, &[1, 2, 3, 4])].into_iter().map(entry).collect();
        (MembershipHistory::new(of(&[1]).into(), &entries), entries)
    }

    /// Fails when: `stand_on` keeps what stands at the new base, or drops what stands behind it.
    #[test]
    fn a_history_that_stands_on_an_entry_is_as_one_that_is_recovered_there() {
        for index in 1..9 {
            let (mut history, entries) = history();
            let base = history.at(index).clone();
            history.stand_on(index, base.clone());
            let behind = entries.iter().filter(|entry| entry.index > index);
            assert_eq!(history, MembershipHistory::new(base, behind), "at {index}");
        }
    }

    /// Fails when: `truncated_from` keeps what stands at that index, or drops what stands before it.
    #[test]
    fn a_truncated_history_is_as_one_that_never_was_longer() {
        for index in 1..9 {
            let (mut history, entries) = history();
            history.truncated_from(index);
            let before = entries.iter().filter(|entry| entry.index < index);
            assert_eq!(history, MembershipHistory::new(of(&[1]).into(), before), "from {index}");
        }
    }
}
