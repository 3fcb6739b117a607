//! Which entries in flight belong to which client's call. Never in the log: it only serves those who watch.

use std::collections::VecDeque;

use crate::{
    flow::TraceId,
    raft::{Entry, LogIndex},
};

/// The most entries whose traces are remembered.
const CAPACITY: usize = 1 << 16;

/// The traces of the entries behind the applied ones.
#[derive(Default)]
pub(crate) struct Traces {
    /// The index of the first.
    first: LogIndex,
    /// 0: none.
    ids: VecDeque<TraceId>,
}

impl Traces {
    pub(crate) fn set(&mut self, index: LogIndex, trace: TraceId) {
        if trace == 0 {
            return;
        }
        if self.ids.is_empty() || index >= self.first + 2 * CAPACITY as u64 {
            self.ids.clear();
            self.first = index;
        }
        let Some(offset) = index.checked_sub(self.first) else { return };
        let offset = offset as usize;
        if offset >= self.ids.len() {
            self.ids.resize(offset + 1, 0);
        }
        self.ids[offset] = trace;
        if self.ids.len() > CAPACITY {
            let excess = self.ids.len() - CAPACITY;
            self.ids.drain(..excess);
            self.first += excess as u64;
        }
    }

    /// 0: none.
    pub(crate) fn get(&self, index: LogIndex) -> TraceId {
        let offset = index.checked_sub(self.first);
        offset.and_then(|offset| self.ids.get(offset as usize)).copied().unwrap_or(0)
    }

    /// The entries up to here have been applied.
    pub(crate) fn forget_up_to(&mut self, index: LogIndex) {
        let applied = (index + 1).saturating_sub(self.first).min(self.ids.len() as u64);
        self.ids.drain(..applied as usize);
        self.first += applied;
    }

    /// The traced ones among these.
    pub(crate) fn of(&self, entries: &[Entry]) -> Vec<(LogIndex, TraceId)> {
        if self.ids.is_empty() {
            return Vec::new();
        }
        let traced = entries.iter().map(|entry| (entry.index, self.get(entry.index)));
        traced.filter(|(_, trace)| *trace != 0).collect()
    }

    /// The first trace among these; 0: none.
    pub(crate) fn first_of(&self, entries: &[Entry]) -> TraceId {
        entries.iter().map(|entry| self.get(entry.index)).find(|trace| *trace != 0).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_are_kept_by_index_and_forgotten_when_applied() {
        let mut traces = Traces::default();
        traces.set(5, 50);
        traces.set(8, 80);
        assert_eq!([4, 5, 6, 8, 9].map(|index| traces.get(index)), [0, 50, 0, 80, 0]);
        traces.forget_up_to(5);
        assert_eq!([5, 8].map(|index| traces.get(index)), [0, 80]);
        traces.forget_up_to(100);
        traces.set(7, 70);
        assert_eq!([7, 8].map(|index| traces.get(index)), [70, 0]);
        traces.set(7 + 3 * CAPACITY as u64, 1);
        assert_eq!(traces.get(7), 0);
    }
}
