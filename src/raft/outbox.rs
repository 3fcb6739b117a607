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

use std::time::Duration;

use super::{
    events::{Base, Effect, Write},
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
    base: Option<Base>,
    then: Vec<Effect>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct InFlight {
    seq: u64,
    since: Duration,
    /// The last of its entries that still stands; lowered by a truncation.
    last_index: LogIndex,
    has_hard_state: bool,
    has_base: bool,
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
            base: None,
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

    /// Whether the log on disk stands on what it stands on in memory.
    pub fn base_is_durable(&self) -> bool {
        self.base.is_none() && !self.in_flight.as_ref().is_some_and(|write| write.has_base)
    }

    /// Since when the write in flight is; `None`: there is none.
    pub fn writing_since(&self) -> Option<Duration> {
        self.in_flight.as_ref().map(|write| write.since)
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

    /// The log stands on `base` now, which a finished snapshot stands in for; so what the log lacked up to there counts as
    /// written.
    pub fn stand_on(&mut self, base: Base) {
        let index = base.position.index;
        self.written_index = self.written_index.max(index);
        self.durable_index = self.durable_index.max(index);
        self.base = Some(base);
    }

    /// Carries `effect` out behind all that has changed so far.
    pub fn after_write(&mut self, effect: Effect) {
        self.then.push(effect);
    }

    /// The next write, if one is due and none is in flight. Where there is nothing to write, what waited goes straight
    /// to `effects`.
    pub fn next_write(&mut self, now: Duration, log: &Log, effects: &mut Vec<Effect>) -> Option<Effect> {
        if self.in_flight.is_some() {
            return None;
        }
        let last_index = log.last().index;
        let has_entries = last_index > self.written_index;
        if !has_entries && self.hard_state.is_none() && self.truncate_from.is_none() && self.base.is_none() {
            effects.append(&mut self.then);
            return None;
        }
        let entries = match has_entries {
            true => log.slice(self.written_index + 1, last_index, usize::MAX, usize::MAX),
            false => Vec::new(),
        };
        let write = Write {
            hard_state: self.hard_state.take(),
            truncate_from: self.truncate_from.take(),
            base: self.base.take(),
            entries,
        };
        let seq = self.next_seq;
        self.next_seq += 1;
        self.written_index = last_index;
        let (has_hard_state, has_base) = (write.hard_state.is_some(), write.base.is_some());
        self.in_flight = Some(InFlight { seq, since: now, last_index, has_hard_state, has_base });
        Some(Effect::Persist { seq, write, then: std::mem::take(&mut self.then) })
    }

    /// Gives what waits the sessions that go by other numbers now, and counts writes anew. The one in flight, if there is
    /// one, is number 1.
    #[cfg(feature = "testing")]
    pub(super) fn renumber(&mut self, session: impl Fn(u64) -> u64) {
        self.next_seq = 2;
        self.in_flight.iter_mut().for_each(|write| write.seq = 1);
        self.then.iter_mut().for_each(|effect| {
            if let Effect::Send { session: sent, .. } = effect {
                *sent = session(*sent);
            }
        });
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::raft::{AppendEntriesReply, Entry, LogPosition, Payload};

    #[derive(Clone, Debug)]
    enum Operation {
        Append(u64),
        TruncateFrom(u64),
        /// What is durable up to here is compacted.
        Compact(u64),
        /// A snapshot that reaches so far beyond the log takes its place.
        Install(u64),
        Vote(u64),
        /// A reply that acknowledges all there is.
        Acknowledge,
        /// The write in flight reaches the disk.
        Sync,
        /// A report of a write that is not in flight.
        LateReport(u64),
    }

    fn operations() -> impl Strategy<Value = Vec<Operation>> {
        let operation = prop_oneof![
            3 => (1_u64..4).prop_map(Operation::Append),
            1 => (1_u64..20).prop_map(Operation::TruncateFrom),
            1 => (1_u64..20).prop_map(Operation::Compact),
            1 => (0_u64..3).prop_map(Operation::Install),
            1 => (1_u64..4).prop_map(Operation::Vote),
            2 => Just(Operation::Acknowledge),
            3 => Just(Operation::Sync),
            1 => (0_u64..50).prop_map(Operation::LateReport),
        ];
        prop::collection::vec(operation, 0..60)
    }

    /// The naive model: what the server remembers, what its disk holds, the one write between them.
    #[derive(Default)]
    struct Model {
        log: Log,
        hard_state: HardState,
        disk: Vec<Entry>,
        disk_base: LogPosition,
        disk_hard_state: HardState,
        in_flight: Option<(u64, Write, Vec<Effect>)>,
        term: u64,
        waited: usize,
        released: usize,
    }

    impl Model {
        fn apply(&mut self, outbox: &mut Outbox, operation: &Operation) {
            match operation {
                Operation::Append(count) => {
                    for index in (self.log.last().index + 1..).take(*count as usize) {
                        self.log.append(Entry { index, term: self.term, payload: Payload::Noop });
                    }
                }
                Operation::TruncateFrom(index)
                    if (self.log.base().index + 1..=self.log.last().index).contains(index) =>
                {
                    // Only a later leader truncates: what it appends is told apart by its term.
                    self.term += 1;
                    self.log.truncate_from(*index);
                    outbox.truncate_from(*index);
                }
                Operation::TruncateFrom(_) => {}
                Operation::Compact(index) => {
                    let index = (*index).min(outbox.durable_index());
                    if let Some(entry) = self.log.get(index) {
                        self.stand_on(outbox, entry.position());
                    }
                }
                Operation::Install(beyond) => {
                    self.term += 1;
                    let index = self.log.last().index + beyond;
                    outbox.truncate_from(self.log.base().index + 1);
                    if index > self.log.base().index {
                        self.stand_on(outbox, LogPosition { index, term: self.term });
                    } else {
                        self.log.truncate_from(self.log.base().index + 1);
                    }
                }
                Operation::Vote(id) => {
                    self.hard_state.current_term += 1;
                    self.hard_state.voted_for = Some(*id);
                    outbox.set_hard_state(self.hard_state);
                }
                Operation::Acknowledge => {
                    let outcome = AppendOutcome::Matched { match_index: self.log.last().index };
                    let reply = Reply::AppendEntries(AppendEntriesReply { term: self.term, outcome, read_round: 0 });
                    outbox.after_write(Effect::Reply { call: 0, reply });
                    self.waited += 1;
                }
                Operation::Sync => self.sync(outbox),
                Operation::LateReport(seq) => {
                    let in_flight = self.in_flight.as_ref().is_some_and(|(at, ..)| at == seq);
                    assert!(in_flight || !outbox.persisted(*seq), "a late report was believed");
                }
            }
            self.next_write(outbox);
        }

        fn stand_on(&mut self, outbox: &mut Outbox, position: LogPosition) {
            self.log.stand_on(position);
            outbox.stand_on(Base { position, membership: Default::default() });
        }

        fn disk_end(&self) -> LogIndex {
            self.disk.last().map_or(self.disk_base.index, |entry| entry.index)
        }

        fn next_write(&mut self, outbox: &mut Outbox) {
            let mut effects = Vec::new();
            let next = outbox.next_write(Duration::ZERO, &self.log, &mut effects);
            self.release(&effects);
            if let Some(Effect::Persist { seq, write, then }) = next {
                assert!(self.in_flight.is_none(), "two writes in flight");
                assert_ne!(write, Write::default());
                self.in_flight = Some((seq, write, then));
            }
        }

        fn sync(&mut self, outbox: &mut Outbox) {
            let Some((seq, write, then)) = self.in_flight.take() else { return };
            self.disk_hard_state = write.hard_state.unwrap_or(self.disk_hard_state);
            if let Some(index) = write.truncate_from {
                self.disk.retain(|entry| entry.index < index);
            }
            if let Some(Base { position, .. }) = write.base {
                self.disk.retain(|entry| entry.index > position.index);
                self.disk_base = position;
            }
            for entry in write.entries {
                assert_eq!(entry.index, self.disk_end() + 1, "a gap on the disk");
                self.disk.push(entry);
            }
            assert!(outbox.persisted(seq));
            self.release(&then);
        }

        fn release(&mut self, effects: &[Effect]) {
            self.released += effects.len();
            for effect in effects {
                if let Effect::Reply { reply: Reply::AppendEntries(reply), .. } = effect
                    && let AppendOutcome::Matched { match_index } = reply.outcome
                {
                    assert!(match_index <= self.disk_end(), "{match_index} is acknowledged, not on disk");
                }
            }
        }

        /// What the outbox says about the disk is true of the disk.
        fn check(&self, outbox: &Outbox) {
            let (durable, written, last) = (outbox.durable_index(), outbox.written_index(), self.log.last().index);
            assert!(durable <= written && written <= last, "{durable} <= {written} <= {last}");
            for index in self.log.base().index + 1..=durable {
                let on_disk = self.disk.iter().find(|entry| entry.index == index);
                assert_eq!(on_disk, self.log.get(index), "entry {index} is not durable");
            }
            assert!(!outbox.hard_state_is_durable() || self.disk_hard_state == self.hard_state);
            assert_eq!(outbox.is_idle(), self.in_flight.is_none());
        }
    }

    proptest! {
        #[test]
        fn whatever_happens_the_outbox_tells_the_truth_about_the_disk(operations in operations()) {
            let mut outbox = Outbox::new(0);
            let mut model = Model { term: 1, ..Model::default() };
            for operation in &operations {
                model.apply(&mut outbox, operation);
                model.check(&outbox);
            }
            // Two writes at most are left: the one in flight, and what came meanwhile.
            for _ in 0..2 {
                model.apply(&mut outbox, &Operation::Sync);
                model.check(&outbox);
            }
            let last = model.log.last().index;
            prop_assert_eq!((outbox.durable_index(), model.disk_end()), (last, last));
            prop_assert_eq!(model.disk_base, model.log.base());
            prop_assert!(outbox.hard_state_is_durable() && outbox.is_idle());
            prop_assert_eq!(model.released, model.waited, "what waits for the disk is carried out, once");
        }
    }
}
