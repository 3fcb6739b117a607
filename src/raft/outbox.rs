//! The one write in flight, and what must wait for the disk.
//!
//! Everything that changes while a write is in flight forms the next one: group commit, by construction. Whatever must
//! not happen before a write is on disk travels inside it (`then`), so that "durable before reply" is in the type and
//! not in the order of lines.
//!
//! Invariants:
//! - `durable_index <= written_index <= last index of the log`.
//! - `seq` rises for ever: a report about a write whose entries were truncated meanwhile counts for nothing (L05).
//!
//! *Architecture invariant: nothing here waits, fails, reads a clock or draws a random number.*

use super::{
    events::{Effect, Write},
    log::Log,
    message::{AppendOutcome, Reply},
    types::{HardState, LogIndex},
};

/// What is on its way to the disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Outbox {
    next_seq: u64,
    in_flight: Option<InFlight>,
    /// The last entry handed to the disk; what stands behind it goes into the next write.
    written_index: LogIndex,
    /// The last entry known to be on the disk.
    durable_index: LogIndex,
    hard_state: Option<HardState>,
    truncate_from: Option<LogIndex>,
    then: Vec<Effect>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct InFlight {
    seq: u64,
    /// The last of its entries that still stands; lowered by a truncation.
    last_index: LogIndex,
    has_hard_state: bool,
}

impl Outbox {
    /// An idle outbox over a log that is durable up to `durable_index`.
    pub fn new(durable_index: LogIndex) -> Self {
        Outbox {
            next_seq: 1,
            in_flight: None,
            written_index: durable_index,
            durable_index,
            hard_state: None,
            truncate_from: None,
            then: Vec::new(),
        }
    }

    /// The last entry that is on this server's disk.
    pub fn durable_index(&self) -> LogIndex {
        self.durable_index
    }

    /// The last entry that has been handed to the disk. A leader sends no later one to its peers: a batch leaves to
    /// them when it leaves to the disk, which makes batches as large as the disk is slow.
    pub fn written_index(&self) -> LogIndex {
        self.written_index
    }

    /// Whether term and vote are on disk as they are in memory.
    pub fn hard_state_is_durable(&self) -> bool {
        self.hard_state.is_none() && !self.in_flight.as_ref().is_some_and(|write| write.has_hard_state)
    }

    /// Whether nothing is in flight.
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_none()
    }

    /// Term or vote changed.
    pub fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = Some(hard_state);
    }

    /// The log lost its entries from `index` on.
    pub fn truncate_from(&mut self, index: LogIndex) {
        if index <= self.written_index {
            let from = self.truncate_from.map_or(index, |from| from.min(index));
            self.truncate_from = Some(from);
        }
        self.written_index = self.written_index.min(index - 1);
        self.durable_index = self.durable_index.min(index - 1);
        if let Some(write) = &mut self.in_flight {
            write.last_index = write.last_index.min(index - 1);
        }
        // A reply that waits here must not promise what will never be written.
        for effect in &mut self.then {
            if let Effect::Reply { reply: Reply::AppendEntries(reply), .. } = effect
                && let AppendOutcome::Matched { match_index } = &mut reply.outcome
            {
                *match_index = (*match_index).min(index - 1);
            }
        }
    }

    /// Carries `effect` out behind all that has changed so far.
    pub fn after_write(&mut self, effect: Effect) {
        self.then.push(effect);
    }

    /// The next write, if one is due and none is in flight. Where there is nothing to write, what waited goes straight
    /// to `effects`.
    pub fn next_write(&mut self, log: &Log, effects: &mut Vec<Effect>) -> Option<Effect> {
        if self.in_flight.is_some() {
            return None;
        }
        let last_index = log.last().index;
        let has_entries = last_index > self.written_index;
        if !has_entries && self.hard_state.is_none() && self.truncate_from.is_none() {
            effects.append(&mut self.then);
            return None;
        }
        let entries = match has_entries {
            true => log.slice(self.written_index + 1, last_index, usize::MAX, usize::MAX),
            false => Vec::new(),
        };
        let write = Write { hard_state: self.hard_state.take(), truncate_from: self.truncate_from.take(), entries };
        let seq = self.next_seq;
        self.next_seq += 1;
        self.written_index = last_index;
        self.in_flight = Some(InFlight { seq, last_index, has_hard_state: write.hard_state.is_some() });
        Some(Effect::Persist { seq, write, then: std::mem::take(&mut self.then) })
    }

    /// The write `seq` is on disk. Says whether that was the one in flight.
    pub fn persisted(&mut self, seq: u64) -> bool {
        match self.in_flight.take_if(|write| write.seq == seq) {
            Some(write) => {
                self.durable_index = self.durable_index.max(write.last_index);
                true
            }
            None => false,
        }
    }
}
