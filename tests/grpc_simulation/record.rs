//! What is seen of a run: what the rules decide, what clients are told, what a snapshot's transfer stores.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    env,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ractor_raft::{
    node::{Observed, Observer},
    raft::{Effect, LogIndex, NodeId, Role, SnapshotMetadata, Term},
    testing::Witness,
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::network::Breaks;

/// All that is seen of one cluster. Clones are the same record.
#[derive(Clone, Default)]
pub struct Record {
    notes: Arc<Mutex<Notes>>,
    /// Sees what is applied.
    pub witness: Witness,
}

/// What was seen.
#[derive(Default)]
pub struct Notes {
    /// Numbers invocations and answers in their order.
    clock: u64,
    /// The answered ones.
    pub operations: Vec<Operation>,
    /// Calls that were made, answered or not.
    pub calls: u64,
    /// Clients that still work.
    pub clients: u64,
    /// Clients may begin nothing more.
    pub over: bool,
    /// What must never be.
    pub violations: Vec<String>,
    /// Snapshots on their way.
    pub transfers: Transfers,
    leaders: BTreeMap<Term, BTreeSet<NodeId>>,
    hasher: DefaultHasher,
    /// The latest, for those who look for what went wrong.
    lines: VecDeque<String>,
}

/// So many lines are kept of what was seen, and shown with a failure. `LINES=100000` for more.
const LINES: usize = 40;

/// A call that was answered with success.
#[derive(Clone, Debug, Hash)]
pub struct Operation {
    /// When it began.
    pub invoked: u64,
    /// When it was answered.
    pub answered: u64,
    /// A write's index; a read's: how far the state was that it saw.
    pub position: LogIndex,
    /// `None`: it is a read.
    pub wrote: Option<String>,
    /// How many lines a read saw.
    pub saw: usize,
}

/// The snapshots that were sent.
#[derive(Default)]
pub struct Transfers {
    /// Ordered by a leader.
    pub begun: u64,
    /// Went on behind what an earlier one had brought.
    pub resumed: u64,
    /// Brought the last byte.
    pub finished: u64,
    /// How many were ordered to each node.
    ordered: BTreeMap<NodeId, u64>,
    receiving: BTreeMap<NodeId, Receiving>,
}

/// What a node has of a snapshot.
struct Receiving {
    snapshot: SnapshotMetadata,
    /// Bytes that are on its disk.
    stored: u64,
    /// Bytes that are, once the chunk is stored that is being written.
    storing: u64,
    life: (u64, u32),
    /// The transfer that brought the last of them.
    transfer: u64,
}

impl Record {
    pub fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A moment later than all before it.
    pub fn now(&self) -> u64 {
        let mut notes = self.notes();
        notes.clock += 1;
        notes.clock
    }

    pub fn violated(&self, what: String) {
        self.notes().violations.push(what);
    }

    pub fn answered(&self, operation: Operation) {
        let mut notes = self.notes();
        notes.see(format!("{operation:?}"));
        notes.operations.push(operation);
    }

    /// A number for all that was seen: the same seed has the same.
    pub fn fingerprint(&self) -> u64 {
        self.notes().hasher.finish()
    }

    /// The latest that was seen, a line each.
    pub fn latest(&self) -> String {
        self.notes().lines.iter().map(|line| format!("{line}\n")).collect()
    }

    /// What must never be, and was.
    pub fn violation(&self) -> Option<String> {
        if let Some(violation) = self.notes().violations.first() {
            return Some(violation.clone());
        }
        self.witness.contradiction().map(|contradiction| format!("State Machine Safety: {contradiction}"))
    }
}

impl Notes {
    fn see(&mut self, line: String) {
        line.hash(&mut self.hasher);
        let most = env::var("LINES").ok().and_then(|lines| lines.parse().ok()).unwrap_or(LINES);
        if self.lines.len() >= most {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }
}

/// Looks on at one life of one node.
pub struct Onlooker {
    record: Record,
    life: u64,
    random: Mutex<SmallRng>,
    /// Breaks one of so many transfers in the middle. 0: none.
    breaks: Option<(Breaks, u32)>,
}

impl Onlooker {
    pub fn new(record: Record, life: u64, seed: u64, breaks: Option<(Breaks, u32)>) -> Self {
        Onlooker { record, life, random: Mutex::new(SmallRng::seed_from_u64(seed)), breaks }
    }

    /// The connection that the transfer is about to open breaks somewhere in its middle.
    fn may_break(&self, from: NodeId, to: NodeId, size: u64) {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((breaks, one_of)) = &self.breaks
            && *one_of > 0
            && random.random_range(0..*one_of) == 0
        {
            breaks.break_next_after(&host(from), &host(to), 500 + random.random_range(0..size.max(1)));
        }
    }
}

/// The name of a node's host.
pub fn host(id: NodeId) -> String {
    format!("n{id}")
}

impl Observer for Onlooker {
    fn sees(&self, observed: Observed<'_>) {
        let mut notes = self.record.notes();
        let Observed { node, life, effects, raft, .. } = observed;
        let time = turmoil::sim_elapsed().unwrap_or_default();
        for effect in effects {
            notes.see(format!("{time:?} n{node}.{life} commit {} {effect}", raft.commit_index()));
            match effect {
                Effect::RoleChanged { role: Role::Leader, term, .. } => {
                    let leaders = notes.leaders.entry(*term).or_default();
                    leaders.insert(node);
                    if leaders.len() > 1 {
                        let violation = format!("Election Safety: {leaders:?} all lead term {term}");
                        notes.violations.push(violation);
                    }
                }
                Effect::SendSnapshot { to, request, .. } => {
                    notes.transfers.begun += 1;
                    *notes.transfers.ordered.entry(*to).or_default() += 1;
                    self.may_break(node, *to, request.snapshot.size);
                }
                Effect::StoreChunk { snapshot, offset, data, .. } => {
                    let wrong = notes.transfers.stores(node, (self.life, life), snapshot, *offset, data.len() as u64);
                    notes.violations.extend(wrong);
                }
                _ => {}
            }
        }
    }
}

impl Transfers {
    /// A chunk came. What is on a node's disk must not be sent again (N05).
    fn stores(
        &mut self,
        node: NodeId,
        life: (u64, u32),
        snapshot: &SnapshotMetadata,
        offset: u64,
        length: u64,
    ) -> Option<String> {
        let transfer = self.ordered.get(&node).copied().unwrap_or(0);
        let mut wrong = None;
        if let Some(there) = self.receiving.get(&node).filter(|there| there.snapshot == *snapshot) {
            // In another life of the node, the last chunk may not have been stored.
            let durable = if there.life == life { there.storing } else { there.stored };
            if offset < durable {
                wrong =
                    Some(format!("Resumption: n{node} is sent byte {offset} of a snapshot, and has {durable} already"));
            }
            if transfer != there.transfer && offset > 0 {
                self.resumed += 1;
            }
        }
        if offset + length == snapshot.size {
            self.finished += 1;
            self.receiving.remove(&node);
        } else {
            let storing = offset + length;
            let receiving = Receiving { snapshot: snapshot.clone(), stored: offset, storing, life, transfer };
            self.receiving.insert(node, receiving);
        }
        wrong
    }
}
