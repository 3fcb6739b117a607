//! What a state remembers beyond its servers and messages: what was seen of the five properties of Figure 3, what clients
//! were told, and how much of what may happen has happened.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ractor_raft::raft::*;

use super::server::{CLIENTS, Event, Server};
use crate::support::{checks::is_quorum, disk::Disk};

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct History {
    /// Each with its disk: an emptied one is another server.
    leaders: BTreeMap<Term, (NodeId, Incarnation)>,
    votes: BTreeMap<(NodeId, Incarnation, Term), NodeId>,
    /// Of the disks that were lost, the terms of their entries.
    lost: Vec<(NodeId, Vec<Term>)>,
    /// Each committed entry, and the term in which it was committed.
    committed: Vec<(Entry, Term)>,
    /// The highest entry that any client knows to be committed.
    told: LogIndex,
    /// Reads that are not answered: where they were asked, and what they must see.
    reads: BTreeMap<CallId, (NodeId, LogIndex)>,
    /// Proposals whose clients were told that they are not applied.
    refused: BTreeSet<CallId>,
    pub used: Used,
}

/// How often each of these has happened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Used {
    pub proposals: u8,
    pub reads: u8,
    pub changes: u8,
    pub transfers: u8,
    pub snapshots: u8,
    pub crashes: u8,
    pub wipes: u8,
    pub breaks: u8,
    pub alone: u8,
    pub ticks: u8,
}

/// What the client of this number proposes.
pub fn command(number: u8) -> Payload {
    Payload::Command(Bytes::from_static([b"a", b"b", b"c", b"d"][usize::from(number)]))
}

impl History {
    /// Where these entries were committed before the model begins.
    pub fn after(committed: &[Entry]) -> Self {
        let committed = committed.iter().map(|entry| (entry.clone(), entry.term)).collect();
        History { committed, ..History::default() }
    }

    /// Whether nobody has campaigned and nobody has fallen.
    pub fn is_blank(&self) -> bool {
        self.votes.is_empty() && self.used == Used::default()
    }

    pub fn asked_to_read(&mut self, call: CallId, at: NodeId) {
        self.reads.insert(call, (at, self.told));
    }

    /// What clients know is only compared with what they read later.
    pub fn nobody_reads_any_more(&mut self) {
        self.told = 0;
    }

    pub fn crashed(&mut self, id: NodeId) {
        self.reads.retain(|_, (at, _)| *at != id);
    }

    /// The disk of `id` is lost.
    pub fn wiped(&mut self, id: NodeId, disk: &Disk) {
        self.crashed(id);
        self.lost.push((id, disk.entries.iter().map(|entry| entry.term).collect()));
    }

    /// Whether the entry is on the disk of `id`, or was on one that it had.
    fn is_on_disk(&self, id: NodeId, entry: LogPosition, servers: &[&Server]) -> bool {
        let was_there = |terms: &[Term]| terms.get(entry.index as usize - 1) == Some(&entry.term);
        let is_there = servers.get(id as usize - 1).is_some_and(|server| server.disk.holds(entry));
        is_there || self.lost.iter().any(|(of, terms)| *of == id && was_there(terms))
    }

    /// `id` took a turn and is as `servers` shows it now. Says what was violated.
    pub fn note(&mut self, id: NodeId, event: &Event, servers: &[&Server]) -> Result<(), String> {
        let server = servers[id as usize - 1];
        match event {
            Event::Leads => self.note_leader(server, servers),
            Event::Votes { term, candidate } => {
                let vote = *self.votes.entry((id, server.disk.incarnation, *term)).or_insert(*candidate);
                holds(vote == *candidate, || {
                    format!("One Vote Per Term: n{id} votes for n{vote} and n{candidate} in term {term}")
                })
            }
            Event::Commits { from, to, by } => self.note_commit(server, (*from, *to), by, servers),
            Event::Applies { entries, calls } => self.note_applied(id, entries, calls),
            Event::AnswersRead { call, read_index, .. } => {
                let Some((at, must_see)) = self.reads.remove(call) else {
                    return Err(format!("n{id} answers read {call} twice"));
                };
                let committed = self.committed.len() as LogIndex;
                self.told = self.told.max(*read_index);
                holds(at == id && *read_index >= must_see && *read_index <= committed, || {
                    format!(
                        "Read Linearizability: read {call} at n{id} sees {read_index}; when it was asked, clients knew \
                         of {must_see}, and {committed} are committed"
                    )
                })
            }
            Event::Refuses { call, not_applied } => {
                self.reads.remove(call);
                if *not_applied {
                    self.refused.insert(*call);
                }
                self.check_refused()
            }
            Event::AnswersChange { index } => holds(*index <= self.committed.len() as LogIndex, || {
                format!("n{id} answers a change by entry {index}, which is not committed")
            }),
            Event::Snapshot { last_included, membership } => self.check_snapshot(server, *last_included, membership),
        }
    }

