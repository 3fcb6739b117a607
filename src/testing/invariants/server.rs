//! One node as the invariants know it: its log as of its last step, and what its disk must have.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use super::{Broken, Check, expect};
use crate::raft::{HardState, LogIndex, LogPosition, Membership, NodeId, Raft, Term, Write};

/// The terms along a log, behind what it stands on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Terms {
    pub base: LogPosition,
    pub terms: VecDeque<Term>,
}

impl Terms {
    pub(super) fn last_index(&self) -> LogIndex {
        self.base.index + self.terms.len() as u64
    }

    /// `None`: the log does not reach so far, or not so far back.
    pub(super) fn at(&self, index: LogIndex) -> Option<Term> {
        match index.checked_sub(self.base.index + 1) {
            Some(place) => self.terms.get(place as usize).copied(),
            None => (index == self.base.index).then_some(self.base.term),
        }
    }

    fn truncate_from(&mut self, from: LogIndex) {
        self.terms.truncate(from.saturating_sub(self.base.index + 1) as usize);
    }

    fn stand_on(&mut self, base: LogPosition) {
        let gone = base.index.saturating_sub(self.base.index) as usize;
        self.terms.drain(..gone.min(self.terms.len()));
        self.base = base;
    }
}

/// Term, vote and log as they stand on a disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    pub hard_state: HardState,
    pub log: Terms,
}

impl Disk {
    fn carry_out(&mut self, write: &Write) {
        self.hard_state = write.hard_state.unwrap_or(self.hard_state);
        if let Some(from) = write.truncate_from {
            self.log.truncate_from(from);
        }
        if let Some(base) = &write.base {
            self.log.stand_on(base.position);
        }
        self.log.terms.extend(write.entries.iter().map(|entry| entry.term));
    }

    /// Whether it has at least what `raft` was made from, as far as both reach back.
    fn is_in(&self, raft: &Raft) -> Check {
        let HardState { current_term, voted_for } = self.hard_state;
        let same_term = raft.current_term() == current_term;
        let voted = !same_term || voted_for.is_none() || raft.voted_for() == voted_for;
        expect(raft.current_term() >= current_term && voted, "Durability", || {
            let found = (raft.current_term(), raft.voted_for());
            format!("term {current_term} with vote {voted_for:?} was on its disk, it begins with {found:?}")
        })?;
        let first = self.log.base.index.max(raft.base().index) + 1;
        for index in first..=self.log.last_index() {
            let found = raft.entry(index).map(|entry| entry.term);
            let was = self.log.at(index);
            expect(found == was, "Durability", || {
                format!("entry {index} of term {was:?} was on its disk, it begins with {found:?}")
            })?;
        }
        let reaches = raft.last_index() >= self.log.last_index();
        expect(reaches, "Durability", || format!("its log reached to {}", self.log.last_index()))
    }
}

/// One node.
#[derive(Default)]
pub(super) struct Server {
    /// Its log after its last step.
    pub log: Terms,
    pub leads: Option<Term>,
    pub commit_index: LogIndex,
    /// The last entry that was handed to its state machine.
    pub applying: LogIndex,
    pub membership: Arc<Membership>,
    /// Whom it voted for in this life, by term.
    pub votes: BTreeMap<Term, NodeId>,
    pub disk: Disk,
    /// A write that was ordered and not reported.
    in_flight: Option<(u64, Write)>,
    /// It has had another disk before: nobody knows what that one had.
    pub had_another_disk: bool,
}

/// Which part of a log is new after a step.
#[derive(Clone, Copy)]
pub(super) struct New {
    /// From here on.
    pub from: LogIndex,
    /// Entries that stood at `from` before are gone.
    pub replaced: bool,
}

impl Server {
    /// It starts from its disk: all that was on it must be there again. The whole log is new.
    pub(super) fn begins(&mut self, id: NodeId, raft: &Raft) -> Result<New, Broken> {
        let named = |Broken(invariant, detail)| Broken(invariant, format!("n{id}: {detail}"));
        let without = self.disk.is_in(raft);
        // A write that nobody has heard of may be there or not.
        let with = self.in_flight.take().map(|(_, write)| {
            let mut disk = self.disk.clone();
            disk.carry_out(&write);
            disk.is_in(raft)
        });
        if with.is_none_or(|with| with.is_err()) {
            without.map_err(named)?;
        }
        let had_another_disk = self.had_another_disk;
        *self = Server { had_another_disk, ..Server::default() };
        let new = self.follow_log(raft);
        let hard_state = HardState { current_term: raft.current_term(), voted_for: raft.voted_for() };
        self.disk = Disk { hard_state, log: self.log.clone() };
        (self.commit_index, self.applying) = (raft.base().index, raft.base().index);
        self.membership = Arc::new(raft.membership().clone());
        Ok(new)
    }

    pub(super) fn wiped(&mut self) {
        *self = Server { had_another_disk: true, ..Server::default() };
    }

    pub(super) fn ordered(&mut self, id: NodeId, seq: u64, write: &Write) -> Check {
        let free = self.in_flight.is_none();
        expect(free, "One Write in Flight", || format!("n{id} orders write {seq} while another is under way"))?;
        // Only what the model needs of it: payloads stay where they are.
        self.in_flight = Some((seq, write.clone()));
        Ok(())
    }

    pub(super) fn persisted(&mut self, id: NodeId, seq: u64) -> Check {
        match self.in_flight.take() {
            Some((ordered, write)) if ordered == seq => self.disk.carry_out(&write),
            other => {
                let ordered = other.map(|(ordered, _)| ordered);
                let detail = format!("n{id} goes on as if write {seq} were on disk, {ordered:?} is under way");
                return Err(Broken("One Write in Flight", detail));
            }
        }
        Ok(())
    }

    /// Brings the copy of the log up to date, and says what is new.
    pub(super) fn follow_log(&mut self, raft: &Raft) -> New {
        let base = raft.base();
        if base != self.log.base {
            self.log.stand_on(base);
        }
        let term_at = |index| raft.entry(index).map(|entry| entry.term);
        let mut agreed = raft.last_index();
        while agreed > base.index && self.log.at(agreed) != term_at(agreed) {
            agreed -= 1;
        }
        let replaced = self.log.last_index() > agreed;
        self.log.truncate_from(agreed + 1);
        self.log.terms.extend((agreed + 1..=raft.last_index()).filter_map(term_at));
        New { from: agreed + 1, replaced }
    }
}