    fn note_leader(&mut self, server: &Server, servers: &[&Server]) -> Result<(), String> {
        let (id, term) = (server.id, server.raft.current_term());
        let disk = server.disk.incarnation;
        let (leader, other) = *self.leaders.entry(term).or_insert((id, disk));
        holds((leader, other) == (id, disk), || {
            format!("Election Safety: n{leader} with disk {other} and n{id} with disk {disk} both lead term {term}")
        })?;
        for (entry, committed_in) in self.committed.iter().filter(|(_, committed_in)| *committed_in < term) {
            holds(has(server, entry), || {
                format!("Leader Completeness: n{id} leads term {term} without {entry}, committed in {committed_in}")
            })?;
        }
        let votes = || self.votes.iter().filter(|((_, _, at), candidate)| (*at, **candidate) == (term, id));
        let voted = |voter: NodeId| voter == id || votes().any(|((of, ..), _)| *of == voter);
        holds(is_quorum(server.raft.membership(), voted), || {
            format!("Joint Consensus: n{id} leads term {term} without a quorum of {}", server.raft.membership())
        })?;
        for other in servers.iter().filter(|other| other.leads().is_some_and(|led| led < term)) {
            let lease = other.raft.lease_until().filter(|until| other.now < *until);
            holds(lease.is_none(), || format!("R04: n{id} leads term {term} within the lease of n{}", other.id))?;
        }
        Ok(())
    }

    fn note_commit(
        &mut self,
        server: &Server,
        (from, to): (LogIndex, LogIndex),
        by: &Membership,
        servers: &[&Server],
    ) -> Result<(), String> {
        let id = server.id;
        for index in from + 1..=to {
            match (self.committed.get(index as usize - 1), server.raft.entry(index)) {
                (Some((committed, _)), Some(entry)) => holds(committed == entry, || {
                    format!("State Machine Safety: n{id} commits {entry}, and {committed} was committed")
                })?,
                (Some((committed, _)), None) => holds(index <= server.raft.base().index, || {
                    format!("State Machine Safety: n{id} commits, and does not have, {committed}")
                })?,
                (None, Some(entry)) => {
                    let on_disk = |id: NodeId| self.is_on_disk(id, entry.position(), servers);
                    holds(is_quorum(by, on_disk), || {
                        format!("n{id} commits {entry}, which is not on the disks of a majority of {by}")
                    })?;
                    self.committed.push((entry.clone(), server.raft.current_term()));
                }
                (None, None) => return Err(format!("n{id} commits {index}, which nobody has committed")),
            }
        }
        let (base, committed) = (server.raft.base(), &self.committed);
        let stands = base.index == 0 || committed[base.index as usize - 1].0.position() == base;
        holds(stands, || format!("State Machine Safety: n{id} stands on {base}, which was not committed"))?;
        self.check_refused()
    }

    fn note_applied(&mut self, id: NodeId, entries: &[Entry], calls: &[(LogIndex, CallId)]) -> Result<(), String> {
        for entry in entries {
            let committed = self.committed.get(entry.index as usize - 1).map(|(committed, _)| committed);
            holds(committed == Some(entry), || {
                format!("State Machine Safety: n{id} applies {entry}, committed is {committed:?}")
            })?;
        }
        for (index, call) in calls {
            let entry = entries.iter().find(|entry| entry.index == *index);
            let own = entry.is_some_and(|entry| entry.payload == command((call - CLIENTS) as u8));
            holds(own, || format!("L10: n{id}: call {call} is told of another's success at {index}"))?;
            self.told = self.told.max(*index);
        }
        Ok(())
    }

    /// It ends with a committed entry, and its membership is the one as of that.
    fn check_snapshot(
        &self,
        server: &Server,
        last_included: LogPosition,
        membership: &Membership,
    ) -> Result<(), String> {
        let id = server.id;
        let prefix = &self.committed[..self.committed.len().min(last_included.index as usize)];
        let last = prefix.last().map(|(entry, _)| entry.position());
        holds(last == Some(last_included), || {
            format!("State Machine Safety: n{id}: a snapshot ends with {last_included}, which is not committed")
        })?;
        let changed = prefix.iter().rev().find_map(|(entry, _)| match &entry.payload {
            Payload::Membership(membership) => Some(&**membership),
            _ => None,
        });
        // What was compacted before the model began has changed nothing.
        holds(changed.unwrap_or(&server.disk.membership) == membership, || {
            format!("N04: n{id}: {membership} was not in force at {last_included}, where a snapshot ends")
        })
    }

    /// What a client was told is not applied is nowhere.
    fn check_refused(&self) -> Result<(), String> {
        for call in &self.refused {
            let payload = call.checked_sub(CLIENTS).filter(|number| *number < 4).map(|number| command(number as u8));
            let lied = payload.and_then(|payload| self.committed.iter().find(|(entry, _)| entry.payload == payload));
            holds(lied.is_none(), || format!("L10: call {call} was refused as not applied, and is committed"))?;
        }
        Ok(())
    }
}

/// What a server has compacted was committed.
fn has(server: &Server, entry: &Entry) -> bool {
    let base = server.raft.base();
    entry.index < base.index || entry.position() == base || server.raft.entry(entry.index) == Some(entry)
}

/// "If two logs contain an entry with the same index and term, then the logs are identical in all entries up through the
/// given index" (§5.3).
pub fn check_log_matching(one: &Server, other: &Server) -> Result<(), String> {
    let (a, b) = (&one.raft, &other.raft);
    let first = a.base().index.max(b.base().index) + 1;
    let both = first..=a.last_index().min(b.last_index());
    let Some(shared) = both
        .clone()
        .rev()
        .find(|index| a.entry(*index).map(|entry| entry.term) == b.entry(*index).map(|entry| entry.term))
    else {
        return Ok(());
    };
    let differs = (first..=shared).find(|index| a.entry(*index) != b.entry(*index));
    holds(differs.is_none(), || {
        format!("Log Matching: n{} and n{} share entry {shared}, and differ at {differs:?}", one.id, other.id)
    })
}

fn holds(condition: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if condition { Ok(()) } else { Err(otherwise()) }
}
